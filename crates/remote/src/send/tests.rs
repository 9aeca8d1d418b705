use std::collections::HashMap as Map;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Mutex;

use dcbuild_model::{SelectionForm, UnixTime};
use dcbuild_store::FolderStore;
use dcbuild_testkit::{Counted, CountingBlobs, MemoryBlobs, MemoryLayers};
use dcbuild_tree::Ignore;

use super::*;

struct World {
    dir: tempfile::TempDir,
    blobs: Arc<CountingBlobs<MemoryBlobs>>,
    layers: Arc<MemoryLayers>,
    builds: Mutex<usize>,
}

fn all() -> Selection {
    let sources = vec![".".to_owned()];
    Selection { form: SelectionForm::Copy, sources, exclude: Vec::new(), parents: false }
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("context")).unwrap();
        let (blobs, layers) = (Arc::default(), Arc::default());
        World { dir, blobs, layers, builds: Mutex::new(0) }
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("context")
    }

    fn write(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// The folder as a build of its own sees it, which has nothing in memory.
    fn context(&self) -> Arc<LocalContext> {
        let mut builds = self.builds.lock().unwrap();
        *builds += 1;
        let stats = self.dir.path().join(format!("stats{builds}"));
        let now = UnixTime::default();
        Arc::new(
            LocalContext::open_folder(&self.root(), Ignore::default(), &stats, 0, now).unwrap(),
        )
    }

    fn sender(&self) -> Sender {
        Sender { blobs: self.blobs.clone(), layers: self.layers.clone() }
    }

    async fn send(&self) -> (Sent, Counted) {
        let sent = self.sender().send(self.context(), all()).await.unwrap();
        let counted = self.blobs.take();
        assert_eq!(counted.put_bytes, sent.uploaded_bytes);
        (sent, counted)
    }
}

/// Text that compresses to about a third, another for each number.
fn text(number: usize, bytes: usize) -> String {
    let line =
        |line: usize| Digest::of(format!("{number} {line}").as_bytes()).hex() + " a line of text\n";
    (0..).map(line).flat_map(String::into_bytes).take(bytes).map(char::from).collect()
}

fn many(world: &World, count: usize) {
    for number in 0..count {
        let path = format!("service-{}/src/{}/{number}.rs", number % 20, number % 7);
        world.write(path, text(number, 1000));
    }
}

#[tokio::test]
async fn what_is_there_is_not_sent_again_and_a_change_sends_its_pack() {
    let world = World::new();
    many(&world, 10_000);
    let (first, cold) = world.send().await;
    assert_eq!(first.found_bytes, 0);
    assert!(cold.put_bytes > 4_000_000, "{cold:?}");
    assert!(cold.puts < 200, "{cold:?}");

    let (again, warm) = world.send().await;
    assert_eq!((again.parcel, again.uploaded_bytes), (first.parcel, 0));
    assert_eq!(again.found_bytes, 10_000_000);
    assert_eq!(warm, Counted { asked: 1, ..Counted::default() });

    world.write("service-3/src/1/9843.rs", text(20_000, 1000));
    let (_, changed) = world.send().await;
    assert!(changed.puts <= 12, "{changed:?}");
    assert!(changed.put_bytes < cold.put_bytes / 10, "{changed:?} of {cold:?}");

    std::fs::rename(world.root().join("service-4"), world.root().join("renamed")).unwrap();
    let known = world.layers.all().len();
    let (_, renamed) = world.send().await;
    assert_eq!(world.layers.all().len(), known, "no pack is new");
    assert!(renamed.puts <= 8 && renamed.put_bytes < cold.put_bytes / 10, "{renamed:?}");
}

#[tokio::test]
async fn another_with_the_same_files_sends_no_content() {
    let world = World::new();
    many(&world, 2000);
    let (_, cold) = world.send().await;
    let later = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    for number in 0..2000 {
        let path = format!("service-{}/src/{}/{number}.rs", number % 20, number % 7);
        let file = std::fs::File::options().append(true).open(world.root().join(path)).unwrap();
        file.set_times(later).unwrap();
    }
    let known = world.layers.all().len();
    let (sent, counted) = world.send().await;
    assert_eq!(world.layers.all().len(), known);
    assert_eq!(sent.found_bytes, 2_000_000);
    assert!(counted.put_bytes < cold.put_bytes / 20, "{counted:?} of {cold:?}");
}

#[tokio::test]
async fn odd_entries_are_sent_as_they_are() {
    let world = World::new();
    for number in 0..3000 {
        world.write(format!("empty/{number}"), "");
    }
    let (_, empty) = world.send().await;
    assert_eq!(world.layers.all().len(), 0, "nothing has no pack");
    assert!(empty.put_bytes < 40_000, "{empty:?}");

    world.write(std::ffi::OsStr::from_bytes(b"odd-\xff"), "odd");
    std::fs::hard_link(world.root().join("empty/1"), world.root().join("other name")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", world.root().join("out")).unwrap();
    std::os::unix::fs::symlink("nowhere", world.root().join("dangling")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(world.root().join("socket")).unwrap();
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, world.root().join("fifo"), mode).unwrap();
    let context = world.context();
    let tree = pruned(&context.tree(&all()).unwrap(), &all()).unwrap().as_changes();
    let (sent, _) = world.send().await;
    let document = dcbuild_store::read_bytes(&*world.blobs, &sent.parcel, 1 << 20).await.unwrap();
    let parcel = dcbuild_parcel::Parcel::decode(&document).unwrap();
    let mut pieces = Map::new();
    for blob in parcel.blobs() {
        let bytes = dcbuild_store::read_bytes(&*world.blobs, &blob, 1 << 20).await.unwrap();
        pieces.insert(blob, bytes);
    }
    let opened = parcel.open(&pieces).unwrap();
    let (mut one, mut other) = (dcbuild_tree::Tree::scratch(), dcbuild_tree::Tree::scratch());
    one.apply(&opened.tree);
    other.apply(&tree);
    assert_eq!(
        dcbuild_tree::toc::encode(&one.as_changes()),
        dcbuild_tree::toc::encode(&other.as_changes())
    );
    assert_eq!(parcel.packs.len(), 1);
}

#[tokio::test]
async fn large_files_are_packs_of_their_own_and_found_under_another_name() {
    let world = World::new();
    world.write("large", text(1, 5 << 20));
    world.write("small", "small");
    let (_, cold) = world.send().await;
    assert_eq!(world.layers.all().len(), 2);
    std::fs::create_dir(world.root().join("sub")).unwrap();
    std::fs::rename(world.root().join("large"), world.root().join("sub/moved")).unwrap();
    let (sent, moved) = world.send().await;
    assert_eq!(sent.found_bytes, (5 << 20) + 5);
    assert!(cold.put_bytes > 1 << 20 && moved.put_bytes < 2000, "{cold:?} {moved:?}");
}

#[tokio::test]
async fn a_pack_that_the_store_lost_is_sent_again() {
    let world = World::new();
    many(&world, 1000);
    world.send().await;
    let lost = world.layers.all()[0].1.clone();
    assert!(world.blobs.store().remove(&BlobDigest(lost.blob.digest.0)));
    let (sent, counted) = world.send().await;
    assert!(sent.uploaded_bytes > lost.blob.size && counted.puts == 2, "{sent:?} {counted:?}");
    assert_eq!(world.send().await.1.puts, 0);
}

#[tokio::test]
async fn a_file_that_changed_since_it_was_hashed_is_named() {
    let world = World::new();
    many(&world, 300);
    world.write("folder/file", "before");
    let context = world.context();
    context.select(&all()).unwrap();
    world.write("folder/file", "behind");
    let error = world.sender().send(context, all()).await.unwrap_err();
    assert_eq!(error.to_string(), "context changed during the build: /folder/file");

    let context = world.context();
    context.select(&all()).unwrap();
    std::fs::remove_file(world.root().join("folder/file")).unwrap();
    let error = world.sender().send(context.clone(), all()).await.unwrap_err();
    assert_eq!(error.to_string(), "context changed during the build: /folder/file");
    std::os::unix::fs::symlink("/etc/passwd", world.root().join("folder/file")).unwrap();
    let error = world.sender().send(context, all()).await.unwrap_err();
    assert_eq!(error.to_string(), "context changed during the build: /folder/file");
}

#[tokio::test]
async fn a_folder_store_takes_parcels_too() {
    let world = World::new();
    many(&world, 500);
    let store = Arc::new(FolderStore::open(&world.dir.path().join("store")).unwrap());
    let sender = || Sender { blobs: store.clone(), layers: store.clone() };
    let first = sender().send(world.context(), all()).await.unwrap();
    let again = sender().send(world.context(), all()).await.unwrap();
    assert!(first.uploaded_bytes > 100_000);
    assert_eq!(again, Sent { uploaded_bytes: 0, found_bytes: 500_000, ..first.clone() });
}
