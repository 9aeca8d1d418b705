use dcbuild_context::LocalContexts;
use dcbuild_layer::{BlobForm, InlineContents, write_blob};
use dcbuild_model::Digest;
use dcbuild_parcel::wrap;
use dcbuild_process::SystemClock;
use dcbuild_snapshot::Snapshots;
use dcbuild_store::{FolderStore, LayerIndex as _};
use dcbuild_testkit::{Counted, CountingBlobs, MemoryBlobs};
use dcbuild_tree::{Change, Changes, Entry, Kind, Meta};
use tokio::runtime::{Handle, Runtime};

use super::*;
use crate::contexts::ContextTree;
use crate::parcel;

/// A worker's layers over a store that counts; the forms of layers are known in a folder.
struct World {
    dir: tempfile::TempDir,
    blobs: Arc<CountingBlobs<MemoryBlobs>>,
    index: Arc<FolderStore>,
    layers: Arc<Layers>,
    runtime: Runtime,
}

fn content(bytes: &[u8]) -> ContentDigest {
    ContentDigest(Digest::of(bytes))
}

/// A tree of files with the bytes inside.
fn tree(files: &[(String, Vec<u8>)]) -> Changes {
    let entries = files.iter().map(|(path, bytes)| {
        let size = u64::try_from(bytes.len()).unwrap();
        let origin = Origin::Inline(bytes.clone().into());
        let body = FileBody { content: content(bytes), size, origin };
        let entry = Entry { meta: Meta::default(), kind: Kind::File(body), links: None };
        (TreePath::clean(path.as_bytes()).unwrap(), Change::Put(entry))
    });
    Changes(entries.collect())
}

impl World {
    fn new() -> World {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let index = Arc::new(FolderStore::open(&dir.path().join("store")).unwrap());
        let snapshots = Snapshots::open(&dir.path().join("snapshots")).unwrap();
        let blobs = Arc::new(CountingBlobs::<MemoryBlobs>::default());
        let parts = crate::Parts {
            blobs: blobs.clone(),
            layers: index.clone(),
            caches: None,
            images: None,
            folder: None,
            near: None,
            peers: None,
            contexts: Arc::new(LocalContexts::new()),
            clock: Arc::new(SystemClock),
        };
        let handle: Handle = runtime.handle().clone();
        let (tmp, sending_max) = (dir.path().to_owned(), crate::layers::SENDING_MAX);
        let elsewhere = crate::layers::Elsewhere { handle, tmp, sending_max };
        let layers = Arc::new(Layers::new(snapshots, &parts, elsewhere));
        World { dir, blobs, index, layers, runtime }
    }

    /// Stores a parcel of these files as a client does, and gives its packs too.
    fn store(&self, files: &[(String, Vec<u8>)]) -> (BlobDigest, Vec<StoredBlob>) {
        let tree = tree(files);
        let wrapped = wrap(&tree);
        let bytes_of: HashMap<ContentDigest, &Vec<u8>> =
            files.iter().map(|(_, bytes)| (content(bytes), bytes)).collect();
        let form = BlobForm { compression: Compression::Zstd, level: None, threads: 1 };
        let stored = wrapped.packs.iter().map(|pack| {
            let changes =
                pack.changes(|file| Origin::Inline(bytes_of[&file.content].clone().into()));
            let mut blob = Vec::new();
            let written = write_blob(&changes, &InlineContents, &form, &mut blob).unwrap();
            self.blobs.store().insert(blob);
            let index = self.blobs.store().insert(written.index.encode());
            let stored = StoredBlob { blob: written.blob, index };
            self.runtime.block_on(self.index.put_form(&pack.layer(), &stored)).unwrap();
            stored
        });
        let stored = stored.collect();
        for (blob, bytes) in wrapped.pieces {
            assert_eq!(self.blobs.store().insert(bytes), blob);
        }
        (self.blobs.store().insert(wrapped.parcel.encode()), stored)
    }

    fn open(&self, parcel: &BlobDigest) -> Result<ContextTree, Failed> {
        parcel::open(&self.layers, parcel, self.dir.path().into())
    }
}

fn body(context: &ContextTree, path: &str) -> FileBody {
    let entry = context.tree.get(&TreePath::clean(path.as_bytes()).unwrap()).unwrap();
    let Kind::File(body) = &entry.kind else { panic!("{path} is no file") };
    body.clone()
}

fn read(context: &ContextTree, path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    context.contents.open(&body(context, path))?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn some(count: usize) -> Vec<(String, Vec<u8>)> {
    let text = |number: usize| format!("file {number}\n").repeat(50).into_bytes();
    let path = |number: usize| format!("folder-{}/{}/{number}", number % 11, number % 5);
    (0..count).map(|number| (path(number), text(number))).collect()
}

#[test]
fn all_files_come_out_of_packs_with_one_read_of_each() {
    let world = World::new();
    let mut files = some(3000);
    files.push(("empty".into(), Vec::new()));
    files.push(("twin".into(), files[7].1.clone()));
    let (parcel, stored) = world.store(&files);
    let context = world.open(&parcel).unwrap();
    let opened = world.blobs.take();
    assert!(opened.gets < 30 && opened.asked == 1, "{opened:?}");
    for (path, bytes) in &files {
        assert_eq!(&read(&context, path).unwrap(), bytes, "{path}");
    }
    let packs = u64::try_from(stored.len()).unwrap();
    let bytes = stored.iter().map(|stored| stored.blob.size).sum();
    let counted = world.blobs.take();
    assert_eq!(counted, Counted { gets: packs, got_bytes: bytes, ..Counted::default() });
    assert!((5..60).contains(&packs), "{packs}");
}

#[test]
fn many_threads_read_each_pack_once() {
    let world = World::new();
    let files = some(2000);
    let (parcel, stored) = world.store(&files);
    let context = world.open(&parcel).unwrap();
    world.blobs.take();
    std::thread::scope(|scope| {
        for part in files.chunks(250) {
            let context = &context;
            scope.spawn(move || {
                for (path, bytes) in part {
                    assert_eq!(&read(context, path).unwrap(), bytes, "{path}");
                }
            });
        }
    });
    assert_eq!(world.blobs.take().gets, u64::try_from(stored.len()).unwrap());
}

#[test]
fn one_file_costs_its_pack_alone() {
    let world = World::new();
    let (parcel, stored) = world.store(&some(3000));
    let context = world.open(&parcel).unwrap();
    world.blobs.take();
    read(&context, "folder-3/4/14").unwrap();
    let counted = world.blobs.take();
    assert_eq!(counted.gets, 1, "{counted:?}");
    assert!(stored.iter().any(|stored| stored.blob.size == counted.got_bytes));
}

#[test]
fn a_large_file_is_streamed_and_read_once_for_all() {
    let world = World::new();
    let noise: Vec<u8> = (0_u32..1_200_000)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect();
    let files =
        vec![("large".to_owned(), [&noise[..], &noise].concat()), ("small".into(), b"x".to_vec())];
    let (parcel, _) = world.store(&files);
    let context = world.open(&parcel).unwrap();
    world.blobs.take();
    let mut readers = Vec::new();
    let mut reader = context.contents.open(&body(&context, "large")).unwrap();
    let mut begin = vec![0; 1000];
    reader.read_exact(&mut begin).unwrap();
    assert_eq!(begin, noise[..1000]);
    drop(reader);
    let first = context.contents.open(&body(&context, "large")).unwrap();
    for mut reader in [context.contents.open(&body(&context, "large")).unwrap(), first] {
        let followed = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes)
        });
        readers.push(followed);
    }
    for reader in readers {
        assert_eq!(reader.join().unwrap().unwrap(), files[0].1);
    }
    assert_eq!(read(&context, "large").unwrap(), files[0].1);
    let counted = world.blobs.take();
    assert_eq!(counted.gets, 3, "its index once, one that gave up, one for all: {counted:?}");
    assert_eq!(read(&context, "small").unwrap(), b"x");
}

#[test]
fn what_is_lost_is_said_before_anything_is_read_and_what_is_corrupt_is_not_believed() {
    let world = World::new();
    let (parcel, stored) = world.store(&some(500));
    let context = world.open(&parcel).unwrap();
    let blob = BlobDigest(stored[0].blob.digest.0);
    world.blobs.store().corrupt(&blob, &b"other bytes"[..]);
    let failed = some(500).iter().filter(|(path, _)| read(&context, path).is_err()).count();
    assert!(failed > 0);
    world.blobs.store().remove(&blob);
    assert!(matches!(world.open(&parcel), Err(Failed::Lost { .. })));
    world.blobs.store().remove(&parcel);
    assert!(matches!(world.open(&parcel), Err(Failed::ContextLost)));
}

#[test]
fn another_pack_under_the_same_name_is_not_believed() {
    let world = World::new();
    let files = some(500);
    let (parcel, _) = world.store(&files);
    let other: Vec<_> =
        files.iter().map(|(path, bytes)| (path.clone(), [&bytes[..], b"!"].concat())).collect();
    let (_, others) = world.store(&other);
    for pack in &wrap(&tree(&files)).packs {
        world.runtime.block_on(world.index.put_form(&pack.layer(), &others[0])).unwrap();
    }
    let context = world.open(&parcel).unwrap();
    let error = read(&context, &files[0].0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_pack_that_grows_without_end_is_refused() {
    let bytes = usize::try_from(TAR_BYTES_MAX).unwrap();
    let blob = |len| zstd::encode_all(&vec![0; len][..], 1).unwrap();
    assert_eq!(tar_of(&blob(bytes)).unwrap().len(), bytes);
    assert_eq!(tar_of(&blob(bytes + 1)).unwrap_err().kind(), io::ErrorKind::InvalidData);
}
