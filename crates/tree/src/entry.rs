//! One entry of a tree: what `lstat` would say of it, and the digest of its content.

use std::collections::BTreeMap;
use std::sync::Arc;

use dcbuild_model::{ContentDigest, LayerId, TreePath, UnixTime};

/// Extended attributes by name; shared, since most entries have none and many have the same.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Xattrs(Option<Arc<BTreeMap<Vec<u8>, Vec<u8>>>>);

impl Xattrs {
    /// Keeps attributes; an empty map costs nothing.
    pub fn new(attributes: BTreeMap<Vec<u8>, Vec<u8>>) -> Xattrs {
        Xattrs((!attributes.is_empty()).then(|| Arc::new(attributes)))
    }

    /// The attributes, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0
            .iter()
            .flat_map(|map| map.iter().map(|(name, value)| (name.as_slice(), value.as_slice())))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |map| map.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// What every kind of entry has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky: at most `0o7777`.
    pub mode: u32,
    /// The owner, as the image sees it.
    pub uid: u32,
    /// The owning group, as the image sees it.
    pub gid: u32,
    /// The time of the last change of content.
    pub mtime: UnixTime,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// Where the bytes of a file lie. It is no part of what a tree is: two trees that differ only here are equal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// In a layer, under this path; the path never names a later hard link of a group.
    Layer {
        /// The layer.
        layer: LayerId,
        /// The path in the layer.
        path: TreePath,
    },
    /// In a folder of the build's context, as long as the build lasts.
    Context {
        /// The place of the folder in the job's list of contexts.
        context: u32,
        /// The path below that folder, `.dockerignore` already applied.
        path: TreePath,
    },
    /// Here.
    Inline(Arc<[u8]>),
}

/// A regular file's content.
#[derive(Clone, Debug)]
pub struct FileBody {
    /// The digest of its bytes.
    pub content: ContentDigest,
    /// How many there are.
    pub size: u64,
    /// Where they lie.
    pub origin: Origin,
}

impl PartialEq for FileBody {
    fn eq(&self, other: &FileBody) -> bool {
        self.content == other.content && self.size == other.size
    }
}

impl Eq for FileBody {}

/// The kinds of entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A folder.
    Dir,
    /// A regular file.
    File(FileBody),
    /// A symbolic link and its target, as written.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A socket: kept out of layers, as tar has no form for it.
    Socket,
    /// A character device.
    CharDevice {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
}

/// Ties the names of one inode together; numbers have a meaning only inside one tree or one layer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkGroup(pub u64);

/// One entry of a tree or layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Mode, owner, time, attributes.
    pub meta: Meta,
    /// What it is.
    pub kind: Kind,
    /// The hard-link group, where the inode has more than one name.
    pub links: Option<LinkGroup>,
}
