//! The busybox base image, made from the machine's static busybox.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::layout::{LayerTar, MadeImage};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const FOLDERS: &[(&str, u32)] = &[
    ("bin", 0o755),
    ("etc", 0o755),
    ("root", 0o700),
    ("tmp", 0o1777),
    ("proc", 0o755),
    ("sys", 0o755),
    ("dev", 0o755),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("var", 0o755),
];

/// The layer with busybox under each of its names.
pub fn busybox_layer() -> Vec<u8> {
    static LAYER: OnceLock<Vec<u8>> = OnceLock::new();
    LAYER.get_or_init(make_layer).clone()
}

fn make_layer() -> Vec<u8> {
    let program = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.exists())
        .expect("busybox is installed: apt-get install busybox-static, or `cargo xtask setup`");
    let listed = Command::new(program).arg("--list").output().unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    let mut layer = FOLDERS
        .iter()
        .fold(LayerTar::default(), |layer, (path, mode)| layer.dir(path, *mode))
        .file("bin/busybox", 0o755, &std::fs::read(program).unwrap());
    for name in names.lines().filter(|name| *name != "busybox") {
        layer = layer.hard_link(&format!("bin/{name}"), "bin/busybox");
    }
    let users = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    layer
        .file("etc/passwd", 0o644, users)
        .file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")
        .finish()
}

fn config() -> Value {
    json!({ "Env": [PATH], "Cmd": ["sh"] })
}

/// `busybox:golden`.
pub fn busybox() -> MadeImage {
    MadeImage::new(vec![busybox_layer()], config())
}

/// busybox with one more layer on it.
pub fn busybox_with(layer: LayerTar) -> MadeImage {
    MadeImage::new(vec![busybox_layer(), layer.finish()], config())
}
