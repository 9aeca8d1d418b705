//! The control groups of steps: made below where they belong, and gone afterwards.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use dcbuild_sandbox::{
    CellError, Outcome, Resources, Sandbox, SandboxConfig, Security, Stream, Swap, remove_groups,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Fixture, run};

pub(super) fn groups_of_version_2() {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let root = roots.iter().find(|root| Path::new(root).join("cgroup.controllers").exists());
    let root = root.expect("these tests need a control group file system of version 2");
    let fixture = Fixture::new("version-2");
    let sandbox = Sandbox::new(SandboxConfig {
        exe: std::env::current_exe().unwrap(),
        state: fixture.dir.path().join("state"),
        cgroup_root: root.into(),
        cgroup_name: fixture.group.clone(),
    })
    .unwrap();
    sandbox.sweep(&BTreeSet::new()).unwrap();
    let group = Path::new(root).join(&fixture.group);
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (tx, mut rx) = mpsc::channel::<(Stream, bytes::Bytes)>(1);
        let look = async {
            let (_, line) = rx.recv().await.unwrap();
            assert_eq!(line, "0::/\n", "the step's group is the root of what it sees");
            let members = std::fs::read_to_string(group.join("attempt-1/cgroup.procs")).unwrap();
            assert!(members.lines().next().is_some(), "the step is in it");
            stop.cancel();
        };
        let spec = fixture.spec("grep ^0: /proc/self/cgroup; exec sleep 98766");
        let (exit, ()) = tokio::join!(sandbox.run(spec, tx, stop.clone()), look);
        assert!(matches!(exit, Err(CellError::Stopped)), "{exit:?}");
    });
    std::fs::remove_dir(&group).unwrap();
}

/// Of the version that this machine limits memory with.
pub(super) fn a_step_reads_its_own_limits() {
    let fixture = Fixture::new("own");
    let script = "cd /sys/fs/cgroup; cat memory.max memory/memory.limit_in_bytes 2>/dev/null
        cd memory 2>/dev/null; (mkdir -p x/y && echo written) 2>&1 | sed 's/.*: //'";
    for (security, said) in
        [(Security::Default, "Read-only file system"), (Security::Insecure, "written")]
    {
        let mut spec = fixture.spec(script);
        spec.limits.memory_bytes_max = Some(32 << 20);
        spec.security = security;
        let ran = fixture.run(spec);
        assert_eq!(ran.stdout, format!("33554432\n{said}\n"), "{security:?} {}", ran.stderr);
        assert!(ran.exit.is_ok(), "{:?}", ran.exit);
        assert!(fixture.groups_left().is_empty(), "{:?}", fixture.groups_left());
    }
}

/// Of both versions, where this machine has both.
pub(super) fn groups_below_one_that_is_named() {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let is_root = |root: &&Path| {
        ["cgroup.controllers", "pids/cgroup.procs"].iter().any(|file| root.join(file).exists())
    };
    for root in roots.into_iter().filter(is_root) {
        let fixture = Fixture::new("parent");
        let state = fixture.dir.path().join("state");
        let sandbox = Sandbox::new(SandboxConfig {
            exe: std::env::current_exe().unwrap(),
            state: state.clone(),
            cgroup_root: root.into(),
            cgroup_name: fixture.group.clone(),
        })
        .unwrap();
        let (parent, group) = ("dcbuild-test-above.slice", &fixture.group);
        let path = format!("dcbuild.slice/dcbuild-test.slice/{parent}");
        let at = |folder: &str| root.join(folder).join(&path);
        let mut spec = fixture.spec("cat /proc/self/cgroup");
        spec.limits.cgroup_parent = Some(parent.to_owned());
        let ran = run(&sandbox, spec, CancellationToken::new());
        assert_eq!(ran.exit.unwrap().outcome, Outcome::Exited(0), "{}", ran.stderr);
        let places: Vec<PathBuf> =
            ["memory", "pids", "cpu", ""].map(at).into_iter().filter(|it| it.exists()).collect();
        assert!(!places.is_empty(), "{}", root.display());
        for place in &places {
            assert!(place.join(group).is_dir(), "{}", place.display());
            // What an attempt leaves that was killed with its caller.
            std::fs::create_dir(place.join(group).join("dead")).unwrap();
        }
        remove_groups(root, &state, group).unwrap();
        for place in places {
            assert!(!place.join(group).exists(), "{}", place.display());
            // The groups that were named stay; they are the user's.
            for above in place.ancestors().take(3) {
                std::fs::remove_dir(above).unwrap();
            }
        }
        for bad in ["../x", "/", "a:b"] {
            let mut spec = fixture.spec("true");
            spec.limits.cgroup_parent = Some(bad.to_owned());
            let error = run(&sandbox, spec, CancellationToken::new()).exit.unwrap_err();
            assert!(matches!(error, CellError::Refused { .. }), "{bad}: {error}");
        }
    }
}

pub(super) fn sweep_removes_dead_attempts() {
    let fixture = Fixture::new("sweep");
    for attempt in ["live", "dead"] {
        let group = Path::new("/sys/fs/cgroup/memory").join(&fixture.group).join(attempt);
        if group.parent().unwrap().exists() {
            std::fs::create_dir(group).unwrap();
        }
    }
    fixture.sandbox.sweep(&BTreeSet::from(["live".to_owned()])).unwrap();
    assert!(fixture.groups_left().iter().all(|group| group.ends_with("/live")));
    fixture.sandbox.sweep(&BTreeSet::new()).unwrap();
    assert!(fixture.groups_left().is_empty());
}

/// Of both versions, as far as this machine's have the controllers.
pub(super) fn a_step_has_what_its_build_asks_for() {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let mut tried = BTreeSet::new();
    for root in roots {
        let listed = std::fs::read_to_string(root.join("cgroup.controllers"));
        let listed = listed.unwrap_or_default();
        let has = |what: &str| {
            let in_one = listed.split_whitespace().any(|it| it == what);
            in_one || root.join(what).join("cgroup.procs").exists()
        };
        let fixture = Fixture::new("asked");
        let open = || {
            Sandbox::new(SandboxConfig {
                exe: std::env::current_exe().unwrap(),
                state: fixture.dir.path().join("state"),
                cgroup_root: root.into(),
                cgroup_name: fixture.group.clone(),
            })
            .unwrap()
        };
        let cpus = Resources { cpus: Some("0".into()), ..Resources::default() };
        let memory = Resources {
            memory_bytes_max: Some(32 << 20),
            swap: Swap::Together(32 << 20),
            ..Resources::default()
        };
        let quota = Resources {
            cpu_shares: Some(512),
            cpu_period_micros: Some(50_000),
            cpu_quota_micros: Some(25_000),
            ..Resources::default()
        };
        for (what, asked) in [("cpuset", cpus), ("memory", memory), ("cpu", quota)] {
            let script = match what {
                "cpuset" => "grep -q 'Cpus_allowed_list:.0$' /proc/self/status",
                "memory" => "tail /dev/zero",
                _ => "true",
            };
            let mut spec = fixture.spec(script);
            spec.limits.resources = asked;
            let ran = run(&open(), spec, CancellationToken::new());
            if !has(what) {
                let error = ran.exit.unwrap_err().to_string();
                assert!(error.contains(&format!("limits {what}")), "{error}");
                continue;
            }
            let exit = ran.exit.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            if what == "memory" {
                assert!(exit.oom_killed, "{exit:?}");
            } else {
                assert_eq!(exit.outcome, Outcome::Exited(0), "{what}: {}", ran.stderr);
            }
            tried.insert(what);
        }
        if has("cpuset") {
            let mut spec = fixture.spec("true");
            spec.limits.resources = Resources { cpus: Some("4000".into()), ..Resources::default() };
            let error = run(&open(), spec, CancellationToken::new()).exit.unwrap_err();
            let said = "--resource cpuset-cpus=4000 asks for what is not here: there is 0";
            assert!(
                matches!(&error, CellError::Refused { reason } if reason.starts_with(said)),
                "{error:?}"
            );
        }
        remove_groups(root, &fixture.dir.path().join("state"), &fixture.group).unwrap();
    }
    assert_eq!(tried.len(), 3, "this machine limits {tried:?} alone");
}
