//! The cutting rule: which contents lie in a pack together.
//!
//! A content belongs to the folder that holds all of its names, and so to one folder only. A folder with enough below it
//! is packed by itself; one with little hands it to the folder above as one group, which stays together from then on.
//! What is too much for one pack is split by the bits of the digests. A large file is a pack of its own, and an empty one
//! is in none.
//!
//! No name has a say in it: whatever is renamed stays in its packs. A file that changes changes its group, and that the
//! one pack that the group is in, or two if it moves; all else stays, unless a folder comes to have enough or too little.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use dcbuild_model::{ContentDigest, TreePath};
use dcbuild_tree::{Change, Changes, Kind};

use crate::pack::{Pack, PackedFile};

/// Files from here up are packs of their own.
pub const ALONE_BYTES: u64 = 512 << 10;
/// More than this is not in one pack, unless it is one file.
pub const PACK_BYTES_MAX: u64 = 1 << 20;
/// More files than this are not in one pack.
pub const PACK_FILES_MAX: usize = 512;
/// A folder with so many bytes below it is packed by itself,
pub const FOLDER_BYTES: u64 = 256 << 10;
/// and so is one with so many files.
pub const FOLDER_FILES: usize = 128;

const _: () = assert!(
    ALONE_BYTES <= PACK_BYTES_MAX
        && FOLDER_BYTES <= PACK_BYTES_MAX
        && FOLDER_FILES <= PACK_FILES_MAX,
    "each group fits into a pack"
);

/// Contents that stay together.
struct Group {
    /// The smallest of its contents; no two groups share one.
    key: ContentDigest,
    files: Vec<PackedFile>,
    bytes: u64,
}

/// Groups that wait for a pack.
#[derive(Default)]
struct Pool {
    groups: Vec<Group>,
    files: usize,
    bytes: u64,
}

impl Pool {
    fn add(&mut self, group: Group) {
        self.files += group.files.len();
        self.bytes += group.bytes;
        self.groups.push(group);
    }

    fn is_enough(&self) -> bool {
        self.bytes >= FOLDER_BYTES || self.files >= FOLDER_FILES
    }

    /// All of it as one group; none if there is nothing.
    fn into_group(self) -> Option<Group> {
        let Pool { groups, files: _, bytes } = self;
        let key = groups.iter().map(|group| group.key).min()?;
        let files = groups.into_iter().flat_map(|group| group.files).collect();
        Some(Group { key, files, bytes })
    }
}

/// Cuts the contents of a tree's files into packs; the ones of neighbouring folders are near each other.
pub fn cut(tree: &Changes) -> Vec<Pack> {
    let mut large = BTreeMap::new();
    let mut homes: HashMap<ContentDigest, (u64, TreePath)> = HashMap::new();
    for (path, change) in &tree.0 {
        let (Change::Put(entry) | Change::Replace(entry)) = change else { continue };
        let Kind::File(body) = &entry.kind else { continue };
        if body.size >= ALONE_BYTES {
            large.insert(body.content, body.size);
        } else if body.size > 0 {
            let folder = path.parent().unwrap_or_default();
            let (_, home) = homes.entry(body.content).or_insert_with(|| (body.size, folder));
            while !path.is_within(home) {
                *home = home.parent().unwrap_or_default();
            }
        }
    }
    let mut pools: BTreeMap<TreePath, Pool> = BTreeMap::new();
    for (content, (size, home)) in homes {
        let files = vec![PackedFile { content, size }];
        pools.entry(home).or_default().add(Group { key: content, files, bytes: size });
    }
    let mut packs = Vec::new();
    // The last folder in order has none below it any more.
    while let Some((folder, pool)) = pools.pop_last() {
        match folder.parent() {
            Some(above) if !pool.is_enough() => {
                if let Some(group) = pool.into_group() {
                    pools.entry(above).or_default().add(group);
                }
            }
            _ => split(pool, &mut packs),
        }
    }
    packs.reverse();
    packs.extend(
        large.into_iter().map(|(content, size)| Pack::of(vec![PackedFile { content, size }])),
    );
    packs
}

/// Halves a pool by one bit of the groups' keys after the other, until each part fits into a pack; one group always does.
fn split(mut pool: Pool, packs: &mut Vec<Pack>) {
    pool.groups.sort_by_key(|group| group.key);
    let mut open = vec![(pool.groups, 0)];
    while let Some((mut groups, bit)) = open.pop() {
        let files: usize = groups.iter().map(|group| group.files.len()).sum();
        let bytes: u64 = groups.iter().map(|group| group.bytes).sum();
        if files > PACK_FILES_MAX || bytes > PACK_BYTES_MAX {
            let ones = groups.split_off(groups.partition_point(|group| !has_bit(&group.key, bit)));
            open.extend([(groups, bit + 1), (ones, bit + 1)]);
        } else if files > 0 {
            packs.push(Pack::of(groups.into_iter().flat_map(|group| group.files).collect()));
        }
    }
}

fn has_bit(content: &ContentDigest, bit: usize) -> bool {
    let byte = content.0.0.get(bit / 8).copied().unwrap_or_default();
    byte >> (7 - bit % 8) & 1 == 1
}
