//! Gathers the members of a foreign layer into changes: names checked, links on the way followed inside the layer,
//! whiteouts understood, hard links tied.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use dcbuild_model::{LayerId, TreePath, UnixTime, limits};
use dcbuild_tree::{Change, Changes, Entry, FileBody, Kind, LinkGroup, Origin, toc};

use crate::members::{WHITEOUT, WHITEOUT_META, WHITEOUT_OPAQUE};
use crate::parse::Raw;

/// An entry that no layer may have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the entry '{name}' is refused: {reason}")]
pub struct InvalidEntry {
    /// The name as written, made printable.
    pub name: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// What is to be done with a member.
pub(crate) enum Taken {
    /// It is done.
    Done,
    /// Its content is wanted, for this path.
    File(TreePath),
}

/// Takes the members of a tar, in their order.
pub(crate) trait Gather {
    /// What they make together.
    type Whole;

    /// Takes a member, all but a file's content.
    fn take(&mut self, raw: &Raw) -> Result<Taken, InvalidEntry>;

    /// Takes a file whose content has been read.
    fn file(&mut self, path: TreePath, raw: Raw, body: FileBody, at: Option<Origin>);

    /// Ties everything together.
    fn finish(self) -> Result<Self::Whole, InvalidEntry>;
}

/// What a member is by its header.
pub(crate) enum What {
    /// A file, whose content follows.
    File,
    /// Another name of what stands at the header's link.
    HardLink,
    /// Anything else.
    Other(Entry),
    /// What overlayfs alone has: a device that stands for nothing.
    Nothing,
}

/// Says what a member is.
pub(crate) fn what(raw: &Raw, path: &TreePath) -> Result<What, &'static str> {
    let kind = match raw.flag {
        b'0' if path.is_root() => return Err("the root is no file"),
        b'0' => return Ok(What::File),
        b'1' => return Ok(What::HardLink),
        b'2' if raw.link.is_empty() || raw.link.len() > 4095 || raw.link.contains(&0) => {
            return Err("its target is none that a link can have");
        }
        b'2' => Kind::Symlink(raw.link.clone()),
        b'3' if raw.device == (0, 0) => return Ok(What::Nothing),
        b'3' => Kind::CharDevice { major: raw.device.0, minor: raw.device.1 },
        b'4' => Kind::BlockDevice { major: raw.device.0, minor: raw.device.1 },
        b'5' => Kind::Dir,
        _ => Kind::Fifo,
    };
    if path.is_root() && kind != Kind::Dir {
        return Err("the root is a folder");
    }
    let mut meta = raw.meta.clone();
    if matches!(kind, Kind::Symlink(_)) {
        // Linux has no permissions of links: whatever an archive says, `lstat` says this.
        meta.mode = 0o777;
    }
    Ok(What::Other(Entry { meta, kind, links: None }))
}

/// The path that a name means; one that climbs ends at the root.
pub(crate) fn path(name: &[u8]) -> Result<TreePath, &'static str> {
    let path = TreePath::clean(name).map_err(|error| error.reason)?;
    if path.names().any(|name| name.len() > 255) {
        return Err("a name in it is longer than 255 bytes");
    }
    Ok(path)
}

/// A name without `..`, which takes the name before it away wherever that leads, as Go cleans names.
fn lexical(name: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    let parts = || name.split(|byte| *byte == b'/');
    if !parts().any(|part| part == b"..") {
        return Ok(name.into());
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in parts().filter(|part| !part.is_empty() && *part != b".") {
        if part == b".." {
            kept.pop().ok_or("it leads out of the layer")?;
        } else {
            kept.push(part);
        }
    }
    Ok(kept.join(&b'/').into())
}

/// A refusal of this member.
pub(crate) fn refused(raw: &Raw, reason: &'static str) -> InvalidEntry {
    InvalidEntry { name: String::from_utf8_lossy(&raw.name).chars().take(200).collect(), reason }
}

struct Put {
    entry: Entry,
    inode: u64,
}

/// A folder of the layer, and where links of the layer lead it.
struct Folder {
    written: TreePath,
    real: TreePath,
}

/// What was gathered so far.
pub(crate) struct Collector {
    puts: BTreeMap<TreePath, Put>,
    whiteouts: BTreeSet<TreePath>,
    opaque: BTreeSet<TreePath>,
    origins: HashMap<u64, Origin>,
    inodes: u64,
    /// The last one that was asked for.
    folder: Option<Folder>,
}

/// Changes, their layer, and the table that names it.
pub(crate) struct Collected {
    pub(crate) changes: Changes,
    pub(crate) layer: LayerId,
    pub(crate) toc: Vec<u8>,
}

impl Gather for Collector {
    type Whole = Collected;

    fn take(&mut self, raw: &Raw) -> Result<Taken, InvalidEntry> {
        self.try_take(raw).map_err(|reason| refused(raw, reason))
    }

    fn file(&mut self, path: TreePath, raw: Raw, mut body: FileBody, at: Option<Origin>) {
        self.inodes += 1;
        if let Some(origin) = at {
            self.origins.insert(self.inodes, origin);
        }
        body.origin = Origin::Inline(Arc::from([]));
        let entry = Entry { meta: raw.meta, kind: Kind::File(body), links: None };
        self.put(path, Put { entry, inode: self.inodes });
    }

    fn finish(self) -> Result<Collected, InvalidEntry> {
        self.tied()
    }
}

impl Collector {
    pub(crate) fn new() -> Collector {
        Collector {
            puts: BTreeMap::new(),
            whiteouts: BTreeSet::new(),
            opaque: BTreeSet::new(),
            origins: HashMap::new(),
            inodes: 0,
            folder: None,
        }
    }

    fn try_take(&mut self, raw: &Raw) -> Result<Taken, &'static str> {
        let path = self.place(&raw.name)?;
        if let Some(name) = path.name()
            && name.starts_with(WHITEOUT)
        {
            return self.whiteout(&path, name).map(|()| Taken::Done);
        }
        match what(raw, &path)? {
            What::File => return Ok(Taken::File(path)),
            What::HardLink => self.link(path, &raw.link)?,
            What::Nothing => {}
            What::Other(entry) => {
                self.inodes += 1;
                self.put(path, Put { entry, inode: self.inodes });
            }
        }
        Ok(Taken::Done)
    }

    /// Where a name of this layer lies: links of the layer above its last name are followed, inside the layer.
    fn place(&mut self, name: &[u8]) -> Result<TreePath, &'static str> {
        let path = path(&lexical(name)?)?;
        let (Some(written), Some(name)) = (path.parent(), path.name()) else { return Ok(path) };
        if let Some(Folder { written: last, real }) = &self.folder
            && *last == written
        {
            return if *real == written { Ok(path) } else { Ok(real.join(name)) };
        }
        let real = self.real(&written)?;
        let place = if real == written { path } else { real.join(name) };
        self.folder = Some(Folder { written, real });
        Ok(place)
    }

    /// Where a folder lies, as an unpacker sees it that has this layer alone before it.
    fn real(&self, folder: &TreePath) -> Result<TreePath, &'static str> {
        let names = |path: &[u8]| -> Vec<Vec<u8>> {
            let names = path.split(|byte| *byte == b'/').rev();
            names.filter(|name| !name.is_empty() && *name != b".").map(<[u8]>::to_vec).collect()
        };
        let (mut rest, mut done) = (names(folder.as_bytes()), TreePath::root());
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == b".." {
                done = done.parent().unwrap_or_default();
                continue;
            }
            let here = done.join(&name);
            match self.puts.get(&here).map(|put| &put.entry.kind) {
                None | Some(Kind::Dir) => done = here,
                Some(Kind::Symlink(_)) if links == limits::LINKS_MAX => {
                    return Err("it lies below links that lead in a circle");
                }
                Some(Kind::Symlink(target)) => {
                    links += 1;
                    if target.starts_with(b"/") {
                        done = TreePath::root();
                    }
                    rest.extend(names(target));
                }
                Some(_) => return Err("it lies below something that is not a folder"),
            }
        }
        path(done.as_bytes())
    }

    fn whiteout(&mut self, path: &TreePath, name: &[u8]) -> Result<(), &'static str> {
        let folder = path.parent().unwrap_or_default();
        if name == WHITEOUT_OPAQUE {
            self.opaque.insert(folder);
            return Ok(());
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        match name.strip_prefix(WHITEOUT).unwrap_or_default() {
            b"" | b"." | b".." => Err("it is a whiteout of nothing"),
            name => {
                self.whiteouts.insert(folder.join(name));
                Ok(())
            }
        }
    }

    fn link(&mut self, path: TreePath, link: &[u8]) -> Result<(), &'static str> {
        let target = self.place(link)?;
        let put = self.puts.get(&target).ok_or("it is a hard link to nothing in this layer")?;
        if put.entry.kind == Kind::Dir {
            return Err("it is a hard link to a folder");
        }
        if target == path {
            return Ok(());
        }
        let put = Put { entry: put.entry.clone(), inode: put.inode };
        self.put(path, put);
        Ok(())
    }

    fn put(&mut self, path: TreePath, put: Put) {
        let is_folder = put.entry.kind == Kind::Dir;
        let leads_elsewhere = |at: &Folder| at.written.is_within(&path) || at.real.is_within(&path);
        let touches = self.folder.as_ref().is_some_and(leads_elsewhere);
        let old = self.puts.insert(path.clone(), put);
        let was_folder = old.as_ref().is_some_and(|old| old.entry.kind == Kind::Dir);
        // A folder where none was named changes the way of nothing.
        if touches && (!is_folder || (old.is_some() && !was_folder)) {
            self.folder = None;
        }
        if was_folder && !is_folder {
            // No name sorts before this one, so the range begins at the folder's first entry.
            let inside = self.puts.range(path.join(b"\x01")..);
            let inside: Vec<TreePath> = inside
                .map(|(below, _)| below)
                .take_while(|below| below.is_within(&path))
                .cloned()
                .collect();
            for below in inside {
                self.puts.remove(&below);
            }
        }
    }

    fn tied(mut self) -> Result<Collected, InvalidEntry> {
        let puts = std::mem::take(&mut self.puts);
        let mut names: HashMap<u64, (TreePath, u64)> = HashMap::new();
        for (path, put) in &puts {
            names.entry(put.inode).or_insert_with(|| (path.clone(), 0)).1 += 1;
        }
        let mut groups: HashMap<u64, LinkGroup> = HashMap::new();
        let mut inodes: HashMap<TreePath, u64> = HashMap::new();
        let mut changes = Changes::default();
        for (path, Put { mut entry, inode }) in puts {
            if names.get(&inode).is_some_and(|(_, count)| *count > 1) {
                let next = u64::try_from(groups.len()).unwrap_or(u64::MAX) + 1;
                entry.links = Some(*groups.entry(inode).or_insert(LinkGroup(next)));
            }
            if matches!(entry.kind, Kind::File(_)) {
                inodes.insert(path.clone(), inode);
            }
            changes.0.insert(path, Change::Put(entry));
        }
        self.removals(&mut changes)?;
        let toc = toc::encode(&changes);
        let layer = toc::layer_id(&toc);
        for (path, change) in &mut changes.0 {
            if let Change::Put(Entry { kind: Kind::File(body), .. }) = change
                && let Some(inode) = inodes.get(path)
            {
                let first = names.get(inode).map_or(path, |(first, _)| first).clone();
                let here = || Origin::Layer { layer, path: first };
                body.origin = self.origins.get(inode).cloned().unwrap_or_else(here);
            }
        }
        Ok(Collected { changes, layer, toc })
    }

    fn removals(&self, changes: &mut Changes) -> Result<(), InvalidEntry> {
        for folder in &self.opaque {
            let entry = match changes.0.remove(folder) {
                None => Entry::folder(0o755, (0, 0), UnixTime::default()),
                Some(Change::Put(entry) | Change::Replace(entry)) if entry.kind == Kind::Dir => {
                    entry
                }
                Some(_) => {
                    let reason = "it is opaque, and not a folder";
                    return Err(InvalidEntry { name: folder.to_string(), reason });
                }
            };
            changes.0.insert(folder.clone(), Change::Replace(entry));
        }
        for path in &self.whiteouts {
            let change = match changes.0.remove(path) {
                Some(Change::Put(entry)) if entry.kind == Kind::Dir => Change::Replace(entry),
                Some(change) => change,
                None if has_below(changes, path) => {
                    Change::Replace(Entry::folder(0o755, (0, 0), UnixTime::default()))
                }
                None => Change::Remove,
            };
            changes.0.insert(path.clone(), change);
        }
        Ok(())
    }
}

fn has_below(changes: &Changes, path: &TreePath) -> bool {
    let mut after = changes.0.range(path.join(b"\x01")..);
    after.next().is_some_and(|(below, _)| below.is_within(path))
}

/// The folders that entries of a layer lie in and that the layer itself does not have, parents before children; the root
/// is not among them.
pub fn missing_parents(changes: &Changes) -> Vec<TreePath> {
    let mut missing: HashSet<TreePath> = HashSet::new();
    let mut before: &[u8] = b"";
    for path in changes.0.keys() {
        // Most lie in the same folder as the one before.
        let cut = path.as_bytes().iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let folder = path.as_bytes().get(..cut).unwrap_or_default();
        if folder == std::mem::replace(&mut before, folder) {
            continue;
        }
        let mut above = path.parent();
        while let Some(folder) = above {
            if folder.is_root() || missing.contains(&folder) || changes.0.contains_key(&folder) {
                break;
            }
            above = folder.parent();
            missing.insert(folder);
        }
    }
    let mut missing: Vec<TreePath> = missing.into_iter().collect();
    missing.sort();
    missing
}
