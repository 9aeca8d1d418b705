//! What builds may take from other places while they go on: records are known at once, a blob is brought when somebody
//! reads it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use dcbuild_model::{
    AttemptId, BlobDigest, BuildId, LayerDigest, LayerId, Record, Scope, StepKey, UnixTime,
};
use dcbuild_store::{
    BlobStore, BlobStream, ByteRange, Catalog, HashedBase, LayerIndex, Seal, StepIndex, StoreError,
    StoredBlob,
};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::timeout;

use crate::look::Borrowed;
use crate::pack::Shelf;

/// How long one lender is waited for before another is asked as well.
const LENDER_SLOW: Duration = Duration::from_secs(10);

/// Says why a lender did not bring a blob.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct NotLent {
    /// Why not.
    pub reason: String,
}

/// Brings blobs to the store from where they lie.
#[async_trait::async_trait]
pub trait Lender: Send + Sync {
    /// Puts a blob into the store.
    async fn bring(&self, blob: &BlobDigest) -> Result<(), NotLent>;
}

/// A cache that a build takes from.
pub struct Loan {
    catalog: Catalog,
    offered: BTreeMap<BlobDigest, u64>,
    /// Blobs that were not to be had after all.
    refused: Mutex<BTreeSet<BlobDigest>>,
    lender: Arc<dyn Lender>,
}

impl Loan {
    /// A loan of what a seal opens.
    pub async fn new(
        borrowed: Borrowed,
        seal: Seal,
        lender: Arc<dyn Lender>,
    ) -> Result<Loan, StoreError> {
        let time = Arc::new(Mutex::new(UnixTime::default()));
        let catalog = borrowed.documents.catalog(seal, &time);
        // All of it is known: what is not there need not be looked for.
        catalog.fill().await?;
        Ok(Loan { catalog, offered: borrowed.offered, refused: Mutex::default(), lender })
    }

    fn offers(&self, blob: &BlobDigest) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        self.offered.contains_key(blob) && !refused.contains(blob)
    }

    fn refuse(&self, blob: &BlobDigest) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(*blob);
    }
}

/// How a layer's bytes come to the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Came {
    /// Somebody read them.
    ByItself,
    /// They are brought now.
    Brought,
}

/// Held by whoever brings a blob.
type Turn = tokio::sync::Mutex<()>;

/// A store and, behind it, the layers that are lent to the builds that go on; what is written goes to the store alone.
pub struct Lent {
    own: Shelf,
    /// In the order in which they came.
    loans: Mutex<Vec<(BuildId, Arc<Loan>)>>,
    turns: Mutex<HashMap<BlobDigest, Weak<Turn>>>,
}

impl Lent {
    /// Lends to the builds on this store.
    pub fn new(own: Shelf) -> Lent {
        Lent { own, loans: Mutex::default(), turns: Mutex::default() }
    }

    /// The store alone.
    pub fn own(&self) -> &Shelf {
        &self.own
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(BuildId, Arc<Loan>)>> {
        self.loans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loans(&self) -> Vec<Arc<Loan>> {
        self.lock().iter().map(|(_, loan)| loan.clone()).collect()
    }

    /// The store as a build sees it.
    pub fn to(self: &Arc<Lent>, build: BuildId) -> Borrower {
        Borrower { lent: self.clone(), build }
    }

    /// Lends until the build is over.
    pub fn lend(&self, build: BuildId, loan: Loan) {
        self.lock().push((build, Arc::new(loan)));
    }

    /// Ends the loans of a build.
    pub fn end(&self, build: BuildId) {
        let over: Vec<_> = self.lock().extract_if(.., |(of, _)| *of == build).collect();
        // What they hold is let go outside the lock.
        drop(over);
    }

    /// Makes what a build took from elsewhere the store's own, as far as its layers have come. Of what was `made` here
    /// the store gets all: a worker may have found it lent, and so have kept it to itself.
    pub async fn keep(
        &self,
        scope: &Scope,
        (taken, made): (&[Arc<Record>], &[Arc<Record>]),
    ) -> Result<(), StoreError> {
        if self.loans().is_empty() {
            return Ok(());
        }
        for record in made {
            self.complete(record, Came::Brought).await?;
        }
        let is_base = |record: &Record| record.result.layers.iter().all(|it| it.base.is_some());
        let (bases, own): (Vec<_>, Vec<_>) = taken.iter().partition(|record| is_base(record));
        let mut any = false;
        for record in own {
            if self.complete(record, Came::ByItself).await? {
                any = true;
                self.own.steps.put(scope, record).await?;
            }
        }
        // A base is of use to what stands on it.
        for record in bases.into_iter().filter(|_| any) {
            if self.complete(record, Came::Brought).await? {
                self.own.steps.put(scope, record).await?;
            }
        }
        Ok(())
    }

    /// Brings what describes a record's layers, and the layers themselves where that is said; false if all of it is not to
    /// be had, or a layer was not wanted by anybody.
    async fn complete(&self, record: &Record, layers: Came) -> Result<bool, StoreError> {
        let own = &self.own;
        for layer in &record.result.layers {
            let mut wanted = vec![BlobDigest(layer.layer.0)];
            let (mut form, mut hashed) = (None, None);
            if let Some(base) = &layer.base {
                hashed =
                    self.find_bases(&[base.digest]).await?.pop().flatten().map(|it| (base, it));
            } else {
                for found in self.find_forms(&[layer.layer]).await?.pop().unwrap_or_default() {
                    let blob = BlobDigest(found.blob.digest.0);
                    let here = own.blobs.find_missing(&[blob]).await?.is_empty();
                    if here || (layers == Came::Brought && self.bring(&blob).await?) {
                        wanted.push(found.index);
                        form = Some(found);
                        break;
                    }
                }
            }
            if form.is_none() && hashed.is_none() {
                return Ok(false);
            }
            for blob in own.blobs.find_missing(&wanted).await? {
                if !self.bring(&blob).await? {
                    return Ok(false);
                }
            }
            if let Some(form) = form {
                own.layers.put_form(&layer.layer, &form).await?;
            }
            if let Some((base, hashed)) = hashed {
                own.layers.put_base(&base.digest, &hashed).await?;
            }
        }
        Ok(true)
    }

    fn turn(&self, blob: &BlobDigest) -> Arc<Turn> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(blob).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(*blob, Arc::downgrade(&turn));
        turn
    }

    /// Brings a blob to the store; false if nobody lends it.
    async fn bring(&self, blob: &BlobDigest) -> Result<bool, StoreError> {
        if !self.loans().iter().any(|loan| loan.offers(blob)) {
            return Ok(false);
        }
        let turn = self.turn(blob);
        let _one = turn.lock().await;
        let (mut asked, mut coming) = (Vec::new(), FuturesUnordered::new());
        loop {
            if self.own.blobs.find_missing(&[*blob]).await?.is_empty() {
                return Ok(true);
            }
            if let Some(loan) = self.next_lender(blob, &asked) {
                asked.push(loan.clone());
                coming.push(async move {
                    let brought = loan.lender.bring(blob).await;
                    (loan, brought)
                });
            }
            match timeout(LENDER_SLOW, coming.next()).await {
                Ok(None) => return Ok(false),
                Ok(Some((_, Ok(())))) => return Ok(true),
                Ok(Some((loan, Err(error)))) => {
                    tracing::warn!(%blob, %error, "a blob of another place is not to be had");
                    loan.refuse(blob);
                }
                // Its client may be slow, or say nothing any more: it goes on beside the next one.
                Err(_) => {}
            }
        }
    }

    /// Who else lends a blob, the newest loan first: its client is most likely there.
    fn next_lender(&self, blob: &BlobDigest, asked: &[Arc<Loan>]) -> Option<Arc<Loan>> {
        let is_new = |loan: &Arc<Loan>| !asked.iter().any(|it| Arc::ptr_eq(it, loan));
        self.loans().into_iter().rev().find(|loan| loan.offers(blob) && is_new(loan))
    }
}

/// What the store and some loans have together.
impl Lent {
    async fn missing_beside(
        &self,
        blobs: &[BlobDigest],
        loans: &[Arc<Loan>],
    ) -> Result<Vec<BlobDigest>, StoreError> {
        let mut missing = self.own.blobs.find_missing(blobs).await?;
        missing.retain(|blob| !loans.iter().any(|loan| loan.offers(blob)));
        Ok(missing)
    }

    async fn records_beside(
        &self,
        (scope, keys): (&Scope, &[StepKey]),
        loans: &[Arc<Loan>],
    ) -> Result<Vec<Vec<Record>>, StoreError> {
        let mut found = self.own.steps.find(scope, keys).await?;
        for loan in loans {
            let lent = StepIndex::find(&loan.catalog, scope, keys).await?;
            for (own, mut lent) in found.iter_mut().zip(lent) {
                let known: BTreeSet<AttemptId> = own.iter().map(|record| record.attempt).collect();
                lent.retain(|record| !known.contains(&record.attempt));
                // What is last counts most: the store's own.
                lent.append(own);
                *own = lent;
            }
        }
        Ok(found)
    }

    async fn forms_beside(
        &self,
        layers: &[LayerId],
        loans: &[Arc<Loan>],
    ) -> Result<Vec<Vec<StoredBlob>>, StoreError> {
        let mut found = self.own.layers.find_forms(layers).await?;
        for loan in loans {
            let lent = loan.catalog.find_forms(layers).await?;
            for (own, lent) in found.iter_mut().zip(lent) {
                // Of one compression there may be two blobs here: the store may have lost its own.
                own.extend(lent.into_iter().filter(|form| loan.offers(&form.index)));
                let mut seen = BTreeSet::new();
                own.retain(|form| seen.insert(form.blob.digest));
            }
        }
        Ok(found)
    }

    async fn bases_beside(
        &self,
        digests: &[LayerDigest],
        loans: &[Arc<Loan>],
    ) -> Result<Vec<Option<HashedBase>>, StoreError> {
        let mut found = self.own.layers.find_bases(digests).await?;
        for loan in loans {
            let lent = loan.catalog.find_bases(digests).await?;
            for (own, lent) in found.iter_mut().zip(lent) {
                if own.is_none() {
                    *own = lent;
                }
            }
        }
        Ok(found)
    }
}

#[async_trait::async_trait]
impl BlobStore for Lent {
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        self.missing_beside(blobs, &self.loans()).await
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        match self.own.blobs.get(blob, range).await {
            Err(error) if error.is_miss() => {
                if self.bring(blob).await? {
                    self.own.blobs.get(blob, range).await
                } else {
                    Err(error)
                }
            }
            found => found,
        }
    }

    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError> {
        self.own.blobs.put(blob, content).await
    }
}

#[async_trait::async_trait]
impl LayerIndex for Lent {
    async fn find_forms(&self, layers: &[LayerId]) -> Result<Vec<Vec<StoredBlob>>, StoreError> {
        self.forms_beside(layers, &self.loans()).await
    }

    async fn put_form(&self, layer: &LayerId, stored: &StoredBlob) -> Result<(), StoreError> {
        self.own.layers.put_form(layer, stored).await
    }

    async fn find_bases(
        &self,
        digests: &[LayerDigest],
    ) -> Result<Vec<Option<HashedBase>>, StoreError> {
        self.bases_beside(digests, &self.loans()).await
    }

    async fn put_base(&self, digest: &LayerDigest, base: &HashedBase) -> Result<(), StoreError> {
        self.own.layers.put_base(digest, base).await
    }
}

/// The store as one build sees it: with what is lent to that build, and to no other. Who named no cache waits for nobody's
/// client. A blob that several are lent comes from any of them.
#[derive(Clone)]
pub struct Borrower {
    lent: Arc<Lent>,
    build: BuildId,
}

impl Borrower {
    fn loans(&self) -> Vec<Arc<Loan>> {
        let loans = self.lent.lock();
        loans.iter().filter(|(of, _)| *of == self.build).map(|(_, loan)| loan.clone()).collect()
    }
}

#[async_trait::async_trait]
impl BlobStore for Borrower {
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        self.lent.missing_beside(blobs, &self.loans()).await
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        self.lent.get(blob, range).await
    }

    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError> {
        BlobStore::put(&*self.lent, blob, content).await
    }
}

#[async_trait::async_trait]
impl StepIndex for Borrower {
    async fn find(&self, scope: &Scope, keys: &[StepKey]) -> Result<Vec<Vec<Record>>, StoreError> {
        self.lent.records_beside((scope, keys), &self.loans()).await
    }

    async fn put(&self, scope: &Scope, record: &Record) -> Result<(), StoreError> {
        self.lent.own.steps.put(scope, record).await
    }
}

#[async_trait::async_trait]
impl LayerIndex for Borrower {
    async fn find_forms(&self, layers: &[LayerId]) -> Result<Vec<Vec<StoredBlob>>, StoreError> {
        self.lent.forms_beside(layers, &self.loans()).await
    }

    async fn put_form(&self, layer: &LayerId, stored: &StoredBlob) -> Result<(), StoreError> {
        self.lent.put_form(layer, stored).await
    }

    async fn find_bases(
        &self,
        digests: &[LayerDigest],
    ) -> Result<Vec<Option<HashedBase>>, StoreError> {
        self.lent.bases_beside(digests, &self.loans()).await
    }

    async fn put_base(&self, digest: &LayerDigest, base: &HashedBase) -> Result<(), StoreError> {
        self.lent.put_base(digest, base).await
    }
}
