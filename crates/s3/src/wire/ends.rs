//! Where listings go on: by the server's own word for the place, which every server knows. Some do not know a key to begin
//! behind, and answer with the first page again.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// The ends of so many pages are remembered: of each listing that is under way, that of its last page.
const ENDS_MAX: usize = 64;

/// The end of one page.
struct End {
    prefix: String,
    last_key: String,
    token: String,
}

/// The ends of pages that came lately.
#[derive(Default)]
pub(crate) struct Ends(Mutex<VecDeque<End>>);

impl Ends {
    /// The server's word for what is behind a page that ended with this key.
    pub(super) fn token(&self, prefix: &str, last_key: &str) -> Option<String> {
        let ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |end: &&End| end.prefix == prefix && end.last_key == last_key;
        ends.iter().rev().find(is_it).map(|end| end.token.clone())
    }

    pub(super) fn note(&self, prefix: &str, last_key: &str, token: String) {
        let end = End { prefix: prefix.to_owned(), last_key: last_key.to_owned(), token };
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.len() >= ENDS_MAX {
            ends.pop_front();
        }
        ends.push_back(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_end_of_a_page_counts_and_few_are_kept() {
        let ends = Ends::default();
        ends.note("a/", "a/1", "old".into());
        ends.note("a/", "a/1", "new".into());
        assert_eq!(ends.token("a/", "a/1").as_deref(), Some("new"));
        assert_eq!(ends.token("a/", "a/2"), None);
        assert_eq!(ends.token("", "a/1"), None);
        for number in 0..ENDS_MAX {
            ends.note("b/", &format!("b/{number}"), "t".into());
        }
        assert_eq!(ends.token("a/", "a/1"), None);
    }
}
