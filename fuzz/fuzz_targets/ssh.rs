//! Any message to an agent passes or does not, and any file is a key or is refused.
#![no_main]

use dcbuild_agent::{Key, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _request = Request::parse(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _key = Key::parse(text);
    }
});
