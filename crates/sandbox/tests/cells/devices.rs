//! Device nodes that a step makes: the usual ones open what they stand for, as with docker, and others nothing;
//! those that are there can be replaced.

use std::path::Path;

use dcbuild_sandbox::{CellSpec, Sandbox, SandboxConfig, Security};
use tokio_util::sync::CancellationToken;

use super::{Fixture, run};

const SCRIPT: &str =
    "mkdir /c; mknod /c/null c 1 3; mknod /c/zero c 1 5; mknod /c/tty c 5 0; mknod /dev/null2 c 1 3
    mknod /c/log c 1 11; mknod /c/disk b 1 0; mknod /c/null-block b 1 3; mknod /c/misc c 10 1
    for node in /c/null /dev/null2; do echo hi > $node && echo $node takes; done
    head -c 3 /c/zero | tr '\\0' z; echo
    for node in /c/log /c/disk /c/null-block /c/misc; do head -c 1 $node; done
    mknod /w c 0 0
    rm /dev/random && ln -s urandom /dev/random && head -c 1 /dev/random | wc -c";

const USUAL: &str = "/c/null takes\n/dev/null2 takes\nzzz\n1\n\
    head: /c/log: Operation not permitted\nhead: /c/disk: Operation not permitted\n\
    head: /c/null-block: Operation not permitted\nhead: /c/misc: Operation not permitted\n\
    mknod: /w: Operation not permitted\n";

fn sandbox(fixture: &Fixture, root: &Path) -> Sandbox {
    Sandbox::new(SandboxConfig {
        exe: std::env::current_exe().unwrap(),
        state: fixture.dir.path().join("state"),
        cgroup_root: root.to_owned(),
        cgroup_name: fixture.group.clone(),
    })
    .unwrap()
}

fn said(fixture: &Fixture, root: &Path, change: impl Fn(&mut CellSpec)) -> String {
    let mut spec = fixture.spec(SCRIPT);
    change(&mut spec);
    let ran = run(&sandbox(fixture, root), spec, CancellationToken::new());
    ran.stdout + &ran.stderr
}

/// Under both versions of control groups, where this machine has both.
pub(super) fn those_that_are_usual_open() {
    let known = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let is_root = |root: &&Path| {
        ["cgroup.controllers", "devices/cgroup.procs"].iter().any(|file| root.join(file).exists())
    };
    let roots: Vec<&Path> = known.into_iter().filter(is_root).collect();
    assert!(!roots.is_empty(), "these tests need control groups");
    for root in roots {
        let fixture = Fixture::new("devices");
        // A second step is in a group that is closed already.
        for _ in 0..2 {
            assert_eq!(said(&fixture, root, |_| {}), USUAL, "{}", root.display());
        }
        let named =
            |spec: &mut CellSpec| spec.limits.cgroup_parent = Some("dcbuild-test-devices".into());
        assert_eq!(said(&fixture, root, named), USUAL, "{}", root.display());
        dcbuild_sandbox::remove_groups(root, &fixture.dir.path().join("state"), &fixture.group)
            .unwrap();
        for folder in ["", "memory", "pids", "cpu", "devices"] {
            let _absent = std::fs::remove_dir(root.join(folder).join("dcbuild-test-devices"));
        }
    }
}

pub(super) fn without_a_guard_none_opens() {
    let fixture = Fixture::new("devices-unguarded");
    let said = said(&fixture, &fixture.dir.path().join("no-groups"), |_| {});
    assert!(!said.contains("takes"), "{said}");
    for node in ["/c/zero", "/c/log", "/c/disk", "/c/null-block", "/c/misc"] {
        assert!(said.contains(&format!("head: {node}: Permission denied")), "{said}");
    }
}

pub(super) fn all_open_for_a_step_that_may_do_all() {
    let fixture = Fixture::new("devices-insecure");
    let all = |spec: &mut CellSpec| spec.security = Security::Insecure;
    let said = said(&fixture, Path::new("/sys/fs/cgroup"), all);
    assert!(said.contains("/c/null takes\n/dev/null2 takes\nzzz\n"), "{said}");
    // What is behind them may be missing on this machine.
    assert!(!said.contains("head: /c/log: Operation not permitted"), "{said}");
    assert!(!said.contains("Permission denied"), "{said}");
}
