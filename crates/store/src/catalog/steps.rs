//! Step records: `scope/SCOPE/step/KEY/ATTEMPT`, under the recipe key and, where it is known, the outcome key.

use dcbuild_model::{Record, Scope, StepKey, UnixTime};
use serde::{Deserialize, Serialize};

use super::{Catalog, Found, decode, encode};
use crate::attempts::retain_takeable;
use crate::{IndexKey, StepIndex, StoreError, Unseen};

/// The only form that is understood; any other is a miss.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredRecord {
    version: u32,
    /// When it was decided that this attempt's result counts.
    pub(super) decided: UnixTime,
    pub(super) record: Record,
}

fn key_of(scope: &Scope, key: &StepKey) -> IndexKey {
    IndexKey(format!("scope/{scope}/step/{}", key.0.hex()))
}

/// Whether a key is of the records of a step.
pub(super) fn is_key(key: &IndexKey) -> bool {
    key.0.starts_with("scope/") && key.0.contains("/step/")
}

impl Catalog {
    /// All records of this very scope under each key, in the order asked, the one decided last at the end.
    pub async fn records_of(
        &self,
        scope: &Scope,
        keys: &[StepKey],
    ) -> Result<Vec<Vec<Record>>, StoreError> {
        self.records(std::slice::from_ref(scope), keys).await
    }

    /// For each key a list for each scope, in one question.
    async fn records(
        &self,
        scopes: &[Scope],
        keys: &[StepKey],
    ) -> Result<Vec<Vec<Record>>, StoreError> {
        let of_all = |key| scopes.iter().map(move |scope| (key, key_of(scope, key)));
        let (of, asked): (Vec<&StepKey>, Vec<IndexKey>) = keys.iter().flat_map(of_all).unzip();
        let found = Catalog::find(self, &asked).await?;
        let in_one = |(key, documents): (&StepKey, Vec<Found>)| {
            let stored = decode::<StoredRecord>(self, "a step record", documents);
            let mut stored: Vec<StoredRecord> = stored.into_values().collect();
            stored.retain(|stored| {
                let record = &stored.record;
                let named = record.recipe == *key || record.outcome == Some(*key);
                named && stored.version == VERSION
            });
            stored.sort_by_key(|stored| (stored.decided, stored.record.attempt));
            stored.into_iter().map(|stored| stored.record).collect()
        };
        Ok(of.into_iter().zip(found).map(in_one).collect())
    }
}

#[async_trait::async_trait]
impl StepIndex for Catalog {
    async fn find(&self, scope: &Scope, keys: &[StepKey]) -> Result<Vec<Vec<Record>>, StoreError> {
        let mut scopes: Vec<Scope> = scope.readable().collect();
        scopes.reverse();
        let mut lists = self.records(&scopes, keys).await?;
        retain_takeable(&mut lists, |record| record);
        let mut lists = lists.into_iter();
        Ok(keys.iter().map(|_| lists.by_ref().take(scopes.len()).flatten().collect()).collect())
    }

    async fn put(&self, scope: &Scope, record: &Record) -> Result<(), StoreError> {
        let attempt = record.attempt.to_string();
        for key in std::iter::once(record.recipe).chain(record.outcome) {
            let key = key_of(scope, &key);
            let before = Catalog::find(self, std::slice::from_ref(&key)).await?;
            if let Some((_, same)) = before.iter().flatten().find(|(field, _)| *field == attempt) {
                // What this process tells its own index ends with it; others see that it was written.
                if self.inner.parts.unseen == Unseen::UsedWhenWritten {
                    Catalog::put(self, &key, &attempt, same).await?;
                }
                continue;
            }
            let stored =
                StoredRecord { version: VERSION, decided: self.now(), record: record.clone() };
            Catalog::put(self, &key, &attempt, &encode("a step record", &stored)?).await?;
        }
        Ok(())
    }
}
