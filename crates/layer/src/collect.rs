//! Collects.
use dcbuild_model::TreePath;
use dcbuild_tree::{Changes};

/// An entry that no layer may have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the entry '{name}' is refused: {reason}")]
pub struct InvalidEntry {
    /// The name as written, made printable.
    pub name: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// The folders that entries of a layer lie in and that the layer itself does not have, parents before children.
pub fn missing_parents(changes: &Changes) -> Vec<TreePath> {
    todo!()
}
