//! What names something prints as what it was read from, read again.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use dcbuild_model::{BlobDigest, BuildId, Digest, Named, Platform, Remote, Scope};
use dcbuild_oci::{ImageRef, LayoutRef, Repository};
use dcbuild_process::{ByteSize, parse_duration};
use dcbuild_store::ObjectName;
use libfuzzer_sys::fuzz_target;

fn twice<T: FromStr<Err: Debug> + Display + PartialEq + Debug>(text: &str) {
    if let Ok(first) = text.parse::<T>() {
        let shown = first.to_string();
        assert_eq!(shown.parse::<T>().as_ref().ok(), Some(&first), "{shown}");
    }
}

fuzz_target!(|text: &str| {
    twice::<ImageRef>(text);
    twice::<Repository>(text);
    twice::<Platform>(text);
    twice::<Digest>(text);
    twice::<BlobDigest>(text);
    twice::<BuildId>(text);
    twice::<Scope>(text);
    let _layout = text.parse::<LayoutRef>();
    let _object = text.parse::<ObjectName>();
    let _size = text.parse::<ByteSize>();
    let _time = parse_duration(text);
    for named in [Named::ByFlag, Named::ByDockerfile] {
        let _remote = Remote::parse(text, named);
    }
});
