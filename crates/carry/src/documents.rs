//! The sealed documents of a cache, as one blob: records, forms of layers, what is known of base images' layers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dcbuild_model::{LayerDigest, LayerId, Record, Scope, StepKey, UnixTime};
use dcbuild_store::{
    Catalog, CatalogParts, EmbeddedIndex, HashedBase, LayerIndex, ListedObject, ObjectName,
    ObjectPage, Objects, Seal, StoreError, StoredBlob, Unseen,
};
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;

/// The only form that is understood.
const VERSION: u32 = 2;
/// A larger list of documents is none of ours.
pub const DOCUMENTS_BYTES_MAX: u64 = 256 << 20;
const INDEX_BYTES_MAX: usize = 512 << 20;
/// As many objects are in one page of a listing.
const PAGE: usize = 10_000;

/// Says why bytes are no list of documents.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDocuments {
    /// They are no JSON of this kind.
    #[error("the records are malformed")]
    Json(#[from] serde_json::Error),
    /// They are of another form.
    #[error("the records have the form {found}, and this version of dcbuild reads form {VERSION}")]
    Version {
        /// Their form.
        found: u32,
    },
    /// A document has a name that is none.
    #[error("a record has a name that is none")]
    Name(#[from] dcbuild_store::InvalidObjectName),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    documents: BTreeMap<String, String>,
}

/// Sealed documents by name; clones share them.
#[derive(Clone, Default, Debug)]
pub struct Documents(Arc<Mutex<BTreeMap<ObjectName, Bytes>>>);

impl Documents {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<ObjectName, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what [`Documents::to_json`] wrote; whether a seal is any good is not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Documents, InvalidDocuments> {
        let written: Written = serde_json::from_slice(bytes)?;
        if written.version != VERSION {
            return Err(InvalidDocuments::Version { found: written.version });
        }
        let documents = Documents::default();
        for (name, text) in written.documents {
            documents.kept().insert(name.parse()?, text.into());
        }
        Ok(documents)
    }

    /// All documents, by name: the same bytes for the same documents.
    pub fn to_json(&self) -> Vec<u8> {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let kept = self.kept();
        let named = kept.iter().filter(|(name, _)| is_carried(name));
        let documents = named.map(|(name, it)| (name.to_string(), text(it))).collect();
        let written = Written { version: VERSION, documents };
        serde_json::to_vec(&written).expect("a map of texts is JSON")
    }

    /// Adds the documents of another list.
    pub fn join(&self, other: &Documents) {
        let others = other.kept().clone();
        self.kept().extend(others);
    }

    /// The same documents in lists that have about so many bytes each.
    pub(crate) fn split(&self, bytes_max: usize) -> Vec<Documents> {
        let (mut lists, mut bytes) = (Vec::new(), usize::MAX);
        for (name, document) in self.kept().iter().filter(|(name, _)| is_carried(name)) {
            bytes = bytes.saturating_add(name.as_str().len() + document.len());
            if bytes > bytes_max {
                lists.push(Documents::default());
                bytes = name.as_str().len() + document.len();
            }
            if let Some(list) = lists.last() {
                list.kept().insert(name.clone(), document.clone());
            }
        }
        lists
    }

    /// How many records there are.
    pub fn records(&self) -> usize {
        self.kept().keys().filter(|name| name.as_str().starts_with("scope/")).count()
    }

    /// Whose records there are, and how many of each; under its outcome key a record counts a second time.
    pub fn scopes(&self) -> BTreeMap<Scope, usize> {
        let mut scopes = BTreeMap::new();
        for scope in self.kept().keys().filter_map(scope_of) {
            *scopes.entry(scope).or_default() += 1;
        }
        scopes
    }

    /// Drops what a seal does not open, and says which documents that were.
    pub fn keep_opened(&self, seal: &Seal) -> Vec<ObjectName> {
        let foreign = |name: &ObjectName, sealed: &mut Bytes| seal.open(name, sealed).is_none();
        self.kept().extract_if(.., foreign).map(|(name, _)| name).collect()
    }

    /// A catalog that reads these documents, and writes more under a seal; the time of what it writes is `time`.
    pub fn catalog(&self, seal: Seal, time: &Arc<Mutex<UnixTime>>) -> Catalog {
        let time = time.clone();
        let parts = CatalogParts {
            objects: Arc::new(self.clone()),
            index: Arc::new(EmbeddedIndex::new(INDEX_BYTES_MAX)),
            seal,
            now: Arc::new(move || *time.lock().unwrap_or_else(PoisonError::into_inner)),
            tasks: TaskTracker::new(),
            unseen: Unseen::default(),
        };
        Catalog::new(parts)
    }

    /// What the documents say that a seal opens.
    pub async fn read(&self, seal: Seal) -> Result<Contents, StoreError> {
        let catalog = self.catalog(seal, &Arc::default());
        let (mut layers, mut bases, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        for name in self.kept().keys() {
            let parts: Vec<&str> = name.as_str().split('/').collect();
            match *parts {
                ["layer", hex, _] => layers.extend(digest(hex).map(LayerId)),
                ["base", hex, _] => bases.extend(digest(hex).map(LayerDigest)),
                ["scope", .., "step", hex, _] => {
                    steps.extend(scope_of(name).zip(digest(hex).map(StepKey)));
                }
                _ => {}
            }
        }
        layers.dedup();
        bases.dedup();
        steps.dedup();
        let mut contents = Contents::default();
        let forms = catalog.find_forms(&layers).await?;
        contents.forms = layers
            .into_iter()
            .zip(forms)
            .flat_map(|(id, forms)| forms.into_iter().map(move |it| (id, it)))
            .collect();
        let found = catalog.find_bases(&bases).await?;
        let known = bases.into_iter().zip(found);
        contents.bases = known.filter_map(|(digest, base)| Some((digest, base?))).collect();
        for (scope, key) in steps {
            let found = catalog.records_of(&scope, &[key]).await?;
            // Under its outcome key a record stands a second time.
            let records = found.into_iter().flatten().filter(|record| record.recipe == key);
            contents.records.extend(records.map(|record| (scope.clone(), record)));
        }
        Ok(contents)
    }
}

/// What documents say.
#[derive(Default, Debug)]
pub struct Contents {
    /// Forms of layers.
    pub forms: Vec<(LayerId, StoredBlob)>,
    /// What is known of base images' layers.
    pub bases: Vec<(LayerDigest, HashedBase)>,
    /// Records, each with its scope.
    pub records: Vec<(Scope, Record)>,
}

/// The scope of a record's document.
fn scope_of(name: &ObjectName) -> Option<Scope> {
    let (scope, _) = name.as_str().strip_prefix("scope/")?.rsplit_once("/step/")?;
    scope.parse().ok()
}

fn digest(hex: &str) -> Option<dcbuild_model::Digest> {
    dcbuild_model::Digest::from_hex(hex).ok()
}

/// Whether a document is one that is carried: a catalog notes other things beside its documents.
fn is_carried(name: &ObjectName) -> bool {
    let name = name.as_str();
    ["layer/", "base/"].iter().any(|begin| name.starts_with(begin))
        || (name.starts_with("scope/") && name.contains("/step/"))
}

#[async_trait::async_trait]
impl Objects for Documents {
    async fn put(&self, name: &ObjectName, bytes: Bytes) -> Result<(), StoreError> {
        self.kept().insert(name.clone(), bytes);
        Ok(())
    }

    async fn get(&self, name: &ObjectName, max: u64) -> Result<Option<Bytes>, StoreError> {
        let found = self.kept().get(name).cloned();
        let too_large = |bytes: &Bytes| u64::try_from(bytes.len()).is_ok_and(|size| size > max);
        if found.as_ref().is_some_and(too_large) {
            return Err(StoreError::ObjectTooLarge { name: name.clone(), max });
        }
        Ok(found)
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectName>,
    ) -> Result<ObjectPage, StoreError> {
        let kept = self.kept();
        let below = kept.iter().filter(|(name, _)| {
            name.as_str().starts_with(prefix) && after.is_none_or(|after| *name > after)
        });
        let listed = below.take(PAGE + 1).map(|(name, bytes)| ListedObject {
            name: name.clone(),
            size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            modified: UnixTime::default(),
        });
        let mut objects: Vec<ListedObject> = listed.collect();
        let more = objects.len() > PAGE;
        objects.truncate(PAGE);
        Ok(ObjectPage { objects, more })
    }

    async fn delete(&self, names: &[ObjectName]) -> Result<(), StoreError> {
        let mut kept = self.kept();
        for name in names {
            kept.remove(name);
        }
        Ok(())
    }
}
