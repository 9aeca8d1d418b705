//! How attestations lie beside an image: as a manifest of an index, whose layers are statements.

use std::collections::BTreeMap;

use dcbuild_model::Digest;
use dcbuild_oci::manifest::media_type;
use dcbuild_oci::{Descriptor, Manifest, OciPlatform};
use serde_json::json;

use crate::spec::Storage;
use crate::statement::Statement;

const STATEMENT: &str = "application/vnd.in-toto+json";
const ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const EMPTY_JSON: &[u8] = b"{}";
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
const UNKNOWN: &str = "unknown";

/// A statement as a blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredStatement {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What points at them.
    pub descriptor: Descriptor,
}

/// All that stands beside one image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The statements.
    pub statements: Vec<StoredStatement>,
    /// The config, which says nothing.
    pub config: Vec<u8>,
    /// The manifest that lists the statements.
    pub manifest: Vec<u8>,
    /// What points at it in the index.
    pub entry: Descriptor,
}

fn size(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn described(kind: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::new(kind, Digest::of(bytes), size(bytes))
}

/// Puts statements about an image into the form in which an index names them.
pub fn store(statements: &[Statement], image: &Descriptor, storage: Storage) -> Stored {
    let statement = |statement: &Statement| {
        let bytes = statement.to_json();
        let annotations =
            BTreeMap::from([(PREDICATE_TYPE.to_owned(), statement.predicate_type.clone())]);
        let descriptor = Descriptor { annotations, ..described(STATEMENT, &bytes) };
        StoredStatement { bytes, descriptor }
    };
    let statements: Vec<StoredStatement> = statements.iter().map(statement).collect();
    let layers: Vec<Descriptor> =
        statements.iter().map(|statement| statement.descriptor.clone()).collect();
    let (config, kind) = match storage {
        Storage::Artifact => (EMPTY_JSON.to_vec(), EMPTY),
        Storage::Image => (image_config(&layers), media_type::CONFIG),
    };
    let mut manifest = Manifest::new(described(kind, &config), layers);
    if storage == Storage::Artifact {
        manifest.artifact_type = ARTIFACT.into();
        manifest.subject = Some(Descriptor::new(&image.media_type, image.digest, image.size));
    }
    let manifest = manifest.to_json();
    let unknown =
        OciPlatform { architecture: UNKNOWN.into(), os: UNKNOWN.into(), ..OciPlatform::default() };
    let annotations = BTreeMap::from([
        (REFERENCE_DIGEST.to_owned(), image.digest.to_string()),
        (REFERENCE_TYPE.to_owned(), "attestation-manifest".to_owned()),
    ]);
    let entry = Descriptor {
        platform: Some(unknown),
        annotations,
        ..described(media_type::MANIFEST, &manifest)
    };
    Stored { statements, config, manifest, entry }
}

/// A config such as tools expect that know images only.
fn image_config(layers: &[Descriptor]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
    let config = json!({
        "architecture": UNKNOWN,
        "os": UNKNOWN,
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": ids },
    });
    config.to_string().into_bytes()
}
