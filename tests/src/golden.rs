//! The golden cases: what BuildKit makes of small Dockerfiles, and whether dcbuild makes the same.

pub mod case;
pub mod compare;
pub mod failure;
pub mod run;
