//! Health and metrics, for probes and Prometheus.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::{IncomingStream, Listener};
use dcbuild_remote::{EncryptedIncoming, EncryptedStream, ServerCertificates, encrypted};
use dcbuild_store::Backlog;
use futures::StreamExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Met, MetCounts};
use crate::core::{Command, CoreHandle, Gauge};
use crate::sweeps::Sweeps;

const NOT_KNOWN: &str = "the metrics are for who shows a certificate from a CA in coordinator.tls.client_ca; \
    coordinator.http_tls = \"open\" shows them to everybody\n";

/// What the page shows.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) core: CoreHandle,
    pub(crate) backlog: Option<watch::Receiver<Backlog>>,
    pub(crate) sweeps: Sweeps,
    pub(crate) met: Met,
    pub(crate) readers: Readers,
}

/// Where the page is served.
pub enum Page {
    /// In the clear.
    Plain(TcpListener),
    /// Over TLS. Probes that show no certificate hear whether the coordinator lives.
    Encrypted {
        /// What it listens with.
        listener: TcpListener,
        /// What it shows.
        certificates: Arc<ServerCertificates>,
        /// Whom it shows the metrics.
        readers: Readers,
    },
}

/// Who may read the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readers {
    /// Whoever comes.
    Everybody,
    /// Whoever has shown a certificate.
    Known,
}

impl Page {
    pub(crate) fn readers(&self) -> Readers {
        match self {
            Page::Plain(_) => Readers::Everybody,
            Page::Encrypted { readers, .. } => *readers,
        }
    }
}

/// Takes connections over TLS.
pub(crate) struct Encrypted {
    incoming: EncryptedIncoming,
    address: SocketAddr,
}

impl Encrypted {
    pub(crate) fn new(
        listener: TcpListener,
        certificates: Arc<ServerCertificates>,
    ) -> io::Result<Encrypted> {
        let address = listener.local_addr()?;
        Ok(Encrypted { incoming: encrypted(listener, certificates), address })
    }
}

impl Listener for Encrypted {
    type Io = EncryptedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (EncryptedStream, SocketAddr) {
        loop {
            let Some(accepted) = self.incoming.next().await else {
                // A listener has no end.
                std::future::pending().await
            };
            if let Ok(stream) = accepted
                && let Ok(address) = stream.get_ref().0.peer_addr()
            {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// Whether whoever asks has shown a certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HasShown(bool);

impl Connected<IncomingStream<'_, TcpListener>> for HasShown {
    fn connect_info(_: IncomingStream<'_, TcpListener>) -> HasShown {
        HasShown(false)
    }
}

impl Connected<IncomingStream<'_, Encrypted>> for HasShown {
    fn connect_info(stream: IncomingStream<'_, Encrypted>) -> HasShown {
        HasShown(stream.io().get_ref().1.peer_certificates().is_some())
    }
}

/// Serves the page until the coordinator stops.
pub(crate) async fn serve<L>(listener: L, shown: Shown, stop: CancellationToken) -> io::Result<()>
where
    L: Listener<Addr: std::fmt::Debug>,
    HasShown: for<'s> Connected<IncomingStream<'s, L>>,
{
    let page = router(shown).into_make_service_with_connect_info::<HasShown>();
    axum::serve(listener, page).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// The page of a coordinator.
fn router(shown: Shown) -> axum::Router {
    axum::Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .with_state(shown)
}

/// Healthy is a coordinator whose core answers.
async fn healthz(State(Shown { core, .. }): State<Shown>) -> Response {
    match core.ask(|reply| Command::Gauge { reply }).await {
        Ok(_) => "ok\n".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn metrics(
    State(Shown { core, backlog, sweeps, met, readers }): State<Shown>,
    ConnectInfo(HasShown(has_shown)): ConnectInfo<HasShown>,
) -> Response {
    if readers == Readers::Known && !has_shown {
        return (StatusCode::FORBIDDEN, NOT_KNOWN).into_response();
    }
    match core.ask(|reply| Command::Gauge { reply }).await {
        Ok(gauge) => {
            let backlog = backlog.map(|backlog| backlog.borrow().clone());
            let page = text(&gauge, &backlog.unwrap_or_default());
            (page + &sweeps_text(&sweeps) + &met_text(&met())).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

fn text(gauge: &Gauge, backlog: &Backlog) -> String {
    let Gauge { counts, tally, builds, undurable } = gauge;
    let mut page = String::new();
    let mut family = |name: &str, kind: &str, help: &str, rows: &[(&str, u64)]| {
        // Writing to a String does not fail.
        let _head = write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in rows {
            let _row = writeln!(page, "{name}{labels} {value}");
        }
    };
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let states: Vec<(String, u64)> = builds
        .iter()
        .map(|(state, number)| (format!("{{state=\"{state}\"}}"), count(*number)))
        .collect();
    let states: Vec<(&str, u64)> = states.iter().map(|(label, n)| (label.as_str(), *n)).collect();
    family("dcbuild_builds", "gauge", "Builds that are remembered.", &states);
    let jobs = [
        ("{state=\"queued\"}", count(counts.queued_jobs)),
        ("{state=\"leased\"}", count(counts.leased_jobs)),
    ];
    family("dcbuild_jobs", "gauge", "Jobs that wait or run.", &jobs);
    let workers = [
        ("{slot=\"free\"}", count(counts.free_workers)),
        ("{slot=\"none\"}", count(counts.workers.saturating_sub(counts.free_workers))),
    ];
    family("dcbuild_workers", "gauge", "Workers, by whether a slot is free.", &workers);
    let steps = [
        ("{how=\"ran\"}", tally.ran),
        ("{how=\"shared\"}", tally.shared),
        ("{how=\"hit_recipe\"}", tally.hits_probed),
        ("{how=\"hit_result\"}", tally.hits_outcome),
    ];
    family("dcbuild_steps_total", "counter", "Steps with a result, by its origin.", &steps);
    let undurable = [("", count(*undurable))];
    family("dcbuild_undurable_results", "gauge", "Results on workers' disks alone.", &undurable);
    let retries = [("", tally.retries)];
    let waiting = [("", count(backlog.items))];
    let help = "Blobs and documents that wait until the store takes them.";
    family("dcbuild_store_waiting", "gauge", help, &waiting);
    let help = "The bytes of what waits until the store takes it.";
    family("dcbuild_store_waiting_bytes", "gauge", help, &[("", backlog.bytes)]);
    let failing = [("", u64::from(backlog.failure.is_some()))];
    family("dcbuild_store_failing", "gauge", "Whether builds go on without the store.", &failing);
    let read =
        [("{tls=\"yes\"}", tally.peer_bytes.encrypted), ("{tls=\"no\"}", tally.peer_bytes.plain)];
    let help = "What workers read from each other.";
    family("dcbuild_peer_bytes_total", "counter", help, &read);
    family("dcbuild_retries_total", "counter", "Attempts lost to faults of machines.", &retries);
    page
}

fn sweeps_text(sweeps: &Sweeps) -> String {
    let mut page = String::new();
    for (name, kind, help, rows) in sweeps.families() {
        // Writing to a String does not fail.
        let _head = write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in rows {
            let _row = writeln!(page, "{name}{labels} {value}");
        }
    }
    page
}

fn met_text(met: &MetCounts) -> String {
    let MetCounts { quarantined, refused, reads, lists, store_faults, index_faults } = met;
    let mut page = String::new();
    for (name, help, value) in [
        ("store_quarantined", "Corrupt blobs that were put aside.", quarantined),
        ("store_refused", "Documents of store or index that were no sealed ones.", refused),
        ("store_reads", "Documents read from the store, for the index lacked them.", reads),
        ("store_lists", "Keys listed in the store, for the index was incomplete.", lists),
        ("store_faults", "Reads and writes that the store failed.", store_faults),
        ("index_faults", "Questions and notes that the index failed.", index_faults),
    ] {
        let name = format!("dcbuild_{name}_total");
        // Writing to a String does not fail.
        let _one = write!(page, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n");
    }
    page
}
