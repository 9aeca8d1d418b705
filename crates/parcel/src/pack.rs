//! A pack: a layer whose files are named by their content.

use dcbuild_model::{ContentDigest, LayerId, TreePath};
use dcbuild_tree::{Change, Changes, Entry, FileBody, Kind, Meta, Origin, toc};

/// A file of a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackedFile {
    /// Its bytes.
    pub content: ContentDigest,
    /// How many there are.
    pub size: u64,
}

impl PackedFile {
    /// Its path in the pack.
    pub fn path(&self) -> TreePath {
        path_of(&self.content)
    }
}

/// The path of a content in any pack that has it.
pub(crate) fn path_of(content: &ContentDigest) -> TreePath {
    TreePath::root().join(content.0.hex().as_bytes())
}

/// Contents that are stored together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pack {
    files: Vec<PackedFile>,
}

impl Pack {
    pub(crate) fn of(mut files: Vec<PackedFile>) -> Pack {
        files.sort_by_key(|file| file.content);
        Pack { files }
    }

    /// What it holds, in the order of the digests.
    pub fn files(&self) -> &[PackedFile] {
        &self.files
    }

    /// The bytes of all its files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// The pack as a layer; `origin` says where the bytes of a content are read.
    pub fn changes(&self, origin: impl Fn(&PackedFile) -> Origin) -> Changes {
        let meta = Meta { mode: 0o444, ..Meta::default() };
        let entries = self.files.iter().map(|file| {
            let body = FileBody { content: file.content, size: file.size, origin: origin(file) };
            let entry = Entry { meta: meta.clone(), kind: Kind::File(body), links: None };
            (file.path(), Change::Put(entry))
        });
        Changes(entries.collect())
    }

    /// The layer's id, which follows from the digests alone.
    pub fn layer(&self) -> LayerId {
        let nowhere = Origin::Inline([].into());
        toc::layer_id(&toc::encode(&self.changes(|_| nowhere.clone())))
    }
}
