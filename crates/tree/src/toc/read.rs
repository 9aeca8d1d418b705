//! Bytes to changes, for bytes that anybody may have written.

use std::collections::BTreeMap;

use dcbuild_model::{ContentDigest, Digest, LayerId, TreePath, UnixTime, limits};

use super::{
    BLOCK_DEVICE, CHAR_DEVICE, DIR, FIFO, FILE, FIRST_NAME, LATER_NAME, MAGIC, OPAQUE_DIR, REMOVE,
    SOCKET, SYMLINK, layer_id,
};
use crate::{Change, Changes, Entry, FileBody, Kind, LinkGroup, Meta, Origin, Xattrs};

/// How much longer than the table its paths may be together, as each is told by what differs from the one before.
const PATHS_RATIO_MAX: usize = 64;
/// What they may be before that counts.
const PATHS_FREE_BYTES: usize = 64 << 20;

/// Says why bytes are no table of contents.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a layer's table of contents: {reason} (byte {offset})")]
pub struct DecodeError {
    /// What is wrong.
    pub reason: &'static str,
    /// Where, counted from 0.
    pub offset: usize,
}

/// Reads a table of contents; anything but what [`encode`](super::encode) writes is refused.
///
/// Each file's bytes lie in the layer that the table names, under the first name of its hard-link group.
pub fn decode(toc: &[u8]) -> Result<Changes, DecodeError> {
    let mut reader = Reader { rest: toc, length: toc.len(), layer: layer_id(toc) };
    if reader.take(MAGIC.len())? != MAGIC {
        return Err(reader.error("another magic or version"));
    }
    let count = reader.varint()?;
    if count > limits::ENTRIES_MAX {
        return Err(reader.error("too many entries"));
    }
    // An entry has at least three bytes: a lie about the count reserves no memory.
    let likely = usize::try_from(count).unwrap_or(usize::MAX).min(toc.len() / 3);
    let mut entries: Vec<(TreePath, Change)> = Vec::with_capacity(likely);
    let mut groups: Vec<Group> = Vec::new();
    let mut path_bytes = toc.len().saturating_mul(PATHS_RATIO_MAX).saturating_add(PATHS_FREE_BYTES);
    for _ in 0..count {
        let before = entries.last().map(|(path, _)| path.as_bytes());
        let path = reader.path(before)?;
        path_bytes = path_bytes
            .checked_sub(path.as_bytes().len())
            .ok_or_else(|| reader.error("its paths are too long together"))?;
        let change = reader.change(&path, &mut groups)?;
        entries.push((path, change));
    }
    if !reader.rest.is_empty() {
        return Err(reader.error("bytes after the end"));
    }
    if groups.iter().any(|group| group.names < 2) {
        return Err(reader.error("a hard-link group of one name"));
    }
    let changes = Changes(entries.into_iter().collect());
    check_parents(&changes.0).map_err(|reason| reader.error(reason))?;
    Ok(changes)
}

struct Group {
    entry: Entry,
    names: u64,
}

struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
    layer: LayerId,
}

impl<'a> Reader<'a> {
    fn error(&self, reason: &'static str) -> DecodeError {
        DecodeError { reason, offset: self.length - self.rest.len() }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(self.error("it ends too early"));
        };
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        let taken = self.take(1)?;
        Ok(taken.first().copied().unwrap_or_default())
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0_u64;
        for place in 0..10 {
            let byte = self.byte()?;
            let low = u64::from(byte & 0x7f);
            if place == 9 && low > 1 {
                return Err(self.error("a number is too large"));
            }
            number |= low << (7 * place);
            if byte & 0x80 == 0 {
                if byte == 0 && place > 0 {
                    return Err(self.error("a number is not in its shortest form"));
                }
                return Ok(number);
            }
        }
        Err(self.error("a number is too large"))
    }

    fn small(&mut self) -> Result<u32, DecodeError> {
        let number = self.varint()?;
        u32::try_from(number).map_err(|_| self.error("a number is too large"))
    }

    fn length(&mut self) -> Result<usize, DecodeError> {
        let number = self.varint()?;
        usize::try_from(number).map_err(|_| self.error("a number is too large"))
    }

    fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.length()?;
        self.take(length)
    }

    fn path(&mut self, before: Option<&[u8]>) -> Result<TreePath, DecodeError> {
        let shared = self.length()?;
        let tail = self.bytes()?;
        let previous = before.unwrap_or_default();
        let Some((head, dropped)) = previous.split_at_checked(shared) else {
            return Err(self.error("a path shares more than there is"));
        };
        let ascending = match (dropped.first(), tail.first()) {
            (Some(old), Some(new)) => old < new,
            (None, Some(_)) => true,
            (_, None) => before.is_none(),
        };
        if !ascending {
            return Err(self.error("paths are not in order"));
        }
        let bytes = [head, tail].concat();
        match TreePath::clean(&bytes) {
            Ok(path) if path.as_bytes() == bytes => Ok(path),
            _ => Err(self.error("a path is not clean")),
        }
    }

    fn change(&mut self, path: &TreePath, groups: &mut Vec<Group>) -> Result<Change, DecodeError> {
        let tag = self.byte()?;
        if path.is_root() && tag != DIR && tag != OPAQUE_DIR {
            return Err(self.error("the root is no folder"));
        }
        match tag {
            REMOVE => return Ok(Change::Remove),
            LATER_NAME => {
                let number = self.length()?;
                let group = number.checked_sub(1).and_then(|place| groups.get_mut(place));
                let Some(group) = group else {
                    return Err(self.error("a hard-link group without a first name"));
                };
                group.names += 1;
                return Ok(Change::Put(group.entry.clone()));
            }
            _ => {}
        }
        let first = tag & FIRST_NAME != 0;
        let kind = tag & !FIRST_NAME;
        if first && (kind == DIR || kind == OPAQUE_DIR) {
            return Err(self.error("a folder has one name"));
        }
        let meta = self.meta()?;
        let kind = self.kind(kind, path)?;
        let mut entry = Entry { meta, kind, links: None };
        if first {
            let number = u64::try_from(groups.len()).unwrap_or(u64::MAX).saturating_add(1);
            entry.links = Some(LinkGroup(number));
            groups.push(Group { entry: entry.clone(), names: 1 });
        }
        Ok(if tag == OPAQUE_DIR { Change::Replace(entry) } else { Change::Put(entry) })
    }

    fn meta(&mut self) -> Result<Meta, DecodeError> {
        let mode = self.small()?;
        if mode > 0o7777 {
            return Err(self.error("a mode has more than twelve bits"));
        }
        let (uid, gid) = (self.small()?, self.small()?);
        let zigzag = self.varint()?;
        let secs = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
        let nanos = self.small()?;
        if nanos >= 1_000_000_000 {
            return Err(self.error("a time has more than a second of nanoseconds"));
        }
        let mtime = UnixTime { secs, nanos };
        Ok(Meta { mode, uid, gid, mtime, xattrs: self.xattrs()? })
    }

    fn xattrs(&mut self) -> Result<Xattrs, DecodeError> {
        let mut attributes = BTreeMap::new();
        let mut before: Option<&[u8]> = None;
        for _ in 0..self.varint()? {
            let name = self.bytes()?;
            if before.is_some_and(|before| before >= name) {
                return Err(self.error("attributes are not in order"));
            }
            before = Some(name);
            attributes.insert(name.to_vec(), self.bytes()?.to_vec());
        }
        Ok(Xattrs::new(attributes))
    }

    fn kind(&mut self, tag: u8, path: &TreePath) -> Result<Kind, DecodeError> {
        Ok(match tag {
            DIR | OPAQUE_DIR => Kind::Dir,
            FILE => {
                let mut digest = [0; 32];
                digest.copy_from_slice(self.take(32)?);
                Kind::File(FileBody {
                    content: ContentDigest(Digest(digest)),
                    size: self.varint()?,
                    origin: Origin::Layer { layer: self.layer, path: path.clone() },
                })
            }
            SYMLINK => {
                let target = self.bytes()?;
                if target.len() > limits::PATH_BYTES_MAX {
                    return Err(self.error("a link's target is too long"));
                }
                Kind::Symlink(target.to_vec())
            }
            FIFO => Kind::Fifo,
            SOCKET => Kind::Socket,
            CHAR_DEVICE => Kind::CharDevice { major: self.small()?, minor: self.small()? },
            BLOCK_DEVICE => Kind::BlockDevice { major: self.small()?, minor: self.small()? },
            _ => return Err(self.error("an unknown kind of entry")),
        })
    }
}

/// Nothing stands below a path that the same layer makes something else than a folder.
fn check_parents(changes: &BTreeMap<TreePath, Change>) -> Result<(), &'static str> {
    let mut known: Option<TreePath> = None;
    for path in changes.keys() {
        let Some(parent) = path.parent() else { continue };
        if known.as_ref() == Some(&parent) {
            continue;
        }
        match changes.get(&parent) {
            Some(Change::Put(entry) | Change::Replace(entry)) if !entry.is_dir() => {
                return Err("an entry stands below a file");
            }
            Some(Change::Remove) => return Err("an entry stands below a removed one"),
            _ => known = Some(parent),
        }
    }
    Ok(())
}
