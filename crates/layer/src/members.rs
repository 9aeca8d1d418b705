//! The members of a layer's tar, in order: a pure function of the changes.

use std::borrow::Cow;
use std::collections::HashMap;

use dcbuild_model::TreePath;
use dcbuild_tree::{Change, Changes, Entry, FileBody, Kind, LinkGroup};

use crate::header::{self, Header};
use crate::write::WriteBlobError;

/// Begins the names of whiteouts.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// Begins the names of marks that are not about one name.
pub(crate) const WHITEOUT_META: &[u8] = b".wh..wh.";
/// Says that nothing of the lower layers is left in its folder.
pub(crate) const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// One member: its headers as bytes, and the file that follows.
pub(crate) struct Member<'a> {
    pub(crate) headers: Vec<u8>,
    pub(crate) file: Option<(&'a TreePath, &'a FileBody)>,
}

/// Gives the members of a layer one after another.
pub(crate) struct Members<'a> {
    changes: std::collections::btree_map::Iter<'a, TreePath, Change>,
    first_names: HashMap<LinkGroup, &'a TreePath>,
}

impl<'a> Members<'a> {
    pub(crate) fn new(changes: &'a Changes) -> Members<'a> {
        Members { changes: changes.0.iter(), first_names: HashMap::new() }
    }

    fn member(
        &mut self,
        path: &'a TreePath,
        change: &'a Change,
    ) -> Result<Option<Member<'a>>, &'static str> {
        if path.name().is_some_and(|name| name.starts_with(WHITEOUT)) {
            return Err("its name is that of a whiteout");
        }
        // What most have: an extended header with a record or two, and the header.
        let mut headers = Vec::with_capacity(3 * header::BLOCK);
        let mut file = None;
        match change {
            Change::Remove => {
                let (Some(folder), Some(name)) = (path.parent(), path.name()) else {
                    return Err("the root cannot be removed");
                };
                mark(folder.join(&[WHITEOUT, name].concat()), &mut headers)?;
            }
            Change::Put(entry) => {
                let first = match entry.links {
                    Some(group) if entry.kind != Kind::Dir => {
                        Some(*self.first_names.entry(group).or_insert(path))
                    }
                    _ => None,
                };
                match first {
                    Some(first) if first != path => {
                        write_entry(path, entry, Some(first), &mut headers)?;
                    }
                    _ => {
                        if matches!(entry.kind, Kind::Socket) {
                            return Ok(None);
                        }
                        write_entry(path, entry, None, &mut headers)?;
                        if let Kind::File(body) = &entry.kind {
                            file = Some((path, body));
                        }
                    }
                }
            }
            Change::Replace(entry) => {
                if entry.kind != Kind::Dir {
                    return Err("only a folder can be opaque");
                }
                write_entry(path, entry, None, &mut headers)?;
                mark(path.join(WHITEOUT_OPAQUE), &mut headers)?;
            }
        }
        Ok(Some(Member { headers, file }))
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Result<Member<'a>, WriteBlobError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (path, change) = self.changes.next()?;
            match self.member(path, change) {
                Ok(Some(member)) => return Some(Ok(member)),
                Ok(None) => {}
                Err(reason) => {
                    let path = path.clone();
                    return Some(Err(WriteBlobError::Unrepresentable { path, reason }));
                }
            }
        }
    }
}

fn mark(path: TreePath, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let name = path.as_bytes().into();
    header::encode(&Header { name, link: b"", flag: b'0', size: 0, entry: None }, out)
}

fn write_entry(
    path: &TreePath,
    entry: &Entry,
    first: Option<&TreePath>,
    out: &mut Vec<u8>,
) -> Result<(), &'static str> {
    let mut name = Cow::Borrowed(path.as_bytes());
    let (flag, link, size): (u8, &[u8], u64) = match (&entry.kind, first) {
        (Kind::Socket, _) => return Ok(()),
        (_, Some(first)) => (b'1', first.as_bytes(), 0),
        (Kind::File(body), None) => (b'0', b"", body.size),
        (Kind::Symlink(target), None) => (b'2', target, 0),
        (Kind::CharDevice { .. }, None) => (b'3', b"", 0),
        (Kind::BlockDevice { .. }, None) => (b'4', b"", 0),
        (Kind::Dir, None) => (b'5', b"", 0),
        (Kind::Fifo, None) => (b'6', b"", 0),
    };
    if flag == b'5' {
        name.to_mut().extend_from_slice(if path.is_root() { b"./" } else { b"/" });
    }
    if link.contains(&0) {
        return Err("the target of its link has a NUL byte");
    }
    header::encode(&Header { name, link, flag, size, entry: Some(entry) }, out)
}
