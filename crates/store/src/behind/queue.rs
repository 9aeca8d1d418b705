//! What waits to be sent: blobs in any order, each document behind the blobs that were held when it came (pure).

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use dcbuild_model::BlobDigest;

use crate::ObjectName;

/// One thing that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Item {
    /// A blob, and its size.
    Blob(BlobDigest, u64),
    /// A document.
    Document(ObjectName, Bytes),
}

impl Item {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Item::Blob(_, size) => *size,
            Item::Document(_, bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        }
    }
}

/// A document on its way, past the queue.
#[derive(Debug)]
struct Direct {
    name: ObjectName,
    /// Somebody has deleted it meanwhile.
    deleted: bool,
}

/// What waits, in the order in which it came.
#[derive(Debug, Default)]
pub(super) struct Queue {
    items: BTreeMap<u64, Item>,
    blobs: HashMap<BlobDigest, u64>,
    documents: BTreeMap<ObjectName, u64>,
    /// What is under way, and the name of a document; one that was replaced or deleted meanwhile still is.
    sending: BTreeMap<u64, Option<ObjectName>>,
    /// Documents whose writers send them themselves.
    direct: BTreeMap<u64, Direct>,
    /// Documents that are being deleted, by how many: what was written since waits for the end of it.
    deleting: BTreeMap<ObjectName, usize>,
    next: u64,
    bytes: u64,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Has a document go past the queue, unless it could overtake something: a blob that it leans on, its former self, or
    /// that one's removal. What is given is to be ended.
    pub(super) fn begin_direct(&mut self, name: &ObjectName) -> Option<u64> {
        let nothing_waits = self.items.is_empty() && self.sending.is_empty();
        if !nothing_waits || self.is_busy(name) {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.direct.insert(number, Direct { name: name.clone(), deleted: false });
        Some(number)
    }

    /// Ends it, and says whether somebody has deleted the document meanwhile.
    pub(super) fn end_direct(&mut self, number: u64) -> bool {
        self.direct.remove(&number).is_some_and(|direct| direct.deleted)
    }

    /// Whether a version of a document is on its way.
    pub(super) fn is_under_way(&self, name: &ObjectName) -> bool {
        let direct = self.direct.values().map(|direct| &direct.name);
        self.sending.values().flatten().chain(direct).any(|it| it == name)
    }

    /// Whether a document must not be sent now: of two things that are done with one name at once, either may be the last.
    fn is_busy(&self, name: &ObjectName) -> bool {
        self.deleting.contains_key(name) || self.is_under_way(name)
    }

    /// The bytes of all that waits.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn has_blob(&self, blob: &BlobDigest) -> bool {
        self.blobs.contains_key(blob)
    }

    pub(super) fn document(&self, name: &ObjectName) -> Option<Bytes> {
        match self.items.get(self.documents.get(name)?)? {
            Item::Document(_, bytes) => Some(bytes.clone()),
            Item::Blob(..) => None,
        }
    }

    /// The documents below a prefix and behind a name, in order.
    pub(super) fn documents<'q>(
        &'q self,
        prefix: &'q str,
        after: Option<&'q ObjectName>,
    ) -> impl Iterator<Item = (&'q ObjectName, u64)> {
        let below = move |name: &&ObjectName| {
            name.as_str().starts_with(prefix) && after.is_none_or(|after| *name > after)
        };
        let size = |number: &u64| self.items.get(number).map_or(0, Item::bytes);
        self.documents
            .keys()
            .filter(move |name| below(name))
            .map(move |name| (name, self.documents.get(name).map_or(0, size)))
    }

    /// Adds something; a blob that waits already does so once, and a document takes the place of its former self.
    pub(super) fn add(&mut self, item: Item) {
        match &item {
            Item::Blob(blob, _) if self.has_blob(blob) => return,
            Item::Blob(blob, _) => drop(self.blobs.insert(*blob, self.next)),
            Item::Document(name, _) => {
                if let Some(former) = self.documents.insert(name.clone(), self.next) {
                    self.forget(former);
                }
            }
        }
        self.bytes += item.bytes();
        self.items.insert(self.next, item);
        self.next += 1;
    }

    fn forget(&mut self, number: u64) -> Option<Item> {
        let item = self.items.remove(&number)?;
        self.bytes -= item.bytes();
        Some(item)
    }

    /// The next thing that may be sent, now under way. A document waits for its former self, and for that one's removal.
    pub(super) fn take(&mut self) -> Option<(u64, Item)> {
        let mut behind_blob = false;
        for (number, item) in &self.items {
            let (name, held_back) = match item {
                Item::Blob(..) => {
                    behind_blob = true;
                    (None, self.sending.contains_key(number))
                }
                Item::Document(name, _) => (Some(name.clone()), behind_blob || self.is_busy(name)),
            };
            if !held_back {
                self.sending.insert(*number, name);
                return Some((*number, item.clone()));
            }
        }
        None
    }

    /// Ends a try; what was sent waits no more, and is given back unless it was replaced meanwhile.
    pub(super) fn end(&mut self, number: u64, sent: bool) -> Option<Item> {
        self.sending.remove(&number);
        if !sent {
            return None;
        }
        let item = self.forget(number)?;
        match &item {
            Item::Blob(blob, _) => drop(self.blobs.remove(blob)),
            Item::Document(name, _) => drop(self.documents.remove(name)),
        }
        Some(item)
    }

    /// Nobody sends any more: what was under way is dropped, and waits for the next who does.
    pub(super) fn stop_sending(&mut self) {
        self.sending.clear();
    }

    /// Takes documents out that are not wanted any more, and holds back what is written of them from now on until the
    /// removal has ended. Gives back what waited.
    pub(super) fn begin_delete(&mut self, names: &[ObjectName]) -> Vec<Item> {
        let mut waited = Vec::new();
        for name in names {
            *self.deleting.entry(name.clone()).or_default() += 1;
            if let Some(number) = self.documents.remove(name) {
                waited.extend(self.forget(number));
            }
        }
        for direct in self.direct.values_mut() {
            direct.deleted |= names.contains(&direct.name);
        }
        waited
    }

    /// The removal has ended.
    pub(super) fn end_delete(&mut self, names: &[ObjectName]) {
        for name in names {
            let Some(count) = self.deleting.get_mut(name) else { continue };
            *count -= 1;
            if *count == 0 {
                self.deleting.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use dcbuild_model::Digest;

    use super::*;

    fn blob(text: &str) -> Item {
        Item::Blob(BlobDigest(Digest::of(text.as_bytes())), 10)
    }

    fn document(name: &str, text: &str) -> Item {
        Item::Document(name.parse().unwrap(), Bytes::from(text.to_owned()))
    }

    fn taken(queue: &mut Queue) -> Vec<u64> {
        std::iter::from_fn(|| queue.take().map(|(number, _)| number)).collect()
    }

    #[test]
    fn a_document_goes_once_the_blobs_before_it_have_gone() {
        let mut queue = Queue::default();
        for item in [blob("a"), document("x", "1"), blob("b"), document("y", "2")] {
            queue.add(item);
        }
        queue.add(blob("a"));
        assert_eq!((queue.len(), queue.bytes()), (4, 22));
        assert_eq!(taken(&mut queue), [0, 2]);
        assert_eq!(queue.end(2, true), Some(blob("b")));
        assert!(taken(&mut queue).is_empty());
        assert_eq!(queue.end(0, false), None);
        assert_eq!(taken(&mut queue), [0]);
        queue.end(0, true);
        assert_eq!(taken(&mut queue), [1, 3]);
        queue.end(1, true);
        queue.end(3, true);
        assert!(queue.is_empty() && queue.bytes() == 0);
    }

    #[test]
    fn a_document_that_is_written_again_while_it_is_sent_is_sent_again() {
        let mut queue = Queue::default();
        let name = "x/y".parse().unwrap();
        queue.add(document("x/y", "old"));
        assert_eq!(taken(&mut queue), [0]);
        queue.add(document("x/y", "new"));
        assert!(taken(&mut queue).is_empty(), "the old one may still arrive");
        assert_eq!(queue.end(0, true), None);
        assert_eq!(queue.document(&name), Some(Bytes::from_static(b"new")));
        assert_eq!(queue.documents("x/", None).collect::<Vec<_>>(), [(&name, 3)]);
        assert_eq!(taken(&mut queue), [1]);
        let waited = queue.begin_delete(std::slice::from_ref(&name));
        assert_eq!(waited, [document("x/y", "new")]);
        assert!(queue.is_empty() && queue.is_under_way(&name));
        queue.add(document("x/y", "newest"));
        assert_eq!(queue.end(1, true), None);
        assert!(taken(&mut queue).is_empty() && !queue.is_under_way(&name), "it is being deleted");
        queue.end_delete(&[name]);
        assert_eq!(taken(&mut queue), [2]);
    }

    #[test]
    fn a_document_goes_past_the_queue_only_where_it_overtakes_nothing() {
        let mut queue = Queue::default();
        let [name, other]: [ObjectName; 2] = ["x/y", "x/z"].map(|name| name.parse().unwrap());
        let first = queue.begin_direct(&name).unwrap();
        assert_eq!(queue.begin_direct(&name), None, "its former self is on its way");
        let second = queue.begin_direct(&other).unwrap();
        assert!(!queue.end_direct(second));
        queue.add(document("x/y", "new"));
        assert!(taken(&mut queue).is_empty());
        assert_eq!(queue.begin_delete(std::slice::from_ref(&name)).len(), 1);
        assert!(queue.is_empty() && queue.is_under_way(&name));
        assert!(queue.end_direct(first), "who wrote it is told that it is deleted");
        assert_eq!(queue.begin_direct(&name), None, "it is being deleted");
        queue.end_delete(std::slice::from_ref(&name));
        queue.add(blob("a"));
        assert_eq!(queue.begin_direct(&name), None, "it may lean on the blob");
    }
}
