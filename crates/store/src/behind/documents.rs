//! Documents: one thing at a time is done with each name, so that the last that was asked for is the last that is done.

use bytes::Bytes;
use dcbuild_model::UnixTime;

use super::queue::Item;
use super::{Behind, GLIMPSE};
use crate::{ListedObject, ObjectName, ObjectPage, Objects, StoreError};

/// What has become of a document while it was on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Wanted,
    Deleted,
}

/// A document that its writer sends itself.
struct Direct<'a> {
    behind: &'a Behind,
    number: Option<u64>,
}

impl<'a> Direct<'a> {
    /// None, where it would overtake something.
    fn begin(behind: &'a Behind, name: &ObjectName) -> Option<Direct<'a>> {
        let number = behind.queue().begin_direct(name)?;
        Some(Direct { behind, number: Some(number) })
    }

    fn end(mut self) -> Fate {
        self.finish()
    }

    fn finish(&mut self) -> Fate {
        let Some(number) = self.number.take() else { return Fate::Wanted };
        let deleted = self.behind.queue().end_direct(number);
        self.behind.inner.ended.notify_waiters();
        self.behind.inner.came.notify_one();
        if deleted { Fate::Deleted } else { Fate::Wanted }
    }
}

impl Drop for Direct<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A removal; until its end nothing is sent of what was written since.
struct Deletion<'a> {
    behind: &'a Behind,
    names: &'a [ObjectName],
}

impl<'a> Deletion<'a> {
    /// With what waited.
    fn begin(behind: &'a Behind, names: &'a [ObjectName]) -> (Deletion<'a>, Vec<Item>) {
        let waited = behind.queue().begin_delete(names);
        (Deletion { behind, names }, waited)
    }

    /// Waits for the end of what was sent before: it must not come in behind the removal.
    async fn nothing_is_under_way(&self) {
        loop {
            let ended = self.behind.inner.ended.notified();
            tokio::pin!(ended);
            // From here on no end is missed.
            ended.as_mut().enable();
            let is_under_way = {
                let queue = self.behind.queue();
                self.names.iter().any(|name| queue.is_under_way(name))
            };
            if !is_under_way {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Deletion<'_> {
    fn drop(&mut self) {
        self.behind.queue().end_delete(self.names);
        self.behind.inner.came.notify_one();
    }
}

#[async_trait::async_trait]
impl Objects for Behind {
    async fn put(&self, name: &ObjectName, bytes: Bytes) -> Result<(), StoreError> {
        if self.tries_first()
            && let Some(direct) = Direct::begin(self, name)
        {
            let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let put = self.inner.far.objects.put(name, bytes.clone());
            if self.hurry(size, put).await.is_some() {
                return Ok(());
            }
            if direct.end() == Fate::Deleted {
                return Ok(());
            }
        }
        self.hold(Item::Document(name.clone(), bytes)).await;
        Ok(())
    }

    async fn get(&self, name: &ObjectName, max: u64) -> Result<Option<Bytes>, StoreError> {
        let held = self.queue().document(name);
        match held {
            Some(bytes) if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max => {
                Err(StoreError::ObjectTooLarge { name: name.clone(), max })
            }
            Some(bytes) => Ok(Some(bytes)),
            // Nobody waits once more for what has not answered others.
            None if self.is_unreadable() => Err(self.kept_here()),
            None => {
                let found = self.inner.far.objects.get(name, max).await;
                found.inspect(|_| self.answers()).inspect_err(|error| self.read_failed(error))
            }
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectName>,
    ) -> Result<ObjectPage, StoreError> {
        if self.is_unreadable() {
            return Err(self.kept_here());
        }
        let listed = self.inner.far.objects.list(prefix, after).await;
        let listed =
            listed.inspect(|_| self.answers()).inspect_err(|error| self.read_failed(error));
        let ObjectPage { mut objects, more } = listed?;
        let last = if more { objects.last().map(|object| object.name.clone()) } else { None };
        let modified = UnixTime { secs: 0, nanos: 0 };
        for (name, size) in self.queue().documents(prefix, after) {
            if last.as_ref().is_none_or(|last| name <= last) {
                objects.push(ListedObject { name: name.clone(), size, modified });
            }
        }
        objects.sort_by(|one, other| one.name.cmp(&other.name));
        // What waits stands behind its former self, and counts.
        objects.dedup_by(|waits, former| {
            let same = waits.name == former.name;
            if same {
                former.size = waits.size;
            }
            same
        });
        Ok(ObjectPage { objects, more })
    }

    async fn delete(&self, names: &[ObjectName]) -> Result<(), StoreError> {
        let (deletion, waited) = Deletion::begin(self, names);
        for item in waited {
            self.note(&item)?;
        }
        self.tell(None);
        let remove = async {
            deletion.nothing_is_under_way().await;
            self.inner.far.objects.delete(names).await
        };
        // Nobody waits long to hear once more that it gives no answer.
        if !self.is_unreadable() {
            remove.await?;
        } else if self.given_up_on() {
            return Err(self.kept_here());
        } else {
            let removed = tokio::time::timeout(GLIMPSE, remove).await;
            removed.unwrap_or_else(|_late| Err(self.kept_here()))?;
        }
        if self.is_unreadable() {
            self.reads_again();
        }
        Ok(())
    }

    fn on_their_way(&self, prefix: &str) -> Vec<(ObjectName, Bytes)> {
        let queue = self.queue();
        let names = queue.documents(prefix, None).map(|(name, _)| name.clone());
        names.filter_map(|name| Some((name.clone(), queue.document(&name)?))).collect()
    }
}
