//! Records of steps: which of those found count, and which are found for a result key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use dcbuild_explain::Account;
use dcbuild_model::{
    BlobDigest, BuildId, LayerDigest, LayerId, LayerRef, Record, Scope, StepIndex, StepKey,
    UnixTime,
};
use dcbuild_plan::{Plan, Step};
use dcbuild_store::notes::NOTE_BYTES_MAX;
use dcbuild_store::{NoteKind, StoreError};

use crate::config::{Holds, Stores};
use crate::keeping::Keeping;

/// Keys asked for at a time.
const KEYS_MAX: usize = 1_000;

/// Finds records in the store.
#[derive(Clone)]
pub(crate) struct Records {
    pub(crate) stores: Stores,
    pub(crate) holds: Option<Arc<dyn Holds>>,
    pub(crate) scope: Scope,
    /// Those that are being written.
    pub(crate) keeping: Keeping,
    /// Accounts that are being written.
    pub(crate) noting: Keeping,
    /// Where notes were written.
    pub(crate) written: WrittenScopes,
}

/// What was found for the steps of a plan.
#[derive(Default)]
pub(crate) struct Probed {
    /// Records with all their layers.
    pub(crate) found: BTreeMap<StepIndex, Vec<Record>>,
    /// Steps of which there are only records without a layer that is to be had, with the layer.
    pub(crate) gone: BTreeMap<StepIndex, LayerId>,
    /// Whether the store failed meanwhile: what was not found may be there.
    pub(crate) unreachable: bool,
}

/// The scopes in which notes were written since somebody asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct WrittenScopes(Arc<Mutex<BTreeSet<Scope>>>);

impl WrittenScopes {
    fn add(&self, scope: &Scope) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(scope.clone());
    }

    /// Those, and from now on those since.
    pub(crate) fn take(&self) -> BTreeSet<Scope> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Records {
    /// The same for builds of another scope.
    pub(crate) fn of(&self, scope: &Scope) -> Records {
        Records { scope: scope.clone(), ..self.clone() }
    }

    /// The same for one build, which may take from other places as well.
    pub(crate) fn of_build(&self, scope: &Scope, build: BuildId) -> Records {
        let records = self.of(scope);
        Records { stores: records.stores.of_build(build), ..records }
    }

    /// Finds all records for the steps of a plan that may take some; a store that fails costs hits, not the build.
    pub(crate) async fn probe(&self, plan: &Plan) -> Probed {
        self.settled().await;
        let faults = || (self.stores.met)().store_faults;
        let faults_before = faults();
        let open: Vec<(StepIndex, StepKey)> = (0..)
            .map(StepIndex)
            .zip(&plan.steps)
            .filter(|(_, step)| !step.fresh)
            .map(|(at, step)| (at, step.recipe))
            .collect();
        let mut found = BTreeMap::new();
        for part in open.chunks(KEYS_MAX) {
            let keys: Vec<StepKey> = part.iter().map(|(_, key)| *key).collect();
            match self.stores.steps.find(&self.scope, &keys).await {
                Ok(lists) => found.extend(part.iter().map(|(at, _)| *at).zip(lists)),
                Err(error) => warn(&error),
            }
        }
        let gone = self.keep_available(&mut found).await;
        let unreachable = faults() > faults_before || self.is_unreadable();
        Probed { found, gone, unreachable }
    }

    fn is_unreadable(&self) -> bool {
        self.stores.backlog.as_ref().is_some_and(|backlog| backlog.borrow().unreadable)
    }

    /// Waits for the records that are being written, unless the store fails: then they wait, and nobody for them.
    async fn settled(&self) {
        let failing = async {
            let Some(mut backlog) = self.stores.backlog.clone() else {
                return std::future::pending().await;
            };
            if backlog.wait_for(|backlog| backlog.failure.is_some()).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.keeping.settled() => {}
            () = failing => {}
        }
    }

    /// Says that a build goes on, before it looks for anything: from then on nothing that it finds is removed.
    pub(crate) async fn begin_use(&self, build: BuildId, now: UnixTime) {
        if let Some(using) = &self.stores.using
            && let Err(error) = using.begin(build, now).await
        {
            let error = dcbuild_process::story(&error);
            tracing::warn!(error, "a sweeper may not know that this build goes on");
        }
    }

    /// Nothing is used any more by this process.
    pub(crate) async fn end_use(&self) {
        if let Some(using) = &self.stores.using
            && let Err(error) =
                using.keep(using.begun(), &BTreeMap::new(), UnixTime::default()).await
        {
            let error = dcbuild_process::story(&error);
            tracing::debug!(error, "the mark that builds go on stays until it is old");
        }
    }

    /// Keeps the account of a build; without it nothing is lost but an explanation.
    pub(crate) async fn note(&self, account: &Account) {
        let bytes = match account.to_bytes() {
            Ok(bytes) if u64::try_from(bytes.len()).is_ok_and(|size| size <= NOTE_BYTES_MAX) => {
                bytes
            }
            Ok(_) => {
                let build = account.build;
                return tracing::warn!(%build, "the account of a build is too large to be kept");
            }
            Err(error) => {
                return tracing::warn!(%error, "the account of a build could not be written");
            }
        };
        let id = account.build.into();
        self.written.add(&self.scope);
        let kept = self.stores.notes.put(&self.scope, NoteKind::Account, id, bytes.into()).await;
        if let Err(error) = kept {
            let error = dcbuild_process::story(&error);
            tracing::warn!(error, "the account of a build could not be kept");
        }
    }

    /// Keeps a record for later builds.
    pub(crate) async fn put(&self, record: &Record) {
        if let Err(error) = self.stores.steps.put(&self.scope, record).await {
            let error = dcbuild_process::story(&error);
            tracing::warn!(error, "a record could not be kept; the step will run again");
        }
    }

    /// Whether all layers of a record are to be had, as far as the store says.
    pub(crate) async fn is_whole(&self, record: &Record) -> bool {
        let layers: BTreeSet<Sought> = record.result.layers.iter().map(Sought::of).collect();
        match self.available(&layers).await {
            Ok(there) => layers.is_subset(&there),
            // Nobody knows, and a record without its layers does no harm.
            Err(_) => true,
        }
    }

    /// Finds a record for a result key and says it as one of the step that asked.
    ///
    /// The key is of the state below and of all that is read, so a record under it stands on the same; what it says
    /// of its lineage is of the build that made it.
    pub(crate) async fn find_outcome(
        &self,
        asked: &Step,
        key: StepKey,
        barren: &BTreeSet<LayerId>,
    ) -> Option<Record> {
        let lists = match self.stores.steps.find(&self.scope, &[key]).await {
            Ok(lists) => lists,
            Err(error) => {
                warn(&error);
                return None;
            }
        };
        let records = lists.into_iter().next().unwrap_or_default();
        let is_barren =
            |record: &Record| record.result.layers.iter().any(|it| barren.contains(&it.layer));
        let same = |record: &Record| record.outcome == Some(key) && !is_barren(record);
        let mut found =
            BTreeMap::from([(StepIndex(0), records.into_iter().filter(same).collect::<Vec<_>>())]);
        drop(self.keep_available(&mut found).await);
        let record = found.remove(&StepIndex(0))?.pop()?;
        Some(Record { recipe: asked.recipe, components: asked.components.clone(), ..record })
    }

    /// Drops the records with a layer that nobody has any more; says which layer, of steps that then have no record.
    async fn keep_available(
        &self,
        found: &mut BTreeMap<StepIndex, Vec<Record>>,
    ) -> BTreeMap<StepIndex, LayerId> {
        let layers: BTreeSet<Sought> = found
            .values()
            .flatten()
            .flat_map(|record| &record.result.layers)
            .map(Sought::of)
            .collect();
        let there = match self.available(&layers).await {
            Ok(there) => there,
            Err(error) => {
                warn(&error);
                BTreeSet::new()
            }
        };
        let lacking = |record: &Record| {
            let mut layers = record.result.layers.iter();
            layers.find(|layer| !there.contains(&Sought::of(layer))).map(|layer| layer.layer)
        };
        let mut gone = BTreeMap::new();
        for (step, records) in found.iter_mut() {
            let last = records.iter().rev().find_map(&lacking);
            records.retain(|record| lacking(record).is_none());
            if records.is_empty()
                && let Some(layer) = last
            {
                gone.insert(*step, layer);
            }
        }
        gone
    }

    async fn available(&self, layers: &BTreeSet<Sought>) -> Result<BTreeSet<Sought>, StoreError> {
        let ids: Vec<LayerId> = layers.iter().map(|sought| sought.layer).collect();
        // For each layer the blobs without which it cannot be had, perhaps in several forms.
        let mut wanted: Vec<(Sought, Vec<BlobDigest>)> = Vec::new();
        let mut held = BTreeSet::new();
        if let Some(holds) = &self.holds {
            let here = layers.iter().zip(holds.holds(&ids).await);
            held.extend(here.filter(|(_, held)| *held).map(|(sought, _)| *sought));
        }
        // Its files are at hand; what it is made of stands in its table.
        wanted.extend(held.iter().map(|sought| (*sought, vec![BlobDigest(sought.layer.0)])));
        let open = || layers.iter().filter(|sought| !held.contains(*sought)).copied();
        let own: Vec<Sought> = open().filter(|sought| sought.base.is_none()).collect();
        let bases: Vec<(Sought, LayerDigest)> =
            open().filter_map(|sought| Some((sought, sought.base?))).collect();
        let digests: Vec<LayerDigest> = bases.iter().map(|(_, digest)| *digest).collect();
        let own_ids: Vec<LayerId> = own.iter().map(|sought| sought.layer).collect();
        let index = &self.stores.layers;
        let (forms, known) =
            tokio::try_join!(index.find_forms(&own_ids), index.find_bases(&digests))?;
        for (sought, forms) in own.iter().zip(forms) {
            for stored in forms {
                let blob = BlobDigest(stored.blob.digest.0);
                wanted.push((*sought, vec![BlobDigest(sought.layer.0), blob, stored.index]));
            }
        }
        for ((sought, _), known) in bases.iter().zip(known) {
            wanted.extend(known.map(|_| (*sought, vec![BlobDigest(sought.layer.0)])));
        }
        let blobs: BTreeSet<BlobDigest> =
            wanted.iter().flat_map(|(_, blobs)| blobs.iter().copied()).collect();
        let blobs: Vec<BlobDigest> = blobs.into_iter().collect();
        let missing: BTreeSet<BlobDigest> =
            self.stores.blobs.find_missing(&blobs).await?.into_iter().collect();
        let whole = wanted.iter().filter(|(_, blobs)| blobs.iter().all(|it| !missing.contains(it)));
        Ok(whole.map(|(sought, _)| *sought).collect())
    }
}

/// A layer as a record speaks of it. One of a base and one of a step may be the same, as two that change nothing are; each
/// is had in its own way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Sought {
    layer: LayerId,
    base: Option<LayerDigest>,
}

impl Sought {
    fn of(layer: &LayerRef) -> Sought {
        Sought { layer: layer.layer, base: layer.base.as_ref().map(|base| base.digest) }
    }
}

fn warn(error: &StoreError) {
    let error = dcbuild_process::story(error);
    tracing::warn!(error, "records could not be looked up; steps run instead");
}
