//! `--cache-to`: packs the records of a build, for its client to take to other places.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dcbuild_carry::{Artifact, NoPacks, Packed, Packs, Wish, inline, pack};
use dcbuild_model::{BlobDigest, Digest, Record, StepIndex};
use dcbuild_plan::{Plan, choose};
use dcbuild_proto::document::{CacheDest, CacheMode, MadeCache, Outcome, Upload};
use dcbuild_store::{StoreError, stream_of};

use crate::build::{Build, Shown};
use crate::core::{Command, CoreHandle};
use crate::driver::DriverParts;

/// How long records are waited for whose layers are on their way to the store, and the pause between two looks.
const COMING_MAX: Duration = Duration::from_mins(10);
const PAUSE: Duration = Duration::from_millis(100);

/// What a build came to, step by step.
#[derive(Clone)]
pub(crate) struct Steps {
    pub(crate) plan: Arc<crate::planned::PlannedBuild>,
    /// Results that later builds may take.
    pub(crate) results: BTreeMap<StepIndex, Arc<Record>>,
    /// Those of them that this build took as they were.
    pub(crate) taken: BTreeSet<StepIndex>,
}

impl Steps {
    /// The steps of the states that outputs are made of.
    fn of_outputs(&self) -> BTreeSet<StepIndex> {
        let plan = &self.plan.plan;
        plan.states().into_iter().flat_map(|state| plan.chain(Some(state))).collect()
    }
}

/// What packing leans on.
pub(crate) struct Packing<'a> {
    pub(crate) parts: &'a DriverParts,
    pub(crate) core: &'a CoreHandle,
    pub(crate) build: &'a Build,
}

impl Packing<'_> {
    /// Packs the records of a build that is done, once for each place.
    pub(crate) async fn all(&self, steps: &Steps) -> Vec<MadeCache> {
        let mut made = Vec::new();
        for dest in &self.build.submission.caches.to {
            let name = format!("exporting cache to {}", dest.title);
            let shown = Shown::start(self.build, &*self.parts.clock, name);
            match self.one(steps, dest).await {
                Ok(packed) => {
                    shown.done();
                    made.push(packed);
                }
                Err(error) => {
                    let message = dcbuild_process::story(&error);
                    shown.failed(message.clone());
                    made.push(MadeCache::Failed { message });
                }
            }
        }
        made
    }

    async fn one(&self, steps: &Steps, dest: &CacheDest) -> Result<MadeCache, StoreError> {
        let stores = &self.parts.records.stores;
        let records = match dest.mode {
            CacheMode::Min => {
                let of_outputs = steps.of_outputs();
                let results = steps.results.iter().filter(|(step, _)| of_outputs.contains(step));
                results.map(|(_, record)| Record::clone(record)).collect()
            }
            CacheMode::Max => self.all_records(steps).await,
        };
        self.wait_until_durable(&records).await;
        let packs: &dyn Packs = match &self.parts.packs {
            Some(packs) => packs.as_ref(),
            None => &NoPacks,
        };
        let (scope, seal) = (self.parts.records.scope.clone(), stores.seal.clone());
        let wish = Wish { scope, seal, compression: dest.compression, within: None };
        let packed = pack(&stores.shelf(), packs, &records, &wish).await?;
        let artifact = Artifact::new(&packed);
        for bytes in [&artifact.config, &artifact.manifest] {
            stores.blobs.put(&BlobDigest(Digest::of(bytes)), stream_of(bytes.clone())).await?;
        }
        let manifest = BlobDigest(Digest::of(&artifact.manifest));
        Ok(MadeCache::Made { manifest, records: packed.records, left: packed.left })
    }

    /// A record for each step of the plan that has one, also for those that this build did not need: all upon one another.
    async fn all_records(&self, steps: &Steps) -> Vec<Record> {
        let plan: &Plan = &steps.plan.plan;
        let mut found = self.parts.records.probe(plan).await.found;
        for (step, record) in &steps.results {
            found.insert(*step, vec![Record::clone(record)]);
        }
        // What has no record is not wanted: what reads of it would fall out with it.
        let has_one = found.iter().filter(|(_, records)| !records.is_empty());
        let all: Vec<StepIndex> = has_one.map(|(step, _)| *step).collect();
        let mut taken = choose(plan, &found, &all).taken;
        let of_outputs = steps.of_outputs();
        let results = steps.results.iter().filter(|(step, _)| of_outputs.contains(step));
        taken.extend(results.map(|(step, record)| (*step, Record::clone(record))));
        taken.into_values().collect()
    }

    /// Waits until the layers of records have come to the store, or nobody sends them.
    async fn wait_until_durable(&self, records: &[Record]) {
        let attempts: BTreeSet<_> = records.iter().map(|record| record.attempt).collect();
        let coming = async {
            loop {
                let attempts = attempts.clone();
                let ask = |reply| Command::AreComing { attempts, reply };
                if !self.core.ask(ask).await.unwrap_or(false) {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        if tokio::time::timeout(COMING_MAX, coming).await.is_err() {
            tracing::warn!(build = %self.build.id, "layers do not come to the store; their records are not exported");
        }
    }

    /// The records of an image's steps, as its config may hold them; none if there are none, or no room.
    pub(crate) async fn inline(
        &self,
        records: &[Record],
        layers: Vec<BlobDigest>,
    ) -> Result<Option<String>, StoreError> {
        self.wait_until_durable(records).await;
        let stores = &self.parts.records.stores;
        let (scope, seal) = (self.parts.records.scope.clone(), stores.seal.clone());
        let within = Some(layers.iter().copied().collect());
        let wish = Wish { scope, seal, compression: None, within };
        let whence = stores.shelf();
        let pack = async |records: &[Record]| -> Result<(Packed, Option<String>), StoreError> {
            let packed = pack(&whence, &NoPacks, records, &wish).await?;
            let text = inline::encode(&packed, &layers, &*stores.blobs).await?;
            Ok((packed, text))
        };
        let (packed, text) = pack(records).await?;
        if packed.records == 0 {
            return Ok(None);
        }
        if text.is_some() {
            return Ok(text);
        }
        // The table of a large base is what takes most room; it can be read again from the base itself.
        let is_own = |record: &&Record| record.result.layers.iter().all(|it| it.base.is_none());
        let own: Vec<Record> = records.iter().filter(is_own).cloned().collect();
        Ok(pack(&own).await?.1)
    }
}

/// Packs what a build that is done is to leave elsewhere, and makes its own what it took from there.
pub(crate) async fn lend(packing: Packing<'_>, steps: &Steps, mut outcome: Outcome) -> Outcome {
    let Outcome::Done { caches, .. } = &mut outcome else { return outcome };
    *caches = packing.all(steps).await;
    let records = &packing.parts.records;
    let of_outputs = match packing.build.submission.upload {
        Upload::All => None,
        Upload::Outputs => Some(steps.of_outputs()),
        Upload::None => return outcome,
    };
    let keeps = |step: &StepIndex| of_outputs.as_ref().is_none_or(|these| these.contains(step));
    if let Some(lent) = &records.stores.lent {
        let split = |wanted: bool| -> Vec<Arc<Record>> {
            let of = steps.results.iter().filter(|(step, _)| steps.taken.contains(step) == wanted);
            of.filter(|(step, _)| keeps(step)).map(|(_, record)| record.clone()).collect()
        };
        if let Err(error) = lent.keep(&records.scope, (&split(true), &split(false))).await {
            let error = dcbuild_process::story(&error);
            tracing::warn!(error, "what was taken from elsewhere is taken from there again");
        }
    }
    outcome
}
