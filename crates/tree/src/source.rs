//! What the sources of a COPY or ADD mean in a tree: which paths they name, and which entries below those are taken.

use dcbuild_model::TreePath;

use crate::ignore::{Ignore, IgnoreError, Seen, clean};
use crate::pattern::{BadPattern, Pattern, has_wildcard};
use crate::tree::{LastLink, ResolveError};
use crate::{Entry, Kind, Tree};

/// Says why sources name nothing.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SourceError {
    /// There is nothing at a path that was named without a wildcard, or a link leads nowhere.
    #[error("\"{path}\": not found")]
    NotFound {
        /// The path, from the tree's root.
        path: TreePath,
    },
    /// There is nothing at a path, but at one that differs in upper and lower case alone.
    #[error("\"{path}\": not found: there is \"{there}\"")]
    OtherCase {
        /// The path, from the tree's root.
        path: TreePath,
        /// What is there.
        there: TreePath,
    },
    /// A pattern looks for something in what is no folder.
    #[error("\"{path}\": not a directory")]
    NotAFolder {
        /// The path, from the tree's root.
        path: TreePath,
    },
    /// A source of `--parents` names the folder itself from which paths are kept.
    #[error("--parents keeps the path below \"{folder}\", and this source names nothing below it")]
    NoParents {
        /// The folder, from the tree's root.
        folder: TreePath,
    },
    /// A pattern is malformed.
    #[error(transparent)]
    Pattern(#[from] BadPattern),
    /// A pattern of `--exclude` is malformed.
    #[error("invalid --exclude pattern")]
    Exclude(#[source] IgnoreError),
    /// A path is too long or runs in circles.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}

/// Which of the entries below a source are taken.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    exclude: Ignore,
    parents: bool,
}

impl Filter {
    /// Takes the patterns of `--exclude`, and whether `--parents` was given.
    pub fn new(exclude: &[String], parents: bool) -> Result<Filter, SourceError> {
        Ok(Filter { exclude: Ignore::new(exclude).map_err(SourceError::Exclude)?, parents })
    }

    /// What of a source is looked up, and with `--parents` the pattern of what is taken below that.
    fn pivot<'s>(&self, source: &'s str) -> (&'s str, Option<&'s str>) {
        if !self.parents {
            return (source, None);
        }
        let (folder, pattern) = source.split_once("/./").unwrap_or(("/", source));
        (folder, Some(pattern))
    }
}

/// One path that a source names.
#[derive(Clone, Debug)]
pub struct Match<'t> {
    /// The name as it was matched, before links were followed: what a file is called in a destination folder.
    pub name: Vec<u8>,
    /// Where it leads, links followed.
    pub path: TreePath,
    /// What is there: never a symbolic link.
    pub entry: &'t Entry,
    /// What it holds, where it is a folder: paths relative to it, folders first.
    pub items: Vec<Item<'t>>,
}

/// One entry below a source folder.
#[derive(Clone, Debug)]
pub struct Item<'t> {
    /// The path below the source.
    pub path: TreePath,
    /// The entry.
    pub entry: &'t Entry,
    /// Why it is here.
    pub role: Role,
}

/// Why an entry below a source is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It was asked for.
    Wanted,
    /// Something below it was, and the folder was not there before: it keeps the owner that it finds.
    Above,
}

/// Finds what one source of a COPY or ADD names, in the order in which it is copied.
///
/// A plain path must exist; a pattern may match nothing, but the folder in which it looks must be there: a pattern whose
/// first part has a wildcard looks in the root. A link that is matched must lead somewhere.
pub fn find<'t>(
    tree: &'t Tree,
    source: &str,
    filter: &Filter,
) -> Result<Vec<Match<'t>>, SourceError> {
    let (folder, pattern) = filter.pivot(source);
    let include = pattern.map(relative);
    let mut found = Vec::new();
    for (name, written) in expand(tree, folder)? {
        let path = tree.resolve(&written, LastLink::Follow)?;
        let Some(entry) = tree.get(&path) else {
            return Err(missing(tree, &written));
        };
        let items = match &include {
            Some(pattern) => included(tree, &path, pattern, filter)?,
            None => below(tree, &path, &Ignore::default(), &filter.exclude),
        };
        found.push(Match { name, path, entry, items });
    }
    Ok(found)
}

/// The folder in which a source with wildcards looks: it must be there, also where nothing in it matches.
pub fn looks_in(
    tree: &Tree,
    source: &str,
    filter: &Filter,
) -> Result<Option<TreePath>, SourceError> {
    let (folder, _) = filter.pivot(source);
    let whole = relative(folder);
    let Written { fixed, open } = Written::read(&whole);
    if open.is_empty() { Ok(None) } else { folder_of(tree, &fixed.join(&b'/')).map(Some) }
}

/// The names of a source.
struct Written<'s> {
    /// Those before the first with a wildcard.
    fixed: Vec<&'s [u8]>,
    open: Vec<&'s [u8]>,
}

impl Written<'_> {
    fn read(source: &[u8]) -> Written<'_> {
        let mut fixed: Vec<&[u8]> =
            source.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let literal = fixed.iter().take_while(|name| !has_wildcard(name)).count();
        let open = fixed.split_off(literal);
        Written { fixed, open }
    }
}

/// Finds a folder that must be there.
fn folder_of(tree: &Tree, base: &[u8]) -> Result<TreePath, SourceError> {
    let folder = tree.resolve(base, LastLink::Follow)?;
    match tree.get(&folder) {
        Some(entry) if entry.is_dir() => Ok(folder),
        _ if folder.is_root() => Ok(folder),
        Some(_) => Err(SourceError::NotAFolder { path: tidy(base)? }),
        None => Err(missing(tree, base)),
    }
}

/// The entries that a `--parents` pattern takes below its pivot.
fn included<'t>(
    tree: &'t Tree,
    pivot: &TreePath,
    pattern: &[u8],
    filter: &Filter,
) -> Result<Vec<Item<'t>>, SourceError> {
    Pattern::parse(pattern)?;
    if pattern.is_empty() {
        return Err(SourceError::NoParents { folder: pivot.clone() });
    }
    let mut written = pivot.as_bytes().to_vec();
    written.push(b'/');
    written.extend_from_slice(pattern);
    let plain = !has_wildcard(pattern);
    if plain && tree.get(&tree.resolve(&written, LastLink::Follow)?).is_none() {
        return Err(missing(tree, &written));
    }
    let include = Ignore::new([pattern]).map_err(SourceError::Exclude)?;
    Ok(below(tree, pivot, &include, &filter.exclude))
}

/// A last name, and the path with it.
type Named = (Vec<u8>, Vec<u8>);

/// Every path that a source may mean, with its last name.
fn expand(tree: &Tree, source: &str) -> Result<Vec<Named>, SourceError> {
    let whole = relative(source);
    let Written { fixed, open } = Written::read(&whole);
    let base = fixed.join(&b'/');
    if open.is_empty() {
        return Ok(vec![(fixed.last().map(|name| name.to_vec()).unwrap_or_default(), base)]);
    }
    Pattern::parse(&whole)?;
    let levels: Vec<Pattern> =
        open.iter().map(|name| Pattern::parse(name)).collect::<Result<_, _>>()?;
    let mut folders = vec![folder_of(tree, &base)?];
    let mut matches = Vec::new();
    for (level, pattern) in levels.iter().enumerate() {
        let last = level + 1 == levels.len();
        let mut next = Vec::new();
        for folder in &folders {
            for (name, entry) in tree.names(folder).filter(|(name, _)| pattern.matches(name)) {
                if last {
                    matches.push((name.to_vec(), folder.join(name).as_bytes().to_vec()));
                } else if entry.is_dir() {
                    next.push(folder.join(name));
                }
            }
        }
        folders = next;
    }
    Ok(matches)
}

/// The entries below a folder that are taken: what `include` matches (all, where it is empty) but `exclude` does not,
/// and the folders above those.
fn below<'t>(tree: &'t Tree, top: &TreePath, include: &Ignore, exclude: &Ignore) -> Vec<Item<'t>> {
    let mut items: Vec<Item<'t>> = Vec::new();
    // Folders above the current one that are taken only when something in them is.
    let mut waiting: Vec<Item<'t>> = Vec::new();
    let mut levels =
        vec![Level::open(tree, top, TreePath::root(), (Seen::default(), Seen::default()), 0)];
    while let Some(level) = levels.last_mut() {
        let Some((name, entry)) = level.entries.next() else {
            waiting.truncate(level.waiting);
            levels.pop();
            continue;
        };
        if matches!(entry.kind, Kind::Socket) {
            continue;
        }
        let path = level.relative.join(name);
        let (included, seen_in) = include.matches_below(path.as_bytes(), &level.seen.0);
        let (excluded, seen_out) = exclude.matches_below(path.as_bytes(), &level.seen.1);
        let wanted = (included || include.is_empty()) && !excluded;
        // Below a `--parents` pattern, a folder that exists keeps its owner just as those above it do.
        let role = if wanted && (include.is_empty() || !entry.is_dir()) {
            Role::Wanted
        } else {
            Role::Above
        };
        let depth = waiting.len();
        let inside = (entry.is_dir() && !(excluded && exclude.skips_whole(path.as_bytes())))
            .then(|| (level.folder.join(name), path.clone()));
        let item = Item { path, entry, role };
        if wanted {
            items.append(&mut waiting);
            items.push(item);
        } else if entry.is_dir() {
            waiting.push(item);
        }
        match inside {
            Some((folder, relative)) => {
                levels.push(Level::open(tree, &folder, relative, (seen_in, seen_out), depth));
            }
            None => waiting.truncate(depth),
        }
    }
    items
}

struct Level<'t> {
    folder: TreePath,
    /// The folder's path below the source.
    relative: TreePath,
    entries: Box<dyn Iterator<Item = (&'t [u8], &'t Entry)> + 't>,
    /// What the include and the exclude patterns have matched so far.
    seen: (Seen, Seen),
    /// How many folders were waiting before this one.
    waiting: usize,
}

impl<'t> Level<'t> {
    fn open(
        tree: &'t Tree,
        folder: &TreePath,
        relative: TreePath,
        seen: (Seen, Seen),
        waiting: usize,
    ) -> Level<'t> {
        let entries = Box::new(tree.names(folder));
        Level { folder: folder.clone(), relative, entries, seen, waiting }
    }
}

/// A source's path from the root, without the slash in front.
fn relative(source: &str) -> Vec<u8> {
    clean(format!("/{source}").as_bytes()).split_off(1)
}

fn tidy(path: &[u8]) -> Result<TreePath, SourceError> {
    TreePath::clean(path).map_err(|invalid| SourceError::Resolve(invalid.into()))
}

/// Says that there is nothing at a path, and what there is instead.
fn missing(tree: &Tree, written: &[u8]) -> SourceError {
    match tidy(written) {
        Err(error) => error,
        Ok(path) => match in_other_case(tree, &path) {
            // A link that leads nowhere is there itself.
            Some(there) if there != path => SourceError::OtherCase { path, there },
            _ => SourceError::NotFound { path },
        },
    }
}

/// What a path names where upper and lower case do not count.
fn in_other_case(tree: &Tree, path: &TreePath) -> Option<TreePath> {
    let lower = |name: &[u8]| String::from_utf8_lossy(name).to_lowercase();
    path.names().try_fold(TreePath::root(), |folder, name| {
        let whole = folder.join(name);
        if tree.get(&whole).is_some() {
            return Some(whole);
        }
        let alike = tree.names(&folder).find(|(there, _)| lower(there) == lower(name));
        alike.map(|(there, _)| folder.join(there))
    })
}
