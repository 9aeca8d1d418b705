//! Who does what next: threads that share frames to be cut, hashed and written, each of these in order.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::cut::Cutter;
use crate::frame::{Packed, Plain};
use crate::hash::TarHash;
use crate::turns::Turns;
use crate::write::BlobWriter;

/// What is to be done, with all that it takes.
pub(crate) enum Task<'a, W> {
    /// The next frame of the tar.
    Cut(Cutter<'a>),
    /// A filled frame, for the hash of the tar.
    Hash(TarHash<'a>, Plain<'a>),
    /// A packed frame, for the blob.
    Write(BlobWriter<W>, Packed<'a>),
}

/// Frames under way.
///
/// A thread that has cut a frame also fills it, hashes it if it is its turn, and packs it, while it lies in the cache of
/// its core. Nobody waits for a turn: what comes out of turn is left for whoever is free when its turn has come.
pub(crate) struct Desk<'a, W> {
    state: Mutex<State<'a, W>>,
    moved: Condvar,
    /// How many frames may be under way.
    most: u64,
}

struct State<'a, W> {
    cutter: Option<Cutter<'a>>,
    cut: u64,
    is_at_end: bool,
    has_failed: bool,
    tar: Turns<Plain<'a>, TarHash<'a>>,
    blob: Turns<Packed<'a>, BlobWriter<W>>,
}

impl<'a, W> Desk<'a, W> {
    pub(crate) fn new(cutter: Cutter<'a>, writer: BlobWriter<W>, most: usize) -> Desk<'a, W> {
        let state = State {
            cutter: Some(cutter),
            cut: 0,
            is_at_end: false,
            has_failed: false,
            tar: Turns::new(TarHash::new()),
            blob: Turns::new(writer),
        };
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        Desk { state: Mutex::new(state), moved: Condvar::new(), most }
    }

    /// Gives the most urgent task, and none when there will be no more for this thread.
    pub(crate) fn next(&self) -> Option<Task<'a, W>> {
        let mut state = self.state();
        loop {
            if state.has_failed {
                return None;
            }
            if let Some((writer, packed)) = state.blob.take() {
                return Some(Task::Write(writer, packed));
            }
            if let Some((hash, plain)) = state.tar.take() {
                return Some(Task::Hash(hash, plain));
            }
            if state.is_at_end {
                // Whoever has a frame still sees it through to the blob, and all that waits for it.
                return None;
            }
            if state.cut - state.blob.given() < self.most
                && let Some(cutter) = state.cutter.take()
            {
                return Some(Task::Cut(cutter));
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes the cutter back, and gives the number of the frame that it has cut.
    pub(crate) fn has_cut(&self, cutter: Cutter<'a>) -> u64 {
        let mut state = self.state();
        state.cutter = Some(cutter);
        state.cut += 1;
        self.moved.notify_all();
        state.cut - 1
    }

    /// Takes the cutter back, which has come to the end.
    pub(crate) fn is_all_cut(&self, cutter: Cutter<'a>) {
        let mut state = self.state();
        state.cutter = Some(cutter);
        state.is_at_end = true;
        self.moved.notify_all();
    }

    /// Takes a filled frame; gives it back with the hash if it is its turn at once.
    pub(crate) fn has_filled(
        &self,
        number: u64,
        plain: Plain<'a>,
    ) -> Option<(TarHash<'a>, Plain<'a>)> {
        let mut state = self.state();
        state.tar.put(number, plain);
        let own = state.tar.take_own(number);
        self.moved.notify_all();
        own
    }

    /// Takes the hash back.
    pub(crate) fn has_hashed(&self, hash: TarHash<'a>) {
        self.state().tar.give_back(hash);
        self.moved.notify_all();
    }

    /// Takes a packed frame.
    pub(crate) fn has_packed(&self, number: u64, packed: Packed<'a>) {
        self.state().blob.put(number, packed);
        self.moved.notify_all();
    }

    /// Takes the writer back.
    pub(crate) fn has_written(&self, writer: BlobWriter<W>) {
        self.state().blob.give_back(writer);
        self.moved.notify_all();
    }

    /// Has all threads end.
    pub(crate) fn fail(&self) {
        self.state().has_failed = true;
        self.moved.notify_all();
    }

    /// What is left when all threads have ended well.
    pub(crate) fn finish(self) -> Option<(Cutter<'a>, TarHash<'a>, BlobWriter<W>)> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        Some((state.cutter?, state.tar.finish()?, state.blob.finish()?))
    }

    fn state(&self) -> MutexGuard<'_, State<'a, W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
