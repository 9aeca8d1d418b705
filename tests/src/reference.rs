//! The Dockerfile reference, sentence by sentence: pages of Markdown that quote it, each sentence with Dockerfiles that
//! show that it holds. `tests/reference/README.md` says how a page is written.

pub mod case;
pub mod expect;
pub mod judge;
pub mod page;
pub mod run;
pub mod world;
