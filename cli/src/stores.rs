//! A bucket as the store, with the index over it: opened from configuration, flags and environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use dcbuild_coordinator::{Met, MetCounts, Stores};
use dcbuild_model::{BuildId, NoteId, UnixTime};
use dcbuild_process::config::{BucketConfig, IndexConfig, RedisTable};
use dcbuild_process::{Clock as _, Env, SystemClock, new_bits};
use dcbuild_redis::{Credentials, RedisConfig, RedisIndex};
use dcbuild_s3::{S3Config, S3Store};
use dcbuild_store::{
    Behind, Catalog, CatalogParts, EmbeddedIndex, Far, FolderStore, Indexed, KeyIndex, Now, Policy,
    RememberedNames, Seal, StoreError, Unseen, Using,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::silence::Silence;

/// What an index in memory may take.
const INDEX_BYTES_MAX: usize = 256 << 20;
/// How long notes to the index and the like may take once nobody needs the store any more.
const CLOSE: Duration = Duration::from_secs(2);

/// How often it is looked whether a mark has grown old.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// Tells this process from others.
fn salt() -> [u8; 16] {
    new_bits(&SystemClock).to_be_bytes()
}

fn embedded() -> Arc<dyn KeyIndex> {
    Arc::new(EmbeddedIndex::new(INDEX_BYTES_MAX))
}

/// A store in a bucket, in all its parts.
pub(crate) struct Bucket {
    /// Whether the index is this process's own, so that nobody else tells it of what he writes.
    is_alone: bool,
    /// What the mark of use goes by, if it outlives this process.
    mark: Option<NoteId>,
    pub(crate) seal: Seal,
    pub(crate) s3: Arc<S3Store>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) behind: Arc<Behind>,
    /// Remembers the names of images while the bucket fails.
    near: FolderStore,
    sending: TaskTracker,
    stop_sending: CancellationToken,
    silence: Option<Silence>,
    ends: Ends,
}

/// Where things lie that the bucket does not have yet.
pub(crate) struct Aside {
    pub(crate) folder: FolderStore,
    pub(crate) notes: PathBuf,
    pub(crate) policy: Policy,
    /// The file that names this process's mark of use, where one process after another has the folder: each takes away what
    /// the one before has left, if that was killed.
    pub(crate) mark: Option<PathBuf>,
    /// Where it is remembered that the bucket gave no answer, for the next process.
    pub(crate) silence: Option<Silence>,
}

/// How long an index in memory goes on with what it has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lasting {
    /// As long as its builds: it sees what they use.
    Role,
    /// One command: it sees no use at all.
    Command,
}

/// Where a bucket is, and what is to know it.
#[derive(Clone, Debug)]
pub(crate) struct BucketSettings {
    pub(crate) url: String,
    pub(crate) index: IndexConfig,
    pub(crate) signing_key_files: Vec<PathBuf>,
    /// What is trusted instead of the system's certificates.
    ca: Option<PathBuf>,
    /// Who we are to sentinels, where the environment says so.
    sentinels: Option<Credentials>,
}

/// What flags say of the store; they go before the environment, and that before the configuration.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct StoreFlags {
    /// Where blobs and records are kept: `dir:PATH` or `s3://BUCKET/PREFIX?endpoint=URL`; else `$DCBUILD_STORE`
    #[arg(long, value_name = "STORE")]
    pub(crate) store: Option<String>,
    /// What knows fast what the bucket has: `embedded` or `redis://HOST:PORT`; else `$DCBUILD_INDEX`
    #[arg(long, value_name = "INDEX")]
    pub(crate) index: Option<String>,
}

impl BucketSettings {
    /// The bucket that is meant; none if flags, environment and configuration name none.
    pub(crate) fn find(
        flags: &StoreFlags,
        env: &Env,
        configured: (Option<&BucketConfig>, &IndexConfig),
    ) -> anyhow::Result<Option<BucketSettings>> {
        let named = flags.store.as_deref().or_else(|| env.store());
        let index = match flags.index.as_deref().or_else(|| env.index()) {
            None => configured.1.clone(),
            Some("embedded") => IndexConfig::Embedded,
            Some(url) if url.starts_with("redis") => {
                let table = match configured.1 {
                    IndexConfig::Redis(table) => table.clone(),
                    IndexConfig::Embedded => RedisTable::default(),
                };
                IndexConfig::Redis(RedisTable { url: url.to_owned(), ..table })
            }
            Some(_) => {
                bail!("--index is `embedded` or the URL of a Redis, such as redis://HOST:6379")
            }
        };
        let url = match (named, configured.0) {
            (Some(url), _) if url.starts_with("s3://") => url.to_owned(),
            (Some(_), _) | (None, None) => {
                if flags.index.is_some() {
                    bail!("--index needs a store in a bucket, such as --store s3://BUCKET/PREFIX");
                }
                return Ok(None);
            }
            (None, Some(bucket)) => bucket.url.clone(),
        };
        let signing_key_files =
            configured.0.map(|bucket| bucket.signing_key_files.clone()).unwrap_or_default();
        let ca = env.aws_ca_bundle().or_else(|| configured.0.and_then(|bucket| bucket.ca.clone()));
        let sentinels = env.sentinel_auth().map(Credentials::from_text);
        Ok(Some(BucketSettings { url, index, signing_key_files, ca, sentinels }))
    }

    /// What records are sealed with.
    pub(crate) fn seal(&self, env: &Env) -> anyhow::Result<Seal> {
        seal_of(env, &self.signing_key_files)
    }

    /// The bucket's address, read.
    pub(crate) fn bucket(&self) -> anyhow::Result<S3Config> {
        let config = S3Config::from_url(&self.url).context("could not use the store")?;
        Ok(S3Config { ca_file: self.ca.clone(), ..config })
    }

    /// The index's address, read; none for one in memory.
    pub(crate) fn redis(&self, bucket: &S3Config) -> anyhow::Result<Option<RedisConfig>> {
        let IndexConfig::Redis(table) = &self.index else { return Ok(None) };
        let config = RedisConfig::from_url(&table.url).context("could not use the index")?;
        let sentinels = match (&self.sentinels, &table.sentinel_auth_file) {
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path);
                let text = text.with_context(|| format!("could not read {}", path.display()))?;
                Some(Credentials::from_text(text.trim()))
            }
            (known, _) => known.clone(),
        };
        // Indexes of different stores in one Redis do not see each other.
        let prefix = format!("dcbuild:{}/{}", bucket.bucket, bucket.prefix);
        Ok(Some(RedisConfig {
            ca_file: table.ca.clone(),
            identity_files: table.identity.clone(),
            sentinel_credentials: sentinels,
            prefix,
            ..config
        }))
    }
}

/// A bucket and its index, reached.
struct Reached {
    name: String,
    s3: Arc<S3Store>,
    index: Arc<dyn KeyIndex>,
    /// Whether nobody else has it.
    is_alone: bool,
    unseen: Unseen,
    blobs: Arc<Indexed>,
    now: Now,
    ends: Ends,
}

/// What has to end before a process may.
struct Ends {
    /// Notes to the index, and its filling.
    tasks: TaskTracker,
    links: TaskTracker,
    stop: CancellationToken,
}

impl Ends {
    /// Lets the last notes to the index out.
    async fn close(self, s3: &S3Store) {
        self.tasks.close();
        if tokio::time::timeout(CLOSE, self.tasks.wait()).await.is_err() {
            tracing::debug!("notes to the index are dropped");
        }
        self.stop.cancel();
        self.links.close();
        self.links.wait().await;
        s3.close().await;
    }
}

/// Whether they answer shows when they are used.
async fn reach(settings: &BucketSettings, lasting: Lasting) -> anyhow::Result<Reached> {
    let (tasks, links, stop) = (TaskTracker::new(), TaskTracker::new(), CancellationToken::new());
    let config = settings.bucket()?;
    let redis = settings.redis(&config)?;
    let is_alone = redis.is_none();
    let (index, unseen): (Arc<dyn KeyIndex>, Unseen) = match (redis, lasting) {
        (Some(redis), _) => {
            (Arc::new(RedisIndex::start(redis, &links, &stop)), Unseen::UsedWhenSeen)
        }
        (None, Lasting::Role) => (embedded(), Unseen::UsedWhenSeen),
        (None, Lasting::Command) => (embedded(), Unseen::UsedWhenWritten),
    };
    let name = config.to_string();
    let s3 = S3Store::connect(config).await;
    let s3 = Arc::new(s3.with_context(|| format!("could not open the store {name}"))?);
    let now: Now = Arc::new(|| SystemClock.now());
    let blobs = Indexed::new(s3.clone(), index.clone(), now.clone(), tasks.clone());
    let blobs = Arc::new(blobs.with_grants(s3.clone()));
    Ok(Reached { name, s3, index, is_alone, unseen, blobs, now, ends: Ends { tasks, links, stop } })
}

/// A bucket that one command uses: it waits for what it wants, and what the bucket does not take is an error.
pub(crate) struct Straight {
    is_alone: bool,
    seal: Seal,
    s3: Arc<S3Store>,
    blobs: Arc<Indexed>,
    catalog: Arc<Catalog>,
    ends: Ends,
}

impl Straight {
    pub(crate) async fn open(settings: &BucketSettings, env: &Env) -> anyhow::Result<Straight> {
        let reached = reach(settings, Lasting::Command).await?;
        let Reached { s3, index, is_alone, unseen, blobs, now, ends, .. } = reached;
        let (objects, tasks, seal) = (s3.clone(), ends.tasks.clone(), settings.seal(env)?);
        let parts = CatalogParts { objects, index, seal: seal.clone(), now, tasks, unseen };
        Ok(Straight { is_alone, seal, s3, blobs, catalog: Arc::new(Catalog::new(parts)), ends })
    }

    pub(crate) fn stores(&self) -> Stores {
        Stores {
            blobs: self.blobs.clone(),
            steps: self.catalog.clone(),
            layers: self.catalog.clone(),
            names: self.catalog.clone(),
            notes: self.catalog.clone(),
            using: None,
            swept: self.catalog.clone(),
            leftovers: Some(self.s3.clone()),
            caches: self.catalog.clone(),
            grants: None,
            backlog: None,
            seal: self.seal.clone(),
            lent: None,
            met: met(&self.catalog, &self.s3),
        }
    }

    /// Says that records were brought here, where the index that was told of them is this process's alone.
    pub(crate) async fn tell_brought(&self) -> Result<(), StoreError> {
        if self.is_alone { self.catalog.tell_brought(&salt()).await } else { Ok(()) }
    }

    /// Does work in whose time no sweeper takes what it found or stored.
    pub(crate) async fn in_use<T>(&self, work: impl Future<Output = T>) -> T {
        let using = Using::new(Box::new(self.catalog.mark(&salt())));
        let (user, since) = (BuildId::from_bits(new_bits(&SystemClock)), SystemClock.now());
        drop(using.begin(user, since).await.inspect_err(unmarked));
        let goes_on = BTreeMap::from([(user, since)]);
        let renewed = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                keep(&using, &goes_on).await;
            }
        };
        let done = tokio::select! {
            done = work => done,
            () = renewed => unreachable!("the mark is renewed without end"),
        };
        keep(&using, &BTreeMap::new()).await;
        done
    }

    pub(crate) async fn close(self) {
        self.ends.close(&self.s3).await;
    }
}

/// What a bucket and its index have met.
fn met(catalog: &Arc<Catalog>, s3: &Arc<S3Store>) -> Met {
    let (catalog, s3) = (catalog.clone(), s3.clone());
    Arc::new(move || {
        let (met, of_store) = (catalog.counts(), s3.counts());
        MetCounts {
            quarantined: of_store.quarantined,
            refused: met.refused,
            reads: met.store_reads,
            lists: met.store_lists,
            // Most of what fails goes no further than this: who writes does not wait, and who reads takes it for absent.
            store_faults: of_store.faults,
            index_faults: met.index_faults,
        }
    })
}

/// What the mark of use goes by of whoever has the folder of this file.
fn mark_id(path: &Path) -> anyhow::Result<NoteId> {
    let known = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    if let Some(id) = known {
        return Ok(id);
    }
    let id = NoteId::from_bits(new_bits(&SystemClock));
    let written = std::fs::write(path, format!("{id}\n"));
    written.with_context(|| format!("could not write {}", path.display()))?;
    Ok(id)
}

/// Renews the mark of what goes on, where it grows old, or takes it away.
async fn keep(using: &Using, goes_on: &BTreeMap<BuildId, UnixTime>) {
    drop(using.keep(using.begun(), goes_on, SystemClock.now()).await.inspect_err(unmarked));
}

/// Says that the mark of use is not as it should be: nothing is lost by it where nothing is swept meanwhile.
pub(crate) fn unmarked(error: &StoreError) {
    let error = dcbuild_process::story(error);
    tracing::warn!(error, "a sweeper may not know that this command uses the store");
}

/// What records are sealed with: the key of the environment, and those of files.
pub(crate) fn seal_of(env: &Env, files: &[PathBuf]) -> anyhow::Result<Seal> {
    let mut keys: Vec<Vec<u8>> = env.signing_key().map(<[u8]>::to_vec).into_iter().collect();
    for path in files {
        let key = std::fs::read(path);
        let key = key.with_context(|| format!("could not read the key {}", path.display()))?;
        keys.push(key.trim_ascii().to_vec());
    }
    if keys.is_empty() {
        return Ok(Seal::unkeyed());
    }
    Seal::keyed(keys.iter().map(Vec::as_slice)).context("could not use the signing keys")
}

impl Bucket {
    /// Opens the store; whether it answers shows when it is used, and a cache that does not costs time only.
    pub(crate) async fn open(
        settings: &BucketSettings,
        env: &Env,
        aside: Aside,
    ) -> anyhow::Result<Bucket> {
        let reached = reach(settings, Lasting::Role).await?;
        let Reached { name, s3, index, is_alone, unseen, blobs, now, ends } = reached;
        let (sending, stop_sending) = (TaskTracker::new(), CancellationToken::new());
        let far = Far { name, blobs: blobs.clone(), objects: s3.clone(), grants: Some(blobs) };
        let Aside { folder, notes, policy, mark, silence } = aside;
        let mark = mark.map(|path| mark_id(&path)).transpose()?;
        let near = folder.clone();
        let behind = Behind::open(folder, &notes, far, policy);
        let behind = Arc::new(behind.context("could not open what waits to be sent to the store")?);
        if silence.as_ref().is_some_and(|silence| silence.is_fresh(SystemClock.now())) {
            behind.doubt().await;
        } else {
            let (asker, stopped) = (behind.clone(), stop_sending.clone());
            sending.spawn(async move { stopped.run_until_cancelled(asker.greet()).await });
        }
        let (sender, stopped) = (behind.clone(), stop_sending.clone());
        sending.spawn(async move { sender.send(stopped).await });
        let (objects, tasks, seal) = (behind.clone(), ends.tasks.clone(), settings.seal(env)?);
        let parts = CatalogParts { objects, index, seal: seal.clone(), now, tasks, unseen };
        let catalog = Arc::new(Catalog::new(parts));
        Ok(Bucket {
            is_alone,
            mark,
            seal,
            s3,
            catalog,
            behind,
            near,
            sending,
            stop_sending,
            silence,
            ends,
        })
    }

    /// The mark that keeps what builds of this process use from being swept.
    pub(crate) fn using(&self) -> Arc<Using> {
        let mark = match self.mark {
            Some(id) => self.catalog.mark_of(id),
            None => self.catalog.mark(&salt()),
        };
        let mark = Box::new(if self.is_alone { mark.hearing() } else { mark });
        Arc::new(if self.mark.is_some() { Using::resuming(mark) } else { Using::new(mark) })
    }

    /// The store for a coordinator.
    pub(crate) fn stores(&self) -> Stores {
        Stores {
            blobs: self.behind.clone(),
            steps: self.catalog.clone(),
            layers: self.catalog.clone(),
            names: Arc::new(RememberedNames::new(
                self.catalog.clone(),
                Arc::new(self.near.clone()),
            )),
            notes: self.catalog.clone(),
            using: Some(self.using()),
            swept: self.catalog.clone(),
            leftovers: Some(self.s3.clone()),
            caches: self.catalog.clone(),
            grants: Some(self.behind.clone()),
            backlog: Some(self.behind.backlog()),
            seal: self.seal.clone(),
            lent: None,
            met: met(&self.catalog, &self.s3),
        }
    }

    /// Lets the last notes to the index out, and closes; what was not sent waits for the next process.
    pub(crate) async fn close(self) {
        if let Some(silence) = &self.silence {
            let backlog = self.behind.backlog().borrow().clone();
            silence.note(backlog.unreadable && !backlog.needs_hand, SystemClock.now());
        }
        self.stop_sending.cancel();
        self.sending.close();
        self.sending.wait().await;
        self.ends.close(&self.s3).await;
    }
}
