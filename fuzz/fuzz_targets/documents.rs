//! Any bytes are a document of the wire or the store, or are refused; documents are written as they were read.
#![no_main]

use dcbuild_explain::Account;
use dcbuild_plan::{Plan, Request};
use dcbuild_proto::cache::{CacheAsk, CacheTold, ListedRecord};
use dcbuild_proto::document::{
    Answer, Failed, Lease, Outcome, OutputResult, Question, StepError, Submission, Summary, Work,
    from_bytes, to_bytes,
};
use libfuzzer_sys::fuzz_target;
use serde::{Deserialize, Serialize};

fn twice<T: for<'de> Deserialize<'de> + Serialize>(bytes: &[u8]) {
    if let Ok(document) = from_bytes::<T>("any", bytes) {
        let written = to_bytes(&document);
        let again = from_bytes::<T>("any", &written).unwrap();
        assert_eq!(to_bytes(&again), written);
    }
}

fuzz_target!(|bytes: &[u8]| {
    twice::<Submission>(bytes);
    twice::<Request>(bytes);
    twice::<Plan>(bytes);
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
    twice::<ListedRecord>(bytes);
    let _account = Account::from_bytes(bytes);
});
