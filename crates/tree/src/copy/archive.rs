//! Laying the content of an archive into a folder, as ADD does.

use std::collections::HashMap;

use dcbuild_model::TreePath;

use super::CopyError;
use super::lay::Copier;
use crate::tree::LastLink;
use crate::{Change, Changes, Entry, LinkGroup};

impl Copier {
    /// Lays an archive's entries below a destination, which is a folder however it is written.
    ///
    /// Links are followed as if the destination were the root. Owners change with `--chown`; `--chmod` touches
    /// nothing here, not even new folders. What the archive says of its own top folder does not count.
    pub(super) fn unpack(&mut self, dest: &str, archive: &Changes) -> Result<(), CopyError> {
        let mode = self.take_mode();
        let laid = self.unpack_unmoded(dest, archive);
        self.give_mode(mode);
        laid
    }

    fn unpack_unmoded(&mut self, dest: &str, archive: &Changes) -> Result<(), CopyError> {
        let top = self.target(dest)?;
        self.make_folders(&top)?;
        let mut groups: HashMap<LinkGroup, LinkGroup> = HashMap::new();
        let mut below_links = Vec::new();
        for (path, change) in archive.0.iter().filter(|(path, _)| !path.is_root()) {
            match self.unpack_one(&top, (path, change), &mut groups) {
                // What the link leads to may come later in the order of names.
                Err(CopyError::ArchiveLink { .. }) => below_links.push((path, change)),
                done => done?,
            }
        }
        for item in below_links {
            self.unpack_one(&top, item, &mut groups)?;
        }
        // A folder that the archive does not name, but fills, was changed just now.
        for path in archive.0.keys() {
            if let Some(folder) = path.parent().filter(|folder| !folder.is_root())
                && !archive.0.contains_key(&folder)
            {
                let place = self.tree().resolve_in(&top, folder.as_bytes(), LastLink::Follow)?;
                self.touch(&place);
            }
        }
        Ok(())
    }

    fn unpack_one(
        &mut self,
        top: &TreePath,
        (path, change): (&TreePath, &Change),
        groups: &mut HashMap<LinkGroup, LinkGroup>,
    ) -> Result<(), CopyError> {
        let place = self.tree().resolve_in(top, path.as_bytes(), LastLink::Keep)?;
        let (entry, opaque) = match change {
            Change::Remove => {
                self.remove(&place);
                return Ok(());
            }
            Change::Put(entry) => (entry, false),
            Change::Replace(entry) => (entry, true),
        };
        self.make_room(top, path, &place)?;
        let mut entry = entry.clone();
        if let Some(owner) = self.owner() {
            (entry.meta.uid, entry.meta.gid) = owner;
        }
        if let Some(group) = entry.links {
            let fresh = *groups.entry(group).or_insert_with(|| self.fresh_group());
            entry.links = Some(fresh);
        }
        if opaque {
            self.remove(&place);
        }
        self.put(&place, entry);
        Ok(())
    }

    /// Makes the folders that the archive has not named; one that a link promises must be there.
    fn make_room(
        &mut self,
        top: &TreePath,
        path: &TreePath,
        place: &TreePath,
    ) -> Result<(), CopyError> {
        let Some(parent) = place.parent() else { return Ok(()) };
        if self.tree().get(&parent).is_some_and(Entry::is_dir) {
            return Ok(());
        }
        let literal = path.names().fold(top.clone(), |path, name| path.join(name));
        if literal != *place {
            return Err(CopyError::ArchiveLink {
                entry: String::from_utf8_lossy(path.as_bytes()).into_owned(),
            });
        }
        self.make_folders(&parent)
    }
}
