//! A coordinator and workers, as processes of this machine.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dcbuild_testkit::tls::Pair;

use crate::home::Home;
use crate::http::{Guest, request};
use crate::registry::{free_port, wait_until_open};
use crate::running::{Finished, Running};
use crate::wait::{LONG, wait_for};

/// A coordinator, its workers, and the folders of each.
#[derive(Debug)]
pub struct Cluster {
    /// Where all of it lies.
    pub home: Home,
    /// The coordinator's address, as a URL.
    pub url: String,
    address: String,
    /// Where the coordinator's health and metrics are.
    metrics: String,
    store: Store,
    /// Whoever reads the metrics over TLS: the CA, and what is shown.
    reader: Option<(PathBuf, Pair)>,
    coordinator: Option<Running>,
    workers: Vec<Option<Running>>,
}

/// What a coordinator is told of its store.
#[derive(Debug, Default)]
pub struct Store {
    /// Flags; without any it is a folder of the home.
    pub flags: Vec<String>,
    /// Variables that only the coordinator gets.
    pub environment: Vec<(&'static str, String)>,
}

impl Cluster {
    /// Starts a coordinator and as many workers, each with as many slots.
    pub fn start(home: Home, workers: usize, slots: u32) -> Cluster {
        Cluster::start_on(Store::default(), home, workers, slots)
    }

    /// The same on another store.
    pub fn start_on(store: Store, home: Home, workers: usize, slots: u32) -> Cluster {
        let address = format!("127.0.0.1:{}", free_port());
        let mut cluster = Cluster {
            home,
            url: format!("http://{address}"),
            address,
            metrics: format!("127.0.0.1:{}", free_port()),
            store,
            reader: None,
            coordinator: None,
            workers: Vec::new(),
        };
        cluster.start_coordinator();
        for _ in 0..workers {
            cluster.start_worker(slots);
        }
        cluster
    }

    /// The same with a coordinator that has a certificate, as its configuration says.
    pub fn start_secure(store: Store, home: Home, workers: usize, slots: u32) -> Cluster {
        let mut cluster = Cluster::start_on(store, home, 0, slots);
        cluster.url = cluster.url.replace("http://", "https://");
        for _ in 0..workers {
            cluster.start_worker(slots);
        }
        cluster
    }

    /// Starts the coordinator, on what an earlier one left.
    pub fn start_coordinator(&mut self) {
        let folder = ["--store".to_owned(), format!("dir:{}", self.home.arg("store"))];
        let store = if self.store.flags.is_empty() { &folder[..] } else { &self.store.flags };
        let data = self.home.arg("coordinator");
        let places = ["--listen", &self.address, "--http-listen", &self.metrics];
        let arguments = ["coordinator", "--data-dir", &data].into_iter().chain(places);
        let arguments = arguments.chain(store.iter().map(String::as_str));
        let mut command = self.home.command(arguments);
        command.envs(self.store.environment.iter().map(|(name, value)| (name, value)));
        let process = Running::start(command);
        wait_until_open(&self.address, &process);
        wait_until_open(&self.metrics, &process);
        self.coordinator = Some(process);
    }

    /// Starts one more worker, and gives its number.
    pub fn start_worker(&mut self, slots: u32) -> usize {
        self.start_worker_with(slots, &[])
    }

    /// The same with more flags.
    pub fn start_worker_with(&mut self, slots: u32, flags: &[&str]) -> usize {
        let number = self.workers.len();
        let process = self.worker(number, slots, flags);
        self.workers.push(Some(process));
        number
    }

    /// The same with another configuration than the home's.
    pub fn start_worker_from(&mut self, slots: u32, config: &Path) -> usize {
        let number = self.workers.len();
        let mut command = self.worker_command(number, slots, &[]);
        command.env("DCBUILD_CONFIG", config);
        self.workers.push(Some(Running::start(command)));
        number
    }

    /// The same as an ordinary user.
    pub fn start_ordinary_worker(&mut self, slots: u32) -> usize {
        let number = self.workers.len();
        let data = self.home.arg(&format!("worker-{number}"));
        let slots = slots.to_string();
        let words = ["worker", "--coordinator", &self.url, "--data-dir", &data, "--slots", &slots];
        self.workers.push(Some(Running::start(self.home.ordinary_command(&words))));
        number
    }

    /// Starts a worker that was killed, on what it left on its disk.
    pub fn start_worker_again(&mut self, number: usize, slots: u32) {
        let process = self.worker(number, slots, &[]);
        self.workers[number] = Some(process);
    }

    fn worker(&self, number: usize, slots: u32, flags: &[&str]) -> Running {
        Running::start(self.worker_command(number, slots, flags))
    }

    fn worker_command(&self, number: usize, slots: u32, flags: &[&str]) -> Command {
        let data = self.home.arg(&format!("worker-{number}"));
        let slots = slots.to_string();
        let fixed = ["worker", "--coordinator", &self.url, "--data-dir", &data, "--slots", &slots];
        self.home.command(fixed.iter().chain(flags))
    }

    /// Ends the coordinator as `kill -9` does.
    pub fn kill_coordinator(&mut self) {
        self.coordinator.take().unwrap().kill();
    }

    /// Ends the coordinator in order, waits until it is gone, and gives what it said.
    pub fn end_coordinator(&mut self) -> Finished {
        let coordinator = self.coordinator.take().unwrap();
        coordinator.terminate();
        coordinator.finish(LONG)
    }

    /// Ends a worker in order, waits until it is gone, and gives what it said.
    pub fn end_worker(&mut self, number: usize) -> Finished {
        let worker = self.workers[number].take().unwrap();
        worker.terminate();
        worker.finish(LONG)
    }

    /// Ends a worker as `kill -9` does.
    pub fn kill_worker(&mut self, number: usize) {
        self.workers[number].take().unwrap().kill();
    }

    /// The arguments of a client's command.
    fn arguments<'a>(&'a self, word: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
        [word, "--coordinator", &self.url].into_iter().chain(rest.iter().copied()).collect()
    }

    /// A client that has not been started.
    pub fn command(&self, word: &str) -> Command {
        self.home.command(self.arguments(word, &[]).iter().map(OsStr::new))
    }

    /// Starts a client.
    pub fn client(&self, word: &str, rest: &[&str]) -> Running {
        self.home.start(self.arguments(word, rest).iter().map(OsStr::new))
    }

    /// Runs a client to its end.
    pub fn ask(&self, word: &str, rest: &[&str]) -> Finished {
        self.client(word, rest).finish(LONG)
    }

    /// Waits until some process has the word as an argument, and says which worker it belongs to.
    pub fn worker_that_runs(&self, word: &str) -> usize {
        wait_for(
            &format!("a worker runs {word}"),
            Duration::from_secs(30),
            || self.workers.iter().position(|it| it.as_ref().is_some_and(|it| runs(it.id(), word))),
            || self.said(),
        )
    }

    /// Waits until every result is in the store.
    pub fn wait_until_durable(&self) {
        let durable = || self.metric("dcbuild_undurable_results") == Some(0);
        wait_for("all is durable", LONG, || durable().then_some(()), || self.said());
    }

    /// Has the metrics be read over TLS from now on.
    pub fn read_securely(&mut self, ca: PathBuf, shown: Pair) {
        self.reader = Some((ca, shown));
    }

    /// Where health and metrics are, as HOST:PORT.
    pub fn page(&self) -> &str {
        &self.metrics
    }

    /// A number on the coordinator's page of metrics; the name has the labels, if there are any.
    pub fn metric(&self, name: &str) -> Option<u64> {
        let line = "GET /metrics";
        let page = match &self.reader {
            None => request(&self.metrics, line, &[], b"").body,
            Some((ca, shown)) => {
                let shown = Some(shown);
                Guest { ca, shown }.request(&self.metrics, line).unwrap().body
            }
        };
        let page = String::from_utf8_lossy(&page);
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok())
    }

    /// What its processes said.
    pub fn said(&self) -> String {
        let all = self.coordinator.iter().chain(self.workers.iter().flatten());
        all.fold(String::new(), |text, it| {
            text + &format!("{}:\n{}{}", it.id(), it.stdout(), it.stderr())
        })
    }
}

/// Whether a process below this one has the word as an argument.
fn runs(id: u32, word: &str) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{id}/task")) else { return false };
    tasks.flatten().any(|task| {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.split_whitespace().any(|child| {
            let arguments = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            let here = arguments.split(|byte| *byte == 0).any(|it| it == word.as_bytes());
            here || child.parse().is_ok_and(|child| runs(child, word))
        })
    })
}
