//! What one process after another remembers of a store that gave no answer, so that not each of them waits for it.

use std::path::{Path, PathBuf};

use dcbuild_model::UnixTime;

/// After so many seconds it is forgotten, and the store is waited for again.
const REMEMBERED_SECS: i64 = 600;

/// A file with the time at which a store gave no answer last.
#[derive(Clone, Debug)]
pub(crate) struct Silence(PathBuf);

impl Silence {
    /// Lies beside the notes of what waits for the store.
    pub(crate) fn beside(notes: &Path) -> Silence {
        Silence(notes.with_extension("silent"))
    }

    /// Whether the store gave no answer a moment ago.
    pub(crate) fn is_fresh(&self, now: UnixTime) -> bool {
        let noted = std::fs::read_to_string(&self.0).ok();
        let noted = noted.and_then(|text| text.trim().parse::<i64>().ok());
        noted.is_some_and(|secs| (0..REMEMBERED_SECS).contains(&now.secs.saturating_sub(secs)))
    }

    /// Notes how it was at the end of a process.
    pub(crate) fn note(&self, is_silent: bool, now: UnixTime) {
        let noted = if is_silent {
            std::fs::write(&self.0, format!("{}\n", now.secs))
        } else {
            match std::fs::remove_file(&self.0) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        if let Err(error) = noted {
            tracing::debug!(%error, path = %self.0.display(), "the next build waits for the store anew");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_remembered_for_a_while_and_forgotten_with_an_answer() {
        let folder = tempfile::tempdir().unwrap();
        let silence = Silence::beside(&folder.path().join("notes"));
        let at = |secs| UnixTime { secs, nanos: 0 };
        assert!(!silence.is_fresh(at(1_000)));
        silence.note(true, at(1_000));
        assert!(silence.is_fresh(at(1_000)) && silence.is_fresh(at(1_599)));
        // A clock that was set back does not make it last.
        assert!(!silence.is_fresh(at(1_600)) && !silence.is_fresh(at(999)));
        silence.note(false, at(1_001));
        assert!(!silence.is_fresh(at(1_001)));
        silence.note(false, at(1_002));
        std::fs::write(folder.path().join("notes.silent"), "\0").unwrap();
        assert!(!silence.is_fresh(at(0)));
    }
}
