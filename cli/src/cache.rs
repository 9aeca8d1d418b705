//! `dcbuild cache`: of a store that is named, of a cluster, or of this machine's state folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use dcbuild_carry::{Carried, NoPacks, Packs, Place, TakeError, why_unopened};
use dcbuild_client::caches::Where;
use dcbuild_client::{Asking, Reach, docker_logins, explained, place_of};
use dcbuild_coordinator::{CarryError, Exported, Stores, View, cache as ask_here, export, import};
use dcbuild_model::{BlobDigest, Compression, LayerId, Scope, UnixTime};
use dcbuild_process::{ByteSize, Clock as _, SystemClock, parse_duration};
use dcbuild_progress::text::{bytes, printable};
use dcbuild_proto::cache::{CacheAsk, CacheStats, CacheTold, ListedRecord, PutOff, SweptStore};
use dcbuild_store::{ObjectName, StoreError};
use dcbuild_worker::Worker;

use crate::args::Cluster;
use crate::build::{App, working};
use crate::json;
use crate::local::packer;
use crate::registries::registries;
use crate::remote::{address, client_at, failed, scope_here};
use crate::roles::Named;
use crate::state::Format;
use crate::stores::{StoreFlags, seal_of};
use crate::{complain, say};

/// Documents that are named one by one.
const NAMED_MAX: usize = 10;

/// The cache as a whole.
#[derive(Debug, clap::Args)]
pub(crate) struct Cache {
    #[command(subcommand)]
    ask: Ask,
    #[command(flatten)]
    place: PlaceFlags,
}

/// Which cache is meant.
#[derive(Debug, clap::Args)]
struct PlaceFlags {
    /// The coordinator whose cache is meant (ls, stats, prune); else `$DCBUILD_COORDINATOR` or the configuration
    #[arg(long, value_name = "URL", global = true)]
    coordinator: Option<String>,
    /// The store that is meant: `dir:PATH` or `s3://BUCKET/PREFIX?endpoint=URL`; else `$DCBUILD_STORE`
    #[arg(long, value_name = "STORE", global = true)]
    store: Option<String>,
    /// What knows fast what a bucket has: `embedded` or `redis://HOST:PORT`; else `$DCBUILD_INDEX`
    #[arg(long, value_name = "INDEX", global = true)]
    index: Option<String>,
    /// Whose records are meant: those of this scope and below, such as `acme/shop/pr/17`
    #[arg(long, value_name = "SCOPE", global = true)]
    scope: Option<Scope>,
}

#[derive(Debug, Subcommand)]
enum Ask {
    /// List the records: their steps, what is kept for them, when they were made and last used
    Ls {
        /// How the list is printed
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Say what takes how much, and how many steps of the last builds were found
    Stats {
        /// How the table is printed
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Remove records and blobs that no running build and no named image needs
    Prune {
        /// Remove all of them
        #[arg(long, short)]
        all: bool,
        /// Remove the longest unused until the rest fits, such as 10GB: units are powers of 1024, as docker reads them
        #[arg(long, value_name = "SIZE", value_parser = crate::prune::size)]
        keep_storage: Option<ByteSize>,
        /// Remove what was not used for so long, such as 48h
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        older_than: Option<Duration>,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Write all records and what they speak of into a new folder, an OCI layout, or to a registry
    Export {
        /// The folder, or `docker://HOST/NAME:TAG`
        #[arg(value_name = "DEST")]
        dest: String,
    },
    /// Take what `export` or `--cache-to` wrote, as far as `$DCBUILD_SIGNING_KEY` sealed it: builds then find it
    Import {
        /// The folder, or `docker://HOST/NAME:TAG`
        #[arg(value_name = "SOURCE")]
        source: String,
    },
}

/// Where the cache that is meant is.
enum Kept {
    Cluster(String),
    Store(Named),
    /// This machine's state folder.
    Here,
}

/// `dcbuild cache`.
pub(crate) async fn cache(app: &App, flags: Cache) -> anyhow::Result<ExitCode> {
    let place = place(app, &flags.place).await?;
    let scope = flags.place.scope;
    let (asked, format) = match &flags.ask {
        Ask::Export { dest } => return carry(app, place, scope, (Way::Out, dest)).await,
        Ask::Import { source } => return carry(app, place, scope, (Way::In, source)).await,
        Ask::Ls { format } => (CacheAsk::List {}, *format),
        Ask::Stats { format } => (CacheAsk::Stats {}, *format),
        Ask::Prune { all, keep_storage, older_than, dry_run } => {
            if !all && keep_storage.is_none() && older_than.is_none() {
                bail!("nothing to hold: give --keep-storage SIZE, --older-than TIME or --all");
            }
            let sweep = CacheAsk::Sweep {
                keep_bytes: keep_storage.map(|size| size.0),
                max_age_secs: older_than.map(|time| time.as_secs()),
                all: *all,
                dry_run: *dry_run,
            };
            (sweep, Format::Text)
        }
    };
    let told = match place {
        Kept::Cluster(url) => match client_at(app, &url, scope)?.cache(&asked).await {
            Ok(told) => told,
            Err(error) => return Ok(failed(&error)),
        },
        Kept::Store(opened) => {
            let told = ask(&opened.stores(), view(app, scope), &asked).await;
            opened.close().await;
            told?
        }
        Kept::Here => {
            ask(&Stores::folder(app.state.open_store()?), view(app, scope), &asked).await?
        }
    };
    say(&match (told, format) {
        (told, Format::Json) => json::pretty(serde_json::to_value(&told)?),
        (CacheTold::List { records, more }, Format::Text) => list(&records, more),
        (CacheTold::Stats(stats), Format::Text) => self::stats(&stats),
        (CacheTold::Swept(swept), Format::Text) => {
            let dry = matches!(asked, CacheAsk::Sweep { dry_run: true, .. });
            self::swept(&swept, if dry { "would remove" } else { "removed" })
        }
    })
}

/// How much is seen of a store that is opened here.
fn view(app: &App, scope: Option<Scope>) -> View {
    match scope {
        Some(scope) => View::Within(scope),
        None => View::Whole(scope_here(app, None)),
    }
}

async fn ask(stores: &Stores, view: View, asked: &CacheAsk) -> anyhow::Result<CacheTold> {
    if let Some(refused) = view.refuses(asked) {
        bail!("{refused}");
    }
    let told = ask_here(stores, &view, asked, SystemClock.now()).await;
    let by_index = |error: &StoreError| matches!(error, StoreError::Unavailable { store, .. } if store.starts_with("redis"));
    if told.as_ref().is_err_and(by_index) {
        return told.context(
            "could not look after the cache, for its index fails: mend that, or leave --index and DCBUILD_INDEX out; what \
             was used last is not known then, and counts from when it was written",
        );
    }
    told.context("could not look after the cache")
}

async fn place(app: &App, flags: &PlaceFlags) -> anyhow::Result<Kept> {
    if let (Some(_), Some(_)) = (&flags.coordinator, &flags.store) {
        bail!("--coordinator and --store both say where the cache is: give one of them");
    }
    if let (Some(index), None, None) = (&flags.index, &flags.store, app.env.store()) {
        bail!(
            "--index {index} is the index of a bucket: say which with --store s3://BUCKET/PREFIX"
        );
    }
    if let Some(url) = &flags.coordinator {
        return Ok(Kept::Cluster(url.clone()));
    }
    if flags.store.is_some() || app.env.store().is_some() {
        let store = StoreFlags { store: flags.store.clone(), index: flags.index.clone() };
        return Ok(Kept::Store(Named::open(&store, app).await?));
    }
    Ok(match address(app, &Cluster { coordinator: None, scope: None }) {
        Some(url) => Kept::Cluster(url),
        None => Kept::Here,
    })
}

/// Which way a cache goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    In,
}

/// Makes blobs of snapshots of this machine.
struct Packer(Worker);

#[tonic::async_trait]
impl Packs for Packer {
    async fn pack(&self, layer: LayerId, compression: Compression) -> bool {
        self.0.holds(&[layer]) == [true] && self.0.pack(layer, compression).await
    }
}

/// What was carried, in words.
struct Told {
    text: String,
    left: u64,
    /// Documents that were passed over, and why.
    refused: (Vec<ObjectName>, &'static str),
    /// Blobs that did not come, and why.
    damaged: BTreeMap<BlobDigest, String>,
}

/// The place that an argument means: a folder, unless it says `docker://`.
fn meant(text: &str, way: Way) -> anyhow::Result<Where> {
    if let Some(name) = text.strip_prefix("docker://") {
        let image = name.parse();
        let image = image.with_context(|| format!("'{text}' is no docker://HOST/NAME:TAG"))?;
        return Ok(Where::Registry(image));
    }
    let folder = PathBuf::from(text);
    if folder.is_file() {
        bail!("{text} is a file: an exported cache is a folder, or docker://HOST/NAME:TAG");
    }
    let full = std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some());
    if way == Way::Out && full {
        bail!("the folder {text} is not empty: a cache is exported into a new one");
    }
    Ok(Where::Folder { folder, tag: None, digest: None })
}

/// Says of an import how it is ended; what came before a record is whole before the record is there.
fn not_ended(error: CarryError) -> anyhow::Error {
    let way_out = match &error {
        CarryError::Store(_) | CarryError::Take(TakeError::Store { .. }) => Some(
            "the cache was not imported to its end; once the store does well, the same command goes on where this one \
             stopped"
                .to_owned(),
        ),
        _ => None,
    };
    let error = anyhow::Error::from(error);
    match way_out {
        Some(way_out) => error.context(way_out),
        None => error,
    }
}

/// Says which of the scopes that were imported builds of this machine do not take from.
fn warn_of_unread<'a>(own: &Scope, imported: impl Iterator<Item = &'a Scope>) {
    let unread = imported.filter(|scope| own.readable().all(|read| read != **scope));
    let unread: Vec<&str> = unread.map(Scope::as_str).collect();
    if !unread.is_empty() {
        complain(&format!(
            "warning: builds here are of the scope {own} and take nothing of {}: set build.scope to the one that they are to be of\n",
            unread.join(", ")
        ));
    }
}

async fn carry(
    app: &App,
    place: Kept,
    scope: Option<Scope>,
    (way, from_to): (Way, &str),
) -> anyhow::Result<ExitCode> {
    // Builds of one machine are of one scope, whoever made what they import.
    let into = match &place {
        Kept::Here => Some(scope_here(app, scope.clone())),
        Kept::Store(_) | Kept::Cluster(_) => scope.clone(),
    };
    let is_here = matches!(place, Kept::Here);
    let reach = Reach {
        registries: registries(&app.config, &app.env)?,
        logins: docker_logins(&app.env),
        working: working()?,
    };
    let there: Arc<dyn Place> = place_of(&meant(from_to, way)?, &reach, Asking::Patiently).await?;
    let move_it = async |stores: &Stores, packs: &dyn Packs| -> anyhow::Result<Told> {
        Ok(match way {
            Way::Out => {
                let Exported { records, left, sent } =
                    export(stores, scope.as_ref(), packs, &*there).await?;
                let size = bytes(sent.bytes);
                if let Some(replaced) = &sent.replaced {
                    complain(&format!("warning: {from_to}: {replaced}\n"));
                }
                let text = format!("exported {records} records and {} blobs, {size}\n", sent.blobs);
                Told { text, left, refused: (Vec::new(), ""), damaged: BTreeMap::new() }
            }
            Way::In => {
                let taken = import(stores, into.as_ref(), &*there).await;
                let taken = taken.map_err(not_ended)?;
                let Carried { records, blobs, bytes: size, scopes, refused, left, damaged } = taken;
                if let Some(own) = into.as_ref().filter(|_| is_here) {
                    warn_of_unread(own, scopes.iter());
                }
                let size = bytes(size);
                let scopes = scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(", ");
                let into = if scopes.is_empty() { scopes } else { format!(" (scope {scopes})") };
                let text = format!("imported {records} records and {blobs} blobs, {size}{into}\n");
                Told { text, left, refused: (refused, why_unopened(&stores.seal)), damaged }
            }
        })
    };
    let carried = match place {
        Kept::Cluster(url) => {
            let why = match way {
                Way::In => "a coordinator takes no records from its clients",
                Way::Out => "a coordinator gives no whole cache to its clients",
            };
            bail!("{why} (it is {url} that is asked now): name the store itself with --store")
        }
        Kept::Store(named) => {
            let carried = named.in_use(Box::pin(move_it(&named.stores(), &NoPacks))).await;
            if way == Way::In {
                named.tell_brought().await;
            }
            named.close().await;
            carried
        }
        Kept::Here => {
            let store = Arc::new(app.state.open_store()?);
            let _in_use = store.begin_use().context("could not take the store into use")?;
            let packer = Packer(packer(app, &store)?);
            let keys = app.config.build.store.as_ref().map(|it| &*it.signing_key_files);
            let seal = seal_of(&app.env, keys.unwrap_or_default())?;
            let stores = Stores { seal, ..Stores::folder((*store).clone()) };
            let carried = move_it(&stores, &packer).await;
            let confirmed = tokio::task::spawn_blocking(move || store.confirm_synced()).await?;
            confirmed.context("could not make the records last")?;
            carried
        }
    };
    report(carried?, from_to)
}

/// Says what was carried, and fails if something did not come.
fn report(told: Told, from_to: &str) -> anyhow::Result<ExitCode> {
    let Told { mut text, left, refused: (refused, why), damaged } = told;
    if !refused.is_empty() {
        let lines = refused.iter().map(ToString::to_string);
        let count = refused.len();
        text.push_str(&format!(
            "{count} documents {why}, and are passed over:\n{}",
            some_of(lines)
        ));
    }
    if left > 0 {
        text.push_str(&format!("{left} records stay behind: their layers are not to be had\n"));
    }
    let said = say(&text)?;
    if damaged.is_empty() {
        return Ok(said);
    }
    let lines = damaged.iter().map(|(blob, why)| format!("{blob} {why}"));
    let blobs = if damaged.len() == 1 { "blob" } else { "blobs" };
    complain(&format!(
        "error: {count} {blobs} of {place} did not come; all that does not need them is imported\n{lines}\
         hint: get {place} once more, or export it anew, and import it again: only what is missing is brought then\n",
        count = damaged.len(),
        place = printable(from_to),
        lines = some_of(lines),
    ));
    Ok(ExitCode::from(1))
}

/// The first of some lines, and how many more there are.
fn some_of(lines: impl ExactSizeIterator<Item = String>) -> String {
    let more = lines.len().saturating_sub(NAMED_MAX);
    let named = lines.take(NAMED_MAX);
    let mut text = named.fold(String::new(), |text, line| text + "  " + &line + "\n");
    if more > 0 {
        text.push_str(&format!("  and {more} more\n"));
    }
    text
}

fn time(time: UnixTime) -> String {
    UnixTime { nanos: 0, ..time }.rfc3339()
}

fn list(records: &[ListedRecord], more: u64) -> String {
    let widest = records.iter().map(|row| row.scope.as_str().len()).max().unwrap_or_default();
    let width = widest.max("SCOPE".len());
    let mut text = format!(
        "{:<13} {:>10} {:<20} {:<20} {:<width$} STEP\n",
        "KEY", "SIZE", "MADE", "LAST USED", "SCOPE"
    );
    for row in records {
        let key: String = row.key.0.hex().chars().take(12).collect();
        let (made, used) = (time(row.written), time(row.used));
        let (size, scope, name) = (bytes(row.bytes), row.scope.as_str(), printable(&row.name));
        text.push_str(&format!(
            "{key:<13} {size:>10} {made:<20} {used:<20} {scope:<width$} {name}\n"
        ));
    }
    if more > 0 {
        text.push_str(&format!("and {more} more that were used less lately\n"));
    }
    text
}

fn stats(stats: &CacheStats) -> String {
    let mut text = format!("{:<14}{:>10}{:>14}\n", "KIND", "COUNT", "SIZE");
    let mut count = 0;
    for kind in &stats.kinds {
        count += kind.count;
        text.push_str(&format!("{:<14}{:>10}{:>14}\n", kind.kind, kind.count, bytes(kind.bytes)));
    }
    text.push_str(&format!("{:<14}{count:>10}{:>14}\n", "total", bytes(stats.bytes)));
    if stats.in_use_bytes > 0 {
        text.push_str(&format!("running builds use {}\n", bytes(stats.in_use_bytes)));
    }
    let CacheStats { builds, hits, hits_by_result, ran, shared, .. } = stats;
    text.push_str(&format!(
        "the last {builds} builds: {hits} steps found, {hits_by_result} found by result, {ran} ran, {shared} shared\n"
    ));
    text
}

fn swept(swept: &SweptStore, word: &str) -> String {
    if swept.put_off {
        let why = match swept.why {
            Some(PutOff::Filling) => {
                "the index was flushed, or lost something, and is not filled from the store again yet. Try again in a minute"
            }
            Some(PutOff::BegunBefore) => {
                "builds go on that began before the index was flushed, or lost something, and what they use is not known any \
                 more. Try again when they have ended (`dcbuild ps` lists them)"
            }
            Some(PutOff::Foreign) => {
                "not one document of the store carries the seal of the key that is given here, so that nobody can tell what needs \
                 the blobs. Set DCBUILD_SIGNING_KEY to the key of this store"
            }
            Some(PutOff::Elsewhere) | None => {
                "builds or imports go on in other processes, of whose uses nothing is known here: they have another index, or it \
                 was flushed since they began. Ask the coordinator that they run on (--coordinator), or try again when they \
                 have ended"
            }
        };
        return format!("nothing removed: {why}\n");
    }
    let mut text = String::new();
    for by in &swept.removed {
        let why = explained::rule(&by.rule);
        text.push_str(&format!("{word} {} things, {}: {why}\n", by.count, bytes(by.bytes)));
    }
    if swept.removed.is_empty() {
        text.push_str("nothing to remove\n");
    }
    let stay = bytes(swept.kept_bytes);
    text.push_str(&match swept.in_use_bytes {
        0 => format!("{stay} stay\n"),
        used => format!("{stay} stay; running builds use {} of them\n", bytes(used)),
    });
    text
}
