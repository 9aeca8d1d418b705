//! Variables in the order in which they were set; a variable set again moves to the end.

use dcbuild_model::limits::CONFIG_BYTES_MAX;

/// The variables of a stage, or of the file's head.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Env {
    pairs: Vec<(String, String)>,
    bytes: usize,
}

impl Env {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Sets a variable; one more where they [are too large](Self::is_large) already is as good as set.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        if self.is_large() {
            return;
        }
        let bytes = &mut self.bytes;
        self.pairs.retain(|(known, value)| {
            let stays = known != name;
            if !stays {
                *bytes -= known.len() + value.len();
            }
            stays
        });
        self.bytes += name.len() + value.len();
        self.pairs.push((name.to_owned(), value.to_owned()));
    }

    /// Whether no image may have these variables: each of a few lines may make many of one.
    pub(crate) fn is_large(&self) -> bool {
        self.bytes > CONFIG_BYTES_MAX
    }

    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }
}
