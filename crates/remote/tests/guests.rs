//! What is taken of those whose word of layers is not taken: the packs of their files, which are looked at.
#![expect(clippy::unwrap_used, reason = "test")]

use std::sync::Arc;
use std::time::Duration;

use dcbuild_layer::{BlobForm, InlineContents, write_blob};
use dcbuild_model::{
    BlobDigest, Compression, ContentDigest, DiffId, Digest, LayerId, Scope, TreePath,
};
use dcbuild_parcel::wrap;
use dcbuild_proto::document::to_bytes;
use dcbuild_proto::pb;
use dcbuild_proto::pb::store_server::Store as _;
use dcbuild_remote::{Door, StoreService};
use dcbuild_store::{
    Grant, GrantMethod, Grants, StoreError, StoredBlob, WriteGrant, Written, form_of, read_bytes,
};
use dcbuild_testkit::{MemoryBlobs, MemoryLayers};
use dcbuild_tree::{Change, Changes, Entry, FileBody, Kind, Meta, Origin, toc};
use tonic::{Code, Request};

/// Lets nobody in.
struct Shut;

impl Door for Shut {
    fn lets_work(&self, _: &[String]) -> Result<(), String> {
        Err("this certificate is for builds".into())
    }

    fn reads(&self, _: &Scope) -> bool {
        false
    }

    fn writes(&self, _: &Scope) -> bool {
        false
    }
}

/// Grants everything.
struct Generous;

#[async_trait::async_trait]
impl Grants for Generous {
    async fn read(&self, blob: &BlobDigest) -> Result<Grant, StoreError> {
        Err(StoreError::NotFound { blob: *blob })
    }

    async fn write(&self, _: &BlobDigest, _: u64) -> Result<WriteGrant, StoreError> {
        let (method, url, headers) = (GrantMethod::Put, "s3:".to_owned(), Vec::new());
        Ok(WriteGrant::Whole(Grant { method, url, headers, valid_for: Duration::from_secs(9) }))
    }

    async fn finish(&self, _: &BlobDigest, _: &Written) -> Result<(), StoreError> {
        Ok(())
    }
}

fn file(path: &str, bytes: &[u8]) -> (TreePath, Change) {
    let (content, origin) = (ContentDigest(Digest::of(bytes)), Origin::Inline(bytes.into()));
    let body = FileBody { content, size: u64::try_from(bytes.len()).unwrap(), origin };
    let entry = Entry { meta: Meta::default(), kind: Kind::File(body), links: None };
    (TreePath::clean(path.as_bytes()).unwrap(), Change::Put(entry))
}

/// A store that holds the blob of a layer.
struct World {
    blobs: Arc<MemoryBlobs>,
    layers: Arc<MemoryLayers>,
    service: StoreService,
}

impl World {
    fn new() -> World {
        let (blobs, layers) = (Arc::<MemoryBlobs>::default(), Arc::<MemoryLayers>::default());
        let service = StoreService::new(blobs.clone(), layers.clone()).with_door(Arc::new(Shut));
        World { blobs, layers, service }
    }

    fn store(&self, changes: &Changes, compression: Compression) -> (LayerId, StoredBlob) {
        let form = BlobForm { compression, level: None, threads: 1 };
        let mut blob = Vec::new();
        let written = write_blob(changes, &InlineContents, &form, &mut blob).unwrap();
        self.blobs.insert(blob);
        let index = self.blobs.insert(written.index.encode());
        (toc::layer_id(&toc::encode(changes)), StoredBlob { blob: written.blob, index })
    }

    /// Stores a pack of some files, as a client does.
    fn pack(&self, compression: Compression) -> (LayerId, StoredBlob) {
        let large = vec![b'a'; 300_000];
        let bytes: [&[u8]; 3] = [b"one", b"two", &large];
        let tree =
            Changes([file("a", bytes[0]), file("b/c", bytes[1]), file("d", bytes[2])].into());
        let pack = wrap(&tree).packs.remove(0);
        let origin = |content: &ContentDigest| {
            let own = bytes.iter().find(|bytes| Digest::of(bytes) == content.0).unwrap();
            Origin::Inline((*own).into())
        };
        let (layer, stored) = self.store(&pack.changes(|file| origin(&file.content)), compression);
        assert_eq!(layer, pack.layer());
        (layer, stored)
    }

    async fn put(&self, layer: LayerId, stored: &StoredBlob) -> Result<(), (Code, String)> {
        let stored = to_bytes(stored).into();
        let request = Request::new(pb::PutLayerRequest { layer: layer.to_string(), stored });
        let told = self.service.put_layer(request).await;
        told.map(drop).map_err(|status| (status.code(), status.message().to_owned()))
    }
}

#[tokio::test]
async fn a_pack_is_taken() {
    let world = World::new();
    let (layer, stored) = world.pack(Compression::Zstd);
    world.put(layer, &stored).await.unwrap();
    let form = form_of(&*world.layers, &layer, Compression::Zstd).await.unwrap();
    assert_eq!(form.as_ref(), Some(&stored));
    // What is there is not replaced, and what is said of it then does not count.
    let noise = StoredBlob { index: world.blobs.insert(b"noise".to_vec()), ..stored.clone() };
    world.put(layer, &noise).await.unwrap();
    let form = form_of(&*world.layers, &layer, Compression::Zstd).await.unwrap();
    assert_eq!(form, Some(stored));
}

/// Whoever writes large blobs to a bucket in parts can write anything under their names.
#[tokio::test]
async fn a_large_blob_is_not_written_past_the_service() {
    let world = World::new();
    let granting = StoreService::new(world.blobs.clone(), world.layers.clone())
        .with_grants(Some(Arc::new(Generous)))
        .with_door(Arc::new(Shut));
    for (size, count) in [(5 << 20, 1), ((5 << 20) + 1, 0)] {
        let blob = BlobDigest(Digest::of(b"large")).to_string();
        let request = Request::new(pb::GrantRequest { blob, write_bytes: Some(size) });
        let granted = granting.grant(request).await.unwrap().into_inner();
        assert_eq!(granted.grants.len(), count, "{size}");
    }
}

#[tokio::test]
async fn what_is_no_pack_is_not() {
    let world = World::new();
    let (layer, pack) = world.pack(Compression::Zstd);
    let (_, other) = world.pack(Compression::Gzip);
    let step = Changes([file("etc/passwd", b"root::0:0::/:")].into());
    let (step_layer, step) = world.store(&step, Compression::Zstd);
    let folder = (TreePath::clean(b"d").unwrap(), Change::Remove);
    let (removing_layer, removing) = world.store(&Changes([folder].into()), Compression::Zstd);
    let mut diff = pack.clone();
    diff.blob.diff_id = DiffId(Digest::of(b"another"));
    let mut size = pack.clone();
    size.blob.size += 1;
    let astray = StoredBlob { index: step.index, ..pack.clone() };
    let noise = StoredBlob { index: world.blobs.insert(b"noise".to_vec()), ..pack.clone() };
    let mut bytes = pack.clone();
    bytes.blob.digest = dcbuild_model::LayerDigest(world.blobs.insert(b"noise too".to_vec()).0);
    // One byte more in all than there is: what is read with the file beside it would be too short.
    let mut index = read_bytes(&*world.blobs, &pack.index, 1 << 20).await.unwrap().to_vec();
    index["dcbindx1".len() + 1] ^= 1;
    let longer = StoredBlob { index: world.blobs.insert(index), ..pack.clone() };
    for (layer, stored, why) in [
        (step_layer, &step, "not named by their digests"),
        (removing_layer, &removing, "more than files"),
        (step_layer, &pack, "not what was said of it"),
        (layer, &diff, "not what was said of it"),
        (layer, &size, "not what was said of it"),
        (layer, &other, "not compressed with zstd"),
        (layer, &astray, "its frames are not what its index says"),
        (layer, &longer, "its frames are not what its index says"),
        (layer, &noise, "its index is malformed"),
        (layer, &bytes, "it is no pack of a context: "),
    ] {
        let (code, message) = world.put(layer, stored).await.unwrap_err();
        assert_eq!(code, Code::PermissionDenied, "{why}: {message}");
        assert!(message.contains("this certificate is for builds"), "{why}: {message}");
        assert!(message.contains(why), "{why}: {message}");
        assert_eq!(form_of(&*world.layers, &layer, Compression::Zstd).await.unwrap(), None);
    }
    let gone = StoredBlob { index: BlobDigest(Digest::of(b"gone")), ..pack };
    assert_eq!(world.put(layer, &gone).await.unwrap_err().0, Code::NotFound);
}
