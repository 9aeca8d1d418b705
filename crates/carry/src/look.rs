//! What lies at a place: records of ours, a cache of BuildKit, something else, or nothing.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use dcbuild_model::{BlobDigest, ManifestDigest, limits};
use dcbuild_store::{ObjectName, Seal};
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};

use crate::artifact::{Measured, PARTS_MAX, Section, Seen, recognise};
use crate::documents::{DOCUMENTS_BYTES_MAX, Documents, InvalidDocuments};
use crate::inline;
use crate::place::{Place, PlaceError};

/// Manifests of an index that are looked at.
const MANIFESTS_MAX: usize = PARTS_MAX;
/// The documents of all parts that an index lists.
const LISTED_BYTES_MAX: u64 = 4 << 30;

/// What was found.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A cache of BuildKit, which is not read.
    BuildKit,
    /// An image without records.
    Image,
    /// Something else, in words.
    Other(String),
    /// Records of ours; whose, is not looked at.
    Records(Box<Borrowed>),
}

/// Records, and what their place has of the blobs that they speak of.
#[derive(Debug, Default)]
pub struct Borrowed {
    /// The documents, seals and all.
    pub documents: Documents,
    /// The blobs that the place says it has, with their sizes.
    pub offered: BTreeMap<BlobDigest, u64>,
    /// Small blobs that came with the documents.
    pub embedded: BTreeMap<BlobDigest, Bytes>,
    /// The name of the key that sealed the documents, where it is said.
    pub key: Option<String>,
    /// The documents of other keys that lie at the same place, by the names of these.
    pub others: Vec<(String, Documents)>,
    /// Manifests of its parts that are not there.
    pub missing: Vec<BlobDigest>,
}

/// As a client hands it to its coordinator.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    documents: String,
    offered: Vec<(BlobDigest, u64)>,
    /// Said where there are others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    others: Vec<(String, String)>,
}

impl Borrowed {
    /// The document that tells a coordinator of it; what is embedded goes another way.
    pub fn to_json(&self) -> Vec<u8> {
        let text = |it: &Documents| String::from_utf8_lossy(&it.to_json()).into_owned();
        let documents = text(&self.documents);
        let others: Vec<_> = self.others.iter().map(|(key, it)| (key.clone(), text(it))).collect();
        let key = self.key.clone().filter(|_| !others.is_empty());
        let blobs = self.offered.iter().map(|(blob, size)| (*blob, *size));
        let embedded = self.embedded.iter();
        let embedded =
            embedded.map(|(blob, bytes)| (*blob, u64::try_from(bytes.len()).unwrap_or(u64::MAX)));
        let told = Told { documents, offered: blobs.chain(embedded).collect(), key, others };
        serde_json::to_vec(&told).expect("texts and numbers are JSON")
    }

    /// Reads such a document.
    pub fn parse(bytes: &[u8]) -> Result<Borrowed, InvalidDocuments> {
        let told: Told = serde_json::from_slice(bytes)?;
        let documents = Documents::parse(told.documents.as_bytes())?;
        let offered = told.offered.into_iter().collect();
        let other = |(key, text): (String, String)| Ok((key, Documents::parse(text.as_bytes())?));
        let others: Result<_, InvalidDocuments> = told.others.into_iter().map(other).collect();
        let (embedded, missing) = (BTreeMap::new(), Vec::new());
        Ok(Borrowed { documents, offered, embedded, key: told.key, others: others?, missing })
    }

    /// Adds what other keys have; what is wrong with one key's is nothing to the others.
    async fn add_others(&mut self, place: &dyn Place, sections: Vec<Section>) {
        for section in sections {
            match documents_of(place, section.config).await {
                Ok(documents) => {
                    self.others.push((section.key, documents));
                    self.offered.extend(section.blobs);
                }
                Err(error) => {
                    tracing::debug!(%error, key = section.key, "a cache of another key");
                }
            }
        }
    }

    /// Leaves what a seal opens, and says which documents are dropped for it. What other keys have beside what is the
    /// reader's own is none of his, and no loss.
    pub fn keep_opened(&self, seal: &Seal) -> Vec<ObjectName> {
        let refused = self.documents.keep_opened(seal);
        let mut own = self.others.iter().filter(|(key, _)| seal.has_key(key)).peekable();
        let is_own = self.key.as_ref().is_none_or(|key| seal.has_key(key));
        let mut dropped = if is_own || own.peek().is_none() { refused } else { Vec::new() };
        for (_, documents) in own {
            dropped.extend(documents.keep_opened(seal));
            self.documents.join(documents);
        }
        dropped
    }
}

/// Why a reader does not open documents: to be said behind "they".
pub fn why_unopened(seal: &Seal) -> &'static str {
    if seal.is_keyed() {
        "do not carry the seal of this one's signing keys (DCBUILD_SIGNING_KEY, signing_key_files)"
    } else {
        "are damaged, or sealed with a key: give it as DCBUILD_SIGNING_KEY"
    }
}

/// Looks at a place: at its manifest, and at the documents behind it; no layer is read.
pub async fn look(place: &dyn Place) -> Result<Found, PlaceError> {
    let Some(root) = place.manifest(None).await? else { return Ok(Found::Nothing) };
    match recognise(&root) {
        Seen::Records { key, config, blobs, others } => {
            let mut borrowed = Borrowed { key, ..Borrowed::default() };
            borrowed.documents = documents_of(place, config).await?;
            borrowed.offered.extend(blobs);
            borrowed.add_others(place, others).await;
            Ok(Found::Records(Box::new(borrowed)))
        }
        Seen::BuildKit => Ok(Found::BuildKit),
        Seen::Other(what) => Ok(Found::Other(what)),
        Seen::Image { config, layers } => images(place, vec![(config, layers)]).await,
        Seen::Index(manifests) => listed(place, manifests).await,
    }
}

/// What an index lists: parts of caches, or images.
async fn listed(place: &dyn Place, manifests: Vec<Measured>) -> Result<Found, PlaceError> {
    let (mut all, mut borrowed, mut bytes) = (Vec::new(), None::<Borrowed>, 0_u64);
    let mut missing = Vec::new();
    for (digest, _) in manifests.into_iter().take(MANIFESTS_MAX) {
        let manifest = place.manifest(Some(ManifestDigest(digest.0))).await?;
        if manifest.is_none() {
            missing.push(digest);
        }
        let seen = manifest.as_deref().map(recognise);
        if let Some(Seen::Records { config: (blob, size), .. }) = &seen {
            bytes = bytes.saturating_add(*size);
            if bytes > LISTED_BYTES_MAX {
                let (place, blob) = (place.name(), *blob);
                return Err(PlaceError::TooLarge { place, blob, max: LISTED_BYTES_MAX });
            }
        }
        match seen {
            Some(Seen::Image { config, layers }) => all.push((config, layers)),
            Some(Seen::BuildKit) => return Ok(Found::BuildKit),
            Some(Seen::Records { key, config, blobs, others }) => match &mut borrowed {
                // The first part is of whoever wrote last.
                None => {
                    let mut first = Borrowed { key, ..Borrowed::default() };
                    first.documents = documents_of(place, config).await?;
                    first.offered.extend(blobs);
                    first.add_others(place, others).await;
                    borrowed = Some(first);
                }
                Some(known) if known.key == key => {
                    known.documents.join(&documents_of(place, config).await?);
                    known.offered.extend(blobs);
                }
                Some(known) => {
                    let own = key.map(|key| Section { key, config, blobs });
                    known.add_others(place, own.into_iter().chain(others).collect()).await;
                }
            },
            Some(Seen::Index(_) | Seen::Other(_)) | None => {}
        }
    }
    match borrowed {
        Some(borrowed) => Ok(Found::Records(Box::new(Borrowed { missing, ..borrowed }))),
        None => images(place, all).await,
    }
}

async fn documents_of(place: &dyn Place, config: Measured) -> Result<Documents, PlaceError> {
    let bytes = small(place, config, DOCUMENTS_BYTES_MAX).await?;
    Documents::parse(&bytes).map_err(|source| PlaceError::Records { place: place.name(), source })
}

/// Looks for records in the configs of images.
async fn images(
    place: &dyn Place,
    images: Vec<(Measured, Vec<Measured>)>,
) -> Result<Found, PlaceError> {
    let (mut borrowed, mut buildkit, mut found) = (Borrowed::default(), false, false);
    let bytes_max = u64::try_from(limits::CONFIG_BYTES_MAX).unwrap_or(u64::MAX);
    for (config, layers) in images {
        let bytes = small(place, config, bytes_max).await?;
        let inside = inline::decode(&bytes)
            .map_err(|source| PlaceError::Inline { place: place.name(), source })?;
        let Some(inside) = inside else {
            buildkit |= inline::is_of_buildkit(&bytes);
            continue;
        };
        found = true;
        borrowed.documents.join(&inside.documents);
        borrowed.embedded.extend(inside.embedded);
        borrowed.offered.extend(layers);
    }
    Ok(match (found, buildkit) {
        (true, _) => Found::Records(Box::new(borrowed)),
        (false, true) => Found::BuildKit,
        (false, false) => Found::Image,
    })
}

async fn small(
    place: &dyn Place,
    (blob, size): Measured,
    bytes_max: u64,
) -> Result<Bytes, PlaceError> {
    if size > bytes_max {
        return Err(PlaceError::TooLarge { place: place.name(), blob, max: bytes_max });
    }
    let mut content = place.get(&blob, size).await?;
    let mut bytes = BytesMut::new();
    while let Some(piece) = content.try_next().await? {
        bytes.extend_from_slice(&piece);
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > bytes_max {
            return Err(PlaceError::TooLarge { place: place.name(), blob, max: bytes_max });
        }
    }
    let bytes = bytes.freeze();
    if dcbuild_model::Digest::of(&bytes) != blob.0 {
        return Err(PlaceError::Damaged { place: place.name(), blob });
    }
    Ok(bytes)
}
