//! Times `/bin/true` in cells of several kinds: `cargo run --release --example speed`, as root, with busybox-static.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "an example for people")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use dcbuild_sandbox::{
    CELL_ARGUMENT, CellSpec, CellTimings, IsolatedConfig, Limits, Network, Resources, Rootfs,
    Sandbox, SandboxConfig, Security, cell_main,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const RUNS: usize = 200;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(CELL_ARGUMENT) => return cell_main(),
        Some("nothing") => return ExitCode::SUCCESS,
        _ => {}
    }
    let dir = tempfile::tempdir().unwrap();
    for folder in ["bin", "dev", "etc", "proc", "sys"] {
        std::fs::create_dir_all(dir.path().join("lower").join(folder)).unwrap();
    }
    for file in ["hosts", "resolv.conf"] {
        std::fs::write(dir.path().join("lower/etc").join(file), "").unwrap();
    }
    std::fs::copy("/bin/busybox", dir.path().join("lower/bin/true")).unwrap();
    let sandbox = Sandbox::new(SandboxConfig {
        exe: std::env::current_exe().unwrap(),
        state: dir.path().join("state"),
        cgroup_root: "/sys/fs/cgroup".into(),
        cgroup_name: "dcbuild-speed".to_owned(),
    })
    .unwrap();
    sandbox.sweep(&BTreeSet::new()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sandbox = if std::env::args().any(|each| each == "--isolated") {
        sandbox.isolated(IsolatedConfig::default()).unwrap()
    } else {
        sandbox
    };
    let mut times: Vec<_> = (0..RUNS).map(|_| runtime.block_on(nothing())).collect();
    times.sort();
    println!("a process that does nothing: median {:?}, best {:?}", times[RUNS / 2], times[0]);
    let memory = Limits { memory_bytes_max: Some(1 << 30), ..Limits::default() };
    let resources = Resources { cpu_quota_micros: Some(200_000), ..Resources::default() };
    let cpu = Limits { resources, ..memory.clone() };
    for (name, network, limits) in [
        ("host network, processes limited", Network::Host, Limits::default()),
        ("no network, processes limited", Network::None, Limits::default()),
        ("no network, memory limited too", Network::None, memory.clone()),
        ("no network, cpu limited too", Network::None, cpu),
        ("isolated network, memory limited too", Network::Isolated, memory),
    ] {
        if !sandbox.has_network(network) {
            continue;
        }
        let mut times: Vec<_> = (0..RUNS)
            .map(|_| {
                let spec = spec(dir.path(), network, limits.clone());
                runtime.block_on(run(&sandbox, spec))
            })
            .collect();
        times.sort_by_key(|(whole, _)| *whole);
        let (whole, cell) = times[RUNS / 2];
        println!(
            "{name}: median {whole:?} (setup {:?}, run {:?}), best {:?}",
            cell.setup, cell.run, times[0].0
        );
    }
    ExitCode::SUCCESS
}

async fn nothing() -> Duration {
    let started = tokio::time::Instant::now();
    let exe = std::env::current_exe().unwrap();
    tokio::process::Command::new(exe).arg("nothing").status().await.unwrap();
    started.elapsed()
}

async fn run(sandbox: &Sandbox, spec: CellSpec) -> (Duration, CellTimings) {
    let (tx, _rx) = mpsc::channel(1);
    let started = tokio::time::Instant::now();
    let exit = sandbox.run(spec, tx, CancellationToken::new()).await.unwrap();
    (started.elapsed(), exit.timings)
}

fn spec(dir: &Path, network: Network, limits: Limits) -> CellSpec {
    for folder in ["upper", "work"] {
        let _absent = std::fs::remove_dir_all(dir.join(folder));
        std::fs::create_dir(dir.join(folder)).unwrap();
    }
    CellSpec {
        attempt: "speed".to_owned(),
        rootfs: Rootfs {
            lowers: vec![dir.join("lower")],
            upper: dir.join("upper"),
            work: dir.join("work"),
            volatile: true,
        },
        argv: vec!["/bin/true".to_owned()],
        env: Vec::new(),
        cwd: "/".to_owned(),
        user: String::new(),
        mounts: Vec::new(),
        hostname: "speed".to_owned(),
        hosts: Vec::new(),
        network,
        security: Security::Default,
        limits,
    }
}
