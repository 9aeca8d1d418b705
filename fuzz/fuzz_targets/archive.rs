//! Any bytes are an archive for ADD, a file that ADD copies, or are refused.
#![no_main]

use dcbuild_layer::{NoSink, read_archive};
use dcbuild_tree::toc::{decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(changes)) = read_archive(bytes, &mut NoSink) {
        assert!(decode(&encode(&changes)).is_ok());
    }
});
