//! RUN: a cell on the overlay of the state below, and the layer that it leaves.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use dcbuild_layer::ReadContent as _;
use dcbuild_model::limits::{STEP_LOG_BYTES_MAX, STEP_PROCESSES_MAX};
use dcbuild_model::{TreePath, UnixTime};
use dcbuild_plan::HOST_GATEWAY;
use dcbuild_plan::op::{self, RunNetwork, RunOp, RunSecurity};
use dcbuild_proto::document::{StepErrorKind, Upload};
use dcbuild_sandbox::{
    CellError, CellExit, CellSpec, Limits, Network, Outcome, Resources, Rootfs, Sandbox, Security,
    Stream, Swap, Ulimit,
};
use dcbuild_snapshot::{CommitForm, Lowers, Upper};
use dcbuild_tree::{TimeForm, Tree};
use tokio::sync::mpsc;

use super::{Made, endings, mounts};
use crate::attempt::{Attempt, Task};
use crate::contents::Contents;
use crate::error::{Failed, blocking};
use crate::layers;
use crate::publish::Publish;
use crate::report::Progress;
use crate::room;
use crate::{DefaultNetwork, WorkerConfig};

/// How far the times of files may lag behind the clock: the kernel stamps them once a tick.
const TICK_NANOS: u32 = 50_000_000;
/// Pieces of output on their way.
const OUTPUT_QUEUE: usize = 64;

/// What a cell stands on.
struct Stage {
    tree: Tree,
    lowers: Lowers,
    upper: Upper,
}

pub(crate) async fn make(
    attempt: &Arc<Attempt>,
    task: &Arc<Task>,
    op: &RunOp,
) -> Result<Made, Failed> {
    allowed(crate::shared::is_able_to_run(), way_out(attempt.shared.config.in_process))?;
    granted(&attempt.shared.config, op)?;
    able(&attempt.shared.config, op)?;
    let mut mounts = tokio::select! {
        () = attempt.run.stop.cancelled() => return Err(Failed::Stopped),
        mounts = mounts::prepare(attempt, task, op) => mounts?,
    };
    let sandbox = attempt.shared.sandbox().await?;
    let stage = stage(attempt, task).await?;
    let network = network(sandbox, op.network, attempt.shared.config.network);
    let spec = match spec(attempt, op, &stage, &mounts, network) {
        Ok(spec) => spec,
        Err(error) => return Err(abandon(attempt, stage.upper, error).await),
    };
    let start = earlier(attempt.shared.parts.clock.now());
    let ended = cell(attempt, &task.progress, sandbox, spec).await;
    let caches = std::mem::take(&mut mounts.write_back);
    // Locks of caches and throw-away folders are free as soon as the process is gone.
    drop(mounts);
    let full = room::is_full(&attempt.shared.config.data_dir);
    let ended = match ended {
        Ok(exit) => judge((op, network), &exit, full).map(|taint| (exit.stubs, taint)),
        Err(error) => Err(cell_failed(&attempt.shared.config, error)),
    };
    match ended {
        Ok((stubs, taint)) => {
            // What a step left that was not whole is no state to go on from.
            let kept = taint.is_none() && attempt.upload == Upload::All;
            for cache in caches.into_iter().filter(|_| kept) {
                cache.write_back(&attempt.shared);
            }
            commit(attempt, stage, stubs, start).await.map(|made| Made { taint, ..made })
        }
        Err(error) => {
            let error = explained(attempt, op, &stage.tree, error).await;
            Err(abandon(attempt, stage.upper, error).await)
        }
    }
}

/// Adds to a command's failure what it may come from, where that can be seen.
async fn explained(attempt: &Attempt, op: &RunOp, tree: &Tree, error: Failed) -> Failed {
    let code = match &error {
        Failed::Step(step) if step.hint.is_none() => match step.kind {
            StepErrorKind::Exit { code } => code,
            _ => return error,
        },
        _ => return error,
    };
    let (op, tree, layers) = (op.clone(), tree.clone(), attempt.shared.layers.clone());
    let hint = blocking(move || {
        let contents = Contents::new(layers);
        Ok(endings::hint(&op, code, &tree, &|body| contents.open(body)))
    });
    // A failure is told whether or not its reason can be.
    error.with_hint(hint.await.unwrap_or_default())
}

/// Says at once what an ordinary user cannot do yet, instead of which of its many parts the kernel refused first.
fn allowed(root: bool, hint: &str) -> Result<(), Failed> {
    if root {
        return Ok(());
    }
    let message = "a RUN needs root on this machine, to make its folders and its namespaces";
    Err(Failed::rejected(message).with_hint(Some(hint)))
}

/// Whoever has submitted a build already is not told to submit it.
fn way_out(in_process: bool) -> &'static str {
    if in_process {
        "run dcbuild as root (sudo), or submit the build to a cluster; COPY, ADD and WORKDIR need no root"
    } else {
        "whoever runs the cluster can start this worker as root, or add one that has root; COPY, ADD and WORKDIR need no root"
    }
}

/// Refuses what this worker's own configuration does not grant, whatever the coordinator says.
fn granted(config: &WorkerConfig, op: &RunOp) -> Result<(), Failed> {
    let asked = [
        ("network.host", op.network == RunNetwork::Host),
        ("security.insecure", op.security == RunSecurity::Insecure),
        ("cgroup-parent", op.cgroup_parent.is_some()),
    ];
    let lacking = |(what, asked): &(&str, bool)| *asked && !config.allow.contains(*what);
    match asked.into_iter().find(lacking) {
        Some((what, _)) if !config.in_process => {
            let message = format!("{what} is not granted by worker {}", config.id);
            let hint = "have its operator name it in worker.allow".to_owned();
            Err(Failed::rejected(message).with_hint(Some(hint)))
        }
        _ => Ok(()),
    }
}

/// Says what this process lacks, before something that has to do with it fails first.
fn able(config: &WorkerConfig, op: &RunOp) -> Result<(), Failed> {
    let network = match op.network {
        RunNetwork::None => Network::None,
        RunNetwork::Default | RunNetwork::Host => Network::Host,
    };
    let able = dcbuild_sandbox::able(&config.data_dir, network, security(op));
    able.map_err(|error| cell_failed(config, error))
}

fn security(op: &RunOp) -> Security {
    match op.security {
        RunSecurity::Sandbox => Security::Default,
        RunSecurity::Insecure => Security::Insecure,
    }
}

async fn stage(attempt: &Arc<Attempt>, task: &Arc<Task>) -> Result<Stage, Failed> {
    let (layers, task, id) = (attempt.shared.layers.clone(), task.clone(), attempt.fence.attempt);
    let work = blocking(move || {
        let tree = layers.tree(&task.below)?;
        let lowers = layers.lowers(&task.below)?;
        let root = tree.get(&TreePath::root()).map(|root| root.meta.clone()).unwrap_or_default();
        let upper = layers.snapshots.begin(id, &root)?;
        Ok(Stage { tree, lowers, upper })
    });
    tokio::select! {
        () = attempt.run.stop.cancelled() => Err(Failed::Stopped),
        stage = work => stage,
    }
}

fn spec(
    attempt: &Attempt,
    op: &RunOp,
    stage: &Stage,
    mounts: &mounts::Mounts,
    network: Network,
) -> Result<CellSpec, Failed> {
    let declared = |name: &str| op.env.iter().any(|(known, _)| known == name);
    let proxies = op.proxies.iter().filter(|(name, _)| !declared(name)).cloned();
    let env = op.env.iter().cloned().chain(proxies).chain(mounts.env.iter().cloned()).collect();
    let hosts = op.hosts.iter().map(|(name, address)| {
        if address == HOST_GATEWAY {
            return Ok((name.clone(), OWN_HOST));
        }
        let address: IpAddr = address.parse().map_err(|_| {
            Failed::rejected(format!("'{address}' is not the address of a host '{name}'"))
        })?;
        Ok((name.clone(), address))
    });
    let hostname = if op.hostname.is_empty() { "buildkitsandbox" } else { &op.hostname };
    Ok(CellSpec {
        attempt: attempt.fence.attempt.to_string(),
        rootfs: Rootfs {
            lowers: stage.lowers.paths().map(PathBuf::from).collect(),
            upper: stage.upper.upper(),
            work: stage.upper.work(),
            volatile: true,
        },
        argv: op.argv.clone(),
        env,
        cwd: op.cwd.clone(),
        user: op.user.clone(),
        mounts: mounts.all.clone(),
        hostname: hostname.to_owned(),
        hosts: hosts.collect::<Result<_, Failed>>()?,
        network,
        security: security(op),
        limits: Limits { memory_bytes_max: attempt.shared.config.step_memory_max, ..limits(op)? },
    })
}

/// Where a step finds the machine that runs it: on the host's network at its loopback, where also what listens there alone
/// is reached. A step with another network, or none, gets the same line and reaches nothing, which counts where it tries.
const OWN_HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What a command that failed has to know of the host that it names.
fn of_own_host(op: &RunOp, network: Network) -> Option<String> {
    let named = |name: &str| op.argv.iter().any(|word| word.contains(name));
    let gateway = |(name, address): &&(String, String)| address == HOST_GATEWAY && named(name);
    let (name, _) = op.hosts.iter().find(gateway).filter(|_| network == Network::Isolated)?;
    Some(format!(
        "--add-host {name}:{HOST_GATEWAY}: a RUN has a network of its own, which does not reach the machine that runs it; \
         build with --network host, which a cluster must grant (network.host), or give the address of another machine in \
         the place of host-gateway"
    ))
}

fn network(sandbox: &Sandbox, asked: RunNetwork, usual: DefaultNetwork) -> Network {
    match (asked, usual) {
        (RunNetwork::None, _) | (RunNetwork::Default, DefaultNetwork::None) => Network::None,
        (RunNetwork::Host, _) | (RunNetwork::Default, DefaultNetwork::Host) => Network::Host,
        (RunNetwork::Default, DefaultNetwork::Isolated) => Network::Isolated,
        (RunNetwork::Default, DefaultNetwork::Outward) => {
            if sandbox.has_network(Network::Isolated) { Network::Isolated } else { Network::Host }
        }
    }
}

/// What a build asked for of memory and processors.
fn resources(asked: &op::Resources) -> Resources {
    let number = |number: u64| (number > 0).then_some(number);
    let set = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    Resources {
        memory_bytes_max: number(asked.memory_bytes),
        swap: match asked.swap {
            None => Swap::None,
            Some(total) => u64::try_from(total).map_or(Swap::Any, Swap::Together),
        },
        cpu_shares: number(asked.cpu_shares),
        cpu_period_micros: number(asked.cpu_period),
        cpu_quota_micros: number(asked.cpu_quota),
        cpus: set(&asked.cpuset_cpus),
        memory_nodes: set(&asked.cpuset_mems),
    }
}

fn limits(op: &RunOp) -> Result<Limits, Failed> {
    let mut limits = Limits {
        pids_max: STEP_PROCESSES_MAX,
        cgroup_parent: op.cgroup_parent.clone(),
        resources: resources(&op.resources),
        ..Limits::default()
    };
    if op.shm_bytes > 0 {
        limits.shm_bytes_max = op.shm_bytes;
    }
    for ulimit in &op.ulimits {
        let resource = ulimit.name.parse().map_err(|_| {
            Failed::rejected(format!("there is no resource limit '{}'", ulimit.name))
        })?;
        // Negative means no limit.
        let value = |limit: i64| u64::try_from(limit).ok();
        let (soft, hard) = (value(ulimit.soft), value(ulimit.hard));
        limits.ulimits.push(Ulimit { resource, soft, hard });
    }
    Ok(limits)
}

async fn cell(
    attempt: &Attempt,
    progress: &Progress,
    sandbox: &Sandbox,
    spec: CellSpec,
) -> Result<CellExit, CellError> {
    let (output, mut pieces) = mpsc::channel::<(Stream, Bytes)>(OUTPUT_QUEUE);
    let tell = async {
        let mut told = 0;
        while let Some((stream, bytes)) = pieces.recv().await {
            let stream = match stream {
                Stream::Stdout => 1,
                Stream::Stderr => 2,
            };
            let before = told;
            told += u64::try_from(bytes.len()).unwrap_or(0);
            if told <= STEP_LOG_BYTES_MAX {
                progress.log(stream, bytes).await;
            } else if before <= STEP_LOG_BYTES_MAX {
                let note = format!("\n[the log is cut after {STEP_LOG_BYTES_MAX} bytes]\n");
                progress.log(2, note.into()).await;
            }
        }
    };
    let run = sandbox.run(spec, output, attempt.run.stop.clone());
    tokio::join!(run, tell).0
}

/// Says whether a step succeeded; if it did, what went wrong all the same.
fn judge(
    (op, network): (&RunOp, Network),
    exit: &CellExit,
    full: bool,
) -> Result<Option<String>, Failed> {
    let code = match exit.outcome {
        Outcome::Exited(0) => return Ok(taint(exit, full)),
        Outcome::Exited(code) => code,
        Outcome::Signaled(signal) => 128 + signal,
    };
    let process = op.argv.join(" ");
    let story = format!("process \"{process}\" did not complete successfully: exit code: {code}");
    if exit.oom_killed {
        let message = format!("{story} (out of memory)");
        return Err(Failed::new(StepErrorKind::MemoryLimit {}, message));
    }
    if full {
        return Err(Failed::new(StepErrorKind::NoSpace {}, story));
    }
    let hint = exit
        .pids_limit_hit
        .then(|| format!("it was refused a process: a step may have {STEP_PROCESSES_MAX}"))
        .or_else(|| of_own_host(op, network));
    Err(Failed::new(StepErrorKind::Exit { code }, story).with_hint(hint))
}

/// What a command did not mind, though its result may be less than was wanted.
fn taint(exit: &CellExit, full: bool) -> Option<String> {
    let what = match (exit.oom_killed, exit.pids_limit_hit) {
        (true, _) => "the kernel killed a process of it for want of memory".to_owned(),
        (_, true) => format!("it was refused a process: a step may have {STEP_PROCESSES_MAX}"),
        (false, false) if full => "the disk was full when it ended".to_owned(),
        (false, false) => return None,
    };
    Some(format!("{what}, though the command succeeded; the result is not kept in the cache"))
}

fn cell_failed(config: &WorkerConfig, error: CellError) -> Failed {
    let failed = match &error {
        CellError::Stopped => return Failed::Stopped,
        CellError::TimedOut { .. } => Failed::of(StepErrorKind::TimeLimit {}, &error),
        CellError::Refused { .. } | CellError::Stranger { .. } | CellError::Limit { .. } => {
            Failed::refused(&error)
        }
        // Another worker may have what this one lacks; in one process there is none.
        error if config.in_process && error.is_lasting() => Failed::refused(error),
        _ => Failed::sandbox(&error),
    };
    failed.with_hint(error.hint())
}

async fn commit(
    attempt: &Arc<Attempt>,
    stage: Stage,
    stubs: Vec<TreePath>,
    start: UnixTime,
) -> Result<Made, Failed> {
    let (layers, threads) = (attempt.shared.layers.clone(), attempt.shared.cores);
    let committed = blocking(move || {
        let Stage { tree, lowers, upper } = stage;
        let lower = |path: &TreePath| tree.get(path).cloned();
        let form = CommitForm { lower: &lower, stubs: &stubs, threads };
        let committed = layers.snapshots.commit(upper, &form)?;
        drop(lowers);
        Ok(committed)
    })
    .await?;
    let times = TimeForm::NewSince(start);
    let made = layers::layer_ref(committed.layer, &committed.changes, times);
    attempt.shared.layers.put_table(committed.layer, committed.toc).await?;
    Ok(Made { layers: vec![made], publish: Publish::Snapshot(committed.layer), taint: None })
}

/// Removes what a step wrote that did not succeed.
async fn abandon(attempt: &Attempt, upper: Upper, error: Failed) -> Failed {
    let layers = attempt.shared.layers.clone();
    let removed = blocking(move || Ok(layers.snapshots.abandon(upper)?)).await;
    if let Err(error) = removed {
        tracing::warn!(%error, "could not remove what a failed step wrote");
    }
    error
}

fn earlier(time: UnixTime) -> UnixTime {
    match time.nanos.checked_sub(TICK_NANOS) {
        Some(nanos) => UnixTime { nanos, ..time },
        None => UnixTime { secs: time.secs - 1, nanos: time.nanos + 1_000_000_000 - TICK_NANOS },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_user_is_told_what_is_lacking() {
        for (in_process, can, cannot) in
            [(true, "sudo", "whoever runs"), (false, "whoever runs the cluster", "submit")]
        {
            assert!(allowed(true, way_out(in_process)).is_ok());
            let refused = allowed(false, way_out(in_process));
            let Err(Failed::Step(error)) = refused else { panic!("it was allowed") };
            assert!(error.message.contains("needs root"), "{error:?}");
            let hint = error.hint.unwrap_or_default();
            assert!(hint.contains(can) && !hint.contains(cannot), "{hint}");
        }
    }

    #[test]
    fn who_does_not_reach_its_host_is_told_where_it_tried() {
        let op = |command: &str| RunOp {
            argv: vec!["/bin/sh".into(), "-c".into(), command.into()],
            hosts: vec![("db".into(), HOST_GATEWAY.into())],
            ..RunOp::default()
        };
        let told = |command, network| of_own_host(&op(command), network);
        assert!(
            told("nc db 1", Network::Isolated).is_some_and(|hint| hint.contains("--network host"))
        );
        assert_eq!(told("nc db 1", Network::Host), None);
        assert_eq!(told("false", Network::Isolated), None);
    }
}
