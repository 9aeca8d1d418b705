//! Commands that talk to a cluster, or, where no cluster is named, to the state folder of this machine.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use dcbuild_client::{
    Client, ClientConfig, Console, Handover, ListedBuild, ListedWorker, Purpose, RpcError,
};
use dcbuild_model::{BuildId, Scope, UnixTime};
use dcbuild_oci::ImageRef;
use dcbuild_process::config::CacheUpload;
use dcbuild_process::report_with_hint;
use dcbuild_progress::Mode;
use dcbuild_proto::document::Upload;
use dcbuild_store::{ImageNames, NamedImage};

use crate::args::{Builds, Cluster, EndBuild, Names, OneBuild, RemoveNames, Submit};
use crate::build::{App, finish, request, working};
use crate::columns::columns;
use crate::pick;
use crate::secure::channel;
use crate::state::Format;
use crate::{complain, say};

/// `dcbuild submit`.
pub(crate) async fn submit(app: &App, flags: Submit) -> anyhow::Result<ExitCode> {
    let purpose = if flags.detach { Purpose::Detached } else { Purpose::Build };
    let upload = match flags.cache_upload {
        Some(CacheUpload::All) | None => Upload::All,
        Some(CacheUpload::Outputs) => Upload::Outputs,
        Some(CacheUpload::None) => Upload::None,
    };
    let handover = Handover { purpose, in_place: false, upload };
    let request = match request(app, &flags.build, handover).await? {
        Ok(request) => request,
        Err(code) => return Ok(code),
    };
    let client = client(app, &flags.cluster)?;
    finish(client.build(request, &mut Console::stderr(&app.env), &app.stop).await)
}

pub(crate) async fn attach(app: &App, flags: OneBuild) -> anyhow::Result<ExitCode> {
    follow(app, flags, Mode::Auto).await
}

pub(crate) async fn logs(app: &App, flags: OneBuild) -> anyhow::Result<ExitCode> {
    follow(app, flags, Mode::Plain).await
}

async fn follow(app: &App, flags: OneBuild, usual: Mode) -> anyhow::Result<ExitCode> {
    let client = client(app, &flags.cluster)?;
    let mode = match flags
        .progress
        .as_deref()
        .or_else(|| app.env.progress())
        .filter(|mode| !mode.is_empty())
    {
        Some(mode) => mode.parse().context("--progress")?,
        None => usual,
    };
    finish(if usual == Mode::Plain {
        // The log is what was asked for: it may be piped.
        client.logs(id(&flags.build)?, mode, &mut Console::stdout(&app.env), &app.stop).await
    } else {
        client.attach(id(&flags.build)?, mode, &mut Console::stderr(&app.env), &app.stop).await
    })
}

pub(crate) async fn ps(app: &App, flags: Builds) -> anyhow::Result<ExitCode> {
    let listed = client(app, &flags.cluster)?.builds().await;
    let listed = listed.map(|mut builds| {
        builds.retain(|build| flags.all || goes_on(build));
        builds
    });
    let builds = match listed {
        Ok(builds) => builds,
        Err(error) => return Ok(failed(&error)),
    };
    if flags.quiet {
        let ids = builds.iter().map(|build| build.id.to_string() + "\n");
        return say(&ids.collect::<String>());
    }
    say(&match flags.format {
        Format::Text => listed_builds(&builds),
        Format::Json => {
            let all: Vec<_> = builds.iter().map(build_json).collect();
            format!("{}\n", serde_json::Value::from(all))
        }
    })
}

fn listed_builds(builds: &[ListedBuild]) -> String {
    // A column that says the same in each line says nothing.
    let scoped = builds.iter().any(|build| build.scope != Scope::local().as_str());
    let line = |build: &ListedBuild| {
        let submitted = build.submitted.map(in_seconds).unwrap_or_default();
        [
            build.id.to_string(),
            build.state.clone(),
            submitted,
            build.scope.clone(),
            build.name.clone(),
        ]
    };
    let head = ["ID", "STATE", "SUBMITTED", "SCOPE", "NAME"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(builds.iter().map(line)).collect();
    if scoped {
        return columns(&rows);
    }
    let unscoped =
        rows.into_iter().map(|[id, state, submitted, _, name]| [id, state, submitted, name]);
    columns(&unscoped.collect::<Vec<_>>())
}

fn build_json(build: &ListedBuild) -> serde_json::Value {
    serde_json::json!({
        "id": build.id.to_string(),
        "state": build.state,
        "name": build.name,
        "scope": build.scope,
        "submitted": build.submitted.map(in_seconds),
        "ended": build.ended.map(in_seconds),
    })
}

fn in_seconds(time: UnixTime) -> String {
    UnixTime { nanos: 0, ..time }.rfc3339()
}

fn goes_on(build: &ListedBuild) -> bool {
    matches!(build.state.as_str(), "waiting" | "running")
}

pub(crate) async fn workers(app: &App, flags: Cluster) -> anyhow::Result<ExitCode> {
    match client(app, &flags)?.workers().await {
        Ok(workers) => {
            let line = |worker: &ListedWorker| {
                let jobs = format!("{}/{}", worker.jobs, worker.slots);
                let labels = worker.labels.iter().map(|(name, value)| format!("{name}={value}"));
                let labels = labels.collect::<Vec<_>>().join(",");
                let peers = match worker.peer_address.as_str() {
                    "" => "-",
                    address => address,
                };
                let platforms = worker.platforms.join(",");
                let (id, state) = (worker.id.clone(), worker.state.clone());
                [id, state, jobs, platforms, peers.to_owned(), labels]
            };
            let head = ["ID", "STATE", "JOBS", "PLATFORMS", "PEERS", "LABELS"].map(str::to_owned);
            let rows: Vec<_> = std::iter::once(head).chain(workers.iter().map(line)).collect();
            say(&columns(&rows))
        }
        Err(error) => Ok(failed(&error)),
    }
}

pub(crate) async fn cancel(app: &App, flags: EndBuild) -> anyhow::Result<ExitCode> {
    match client(app, &flags.cluster)?.cancel(id(&flags.build)?).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Ok(failed(&error)),
    }
}

/// An image that has a name: the name, the manifest, and when it got it.
type Row = (String, String, String);

/// The images that have a name; an exit code if they could not be had, which is said already.
async fn rows(app: &App, cluster: &Cluster) -> anyhow::Result<Result<Vec<Row>, ExitCode>> {
    if let Some(url) = address(app, cluster) {
        return Ok(match client_at(app, &url, cluster.scope.clone())?.images().await {
            Ok(images) => Ok(images
                .into_iter()
                .map(|image| {
                    let tagged = image.tagged.map(in_seconds).unwrap_or_default();
                    (image.name, image.manifest.to_string(), tagged)
                })
                .collect()),
            Err(error) => Err(failed(&error)),
        });
    }
    let scope = scope_here(app, cluster.scope.clone());
    let images = ImageNames::list(&app.state.open_store()?, &scope).await?;
    let row =
        |image: NamedImage| (image.name, image.manifest.to_string(), in_seconds(image.tagged));
    Ok(Ok(images.into_iter().map(row).collect()))
}

pub(crate) async fn images(app: &App, flags: Names) -> anyhow::Result<ExitCode> {
    let mut rows = match rows(app, &flags.cluster).await? {
        Ok(rows) => rows,
        Err(code) => return Ok(code),
    };
    let picks = flags.name.iter().chain(&flags.filter);
    rows.retain(|(name, ..)| pick::takes(picks.clone(), name));
    let whole = flags.no_trunc;
    if flags.quiet {
        let id = |row: &'_ Row| if whole { row.1.clone() } else { short_id(&row.1).to_owned() };
        let ids: BTreeSet<String> = rows.iter().map(id).collect();
        return say(&ids.into_iter().map(|id| id + "\n").collect::<String>());
    }
    say(&match flags.format {
        Format::Text => table(&rows, if whole { usize::MAX } else { 19 }),
        Format::Json => {
            let row = |(name, manifest, tagged): &Row| serde_json::json!({ "name": name, "manifest": manifest, "tagged": tagged });
            format!("{}\n", serde_json::Value::from(rows.iter().map(row).collect::<Vec<_>>()))
        }
    })
}

/// The beginning of a digest, by which people and scripts know an image.
fn short_id(manifest: &str) -> &str {
    let digits = manifest.trim_start_matches("sha256:");
    digits.get(..12).unwrap_or(digits)
}

/// The digits of what may be an id.
fn digits(text: &str) -> Option<&str> {
    let digits = text.trim_start_matches("sha256:");
    (digits.len() >= 12 && digits.chars().all(|ch| ch.is_ascii_hexdigit())).then_some(digits)
}

/// The names of the images that an id is of.
fn of_id(rows: &[Row], text: &str) -> Vec<String> {
    let Some(digits) = digits(text) else { return Vec::new() };
    let is_meant = |manifest: &str| manifest.trim_start_matches("sha256:").starts_with(digits);
    let meant = rows.iter().filter(|(_, manifest, _)| is_meant(manifest));
    meant.map(|(name, ..)| name.clone()).collect()
}

fn table(rows: &[Row], digest_chars: usize) -> String {
    let familiar = |name: &str| {
        name.parse().map_or_else(|_| name.to_owned(), |name: ImageRef| name.familiar())
    };
    let line = |(name, manifest, tagged): &Row| {
        let short = manifest.chars().take(digest_chars).collect();
        [familiar(name), short, tagged.clone()]
    };
    let head = ["NAME", "MANIFEST", "TAGGED"].map(str::to_owned);
    columns(&std::iter::once(head).chain(rows.iter().map(line)).collect::<Vec<_>>())
}

pub(crate) async fn rmi(app: &App, flags: RemoveNames) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for name in &flags.names {
        let mut of_id = Vec::new();
        if digits(name).is_some() {
            match rows(app, &flags.cluster).await? {
                Ok(rows) => of_id = self::of_id(&rows, name),
                Err(code) => return Ok(code),
            }
        }
        let mut removed = !of_id.is_empty();
        for name in of_id.iter().chain((!removed).then_some(name)) {
            match remove(app, &flags.cluster, name).await? {
                Ok(done) => removed = done,
                Err(code) => return Ok(code),
            }
        }
        if !removed {
            complain(&format!("error: no image has the name '{name}'\n"));
            if !flags.force {
                code = ExitCode::from(1);
            }
        }
    }
    Ok(code)
}

/// Takes a name away; says whether an image had it, or an exit code.
async fn remove(
    app: &App,
    cluster: &Cluster,
    name: &str,
) -> anyhow::Result<Result<bool, ExitCode>> {
    let full: ImageRef =
        name.parse().with_context(|| format!("'{name}' is not the name of an image"))?;
    let (full, scope) = (full.to_string(), cluster.scope.clone());
    if let Some(url) = address(app, cluster) {
        let removed = client_at(app, &url, scope)?.remove_image(&full).await;
        return Ok(removed.map_err(|error| failed(&error)));
    }
    let scope = scope_here(app, scope);
    Ok(Ok(ImageNames::remove(&app.state.open_store()?, &scope, &full).await?))
}

pub(crate) fn address(app: &App, flags: &Cluster) -> Option<String> {
    let named = flags.coordinator.as_deref().or_else(|| app.env.coordinator());
    named.map(str::to_owned).or_else(|| app.config.submit.coordinator.clone())
}

fn client(app: &App, flags: &Cluster) -> anyhow::Result<Client> {
    match address(app, flags) {
        Some(url) => client_at(app, &url, flags.scope.clone()),
        None => {
            bail!(
                "no coordinator is named: give --coordinator URL, or set DCBUILD_COORDINATOR or submit.coordinator"
            )
        }
    }
}

pub(crate) fn client_at(app: &App, url: &str, scope: Option<Scope>) -> anyhow::Result<Client> {
    let scope = scope.or_else(|| app.config.submit.scope.clone());
    let first_answer = app.config.submit.wait;
    let config = ClientConfig { scope, first_answer, ..ClientConfig::new(&app.env, working()?) };
    Ok(Client::new(channel(url, &app.config.submit.tls)?, config))
}

/// Whose records builds of this machine read and write.
pub(crate) fn scope_here(app: &App, flag: Option<Scope>) -> Scope {
    flag.or_else(|| app.config.build.scope.clone()).unwrap_or_else(Scope::local)
}

fn id(text: &str) -> anyhow::Result<BuildId> {
    text.parse().with_context(|| format!("there is no build '{text}' (`dcbuild ps -a` lists them)"))
}

pub(crate) fn failed(error: &RpcError) -> ExitCode {
    complain(&report_with_hint(error));
    ExitCode::from(error.fault().exit_code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_of_all_names_of_its_image() {
        let digest = |first: char| format!("sha256:{first}{}", "0".repeat(63));
        let row = |name: &str, first| (name.to_owned(), digest(first), String::new());
        let rows = [row("docker.io/library/a:1", 'a'), row("b", 'b'), row("c", 'a')];
        assert_eq!(short_id(&digest('a')), "a00000000000");
        assert_eq!(of_id(&rows, "a00000000000"), ["docker.io/library/a:1", "c"]);
        assert_eq!(of_id(&rows, &digest('b')), ["b"]);
        for none in ["a", "a0000000000", "c00000000000", "b", "application00"] {
            assert_eq!(of_id(&rows, none), Vec::<String>::new(), "{none}");
        }
    }
}
