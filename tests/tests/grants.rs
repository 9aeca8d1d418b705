//! What a RUN may be granted beyond its cell: on one machine by a flag, on a cluster by its operator too.

use std::path::{Path, PathBuf};
use std::process::Command;

use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::home::Home;
use dcbuild_tests::running::Running;
use dcbuild_tests::story::Story;
use dcbuild_tests::wait::{LONG, wait_for};

const INSECURE: &str =
    "FROM busybox:golden\nRUN --security=insecure grep CapEff /proc/self/status > /caps\n";

fn story(dockerfile: &str) -> Story {
    Story::new(dockerfile, &[])
}

#[test]
fn what_is_not_granted_is_refused_with_the_way_to_it() {
    for (line, want) in [
        ("--security=insecure true", "security.insecure is not allowed"),
        ("--network=host true", "network.host is not allowed"),
        (
            "--device=vendor.com/gpu,required true",
            "required device \"vendor.com/gpu\" is not registered",
        ),
        ("--device=vendor.com/gpu=all,required=perhaps true", "unexpected key 'required=perhaps'"),
    ] {
        let story = story(&format!("FROM busybox:golden\nRUN {line}\n"));
        let said = story.try_build(&[]).failed().stderr;
        assert!(said.contains(want) && said.contains("Dockerfile:2"), "{line}: {said}");
    }
}

#[test]
fn the_user_of_a_machine_grants_what_it_may_do() {
    let story = story(INSECURE);
    let built = story.build(&["--allow", "security.insecure"]);
    let caps = built.image.tree().text("caps").unwrap_or_default();
    let caps = u64::from_str_radix(caps.trim().trim_start_matches("CapEff:").trim(), 16);
    // More than docker's fourteen.
    assert!(caps.as_ref().is_ok_and(|caps| caps.count_ones() > 14), "{caps:?}");
    story.write(
        "Dockerfile",
        "FROM busybox:golden\nRUN --device=vendor.com/gpu --network=host true\n",
    );
    story.build(&["--allow", "network.host,device"]);
}

/// Whether a process is in a group, or in one below it.
fn has_members(group: &Path) -> bool {
    let listed = std::fs::read_to_string(group.join("cgroup.procs"));
    let below = std::fs::read_dir(group).into_iter().flatten().flatten().map(|it| it.path());
    listed.is_ok_and(|pids| !pids.is_empty())
        || below.filter(|path| path.is_dir()).any(|path| has_members(&path))
}

/// The group of a step lies below the one that is named; what is named stays, what the step had goes.
#[test]
fn a_step_runs_below_the_group_that_is_named() {
    let parent = format!("dcbuild-parent-{}", std::process::id());
    let found = || -> Vec<PathBuf> {
        let roots = ["memory", "pids", "cpu", ""].map(|it| Path::new("/sys/fs/cgroup").join(it));
        roots.map(|root| root.join(&parent)).into_iter().filter(|group| group.is_dir()).collect()
    };
    let story = story("FROM busybox:golden\nRUN cat /proc/self/cgroup > /groups; sleep 1\n");
    let flag = format!("/{parent}/inner");
    let running = story.start("image.tar", &["--cgroup-parent", &flag]);
    let runs = || found().iter().any(|group| has_members(group)).then_some(());
    wait_for("the step's group", LONG, runs, || format!("{:?}", found()));
    story.built("image.tar", running);
    for group in found() {
        let inner = group.join("inner");
        let left = std::fs::read_dir(&inner).unwrap().flatten().filter(|it| it.path().is_dir());
        assert_eq!(left.count(), 0, "{}", inner.display());
        std::fs::remove_dir(&inner).unwrap();
        std::fs::remove_dir(&group).unwrap();
    }
    // Which group it was is no part of what the step means.
    let again = story.build(&[]);
    assert_eq!(again.ran, [""; 0]);
    let said = story.try_build(&["--no-cache", "--cgroup-parent", "/dev/../x"]).failed().stderr;
    assert!(said.contains("it is no path of control groups"), "{said}");
}

fn submit(config: &str) -> dcbuild_tests::running::Finished {
    let Story { home, registry } = story(INSECURE);
    let file = home.path("config.toml");
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(std::fs::write(&file, format!("{written}\n{config}")).is_ok());
    let context = home.arg("context");
    let cluster = Cluster::start(home, 1, 1);
    let done = cluster.ask("submit", &["--allow", "security.insecure", &context]);
    drop(registry);
    done
}

#[test]
fn a_cluster_grants_nothing_unless_both_its_sides_say_so() {
    let said = submit("").failed().stderr;
    assert!(said.contains("security.insecure is not granted by this cluster"), "{said}");
    assert!(said.contains("coordinator.allow"), "{said}");
    let said = submit("[coordinator]\nallow = [\"security.insecure\"]\n").failed().stderr;
    assert!(said.contains("security.insecure is not granted by worker"), "{said}");
    let both = "[coordinator]\nallow = [\"security.insecure\"]\n[worker]\nallow = [\"security.insecure\"]\n";
    submit(both).well();
    let Story { home, registry } = story("FROM busybox:golden\nRUN true\n");
    let context = home.arg("context");
    let cluster = Cluster::start(home, 1, 1);
    let said = cluster.ask("submit", &["--cgroup-parent", "/x", &context]).failed().stderr;
    assert!(said.contains("cgroup-parent is not granted by this cluster"), "{said}");
    assert!(said.contains("leave --cgroup-parent out"), "{said}");
    drop(registry);
}

#[test]
fn a_worker_that_must_isolate_steps_does_not_start_where_it_cannot() {
    let home = Home::new("[worker]\nnetwork = \"isolated\"\nlisten = \"none\"\n");
    let data = home.arg("w");
    let words = ["worker", "--coordinator", "http://127.0.0.1:1", "--data-dir", &data];
    // A network without a way out.
    let mut by = Command::new("unshare");
    by.arg("--net");
    let said = Running::start(home.command_by(by, &words)).finish(LONG).failed().stderr;
    assert!(said.contains("steps cannot have networks of their own here"), "{said}");
    assert!(said.contains("`network = \"default\"`"), "{said}");
}
