//! The folders of builds in this process, each listed once and each file of it hashed once, whoever asks.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dcbuild_model::{BuildId, Fault, Selection, SelectionDigest, TreePath, UnixTime};
use dcbuild_tree::{Ignore, SelectError, Tree};

use crate::hash::not_selected;
use crate::{Context, ContextReader, HashError, Listing, OpenError, ScanError, StatCache, hash};

/// Says why a part of a folder could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The folder could not be listed.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// Its files could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
}

impl LocalError {
    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        match self {
            LocalError::Scan(error) => error.fault(),
            LocalError::Hash(error) => error.fault(),
        }
    }

    /// What could help.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            LocalError::Scan(error) => error.hint(),
            LocalError::Hash(error) => error.hint(),
        }
    }
}

/// What a selection sees, and the tree that holds it, once somebody asked for it: its files, and all folders and links.
struct Seen {
    digest: SelectionDigest,
    tree: Option<Arc<Tree>>,
}

struct State {
    listing: Option<Listing>,
    cache: Option<StatCache>,
    seen: BTreeMap<Selection, Seen>,
}

/// A folder of one build: listed when first asked, hashed as far as it was asked.
pub struct LocalContext {
    context: Context,
    ignore: Ignore,
    stat_cache: PathBuf,
    now: UnixTime,
    state: Mutex<State>,
}

impl std::fmt::Debug for LocalContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalContext({})", self.context.root().display())
    }
}

impl LocalContext {
    /// Opens a folder; `now` is the time of the build's start, and files that change after it are hashed anew by the
    /// next build. The context's own index is the one that origins in its trees carry.
    pub fn new(context: Context, ignore: Ignore, stat_cache: &Path, now: UnixTime) -> LocalContext {
        let state = State { listing: None, cache: None, seen: BTreeMap::new() };
        let stat_cache = stat_cache.into();
        LocalContext { context, ignore, stat_cache, now, state: Mutex::new(state) }
    }

    /// Opens a folder by its path.
    pub fn open_folder(
        root: &Path,
        ignore: Ignore,
        stat_cache: &Path,
        index: u32,
        now: UnixTime,
    ) -> Result<LocalContext, OpenError> {
        Ok(LocalContext::new(Context::open(root, index)?, ignore, stat_cache, now))
    }

    /// The folder.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Names what a selection sees; blocks while files are hashed.
    pub fn select(&self, selection: &Selection) -> Result<SelectionDigest, LocalError> {
        self.seen(&mut self.lock(), selection).map(|seen| seen.digest)
    }

    /// All folders and links, and the files that a selection asks for; blocks while they are hashed.
    pub fn tree(&self, selection: &Selection) -> Result<Arc<Tree>, LocalError> {
        let mut state = self.lock();
        if let Some(tree) = &self.seen(&mut state, selection)?.tree {
            return Ok(tree.clone());
        }
        let (listing, _) = self.listed_in(&mut state)?;
        let tree = listing.selected(selection);
        let tree = Arc::new(tree.map_err(|source| not_selected(selection, source))?);
        if let Some(seen) = state.seen.get_mut(selection) {
            seen.tree = Some(tree.clone());
        }
        Ok(tree)
    }

    /// Opens one file from its first byte on.
    pub fn open(&self, path: &TreePath) -> io::Result<File> {
        self.reader().open(path)
    }

    /// Opens files later.
    pub fn reader(&self) -> ContextReader {
        self.context.reader()
    }

    /// How many entries the folder holds, and the bytes of its files, once it was listed.
    pub fn size(&self) -> Option<(usize, u64)> {
        let state = self.lock();
        state.listing.as_ref().map(|listing| (listing.len(), listing.bytes()))
    }

    /// How many entries the folder holds, and the bytes of its files; lists it if nobody did so far.
    pub fn listed(&self) -> Result<(usize, u64), LocalError> {
        let mut state = self.lock();
        let (listing, _) = self.listed_in(&mut state)?;
        Ok((listing.len(), listing.bytes()))
    }

    /// Remembers the hashes for the next build.
    pub fn save(&self) -> io::Result<()> {
        match &mut *self.lock() {
            State { listing: Some(listing), cache: Some(cache), .. } => cache.save(listing),
            State { .. } => Ok(()),
        }
    }

    /// Forgets what was listed, and the hash of one file that is not what it was: whoever asks next looks again.
    pub fn forget(&self, path: &TreePath) {
        let mut state = self.lock();
        state.listing = None;
        state.seen.clear();
        if let Some(cache) = &mut state.cache {
            cache.remove(path);
        }
    }

    /// Tells what is not there from what the ignore file hides, which is a common surprise.
    fn explained(&self, error: HashError) -> HashError {
        let HashError::Select { sources, source: SelectError::NotFound { path } } = &error else {
            return error;
        };
        let on_disk = path.names().fold(self.context.root().to_owned(), |folder, name| {
            folder.join(OsStr::from_bytes(name))
        });
        let (sources, path) = (sources.clone(), path.clone());
        match on_disk.symlink_metadata() {
            Ok(it) if it.is_symlink() => {
                let target = std::fs::read_link(&on_disk).unwrap_or_default();
                HashError::Dangling { sources, path, target }
            }
            Ok(_) => HashError::Ignored { sources, path },
            Err(_) => error,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists the folder if nobody did so far.
    fn listed_in<'s>(
        &self,
        state: &'s mut State,
    ) -> Result<(&'s mut Listing, &'s mut StatCache), ScanError> {
        let State { listing, cache, .. } = state;
        let cache = cache.get_or_insert_with(|| StatCache::load(&self.stat_cache, &self.context));
        let listing = match listing {
            Some(listing) => listing,
            None => listing.insert(self.context.scan(&self.ignore, cache, self.now)?),
        };
        Ok((listing, cache))
    }

    fn seen<'s>(
        &self,
        state: &'s mut State,
        selection: &Selection,
    ) -> Result<&'s Seen, LocalError> {
        if !state.seen.contains_key(selection) {
            let (listing, cache) = self.listed_in(state)?;
            let hashed = hash(&self.context, listing, std::slice::from_ref(selection), cache)
                .map_err(|error| self.explained(error))?;
            let digest = hashed.selections.first().copied();
            let digest = digest.expect("each selection given has a digest");
            state.seen.insert(selection.clone(), Seen { digest, tree: None });
        }
        Ok(state.seen.get(selection).expect("it was put there just now, if not before"))
    }
}

impl Drop for LocalContext {
    fn drop(&mut self) {
        // What was not remembered costs time and nothing else.
        drop(self.save());
    }
}

/// The folders of the builds in this process, by their names.
#[derive(Debug, Default)]
pub struct LocalContexts {
    builds: Mutex<HashMap<BuildId, BTreeMap<String, Arc<LocalContext>>>>,
}

impl LocalContexts {
    /// None yet.
    pub fn new() -> LocalContexts {
        LocalContexts::default()
    }

    /// Adds a folder to a build.
    pub fn insert(&self, build: BuildId, name: impl Into<String>, context: Arc<LocalContext>) {
        self.lock().entry(build).or_default().insert(name.into(), context);
    }

    /// A folder of a build.
    pub fn get(&self, build: BuildId, name: &str) -> Option<Arc<LocalContext>> {
        self.lock().get(&build)?.get(name).cloned()
    }

    /// Forgets a build's folders.
    pub fn remove(&self, build: BuildId) {
        let removed = self.lock().remove(&build);
        // The last owner saves hashes: not under the lock.
        drop(removed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BuildId, BTreeMap<String, Arc<LocalContext>>>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use dcbuild_model::SelectionForm;

    use super::*;

    #[test]
    fn a_file_is_hashed_once_though_two_selections_want_it() {
        let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("a"), "one").unwrap();
        let now = UnixTime { secs: 4_000_000_000, nanos: 0 };
        let ignore = Ignore::parse(b"").unwrap();
        let local = LocalContext::open_folder(folder.path(), ignore, cache.path(), 0, now).unwrap();
        let selection = |sources: &[&str]| Selection {
            form: SelectionForm::Copy,
            sources: sources.iter().map(|text| (*text).into()).collect(),
            exclude: vec![],
            parents: false,
        };
        let first = local.select(&selection(&["a"])).unwrap();
        // Its content changes where neither size nor time shows it: whoever reads again would see it.
        let path = folder.path().join("a");
        let stat = std::fs::metadata(&path).unwrap();
        std::fs::write(&path, "two").unwrap();
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(stat.modified().unwrap())
            .unwrap();
        assert_eq!(local.select(&selection(&["a"])).unwrap(), first);
        assert_eq!(local.tree(&selection(&["a"])).unwrap().len(), 1);
        let missing = local.select(&selection(&["missing"])).unwrap_err();
        assert!(!missing.to_string().contains("ignore"), "{missing}");
        std::fs::write(folder.path().join("hidden"), "x").unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("link")).unwrap();
        let ignore = Ignore::parse(b"hid*").unwrap();
        let other = LocalContext::open_folder(folder.path(), ignore, cache.path(), 0, now).unwrap();
        let hidden = other.select(&selection(&["hidden"])).unwrap_err();
        assert_eq!(
            hidden.to_string(),
            "could not select hidden from the context: \"/hidden\": not found: .dockerignore leaves it out"
        );
        let dangling = other.select(&selection(&["link"])).unwrap_err();
        assert_eq!(
            dangling.to_string(),
            "could not select link from the context: \"/link\": not found: it is a link to nowhere, which is not there"
        );

        local.forget(&TreePath::clean(b"a").unwrap());
        assert_ne!(local.select(&selection(&["a"])).unwrap(), first);

        let contexts = LocalContexts::new();
        let build = BuildId::from_bits(1);
        contexts.insert(build, "context", Arc::new(local));
        assert!(contexts.get(build, "context").is_some());
        contexts.remove(build);
        assert!(contexts.get(build, "context").is_none());
    }
}
