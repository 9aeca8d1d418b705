//! Files of which an archive holds the written pieces alone and leaves the holes out: GNU tar's own header, and its PAX
//! records of the versions 0.0, 0.1 and 1.0, as the GNU tar manual has them ("Sparse Formats").

use std::collections::BTreeMap;

use dcbuild_model::limits;

use crate::parse::decimal;

const WRONG: &str = "the list of its pieces is malformed";

/// A written piece of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// Where it begins in the file.
    pub(crate) at: u64,
    /// How long it is.
    pub(crate) len: u64,
}

/// The written pieces of a file, in order; between them are zeros.
#[derive(Default, Debug)]
pub(crate) struct Written(Vec<Piece>);

impl Written {
    pub(crate) fn push(&mut self, piece: Piece) -> Result<(), &'static str> {
        if self.0.len() == limits::PIECES_MAX {
            return Err("it is a sparse file of more than a million pieces");
        }
        self.0.push(piece);
        Ok(())
    }

    /// The pieces, if they follow each other within `size` bytes and hold `stored` of them.
    pub(crate) fn checked(self, size: u64, stored: u64) -> Result<Vec<Piece>, &'static str> {
        let (mut end, mut held) = (0, 0);
        for piece in &self.0 {
            if piece.at < end {
                return Err("its pieces overlap");
            }
            end = piece.at.checked_add(piece.len).ok_or(WRONG)?;
            held += piece.len;
        }
        if end > size {
            return Err("a piece of it lies behind its end");
        }
        if held != stored {
            return Err("its pieces are not as long as its content");
        }
        Ok(self.0)
    }
}

/// What PAX records say of a sparse file.
pub(crate) struct Records {
    /// Its name, where the header has another for those who know no sparse files.
    pub(crate) name: Option<Vec<u8>>,
    /// How large it is with its holes.
    pub(crate) size: Option<u64>,
    /// Where its pieces are; none where the content begins with their list.
    pub(crate) pieces: Option<Written>,
}

/// Takes the records of a sparse file out, if it is one.
pub(crate) fn take(all: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Option<Records>, &'static str> {
    let mut take = |key: &str| {
        let value = all.remove([b"GNU.sparse.", key.as_bytes()].concat().as_slice());
        value.filter(|value| !value.is_empty())
    };
    let (major, minor, map) = (take("major"), take("minor"), take("map"));
    let name = take("name");
    let size = [take("size"), take("realsize")].into_iter().flatten().next();
    take("numblocks");
    let begins_with_list = match (major.as_deref(), minor.as_deref()) {
        (Some(b"1"), Some(b"0")) => true,
        (Some(b"0"), Some(b"0" | b"1")) => false,
        (None, None) if map.is_some() => false,
        (None, None) => return Ok(None),
        _ => return Err("it is a sparse file of a version that nobody knows"),
    };
    let pieces = if begins_with_list { None } else { Some(pieces(&map.unwrap_or_default())?) };
    let size = size.as_deref().map(decimal).transpose()?;
    Ok(Some(Records { name, size, pieces }))
}

/// Where a record of version 0.0, of which one file has many, goes among the others: the list of 0.1.
pub(crate) fn gather(key: &[u8], value: &[u8], all: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> bool {
    if !matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
        return false;
    }
    let map = all.entry(b"GNU.sparse.map".to_vec()).or_default();
    if !map.is_empty() {
        map.push(b',');
    }
    map.extend_from_slice(value);
    true
}

fn pieces(map: &[u8]) -> Result<Written, &'static str> {
    let mut pieces = Written::default();
    if map.is_empty() {
        return Ok(pieces);
    }
    let mut numbers = map.split(|byte| *byte == b',').map(decimal);
    while let Some(at) = numbers.next() {
        let len = numbers.next().ok_or(WRONG)??;
        pieces.push(Piece { at: at?, len })?;
    }
    Ok(pieces)
}
