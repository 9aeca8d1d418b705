//! A far store that nobody waits for: what it does not take waits in a folder, documents behind blobs, also for the
//! next process.
#![expect(clippy::unwrap_used, reason = "test")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dcbuild_model::{BlobDigest, Digest, Scope, UnixTime};
use dcbuild_store::{
    Behind, BlobStore, BlobStream, ByteRange, Catalog, CatalogParts, EmbeddedIndex, Far,
    FolderStore, Grant, GrantMethod, Grants, Near, ObjectName, ObjectPage, Objects, Policy, Seal,
    StepIndex, StoreError, Unseen, WriteGrant, Written, read_bytes, stream_of,
};
use dcbuild_testkit::{MemoryBlobs, MemoryObjects, contract};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What is to be done is told first, and waits until it may.
#[derive(Clone)]
struct Gate {
    begun: tokio::sync::mpsc::Sender<(String, tokio::sync::oneshot::Sender<Way>)>,
}

/// How something ends that waited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Done,
    Failed,
}

/// Whoever sees all that has begun, and says when it is done.
struct Keeper(tokio::sync::mpsc::Receiver<(String, tokio::sync::oneshot::Sender<Way>)>);

/// Something that has begun.
struct Begun(tokio::sync::oneshot::Sender<Way>);

impl Begun {
    fn end(self, way: Way) {
        self.0.send(way).unwrap();
    }
}

impl Keeper {
    /// The next thing that begins, which must be this.
    async fn begun(&mut self, what: &str) -> Begun {
        let next = tokio::time::timeout(SOON, self.0.recv()).await;
        let (found, end) = next.unwrap_or_else(|_| panic!("{what} does not begin")).unwrap();
        assert_eq!(found, what);
        Begun(end)
    }

    /// Lets everybody else go on, and then sees whether something has begun.
    async fn nothing_begins(&mut self) {
        for _ in 0..200 {
            tokio::task::yield_now().await;
            if let Ok((found, _)) = self.0.try_recv() {
                panic!("{found} begins");
            }
        }
    }
}

/// A far store that fails while it is told to, and writes down what comes in which order.
#[derive(Default)]
struct Sky {
    blobs: MemoryBlobs,
    objects: MemoryObjects,
    dead: AtomicBool,
    full: AtomicBool,
    misplaced: AtomicBool,
    silent: AtomicBool,
    /// Takes blobs and gives none, and does well with documents.
    greedy: AtomicBool,
    /// A blob that it cannot give, of all that it has.
    broken: std::sync::Mutex<Option<BlobDigest>>,
    fired: AtomicU64,
    /// Where documents and their removals wait before they are done, if they are to.
    gate: std::sync::Mutex<Option<Gate>>,
    came: std::sync::Mutex<Vec<String>>,
}

impl Sky {
    fn check(&self, write: bool) -> Result<(), StoreError> {
        let store = || "sky".to_owned();
        if self.dead.load(Ordering::SeqCst) {
            self.fired.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::Unavailable { store: store(), source: "told to".into() });
        }
        if self.misplaced.load(Ordering::SeqCst) {
            self.fired.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::Misplaced { store: store(), source: "told to".into() });
        }
        if write && self.full.load(Ordering::SeqCst) {
            self.fired.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::Full { store: store(), source: "told to".into() });
        }
        Ok(())
    }

    /// From now on documents and their removals wait.
    fn close_gate(&self) -> Keeper {
        let (begun, keeper) = tokio::sync::mpsc::channel(100);
        *self.gate.lock().unwrap() = Some(Gate { begun });
        Keeper(keeper)
    }

    async fn pass_gate(&self, what: String) -> Result<(), StoreError> {
        let gate = self.gate.lock().unwrap().clone();
        let Some(gate) = gate else { return Ok(()) };
        let (end, ended) = tokio::sync::oneshot::channel();
        gate.begun.send((what, end)).await.unwrap();
        match ended.await.unwrap() {
            Way::Done => Ok(()),
            Way::Failed => {
                let source = "told to".into();
                Err(StoreError::Unavailable { store: "sky".into(), source })
            }
        }
    }

    fn note(&self, what: impl ToString) {
        self.came.lock().unwrap().push(what.to_string());
    }

    fn came(&self) -> Vec<String> {
        self.came.lock().unwrap().clone()
    }
}

#[async_trait::async_trait]
impl BlobStore for Sky {
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        self.check(false)?;
        self.blobs.find_missing(blobs).await
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        self.check(false)?;
        if self.greedy.load(Ordering::SeqCst) || *self.broken.lock().unwrap() == Some(*blob) {
            self.fired.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::Unavailable { store: "sky".into(), source: "told to".into() });
        }
        self.blobs.get(blob, range).await
    }

    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError> {
        self.check(true)?;
        if self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let size = self.blobs.put(blob, content).await?;
        self.note("blob");
        Ok(size)
    }
}

#[async_trait::async_trait]
impl Grants for Sky {
    async fn read(&self, blob: &BlobDigest) -> Result<Grant, StoreError> {
        Err(StoreError::NotFound { blob: *blob })
    }

    async fn write(&self, _: &BlobDigest, _: u64) -> Result<WriteGrant, StoreError> {
        let (method, url, headers) = (GrantMethod::Put, "sky:".to_owned(), Vec::new());
        Ok(WriteGrant::Whole(Grant { method, url, headers, valid_for: Duration::from_secs(9) }))
    }

    async fn finish(&self, _: &BlobDigest, _: &Written) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Objects for Sky {
    async fn put(&self, name: &ObjectName, bytes: Bytes) -> Result<(), StoreError> {
        self.check(true)?;
        self.pass_gate(format!("put {}", String::from_utf8_lossy(&bytes))).await?;
        self.note(name);
        self.objects.put(name, bytes).await
    }

    async fn get(&self, name: &ObjectName, max: u64) -> Result<Option<Bytes>, StoreError> {
        self.check(false)?;
        if self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.objects.get(name, max).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectName>,
    ) -> Result<ObjectPage, StoreError> {
        self.check(false)?;
        self.objects.list(prefix, after).await
    }

    async fn delete(&self, names: &[ObjectName]) -> Result<(), StoreError> {
        self.check(true)?;
        self.pass_gate("delete".to_owned()).await?;
        self.objects.delete(names).await
    }
}

struct World {
    sky: Arc<Sky>,
    dir: tempfile::TempDir,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        World { sky: Arc::default(), dir, tasks, stop }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// A process on the folder; one that sends, if it is to.
    fn behind(&self, policy: Policy) -> Behind {
        let folder = FolderStore::open(&self.path("folder")).unwrap();
        let far = Far {
            name: "sky".into(),
            blobs: self.sky.clone(),
            objects: self.sky.clone(),
            grants: Some(self.sky.clone()),
        };
        Behind::open(folder, &self.path("notes"), far, policy).unwrap()
    }

    fn sending(&self, policy: Policy) -> Behind {
        let behind = self.behind(policy);
        let (sender, stop) = (behind.clone(), self.stop.clone());
        self.tasks.spawn(async move { sender.send(stop).await });
        behind
    }

    fn files(&self, name: &str) -> usize {
        fn count(path: &Path) -> usize {
            let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
            entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
        }
        count(&self.path(name))
    }
}

fn digest(text: &str) -> BlobDigest {
    BlobDigest(Digest::of(text.as_bytes()))
}

fn name(text: &str) -> ObjectName {
    text.parse().unwrap()
}

async fn put(behind: &Behind, text: &str) -> BlobDigest {
    let blob = digest(text);
    BlobStore::put(behind, &blob, stream_of(text.to_owned())).await.unwrap();
    blob
}

async fn put_document(behind: &Behind, text: &str) {
    Objects::put(behind, &name(text), Bytes::from(text.to_owned())).await.unwrap();
}

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn it_keeps_the_contracts_whatever_its_policy_and_however_the_far_store_is() {
    for policy in [Policy::Failing, Policy::Always, Policy::Never] {
        for dead in [false, true] {
            let world = World::new();
            world.sky.dead.store(dead, Ordering::SeqCst);
            contract::blobs(&world.sending(policy)).await;
            if !dead {
                contract::objects(&World::new().sending(policy)).await;
            }
        }
    }
}

#[tokio::test]
async fn what_a_dead_store_did_not_take_goes_there_later_documents_last() {
    let world = World::new();
    let behind = world.sending(Policy::Failing);
    world.sky.dead.store(true, Ordering::SeqCst);
    let first = put(&behind, "first").await;
    put_document(&behind, "x/record").await;
    put(&behind, "second").await;
    assert!(world.sky.fired.load(Ordering::SeqCst) > 0 && world.sky.came().is_empty());
    // Meanwhile all of it is there.
    assert_eq!(behind.find_missing(&[first, digest("absent")]).await.unwrap(), [digest("absent")]);
    assert_eq!(read_bytes(&behind, &first, 10).await.unwrap(), "first");
    let document = Objects::get(&behind, &name("x/record"), 100).await.unwrap();
    assert_eq!(document.unwrap(), "x/record");
    assert!(Grants::read(&behind, &first).await.is_err(), "its reader must come here");

    world.sky.dead.store(false, Ordering::SeqCst);
    assert_eq!(behind.drained(SOON).await.items, 0);
    let came = world.sky.came();
    assert!(came.iter().position(|it| it == "x/record").unwrap() > 0, "{came:?}");
    assert_eq!((came.len(), behind.backlog().borrow().failure.clone()), (3, None));
    // The folder is its own, and empty again.
    assert_eq!(world.files("folder/blobs"), 0);
    assert_eq!(world.files("notes"), 0);
    // All goes straight there from now on.
    put(&behind, "third").await;
    put_document(&behind, "x/next").await;
    assert_eq!(world.sky.came()[3..], ["blob", "x/next"]);
}

#[tokio::test(start_paused = true)]
async fn who_writes_to_a_store_that_says_nothing_does_not_wait_long_and_the_next_not_at_all() {
    let world = World::new();
    let behind = world.sending(Policy::Failing);
    let mut keeper = world.sky.close_gate();
    let began = tokio::time::Instant::now();
    put_document(&behind, "x/first").await;
    let waited = began.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&waited), "{waited:?}");
    put_document(&behind, "x/second").await;
    assert_eq!(began.elapsed(), waited, "others wait already");
    assert_eq!(behind.backlog().borrow().items, 2);
    assert_eq!(behind.backlog().borrow().failure, None, "it is slow, and may do well");
    // The one that was given up, and both behind their writers' backs.
    for document in ["x/first", "x/first", "x/second"] {
        let (found, end) = keeper.0.recv().await.unwrap();
        assert_eq!(found, format!("put {document}"));
        // Who gave up does not hear it.
        let _given_up = end.send(Way::Done);
    }
    assert_eq!(behind.drained(SOON).await.items, 0);
    assert_eq!(world.sky.came(), ["x/first", "x/second"]);
}

#[tokio::test]
async fn what_waits_is_listed_as_it_will_be() {
    let world = World::new();
    let behind = world.behind(Policy::Always);
    world.sky.objects.put(&name("x/record"), Bytes::from_static(b"old")).await.unwrap();
    Objects::put(&behind, &name("x/record"), Bytes::from_static(b"newer")).await.unwrap();
    let listed = Objects::list(&behind, "x/", None).await.unwrap().objects;
    let sizes: Vec<_> = listed.iter().map(|it| (it.name.to_string(), it.size)).collect();
    assert_eq!(sizes, [("x/record".to_owned(), 5)]);
}

#[tokio::test]
async fn what_one_process_could_not_send_the_next_one_sends() {
    let world = World::new();
    let behind = world.behind(Policy::Always);
    let blob = put(&behind, "blob").await;
    put_document(&behind, "x/record").await;
    assert_eq!(behind.backlog().borrow().items, 2);
    drop(behind);
    let behind = world.sending(Policy::Always);
    assert_eq!(behind.drained(SOON).await.items, 0);
    assert_eq!(world.sky.came(), ["blob", "x/record"]);
    assert_eq!(world.files("notes"), 0);
    assert_eq!(world.files("folder/blobs"), 1, "the folder is others' too");
    assert_eq!(read_bytes(&behind, &blob, 10).await.unwrap(), "blob");
}

#[tokio::test]
async fn a_blob_that_nobody_noted_does_not_stay() {
    let world = World::new();
    let folder = FolderStore::open(&world.path("folder")).unwrap();
    folder.put_bytes(b"written by a process that died").unwrap();
    drop(folder);
    drop(world.behind(Policy::Failing));
    assert_eq!(world.files("folder/blobs"), 0);
}

#[tokio::test]
async fn a_blob_that_was_lost_holds_nothing_up() {
    let world = World::new();
    let behind = world.behind(Policy::Always);
    let blob = put(&behind, "pruned").await;
    put_document(&behind, "x/record").await;
    let folder = FolderStore::open(&world.path("folder")).unwrap();
    std::fs::remove_file(folder.path_of(&blob)).unwrap();
    let sender = behind.clone();
    let stop = world.stop.clone();
    world.tasks.spawn(async move { sender.send(stop).await });
    assert_eq!(behind.drained(SOON).await.items, 0);
    assert_eq!(world.sky.came(), ["x/record"]);
}

#[tokio::test]
async fn a_full_store_is_still_read_and_a_dead_one_is_empty_until_it_answers_again() {
    let world = World::new();
    let behind = world.sending(Policy::Failing);
    let there = put(&behind, "there").await;
    world.sky.full.store(true, Ordering::SeqCst);
    put(&behind, "waits").await;
    assert_eq!(behind.find_missing(&[there]).await.unwrap(), []);
    assert_eq!(read_bytes(&behind, &there, 10).await.unwrap(), "there");
    // Only somebody's hand makes space: whoever has to end does not wait for it.
    let left = tokio::time::timeout(SOON, behind.drained(Duration::MAX)).await.unwrap();
    assert_eq!((left.items, left.needs_hand, left.unreadable), (1, true, false), "{left:?}");
    world.sky.full.store(false, Ordering::SeqCst);
    let mut backlog = behind.backlog();
    let sent = tokio::time::timeout(SOON, backlog.wait_for(|it| it.items == 0)).await;
    let sent = sent.unwrap().unwrap().clone();
    assert_eq!((sent.failure, sent.needs_hand), (None, false));

    world.sky.dead.store(true, Ordering::SeqCst);
    assert!(read_bytes(&behind, &there, 10).await.is_err());
    assert_eq!(behind.find_missing(&[there]).await.unwrap(), [there]);
    let before = world.sky.fired.load(Ordering::SeqCst);
    assert_eq!(behind.find_missing(&[there]).await.unwrap(), [there]);
    assert!(Objects::get(&behind, &name("x/record"), 10).await.is_err());
    assert!(Objects::list(&behind, "x/", None).await.is_err());
    assert!(world.sky.fired.load(Ordering::SeqCst) <= before + 1, "it is not asked");
    world.sky.dead.store(false, Ordering::SeqCst);
    // Nothing waits to be sent: it is asked now and then whether it answers.
    let mut backlog = behind.backlog();
    let well = tokio::time::timeout(SOON, backlog.wait_for(|it| !it.unreadable)).await;
    assert_eq!(well.unwrap().unwrap().failure, None);
    assert_eq!(behind.find_missing(&[there]).await.unwrap(), []);
}

#[tokio::test]
async fn one_blob_that_cannot_be_read_is_a_miss_and_no_more() {
    let world = World::new();
    let behind = world.sending(Policy::Failing);
    let [one, other] = [put(&behind, "one").await, put(&behind, "other").await];
    *world.sky.broken.lock().unwrap() = Some(one);
    assert!(read_bytes(&behind, &one, 10).await.unwrap_err().is_miss());
    let third = put(&behind, "third").await;
    let left = behind.drained(SOON).await;
    assert_eq!((left.items, left.failure, left.unreadable), (0, None, false));
    assert_eq!(world.sky.came().len(), 3);
    for (blob, text) in [(other, "other"), (third, "third")] {
        assert_eq!(read_bytes(&behind, &blob, 10).await.unwrap(), text);
    }
    // One who has had nothing from the store yet does not wait for it either.
    let fresh = World { sky: world.sky.clone(), ..World::new() };
    let behind = fresh.sending(Policy::Failing);
    assert!(read_bytes(&behind, &one, 10).await.unwrap_err().is_miss());
    put(&behind, "fourth").await;
    assert_eq!(behind.drained(SOON).await.items, 0);
    assert_eq!(world.sky.came().len(), 4);
}

#[tokio::test]
async fn what_takes_blobs_and_gives_none_gets_none_until_it_does() {
    let world = World::new();
    let behind = world.sending(Policy::Failing);
    let there = put(&behind, "there").await;
    world.sky.greedy.store(true, Ordering::SeqCst);
    assert!(read_bytes(&behind, &there, 10).await.unwrap_err().is_miss());
    for text in ["first", "second", "third"] {
        let blob = put(&behind, text).await;
        put_document(&behind, &format!("x/{text}")).await;
        assert_eq!(read_bytes(&behind, &blob, 10).await.unwrap(), text);
        assert_eq!(behind.find_missing(&[there, blob]).await.unwrap(), [there]);
        assert!(Grants::write(&behind, &digest("fourth"), 6).await.is_err(), "it comes here");
    }
    let left = tokio::time::timeout(SOON, behind.drained(Duration::ZERO)).await.unwrap();
    assert_eq!((left.items, left.needs_hand, left.unreadable), (6, false, true), "{left:?}");
    assert!(world.sky.fired.load(Ordering::SeqCst) > 1 && world.sky.came() == ["blob"]);

    world.sky.greedy.store(false, Ordering::SeqCst);
    let left = behind.drained(SOON).await;
    assert_eq!((left.items, left.failure, left.unreadable), (0, None, false));
    assert_eq!((world.files("folder/blobs"), world.sky.came().len()), (0, 7));
    assert_eq!(read_bytes(&behind, &there, 10).await.unwrap(), "there");
}

#[tokio::test(start_paused = true)]
async fn who_could_not_take_it_there_himself_does_not_wait_for_another_try() {
    let world = World::new();
    let behind = world.sending(Policy::Failing);
    let written = Written { size: 4, upload: None, etags: Vec::new() };
    Grants::write(&behind, &digest("done"), 4).await.unwrap();
    Grants::finish(&behind, &digest("done"), &written).await.unwrap();
    Grants::write(&behind, &digest("back"), 4).await.unwrap();
    world.sky.silent.store(true, Ordering::SeqCst);
    let began = tokio::time::Instant::now();
    let blob = put(&behind, "back").await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(read_bytes(&behind, &blob, 10).await.unwrap(), "back");
    // Nobody was to take this one there, and nobody is any more.
    let other = World::new();
    let behind = other.sending(Policy::Failing);
    Grants::write(&behind, &digest("done"), 4).await.unwrap();
    Grants::finish(&behind, &digest("done"), &written).await.unwrap();
    other.sky.silent.store(true, Ordering::SeqCst);
    put(&behind, "done").await;
    assert!(began.elapsed() > Duration::from_secs(1), "the store is tried first");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_store_that_an_earlier_process_found_silent() {
    let world = World::new();
    let behind = world.behind(Policy::Always);
    put(&behind, "waits").await;
    world.sky.silent.store(true, Ordering::SeqCst);
    let began = tokio::time::Instant::now();
    behind.doubt().await;
    assert!(Objects::get(&behind, &name("x/record"), 10).await.is_err());
    assert_eq!(behind.find_missing(&[digest("there")]).await.unwrap(), [digest("there")]);
    let left = behind.drained(SOON).await;
    assert_eq!((left.items, left.unreadable, left.needs_hand), (1, true, false));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_store_that_answers_again_is_doubted_by_nobody() {
    let world = World::new();
    let behind = world.sending(Policy::Always);
    behind.doubt().await;
    assert_eq!(behind.backlog().borrow().failure, None);
    put(&behind, "blob").await;
    assert_eq!(behind.drained(SOON).await.items, 0);
}

#[tokio::test]
async fn what_is_wrong_with_a_store_is_known_before_anybody_needs_it() {
    let world = World::new();
    let behind = world.behind(Policy::Always);
    world.sky.misplaced.store(true, Ordering::SeqCst);
    behind.greet().await;
    let backlog = behind.backlog().borrow().clone();
    assert!(backlog.needs_hand && backlog.unreadable, "{backlog:?}");
    assert!(backlog.failure.unwrap().contains("not where its address says"));
}

#[tokio::test]
async fn who_only_reads_writes_nothing_there_and_reads_again_once_it_can() {
    let world = World::new();
    let behind = world.sending(Policy::Never);
    world.sky.dead.store(true, Ordering::SeqCst);
    assert!(Objects::get(&behind, &name("x/record"), 10).await.is_err());
    world.sky.dead.store(false, Ordering::SeqCst);
    let mut backlog = behind.backlog();
    let well = tokio::time::timeout(SOON, backlog.wait_for(|it| !it.unreadable)).await;
    assert!(well.unwrap().is_ok());
    let blob = put(&behind, "blob").await;
    put_document(&behind, "x/record").await;
    assert_eq!(behind.find_missing(&[blob]).await.unwrap(), []);
    assert_eq!(behind.drained(SOON).await.items, 0);
    assert_eq!((world.sky.came(), world.files("notes")), (vec![], 0));
}

#[tokio::test]
async fn a_stopped_sender_leaves_what_it_did_not_send() {
    let world = World::new();
    world.sky.dead.store(true, Ordering::SeqCst);
    let behind = world.sending(Policy::Always);
    put(&behind, "blob").await;
    assert_eq!(behind.drained(Duration::from_millis(10)).await.items, 1);
    world.stop.cancel();
    world.tasks.close();
    world.tasks.wait().await;
    assert_eq!(world.files("notes"), 1);
}

#[tokio::test]
async fn small_blobs_stay_near_once_they_were_read() {
    let world = World::new();
    let folder = Arc::new(FolderStore::open(&world.path("near")).unwrap());
    let near = Near::new(folder, world.sky.clone());
    let small = world.sky.blobs.insert("small");
    let wrong = world.sky.blobs.insert("right");
    world.sky.blobs.corrupt(&wrong, "wrong");
    assert_eq!(read_bytes(&near, &small, 10).await.unwrap(), "small");
    assert!(read_bytes(&near, &wrong, 10).await.is_err());
    world.sky.dead.store(true, Ordering::SeqCst);
    assert_eq!(read_bytes(&near, &small, 10).await.unwrap(), "small");
    assert!(read_bytes(&near, &wrong, 10).await.is_err());
    assert!(near.find_missing(&[small]).await.is_err(), "what is there is the far store's to say");
}

/// A name that is written, deleted and written again, each by somebody of its own.
struct Contested {
    world: World,
    behind: Behind,
    name: ObjectName,
}

impl Contested {
    fn new(policy: Policy) -> Contested {
        let world = World::new();
        let behind = world.sending(policy);
        Contested { world, behind, name: name("x/latest") }
    }

    fn write(&self, text: &'static str) -> tokio::task::JoinHandle<()> {
        let (behind, name) = (self.behind.clone(), self.name.clone());
        let put =
            async move { Objects::put(&behind, &name, Bytes::from_static(text.as_bytes())).await };
        self.world.tasks.spawn(async move { put.await.unwrap() })
    }

    fn delete(&self) -> tokio::task::JoinHandle<()> {
        let (behind, name) = (self.behind.clone(), self.name.clone());
        self.world.tasks.spawn(async move { behind.delete(&[name]).await.unwrap() })
    }

    /// What is there in the end: far away, here, and on disk for the next process.
    async fn check(&self, want: Option<&str>) {
        *self.world.sky.gate.lock().unwrap() = None;
        assert_eq!(self.behind.drained(SOON).await.items, 0);
        let want = want.map(|text| Bytes::from(text.to_owned()));
        assert_eq!(Objects::get(&self.behind, &self.name, 100).await.unwrap(), want);
        assert_eq!(self.world.sky.objects.get(&self.name, 100).await.unwrap(), want);
        assert_eq!(self.world.files("notes"), 0);
    }
}

#[tokio::test]
async fn what_is_deleted_while_its_write_is_under_way_is_gone_once_both_have_ended() {
    for policy in [Policy::Always, Policy::Failing] {
        let it = Contested::new(policy);
        let mut keeper = it.world.sky.close_gate();
        let writer = it.write("one");
        let put = keeper.begun("put one").await;
        let deleter = it.delete();
        // If it did not wait, it would be done before the write, and the write would stand.
        keeper.nothing_begins().await;
        put.end(Way::Done);
        keeper.begun("delete").await.end(Way::Done);
        writer.await.unwrap();
        deleter.await.unwrap();
        it.check(None).await;
    }
}

#[tokio::test]
async fn what_is_written_after_a_removal_has_begun_comes_after_it() {
    for policy in [Policy::Always, Policy::Failing] {
        let it = Contested::new(policy);
        let mut keeper = it.world.sky.close_gate();
        let first = it.write("one");
        let put = keeper.begun("put one").await;
        let deleter = it.delete();
        keeper.nothing_begins().await;
        let second = it.write("two");
        keeper.nothing_begins().await;
        put.end(Way::Done);
        let removal = keeper.begun("delete").await;
        // Now nothing but the removal is under way, and the second write waits for it all the same.
        keeper.nothing_begins().await;
        removal.end(Way::Done);
        keeper.begun("put two").await.end(Way::Done);
        for task in [first, deleter, second] {
            task.await.unwrap();
        }
        it.check(Some("two")).await;
    }
}

#[tokio::test]
async fn a_write_that_fails_while_it_is_deleted_is_not_tried_again() {
    for policy in [Policy::Always, Policy::Failing] {
        let it = Contested::new(policy);
        let mut keeper = it.world.sky.close_gate();
        let writer = it.write("one");
        let put = keeper.begun("put one").await;
        let deleter = it.delete();
        keeper.nothing_begins().await;
        put.end(Way::Failed);
        keeper.begun("delete").await.end(Way::Done);
        writer.await.unwrap();
        deleter.await.unwrap();
        keeper.nothing_begins().await;
        it.check(None).await;
    }
}

#[tokio::test]
async fn a_removal_whose_caller_went_away_holds_nothing_up() {
    let it = Contested::new(Policy::Always);
    let mut keeper = it.world.sky.close_gate();
    let first = it.write("one");
    let put = keeper.begun("put one").await;
    let deleter = it.delete();
    keeper.nothing_begins().await;
    let second = it.write("two");
    keeper.nothing_begins().await;
    deleter.abort();
    assert!(deleter.await.unwrap_err().is_cancelled());
    put.end(Way::Done);
    keeper.begun("put two").await.end(Way::Done);
    first.await.unwrap();
    second.await.unwrap();
    it.check(Some("two")).await;
}

#[tokio::test]
async fn the_note_on_disk_is_of_what_was_written_last() {
    let world = World::new();
    let behind = world.behind(Policy::Always);
    let latest = name("x/latest");
    for text in ["one", "two"] {
        Objects::put(&behind, &latest, Bytes::from(text)).await.unwrap();
    }
    assert_eq!(world.files("notes"), 1);
    drop(behind);
    let behind = world.behind(Policy::Always);
    let found = Objects::get(&behind, &latest, 100).await.unwrap();
    assert_eq!(found, Some(Bytes::from_static(b"two")));
    behind.delete(&[latest]).await.unwrap();
    assert_eq!(world.files("notes"), 0);
}

/// With neither store nor index, a build still finds what it made itself.
#[tokio::test]
async fn what_waits_is_found_where_the_store_fails_and_the_index_knows_nothing() {
    let world = World::new();
    let behind = world.sending(Policy::Failing);
    // Each has an index of its own, which knows nothing yet.
    let catalog = || {
        Catalog::new(CatalogParts {
            objects: Arc::new(behind.clone()),
            index: Arc::new(EmbeddedIndex::new(1 << 20)),
            seal: Seal::keyed([&[7_u8; 32][..]]).unwrap(),
            now: Arc::new(|| UnixTime { secs: 1, nanos: 0 }),
            tasks: world.tasks.clone(),
            unseen: Unseen::default(),
        })
    };
    let record = |text| contract::record(text, None, 7);
    let (scope, before, after) = (Scope::local(), record("before"), record("after"));
    let keys = [before.recipe, after.recipe];
    StepIndex::put(&catalog(), &scope, &before).await.unwrap();
    world.sky.dead.store(true, Ordering::SeqCst);
    StepIndex::put(&catalog(), &scope, &after).await.unwrap();
    let fired = world.sky.fired.load(Ordering::SeqCst);
    let found = StepIndex::find(&catalog(), &scope, &keys).await.unwrap();
    assert_eq!(found, [vec![], vec![after.clone()]]);
    assert!(fired > 0, "the store did not fail");

    world.sky.dead.store(false, Ordering::SeqCst);
    assert_eq!(behind.drained(SOON).await.items, 0);
    let found = StepIndex::find(&catalog(), &scope, &keys).await.unwrap();
    assert_eq!(found, [vec![before], vec![after]]);
}
