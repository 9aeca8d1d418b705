//! Unpacking an archive into a folder, as ADD does: member by member, as a program would that is locked into the folder.

use std::collections::{BTreeSet, HashMap};

use dcbuild_model::{TreePath, UnixTime};

use super::CopyError;
use super::lay::Copier;
use crate::tree::LastLink;
use crate::{Archive, Entry, Kind, LinkGroup, Member, Meta};

impl Copier {
    /// Unpacks an archive below a destination, which is a folder however it is written.
    ///
    /// Links are followed as if the destination were the root, those of the archive like those that were there. Owners
    /// change with `--chown`; `--chmod` touches nothing here, not even new folders. What the archive says of its own
    /// top folder does not count.
    pub(super) fn unpack(&mut self, dest: &str, archive: &Archive) -> Result<(), CopyError> {
        let mode = self.take_mode();
        let unpacked = self.unpack_unmoded(dest, archive);
        self.give_mode(mode);
        unpacked
    }

    fn unpack_unmoded(&mut self, dest: &str, archive: &Archive) -> Result<(), CopyError> {
        let top = self.target(dest)?;
        self.make_folders(&top)?;
        let mut unpacking = Unpacking {
            copier: self,
            top,
            files: HashMap::new(),
            filled: BTreeSet::new(),
            folders: Vec::new(),
        };
        for (path, member) in archive.0.iter().filter(|(path, _)| !path.is_root()) {
            unpacking.member(path, member)?;
        }
        unpacking.settle()
    }
}

/// An archive half unpacked.
struct Unpacking<'c> {
    copier: &'c mut Copier,
    top: TreePath,
    /// The files to which this archive has given more names.
    files: HashMap<LinkGroup, Named>,
    /// Folders in which something was put.
    filled: BTreeSet<TreePath>,
    /// The folders that the archive names, and the times that it gives them.
    folders: Vec<(TreePath, UnixTime)>,
}

/// A file with several names.
struct Named {
    names: Vec<TreePath>,
    /// What was said of it last.
    meta: Meta,
}

impl Unpacking<'_> {
    fn member(&mut self, path: &TreePath, member: &Member) -> Result<(), CopyError> {
        let place = self.place(path)?;
        let was_folder = self.is_folder(&place) == Some(true);
        match member {
            Member::Put(entry) => {
                self.make_room(path, &place)?;
                if entry.is_dir() {
                    self.folders.push((path.clone(), entry.meta.mtime));
                }
                let entry = Entry { meta: self.owned(&entry.meta), ..entry.clone() };
                let is_folder = entry.is_dir();
                self.copier.put(&place, entry);
                if is_folder && was_folder {
                    return Ok(());
                }
            }
            Member::Link { to, meta } => {
                let target = self.place(to)?;
                if target == place && self.is_folder(&target) == Some(false) {
                    return Ok(());
                }
                self.make_room(path, &place)?;
                self.link((path, &place), (to, &target), meta)?;
            }
        }
        self.filled.extend(place.parent());
        Ok(())
    }

    /// Where a member stands, links above its last name followed.
    fn place(&self, path: &TreePath) -> Result<TreePath, CopyError> {
        Ok(self.copier.tree().resolve_in(&self.top, path.as_bytes(), LastLink::Keep)?)
    }

    /// Where a path leads to in the end.
    fn end_of(&self, path: &TreePath) -> Result<TreePath, CopyError> {
        Ok(self.copier.tree().resolve_in(&self.top, path.as_bytes(), LastLink::Follow)?)
    }

    /// Whether a folder stands at a place, where anything does.
    fn is_folder(&self, place: &TreePath) -> Option<bool> {
        self.copier.tree().get(place).map(Entry::is_dir)
    }

    fn owned(&self, meta: &Meta) -> Meta {
        let (uid, gid) = self.copier.owner().unwrap_or((meta.uid, meta.gid));
        Meta { uid, gid, ..meta.clone() }
    }

    /// Makes the folders above a member that nobody has made; one that a link promises must be there.
    fn make_room(&mut self, path: &TreePath, place: &TreePath) -> Result<(), CopyError> {
        let Some(parent) = place.parent() else { return Ok(()) };
        if self.is_folder(&parent) == Some(true) {
            return Ok(());
        }
        let mut above = TreePath::root();
        let folders = path.parent().unwrap_or_default();
        for name in folders.names() {
            above = above.join(name);
            let real = self.end_of(&above)?;
            match self.is_folder(&real) {
                Some(true) => {}
                Some(false) => return Err(CopyError::NotFolder { path: real }),
                None if self.place(&above)? == real => {
                    self.copier.make_folders(&real)?;
                    self.filled.extend(real.parent());
                }
                None => {
                    let entry = String::from_utf8_lossy(path.as_bytes()).into_owned();
                    return Err(CopyError::ArchiveLink { entry });
                }
            }
        }
        Ok(())
    }

    /// Gives a file one more name.
    fn link(
        &mut self,
        (path, place): (&TreePath, &TreePath),
        (to, target): (&TreePath, &TreePath),
        meta: &Meta,
    ) -> Result<(), CopyError> {
        let failed = |reason| CopyError::HardLink { path: path.clone(), to: to.clone(), reason };
        let entry = match self.copier.tree().get(target) {
            Some(entry) if entry.is_dir() => return Err(failed("operation not permitted")),
            // What stood at the new name is gone before, with all below it.
            Some(entry) if !target.is_within(place) => entry.clone(),
            _ => return Err(failed("no such file or directory")),
        };
        let meta = match entry.kind {
            Kind::Symlink(_) => entry.meta.clone(),
            _ => Meta { xattrs: entry.meta.xattrs.clone(), ..self.owned(meta) },
        };
        // A file of the state below leaves the names behind that it has there, as it would on an overlay.
        let group = match entry.links.filter(|group| self.files.contains_key(group)) {
            Some(group) => group,
            None => self.copier.fresh_group(),
        };
        let entry = Entry { links: Some(group), ..entry };
        let copier = &mut *self.copier;
        let file = self.files.entry(group).or_insert_with(|| {
            copier.put(target, entry.clone());
            Named { names: vec![target.clone()], meta: entry.meta.clone() }
        });
        copier.put(place, entry);
        file.names.push(place.clone());
        file.meta = meta;
        Ok(())
    }

    /// What is known in the end only: a file's metadata is what was said last, under each of its names; a folder that was
    /// filled was changed just now, but for one that the archive gives a time.
    fn settle(self) -> Result<(), CopyError> {
        for (group, file) in &self.files {
            for name in &file.names {
                let there = self.copier.tree().get(name);
                let Some(entry) = there.filter(|entry| entry.links == Some(*group)) else {
                    continue;
                };
                if entry.meta != file.meta {
                    let entry = Entry { meta: file.meta.clone(), ..entry.clone() };
                    self.copier.put(name, entry);
                }
            }
        }
        for folder in self.filled.iter().filter(|folder| **folder != self.top) {
            if self.is_folder(folder) == Some(true) {
                self.copier.touch(folder);
            }
        }
        for (path, mtime) in &self.folders {
            // As docker's unpacking ends: whatever took the place of a folder has the folder's time, under all its names.
            let real = self.end_of(path)?;
            let links = self.copier.tree().get(&real).and_then(|entry| entry.links);
            let names = links.and_then(|group| Some((group, self.files.get(&group)?)));
            let Some((group, file)) = names else {
                self.copier.set_mtime(&real, *mtime);
                continue;
            };
            for name in &file.names {
                if self.copier.tree().get(name).is_some_and(|it| it.links == Some(group)) {
                    self.copier.set_mtime(name, *mtime);
                }
            }
        }
        Ok(())
    }
}
