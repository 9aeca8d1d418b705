//! All that was told of one build, so that any client can read it from the first event on.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Says why a journal could not be used.
#[derive(Debug, thiserror::Error)]
#[error("could not use the events of a build at {path}", path = path.display())]
pub(crate) struct JournalError {
    path: PathBuf,
    source: std::io::Error,
}

/// The events of a build, each in its wire form.
#[derive(Debug)]
pub(crate) struct Journal {
    kept: Mutex<Kept>,
    /// Changes with each event, and when something else wants its readers to look.
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct Kept {
    place: Place,
    ended: bool,
}

#[derive(Debug)]
enum Place {
    Memory(Vec<Vec<u8>>),
    /// Where each event begins, and the end of the last. The file is open while something is added to it: many builds are
    /// remembered.
    File {
        path: PathBuf,
        file: Option<File>,
        begins: Vec<u64>,
        end: u64,
    },
}

impl Journal {
    pub(crate) fn in_memory() -> Journal {
        Journal::of(Place::Memory(Vec::new()))
    }

    /// Opens a build's file; an event that was cut off at its end is taken away.
    pub(crate) fn open(path: &Path) -> Result<Journal, JournalError> {
        let failed = |source| JournalError { path: path.into(), source };
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let (mut begins, mut end) = (Vec::new(), 0);
        let mut head = [0; 4];
        let mut reader = std::io::BufReader::new(&mut file);
        while end + 4 <= length {
            reader.read_exact(&mut head).map_err(failed)?;
            let next = end + 4 + u64::from(u32::from_le_bytes(head));
            if next > length {
                break;
            }
            let skipped = i64::try_from(next - end - 4).unwrap_or(i64::MAX);
            reader.seek_relative(skipped).map_err(failed)?;
            begins.push(end);
            end = next;
        }
        drop(reader);
        file.set_len(end).map_err(failed)?;
        Ok(Journal::of(Place::File { path: path.into(), file: None, begins, end }))
    }

    fn of(place: Place) -> Journal {
        let kept = Mutex::new(Kept { place, ended: false });
        Journal { kept, version: watch::Sender::new(0) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many events there are.
    pub(crate) fn count(&self) -> u64 {
        let kept = self.kept();
        let count = match &kept.place {
            Place::Memory(events) => events.len(),
            Place::File { begins, .. } => begins.len(),
        };
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Appends an event; one whose place fails is lost for later readers, which costs nobody a build.
    pub(crate) fn push(&self, event: Vec<u8>) {
        {
            let mut kept = self.kept();
            if kept.ended {
                return;
            }
            if let Err(error) = kept.place.push(event) {
                tracing::warn!(error = dcbuild_process::story(&error), "an event is lost");
            }
        }
        self.nudge();
    }

    /// Says that no event follows.
    pub(crate) fn end(&self) {
        {
            let mut kept = self.kept();
            kept.ended = true;
            if let Place::File { file, .. } = &mut kept.place {
                *file = None;
            }
        }
        self.nudge();
    }

    /// Whether all events are there.
    pub(crate) fn has_ended(&self) -> bool {
        self.kept().ended
    }

    /// Wakes the readers.
    pub(crate) fn nudge(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// What changes when there is something to read.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Reads events from a place on, some at a time.
    pub(crate) fn read(&self, from: u64, max: usize) -> Result<Vec<Vec<u8>>, JournalError> {
        self.kept().place.read(usize::try_from(from).unwrap_or(usize::MAX), max)
    }
}

impl Place {
    fn push(&mut self, event: Vec<u8>) -> Result<(), JournalError> {
        match self {
            Place::Memory(events) => events.push(event),
            Place::File { path, file, begins, end } => {
                let length = u32::try_from(event.len()).unwrap_or(u32::MAX);
                let mut framed = length.to_le_bytes().to_vec();
                framed.extend_from_slice(&event);
                let failed = |source| JournalError { path: path.clone(), source };
                if file.is_none() {
                    let opened = File::options().read(true).write(true).open(&*path);
                    *file = Some(opened.map_err(failed)?);
                }
                if let Some(file) = file {
                    file.write_all_at(&framed, *end).map_err(failed)?;
                }
                begins.push(*end);
                *end += 4 + u64::from(length);
            }
        }
        Ok(())
    }

    fn read(&self, from: usize, max: usize) -> Result<Vec<Vec<u8>>, JournalError> {
        match self {
            Place::Memory(events) => Ok(events.iter().skip(from).take(max).cloned().collect()),
            Place::File { path, file, begins, end } => {
                let failed = |source| JournalError { path: path.clone(), source };
                if from >= begins.len() {
                    return Ok(Vec::new());
                }
                let own;
                let file = if let Some(file) = file {
                    file
                } else {
                    own = File::open(path).map_err(failed)?;
                    &own
                };
                let ends = begins.iter().skip(from + 1).copied().chain([*end]);
                let one = |(begin, end): (u64, u64)| {
                    let length = usize::try_from(end.saturating_sub(begin + 4)).unwrap_or(0);
                    let mut bytes = vec![0; length];
                    file.read_exact_at(&mut bytes, begin + 4).map_err(failed)?;
                    Ok(bytes)
                };
                begins.iter().skip(from).copied().zip(ends).take(max).map(one).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_in_order_and_a_torn_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let journal = Journal::open(&path).unwrap();
        for event in ["a", "", "ccc"] {
            journal.push(event.into());
        }
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.read(0, 9).unwrap(), [&b"a"[..], b"", b"ccc"]);
        assert_eq!(journal.read(1, 1).unwrap(), [b""]);
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.count(), 2);
        journal.push(b"d".to_vec());
        assert_eq!(journal.read(2, 9).unwrap(), [b"d"]);
    }
}
