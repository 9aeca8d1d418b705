//! Files of a layer whose maker has too much to do.

mod rpc;

use std::time::Duration;

use dcbuild_context::LocalContexts;
use dcbuild_model::WorkerId;
use dcbuild_process::SystemClock;
use dcbuild_snapshot::Snapshots;
use dcbuild_store::FolderStore;
use dcbuild_testkit::MemoryBlobs;
use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;

use self::rpc::Maker;
use super::*;

const BYTES: &[u8] = b"what the file holds";

/// A worker that lacks a layer which is on its way, and as it says for ever.
struct World {
    layers: Arc<Layers>,
    layer: LayerId,
    maker: Maker,
    runtime: Runtime,
    _dir: tempfile::TempDir,
}

impl World {
    fn new(refusals: u64, sending_max: Duration) -> World {
        let (runtime, tasks) = (Runtime::new().unwrap(), TaskTracker::new());
        let dir = tempfile::tempdir().unwrap();
        let maker = Maker::new(refusals, BYTES);
        let _inside = runtime.enter();
        let channel = runtime.block_on(maker.serve(&tasks));
        let parts = crate::Parts {
            blobs: Arc::new(MemoryBlobs::default()),
            layers: Arc::new(FolderStore::open(&dir.path().join("store")).unwrap()),
            caches: None,
            images: None,
            folder: None,
            near: None,
            peers: Some(Peers::new(channel, WorkerId::from_bits(1))),
            contexts: Arc::new(LocalContexts::new()),
            clock: Arc::new(SystemClock),
        };
        let snapshots = Snapshots::open(&dir.path().join("snapshots")).unwrap();
        let (handle, tmp) = (runtime.handle().clone(), dir.path().to_owned());
        let elsewhere = crate::layers::Elsewhere { handle, tmp, sending_max };
        let layers = Arc::new(Layers::new(snapshots, &parts, elsewhere));
        let layer = LayerId(Digest::of(b"a table"));
        layers.expect([layer].into_iter());
        World { layers, layer, maker, runtime, _dir: dir }
    }

    /// Reads the file as blocking code does.
    fn read(&self) -> io::Result<Vec<u8>> {
        let path = TreePath::clean(b"file").unwrap();
        let size = u64::try_from(BYTES.len()).unwrap();
        let origin = Origin::Layer { layer: self.layer, path };
        let body = FileBody { content: ContentDigest(Digest::of(BYTES)), size, origin };
        let contents = Contents::new(self.layers.clone());
        let reading = self.runtime.spawn_blocking(move || {
            let mut bytes = Vec::new();
            contents.open(&body)?.read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        self.runtime.block_on(reading).unwrap()
    }
}

#[test]
fn a_maker_that_has_too_much_to_do_is_asked_again_until_it_gives_the_file() {
    let world = World::new(2, Duration::from_mins(5));
    assert_eq!(world.read().unwrap(), BYTES);
    assert_eq!(world.maker.asked(), 3);
}

#[test]
fn a_maker_that_never_gives_the_file_is_not_asked_for_ever() {
    let world = World::new(u64::MAX, Duration::from_secs(2));
    let error = world.read().unwrap_err();
    let failed = Failed::sandbox(&error);
    assert!(matches!(failed, Failed::Lost { layer } if layer == world.layer), "{failed:?}");
    let asked = world.maker.asked();
    assert!((2..=4).contains(&asked), "it was asked {asked} times, once in a second");
    // Whoever comes next does not begin anew.
    assert!(world.read().is_err());
    assert_eq!(world.maker.asked(), asked);
}
