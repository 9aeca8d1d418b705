//! What a step reads of one input, as far as it is known before anything ran.

/// How selected paths count.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum SelectionForm {
    /// As COPY and ADD read them: each source is a pattern; a folder stands for what it holds.
    Copy,
    /// As a bind mount shows them: one path, whole; links are not followed in its last part.
    Mount,
}

/// The part of an input tree that a step reads; equal selections of equal trees have equal digests.
#[derive(
    Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// How the sources are meant.
    pub form: SelectionForm,
    /// The sources, expanded, as written: patterns of `filepath.Match` in the COPY form.
    pub sources: Vec<String>,
    /// Patterns of `--exclude`.
    pub exclude: Vec<String>,
    /// `--parents`: the folders above each match belong to it.
    pub parents: bool,
}
