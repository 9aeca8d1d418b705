//! What a bucket that fails costs the builds of a cluster: one that is dead, one that never answers and one that has too
//! much to do, against one that does well, in turns; and how soon it has all that it missed.

use std::path::Path;

use anyhow::{Context, ensure};
use dcbuild_tests::base::busybox;
use dcbuild_tests::cluster::{Cluster, Store};
use dcbuild_tests::home::Home;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::s3::S3Server;
use dcbuild_tests::s3::faults::Fault;
use dcbuild_tests::wait::{LONG, Stopwatch, wait_for};

pub(super) const NAME: &str = "store";

/// Steps of a build, each of which computes for a while and leaves so many bytes.
const STEPS: usize = 6;
const STEP_BYTES: u64 = 8_000_000;
/// Builds while the bucket fails: the first meets the failure, the others find it known.
const BUILDS: usize = 3;
/// What is measured: how the bucket does.
const STATES: [State; 4] = [State::Well, State::Dead, State::Silent, State::Busy];
/// What is on its way to the bucket, or waits for it to do well.
const OPEN: [&str; 3] =
    ["dcbuild_undurable_results", "dcbuild_store_waiting", "dcbuild_store_failing"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Well,
    Dead,
    Silent,
    Busy,
}

impl State {
    fn title(self) -> &'static str {
        match self {
            State::Well => "does well",
            State::Dead => "is dead: connections are refused",
            State::Silent => "is silent: requests are never answered",
            State::Busy => "has too much to do: each answer is a 503",
        }
    }

    fn begin(self, s3: &mut S3Server) {
        match self {
            State::Well => {}
            State::Dead => s3.refuse(),
            State::Silent => s3.fail(|_| Some(Fault::Stall)),
            State::Busy => s3.fail(|_| Some(Fault::SLOW_DOWN)),
        }
    }

    fn end(self, s3: &mut S3Server) {
        match self {
            State::Well => {}
            State::Dead => s3.serve_again(),
            State::Silent | State::Busy => s3.heal(),
        }
    }
}

/// Seconds: of the first build, of the median of those after it, and until the bucket had all.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Taken {
    first: f64,
    later: f64,
    drained: f64,
}

fn dockerfile(base: &str, mark: &str) -> String {
    let step = |number: usize| {
        format!(
            "RUN : {mark} && head -c {STEP_BYTES} /dev/urandom > /{number} && sha256sum /{number} && sha256sum /{number}\n"
        )
    };
    format!("FROM {base}\n{}", (0..STEPS).map(step).collect::<String>())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Measures in rounds, in each of which the bucket does well and fails in turns, and prints the medians.
pub(super) fn run(binary: &Path, rounds: usize) -> anyhow::Result<()> {
    let (registry, mut s3) = (Registry::start(), S3Server::start());
    registry.put("busybox:golden", &busybox());
    let flags = vec!["--store".to_owned(), s3.url("bench")];
    let store = Store { flags, environment: s3.environment().to_vec() };
    let home = Home::with_binary(binary.to_owned(), &registry.as_docker_io());
    let cluster = Cluster::start_on(store, home, 1, 2);
    let site = (&cluster, &registry);
    // What is made once is made before.
    measure(site, &mut s3, (State::Well, "before"))?;
    let mut taken = STATES.map(|state| (state, Vec::new()));
    for round in 0..rounds.max(1) {
        for (state, taken) in &mut taken {
            let mark = format!("{round}-{state:?}");
            taken.push(measure(site, &mut s3, (*state, &mark))?);
        }
    }
    let titles = ["first", "ratio", "later", "ratio", "all sent"];
    println!("\n{:44}{}", "a bucket that", titles.map(|it| format!("{it:>10}")).concat());
    let mut well = Taken::default();
    for (state, taken) in taken {
        let of = |value: fn(&Taken) -> f64| median(taken.iter().map(value).collect());
        let Taken { first, later, drained } = Taken {
            first: of(|it| it.first),
            later: of(|it| it.later),
            drained: of(|it| it.drained),
        };
        if state == State::Well {
            well = Taken { first, later, drained };
        }
        let (ratio, ratio_later) = (first / well.first, later / well.later);
        let title = state.title();
        println!(
            "{title:44}{first:>9.2}s{ratio:>10.2}{later:>9.2}s{ratio_later:>10.2}{drained:>9.1}s"
        );
    }
    Ok(())
}

fn measure(
    (cluster, registry): (&Cluster, &Registry),
    s3: &mut S3Server,
    (state, mark): (State, &str),
) -> anyhow::Result<Taken> {
    let context = cluster.home.path("context");
    std::fs::create_dir_all(&context).context("could not make a folder")?;
    let base = format!("{}/busybox:golden", registry.host);
    state.begin(s3);
    let mut times = Vec::new();
    for number in 0..BUILDS {
        let text = dockerfile(&base, &format!("{mark}-{number}"));
        std::fs::write(context.join("Dockerfile"), text)?;
        let image = format!("{}/store:{mark}-{number}", registry.host).to_lowercase();
        let folder = context.display().to_string();
        let watch = Stopwatch::start();
        let done =
            cluster.ask("submit", &["--progress", "quiet", "--tag", &image, "--push", &folder]);
        times.push(watch.passed().as_secs_f64());
        ensure!(done.status.success(), "dcbuild: {}\n{}", done.status, done.stderr);
    }
    state.end(s3);
    let watch = Stopwatch::start();
    let sent = || OPEN.iter().all(|name| cluster.metric(name) == Some(0)).then_some(());
    wait_for("the bucket has all", LONG, sent, || cluster.said());
    let drained = watch.passed().as_secs_f64();
    let first = times.remove(0);
    Ok(Taken { first, later: median(times), drained })
}
