//! What a step reads of an input, named by its content: steps that read the same share a key, whatever else changed.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use dcbuild_model::{Encoder, Selection, SelectionDigest, SelectionForm, TreePath};

use crate::change_digest::encode_entry;
use crate::source::{self, Filter, Match, Role, SourceError};
use crate::tree::LastLink;
use crate::{Entry, Kind, LinkGroup, TimeForm, Tree};

/// Why nothing could be selected.
pub type SelectError = SourceError;

/// Names what a selection sees of a tree; times do not count, and neither does where it lies.
///
/// In the COPY form it is what COPY would make of it: the names of files, all below folders, and the name of a folder
/// or its own mode not at all, as only what it holds is copied.
pub fn select(tree: &Tree, selection: &Selection) -> Result<SelectionDigest, SelectError> {
    let mut encoder = Encoder::new("selection/1");
    match selection.form {
        SelectionForm::Copy => {
            encoder.variant("copy");
            let sources = matches(tree, selection)?;
            encoder.list(sources.iter(), |encoder, matches| {
                encoder.list(matches.iter(), encode_match);
            });
        }
        SelectionForm::Mount => {
            encoder.variant("mount");
            let (top, entry) = mounted(tree, selection)?;
            let below: Vec<_> = tree.walk_from(&top).collect();
            let groups = numbers(below.iter().map(|(_, entry)| *entry));
            encode_entry(&mut encoder, entry, TimeForm::Ignored);
            encoder.list(below.into_iter(), |encoder, (path, entry)| {
                encoder.bytes(path.as_bytes().get(top.as_bytes().len()..).unwrap_or_default());
                encode_entry(encoder, entry, TimeForm::Ignored);
                encoder.option(group(entry, &groups), Encoder::number);
            });
        }
    }
    Ok(SelectionDigest(encoder.finish()))
}

/// The regular files that a selection reads: what must be hashed and sent. Contents do not count, so that it can be
/// asked of a listing that was not hashed yet. Each is named once, in order.
pub fn selected_files(tree: &Tree, selection: &Selection) -> Result<Vec<TreePath>, SelectError> {
    let mut files = Vec::new();
    match selection.form {
        SelectionForm::Copy => {
            for found in matches(tree, selection)?.into_iter().flatten() {
                for item in found.items.iter().filter(|item| is_file(item.entry)) {
                    files.push(found.path.below(&item.path));
                }
                if is_file(found.entry) {
                    files.push(found.path);
                }
            }
        }
        SelectionForm::Mount => {
            let (top, entry) = mounted(tree, selection)?;
            let inside = tree.walk_from(&top).filter(|(_, entry)| is_file(entry));
            files.extend(inside.map(|(path, _)| path));
            if is_file(entry) {
                files.push(top);
            }
        }
    }
    files.sort_unstable();
    files.dedup();
    Ok(files)
}

fn is_file(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::File(_))
}

fn matches<'t>(tree: &'t Tree, selection: &Selection) -> Result<Vec<Vec<Match<'t>>>, SelectError> {
    let filter = Filter::new(&selection.exclude, selection.parents)?;
    selection.sources.iter().map(|source| source::find(tree, source, &filter)).collect()
}

fn mounted<'t>(
    tree: &'t Tree,
    selection: &Selection,
) -> Result<(TreePath, &'t Entry), SelectError> {
    let source = selection.sources.first().map_or("", String::as_str);
    // A mount shows where a link leads: the digest must too.
    let path = tree.resolve(source.as_bytes(), LastLink::Follow)?;
    match tree.get(&path) {
        Some(entry) => Ok((path, entry)),
        None => Err(SourceError::NotFound { path }),
    }
}

fn encode_match(encoder: &mut Encoder, found: &Match<'_>) {
    if found.entry.is_dir() {
        encoder.variant("folder");
    } else {
        encoder.bytes(&found.name);
        encode_entry(encoder, found.entry, TimeForm::Ignored);
    }
    let groups = numbers(found.items.iter().map(|item| item.entry));
    encoder.list(found.items.iter(), |encoder, item| {
        encoder.bytes(item.path.as_bytes());
        encoder.flag(item.role == Role::Wanted);
        encode_entry(encoder, item.entry, TimeForm::Ignored);
        encoder.option(group(item.entry, &groups), Encoder::number);
    });
}

/// The groups with more than one name here, numbered in the order in which they are met.
fn numbers<'t>(entries: impl Iterator<Item = &'t Entry>) -> HashMap<LinkGroup, (u64, u64)> {
    let mut groups: HashMap<LinkGroup, (u64, u64)> = HashMap::new();
    for group in entries.filter_map(|entry| entry.links) {
        let next = u64::try_from(groups.len()).unwrap_or(u64::MAX);
        groups.entry(group).or_insert((next, 0)).1 += 1;
    }
    groups.retain(|_, (_, names)| *names > 1);
    groups
}

fn group(entry: &Entry, groups: &HashMap<LinkGroup, (u64, u64)>) -> Option<u64> {
    entry.links.and_then(|group| groups.get(&group)).map(|(number, _)| *number)
}
