//! Any .dockerignore is read or refused, and matches any path in time.
#![no_main]

use dcbuild_tree::{Ignore, Pattern};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (path, file) = match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (&b"src/deep/er/file.rs"[..], bytes),
    };
    if let Ok(ignore) = Ignore::parse(file) {
        let _out = ignore.matches(path);
    }
    if let Ok(pattern) = Pattern::parse(file) {
        let _fits = pattern.matches(path);
    }
});
