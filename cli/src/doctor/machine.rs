//! What this machine must have: a folder, space, what RUN needs of the kernel, credentials.

use std::path::{Path, PathBuf};

use dcbuild_client::docker_logins;
use dcbuild_model::Platform;
use dcbuild_process::story;
use dcbuild_progress::text::bytes;
use dcbuild_registry::CredentialSource as _;
use dcbuild_sandbox::{
    CellError, CellSpec, Foreign, Limits, Network, Rootfs, Sandbox, SandboxConfig, Security,
    foreign, has_way_out, native, remove_groups,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Finding;
use crate::build::App;
use crate::roles::executable;
use crate::state::ELSEWHERE;

/// With less space than this, builds fail soon.
const SPACE_MIN: u64 = 1 << 30;
/// With less than this, somebody should know.
const SPACE_LOW: u64 = 10 << 30;
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// What a step's group limits.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

pub(super) async fn look(app: &App) -> Vec<Finding> {
    let mut findings = vec![state(app), space(app)];
    findings.extend(sandbox(app).await);
    findings.push(platforms(&native(), &foreign()));
    findings
}

fn state(app: &App) -> Finding {
    let dir = app.state.store();
    match app.state.open_store().and_then(|store| Ok(store.put_bytes(b"dcbuild was here")?)) {
        Ok(_) => Finding::well("state", format!("{} can be written", dir.display())),
        Err(error) => Finding::wrong("state", format!("{error:#}")).hint(ELSEWHERE),
    }
}

fn space(app: &App) -> Finding {
    let dir = app.state.store();
    // The nearest folder that is there says what its file system has.
    let there = dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let found = match rustix::fs::statvfs(there) {
        Ok(found) => found,
        Err(errno) => {
            return Finding::warning("disk", format!("could not ask for the space: {errno}"));
        }
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let all = found.f_blocks.saturating_mul(found.f_frsize);
    judge_space(free, all, there)
}

fn judge_space(free: u64, all: u64, dir: &Path) -> Finding {
    let words = format!("{} of {} are free at {}", bytes(free), bytes(all), dir.display());
    let hint = "make room with `dcbuild prune`, or name another folder with DCBUILD_STATE_DIR";
    match free {
        free if free < SPACE_MIN => Finding::wrong("disk", words).hint(hint),
        free if free < SPACE_LOW => Finding::warning("disk", words).hint(hint),
        _ => Finding::well("disk", words),
    }
}

/// Which platforms a RUN can be for. That there is no more than one is no fault.
fn platforms(native: &[Platform], foreign: &[Foreign]) -> Finding {
    let list = |platforms: &mut dyn Iterator<Item = &Platform>| {
        platforms.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let runs = |foreign: &&Foreign| foreign.obstacle.is_none();
    let interpreted = list(&mut foreign.iter().filter(runs).map(|foreign| &foreign.platform));
    let own = list(&mut native.iter());
    let words = match interpreted.as_str() {
        "" => format!("a RUN can be for {own}"),
        interpreted => format!("a RUN can be for {own}, and by an interpreter for {interpreted}"),
    };
    let Some((Foreign { platform, interpreter, .. }, obstacle)) =
        foreign.iter().find_map(|foreign| Some((foreign, foreign.obstacle?)))
    else {
        return Finding::well("platforms", words);
    };
    let words =
        format!("{words}; {} is there for {platform}, but {obstacle}", interpreter.display());
    let hint = "apt-get install --reinstall qemu-user-static, which registers its interpreters as a container needs";
    Finding::warning("platforms", words).hint(hint)
}

/// Runs a step in a tree without a single file: all but its program can be had.
async fn sandbox(app: &App) -> Vec<Finding> {
    if !rustix::process::geteuid().is_root() {
        let words = "a RUN needs root on this machine; COPY, ADD and WORKDIR do not";
        let hint = "run dcbuild as root (sudo), or submit builds to a cluster";
        return vec![Finding::warning("sandbox", words).hint(hint)];
    }
    let name = format!("dcbuild-doctor-{}", std::process::id());
    let dir = app.state.worker().join("tmp").join(&name);
    let tried = try_cell(&dir, &name).await;
    if let Err(error) = remove_groups(Path::new(CGROUP_ROOT), &dir.join("sandbox"), &name) {
        tracing::debug!(%error, "the doctor's control groups stay behind");
    }
    if let Err(error) = std::fs::remove_dir_all(&dir) {
        tracing::debug!(%error, "the doctor's folder stays behind");
    }
    let mut findings = vec![match tried {
        Ok(()) => Finding::well("sandbox", "a step gets its namespaces, overlay mount and filter"),
        Err(error) => Finding::wrong("sandbox", format!("a RUN cannot run: {error}"))
            .hint(dcbuild_sandbox::NEEDS),
    }];
    findings.push(cgroups(Path::new(CGROUP_ROOT)));
    findings.push(if has_way_out() {
        Finding::well("network", "steps can have a network of their own with a way out")
    } else {
        Finding::warning("network", "steps have the host's network: theirs would have no way out")
            .hint("a default route and a resolver that is not this host are needed for more")
    });
    findings
}

async fn try_cell(dir: &Path, name: &str) -> Result<(), String> {
    let place = |part: &str| -> Result<PathBuf, String> {
        let path = dir.join(part);
        let made = std::fs::create_dir_all(&path);
        made.map(|()| path).map_err(|error| format!("could not make '{}': {error}", dir.display()))
    };
    let rootfs = Rootfs {
        lowers: vec![place("lower")?],
        upper: place("upper")?,
        work: place("work")?,
        volatile: true,
    };
    let config = SandboxConfig {
        exe: executable().map_err(|error| format!("{error:#}"))?,
        state: place("sandbox")?,
        cgroup_root: CGROUP_ROOT.into(),
        cgroup_name: name.to_owned(),
    };
    let spec = CellSpec {
        attempt: name.to_owned(),
        rootfs,
        argv: vec!["/no-such-program".into()],
        env: Vec::new(),
        cwd: "/".into(),
        user: String::new(),
        mounts: Vec::new(),
        hostname: "doctor".into(),
        hosts: Vec::new(),
        network: Network::Host,
        security: Security::Default,
        limits: Limits::default(),
    };
    let sandbox = Sandbox::new(config).map_err(|error| story(&error))?;
    let (output, mut pieces) = mpsc::channel(16);
    let hear = async { while pieces.recv().await.is_some() {} };
    let (ran, ()) = tokio::join!(sandbox.run(spec, output, CancellationToken::new()), hear);
    match ran {
        // It came as far as the program that is not there.
        Ok(_) | Err(CellError::Refused { .. }) => Ok(()),
        Err(error) => Err(story(&error)),
    }
}

fn cgroups(root: &Path) -> Finding {
    // Version 2 lists its controllers in one file, version 1 has a folder for each.
    let listed = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    let has =
        |name: &&&str| listed.split_whitespace().any(|it| it == **name) || root.join(name).is_dir();
    let lacking: Vec<&str> = CONTROLLERS.iter().filter(|name| !has(name)).copied().collect();
    if lacking.is_empty() {
        return Finding::well("cgroups", "steps can be limited in memory, processes and cpu");
    }
    let words =
        format!("steps are not limited: there is no control group for {}", lacking.join(", "));
    Finding::warning("cgroups", words)
        .hint("mount /sys/fs/cgroup so that dcbuild may write there (docker run --cgroupns=host)")
}

/// Whether each registry that docker's configuration names has a credential that can be had.
pub(super) async fn credentials(app: &App) -> Vec<Finding> {
    let logins = docker_logins(&app.env);
    let Some(path) = logins.file() else { return Vec::new() };
    let config = match logins.load().await {
        Ok(config) => config,
        Err(error) => {
            let hint = "mend the file, or name another folder with DOCKER_CONFIG";
            return vec![Finding::wrong("credentials", story(&error)).hint(hint)];
        }
    };
    let mut findings = Vec::new();
    if let Some(problem) = logins.problem() {
        let words = format!("DOCKER_AUTH_CONFIG is skipped: {problem}");
        findings.push(Finding::warning("credentials", words).hint("mend it, or unset it"));
    }
    let registries = config.registries();
    if registries.is_empty() {
        let words = format!("{} names no registry: pulls and pushes are anonymous", path.display());
        findings.push(Finding::well("credentials", words));
        return findings;
    }
    for registry in registries {
        findings.push(match config.credential(&registry).await {
            Ok(Some(login)) => {
                Finding::well("credentials", format!("{registry}: there is one, {}", login.source))
            }
            Ok(None) => Finding::warning("credentials", format!("{registry}: there is none"))
                .hint(format!("docker login {registry}")),
            Err(error) => Finding::wrong("credentials", format!("{registry}: {}", story(&error)))
                .hint(format!(
                    "install the helper that {} names, or docker login {registry}",
                    path.display()
                )),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use dcbuild_sandbox::Obstacle;

    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_disk_that_is_nearly_full_is_told_with_the_way_out() {
        let judged = |free| judge_space(free, 100 << 30, Path::new("/s"));
        assert_eq!(judged(50 << 30).verdict, Verdict::Well);
        assert_eq!(judged(5 << 30).verdict, Verdict::Warning);
        let full = judged(1 << 20);
        assert_eq!(full.verdict, Verdict::Wrong);
        assert_eq!(full.words, "1.04MB of 107.37GB are free at /s");
        assert!(full.hint.unwrap().contains("dcbuild prune"));
    }

    #[test]
    fn controllers_of_both_versions_are_found() {
        let dir = tempfile::tempdir().unwrap();
        assert!(cgroups(dir.path()).words.contains("memory, pids, cpu"));
        std::fs::write(dir.path().join("cgroup.controllers"), "cpuset memory pids\n").unwrap();
        assert!(cgroups(dir.path()).words.ends_with("for cpu"));
        std::fs::create_dir(dir.path().join("cpu")).unwrap();
        assert_eq!(cgroups(dir.path()).verdict, Verdict::Well);
    }

    #[test]
    fn interpreters_are_listed_and_one_that_runs_nothing_is_told_with_the_way_out() {
        let of = |text: &str, obstacle| Foreign {
            platform: text.parse().unwrap(),
            interpreter: "/usr/bin/some".into(),
            obstacle,
        };
        let own: [Platform; 1] = ["linux/amd64".parse().unwrap()];
        assert_eq!(platforms(&own, &[]).words, "a RUN can be for linux/amd64");
        let runs = of("linux/arm64", None);
        let found = platforms(&own, std::slice::from_ref(&runs));
        let words = "a RUN can be for linux/amd64, and by an interpreter for linux/arm64";
        assert_eq!((found.verdict, found.words.as_str()), (Verdict::Well, words));
        let found = platforms(&own, &[runs, of("linux/s390x", Some(Obstacle::NotFixed))]);
        assert_eq!(found.verdict, Verdict::Warning);
        assert!(found.words.contains("/usr/bin/some is there for linux/s390x"), "{}", found.words);
        assert!(found.hint.unwrap().contains("qemu-user-static"));
    }
}
