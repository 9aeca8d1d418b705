//! Images made from nothing, as OCI layouts.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The hash of bytes, as registries write it.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A layer as a tar, uncompressed.
#[derive(Default)]
#[must_use]
pub struct LayerTar {
    builder: Option<tar::Builder<Vec<u8>>>,
}

impl LayerTar {
    fn append(&mut self, path: &str, kind: tar::EntryType, mode: u32, content: &[u8]) {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len().try_into().unwrap());
        let builder = self.builder.get_or_insert_with(|| tar::Builder::new(Vec::new()));
        builder.append_data(&mut header, path, content).unwrap();
    }

    /// Adds a folder.
    pub fn dir(mut self, path: &str, mode: u32) -> LayerTar {
        self.append(path, tar::EntryType::Directory, mode, b"");
        self
    }

    /// Adds a file.
    pub fn file(mut self, path: &str, mode: u32, content: &[u8]) -> LayerTar {
        self.append(path, tar::EntryType::Regular, mode, content);
        self
    }

    /// Adds another name of a file.
    pub fn hard_link(mut self, path: &str, to: &str) -> LayerTar {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Link);
        header.set_mode(0o755);
        header.set_mtime(0);
        header.set_size(0);
        let builder = self.builder.get_or_insert_with(|| tar::Builder::new(Vec::new()));
        builder.append_link(&mut header, path, to).unwrap();
        self
    }

    /// The tar's bytes.
    pub fn finish(self) -> Vec<u8> {
        self.builder.unwrap_or_else(|| tar::Builder::new(Vec::new())).into_inner().unwrap()
    }
}

/// A blob and its name.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Its hash.
    pub digest: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Blob {
    fn of(bytes: Vec<u8>) -> Blob {
        Blob { digest: digest(&bytes), bytes }
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// What a manifest is.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A whole image in memory.
#[derive(Clone, Debug)]
pub struct MadeImage {
    /// Config and layers.
    pub blobs: Vec<Blob>,
    /// The manifest.
    pub manifest: Blob,
}

impl MadeImage {
    /// Makes an image of tars, with this `config` in its config.
    pub fn new(layers: Vec<Vec<u8>>, config: Value) -> MadeImage {
        let diff_ids: Vec<String> = layers.iter().map(|tar| digest(tar)).collect();
        let history: Vec<Value> = layers
            .iter()
            .map(|_| json!({ "created": "2026-01-01T00:00:00Z", "created_by": "busybox" }))
            .collect();
        let config = Blob::of(
            json!({
                "architecture": architecture(),
                "os": "linux",
                "config": config,
                "rootfs": { "type": "layers", "diff_ids": diff_ids },
                "history": history,
            })
            .to_string()
            .into_bytes(),
        );
        let layers: Vec<Blob> = layers.iter().map(|tar| Blob::of(gzip(tar))).collect();
        let layer = |blob: &Blob| blob.descriptor("application/vnd.oci.image.layer.v1.tar+gzip");
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": layers.iter().map(layer).collect::<Vec<_>>(),
        });
        let manifest = Blob::of(manifest.to_string().into_bytes());
        MadeImage { blobs: layers.into_iter().chain([config]).collect(), manifest }
    }

    /// Writes it as an OCI layout.
    pub fn write(&self, folder: &Path) {
        let blobs = folder.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for blob in self.blobs.iter().chain([&self.manifest]) {
            let name = blob.digest.strip_prefix("sha256:").unwrap();
            std::fs::write(blobs.join(name), &blob.bytes).unwrap();
        }
        let mut descriptor = self.manifest.descriptor(MANIFEST);
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
        std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
        let version = json!({ "imageLayoutVersion": "1.0.0" });
        std::fs::write(folder.join("oci-layout"), version.to_string()).unwrap();
    }
}

/// This machine's architecture, in the words of images.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}
