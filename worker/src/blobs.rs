//! Streams of bytes, read by blocking code.

use std::io::{self, Read};
use std::pin::Pin;

use bytes::{Buf as _, Bytes};
use dcbuild_model::{BlobDigest, LayerId};
use dcbuild_registry::PullError;
use dcbuild_store::{BlobStore, ByteRange, StoreError};
use futures::stream::Fuse;
use futures::{Stream, StreamExt as _};
use tokio::runtime::Handle;

use crate::error::Failed;
use crate::report::Line;

/// The bytes of a blob, wherever it comes from.
pub(crate) type Pieces = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Whether a store gives a blob: it may have it only since it was asked for it, or may have lost it and not know.
pub(crate) async fn is_readable(
    store: &dyn BlobStore,
    blob: &BlobDigest,
) -> Result<bool, StoreError> {
    let read = async {
        let mut content = store.get(blob, ByteRange::new(0, 1)).await?;
        content.next().await.transpose()
    };
    match read.await {
        Ok(_) => Ok(true),
        Err(error) if error.is_miss() => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn of_store(stream: dcbuild_store::BlobStream) -> Pieces {
    stream.map(|piece| piece.map_err(|error: StoreError| io::Error::other(error))).boxed()
}

/// The same of a layer's blob, which is lost where the store has not all of it.
pub(crate) fn of_layer(stream: dcbuild_store::BlobStream, layer: LayerId) -> Pieces {
    stream.map(move |piece| piece.map_err(|error| lost(layer, error))).boxed()
}

/// The same pieces, each when the next has come: who stops reading once he has all bytes sees no last piece of a stream that
/// ends with an error, as one does whose bytes were wrong.
pub(crate) fn held_back(pieces: Pieces) -> Pieces {
    let start = (pieces, None);
    futures::stream::unfold(start, |(mut pieces, mut held)| async move {
        loop {
            match (pieces.next().await, held.take()) {
                (Some(Ok(piece)), None) => held = Some(piece),
                (Some(Ok(piece)), Some(before)) => {
                    return Some((Ok(before), (pieces, Some(piece))));
                }
                (Some(Err(error)), _) => return Some((Err(error), (pieces, None))),
                (None, Some(last)) => return Some((Ok(last), (pieces, None))),
                (None, None) => return None,
            }
        }
    })
    .boxed()
}

/// A store's failure to give a part of a layer, for readers.
pub(crate) fn lost(layer: LayerId, error: StoreError) -> io::Error {
    if error.is_miss() {
        tracing::warn!(%layer, %error, "a layer is lost");
        return io::Error::other(Failed::Lost { layer });
    }
    io::Error::other(error)
}

pub(crate) fn of_registry(stream: dcbuild_registry::BlobStream) -> Pieces {
    stream.map(|piece| piece.map_err(|error: PullError| io::Error::other(error))).boxed()
}

/// Counts the bytes on a status line.
pub(crate) fn watched(pieces: Pieces, line: Line) -> Pieces {
    let start = (pieces, Some(line));
    futures::stream::unfold(start, |(mut pieces, mut line)| async move {
        match pieces.next().await {
            Some(Ok(piece)) => {
                if let Some(line) = &mut line {
                    line.add(u64::try_from(piece.len()).unwrap_or(0));
                }
                Some((Ok(piece), (pieces, line)))
            }
            Some(Err(error)) => Some((Err(error), (pieces, line))),
            None => {
                if let Some(line) = line {
                    line.done();
                }
                None
            }
        }
    })
    .boxed()
}

/// Reads a stream where blocking is allowed: never on a thread that runs tasks.
pub(crate) struct Blocking {
    handle: Handle,
    /// Readers may ask again behind the end; a bare stream must not be.
    pieces: Fuse<Pieces>,
    piece: Bytes,
}

impl Blocking {
    pub(crate) fn new(handle: Handle, pieces: Pieces) -> Blocking {
        Blocking { handle, pieces: pieces.fuse(), piece: Bytes::new() }
    }
}

impl Read for Blocking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.handle.block_on(self.pieces.next()) {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        let (taken, _) = buffer.split_at_mut(count);
        self.piece.copy_to_slice(taken);
        Ok(count)
    }
}
