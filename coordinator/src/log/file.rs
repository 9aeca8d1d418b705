//! A log in a file: each append with its length and the front of its digest, synced before it returns.
//!
//! What is appended together stands or falls together: a crash in the middle of a write leaves none of it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use dcbuild_model::Digest;
use dcbuild_store::{KeyLock, KeyLocks, LockMode};

use super::{Entry, Log, LogError};

const FILE: &str = "log-1";
/// A log that is not yet the log.
const NEXT_FILE: &str = "log-1.next";
const HEAD_BYTES: usize = 12;
const ENTRY_BYTES_MAX: usize = 256 << 20;
/// An append of more than this stands in several frames.
const FRAME_BYTES_MAX: usize = 1 << 30;

/// A log in a folder that belongs to one coordinator at a time.
#[derive(Debug)]
pub struct FileLog {
    path: PathBuf,
    file: File,
    _lock: KeyLock,
}

impl FileLog {
    /// Opens a folder's log and reads all its entries; a last append that was cut off is taken away.
    pub fn open(dir: &Path) -> Result<(FileLog, Vec<Entry>), LogError> {
        let lock_error = |source| LogError::Lock { path: dir.into(), source };
        let locks = KeyLocks::open(&dir.join("lock")).map_err(lock_error)?;
        let lock = locks.try_lock("coordinator", LockMode::Exclusive).map_err(lock_error)?;
        let lock = lock.ok_or_else(|| LogError::InUse { path: dir.into() })?;
        let path = dir.join(FILE);
        let io = |source| LogError::Io { path: path.clone(), source };
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let (entries, whole) = read_entries(&path, &bytes)?;
        if whole < bytes.len() {
            let lost = bytes.len() - whole;
            tracing::warn!(path = %path.display(), lost, "the log's last append was cut off");
        }
        let end = u64::try_from(whole).unwrap_or(u64::MAX);
        file.set_len(end).map_err(io)?;
        file.seek(SeekFrom::Start(end)).map_err(io)?;
        file.sync_all().map_err(io)?;
        // The file's name must last as well.
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
        Ok((FileLog { path, file, _lock: lock }, entries))
    }

    /// How long the log is.
    pub(crate) fn bytes(&self) -> Result<u64, LogError> {
        let metadata = self.file.metadata();
        metadata.map(|it| it.len()).map_err(|error| self.failed(error))
    }

    /// Puts a log of these entries in the place of this one; after a crash one of the two is there, whole.
    pub(crate) fn replace(&mut self, entries: &[Entry]) -> Result<(), LogError> {
        let mut bytes = Vec::new();
        for entry in entries {
            bytes.append(&mut frames(std::slice::from_ref(entry))?);
        }
        let next = self.path.with_file_name(NEXT_FILE);
        let put = || {
            let mut file = File::create(&next)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&next, &self.path)?;
            self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())?;
            Ok(file)
        };
        self.file = put().map_err(|error| self.failed(error))?;
        Ok(())
    }

    fn failed(&self, source: std::io::Error) -> LogError {
        LogError::Io { path: self.path.clone(), source }
    }
}

impl Log for FileLog {
    fn append(&mut self, entries: &[Entry]) -> Result<(), LogError> {
        let bytes = frames(entries)?;
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        written.map_err(|error| self.failed(error))
    }

    fn waits(&self) -> bool {
        true
    }
}

/// One entry as it is, several as a list.
fn frames(entries: &[Entry]) -> Result<Vec<u8>, LogError> {
    let (mut bytes, mut list, mut listed) = (Vec::new(), Vec::new(), 0);
    for entry in entries {
        let json = dcbuild_proto::document::to_bytes(entry);
        if json.len() > ENTRY_BYTES_MAX {
            return Err(LogError::TooLarge { bytes: json.len(), max: ENTRY_BYTES_MAX });
        }
        if list.len() + json.len() > FRAME_BYTES_MAX {
            frame_of(&list, listed, &mut bytes);
            (list, listed) = (Vec::new(), 0);
        }
        if listed > 0 {
            list.push(b',');
        }
        list.extend_from_slice(&json);
        listed += 1;
    }
    frame_of(&list, listed, &mut bytes);
    Ok(bytes)
}

/// Adds a frame of so many entries, which stand with commas between them.
fn frame_of(list: &[u8], listed: usize, out: &mut Vec<u8>) {
    let json = match listed {
        0 => return,
        1 => list.to_vec(),
        _ => [b"[", list, b"]"].concat(),
    };
    let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&front(&json));
    out.extend_from_slice(&json);
}

fn entries_of(json: &[u8]) -> serde_json::Result<Vec<Entry>> {
    if json.first() == Some(&b'[') {
        return serde_json::from_slice(json);
    }
    serde_json::from_slice(json).map(|entry| vec![entry])
}

fn front(json: &[u8]) -> [u8; 8] {
    let mut front = [0; 8];
    front.copy_from_slice(&Digest::of(json).0[..8]);
    front
}

/// The frame at a place: its content if that is whole, and where the next would begin.
enum Frame<'a> {
    Whole { json: &'a [u8], next: usize },
    Broken,
    Cut,
}

fn frame(bytes: &[u8], at: usize) -> Frame<'_> {
    let Some((head, rest)) = bytes.get(at..).and_then(|rest| rest.split_at_checked(HEAD_BYTES))
    else {
        return Frame::Cut;
    };
    let (length, digest) = head.split_at(4);
    let length = length.try_into().map_or(u32::MAX, u32::from_le_bytes);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let Some(json) = rest.get(..length) else { return Frame::Cut };
    let next = at + HEAD_BYTES + length;
    if length > 0 && front(json) == digest { Frame::Whole { json, next } } else { Frame::Broken }
}

/// Whether a whole frame begins anywhere in this; what is no length is rarely less than what is left.
fn has_whole(bytes: &[u8]) -> bool {
    (0..bytes.len()).any(|at| matches!(frame(bytes, at), Frame::Whole { .. }))
}

/// Reads entries up to the first that is not whole; whole ones behind that mean damage, since appends are in order.
fn read_entries(path: &Path, bytes: &[u8]) -> Result<(Vec<Entry>, usize), LogError> {
    let mut entries = Vec::new();
    let mut at = 0;
    loop {
        let place = u64::try_from(at).unwrap_or(u64::MAX);
        match frame(bytes, at) {
            Frame::Whole { json, next } => {
                let found = entries_of(json).map_err(|source| LogError::Unknown {
                    path: path.into(),
                    at: place,
                    source,
                })?;
                entries.extend(found);
                at = next;
            }
            Frame::Broken | Frame::Cut if bytes.get(at + 1..).is_some_and(has_whole) => {
                return Err(LogError::Damaged { path: path.into(), at: place });
            }
            Frame::Broken | Frame::Cut => return Ok((entries, at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: u128) -> Vec<Entry> {
        (0..count).map(|n| Entry::Founded { version: 1, seed: format!("{n:x}") }).collect()
    }

    #[test]
    fn entries_survive_and_a_torn_tail_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, found) = FileLog::open(dir.path()).unwrap();
        assert_eq!(found, []);
        for entry in entries(3) {
            log.append(&[entry]).unwrap();
        }
        drop(log);
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        let last = whole.len() / 3;
        for cut in 1..last {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let (_, found) = FileLog::open(dir.path()).unwrap();
            assert_eq!(found, entries(2), "cut {cut}");
            let left = std::fs::metadata(&path).unwrap().len();
            assert_eq!(usize::try_from(left).unwrap(), 2 * last);
        }
        let (mut log, _) = FileLog::open(dir.path()).unwrap();
        log.append(&entries(1)).unwrap();
        drop(log);
        assert_eq!(FileLog::open(dir.path()).unwrap().1.len(), 3);
    }

    #[test]
    fn what_is_appended_together_is_lost_together() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = FileLog::open(dir.path()).unwrap();
        log.append(&entries(1)).unwrap();
        let first = log.bytes().unwrap();
        log.append(&entries(3)).unwrap();
        let end = log.bytes().unwrap();
        drop(log);
        assert_eq!(FileLog::open(dir.path()).unwrap().1, [entries(1), entries(3)].concat());
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for cut in first..end {
            std::fs::write(&path, &whole[..usize::try_from(cut).unwrap()]).unwrap();
            assert_eq!(FileLog::open(dir.path()).unwrap().1, entries(1), "cut at {cut}");
        }
    }

    #[test]
    fn damage_in_the_middle_is_no_torn_tail() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = FileLog::open(dir.path()).unwrap();
        for entry in entries(3) {
            log.append(&[entry]).unwrap();
        }
        drop(log);
        let path = dir.path().join(FILE);
        let bytes = std::fs::read(&path).unwrap();
        // Of the content, and of its length: to less, to more, and to more than there is.
        for (at, bit) in [(HEAD_BYTES + 3, 1), (0, 1), (0, 64), (2, 1)] {
            let mut damaged = bytes.clone();
            damaged[at] ^= bit;
            std::fs::write(&path, &damaged).unwrap();
            let found = FileLog::open(dir.path());
            assert!(matches!(found, Err(LogError::Damaged { at: 0, .. })), "{at} {bit}");
        }
    }

    #[test]
    fn a_replaced_log_goes_on_with_what_is_appended() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = FileLog::open(dir.path()).unwrap();
        log.append(&entries(9)).unwrap();
        let before = log.bytes().unwrap();
        std::fs::write(dir.path().join(NEXT_FILE), b"of a crash").unwrap();
        log.replace(&entries(1)).unwrap();
        assert!(log.bytes().unwrap() < before);
        log.append(&entries(2)).unwrap();
        drop(log);
        let found = FileLog::open(dir.path()).unwrap().1;
        assert_eq!(found, [entries(1), entries(2)].concat());
    }

    #[test]
    fn a_folder_has_one_coordinator() {
        let dir = tempfile::tempdir().unwrap();
        let first = FileLog::open(dir.path()).unwrap();
        assert!(matches!(FileLog::open(dir.path()), Err(LogError::InUse { .. })));
        drop(first);
        assert!(FileLog::open(dir.path()).is_ok());
    }
}
