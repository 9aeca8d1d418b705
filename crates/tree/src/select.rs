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
    Selected::find(tree, selection).map(|selected| selected.digest())
}

/// What a selection sees of a tree. To find it, contents do not count: it can be asked of what was not hashed yet.
#[derive(Debug)]
pub struct Selected<'t>(Form<'t>);

#[derive(Debug)]
enum Form<'t> {
    /// What each source names.
    Copy(Vec<Vec<Match<'t>>>),
    /// One path, and what lies below it.
    Mount { top: TreePath, entry: &'t Entry, below: Vec<(TreePath, &'t Entry)> },
}

/// A regular file of a selection.
#[derive(Clone, Copy, Debug)]
pub struct SelectedFile<'s, 't> {
    top: &'s TreePath,
    /// Its path below that.
    rest: Option<&'s TreePath>,
    /// The file.
    pub entry: &'t Entry,
}

impl SelectedFile<'_, '_> {
    /// Its path from the tree's root.
    pub fn path(&self) -> TreePath {
        self.rest.map_or_else(|| self.top.clone(), |rest| self.top.below(rest))
    }
}

impl<'t> Selected<'t> {
    /// Looks a selection up in a tree.
    pub fn find(tree: &'t Tree, selection: &Selection) -> Result<Selected<'t>, SelectError> {
        let form = match selection.form {
            SelectionForm::Copy => Form::Copy(matches(tree, selection)?),
            SelectionForm::Mount => {
                let (top, entry) = mounted(tree, selection)?;
                let below = tree.walk_from(&top).collect();
                Form::Mount { top, entry, below }
            }
        };
        Ok(Selected(form))
    }

    /// Shows each regular file: what must be hashed and sent. They come in no order, and one that several sources name
    /// comes more than once.
    pub fn each_file<'s>(&'s self, mut see: impl FnMut(SelectedFile<'s, 't>)) {
        let mut see = |top: &'s TreePath, rest: Option<&'s TreePath>, entry: &'t Entry| {
            if matches!(entry.kind, Kind::File(_)) {
                see(SelectedFile { top, rest, entry });
            }
        };
        match &self.0 {
            Form::Copy(sources) => {
                for found in sources.iter().flatten() {
                    see(&found.path, None, found.entry);
                    for item in &found.items {
                        see(&found.path, Some(&item.path), item.entry);
                    }
                }
            }
            Form::Mount { top, entry, below } => {
                see(top, None, entry);
                for (path, entry) in below {
                    see(path, None, entry);
                }
            }
        }
    }

    /// Its name; see [`select`].
    pub fn digest(&self) -> SelectionDigest {
        let mut encoder = Encoder::new("selection/1");
        match &self.0 {
            Form::Copy(sources) => {
                encoder.variant("copy");
                encoder.list(sources.iter(), |encoder, matches| {
                    encoder.list(matches.iter(), encode_match);
                });
            }
            Form::Mount { top, entry, below } => {
                encoder.variant("mount");
                let groups = numbers(below.iter().map(|(_, entry)| *entry));
                encode_entry(&mut encoder, entry, TimeForm::Ignored);
                encoder.list(below.iter(), |encoder, (path, entry)| {
                    encoder.bytes(path.as_bytes().get(top.as_bytes().len()..).unwrap_or_default());
                    encode_entry(encoder, entry, TimeForm::Ignored);
                    encoder.option(group(entry, &groups), Encoder::number);
                });
            }
        }
        SelectionDigest(encoder.finish())
    }
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
