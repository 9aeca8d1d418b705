//! Documents that anybody may have written are read or refused, and what was read is written so that it can be read.
#![expect(clippy::unwrap_used, reason = "test")]

use dcbuild_proto::cache::{CacheAsk, CacheTold};
use dcbuild_proto::document::{
    Answer, Failed, Lease, Outcome, OutputResult, Question, StepError, Submission, Summary, Work,
    from_bytes, from_hex, to_bytes, to_hex,
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

fn twice<T: for<'de> Deserialize<'de> + Serialize>(bytes: &[u8]) {
    if let Ok(document) = from_bytes::<T>("any", bytes) {
        let written = to_bytes(&document);
        let again = from_bytes::<T>("any", &written).unwrap();
        assert_eq!(to_bytes(&again), written);
    }
}

fn all(bytes: &[u8]) {
    twice::<Submission>(bytes);
    twice::<Lease>(bytes);
    twice::<Work>(bytes);
    twice::<Outcome>(bytes);
    twice::<OutputResult>(bytes);
    twice::<Failed>(bytes);
    twice::<StepError>(bytes);
    twice::<Summary>(bytes);
    twice::<Question>(bytes);
    twice::<Answer>(bytes);
    twice::<CacheAsk>(bytes);
    twice::<CacheTold>(bytes);
}

/// A document of the right keys with values of any kind.
fn document() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "ran",
        "hits",
        "shared",
        "unneeded",
        "kind",
        "ask",
        "of",
        "message",
        "hint",
        "build",
        "steps",
        "digest",
        "scope",
        "request",
        "outputs",
        "error",
        "vertex",
        "exit_code",
        "images",
        "selections",
    ]);
    let value = prop::sample::select(vec![
        "0",
        "-1",
        "1e99",
        "4294967296",
        "null",
        "[]",
        "{}",
        "\"\"",
        "\"a\"",
        "true",
        "[null]",
        "\"sha256:00\"",
        "\"stats\"",
        "\"../x\"",
        "\"\\u0000\"",
    ]);
    let field = (key, value).prop_map(|(key, value)| format!("\"{key}\":{value}"));
    prop::collection::vec(field, 0..6).prop_map(|fields| format!("{{{}}}", fields.join(",")))
}

proptest! {
    #[test]
    fn any_document_is_read_or_refused(text in document(), bytes: Vec<u8>) {
        all(text.as_bytes());
        all(&bytes);
    }

    #[test]
    fn hex_is_read_as_it_was_written(bytes: Vec<u8>, text in "\\PC{0,12}") {
        prop_assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes));
        let _refused = from_hex(&text);
    }
}

#[test]
fn depth_and_unknown_names_are_refused() {
    let deep = "[".repeat(200_000);
    all(deep.as_bytes());
    let summary = r#"{"ran":1,"hits":2,"shared":3,"unneeded":4"#;
    assert!(from_bytes::<Summary>("summary", format!("{summary}}}").as_bytes()).is_ok());
    assert!(
        from_bytes::<Summary>("summary", format!("{summary},\"more\":5}}").as_bytes()).is_err()
    );
}
