//! The parcel: the document that names a tree's pieces and its packs.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::{self, Read as _};

use dcbuild_model::{BlobDigest, Digest, LayerId};
use dcbuild_tree::Changes;
use dcbuild_tree::toc::DecodeError;
use serde::{Deserialize, Serialize};

use crate::chunks::{CHUNK_BYTES_MAX, chunks};
use crate::cut::cut;
use crate::pack::Pack;
use crate::table;

/// A larger parcel is not one of ours: it would name ten million packs.
pub const PARCEL_BYTES_MAX: u64 = 1 << 30;
/// Pieces that are smaller travel in the parcel.
const STORED_BYTES_MIN: usize = 4 << 10;
const LEVEL: i32 = 3;

/// Compressed bytes of a tree's table or times.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "piece")]
pub enum Piece {
    /// They are a blob of the store.
    Stored {
        /// The blob.
        blob: BlobDigest,
    },
    /// They are here, as hex digits.
    Here {
        /// The bytes.
        hex: String,
    },
}

/// What a part of a folder looks like, and where the bytes of its files are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parcel {
    /// The rule by which the files were cut into packs.
    rule: u32,
    /// The layers that hold the bytes of the files.
    pub packs: Vec<LayerId>,
    table: Vec<Piece>,
    times: Vec<Piece>,
}

/// The only rule so far: [`cut()`].
const RULE: u32 = 1;

/// A parcel on the client's side, with what must be in the store for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrapped {
    /// The parcel.
    pub parcel: Parcel,
    /// Its packs, in the parcel's order.
    pub packs: Vec<Pack>,
    /// The pieces of the tree that are blobs.
    pub pieces: Vec<(BlobDigest, Vec<u8>)>,
}

/// A parcel on the worker's side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The tree; its files lie in a context.
    pub tree: Changes,
    /// The packs with the bytes of its files.
    pub packs: Vec<(LayerId, Pack)>,
}

/// Says why a parcel cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum InvalidParcel {
    /// The document is none.
    #[error("the parcel is malformed")]
    Document(#[source] serde_json::Error),
    /// Compressed bytes are none.
    #[error("a part of the parcel cannot be decompressed")]
    Compressed(#[source] io::Error),
    /// A piece was not given.
    #[error("the parcel lacks its piece {blob}")]
    Missing {
        /// The piece.
        blob: BlobDigest,
    },
    /// A piece is no hex digits.
    #[error("a piece of the parcel is malformed")]
    Piece(#[source] hex::FromHexError),
    /// The table is none.
    #[error("the parcel's table is malformed")]
    Table(#[source] DecodeError),
    /// The times do not fit the table.
    #[error("the parcel's times do not fit its table")]
    Times,
    /// Its sender cuts packs otherwise.
    #[error("the files were packed by rule {rule}, which is not known here")]
    Rule {
        /// The rule.
        rule: u32,
    },
    /// Its pieces are far too many.
    #[error("the parcel's table is larger than {bytes_max} bytes")]
    Large {
        /// How large it may be.
        bytes_max: u64,
    },
    /// The packs are not those of its tree.
    #[error("the parcel's packs are not those of its files")]
    Packs,
}

/// Wraps a tree that stands by itself, such as what a selection sees of a folder.
pub fn wrap(tree: &Changes) -> Wrapped {
    let packs = cut(tree);
    let (table, times) = table::split(tree);
    let mut pieces = Vec::new();
    let parcel = Parcel {
        rule: RULE,
        packs: packs.iter().map(Pack::layer).collect(),
        table: pieces_of(&table, &mut pieces),
        times: pieces_of(&times, &mut pieces),
    };
    Wrapped { parcel, packs, pieces }
}

fn pieces_of(bytes: &[u8], stored: &mut Vec<(BlobDigest, Vec<u8>)>) -> Vec<Piece> {
    let piece = |chunk: &[u8]| {
        let bytes = compress(chunk);
        if bytes.len() < STORED_BYTES_MIN {
            return Piece::Here { hex: hex::encode(bytes) };
        }
        let blob = BlobDigest(Digest::of(&bytes));
        stored.push((blob, bytes));
        Piece::Stored { blob }
    };
    chunks(bytes).map(piece).collect()
}

fn compress(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, LEVEL).expect("bytes in memory compress at a level that is there")
}

fn decompress(bytes: &[u8], bytes_max: u64) -> Result<Vec<u8>, InvalidParcel> {
    let mut out = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(bytes).map_err(InvalidParcel::Compressed)?;
    let read = decoder.take(bytes_max.saturating_add(1)).read_to_end(&mut out);
    let read = read.map_err(InvalidParcel::Compressed)?;
    if u64::try_from(read).is_ok_and(|read| read <= bytes_max) {
        return Ok(out);
    }
    Err(InvalidParcel::Compressed(io::Error::other(format!(
        "it grows to more than {bytes_max} bytes"
    ))))
}

impl Parcel {
    /// Writes the parcel as it is stored.
    pub fn encode(&self) -> Vec<u8> {
        compress(&serde_json::to_vec(self).expect("a parcel has no failing parts"))
    }

    /// Reads a parcel that anybody may have written.
    pub fn decode(bytes: &[u8]) -> Result<Parcel, InvalidParcel> {
        let document = decompress(bytes, PARCEL_BYTES_MAX)?;
        let parcel: Parcel = serde_json::from_slice(&document).map_err(InvalidParcel::Document)?;
        if parcel.rule == RULE {
            Ok(parcel)
        } else {
            Err(InvalidParcel::Rule { rule: parcel.rule })
        }
    }

    /// The blobs that are needed to open it.
    pub fn blobs(&self) -> impl Iterator<Item = BlobDigest> {
        self.table.iter().chain(&self.times).filter_map(|piece| match piece {
            Piece::Stored { blob } => Some(*blob),
            Piece::Here { .. } => None,
        })
    }

    /// Opens the parcel with the blobs that it needs.
    pub fn open<B: AsRef<[u8]>>(
        &self,
        blobs: &HashMap<BlobDigest, B>,
    ) -> Result<Opened, InvalidParcel> {
        let tree = table::join(
            &joined(&self.table, blobs, PARCEL_BYTES_MAX)?,
            &joined(&self.times, blobs, PARCEL_BYTES_MAX)?,
        )?;
        let packs: Vec<_> = cut(&tree).into_iter().map(|pack| (pack.layer(), pack)).collect();
        if packs.iter().map(|(layer, _)| layer).ne(&self.packs) {
            return Err(InvalidParcel::Packs);
        }
        Ok(Opened { tree, packs })
    }
}

fn joined<B: AsRef<[u8]>>(
    pieces: &[Piece],
    blobs: &HashMap<BlobDigest, B>,
    bytes_max: u64,
) -> Result<Vec<u8>, InvalidParcel> {
    let chunk_bytes_max = u64::try_from(CHUNK_BYTES_MAX).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    for piece in pieces {
        let chunk = match piece {
            Piece::Here { hex } => {
                decompress(&hex::decode(hex).map_err(InvalidParcel::Piece)?, chunk_bytes_max)?
            }
            Piece::Stored { blob } => {
                let stored = blobs.get(blob).ok_or(InvalidParcel::Missing { blob: *blob })?;
                decompress(stored.as_ref(), chunk_bytes_max)?
            }
        };
        bytes.extend_from_slice(&chunk);
        if u64::try_from(bytes.len()).is_ok_and(|len| len > bytes_max) {
            return Err(InvalidParcel::Large { bytes_max });
        }
    }
    Ok(bytes)
}
