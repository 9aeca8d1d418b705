//! Images as dcbuild writes them: OCI layouts, in a tar or in a folder.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::layout::digest;
use crate::merged::Merged;

/// An image that was read as a whole, every digest checked.
#[derive(Clone, Debug)]
pub struct Image {
    /// The manifest's digest.
    pub digest: String,
    /// The manifest.
    pub manifest: Value,
    /// The config.
    pub config: Value,
    /// The layers, uncompressed, from below.
    pub layers: Vec<Vec<u8>>,
}

impl Image {
    /// Reads `--output type=oci,dest=PATH`.
    pub fn read_tar(path: &Path) -> Image {
        let mut files = HashMap::new();
        let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(name.trim_start_matches("./").to_owned(), bytes);
        }
        Image::of(&|name| files.get(name).cloned())
    }

    /// Reads an OCI layout in a folder.
    pub fn read_folder(folder: &Path) -> Image {
        Image::of(&|name| std::fs::read(folder.join(name)).ok())
    }

    fn of(file: &dyn Fn(&str) -> Option<Vec<u8>>) -> Image {
        let index = file("index.json").expect("an OCI layout has an index.json");
        let index: Value = serde_json::from_slice(&index).unwrap();
        let blob = |digest: &str| {
            let name = format!("blobs/{}", digest.replace(':', "/"));
            file(&name).unwrap_or_else(|| panic!("the layout has no blob {digest}"))
        };
        Image::below(&index, &blob)
    }

    /// Follows indexes down to the first image that is one.
    pub fn below(index: &Value, blob: &dyn Fn(&str) -> Vec<u8>) -> Image {
        let descriptors = index["manifests"].as_array().unwrap();
        let real = |it: &&Value| it["platform"]["os"] != "unknown";
        let found = descriptors.iter().find(real).expect("the index names an image");
        let named = found["digest"].as_str().unwrap();
        let bytes = checked(named, blob);
        let manifest: Value = serde_json::from_slice(&bytes).unwrap();
        if manifest.get("manifests").is_some() {
            return Image::below(&manifest, blob);
        }
        Image::of_manifest(named, manifest, blob)
    }

    fn of_manifest(named: &str, manifest: Value, blob: &dyn Fn(&str) -> Vec<u8>) -> Image {
        let config = checked(manifest["config"]["digest"].as_str().unwrap(), blob);
        let config: Value = serde_json::from_slice(&config).unwrap();
        let layers: Vec<Vec<u8>> = manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|layer| plain(checked(layer["digest"].as_str().unwrap(), blob)))
            .collect();
        let diff_ids: Vec<Value> = layers.iter().map(|layer| digest(layer).into()).collect();
        assert_eq!(Value::from(diff_ids), config["rootfs"]["diff_ids"], "the config's diff ids");
        Image { digest: named.to_owned(), manifest, config, layers }
    }

    /// The files of all layers.
    pub fn tree(&self) -> Merged {
        let mut tree = Merged::default();
        for layer in &self.layers {
            tree.apply(layer);
        }
        tree
    }

    /// The diff ids, from below.
    pub fn diff_ids(&self) -> Vec<String> {
        self.layers.iter().map(|layer| digest(layer)).collect()
    }
}

fn checked(named: &str, blob: &dyn Fn(&str) -> Vec<u8>) -> Vec<u8> {
    let bytes = blob(named);
    assert_eq!(digest(&bytes), named, "a blob's name");
    bytes
}

/// Uncompresses by what the bytes are, as media types are checked elsewhere.
fn plain(bytes: Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut out).unwrap();
    } else if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        out = zstd::stream::decode_all(bytes.as_slice()).unwrap();
    } else {
        out = bytes;
    }
    out
}
