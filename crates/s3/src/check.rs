//! Tries what a build will need of the store, for whoever sets it up.

use bytes::Bytes;
use dcbuild_model::Digest;
use dcbuild_store::StoreError;

use crate::S3Store;
use crate::failure::{Failure, FailureKind};
use crate::grants::lifetime;
use crate::store::Inner;

/// What is tried, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckStep {
    /// The bucket is there, and can be listed.
    List,
    /// An object can be written.
    Write,
    /// A part of it can be read, and is what was written.
    Read,
    /// Leave to read it can be given to others.
    Presign,
    /// An upload in parts can be begun, found and given up.
    Upload,
    /// The object can be deleted.
    Delete,
}

impl CheckStep {
    /// What is tried, in words.
    pub fn words(self) -> &'static str {
        match self {
            CheckStep::List => "list the bucket",
            CheckStep::Write => "write an object",
            CheckStep::Read => "read a part of it",
            CheckStep::Presign => "sign leave to read it",
            CheckStep::Upload => "begin an upload in parts, find it and give it up",
            CheckStep::Delete => "delete the object",
        }
    }
}

/// How one step went.
#[derive(Debug)]
pub enum Checked {
    /// As it should.
    Well,
    /// The error says what to do about it.
    Failed(StoreError),
    /// Not tried, since what it needs had failed.
    Skipped,
}

const CONTENT: &[u8] = b"dcbuild was here";

impl S3Store {
    /// Tries each thing that a build needs and says how it went; leaves nothing behind if deleting works.
    pub async fn check(&self) -> Vec<(CheckStep, Checked)> {
        let store = &self.inner;
        let key = store.keys.below(&format!("check/{}", unique(store)));
        let mut report = Report { store, steps: Vec::new(), has_failed: false };
        report.note(CheckStep::List, store.wire.list(&key, None).await.map(drop));
        if !report.has_failed {
            let written = store.wire.put(&key, &CONTENT.into(), &Digest::of(CONTENT)).await;
            report.note(CheckStep::Write, written);
        }
        let is_written = !report.has_failed;
        if is_written {
            report.note(CheckStep::Read, read(store, &key).await);
            report.note(CheckStep::Presign, presign(store, &key).await);
            report.note(CheckStep::Upload, upload(store, &key).await);
            report.note(CheckStep::Delete, store.wire.delete(&[key]).await);
        }
        report.finish()
    }
}

struct Report<'a> {
    store: &'a Inner,
    steps: Vec<(CheckStep, Checked)>,
    has_failed: bool,
}

impl Report<'_> {
    fn note(&mut self, step: CheckStep, ended: Result<(), Failure>) {
        let checked = match ended {
            Ok(()) => Checked::Well,
            Err(failure) => {
                self.has_failed = true;
                Checked::Failed(self.store.error(failure))
            }
        };
        self.steps.push((step, checked));
    }

    fn finish(mut self) -> Vec<(CheckStep, Checked)> {
        use CheckStep::{Delete, List, Presign, Read, Upload, Write};
        let all = [List, Write, Read, Presign, Upload, Delete];
        self.steps.extend(all.iter().skip(self.steps.len()).map(|step| (*step, Checked::Skipped)));
        self.steps
    }
}

/// A name that no other check has at the same time.
fn unique(store: &Inner) -> String {
    let passed = store.wire.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}-{}", passed.as_secs(), passed.subsec_nanos(), std::process::id())
}

async fn read(store: &Inner, key: &str) -> Result<(), Failure> {
    let fetched = store.wire.get(key, 8, 3).await?;
    let expected = Bytes::from_static(CONTENT).slice(8..11);
    if fetched.bytes == expected && usize::try_from(fetched.size) == Ok(CONTENT.len()) {
        return Ok(());
    }
    let answer = format!("{:?} came in place of {expected:?}", fetched.bytes);
    Err(Failure::new(FailureKind::Damaged, "GetObject", answer))
}

async fn presign(store: &Inner, key: &str) -> Result<(), Failure> {
    let signed = lifetime(store)?;
    store.wire.presign_get(key, signed).await.map(drop)
}

async fn upload(store: &Inner, key: &str) -> Result<(), Failure> {
    let upload = store.wire.begin_granted(key).await?;
    let listed = store.wire.open_uploads(key, None).await;
    store.wire.abort(&upload).await?;
    let (found, _) = listed?;
    if found.iter().any(|open| open.upload == upload) {
        return Ok(());
    }
    let answer =
        "an upload that was begun is not listed; what crashes leave behind cannot be swept";
    Err(Failure::new(FailureKind::Refused, "ListMultipartUploads", answer))
}
