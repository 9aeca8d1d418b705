//! Variables in the order in which they were set; a variable set again moves to the end.

/// The variables of a stage, or of the file's head.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Env(Vec<(String, String)>);

impl Env {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}
