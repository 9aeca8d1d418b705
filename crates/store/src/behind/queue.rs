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

/// What waits, in the order in which it came.
#[derive(Debug, Default)]
pub(super) struct Queue {
    items: BTreeMap<u64, Item>,
    blobs: HashMap<BlobDigest, u64>,
    documents: BTreeMap<ObjectName, u64>,
    /// What is under way, and the name of a document; one that was replaced or deleted meanwhile still is.
    sending: BTreeMap<u64, Option<ObjectName>>,
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

    /// Whether nothing waits and nothing is under way: what is written now overtakes nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.items.is_empty() && self.sending.is_empty()
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

    /// The next thing that may be sent, now under way. A document waits for its former self: of two that are under way at
    /// once, either may be the last.
    pub(super) fn take(&mut self) -> Option<(u64, Item)> {
        let mut behind_blob = false;
        for (number, item) in &self.items {
            let (name, held_back) = match item {
                Item::Blob(..) => {
                    behind_blob = true;
                    (None, self.sending.contains_key(number))
                }
                Item::Document(name, _) => {
                    let is_under_way = self.sending.values().flatten().any(|it| it == name);
                    (Some(name.clone()), behind_blob || is_under_way)
                }
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

    /// Takes documents out that are not wanted any more.
    pub(super) fn drop_documents(&mut self, names: &[ObjectName]) {
        for name in names {
            if let Some(number) = self.documents.remove(name) {
                self.forget(number);
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
        queue.drop_documents(&[name]);
        assert!(queue.is_empty() && !queue.is_idle());
        assert_eq!(queue.end(1, true), None);
        assert!(queue.is_idle());
    }
}
