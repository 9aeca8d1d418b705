//! The remote store keeps the contract of any store, and survives a connection that is cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dcbuild_model::limits::CHUNK_BYTES;
use dcbuild_model::{
    BlobDigest, ChangeDigest, Compression, DiffId, Digest, LayerBlob, LayerDigest, LayerId,
};
use dcbuild_remote::{RemoteStore, StoreService};
use dcbuild_store::{
    BlobStore, BlobStream, ByteRange, Grant, GrantMethod, Grants, HashedBase, LayerIndex,
    StoreError, StoredBlob, WriteGrant, Written, base_of, form_of, forms_of, read_bytes, stream_of,
};
use dcbuild_testkit::{MemoryBlobs, MemoryLayers, contract};
use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint, Server};

fn remote(blobs: Arc<dyn BlobStore>) -> RemoteStore {
    let service = StoreService::new(blobs, Arc::new(MemoryLayers::default()));
    RemoteStore::new(serve(service), "remote")
}

fn serve(service: StoreService) -> Channel {
    away(service, 0)
}

/// A channel to a side that is away, for so many tries to connect.
fn away(service: StoreService, tries: u32) -> Channel {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let streams = futures::stream::iter([Ok::<_, std::io::Error>(theirs)]);
    let server = Server::builder().add_service(service.into_server());
    drop(TaskTracker::new().spawn(async move { server.serve_with_incoming(streams).await }));
    let (mut ours, mut left) = (Some(TokioIo::new(ours)), tries);
    let connector = tower::service_fn(move |_| {
        let stream = if left > 0 { None } else { ours.take() };
        left = left.saturating_sub(1);
        std::future::ready(stream.ok_or_else(|| std::io::Error::other("away, or used up")))
    });
    Endpoint::from_static("http://store").connect_with_connector_lazy(connector)
}

/// As a coordinator that is started again.
#[tokio::test(start_paused = true)]
async fn a_worker_waits_for_another_side_that_is_away_and_a_client_does_not() {
    let memory = Arc::new(MemoryBlobs::default());
    let blob = memory.insert("here");
    let layer = LayerId(blob.0);
    let channel = || away(StoreService::new(memory.clone(), Arc::new(MemoryLayers::default())), 10);
    let worker = || RemoteStore::of_worker(channel(), "remote", None, std::env::temp_dir());
    assert_eq!(read_bytes(&worker(), &blob, 10).await.unwrap(), "here");
    assert_eq!(worker().find_missing(&[blob]).await.unwrap(), []);
    assert_eq!(forms_of(&worker(), &layer).await.unwrap(), []);
    let small = BlobDigest(Digest::of(b"small"));
    assert_eq!(worker().put(&small, stream_of(&b"small"[..])).await.unwrap(), 5);
    assert_eq!(read_bytes(&*memory, &small, 10).await.unwrap(), "small");
    let client = RemoteStore::new(channel(), "remote");
    let asked = client.find_missing(&[blob]).await;
    assert!(matches!(asked, Err(StoreError::Unavailable { .. })), "{asked:?}");
}

/// Grants writes at a server that never answers, as long as it does not know that.
struct Silent {
    url: String,
    asked: AtomicU32,
}

#[async_trait::async_trait]
impl Grants for Silent {
    async fn read(&self, blob: &BlobDigest) -> Result<Grant, StoreError> {
        Err(StoreError::NotFound { blob: *blob })
    }

    async fn write(&self, _: &BlobDigest, _: u64) -> Result<WriteGrant, StoreError> {
        if self.asked.fetch_add(1, Ordering::SeqCst) > 0 {
            return Err(StoreError::Unavailable {
                store: "sky".into(),
                source: "it is silent".into(),
            });
        }
        let (method, url, headers) = (GrantMethod::Put, self.url.clone(), Vec::new());
        Ok(WriteGrant::Whole(Grant { method, url, headers, valid_for: Duration::from_mins(1) }))
    }

    async fn finish(&self, _: &BlobDigest, _: &Written) -> Result<(), StoreError> {
        panic!("nothing was written")
    }
}

#[tokio::test]
async fn a_write_under_way_is_given_up_once_the_other_side_knows_the_store_to_be_silent() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/b/k", listener.local_addr().unwrap());
    let silent = Arc::new(Silent { url, asked: AtomicU32::new(0) });
    let memory = Arc::new(MemoryBlobs::default());
    let service = StoreService::new(memory.clone(), Arc::new(MemoryLayers::default()));
    let store = RemoteStore::of_worker(
        serve(service.with_grants(Some(silent.clone()))),
        "remote",
        None,
        std::env::temp_dir(),
    );
    let (blob, began) = (BlobDigest(Digest::of(b"small")), tokio::time::Instant::now());
    store.put(&blob, stream_of(&b"small"[..])).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(read_bytes(&*memory, &blob, 10).await.unwrap(), "small", "by the other side");
    assert!(silent.asked.load(Ordering::SeqCst) > 1);
}

/// A worker has a disk for its layers; the machine's temporary folder may be memory.
#[tokio::test]
async fn what_a_worker_sends_lies_in_its_own_folder() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/b/k", listener.local_addr().unwrap());
    let silent = Arc::new(Silent { url, asked: AtomicU32::new(0) });
    let service =
        StoreService::new(Arc::new(MemoryBlobs::default()), Arc::new(MemoryLayers::default()));
    let channel = serve(service.with_grants(Some(silent)));
    let folder = std::path::PathBuf::from("/nowhere/at/all");
    let store = RemoteStore::of_worker(channel, "remote", None, folder);
    let bytes = vec![7; 9 << 20];
    let blob = BlobDigest(Digest::of(&bytes));
    let error = store.put(&blob, stream_of(bytes)).await.unwrap_err();
    assert!(matches!(error, StoreError::Content { .. }), "{error}");
}

#[tokio::test]
async fn it_is_a_blob_store_like_any_other() {
    contract::blobs(&remote(Arc::new(MemoryBlobs::default()))).await;
}

#[tokio::test]
async fn large_blobs_travel_in_pieces() {
    let store = remote(Arc::new(MemoryBlobs::default()));
    let bytes: Vec<u8> = (0..=255).cycle().take(3 * CHUNK_BYTES + 17).collect();
    let blob = BlobDigest(Digest::of(&bytes));
    store.put(&blob, stream_of(bytes.clone())).await.unwrap();
    assert_eq!(read_bytes(&store, &blob, u64::MAX).await.unwrap(), bytes);
}

#[tokio::test]
async fn wrong_bytes_are_not_believed() {
    let memory = Arc::new(MemoryBlobs::default());
    let blob = memory.insert("right");
    let store = remote(memory.clone());
    memory.corrupt(&blob, "wrong");
    let read = read_bytes(&store, &blob, 100).await;
    assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{read:?}");
}

#[tokio::test]
async fn layers_and_bases_are_found_again() {
    let store = remote(Arc::new(MemoryBlobs::default()));
    let digest = Digest::of(b"x");
    let (layer, base) = (LayerId(digest), LayerDigest(digest));
    assert_eq!(forms_of(&store, &layer).await.unwrap(), []);
    let compression = Compression::Zstd;
    let blob = LayerBlob { digest: base, diff_id: DiffId(digest), size: 7, compression };
    let stored = StoredBlob { blob, index: BlobDigest(digest) };
    store.put_form(&layer, &stored).await.unwrap();
    assert_eq!(form_of(&store, &layer, compression).await.unwrap(), Some(stored));
    assert_eq!(form_of(&store, &layer, Compression::None).await.unwrap(), None);
    let change = ChangeDigest(digest);
    let hashed = HashedBase { layer, diff_id: DiffId(digest), change, entries: 2, bytes: 3 };
    assert_eq!(base_of(&store, &base).await.unwrap(), None);
    store.put_base(&base, &hashed).await.unwrap();
    assert_eq!(base_of(&store, &base).await.unwrap(), Some(hashed));
}

/// Gives four bytes of what is asked for and then fails, as often as told.
struct Cut {
    blobs: MemoryBlobs,
    cuts: AtomicU32,
}

#[async_trait::async_trait]
impl BlobStore for Cut {
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        self.blobs.find_missing(blobs).await
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        if self.cuts.load(Ordering::SeqCst) == 0 {
            return self.blobs.get(blob, range).await;
        }
        self.cuts.fetch_sub(1, Ordering::SeqCst);
        let some = self.blobs.get(blob, ByteRange::new(range.start, 4)).await?;
        Ok(some.chain(futures::stream::iter([Err(StoreError::Stopped)])).boxed())
    }

    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError> {
        self.blobs.put(blob, content).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_read_goes_on_where_it_was() {
    let blobs = MemoryBlobs::default();
    let bytes = b"one byte after the other, and then some more";
    let blob = blobs.insert(&bytes[..]);
    let store = remote(Arc::new(Cut { blobs, cuts: AtomicU32::new(8) }));
    assert_eq!(read_bytes(&store, &blob, 100).await.unwrap(), bytes[..]);
}
