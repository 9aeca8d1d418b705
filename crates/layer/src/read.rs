//! Reads a layer that somebody else made: once, hashing all of it, and believing none of it.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crossbeam_channel::bounded;
use dcbuild_model::{Compression, ContentDigest, DiffId, Digest, LayerDigest, LayerId, TreePath};
use dcbuild_tree::{Changes, FileBody, Origin, toc};
use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use crate::collect::{Collected, Collector, Gather, InvalidEntry, Taken};
use crate::input::{self, Bounded, Hashing, Pieces, Ratio};
use crate::parse::Parser;

/// How a layer's bytes are to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayerForm {
    /// How it is compressed; by its first bytes where absent.
    pub compression: Option<Compression>,
    /// Whether it may grow without bounds.
    pub ratio: Ratio,
}

/// Takes the contents of a layer's files while they stream by.
pub trait LayerSink {
    /// A file begins. The same path may come twice; paths say nothing of where it is safe to write.
    fn begin(&mut self, path: &TreePath, size: u64) -> io::Result<()>;
    /// The next bytes of the file.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// The file ends; answers where its bytes are now, if anywhere but in the layer.
    fn end(&mut self, content: &ContentDigest) -> io::Result<Option<Origin>>;
}

/// Takes nothing: for reading a layer's entries alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSink;

impl LayerSink for NoSink {
    fn begin(&mut self, _: &TreePath, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self, _: &ContentDigest) -> io::Result<Option<Origin>> {
        Ok(None)
    }
}

/// What a layer turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadLayer {
    /// What it changes; each file's origin is what the sink said, else this layer.
    pub changes: Changes,
    /// The layer, by the table of contents of its changes.
    pub layer: LayerId,
    /// That table.
    pub toc: Vec<u8>,
    /// The digest of its tar, as hashed here.
    pub diff_id: DiffId,
    /// The digest of the blob, as hashed here.
    pub digest: LayerDigest,
    /// The blob's size.
    pub size: u64,
    /// How it was compressed.
    pub compression: Compression,
}

/// Says why a layer could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadLayerError {
    /// The bytes could not be read or decompressed.
    #[error("could not read the bytes of the tar")]
    Read(#[source] io::Error),
    /// The layer grows beyond measure.
    #[error("the tar grows to more than {max} times its size")]
    GrowsTooMuch {
        /// How much it may grow.
        max: u64,
    },
    /// The bytes are no tar.
    #[error("it is not a tar archive")]
    NotATar,
    /// The bytes end inside an entry.
    #[error("the tar ends too early, at byte {offset}")]
    Truncated {
        /// How much of the tar there is.
        offset: u64,
    },
    /// A header is not as tar has it.
    #[error("the header at byte {offset} of the tar is malformed: {reason}")]
    Header {
        /// Where it begins.
        offset: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There are more entries than a layer may have.
    #[error("the tar has more than {max} entries")]
    TooManyEntries {
        /// How many it may have.
        max: u64,
    },
    /// An entry is one that no layer may have.
    #[error(transparent)]
    Entry(#[from] InvalidEntry),
    /// The sink did not take a file.
    #[error("could not keep the content of '{path}'")]
    Sink {
        /// The file.
        path: TreePath,
        /// Why not.
        source: io::Error,
    },
}

impl ReadLayer {
    /// Whether it is this layer once it has the sockets of the table, for which its tar has no form: then it has them.
    #[must_use]
    pub fn is_with_sockets(&mut self, layer: LayerId, table: &Changes) -> bool {
        let sockets = table.0.iter().filter(|(_, change)| change.is_socket());
        self.changes.0.extend(sockets.map(|(path, change)| (path.clone(), change.clone())));
        self.toc = toc::encode(&self.changes);
        self.layer = toc::layer_id(&self.toc);
        self.layer == layer
    }
}

/// Reads a layer once, giving its files' bytes to the sink; the caller compares the digests.
pub fn read_layer(
    input: impl Read + Send,
    form: LayerForm,
    sink: &mut dyn LayerSink,
) -> Result<ReadLayer, ReadLayerError> {
    let mut input = io::BufReader::with_capacity(256 << 10, input);
    let compression = match form.compression {
        Some(compression) => compression,
        None => match input.fill_buf().map_err(ReadLayerError::Read)? {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::None,
        },
    };
    let streamed = stream(input, form.ratio, Collector::new(), sink, |input| match compression {
        Compression::None => Ok(Box::new(input)),
        Compression::Gzip => Ok(Box::new(MultiGzDecoder::new(input))),
        Compression::Zstd => Ok(Box::new(zstd::stream::read::Decoder::new(input)?)),
    })?;
    let Collected { changes, layer, toc } = streamed.whole;
    Ok(ReadLayer {
        changes,
        layer,
        toc,
        diff_id: DiffId(streamed.tar),
        digest: LayerDigest(streamed.blob),
        size: streamed.size,
        compression,
    })
}

/// What a stream of bytes turned out to be.
pub(crate) struct Streamed<T> {
    /// What its members make together.
    pub(crate) whole: T,
    tar: Digest,
    blob: Digest,
    size: u64,
}

impl<T> Streamed<T> {
    /// Whether not a byte came out.
    pub(crate) fn is_empty(&self) -> bool {
        self.tar == Digest::of(b"")
    }
}

/// Decompresses on one thread, hashes the tar on a second, and parses here.
pub(crate) fn stream<I: Read + Send, G: Gather>(
    input: I,
    ratio: Ratio,
    gather: G,
    sink: &mut dyn LayerSink,
    decoder: impl for<'a> Fn(&'a mut Hashing<I>) -> io::Result<Box<dyn Read + 'a>> + Send,
) -> Result<Streamed<G::Whole>, ReadLayerError> {
    let (to_parse, pieces) = bounded(8);
    let (to_hash, tar) = bounded::<Arc<Vec<u8>>>(8);
    thread::scope(|scope| {
        let pump = scope.spawn(move || {
            let came_in = Arc::new(AtomicU64::new(0));
            let mut input = Hashing::new(input, Arc::clone(&came_in));
            let whole = match decoder(&mut input) {
                Ok(inner) => {
                    let came_in = Arc::clone(&came_in);
                    let bounded = Bounded { inner, came_in, went_out: 0, ratio };
                    input::pump(bounded, &to_parse, &to_hash)
                }
                Err(error) => {
                    to_parse.send(Err(error)).unwrap_or_default();
                    false
                }
            };
            drop((to_parse, to_hash));
            // A stream that nobody wants any more may be endless.
            let blob = if whole { input.finish()? } else { [0; 32] };
            io::Result::Ok((Digest(blob), came_in.load(Ordering::Relaxed)))
        });
        let hasher = scope.spawn(move || {
            tar.iter().fold(Sha256::new(), |hash, piece| hash.chain_update(&*piece)).finalize()
        });
        // The parser drops its pieces when it fails, which ends the other two.
        let whole = gathered(Parser::new(Pieces::new(pieces)), gather, sink)?;
        let (blob, size) = join(pump).map_err(ReadLayerError::Read)?;
        let tar = Digest(join(hasher).into());
        Ok(Streamed { whole, tar, blob, size })
    })
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn gathered<G: Gather>(
    mut parser: Parser<Pieces>,
    mut gather: G,
    sink: &mut dyn LayerSink,
) -> Result<G::Whole, ReadLayerError> {
    while let Some(raw) = parser.next()? {
        let path = match gather.take(&raw)? {
            Taken::Done if raw.size > 0 => {
                parser.content(&raw, |_| Ok(()))?;
                continue;
            }
            Taken::Done => continue,
            Taken::File(path) => path,
        };
        let failed = |source| ReadLayerError::Sink { path: path.clone(), source };
        sink.begin(&path, raw.size).map_err(failed)?;
        let mut hash = Sha256::new();
        parser.content(&raw, |bytes| {
            hash.update(bytes);
            sink.write(bytes).map_err(failed)
        })?;
        let content = ContentDigest(Digest(hash.finalize().into()));
        let origin = sink.end(&content).map_err(failed)?;
        let body = FileBody { content, size: raw.size, origin: Origin::Inline(Arc::from([])) };
        gather.file(path, raw, body, origin);
    }
    parser.drain()?;
    Ok(gather.finish()?)
}
