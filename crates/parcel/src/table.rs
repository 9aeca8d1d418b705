//! A tree as two runs of bytes: its table without times, which is the same for everybody, and the times.

use dcbuild_model::UnixTime;
use dcbuild_tree::{Change, Changes, Entry, Kind, Origin, toc};

use crate::wrap::InvalidParcel;

/// Takes a tree apart.
pub(crate) fn split(tree: &Changes) -> (Vec<u8>, Vec<u8>) {
    let mut timeless = tree.clone();
    let mut times = Vec::new();
    let mut before = 0;
    for entry in timeless.0.values_mut().filter_map(entry_of) {
        let UnixTime { secs, nanos } = std::mem::take(&mut entry.meta.mtime);
        let more = secs.wrapping_sub(before);
        before = secs;
        number(&mut times, (more.cast_unsigned() << 1) ^ (more >> 63).cast_unsigned());
        number(&mut times, u64::from(nanos));
    }
    (toc::encode(&timeless), times)
}

/// Puts a tree together again; the bytes of its files lie in a context.
pub(crate) fn join(table: &[u8], times: &[u8]) -> Result<Changes, InvalidParcel> {
    let mut tree = toc::decode(table).map_err(InvalidParcel::Table)?;
    let mut times = Numbers(times);
    let mut before = 0_i64;
    for (path, change) in &mut tree.0 {
        let Some(entry) = entry_of(change) else { continue };
        let (zigzag, nanos) = (times.next()?, times.next()?);
        let more = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
        before = before.wrapping_add(more);
        let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
        entry.meta.mtime = UnixTime { secs: before, nanos: nanos.ok_or(InvalidParcel::Times)? };
        if let Kind::File(body) = &mut entry.kind {
            body.origin = Origin::Context { context: 0, path: path.clone() };
        }
    }
    if times.0.is_empty() { Ok(tree) } else { Err(InvalidParcel::Times) }
}

fn entry_of(change: &mut Change) -> Option<&mut Entry> {
    match change {
        Change::Put(entry) | Change::Replace(entry) => Some(entry),
        Change::Remove => None,
    }
}

/// LEB128.
fn number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or_default());
}

struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn next(&mut self) -> Result<u64, InvalidParcel> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(InvalidParcel::Times)?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(InvalidParcel::Times)
    }
}
