//! The sweeper of a coordinator: from time to time it holds the store's ceilings.

use std::sync::Arc;
use std::time::Duration;

use dcbuild_model::Scope;
use dcbuild_process::Clock;
use dcbuild_store::{Ceilings, PutOff, SweepReport, trim_notes};
use tokio_util::sync::CancellationToken;

use crate::config::Stores;
use crate::records::WrittenScopes;
use crate::sweeps::Sweeps;

/// An upload that was begun so long ago has no end to come.
const UPLOAD_AGE: Duration = Duration::from_hours(24);

/// Sweeps a store.
pub(crate) struct Sweeper {
    pub(crate) stores: Stores,
    pub(crate) scope: Scope,
    /// Where notes are to be trimmed.
    pub(crate) written: WrittenScopes,
    pub(crate) ceilings: Ceilings,
    pub(crate) every: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sweeps: Sweeps,
    /// Tells this sweeper from others.
    pub(crate) holder: String,
}

impl Sweeper {
    /// Sweeps until it is told to stop; what fails is tried again the next time.
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            let rest = stop.run_until_cancelled(tokio::time::sleep(self.every)).await;
            if rest.is_none() || stop.run_until_cancelled(self.sweep()).await.is_none() {
                return;
            }
        }
    }

    async fn sweep(&self) {
        match self.try_sweep().await {
            Ok(Some(SweepReport { put_off: Some(why), .. })) => {
                let why = match why {
                    PutOff::Filling => {
                        "the index was flushed, or lost something, and is not filled from the store again yet"
                    }
                    PutOff::BegunBefore => {
                        "builds go on that began before the index was flushed, or lost something"
                    }
                    PutOff::Foreign => {
                        "not one document of the store carries our seal: is DCBUILD_SIGNING_KEY the one of this store?"
                    }
                    PutOff::Elsewhere => {
                        "builds or imports go on in other processes, of whose uses this index does not know"
                    }
                };
                tracing::warn!(why, "the store was not swept");
            }
            Ok(Some(report)) => {
                let removed = report.total();
                let (count, bytes) = (removed.count, removed.bytes);
                if count > 0 {
                    tracing::info!(count, bytes, kept = report.kept_bytes, "the store was swept");
                }
            }
            Ok(None) => {}
            Err(error) => {
                let error = dcbuild_process::story(&error);
                tracing::warn!(error, "the store could not be swept");
            }
        }
    }

    /// Nothing, where another sweeper has the turn or there is no ceiling.
    async fn try_sweep(&self) -> Result<Option<SweepReport>, dcbuild_store::StoreError> {
        if !self.stores.swept.take_turn(&self.holder).await? {
            return Ok(None);
        }
        let mut written = self.written.take();
        written.insert(self.scope.clone());
        trim_notes(&*self.stores.notes, &Vec::from_iter(written)).await?;
        if let Some(leftovers) = &self.stores.leftovers {
            leftovers.sweep_uploads(UPLOAD_AGE).await?;
        }
        if self.ceilings == Ceilings::default() {
            return Ok(None);
        }
        let now = self.clock.now();
        self.sweeps.sweep(&self.stores, &self.scope, &self.ceilings, now).await.map(Some)
    }
}
