//! A large file of a client that several read, such as the layer of a COPY and the RUN that stands on it: it comes from
//! the store once.
//!
//! Whoever opens it first fetches it, and leaves what came in a temporary file; others read there, and follow the first
//! one as far as it is. It may be held up by whoever reads it, so nobody waits long: who hears nothing fetches for itself.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcbuild_model::ContentDigest;

use crate::contents::Hashed;

/// How long a reader waits for one that is ahead and does not get on.
const PATIENCE: Duration = Duration::from_secs(2);

/// Opens the file at its store.
pub(super) type Open = Box<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send>;

/// What was fetched of a file so far.
pub(super) struct Kept {
    file: File,
    content: ContentDigest,
    size: u64,
    state: Mutex<State>,
    came: Condvar,
}

#[derive(Default)]
struct State {
    /// The bytes from the beginning that the one who fetches has left in the temporary file.
    written: u64,
    is_fetching: bool,
    /// All is there, and is what it should be.
    is_whole: bool,
}

impl Kept {
    /// Nothing of it yet; `tmp` is where it will lie.
    pub(super) fn new(content: ContentDigest, size: u64, tmp: &Path) -> io::Result<Kept> {
        let file = tempfile::tempfile_in(tmp)?;
        Ok(Kept { file, content, size, state: Mutex::default(), came: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the file: the first to do so fetches it.
    pub(super) fn open(self: &Arc<Kept>, open: Open) -> io::Result<Box<dyn Read + Send>> {
        let mut state = self.state();
        if state.is_fetching || state.is_whole {
            let follower = Follower { kept: self.clone(), at: 0, open, own: None };
            return Ok(Box::new(Hashed::new(follower, self.content)));
        }
        (state.written, state.is_fetching) = (0, true);
        drop(state);
        let fetching = Fetching(self.clone());
        let inner = open()?;
        Ok(Box::new(Fetcher { fetching: Some(fetching), inner, at: 0, size: self.size }))
    }
}

/// The leave to write the temporary file; its end is told, whatever happens.
struct Fetching(Arc<Kept>);

impl Fetching {
    /// Notes bytes that came.
    fn keep(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let Fetching(kept) = self;
        kept.file.write_all_at(bytes, at)?;
        kept.state().written = at + count(bytes);
        kept.came.notify_all();
        Ok(())
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.0.state().is_fetching = false;
        self.0.came.notify_all();
    }
}

fn count(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Reads from the store, and keeps what comes as long as there is room for it.
struct Fetcher {
    fetching: Option<Fetching>,
    inner: Box<dyn Read + Send>,
    at: u64,
    size: u64,
}

impl Read for Fetcher {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let bytes = buffer.get(..read).unwrap_or_default();
        let kept = self.fetching.as_ref().map_or(Ok(()), |fetching| fetching.keep(bytes, self.at));
        if let Err(error) = kept {
            tracing::debug!(%error, "a large file of a context is not kept for others");
            self.fetching = None;
        }
        self.at += count(bytes);
        // Only behind its last byte is it known to be the right file; not everybody reads on until there.
        if read > 0 && self.at == self.size && self.inner.read(&mut [0])? == 0 {
            if let Some(Fetching(kept)) = &self.fetching {
                kept.state().is_whole = true;
            }
            self.fetching = None;
        }
        Ok(read)
    }
}

/// Reads what another one fetches, or has fetched.
struct Follower {
    kept: Arc<Kept>,
    at: u64,
    open: Open,
    /// Its own way to the store, where the other one does not get on.
    own: Option<Box<dyn Read + Send>>,
}

impl Follower {
    /// How many bytes are there that it has not read; none where it has to fetch for itself.
    fn ahead(&self) -> Option<u64> {
        let at_end = self.at == self.kept.size;
        let mut state = self.kept.state();
        loop {
            if state.is_whole {
                return Some(self.kept.size - self.at);
            }
            if !state.is_fetching {
                return None;
            }
            if state.written > self.at && !at_end {
                return Some(state.written - self.at);
            }
            let before = state.written;
            let waited = self.kept.came.wait_timeout(state, PATIENCE);
            let (next, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            if waited.timed_out() && next.written == before && !next.is_whole {
                return None;
            }
            state = next;
        }
    }
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(own) = &mut self.own {
            return own.read(buffer);
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        if let Some(ahead) = self.ahead() {
            let most = buffer.len().min(usize::try_from(ahead).unwrap_or(usize::MAX));
            let read = self.kept.file.read_at(buffer.split_at_mut(most).0, self.at)?;
            self.at += u64::try_from(read).unwrap_or(u64::MAX);
            return Ok(read);
        }
        let mut own = (self.open)()?;
        io::copy(&mut own.by_ref().take(self.at), &mut io::sink())?;
        self.own.insert(own).read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use dcbuild_model::Digest;

    use super::*;

    /// Gives what is sent to it.
    struct Sent(mpsc::Receiver<Vec<u8>>, Vec<u8>);

    impl Read for Sent {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.1.is_empty() {
                self.1 = self.0.recv().unwrap_or_default();
            }
            let read = self.1.as_slice().read(buffer)?;
            self.1.drain(..read);
            Ok(read)
        }
    }

    fn kept(text: &str) -> Arc<Kept> {
        let (content, size) = (ContentDigest(Digest::of(text.as_bytes())), text.len());
        let size = u64::try_from(size).unwrap();
        Arc::new(Kept::new(content, size, &std::env::temp_dir()).unwrap())
    }

    fn none() -> Open {
        Box::new(|| panic!("it is fetched twice"))
    }

    fn all(mut reader: impl Read) -> io::Result<String> {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    }

    #[test]
    fn what_one_fetches_others_read_as_it_comes() {
        let kept = kept("0123456789");
        let (send, receiver) = mpsc::channel();
        let receiver = Mutex::new(Some(receiver));
        let open = move || -> io::Result<Box<dyn Read + Send>> {
            Ok(Box::new(Sent(receiver.lock().unwrap().take().unwrap(), Vec::new())))
        };
        let mut first = kept.open(Box::new(open)).unwrap();
        let mut second = kept.open(none()).unwrap();
        send.send(b"01234".to_vec()).unwrap();
        let (mut fetched, mut followed) = ([0; 5], [0; 5]);
        first.read_exact(&mut fetched).unwrap();
        second.read_exact(&mut followed).unwrap();
        assert_eq!((&fetched, &followed), (b"01234", b"01234"));
        send.send(b"56789".to_vec()).unwrap();
        drop(send);
        // It is whole as soon as its last byte has come: nobody needs to read on to its end.
        first.read_exact(&mut fetched).unwrap();
        drop(first);
        assert_eq!(all(second).unwrap(), "56789");
        assert_eq!(all(kept.open(none()).unwrap()).unwrap(), "0123456789");
    }

    #[test]
    fn who_followed_nonsense_is_told_so() {
        let kept = kept("abcdef");
        let opened = AtomicUsize::new(0);
        let open = move || -> io::Result<Box<dyn Read + Send>> {
            let is_first = opened.fetch_add(1, Ordering::SeqCst) == 0;
            Ok(Box::new(if is_first { &b"Xbcdef"[..] } else { b"abcdef" }))
        };
        let mut first = kept.open(Box::new(open)).unwrap();
        let mut second = kept.open(Box::new(|| Ok(Box::new(&b"abcdef"[..])))).unwrap();
        let mut begin = [0; 3];
        first.read_exact(&mut begin).unwrap();
        second.read_exact(&mut begin).unwrap();
        drop(first);
        assert_eq!(all(second).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn who_follows_one_that_gives_up_fetches_for_itself() {
        let kept = kept("abcdef");
        let opened = Arc::new(AtomicUsize::new(0));
        let open = || -> Open {
            let opened = opened.clone();
            Box::new(move || {
                opened.fetch_add(1, Ordering::SeqCst);
                Ok(Box::new(&b"abcdef"[..]))
            })
        };
        let mut first = kept.open(open()).unwrap();
        let mut second = kept.open(open()).unwrap();
        let mut begin = [0; 3];
        first.read_exact(&mut begin).unwrap();
        second.read_exact(&mut begin[..2]).unwrap();
        drop(first);
        assert_eq!(all(second).unwrap(), "cdef");
        assert_eq!(opened.load(Ordering::SeqCst), 2);
        assert_eq!(all(kept.open(open()).unwrap()).unwrap(), "abcdef");
        assert_eq!(all(kept.open(open()).unwrap()).unwrap(), "abcdef");
        assert_eq!(opened.load(Ordering::SeqCst), 3, "the third one has left all of it");
    }
}
