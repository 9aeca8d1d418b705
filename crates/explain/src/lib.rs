//! Why a step was not found in the cache: the accounts of builds are compared, and the first cause is named.
//!
//! Everything here is a function over values. An [`Account`] says what became of each step of one build, with the
//! components of its key; [`explain`](fn@explain) compares one with earlier ones, and with the notes of what was evicted.
//! Which files differ is told to it by whoever can read tables of contents. Start with [`Account`] and [`Explanation`].
#![warn(clippy::wildcard_enum_match_arm)]

pub mod account;
pub mod change;
pub mod explain;
mod nearest;
pub mod pick;
mod words;

pub use account::{
    Account, AccountImage, AccountInput, AccountStep, Asked, InvalidAccount, Passed, StepEnd,
};
pub use change::{Change, FileChange};
pub use explain::{
    Evidence, Explanation, FileQuestion, Reason, StepExplanation, Verdict, explain, file_questions,
};
pub use pick::{NoSuchStep, pick};
