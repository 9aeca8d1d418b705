//! What this worker knows of layers: their tables of contents, merged trees, recipes, snapshots.
//!
//! Everything here blocks; it is called from threads that may.

mod implied;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dcbuild_layer::{ReadContent, missing_parents};
use dcbuild_model::{BlobDigest, LayerId, LayerRef, TreePath};
use dcbuild_remote::peer::Wanted;
use dcbuild_remote::{Peer, Peers};
use dcbuild_snapshot::{Lowers, Snapshot, Snapshots};
use dcbuild_store::{BlobStore, ByteRange, FolderStore, LayerIndex, StoreError, read_bytes};
use dcbuild_tree::{Change, Changes, FileBody, Kind, Origin, Tree, toc};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::base::Base;
use crate::contents::Contents;
use crate::error::{Failed, blocking, story};

/// A larger table of contents is not one of ours: ten million entries are far smaller.
pub(crate) const TOC_BYTES_MAX: u64 = 2 << 30;
/// How many entries of tables stay in memory.
const ENTRIES_KEPT: usize = 3_000_000;
/// How many merged trees stay in memory.
const TREES_KEPT: usize = 64;
/// The pauses before a table that could not be stored is tried again.
const TABLE_PAUSE_FIRST: Duration = Duration::from_millis(100);
const TABLE_PAUSE_MAX: Duration = Duration::from_secs(7);

/// How long a layer is looked for that another worker has made, while nobody says what has become of it, and while it is
/// known to be on its way to the store.
const COMING_MAX: Duration = Duration::from_secs(20);
pub(crate) const SENDING_MAX: Duration = Duration::from_mins(5);
/// So many layers are remembered as being on their way.
const COMING_KEPT: usize = 100_000;
/// The pauses between two looks.
const COMING_PAUSE_FIRST: Duration = Duration::from_millis(5);
const COMING_PAUSE_MAX: Duration = Duration::from_millis(250);

/// A layer that has no bytes of its own yet: its changes, and whence its files come.
pub(crate) struct Recipe {
    pub(crate) layer: LayerId,
    pub(crate) changes: Arc<Changes>,
    /// Gives what lies in a folder of the client, or was unpacked.
    pub(crate) sources: Arc<dyn ReadContent + Send + Sync>,
    /// The layers whose files it takes.
    pub(crate) reads: BTreeSet<LayerId>,
}

impl Recipe {
    pub(crate) fn new(
        layer: LayerId,
        changes: Changes,
        sources: Arc<dyn ReadContent + Send + Sync>,
    ) -> Recipe {
        let reads = changes.0.values().filter_map(read_by).collect();
        Recipe { layer, changes: Arc::new(changes), sources, reads }
    }
}

/// The layer whose file a change takes.
fn read_by(change: &Change) -> Option<LayerId> {
    let (Change::Put(entry) | Change::Replace(entry)) = change else { return None };
    match &entry.kind {
        Kind::File(FileBody { origin: Origin::Layer { layer, .. }, .. }) => Some(*layer),
        _ => None,
    }
}

#[derive(Default)]
struct Known {
    tables: HashMap<LayerId, (Arc<Changes>, u64)>,
    /// The folders that layers have not, though there is something in them; most have none of these.
    implied: HashMap<LayerId, Arc<[TreePath]>>,
    trees: HashMap<Vec<LayerId>, (Tree, u64)>,
    recipes: HashMap<LayerId, Arc<Recipe>>,
    bases: HashMap<LayerId, Base>,
    making: HashMap<LayerId, Arc<Mutex<()>>>,
    /// Tables that lie here and not in the store yet.
    unsent: HashSet<LayerId>,
    /// Layers of other workers that may be on their way to the store.
    coming: HashSet<LayerId>,
    /// Layers that were not to be had though the store claimed to have them.
    doubted: HashSet<LayerId>,
    entries: usize,
    uses: u64,
}

/// What is known of layers, and the snapshots.
pub(crate) struct Layers {
    pub(crate) snapshots: Snapshots,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) index: Arc<dyn LayerIndex>,
    pub(crate) folder: Option<Arc<FolderStore>>,
    near: Option<Arc<FolderStore>>,
    peers: Option<Peers>,
    /// Where large files of other workers lie while they are checked.
    tmp: PathBuf,
    pub(crate) sending_max: Duration,
    pub(crate) handle: Handle,
    known: Mutex<Known>,
}

/// What of a chain a mount can stand on.
pub(crate) enum Standing {
    /// All of it.
    All(Lowers),
    /// All but these layers.
    Lacks(Vec<LayerRef>),
}

/// How the layers of others are brought here.
pub(crate) struct Elsewhere {
    pub(crate) handle: Handle,
    /// A folder for what is brought.
    pub(crate) tmp: PathBuf,
    /// How long a layer is looked for that is on its way: [`SENDING_MAX`].
    pub(crate) sending_max: Duration,
}

/// How a layer is looked for: where the store lacks it, whoever made it may give it.
pub(crate) trait Search {
    /// What is found.
    type Found;

    /// Looks in the store.
    fn find(&self) -> Result<Option<Self::Found>, Failed>;

    /// Takes it from another worker; none if that does not give it.
    fn take(&self, peers: &Peers, peer: Peer) -> Result<Option<Self::Found>, Failed>;
}

impl Layers {
    pub(crate) fn new(
        snapshots: Snapshots,
        parts: &crate::Parts,
        Elsewhere { handle, tmp, sending_max }: Elsewhere,
    ) -> Layers {
        Layers {
            snapshots,
            blobs: parts.blobs.clone(),
            index: parts.layers.clone(),
            folder: parts.folder.clone(),
            near: parts.near.clone(),
            peers: parts.peers.clone(),
            tmp,
            sending_max,
            handle,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a layer's bytes are at hand here, without the store.
    pub(crate) fn holds(&self, layer: &LayerId) -> bool {
        let recipe = self.known().recipes.contains_key(layer);
        recipe || matches!(self.snapshots.find(layer), Ok(Some(_)))
    }

    /// Remembers where the base layers of a chain come from.
    pub(crate) fn learn(&self, chain: &[LayerRef], client: &dcbuild_registry::RegistryClient) {
        let mut known = self.known();
        for layer in chain {
            if let Some(base) = &layer.base {
                let base = Base { layer: base.clone(), client: client.clone() };
                known.bases.insert(layer.layer, base);
            }
        }
    }

    pub(crate) fn base(&self, layer: &LayerId) -> Option<Base> {
        self.known().bases.get(layer).cloned()
    }

    pub(crate) fn recipe(&self, layer: &LayerId) -> Option<Arc<Recipe>> {
        self.known().recipes.get(layer).cloned()
    }

    /// Keeps a recipe, unless it takes files of the very layer that it makes, at once or through others: a copy of all of
    /// a stage is the same layer as the stage. Its bytes are then where that layer has them already.
    pub(crate) fn add_recipe(&self, layer: LayerId, recipe: Recipe) {
        let mut known = self.known();
        if !known.leads_to(&recipe, &layer) {
            known.recipes.insert(layer, Arc::new(recipe));
        }
    }

    /// Which of some layers is made of files of a lost one, and has no bytes of its own: it is lost with that, and what is
    /// known of it here is forgotten.
    pub(crate) fn lost_with(
        &self,
        lost: &LayerId,
        mut among: impl Iterator<Item = LayerId>,
    ) -> Option<LayerId> {
        let mut known = self.known();
        let reads = |known: &Known, layer: &LayerId| {
            known.recipes.get(layer).is_some_and(|recipe| known.leads_to(recipe, lost))
        };
        let found = among.find(|layer| reads(&known, layer))?;
        let recipe = known.recipes.remove(&found);
        drop(known);
        drop(recipe);
        Some(found)
    }

    /// Lets go of a recipe whose layer has bytes of its own now.
    pub(crate) fn drop_recipe(&self, layer: &LayerId) {
        let recipe = self.known().recipes.remove(layer);
        // What it holds open is closed outside the lock.
        drop(recipe);
    }

    /// Remembers which layers may still be on their way to the store.
    pub(crate) fn expect(&self, layers: impl Iterator<Item = LayerId>) {
        let mut known = self.known();
        if known.coming.len() > COMING_KEPT {
            known.coming.clear();
        }
        known.coming.extend(layers);
    }

    /// Remembers that a layer was not to be had, whatever the store says of it.
    pub(crate) fn doubt(&self, layer: LayerId) {
        let mut known = self.known();
        known.coming.remove(&layer);
        known.doubted.insert(layer);
    }

    pub(crate) fn is_doubted(&self, layer: &LayerId) -> bool {
        self.known().doubted.contains(layer)
    }

    /// Keeps a layer's table of contents: here if there is a place for it, until [`Layers::send_table`]; else in the store.
    pub(crate) async fn put_table(&self, layer: LayerId, table: Vec<u8>) -> Result<(), Failed> {
        let Some(near) = &self.near else { return self.store_table(layer, &table).await };
        let near = near.clone();
        blocking(move || Ok(near.put_bytes(&table).map(drop)?)).await?;
        self.known().unsent.insert(layer);
        Ok(())
    }

    /// Sends a table to the store that lies here only.
    pub(crate) async fn send_table(&self, layer: LayerId) -> Result<(), Failed> {
        let Some(near) = self.near.clone().filter(|_| self.known().unsent.contains(&layer)) else {
            return Ok(());
        };
        let blob = BlobDigest(layer.0);
        let table = blocking(move || Ok(near.get_bytes(&blob, TOC_BYTES_MAX)?)).await?;
        self.store_table(layer, &table).await?;
        self.known().unsent.remove(&layer);
        Ok(())
    }

    async fn store_table(&self, layer: LayerId, table: &[u8]) -> Result<(), Failed> {
        let blob = BlobDigest(layer.0);
        let mut pause = TABLE_PAUSE_FIRST;
        loop {
            match self.try_put(&blob, table).await {
                // A RUN that is over is not run again because its coordinator restarts just then.
                Err(StoreError::Unavailable { .. }) if pause <= TABLE_PAUSE_MAX => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Ok(()) => {
                    self.known().doubted.remove(&layer);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn try_put(&self, blob: &BlobDigest, bytes: &[u8]) -> Result<(), StoreError> {
        let is_doubted = self.is_doubted(&LayerId(blob.0));
        if is_doubted || !self.blobs.find_missing(&[*blob]).await?.is_empty() {
            self.blobs.put(blob, dcbuild_store::stream_of(bytes.to_vec())).await?;
        }
        Ok(())
    }

    /// Where small blobs of this worker lie.
    pub(crate) fn near(&self) -> Option<&FolderStore> {
        self.near.as_deref()
    }

    /// Looks for what another worker has made, in the store and at that worker, while it may still come; blocks. Nobody
    /// waits for what was durable, nor for a maker that is gone or has given up.
    pub(crate) fn search<S: Search>(
        &self,
        layer: &LayerId,
        search: &S,
    ) -> Result<Option<S::Found>, Failed> {
        let found = search.find()?;
        let coming = self.folder.is_none() && self.known().coming.contains(layer);
        if found.is_some() || !coming {
            return Ok(found);
        }
        let look = || self.look(layer, search);
        let found = look_again(&self.handle, self.sending_max, look)?;
        if found.is_none() {
            self.give_up(layer);
        }
        Ok(found)
    }

    /// Nobody waits for a layer any more.
    pub(crate) fn give_up(&self, layer: &LayerId) {
        self.known().coming.remove(layer);
    }

    /// Looks for a layer once more: at whoever made it, and in the store.
    fn look<S: Search>(&self, layer: &LayerId, search: &S) -> Result<Look<S::Found>, Failed> {
        let maker = self.peers.as_ref().map(|peers| self.handle.block_on(peers.maker(layer)));
        let maker = maker.flatten();
        let peer = maker.as_ref().and_then(|maker| maker.peer.clone());
        if let (Some(peers), Some(peer)) = (&self.peers, peer)
            && let Some(found) = search.take(peers, peer)?
        {
            return Ok(Look::Found(found));
        }
        // It may have come to the store before the coordinator was asked.
        Ok(match (search.find()?, maker) {
            (Some(found), _) => Look::Found(found),
            (None, Some(maker)) if maker.coming => Look::Coming,
            (None, Some(_)) => Look::Gone,
            (None, None) => Look::Unknown,
        })
    }

    /// A file of a layer from whoever made it: all of it was checked.
    pub(crate) fn file_of(
        &self,
        peer: &Peer,
        layer: LayerId,
        body: &FileBody,
    ) -> Option<Box<dyn io::Read + Send>> {
        let (peers, path) = (self.peers.as_ref()?, crate::peers::path_of(body)?);
        let wanted = Wanted { layer, path, content: body.content, size: body.size };
        let file = self.handle.block_on(peers.file(peer, wanted, &self.tmp));
        let file = file.inspect_err(|error| {
            let error = story(error);
            tracing::info!(error, %layer, "a file is not taken from the worker that made it");
        });
        file.ok()
    }

    /// What a layer changes, its files' origins in the layer.
    pub(crate) fn table(&self, layer: &LayerId) -> Result<Arc<Changes>, Failed> {
        if let Some(table) = self.known().table(layer) {
            return Ok(table);
        }
        let bytes = self.search(layer, &TableSearch { layers: self, layer })?;
        self.read(layer, &bytes.ok_or(Failed::Lost { layer: *layer })?)
    }

    /// The same, if the table lies on this worker.
    pub(crate) fn near_table(&self, layer: &LayerId) -> Result<Arc<Changes>, Failed> {
        if let Some(table) = self.known().table(layer) {
            return Ok(table);
        }
        let near = self.near.as_ref().ok_or(Failed::Lost { layer: *layer })?;
        self.read(layer, &near.get_bytes(&BlobDigest(layer.0), TOC_BYTES_MAX)?)
    }

    fn read(&self, layer: &LayerId, bytes: &[u8]) -> Result<Arc<Changes>, Failed> {
        if toc::layer_id(bytes) != *layer {
            return Err(Failed::Lost { layer: *layer });
        }
        let changes = toc::decode(bytes).map_err(|error| Failed::internal(error.to_string()))?;
        let changes = Arc::new(changes);
        self.known().keep_table(*layer, changes.clone());
        Ok(changes)
    }

    /// Reads a blob to its end, so that whoever has it finds out if it is damaged, and says whether it is whole; blocks.
    pub(crate) fn examine(&self, blob: &BlobDigest) -> bool {
        use futures::TryStreamExt as _;
        self.handle.block_on(async {
            let Ok(content) = self.blobs.get(blob, ByteRange::ALL).await else { return false };
            content.try_for_each(|_| std::future::ready(Ok(()))).await.is_ok()
        })
    }

    fn read_table(&self, layer: &LayerId) -> Result<Option<Bytes>, Failed> {
        let blob = BlobDigest(layer.0);
        let here = self.folder.as_ref().map(|folder| folder.get_bytes(&blob, TOC_BYTES_MAX));
        let read = match here {
            Some(read) if !read.as_ref().is_err_and(StoreError::is_miss) => read,
            // What the folder lacks may be lent by another place.
            Some(_) | None => {
                self.handle.block_on(read_bytes(self.blobs.as_ref(), &blob, TOC_BYTES_MAX))
            }
        };
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_miss() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The merged tree of a chain.
    pub(crate) fn tree(&self, chain: &[LayerRef]) -> Result<Tree, Failed> {
        let ids: Vec<LayerId> = chain.iter().map(|layer| layer.layer).collect();
        let (mut done, mut tree) = self.known().longest_tree(&ids);
        while let Some(layer) = ids.get(done) {
            tree.apply(&*self.table(layer)?);
            done += 1;
        }
        self.known().keep_tree(ids, tree.clone());
        Ok(tree)
    }

    /// The bytes of one small regular file of a tree, links followed; nothing if nothing is there, and an error if
    /// something else is.
    pub(crate) fn read_file(
        self: &Arc<Layers>,
        tree: &Tree,
        path: &str,
        bytes_max: u64,
    ) -> Result<Option<Vec<u8>>, Failed> {
        let path = tree
            .resolve(path.as_bytes(), dcbuild_tree::LastLink::Follow)
            .map_err(|error| Failed::rejected(error.to_string()))?;
        let body = match tree.get(&path).map(|entry| &entry.kind) {
            None => return Ok(None),
            Some(dcbuild_tree::Kind::File(body)) => body,
            Some(_) => return Err(Failed::rejected(format!("'/{path}' is not a regular file"))),
        };
        if body.size > bytes_max {
            return Err(Failed::rejected(format!("'/{path}' is larger than {bytes_max} bytes")));
        }
        let failed = |error: std::io::Error| Failed::sandbox(&error);
        let mut bytes = Vec::new();
        let mut reader = Contents::new(self.clone()).open(body).map_err(failed)?;
        std::io::Read::read_to_end(&mut reader, &mut bytes).map_err(failed)?;
        if dcbuild_model::Digest::of(&bytes) != body.content.0 {
            return Err(match &body.origin {
                dcbuild_tree::Origin::Layer { layer, .. } => Failed::Lost { layer: *layer },
                _ => Failed::internal(format!("'/{path}' is not what its layer says")),
            });
        }
        Ok(Some(bytes))
    }

    /// The snapshots of a chain, made where they are missing.
    pub(crate) fn lowers(self: &Arc<Layers>, chain: &[LayerRef]) -> Result<Lowers, Failed> {
        let lowers = below_mount(chain).into_iter().map(|layer| self.snapshot(&layer.layer));
        self.dressed(lowers.collect::<Result<Vec<_>, _>>()?, chain)
    }

    /// The snapshots of a chain if all of them are here.
    pub(crate) fn standing(self: &Arc<Layers>, chain: &[LayerRef]) -> Result<Standing, Failed> {
        let (mut lowers, mut lacking) = (Vec::new(), Vec::new());
        for layer in below_mount(chain) {
            match self.snapshots.find(&layer.layer)? {
                Some(snapshot) => lowers.push(snapshot),
                None => lacking.push(layer.clone()),
            }
        }
        if !lacking.is_empty() {
            return Ok(Standing::Lacks(lacking));
        }
        Ok(Standing::All(self.dressed(lowers, chain)?))
    }

    /// The layers of a chain with what their implied folders look like on top. A RUN may have made that very layer, and no
    /// overlay has a layer twice.
    fn dressed(
        self: &Arc<Layers>,
        mut lowers: Vec<Snapshot>,
        chain: &[LayerRef],
    ) -> Result<Lowers, Failed> {
        if let Some(folders) = implied::folders(self, chain)? {
            lowers.retain(|lower| lower.path() != folders.path());
            lowers.push(folders);
        }
        Ok(Lowers(lowers))
    }

    /// The folders that a layer does not have, though it has something in them.
    fn implied(&self, layer: &LayerId) -> Result<Arc<[TreePath]>, Failed> {
        if let Some(known) = self.known().implied.get(layer) {
            return Ok(known.clone());
        }
        let implied: Arc<[TreePath]> = missing_parents(&*self.table(layer)?).into();
        self.known().implied.insert(*layer, implied.clone());
        Ok(implied)
    }

    /// A layer's snapshot, made where it is missing.
    pub(crate) fn snapshot(self: &Arc<Layers>, layer: &LayerId) -> Result<Snapshot, Failed> {
        if let Some(snapshot) = self.snapshots.find(layer)? {
            return Ok(snapshot);
        }
        self.one_by_one(layer, || self.make_snapshot(layer))
    }

    /// Has one thread make a layer's snapshot; whoever else wants it waits for that one.
    pub(crate) fn one_by_one<T>(&self, layer: &LayerId, make: impl FnOnce() -> T) -> T {
        let making = self.known().making.entry(*layer).or_default().clone();
        let held = making.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = make();
        drop(held);
        self.known().making.remove(layer);
        snapshot
    }

    fn make_snapshot(self: &Arc<Layers>, layer: &LayerId) -> Result<Snapshot, Failed> {
        if let Some(snapshot) = self.snapshots.find(layer)? {
            return Ok(snapshot);
        }
        if let Some(recipe) = self.recipe(layer) {
            let contents = Contents::of_recipe(self.clone(), recipe.clone());
            return Ok(self.snapshots.materialise(layer, &recipe.changes, &contents)?);
        }
        if let Some(base) = self.base(layer) {
            return base.unpack(self, *layer);
        }
        crate::base::unpack_stored(self, layer)
    }
}

/// The layers of a chain that a mount stands on, lowest first; of one that lies twice in it only the upper one counts.
fn below_mount(chain: &[LayerRef]) -> Vec<&LayerRef> {
    let mut seen = BTreeSet::new();
    let top_down = chain.iter().rev();
    let mut layers: Vec<&LayerRef> =
        top_down.filter(|layer| layer.entries > 0 && seen.insert(layer.layer)).collect();
    layers.reverse();
    layers
}

/// Finds a table of contents.
struct TableSearch<'a> {
    layers: &'a Layers,
    layer: &'a LayerId,
}

impl Search for TableSearch<'_> {
    type Found = Bytes;

    fn find(&self) -> Result<Option<Bytes>, Failed> {
        self.layers.read_table(self.layer)
    }

    fn take(&self, peers: &Peers, peer: Peer) -> Result<Option<Bytes>, Failed> {
        let table = self.layers.handle.block_on(peers.table(&peer, *self.layer, TOC_BYTES_MAX));
        match table {
            Ok(table) => {
                tracing::debug!(layer = %self.layer, worker = %peer.worker, "a table comes from its maker");
                Ok(Some(table))
            }
            Err(error) => {
                let (error, layer) = (story(&error), self.layer);
                tracing::info!(error, %layer, "a table is not taken from the worker that made it");
                Ok(None)
            }
        }
    }
}

/// How a look for a layer ended.
enum Look<T> {
    Found(T),
    /// It is being sent.
    Coming,
    /// Nobody sends it.
    Gone,
    /// Nobody says what has become of it.
    Unknown,
}

fn look_again<T, E>(
    handle: &Handle,
    sending_max: Duration,
    mut look: impl FnMut() -> Result<Look<T>, E>,
) -> Result<Option<T>, E> {
    let began = Instant::now();
    let (mut heard, mut pause) = (began, COMING_PAUSE_FIRST);
    loop {
        match look()? {
            Look::Found(found) => return Ok(Some(found)),
            Look::Gone => return Ok(None),
            Look::Coming => heard = Instant::now(),
            Look::Unknown => {}
        }
        if heard.elapsed() >= COMING_MAX || began.elapsed() >= sending_max {
            return Ok(None);
        }
        // A timer is made inside the runtime: the thread may be any.
        handle.block_on(async { tokio::time::sleep(pause).await });
        pause = (pause * 2).min(COMING_PAUSE_MAX);
    }
}

impl Known {
    /// Whether a recipe takes files of a layer, by itself or through the recipes of others.
    fn leads_to(&self, recipe: &Recipe, layer: &LayerId) -> bool {
        let (mut open, mut seen) = (vec![&recipe.reads], BTreeSet::new());
        while let Some(reads) = open.pop() {
            for read in reads {
                if read == layer {
                    return true;
                }
                if seen.insert(*read)
                    && let Some(recipe) = self.recipes.get(read)
                {
                    open.push(&recipe.reads);
                }
            }
        }
        false
    }

    fn table(&mut self, layer: &LayerId) -> Option<Arc<Changes>> {
        self.uses += 1;
        let (table, used) = self.tables.get_mut(layer)?;
        *used = self.uses;
        Some(table.clone())
    }

    fn keep_table(&mut self, layer: LayerId, table: Arc<Changes>) {
        self.uses += 1;
        self.entries += table.0.len();
        if let Some((before, _)) = self.tables.insert(layer, (table, self.uses)) {
            self.entries -= before.0.len();
        }
        while self.entries > ENTRIES_KEPT && self.tables.len() > 1 {
            let oldest = self.tables.iter().min_by_key(|(_, (_, used))| *used);
            let Some(oldest) = oldest.map(|(layer, _)| *layer) else { break };
            self.implied.remove(&oldest);
            if let Some((table, _)) = self.tables.remove(&oldest) {
                self.entries -= table.0.len();
            }
        }
    }

    /// The tree of the longest known beginning of a chain, and how long that is.
    fn longest_tree(&mut self, ids: &[LayerId]) -> (usize, Tree) {
        self.uses += 1;
        for length in (1..=ids.len()).rev() {
            if let Some((tree, used)) = ids.get(..length).and_then(|ids| self.trees.get_mut(ids)) {
                *used = self.uses;
                return (length, tree.clone());
            }
        }
        (0, Tree::scratch())
    }

    fn keep_tree(&mut self, ids: Vec<LayerId>, tree: Tree) {
        self.uses += 1;
        self.trees.insert(ids, (tree, self.uses));
        while self.trees.len() > TREES_KEPT {
            let oldest = self.trees.iter().min_by_key(|(_, (_, used))| *used);
            let Some(oldest) = oldest.map(|(ids, _)| ids.clone()) else { break };
            self.trees.remove(&oldest);
        }
    }
}

/// What a record says of a layer that was just made.
pub(crate) fn layer_ref(
    layer: LayerId,
    changes: &Changes,
    times: dcbuild_tree::TimeForm,
) -> LayerRef {
    let (entries, bytes) = measure(changes);
    let change = dcbuild_tree::change_digest(changes, times);
    LayerRef { layer, change, entries, bytes, base: None }
}

/// How many entries changes have, and the bytes of their files.
pub(crate) fn measure(changes: &Changes) -> (u64, u64) {
    let size = |(_, change): (&TreePath, &Change)| match change {
        Change::Put(entry) | Change::Replace(entry) => match &entry.kind {
            dcbuild_tree::Kind::File(body) => body.size,
            _ => 0,
        },
        Change::Remove => 0,
    };
    let entries = u64::try_from(changes.0.len()).unwrap_or(u64::MAX);
    (entries, changes.0.iter().map(size).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_on_its_way_is_looked_for_again_and_what_is_gone_is_not() {
        let handle = Handle::current();
        let search = move |last: fn() -> Look<u32>| {
            let mut looks = 0;
            let found = look_again::<_, ()>(&handle, SENDING_MAX, || {
                looks += 1;
                Ok(if looks < 4 { Look::Coming } else { last() })
            });
            (found.unwrap(), looks)
        };
        let both = move || (search(|| Look::Found(7)), search(|| Look::Gone));
        // Whoever writes a blob reads files on threads of its own, which know no runtime.
        let looking = std::thread::spawn(both);
        let found = tokio::task::spawn_blocking(|| looking.join().unwrap()).await.unwrap();
        assert_eq!(found, ((Some(7), 4), (None, 4)));
    }

    #[test]
    fn no_recipe_leads_back_to_its_own_layer() {
        let id = |name: &str| LayerId(dcbuild_model::Digest::of(name.as_bytes()));
        let recipe = |layer: &str, reads: &[&str]| {
            let entry = |from: &&str| {
                let path = TreePath::clean(from.as_bytes()).unwrap();
                let origin = Origin::Layer { layer: id(from), path: path.clone() };
                let content = dcbuild_model::ContentDigest(dcbuild_model::Digest::of(b"x"));
                let kind = Kind::File(FileBody { content, size: 1, origin });
                let meta = dcbuild_tree::Meta::default();
                (path, Change::Put(dcbuild_tree::Entry { meta, kind, links: None }))
            };
            let changes = Changes(reads.iter().map(entry).collect());
            Recipe::new(id(layer), changes, Arc::new(dcbuild_snapshot::SnapshotContents::new([])))
        };
        let mut known = Known::default();
        for one in [recipe("a", &[]), recipe("b", &["a", "x"]), recipe("c", &["b"])] {
            known.recipes.insert(one.layer, Arc::new(one));
        }
        for (made, reads, leads) in [
            ("a", "a", true),
            ("a", "b", true),
            ("a", "c", true),
            ("x", "c", true),
            ("d", "c", false),
        ] {
            assert_eq!(
                known.leads_to(&recipe(made, &[reads]), &id(made)),
                leads,
                "{made} of {reads}"
            );
        }
    }
}
