//! What lies at a place: records of ours, a cache of BuildKit, something else, or nothing.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use dcbuild_model::{BlobDigest, ManifestDigest, limits};
use dcbuild_store::Seal;
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};

use crate::artifact::{Measured, Seen, recognise};
use crate::documents::{DOCUMENTS_BYTES_MAX, Documents, InvalidDocuments};
use crate::inline;
use crate::place::{Place, PlaceError};

/// Manifests of an index that are looked at.
const MANIFESTS_MAX: usize = 64;

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
}

/// As a client hands it to its coordinator.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    documents: String,
    offered: Vec<(BlobDigest, u64)>,
}

impl Borrowed {
    /// The document that tells a coordinator of it; what is embedded goes another way.
    pub fn to_json(&self) -> Vec<u8> {
        let documents = String::from_utf8_lossy(&self.documents.to_json()).into_owned();
        let blobs = self.offered.iter().map(|(blob, size)| (*blob, *size));
        let embedded = self.embedded.iter();
        let embedded =
            embedded.map(|(blob, bytes)| (*blob, u64::try_from(bytes.len()).unwrap_or(u64::MAX)));
        let told = Told { documents, offered: blobs.chain(embedded).collect() };
        serde_json::to_vec(&told).expect("texts and numbers are JSON")
    }

    /// Reads such a document.
    pub fn parse(bytes: &[u8]) -> Result<Borrowed, InvalidDocuments> {
        let told: Told = serde_json::from_slice(bytes)?;
        let documents = Documents::parse(told.documents.as_bytes())?;
        let offered = told.offered.into_iter().collect();
        Ok(Borrowed { documents, offered, embedded: BTreeMap::new() })
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
        Seen::Records { config, blobs } => {
            let bytes = small(place, config, DOCUMENTS_BYTES_MAX).await?;
            let documents = Documents::parse(&bytes)
                .map_err(|source| PlaceError::Records { place: place.name(), source })?;
            let offered = blobs.into_iter().collect();
            let borrowed = Borrowed { documents, offered, embedded: BTreeMap::new() };
            Ok(Found::Records(Box::new(borrowed)))
        }
        Seen::BuildKit => Ok(Found::BuildKit),
        Seen::Other(what) => Ok(Found::Other(what)),
        Seen::Image { config, layers } => images(place, vec![(config, layers)]).await,
        Seen::Index(manifests) => {
            let mut all = Vec::new();
            for digest in manifests.into_iter().take(MANIFESTS_MAX) {
                let manifest = place.manifest(Some(ManifestDigest(digest))).await?;
                match manifest.as_deref().map(recognise) {
                    Some(Seen::Image { config, layers }) => all.push((config, layers)),
                    Some(Seen::BuildKit) => return Ok(Found::BuildKit),
                    _ => {}
                }
            }
            images(place, all).await
        }
    }
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
