//! Changes to bytes.

use std::collections::HashSet;

use super::{
    BLOCK_DEVICE, CHAR_DEVICE, DIR, FIFO, FILE, FIRST_NAME, LATER_NAME, MAGIC, OPAQUE_DIR, REMOVE,
    SOCKET, SYMLINK, group_numbers, links_of,
};
use crate::{Change, Changes, Entry, Kind, Meta};

/// Writes changes in their one canonical form; where the bytes of files lie is not in it.
pub fn encode(changes: &Changes) -> Vec<u8> {
    let groups = group_numbers(changes);
    let mut told = HashSet::new();
    let mut out = Vec::with_capacity(changes.0.len().saturating_mul(80).saturating_add(16));
    out.extend_from_slice(MAGIC);
    length(&mut out, changes.0.len());
    let mut before: &[u8] = b"";
    for (path, change) in &changes.0 {
        let path = path.as_bytes();
        let shared = before.iter().zip(path).take_while(|(one, other)| one == other).count();
        length(&mut out, shared);
        bytes(&mut out, path.get(shared..).unwrap_or_default());
        before = path;
        let group = links_of(change).and_then(|group| groups.get(&group)).copied();
        match (change, group) {
            (Change::Put(_), Some(number)) if !told.insert(number) => {
                out.push(LATER_NAME);
                varint(&mut out, number);
            }
            (Change::Put(entry), group) => {
                put(&mut out, entry, if group.is_some() { FIRST_NAME } else { 0 });
            }
            (Change::Replace(entry), _) if entry.is_dir() => {
                out.push(OPAQUE_DIR);
                meta(&mut out, &entry.meta);
            }
            (Change::Replace(entry), _) => put(&mut out, entry, 0),
            (Change::Remove, _) => out.push(REMOVE),
        }
    }
    out
}

fn put(out: &mut Vec<u8>, entry: &Entry, flag: u8) {
    let kind = match entry.kind {
        Kind::Dir => DIR,
        Kind::File(_) => FILE,
        Kind::Symlink(_) => SYMLINK,
        Kind::Fifo => FIFO,
        Kind::Socket => SOCKET,
        Kind::CharDevice { .. } => CHAR_DEVICE,
        Kind::BlockDevice { .. } => BLOCK_DEVICE,
    };
    out.push(kind | flag);
    meta(out, &entry.meta);
    match &entry.kind {
        Kind::File(body) => {
            out.extend_from_slice(&body.content.0.0);
            varint(out, body.size);
        }
        Kind::Symlink(target) => bytes(out, target),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            varint(out, u64::from(*major));
            varint(out, u64::from(*minor));
        }
        Kind::Dir | Kind::Fifo | Kind::Socket => {}
    }
}

fn meta(out: &mut Vec<u8>, meta: &Meta) {
    varint(out, u64::from(meta.mode));
    varint(out, u64::from(meta.uid));
    varint(out, u64::from(meta.gid));
    let secs = meta.mtime.secs;
    varint(out, (secs.cast_unsigned() << 1) ^ (secs >> 63).cast_unsigned());
    varint(out, u64::from(meta.mtime.nanos));
    length(out, meta.xattrs.len());
    for (name, value) in meta.xattrs.iter() {
        bytes(out, name);
        bytes(out, value);
    }
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn length(out: &mut Vec<u8>, length: usize) {
    varint(out, u64::try_from(length).unwrap_or(u64::MAX));
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or(0x7f);
        number >>= 7;
        if number == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}
