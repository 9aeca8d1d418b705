//! Records from one store to another, by way of a folder.
#![expect(clippy::unwrap_used, reason = "test")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dcbuild_carry::{
    Artifact, Borrowed, FolderPlace, Found, Lender, Lent, Loan, NoPacks, NotLent, Packed,
    PartLimits, Place, PlaceError, RegistryPlace, Seen, Shelf, Wish, inline, look, pack, recognise,
    send, send_in_parts, take,
};
use dcbuild_model::{
    AttemptId, BaseLayer, BlobDigest, BuildId, ChangeDigest, Compression, DiffId, Digest,
    LayerBlob, LayerDigest, LayerId, LayerRef, Lineage, ManifestDigest, Record, Scope, StepKey,
    StepResult, UnixTime, WorkerId,
};
use dcbuild_registry::{Anonymous, BlobReader, RawRegistryConfig, RegistryClient};
use dcbuild_store::{
    BlobStore, BlobStream, ByteRange, FolderStore, HashedBase, LayerIndex as _, ObjectName, Seal,
    StepIndex, StoreError, StoredBlob, read_bytes, stream_of,
};
use dcbuild_tests::registry::Registry;

const KEY: &[u8] = &[7; 32];

fn shelf(folder: &Path) -> Shelf {
    let store = Arc::new(FolderStore::open(folder).unwrap());
    Shelf { blobs: store.clone(), layers: store.clone(), steps: store }
}

fn seal() -> Seal {
    Seal::keyed([KEY]).unwrap()
}

fn wish() -> Wish {
    Wish { scope: Scope::local(), seal: seal(), compression: None, within: None }
}

async fn put(shelf: &Shelf, bytes: &'static str) -> BlobDigest {
    let blob = BlobDigest(Digest::of(bytes.as_bytes()));
    shelf.blobs.put(&blob, stream_of(bytes)).await.unwrap();
    blob
}

fn record(number: u8, layers: Vec<LayerRef>) -> Record {
    Record {
        recipe: StepKey(Digest::of(&[number])),
        outcome: None,
        attempt: AttemptId::from_bits(u128::from(number)),
        worker: WorkerId::from_bits(1),
        result: StepResult { layers, created: UnixTime { secs: i64::from(number), nanos: 0 } },
        lineage: Lineage { parent: None, inputs: Vec::new(), selections: Vec::new() },
        components: Vec::new(),
        took_ms: 1,
    }
}

/// A record with one layer whose blobs are there, and one without a blob.
async fn fill(shelf: &Shelf) -> (Vec<Record>, BlobDigest) {
    let table = put(shelf, "table").await;
    let (blob, index) = (put(shelf, "layer").await, put(shelf, "index").await);
    let layer = |id: LayerId| LayerRef {
        layer: id,
        change: ChangeDigest(id.0),
        entries: 1,
        bytes: 1,
        base: None,
    };
    let id = LayerId(table.0);
    let form = LayerBlob {
        digest: LayerDigest(blob.0),
        diff_id: DiffId(blob.0),
        size: 5,
        compression: Compression::Zstd,
    };
    shelf.layers.put_form(&id, &StoredBlob { blob: form, index }).await.unwrap();
    let lacking = LayerId(Digest::of(b"nobody has it"));
    let records =
        vec![record(1, vec![layer(id)]), record(2, Vec::new()), record(3, vec![layer(lacking)])];
    (records, blob)
}

async fn packed(shelf: &Shelf) -> (Packed, BlobDigest) {
    let (records, blob) = fill(shelf).await;
    (pack(shelf, &NoPacks, &records, &wish()).await.unwrap(), blob)
}

async fn borrowed(place: &dyn Place) -> Borrowed {
    match look(place).await.unwrap() {
        Found::Records(borrowed) => *borrowed,
        other => panic!("{other:?}"),
    }
}

/// Brings blobs of a place to a store, as a client does.
struct Bring(FolderPlace, Shelf);

#[async_trait::async_trait]
impl Lender for Bring {
    async fn bring(&self, blob: &BlobDigest) -> Result<(), NotLent> {
        let failed = |error: &dyn std::error::Error| NotLent { reason: error.to_string() };
        let content = self.0.get(blob, 5).await.map_err(|error| failed(&error))?;
        self.1.blobs.put(blob, content).await.map_err(|error| failed(&error))?;
        Ok(())
    }
}

#[tokio::test]
async fn what_is_packed_is_found_and_the_same_records_are_the_same_bytes() {
    let folders = tempfile::tempdir().unwrap();
    let one = shelf(&folders.path().join("one"));
    let (first, blob) = packed(&one).await;
    assert_eq!((first.records, first.left, first.blobs.len()), (2, 1, 3));
    let (second, _) = packed(&one).await;
    assert_eq!(Artifact::new(&first), Artifact::new(&second));

    let place = FolderPlace::new(folders.path().join("place"), None, None);
    assert!(matches!(look(&place).await.unwrap(), Found::Nothing));
    let artifact = Artifact::new(&first);
    assert_eq!(send(&artifact, &one.blobs, &place).await.unwrap().blobs, 4);
    assert_eq!(send(&artifact, &one.blobs, &place).await.unwrap().blobs, 0);

    let two = shelf(&folders.path().join("two"));
    let carried = take(&borrowed(&place).await, &place, &two, Some(&Scope::local()), &seal()).await;
    let carried = carried.unwrap();
    assert_eq!((carried.records, carried.blobs, carried.left), (2, 3, 0));
    assert_eq!(carried.refused, []);
    assert_eq!(read_bytes(&*two.blobs, &blob, 100).await.unwrap(), "layer");
    let found = two.steps.find(&Scope::local(), &[StepKey(Digest::of(&[1]))]).await.unwrap();
    assert_eq!(found, [vec![fill(&one).await.0.remove(0)]]);
}

/// Writes no record before another one is to be written.
struct Together(Arc<dyn StepIndex>, tokio::sync::Barrier);

#[async_trait::async_trait]
impl StepIndex for Together {
    async fn find(&self, scope: &Scope, keys: &[StepKey]) -> Result<Vec<Vec<Record>>, StoreError> {
        self.0.find(scope, keys).await
    }

    async fn put(&self, scope: &Scope, record: &Record) -> Result<(), StoreError> {
        self.1.wait().await;
        self.0.put(scope, record).await
    }
}

#[tokio::test]
async fn records_go_to_a_store_side_by_side() {
    let folders = tempfile::tempdir().unwrap();
    let one = shelf(&folders.path().join("one"));
    let (packed, _) = packed(&one).await;
    let place = FolderPlace::new(folders.path().join("place"), None, None);
    send(&Artifact::new(&packed), &one.blobs, &place).await.unwrap();
    let two = shelf(&folders.path().join("two"));
    let steps = Together(two.steps.clone(), tokio::sync::Barrier::new(2));
    let two = Shelf { steps: Arc::new(steps), ..two };
    let (borrowed, scope, seal) = (borrowed(&place).await, Scope::local(), seal());
    let taken = take(&borrowed, &place, &two, Some(&scope), &seal);
    let taken = tokio::time::timeout(Duration::from_secs(30), taken).await;
    assert_eq!(taken.expect("one waits for the other").unwrap().records, 2);
}

/// As of an image with a layer that changes nothing, and a step on it that changes nothing either.
#[tokio::test]
async fn a_layer_of_a_base_and_one_of_a_step_may_be_the_same() {
    let folders = tempfile::tempdir().unwrap();
    let one = shelf(&folders.path().join("one"));
    let own = fill(&one).await.0[0].result.layers[0].clone();
    let (digest, diff_id) = (LayerDigest(Digest::of(b"gzip")), DiffId(Digest::of(b"tar")));
    let hashed = HashedBase { layer: own.layer, diff_id, change: own.change, entries: 1, bytes: 1 };
    one.layers.put_base(&digest, &hashed).await.unwrap();
    let (media_type, repository) = ("application/x".to_owned(), "r/n".to_owned());
    let base = Some(BaseLayer { digest, diff_id, size: 4, media_type, repository });
    let of_base = LayerRef { base, ..own.clone() };
    for layers in [[own.clone(), of_base.clone()], [of_base.clone(), own.clone()]] {
        let records: Vec<Record> =
            (1..).zip(&layers).map(|(number, layer)| record(number, vec![layer.clone()])).collect();
        let packed = pack(&one, &NoPacks, &records, &wish()).await.unwrap();
        assert_eq!((packed.records, packed.left), (2, 0));
        let contents = packed.documents.read(seal()).await.unwrap();
        assert_eq!((contents.bases.len(), contents.forms.len()), (1, 1));
    }
}

#[tokio::test]
async fn a_loan_brings_what_is_read_and_is_kept_as_far_as_it_came() {
    let folders = tempfile::tempdir().unwrap();
    let one = shelf(&folders.path().join("one"));
    let (packed, blob) = packed(&one).await;
    let place = FolderPlace::new(folders.path().join("place"), None, None);
    send(&Artifact::new(&packed), &one.blobs, &place).await.unwrap();

    let own = shelf(&folders.path().join("two"));
    let lent = Arc::new(Lent::new(own.clone()));
    let (build, key) = (BuildId::from_bits(1), StepKey(Digest::of(&[1])));
    // As it goes to a coordinator.
    let told = Borrowed::parse(&borrowed(&place).await.to_json()).unwrap();
    let lender = Arc::new(Bring(place.clone(), own.clone()));
    lent.lend(build, Loan::new(told, seal(), lender).await.unwrap());
    let scope = Scope::local();
    let (borrower, other) = (lent.to(build), lent.to(BuildId::from_bits(2)));
    let record = borrower.find(&scope, &[key]).await.unwrap().remove(0).remove(0);
    let layer = record.result.layers[0].layer;
    let blobs = [blob, BlobDigest(layer.0)];
    assert!(borrower.find_missing(&blobs).await.unwrap().is_empty());
    // A build that named no cache would wait for the client of one that did.
    assert_eq!(other.find(&scope, &[key]).await.unwrap(), [vec![]]);
    assert_eq!(other.find_missing(&blobs).await.unwrap(), blobs);
    assert_eq!(other.find_forms(&[layer]).await.unwrap(), [vec![]]);
    assert_eq!(own.blobs.find_missing(&blobs).await.unwrap(), blobs, "nothing is fetched yet");
    let taken = [Arc::new(record.clone())];
    lent.keep(&scope, (&taken, &[])).await.unwrap();
    assert_eq!(own.steps.find(&scope, &[key]).await.unwrap(), [vec![]], "nobody wanted its layer");
    assert_eq!(read_bytes(&lent, &blob, 100).await.unwrap(), "layer");
    lent.keep(&scope, (&taken, &[])).await.unwrap();
    lent.end(build);
    assert!(lent.find_missing(&blobs).await.unwrap().is_empty(), "it is the store's own now");
    assert_eq!(other.find(&scope, &[key]).await.unwrap(), [vec![record]]);
    assert_eq!(lent.find_forms(&[layer]).await.unwrap()[0].len(), 1);
}

/// Answers nothing, as a client that is stopped.
struct Silent;

#[async_trait::async_trait]
impl Lender for Silent {
    async fn bring(&self, _: &BlobDigest) -> Result<(), NotLent> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_lender_that_says_nothing_is_in_nobody_s_way() {
    let folders = tempfile::tempdir().unwrap();
    let one = shelf(&folders.path().join("one"));
    let (packed, blob) = packed(&one).await;
    let place = FolderPlace::new(folders.path().join("place"), None, None);
    send(&Artifact::new(&packed), &one.blobs, &place).await.unwrap();
    let loan = async |lender: Arc<dyn Lender>| {
        Loan::new(borrowed(&place).await, seal(), lender).await.unwrap()
    };
    let patience = Duration::from_mins(1);
    let (silent, other) = (BuildId::from_bits(1), BuildId::from_bits(2));
    for order in [[silent, other], [other, silent]] {
        let own = shelf(&folders.path().join(format!("own-{}", order[0])));
        let lent = Lent::new(own.clone());
        for build in order {
            let lender: Arc<dyn Lender> = if build == silent {
                Arc::new(Silent)
            } else {
                Arc::new(Bring(place.clone(), own.clone()))
            };
            lent.lend(build, loan(lender).await);
        }
        let read = tokio::time::timeout(patience, read_bytes(&lent, &blob, 100)).await;
        assert_eq!(read.expect("the other is asked").unwrap(), "layer");
    }

    // One that comes while the other is waited for.
    let own = shelf(&folders.path().join("own"));
    let lent = Lent::new(own.clone());
    lent.lend(silent, loan(Arc::new(Silent)).await);
    let late = loan(Arc::new(Bring(place.clone(), own.clone()))).await;
    let later = async {
        tokio::time::sleep(patience).await;
        lent.lend(other, late);
    };
    let read = tokio::time::timeout(2 * patience, read_bytes(&lent, &blob, 100));
    let (read, ()) = tokio::join!(read, later);
    assert_eq!(read.expect("the other is asked").unwrap(), "layer");
}

#[tokio::test]
async fn other_seals_and_damaged_blobs_are_misses() {
    let folders = tempfile::tempdir().unwrap();
    let one = shelf(&folders.path().join("one"));
    let (packed, blob) = packed(&one).await;
    let place = FolderPlace::new(folders.path().join("place"), None, None);
    send(&Artifact::new(&packed), &one.blobs, &place).await.unwrap();
    let foreign = borrowed(&place).await;
    assert_eq!(foreign.documents.records(), 2);
    assert_eq!(foreign.documents.keep_opened(&Seal::keyed([&[8; 32][..]]).unwrap()).len(), 3);
    assert_eq!(foreign.documents.records(), 0);
    let unkeyed = borrowed(&place).await;
    assert_eq!(unkeyed.documents.keep_opened(&Seal::unkeyed()).len(), 3);
    assert_eq!(borrowed(&place).await.documents.keep_opened(&seal()), []);
    for (seal, why) in [
        (Seal::unkeyed(), "give it as DCBUILD_SIGNING_KEY"),
        (Seal::keyed([&[8; 32][..]]).unwrap(), "do not carry the seal of this one's signing keys"),
    ] {
        let (three, from) = (shelf(&folders.path().join("three")), borrowed(&place).await);
        let refused = take(&from, &place, &three, Some(&Scope::local()), &seal).await.unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
        assert!(refused.to_string().contains("all 3 documents"), "{refused}");
        assert_eq!(three.blobs.find_missing(&[blob]).await.unwrap(), [blob]);
    }

    let own = shelf(&folders.path().join("two"));
    let lent = Lent::new(own.clone());
    std::fs::write(folders.path().join("place/blobs/sha256").join(blob.0.hex()), "lalyr").unwrap();
    let lender = Arc::new(Bring(place.clone(), own.clone()));
    let loan = Loan::new(borrowed(&place).await, seal(), lender).await.unwrap();
    lent.lend(BuildId::from_bits(1), loan);
    let error = lent.get(&blob, ByteRange::ALL).await.err().unwrap();
    assert!(error.is_miss(), "{error}");
    // It is not offered any more, so that its step runs again.
    assert_eq!(lent.find_missing(&[blob]).await.unwrap(), [blob]);
}

#[tokio::test]
async fn caches_of_several_keys_lie_at_one_place_and_each_reader_takes_his_own() {
    let folders = tempfile::tempdir().unwrap();
    let one = shelf(&folders.path().join("one"));
    let (records, blob) = fill(&one).await;
    let place = FolderPlace::new(folders.path().join("place"), None, None);
    let key = |number: u8| Seal::keyed([&[number; 32][..]]).unwrap();
    let write = async |seal: Seal, records: &[Record]| {
        let packed = pack(&one, &NoPacks, records, &Wish { seal, ..wish() }).await.unwrap();
        send(&Artifact::new(&packed), &one.blobs, &place).await.unwrap()
    };
    for (number, kept) in [(1, 0), (2, 1), (1, 1), (3, 2)] {
        let sent = write(key(number), &records).await;
        assert_eq!((sent.kept, sent.replaced), (kept, None), "{number}");
    }
    // What one's own key wrote before is replaced.
    let sent = write(key(2), &records[1..2]).await;
    assert_eq!((sent.kept, sent.replaced), (2, None));
    for (seal, taken) in [(key(1), 2), (key(2), 1), (key(3), 2)] {
        let told = Borrowed::parse(&borrowed(&place).await.to_json()).unwrap();
        assert!(told.offered.contains_key(&blob));
        let own = shelf(&folders.path().join(seal.key_name()));
        let carried = take(&told, &place, &own, Some(&Scope::local()), &seal).await.unwrap();
        assert_eq!((carried.records, carried.refused, carried.left), (taken, vec![], 0));
    }
    // Who has none of the keys is told so.
    let own = shelf(&folders.path().join("none"));
    let refused = take(&borrowed(&place).await, &place, &own, Some(&Scope::local()), &key(9)).await;
    assert!(refused.unwrap_err().to_string().contains("nothing is taken from"));
    // There is room for so many, and what had to go is said.
    for number in 10..15 {
        assert_eq!(write(key(number), &records).await.replaced, None, "{number}");
    }
    let sent = write(key(15), &records).await;
    assert_eq!(sent.kept, 7);
    assert!(sent.replaced.unwrap().contains("caches of 1 other signing keys lay there"));
}

#[tokio::test]
async fn a_cache_that_is_too_large_for_one_manifest_has_several() {
    let folders = tempfile::tempdir().unwrap();
    let folder = FolderPlace::new(folders.path().join("place"), None, None);
    in_parts(&folder, folders.path()).await;
    let registry = Registry::start();
    let config = RawRegistryConfig::default().resolve().unwrap();
    let client = RegistryClient::new(config, Arc::new(Anonymous)).unwrap();
    let image = format!("{}/team/cache:1", registry.host).parse().unwrap();
    in_parts(&RegistryPlace::new(client, image), folders.path()).await;
}

async fn in_parts(place: &dyn Place, folder: &Path) {
    let folders = tempfile::tempdir_in(folder).unwrap();
    let one = shelf(&folders.path().join("one"));
    let (records, blob) = fill(&one).await;
    let key = |number: u8| Seal::keyed([&[number; 32][..]]).unwrap();
    let small = PartLimits { blobs: 1, document_bytes: 1 };
    let write = async |seal: Seal, limits: PartLimits| {
        let packed = pack(&one, &NoPacks, &records, &Wish { seal, ..wish() }).await.unwrap();
        send_in_parts(&Artifact::new(&packed), limits, &one.blobs, place).await.unwrap()
    };
    // Three documents and three blobs make as many parts; those of other keys stay, whichever form they have.
    for (number, limits, kept) in [
        (1, small, 0),
        (2, PartLimits::default(), 1),
        (3, small, 2),
        (1, PartLimits::default(), 2),
        (2, small, 2),
        (2, PartLimits::default(), 2),
    ] {
        let sent = write(key(number), limits).await;
        assert_eq!((sent.kept, sent.replaced), (kept, None), "{number} {limits:?}");
        let Some(Seen::Index(children)) = place.former().await.unwrap().as_deref().map(recognise)
        else {
            panic!("it has parts, or others beside it");
        };
        assert!(children.len() > 1, "{children:?}");
    }
    for number in [1, 2, 3] {
        let told = Borrowed::parse(&borrowed(place).await.to_json()).unwrap();
        assert!(told.offered.contains_key(&blob));
        let own = shelf(&folders.path().join(format!("own-{number}")));
        let carried = take(&told, place, &own, None, &key(number)).await.unwrap();
        assert_eq!((carried.records, carried.blobs, carried.left), (2, 3, 0), "{number}");
        assert_eq!(carried.refused, []);
    }
}

/// A place that has lost a manifest.
struct Holed<'a> {
    place: &'a dyn Place,
    hole: ManifestDigest,
}

#[async_trait::async_trait]
impl Place for Holed<'_> {
    fn name(&self) -> String {
        self.place.name()
    }

    async fn manifest(&self, digest: Option<ManifestDigest>) -> Result<Option<Bytes>, PlaceError> {
        if digest == Some(self.hole) { Ok(None) } else { self.place.manifest(digest).await }
    }

    async fn former(&self) -> Result<Option<Bytes>, PlaceError> {
        self.place.former().await
    }

    async fn get(&self, blob: &BlobDigest, size: u64) -> Result<BlobStream, PlaceError> {
        self.place.get(blob, size).await
    }

    async fn put(&self, blob: Arc<dyn BlobReader>) -> Result<bool, PlaceError> {
        self.place.put(blob).await
    }

    async fn put_manifest(&self, manifest: Bytes) -> Result<(), PlaceError> {
        self.place.put_manifest(manifest).await
    }

    async fn finish(&self, manifest: Bytes, media_type: &str) -> Result<(), PlaceError> {
        self.place.finish(manifest, media_type).await
    }
}

#[tokio::test]
async fn a_part_that_is_not_there_is_named() {
    let folders = tempfile::tempdir().unwrap();
    let one = shelf(&folders.path().join("one"));
    let (packed, _) = packed(&one).await;
    let place = FolderPlace::new(folders.path().join("place"), None, None);
    let small = PartLimits { blobs: 1, document_bytes: 1 };
    send_in_parts(&Artifact::new(&packed), small, &one.blobs, &place).await.unwrap();
    let root = place.former().await.unwrap().unwrap();
    let Seen::Index(children) = recognise(&root) else { panic!("it has parts") };
    let (lost, _) = *children.last().unwrap();
    let place = Holed { place: &place, hole: ManifestDigest(lost.0) };
    let own = shelf(&folders.path().join("own"));
    let carried = take(&borrowed(&place).await, &place, &own, None, &seal()).await.unwrap();
    assert_eq!(carried.damaged.into_iter().collect::<Vec<_>>(), [(lost, "is missing".to_owned())]);
}

#[tokio::test]
async fn a_document_that_was_changed_is_named_and_what_stands_on_it_stays_behind() {
    let folders = tempfile::tempdir().unwrap();
    let one = shelf(&folders.path().join("one"));
    let (packed, blob) = packed(&one).await;
    let place = FolderPlace::new(folders.path().join("place"), None, None);
    send(&Artifact::new(&packed), &one.blobs, &place).await.unwrap();
    let step = format!("scope/local/step/{}/", Digest::of(&[1]).hex());
    for (of, left) in [(&*step, 0), ("layer/", 1)] {
        let told = String::from_utf8(borrowed(&place).await.to_json()).unwrap();
        // A document gets another seal.
        let at = told.find(&format!("\\\"{of}")).unwrap();
        let hex = at + told[at..].find("hmac-sha256 ").unwrap() + "hmac-sha256 ".len();
        let digit = if told[hex..].starts_with('0') { "1" } else { "0" };
        let changed = format!("{}{digit}{}", &told[..hex], &told[hex + 1..]);
        let changed = Borrowed::parse(changed.as_bytes()).unwrap();
        let two = shelf(&folders.path().join(of.split('/').next().unwrap()));
        let carried = take(&changed, &place, &two, Some(&Scope::local()), &seal()).await.unwrap();
        let refused: Vec<&str> = carried.refused.iter().map(ObjectName::as_str).collect();
        assert!(matches!(*refused, [one] if one.starts_with(of)), "{refused:?}");
        // The other record has no layer.
        assert_eq!((carried.records, carried.left, carried.blobs), (1, left, 0), "{of}");
        assert_eq!(two.blobs.find_missing(&[blob]).await.unwrap(), [blob]);
    }
}

#[tokio::test]
async fn records_in_a_config_bring_their_tables_along() {
    let folders = tempfile::tempdir().unwrap();
    let one = shelf(&folders.path().join("one"));
    let (packed, blob) = packed(&one).await;
    let text = inline::encode(&packed, &[blob], &*one.blobs).await.unwrap().unwrap();
    let config = inline::insert(b"{\"os\":\"linux\"}", &text);
    let read = inline::decode(&config).unwrap().unwrap();
    assert_eq!(read.documents.to_json(), packed.documents.to_json());
    let embedded: Vec<Bytes> = read.embedded.into_values().collect();
    assert_eq!(embedded.len(), 2, "the table and the index, and not the layer");
    assert!(embedded.contains(&Bytes::from("table")) && embedded.contains(&Bytes::from("index")));
}
