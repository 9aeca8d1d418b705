//! What lies elsewhere: the store, its index, a coordinator.

use std::sync::Arc;
use std::time::Duration;

use dcbuild_client::{Client, ClientConfig, ListedWorker};
use dcbuild_process::config::{ClientTls, StoreConfig};
use dcbuild_process::{Hint as _, story};
use dcbuild_redis::RedisIndex;
use dcbuild_remote::{ClientCertificates, Distrust, Trust, knock};
use dcbuild_s3::{Checked, S3Store};
use dcbuild_store::FolderStore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Finding, Verdict};
use crate::args::Doctor;
use crate::build::{App, working};
use crate::remote::address;
use crate::roles::store_dir;
use crate::secure::{channel, is_encrypted, server_tls};
use crate::stores::BucketSettings;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a worker may take to let others in, which is what they wait too.
const PEER_PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn look(app: &App, flags: &Doctor) -> Vec<Finding> {
    let mut findings = store(app, flags).await;
    findings.extend(app.config.coordinator.tls.clone().map(|tls| {
        let tls = server_tls(tls);
        match tls.check() {
            Ok(()) => {
                let words = format!("{} and its key can be used", tls.cert.display());
                Finding::well("certificate", words)
            }
            Err(error) => Finding::wrong("certificate", story(&error)),
        }
    }));
    if let Some(url) = address(app, &flags.cluster) {
        findings.extend(coordinator(app, &url).await);
    }
    findings
}

async fn store(app: &App, flags: &Doctor) -> Vec<Finding> {
    let (build, coordinator) = (&app.config.build, &app.config.coordinator);
    // What is configured for builds here goes before what a coordinator on this machine would use.
    let configured = match (&build.store, &coordinator.store) {
        (Some(bucket), _) => (Some(bucket), &build.index),
        (None, StoreConfig::Bucket(bucket)) => (Some(bucket), &coordinator.index),
        (None, StoreConfig::Folder { .. }) => (None, &build.index),
    };
    match BucketSettings::find(&flags.store, &app.env, configured) {
        Ok(Some(settings)) => bucket(app, &settings).await,
        Ok(None) => flags.store.store.as_deref().map(folder).into_iter().collect(),
        Err(error) => vec![Finding::wrong("store", format!("{error:#}"))],
    }
}

fn folder(named: &str) -> Finding {
    let opened = store_dir(named).and_then(|dir| {
        FolderStore::open(&dir)?.put_bytes(b"dcbuild was here")?;
        Ok(dir)
    });
    match opened {
        Ok(dir) => Finding::well("store", format!("{} can be written", dir.display())),
        Err(error) => Finding::wrong("store", format!("{error:#}")),
    }
}

async fn bucket(app: &App, settings: &BucketSettings) -> Vec<Finding> {
    let config = match settings.bucket() {
        Ok(config) => config,
        Err(error) => return vec![Finding::wrong("store", format!("{error:#}"))],
    };
    let mut findings = vec![seal(app, settings)];
    findings.extend(index(settings.redis(&config)).await);
    let store = match S3Store::connect(config).await {
        Ok(store) => store,
        Err(error) => {
            findings.push(Finding::wrong("store", story(&error)));
            return findings;
        }
    };
    for (step, checked) in store.check().await {
        findings.push(match checked {
            Checked::Well => Finding::well("store", format!("can {}", step.words())),
            // The error says the way out itself.
            Checked::Failed(error) => {
                Finding::wrong("store", format!("could not {}: {}", step.words(), story(&error)))
            }
            Checked::Skipped => {
                Finding::new("store", Verdict::Skipped, format!("to {}", step.words()))
            }
        });
    }
    store.close().await;
    findings
}

fn seal(app: &App, settings: &BucketSettings) -> Finding {
    let hint = "set DCBUILD_SIGNING_KEY, or a file with signing_key_files, to the same on every \
                machine; `openssl rand -hex 32` makes a key";
    match settings.seal(&app.env) {
        Ok(seal) if seal.is_keyed() => Finding::well("signing key", "records are signed"),
        Ok(_) => {
            let words = "records are not signed: whoever can write to the bucket is trusted";
            Finding::warning("signing key", words).hint(hint)
        }
        Err(error) => Finding::wrong("signing key", format!("{error:#}")).hint(hint),
    }
}

async fn index(redis: anyhow::Result<Option<dcbuild_redis::RedisConfig>>) -> Vec<Finding> {
    let config = match redis {
        Ok(None) => {
            let words =
                "each process keeps its own in memory, and fills it from the bucket's listing";
            return vec![Finding::well("index", words)];
        }
        Ok(Some(config)) => config,
        Err(error) => return vec![Finding::wrong("index", format!("{error:#}"))],
    };
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let index = RedisIndex::start(config, &tasks, &stop);
    let checked = tokio::time::timeout(PATIENCE, index.check()).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    let hint = "check the address, user and password of --index; builds go on without an index, more slowly";
    match checked {
        Ok(Ok(health)) => {
            let words = format!("Redis {} answers and takes writes", health.version);
            let mut findings = vec![Finding::well("index", words)];
            findings.extend(health.findings.iter().map(|finding| {
                let verdict = if finding.is_fatal() { Verdict::Wrong } else { Verdict::Warning };
                Finding::new("index", verdict, finding.to_string())
            }));
            findings
        }
        Ok(Err(error)) => vec![Finding::wrong("index", story(&error)).hint(hint)],
        Err(_) => vec![Finding::wrong("index", "Redis does not answer").hint(hint)],
    }
}

async fn coordinator(app: &App, url: &str) -> Vec<Finding> {
    let client = working().and_then(|working| {
        let channel = channel(url, &app.config.submit.tls)?;
        Ok(Client::new(channel, ClientConfig::new(&app.env, working)))
    });
    let client = match client {
        Ok(client) => client,
        Err(error) => return vec![Finding::wrong("coordinator", format!("{error:#}"))],
    };
    let hint = "start it with `dcbuild coordinator --listen HOST:7070`, or mend the address";
    let finding = match tokio::time::timeout(PATIENCE, client.builds()).await {
        Ok(Ok(builds)) => {
            let words = format!("{url} answers and remembers {} builds", builds.len());
            let mut findings = vec![Finding::well("coordinator", words)];
            if let Ok(workers) = client.workers().await {
                findings.extend(peers(app, url, workers).await);
            }
            return findings;
        }
        Ok(Err(error)) => {
            let hint = error.hint().unwrap_or_else(|| hint.to_owned());
            Finding::wrong("coordinator", format!("{url}: {}", story(&error))).hint(hint)
        }
        Err(_) => Finding::wrong("coordinator", format!("{url} does not answer")).hint(hint),
    };
    vec![finding]
}

/// Whether workers can be reached from here, as they are to be reached by each other.
async fn peers(app: &App, url: &str, workers: Vec<ListedWorker>) -> Vec<Finding> {
    let known = known(app, url);
    let tried = workers.into_iter().filter(|worker| worker.state != "away").map(|worker| {
        let known = known.clone();
        async move { peer(worker, known).await }
    });
    futures::future::join_all(tried).await
}

/// What a worker on this machine would know others by, or else what a client knows.
fn known(app: &App, url: &str) -> Option<Arc<ClientCertificates>> {
    let (worker, submit) = (&app.config.worker, &app.config.submit);
    let files = if worker.tls.identity.is_some() && is_encrypted(&worker.coordinator) {
        let ca = worker.peer_ca.clone().or_else(|| worker.tls.ca.clone());
        ClientTls { ca, ..worker.tls.clone() }
    } else {
        submit.tls.clone()
    };
    // Files that cannot be read were found when the coordinator was asked.
    is_encrypted(url).then(|| ClientCertificates::open(files).ok().map(Arc::new)).flatten()
}

async fn peer(worker: ListedWorker, known: Option<Arc<ClientCertificates>>) -> Finding {
    let (id, address) = (worker.id, worker.peer_address);
    if address.is_empty() {
        let words = format!("worker {id} lets no other worker in: layers go by the store alone");
        return Finding::new("peers", Verdict::Skipped, words);
    }
    let tried = async {
        match (worker.peer_certificate, known) {
            (Some(certificate), Some(known)) => {
                knock(&address, (known, Trust::Certificate(certificate)), PEER_PATIENCE)
                    .await
                    .map(|()| ", over TLS")
            }
            _ => tokio::net::TcpStream::connect(&address).await.map(|_| "").map_err(Into::into),
        }
    };
    let error = match tokio::time::timeout(PEER_PATIENCE, tried).await {
        Ok(Ok(how)) => {
            return Finding::well("peers", format!("worker {id} is reached at {address}{how}"));
        }
        Ok(Err(error)) => error,
        Err(_) => "no answer".into(),
    };
    if let Some(distrust) = Distrust::find(&*error) {
        let words = format!(
            "worker {id} at {address} and this machine do not trust each other: {distrust}"
        );
        let hint = "workers that do not trust each other wait for the store instead; the certificate of each must be from a \
                    CA in worker.tls.peer_ca, or worker.tls.ca, of the others";
        return Finding::warning("peers", words).hint(hint);
    }
    let hint = "workers wait for the store instead; set worker.listen to a port that is let through, and \
                worker.advertise to an address by which others reach it";
    let why = story(&*error);
    Finding::warning("peers", format!("worker {id} is not reached at {address}: {why}")).hint(hint)
}
