//! Any file of remembered hashes is read or counts as empty.
#![no_main]

use std::os::unix::ffi::OsStrExt as _;
use std::sync::LazyLock;

use dcbuild_context::{Context, StatCache};
use dcbuild_model::Digest;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// The state folder and the context, one pair for the whole run.
static PLACE: LazyLock<(TempDir, Context)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let context = Context::open(folder.path(), 0).unwrap();
    (folder, context)
});

fuzz_target!(|bytes: &[u8]| {
    let (folder, context) = &*PLACE;
    let name = Digest::of(context.root().as_os_str().as_bytes()).hex();
    let file = folder.path().join(format!("context-{}.stats", &name[..32]));
    // The check at the end is right, or nothing behind it would ever be read.
    let mut whole = [b"dcbuild-stats/1\n", bytes].concat();
    let check = Digest::of(&whole).0;
    whole.extend_from_slice(&check);
    std::fs::write(&file, &whole).unwrap();
    let _length = StatCache::load(folder.path(), context).len();
});
