//! Any bytes are a table of contents, and the only form of it, or are refused.
#![no_main]

use dcbuild_tree::toc::{decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(changes) = decode(bytes) {
        assert_eq!(encode(&changes), bytes);
    }
});
