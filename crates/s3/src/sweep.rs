//! Throws away uploads that nobody will end: their makers died, or could not reach the store any more.

use std::time::{Duration, UNIX_EPOCH};

use dcbuild_store::{Leftovers, StoreError};

use crate::S3Store;
use crate::wire::Upload;

#[async_trait::async_trait]
impl Leftovers for S3Store {
    async fn sweep_uploads(&self, older_than: Duration) -> Result<u64, StoreError> {
        let store = &self.inner;
        let prefix = store.keys.below("blob/");
        let before = store.wire.now().checked_sub(older_than).unwrap_or(UNIX_EPOCH);
        let before = before.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let before = i64::try_from(before).unwrap_or(i64::MAX);
        let mut swept = 0;
        let mut after: Option<Upload> = None;
        loop {
            let listed = store.wire.open_uploads(&prefix, after.as_ref()).await;
            let (uploads, more) = listed.map_err(|failure| store.error(failure))?;
            for open in uploads.iter().filter(|open| open.begun.secs <= before) {
                let aborted = store.wire.abort(&open.upload).await;
                aborted.map_err(|failure| store.error(failure))?;
                swept += 1;
            }
            after = uploads.into_iter().last().map(|open| open.upload);
            if !more || after.is_none() {
                return Ok(swept);
            }
        }
    }
}
