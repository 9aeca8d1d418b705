//! Any bytes are a parcel or are refused, and any parcel opens or is refused.
#![no_main]

use std::collections::HashMap;

use dcbuild_model::BlobDigest;
use dcbuild_parcel::Parcel;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Nearly no bytes are compressed JSON by chance: the fuzzer writes the document, if it begins like one. One of another
    // rule is refused when it comes.
    let written = |bytes: &[u8]| Some(serde_json::from_slice::<Parcel>(bytes).ok()?.encode());
    let parcel = match bytes.first() {
        Some(b'{') => written(bytes).and_then(|coded| Parcel::decode(&coded).ok()),
        _ => Parcel::decode(bytes).ok(),
    };
    if let Some::<Parcel>(parcel) = parcel {
        let none: HashMap<BlobDigest, Vec<u8>> = HashMap::new();
        let _opened = parcel.open(&none);
        assert!(Parcel::decode(&parcel.encode()).is_ok_and(|again| again == parcel));
    }
});
