//! A layer's table of contents as bytes: one form for one set of changes, so that its digest names the layer.
//!
//! Version 1: a magic, the number of entries, then each entry in the order of its path. A path is told by how much it
//! shares with the one before. Numbers are LEB128 in their shortest form, times are zigzag. The first name of a
//! hard-link group carries the metadata; later names carry only the group's number, counted from 1 in the order of the
//! first names. A group with one name is no group.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::collections::HashMap;

use dcbuild_model::{Digest, LayerId};

use crate::{Change, Changes, LinkGroup};

pub use read::{DecodeError, decode};
pub use write::encode;

const MAGIC: &[u8; 6] = b"dctoc\x01";

const REMOVE: u8 = 0;
const DIR: u8 = 1;
const OPAQUE_DIR: u8 = 2;
const FILE: u8 = 3;
const SYMLINK: u8 = 4;
const FIFO: u8 = 5;
const SOCKET: u8 = 6;
const CHAR_DEVICE: u8 = 7;
const BLOCK_DEVICE: u8 = 8;
const LATER_NAME: u8 = 9;
/// Set on the kind of an entry that is the first name of a hard-link group.
const FIRST_NAME: u8 = 0x80;

/// Names a layer by the bytes of its table of contents.
pub fn layer_id(toc: &[u8]) -> LayerId {
    LayerId(Digest::of(toc))
}

/// The groups that have more than one name, numbered from 1 in the order of their first names.
pub(crate) fn group_numbers(changes: &Changes) -> HashMap<LinkGroup, u64> {
    let mut counts: HashMap<LinkGroup, u64> = HashMap::new();
    for group in changes.0.values().filter_map(links_of) {
        *counts.entry(group).or_default() += 1;
    }
    let mut numbers = HashMap::new();
    for group in changes.0.values().filter_map(links_of) {
        if counts.get(&group).is_some_and(|count| *count > 1) {
            let next = u64::try_from(numbers.len()).unwrap_or(u64::MAX).saturating_add(1);
            numbers.entry(group).or_insert(next);
        }
    }
    numbers
}

fn links_of(change: &Change) -> Option<LinkGroup> {
    match change {
        Change::Put(entry) if !entry.is_dir() => entry.links,
        Change::Put(_) | Change::Replace(_) | Change::Remove => None,
    }
}
