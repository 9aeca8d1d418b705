//! Reading and writing blobs at the store itself, under grants of the other side.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dcbuild_model::BlobDigest;
use dcbuild_model::limits::CHUNK_BYTES;
use dcbuild_proto::pb;
use dcbuild_proto::pb::store_client::StoreClient;
use dcbuild_store::{
    BlobStream, ByteRange, CallError, Guard, GuardLimits, Judged, Patience, Progress, StoreError,
    Verdict, stream_of,
};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::answer::{error_of, unavailable};
use crate::transfer::{Leave, Part, Transfer, TransferError};

/// How much is read with one request, and how many requests of one read are under way.
const READ_BYTES: u64 = 8 << 20;
const READS_AT_ONCE: usize = 4;
/// What is held in memory of content whose length is not known yet.
const MEMORY_BYTES_MAX: usize = 8 << 20;
const WRITES_AT_ONCE: usize = 4;
/// A write of no more than this is done in a moment. One that takes longer than a moment has the other side asked whether
/// it still grants such.
const SMALL_BYTES_MAX: u64 = 1 << 20;
const DOUBTED_EVERY: Duration = Duration::from_millis(700);
/// Read grants that are remembered.
const GRANTS_KEPT: usize = 10_000;

/// The way to the store itself, as far as the other side grants it.
pub(crate) struct Granted {
    client: StoreClient<Channel>,
    name: String,
    transfer: Transfer,
    /// A store that cannot be reached from here costs a bounded time; the other side may still reach it.
    guard: Guard,
    /// How long the answer to a write of little may take.
    small_writes: Patience,
    /// Where long content lies until it is sent.
    spool: PathBuf,
    reads: Mutex<HashMap<BlobDigest, (Leave, Instant)>>,
    /// Set once the other side has said that it grants nothing.
    nothing: AtomicBool,
}

/// Why a granted request came to nothing.
#[derive(Debug, thiserror::Error)]
enum Tried {
    /// There was no grant.
    #[error(transparent)]
    Grant(#[from] StoreError),
    /// The request failed.
    #[error(transparent)]
    Transfer(TransferError),
}

impl Judged for Tried {
    fn verdict(&self) -> Verdict {
        match self {
            // That says nothing of the store itself.
            Tried::Grant(_) => Verdict::Settled,
            Tried::Transfer(error) => error.verdict(),
        }
    }
}

/// Content of which the length is known; clones share it.
#[derive(Clone)]
pub(crate) enum Spooled {
    Memory(Bytes),
    File(Arc<File>, u64),
}

/// Content as far as it is held in memory.
pub(crate) enum Begun {
    Whole(Bytes),
    More(Bytes, BlobStream),
}

impl Begun {
    pub(crate) async fn of(mut content: BlobStream) -> Result<Begun, StoreError> {
        let mut memory = BytesMut::new();
        while let Some(piece) = content.try_next().await? {
            memory.extend_from_slice(&piece);
            if memory.len() > MEMORY_BYTES_MAX {
                return Ok(Begun::More(memory.freeze(), content));
            }
        }
        Ok(Begun::Whole(memory.freeze()))
    }
}

impl Spooled {
    /// Takes all content in, to a file where it is long.
    async fn new(content: BlobStream, folder: &Path) -> Result<Spooled, StoreError> {
        match Begun::of(content).await? {
            Begun::Whole(bytes) => Ok(Spooled::Memory(bytes)),
            Begun::More(begin, rest) => Spooled::file(begin, rest, folder).await,
        }
    }

    async fn file(
        begin: Bytes,
        mut content: BlobStream,
        folder: &Path,
    ) -> Result<Spooled, StoreError> {
        let mut file = tempfile::tempfile_in(folder).map_err(spool_failed)?;
        let (mut size, mut piece) = (0, begin);
        loop {
            size += u64::try_from(piece.len()).unwrap_or(u64::MAX);
            let write = move || file.write_all(&piece).map(|()| file);
            let written = tokio::task::spawn_blocking(write).await;
            file = written.map_err(|_| StoreError::Stopped)?.map_err(spool_failed)?;
            match content.try_next().await? {
                Some(next) => piece = next,
                None => return Ok(Spooled::File(Arc::new(file), size)),
            }
        }
    }

    pub(crate) fn size(&self) -> u64 {
        match self {
            Spooled::Memory(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Spooled::File(_, size) => *size,
        }
    }

    /// The bytes from `start` on, at most `length`.
    async fn part(&self, start: u64, length: u64) -> Result<Bytes, StoreError> {
        let end = start.saturating_add(length).min(self.size());
        let place = |at: u64| usize::try_from(at).map_err(|_| StoreError::Stopped);
        match self {
            Spooled::Memory(bytes) => Ok(bytes.slice(place(start)?..place(end)?)),
            Spooled::File(file, _) => {
                let (file, mut part) = (file.clone(), vec![0; place(end - start)?]);
                let read = move || file.read_exact_at(&mut part, start).map(|()| part);
                let read = tokio::task::spawn_blocking(read).await;
                read.map_err(|_| StoreError::Stopped)?.map(Bytes::from).map_err(spool_failed)
            }
        }
    }

    /// The content again, piece by piece.
    pub(crate) fn stream(&self) -> BlobStream {
        let spooled = self.clone();
        let starts = (0..spooled.size()).step_by(CHUNK_BYTES);
        let pieces = starts.map(move |start| {
            let spooled = spooled.clone();
            async move { spooled.part(start, u64::try_from(CHUNK_BYTES).unwrap_or(1)).await }
        });
        futures::stream::iter(pieces).buffered(1).boxed()
    }
}

fn spool_failed(source: io::Error) -> StoreError {
    StoreError::Content { source: Box::new(source) }
}

impl Granted {
    pub(crate) fn new(
        client: StoreClient<Channel>,
        name: String,
        (store_ca, small_writes): (Option<PathBuf>, Patience),
        spool: PathBuf,
    ) -> Granted {
        // What fails twice goes by way of the other side, which has patience of its own.
        let limits = GuardLimits { tries_max: 2, ..GuardLimits::default() };
        let guard = Guard::new(format!("behind {name}"), limits);
        let (reads, nothing) = (Mutex::default(), AtomicBool::new(false));
        let transfer = Transfer::trusting(store_ca);
        Granted { client, name, transfer, guard, small_writes, spool, reads, nothing }
    }

    /// Takes all content in, so that its length is known.
    pub(crate) async fn spooled(&self, content: BlobStream) -> Result<Spooled, StoreError> {
        Spooled::new(content, &self.spool).await
    }

    /// Whether the other side may still grant something.
    pub(crate) fn may(&self) -> bool {
        !self.nothing.load(Ordering::Relaxed)
    }

    async fn ask(
        &self,
        blob: &BlobDigest,
        write_bytes: Option<u64>,
    ) -> Result<pb::GrantReply, StoreError> {
        let request = pb::GrantRequest { blob: blob.to_string(), write_bytes };
        let reply = self.client.clone().grant(request).await;
        let reply = reply.map_err(|status| unavailable(&self.name, status))?.into_inner();
        if reply.grants.is_empty() {
            self.nothing.store(true, Ordering::Relaxed);
        }
        Ok(reply)
    }

    /// A grant to read, a remembered one while it holds; none if the other side grants nothing.
    async fn leave(&self, blob: &BlobDigest) -> Result<Option<Leave>, StoreError> {
        let now = Instant::now();
        let known = self.reads.lock().unwrap_or_else(PoisonError::into_inner).get(blob).cloned();
        if let Some((leave, until)) = known
            && now < until
        {
            return Ok(Some(leave));
        }
        let Some(grant) = self.ask(blob, None).await?.grants.pop() else { return Ok(None) };
        // Half of its life: it must outlast the request that is made with it.
        let until = now + Duration::from_millis(grant.valid_millis / 2);
        let leave = leave_of(grant);
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        if reads.len() >= GRANTS_KEPT {
            reads.clear();
        }
        reads.insert(*blob, (leave.clone(), until));
        Ok(Some(leave))
    }

    fn forget(&self, blob: &BlobDigest) {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).remove(blob);
    }

    fn failed(&self, blob: &BlobDigest, error: CallError<Tried>) -> StoreError {
        let store = self.name.clone();
        match error {
            CallError::Answered(Tried::Grant(error)) => error,
            CallError::Answered(Tried::Transfer(error)) => match error {
                TransferError::Absent => StoreError::NotFound { blob: *blob },
                TransferError::Refused { .. } => StoreError::Denied { store, source: error.into() },
                TransferError::Full { .. } => StoreError::Full { store, source: error.into() },
                _ => StoreError::Unavailable { store, source: error.into() },
            },
            error => StoreError::Unavailable { store, source: error.to_string().into() },
        }
    }

    async fn read_part(
        &self,
        blob: &BlobDigest,
        start: u64,
        length: u64,
    ) -> Result<Option<Part>, StoreError> {
        let read = |progress: Progress| async move {
            let Some(leave) = self.leave(blob).await? else { return Ok(None) };
            let part = self.transfer.read(&leave, (start, length), &progress).await;
            part.map(Some).map_err(|error| {
                self.forget(blob);
                Tried::Transfer(error)
            })
        };
        let mut part = self.guard.call("read", Patience::READ, read).await;
        if let Err(CallError::Answered(Tried::Transfer(TransferError::Refused { .. }))) = part {
            // The grant may have grown too old; the next one has not.
            part = self.guard.call("read", Patience::READ, read).await;
        }
        part.map_err(|error| self.failed(blob, error))
    }

    /// Reads a blob in ranges, several at once; none if the other side grants nothing.
    pub(crate) async fn get(
        self: &Arc<Granted>,
        blob: &BlobDigest,
        range: ByteRange,
    ) -> Result<Option<BlobStream>, StoreError> {
        if self.nothing.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let asked = range.length.unwrap_or(u64::MAX);
        let first = self.read_part(blob, range.start, asked.min(READ_BYTES)).await?;
        let Some(Part { bytes, total }) = first else { return Ok(None) };
        let end = range.start.saturating_add(asked).min(total);
        let next = range.start.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let begin = stream_of(bytes);
        if next >= end {
            return Ok(Some(begin));
        }
        let (granted, blob) = (self.clone(), *blob);
        let parts = (next..end).step_by(usize::try_from(READ_BYTES).unwrap_or(usize::MAX));
        let parts = parts.map(move |start| {
            let granted = granted.clone();
            async move {
                let part = granted.read_part(&blob, start, READ_BYTES.min(end - start)).await?;
                part.map(|part| part.bytes).ok_or(StoreError::NotFound { blob })
            }
        });
        let rest = futures::stream::iter(parts).buffered(READS_AT_ONCE);
        Ok(Some(begin.chain(rest).boxed()))
    }

    /// Writes a blob, with one request or in parts side by side; says whether the other side granted it.
    pub(crate) async fn put(
        &self,
        blob: &BlobDigest,
        content: &Spooled,
    ) -> Result<bool, StoreError> {
        let size = content.size();
        let pb::GrantReply { grants, upload, part_bytes } = self.ask(blob, Some(size)).await?;
        if grants.is_empty() {
            return Ok(false);
        }
        let part_bytes = if upload.is_empty() { size } else { part_bytes };
        let parts = grants.into_iter().zip(0u64..).map(|(grant, number)| {
            let leave = leave_of(grant);
            async move {
                let part = content.part(number.saturating_mul(part_bytes), part_bytes).await?;
                self.write_part(blob, &leave, part).await
            }
        });
        let parts: Vec<_> = parts.collect();
        let written = futures::stream::iter(parts).buffered(WRITES_AT_ONCE).try_collect();
        let etags: Vec<String> = tokio::select! {
            written = written => written?,
            error = self.no_more_granted(blob), if size <= SMALL_BYTES_MAX => return Err(error),
        };
        let request = pb::FinishPutRequest { blob: blob.to_string(), size, upload, etags };
        let finished = self.client.clone().finish_put(request).await;
        finished.map_err(|status| error_of(&self.name, blob, status))?;
        Ok(true)
    }

    /// Waits until the other side grants no writes any more: it has found the store to be silent before we have.
    async fn no_more_granted(&self, blob: &BlobDigest) -> StoreError {
        loop {
            sleep(DOUBTED_EVERY).await;
            // The smallest write of all: nothing is begun for it.
            let request = pb::GrantRequest { blob: blob.to_string(), write_bytes: Some(0) };
            match self.client.clone().grant(request).await {
                // Not that the other side cannot be reached: that says nothing of the store.
                Err(status) if std::error::Error::source(&status).is_none() => {
                    return unavailable(&self.name, status);
                }
                _ => {}
            }
        }
    }

    async fn write_part(
        &self,
        blob: &BlobDigest,
        leave: &Leave,
        part: Bytes,
    ) -> Result<String, StoreError> {
        let patience = if part.len() > CHUNK_BYTES { Patience::BULK } else { self.small_writes };
        let write = |progress: Progress| {
            let part = part.clone();
            async move {
                let written = self.transfer.write(leave, part, progress).await;
                written.map_err(Tried::Transfer)
            }
        };
        let written = self.guard.call("write", patience, write).await;
        written.map_err(|error| self.failed(blob, error))
    }
}

fn leave_of(grant: pb::HttpGrant) -> Leave {
    let headers = grant.headers.into_iter().map(|header| (header.name, header.value)).collect();
    Leave { url: grant.url, headers }
}
