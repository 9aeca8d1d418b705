//! Any bytes are a layer or are refused; what was read can be written and read again.
#![no_main]

use dcbuild_layer::{LayerForm, NoSink, Ratio, read_layer};
use dcbuild_tree::toc::{decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let form = LayerForm { compression: None, ratio: Ratio::Limited };
    if let Ok(read) = read_layer(bytes, form, &mut NoSink) {
        assert_eq!(encode(&read.changes), read.toc);
        assert!(decode(&read.toc).is_ok());
    }
});
