//! Any bytes are a blob's index or are refused; what was read can be written and read again.
#![no_main]

use dcbuild_layer::BlobIndex;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(index) = BlobIndex::decode(bytes) {
        let written = index.encode();
        assert_eq!(BlobIndex::decode(&written).unwrap().encode(), written);
    }
});
