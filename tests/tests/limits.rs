//! Disks that are full, memory that runs out, rights that are lacking: what a user is told, and what does not count.

use std::path::Path;

use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::disk::SmallDisk;
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::image::Image;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::running::{Finished, Running};
use dcbuild_tests::story::{Story, fill};
use dcbuild_tests::wait::LONG;

#[track_caller]
fn has(done: &Finished, parts: &[&str]) {
    for part in parts {
        assert!(done.stderr.contains(part), "no {part:?} in\n{}", done.stderr);
    }
}

#[track_caller]
fn has_one_error(done: &Finished) {
    let errors = done.stderr.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(errors, 1, "{}", done.stderr);
    assert!(!done.stderr.contains("attempt 1 of 3"), "{}", done.stderr);
}

/// Builds with the state on another disk.
fn build_on(story: &Story, disk: &str, flags: &[&str]) -> Finished {
    let context = story.home.arg("context");
    let fixed = ["build", "--progress", "plain"];
    let all = fixed.into_iter().chain(flags.iter().copied()).chain([context.as_str()]);
    let mut command = story.home.command(all);
    command.env("DCBUILD_STATE_DIR", disk);
    Running::start(command).finish(LONG)
}

#[test]
fn a_full_state_folder_is_one_clear_error() {
    let story =
        Story::new("FROM busybox:golden\nRUN dd if=/dev/zero of=/big bs=1M count=90\n", &[]);
    let disk = story.home.arg("disk");
    let _mounted = SmallDisk::mount(&story.home.path("disk"), 48);
    let done = build_on(&story, &disk, &[]).failed();
    has_one_error(&done);
    let full = format!("no space left in {disk}");
    // The second is dd's: the disk was really full.
    has(&done, &[&full, "No space left on device", "hint: make room with `dcbuild prune`"]);
    // What there was is good for more.
    story.write("Dockerfile", "FROM busybox:golden\nRUN echo small > /small\n");
    let tar = format!("type=oci,dest={}", story.home.arg("image.tar"));
    build_on(&story, &disk, &["--output", &tar]).well();
    let tree = Image::read_tar(&story.home.path("image.tar")).tree();
    assert_eq!(tree.text("small").unwrap(), "small\n");
    assert!(tree.get("big").is_none());
}

#[test]
fn a_full_state_folder_is_pruned() {
    // The RUN keeps it to itself that the disk was full.
    let dockerfile = "FROM busybox:golden\nRUN echo kept > /kept\n\
        RUN dd if=/dev/zero of=/big bs=1M count=90 || true\n";
    let story = Story::new(dockerfile, &[]);
    let disk = story.home.path("disk");
    let _mounted = SmallDisk::mount(&disk, 48);
    let state = story.home.arg("disk");
    let done = build_on(&story, &state, &[]).failed();
    has_one_error(&done);
    has(&done, &[&format!("no space left in {state}"), "hint: make room with `dcbuild prune`"]);
    let count = |folder: &str| std::fs::read_dir(disk.join(folder)).unwrap().count();
    assert_eq!(count("worker/snapshots/tmp"), 0, "what could not be kept takes no space");
    let snapshots = count("worker/snapshots");

    // Others take what is left, to the last byte, and a dead process left something as well.
    std::fs::create_dir(disk.join("worker/snapshots/tmp/x-dead")).unwrap();
    let mut others = std::fs::File::create(disk.join("others")).unwrap();
    let full = std::io::copy(&mut std::io::repeat(7), &mut others).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let mut prune = story.home.command(["prune", "--all", "--force"]);
    prune.env("DCBUILD_STATE_DIR", &state);
    let pruned = Running::start(prune).finish(LONG).well();
    assert!(pruned.stdout.starts_with("removed "), "{}", pruned.stdout);
    assert!(pruned.stdout.contains("; 0B stay"), "{}", pruned.stdout);
    assert_eq!(count("worker/snapshots/tmp"), 0, "what a dead process left takes no space");
    assert!(count("worker/snapshots") < snapshots);
}

#[test]
fn a_full_store_is_one_clear_error() {
    let story = Story::new("FROM scratch\nCOPY big /big\n", &[]);
    // Bytes that do not compress.
    let mut bytes = vec![0u8; 24 << 20];
    let mut state = 1u32;
    for byte in &mut bytes {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = u8::try_from(state >> 24).unwrap();
    }
    std::fs::write(story.context().join("big"), bytes).unwrap();
    let disk = story.home.arg("disk");
    let _mounted = SmallDisk::mount(&story.home.path("disk"), 16);
    let tar = format!("type=oci,dest={}", story.home.arg("image.tar"));
    let done = build_on(&story, &disk, &["--output", &tar]).failed();
    has_one_error(&done);
    has(&done, &[&format!("no space left in {disk}"), "No space left on device", "hint: "]);
    assert!(!story.home.path("image.tar").exists());
}

#[test]
fn a_full_destination_is_one_clear_error() {
    let story = Story::new("FROM scratch\nCOPY big /big\n", &[("big", &"x".repeat(24 << 20))]);
    let disk = story.home.arg("disk");
    let _mounted = SmallDisk::mount(&story.home.path("disk"), 8);
    for output in ["type=tar,dest=disk/files.tar", "type=local,dest=disk/out"] {
        let kept = format!("type=oci,dest={}", story.home.arg("image.tar"));
        let done = story.try_build(&["--output", output, "--output", &kept]).failed();
        has_one_error(&done);
        let wrote =
            format!("delivered all the same: wrote OCI image to {}", story.home.arg("image.tar"));
        has(&done, &[&format!("no space left in '{disk}"), "hint: make room there", &wrote]);
    }
    let left: Vec<_> =
        std::fs::read_dir(&disk).unwrap().flatten().map(|it| it.file_name()).collect();
    assert_eq!(left, ["out"], "no half of an archive");
}

/// Whoever unpacks it keeps the folder's mode and owner, as with docker.
#[test]
fn a_tar_says_nothing_of_the_folder_that_it_is_unpacked_in() {
    let story = Story::new("FROM scratch\nCOPY a /b/a\n", &[("a", "a")]);
    let dest = story.home.arg("files.tar");
    story.try_build(&["--output", &format!("type=tar,dest={dest}")]).well();
    let mut archive = tar::Archive::new(std::fs::File::open(&dest).unwrap());
    let names = archive.entries().unwrap().map(|entry| {
        entry.unwrap().path().unwrap().to_string_lossy().trim_end_matches('/').to_owned()
    });
    assert_eq!(names.collect::<Vec<_>>(), ["b", "b/a"]);
}

/// All of a layer is one write, which only its end says to have failed.
#[test]
fn a_layout_on_a_full_disk_is_one_clear_error() {
    let story = Story::new("FROM scratch\nCOPY big /big\n", &[("big", &"x".repeat(3 << 19))]);
    let disk = story.home.arg("disk");
    let _mounted = SmallDisk::mount(&story.home.path("disk"), 1);
    let output = "type=oci,tar=false,compression=uncompressed,dest=disk/layout";
    let done = story.try_build(&["--output", output]).failed();
    has_one_error(&done);
    has(&done, &[&format!("no space left in '{disk}"), "hint: make room there"]);
    assert!(!story.home.path("disk/layout/index.json").exists());
}

#[test]
fn a_full_worker_s_job_goes_to_another() {
    goes_to_another(|path| SmallDisk::mount(path, 24), 40);
}

/// The disk that workers usually have.
#[test]
fn a_job_goes_to_another_worker_from_a_full_ext4() {
    goes_to_another(|path| SmallDisk::ext4(path, 120), 150);
}

/// A worker on a small disk has a job that writes more than it holds.
fn goes_to_another(small: impl Fn(&Path) -> SmallDisk, mebibytes: u32) {
    let registry = Registry::start();
    fill(&registry);
    let home = Home::new(&registry.as_docker_io());
    let _small = small(&home.path("worker-0"));
    let cluster = Cluster::start(home, 2, 1);
    let stage = |name: &str| {
        format!(
            "FROM busybox:golden AS {name}\n\
             RUN sleep 1; dd if=/dev/zero of=/{name} bs=1M count={mebibytes} && echo {name} > /said\n"
        )
    };
    // Two jobs for two workers of one slot: one begins on the small disk.
    let dockerfile = format!(
        "{}{}FROM scratch\nCOPY --from=one /said /one\nCOPY --from=two /said /two\n",
        stage("one"),
        stage("two")
    );
    write_context(&cluster.home.path("context"), &[ContextEntry::file("Dockerfile", &dockerfile)]);
    let output = format!("type=oci,dest={}", cluster.home.arg("image.tar"));
    let context = cluster.home.arg("context");
    let done =
        cluster.ask("submit", &["--progress", "plain", "--output", &output, &context]).well();
    let folder = cluster.home.arg("worker-0");
    has(&done, &[&format!("another worker takes it: no space left in {folder}")]);
    assert!(!done.stderr.contains("attempt 1 of 3"), "{}", done.stderr);
    let tree = Image::read_tar(&cluster.home.path("image.tar")).tree();
    assert_eq!((tree.text("one"), tree.text("two")), (Some("one\n".into()), Some("two\n".into())));
}

#[test]
fn a_kill_for_want_of_memory_is_told_and_its_result_is_not_kept() {
    let greedy = "FROM busybox:golden\nRUN tail /dev/zero | cat > /none; echo done > /done\n\
                  FROM busybox:golden\nCOPY --from=0 /done /done\n";
    let story = Story::new(greedy, &[]);
    let config = std::fs::read_to_string(story.home.path("config.toml")).unwrap();
    let config = config.replacen("[build]\n", "[build]\nstep_memory = \"48MiB\"\n", 1);
    std::fs::write(story.home.path("config.toml"), config).unwrap();
    // The base image is kept, and nothing else: nor is what was made of the tainted result.
    for ran in ["Built in", ": 2 ran, 1 cached"] {
        let done = story.try_build(&[]).well();
        has(&done, &["killed a process of it for want of memory, though the command succeeded"]);
        has(&done, &[ran]);
    }
    story.write("Dockerfile", "FROM busybox:golden\nRUN tail /dev/zero\n");
    let done = story.try_build(&[]).failed();
    has(&done, &["(out of memory)"]);
}

/// The same command, begun by another program.
fn behind(words: &[&str], command: &std::process::Command) -> std::process::Command {
    let mut behind = std::process::Command::new(words[0]);
    behind.args(&words[1..]).arg(command.get_program()).args(command.get_args()).env_clear();
    behind.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        behind.current_dir(folder);
    }
    behind
}

/// Builds with fewer rights than root has.
fn build_behind(story: &Story, words: &[&str], flags: &[&str]) -> Finished {
    let context = story.home.arg("context");
    let fixed = ["build", "--progress", "plain", "--no-cache"];
    let all = fixed.into_iter().chain(flags.iter().copied()).chain([context.as_str()]);
    Running::start(behind(words, &story.home.command(all))).finish(LONG)
}

/// As in a container of a CI that is not privileged, or was given up some of its capabilities.
#[test]
fn what_a_run_needs_and_is_not_held_is_named_at_once() {
    let story = Story::new("FROM busybox:golden\nRUN true\n", &[]);
    for (set, lacking) in [
        ("-sys_admin", "dcbuild runs without CAP_SYS_ADMIN"),
        ("-mknod,-setfcap", "dcbuild runs without CAP_MKNOD, CAP_SETFCAP"),
        ("-chown", "dcbuild runs without CAP_CHOWN"),
    ] {
        let done = build_behind(&story, &["setpriv", "--bounding-set", set], &[]).failed();
        has_one_error(&done);
        assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
        has(&done, &[&format!("error: this machine cannot run a step: {lacking}\n")]);
        has(&done, &["hint: in a container, dcbuild needs to be privileged", "`dcbuild doctor`"]);
    }
}

#[test]
fn a_state_folder_on_an_overlay_is_named_at_once() {
    let story = Story::new("FROM busybox:golden\nRUN true\n", &[]);
    let overlay = Overlay::mount(&story.home.path("overlay"));
    let done = build_on(&story, &overlay.0.display().to_string(), &[]).failed();
    has_one_error(&done);
    assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
    has(&done, &["lies on an overlay, upon which no other can be mounted", "no overlay itself"]);
}

/// An overlay, as the root of a container is one.
struct Overlay(std::path::PathBuf);

impl Overlay {
    fn mount(folder: &std::path::Path) -> Overlay {
        let part = |name: &str| {
            let path = folder.join(name);
            std::fs::create_dir_all(&path).expect("a test's folder can be made");
            path
        };
        let merged = part("merged");
        let (lower, upper, work) = (part("lower"), part("upper"), part("work"));
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "overlay", "-o", &options, "dcbuild-test"]).arg(&merged);
        assert!(mount.status().is_ok_and(|status| status.success()), "these tests run as root");
        Overlay(merged)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_limit_that_the_machine_does_not_allow_is_named_with_what_it_allows() {
    let story = Story::new("FROM busybox:golden\nRUN ulimit -n > /n\n", &[]);
    let words = ["prlimit", "--nofile=512:600", "setpriv", "--bounding-set", "-sys_resource"];
    let done = build_behind(&story, &words, &["--ulimit", "nofile=2048:4096"]).failed();
    has_one_error(&done);
    assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
    let error = "error: --ulimit nofile=2048:4096 is more than can be had here: the hard limit of dcbuild's process is 600";
    has(&done, &[error, "hint: give a lower --ulimit"]);
    build_behind(&story, &words, &["--ulimit", "nofile=256:600"]).well();
}

/// What only root may make is no reason to fail, and none to be silent.
#[test]
fn device_nodes_that_cannot_be_made_are_counted_and_named() {
    let story = Story::new(
        "FROM busybox:golden\nRUN mknod /n c 1 3 && mkdir /d && mknod /d/m b 7 0\n",
        &[],
    );
    story.build(&[]);
    let (context, out) = (story.home.arg("context"), story.home.arg("out"));
    let command = story.home.command(["build", "--progress", "plain", "-o", &out, &context]);
    let words = ["setpriv", "--bounding-set", "-mknod"];
    let done = Running::start(behind(&words, &command)).finish(LONG).well();
    let said = format!("2 device nodes are not in '{out}', for only root may make them: /d/m, /n");
    has(&done, &[&said]);
    assert!(story.home.path("out/bin/busybox").is_file());
    assert!(!story.home.path("out/n").exists());
}

/// Shells and service managers let programs have 1,024 files open, and each layer below a RUN is two.
#[test]
fn few_open_files_are_enough_for_many_layers_and_a_run_keeps_that_limit() {
    use std::fmt::Write as _;
    let mut text = "FROM busybox:golden AS base\n".to_owned();
    for number in 0..40 {
        writeln!(text, "COPY f /f{number}").unwrap();
    }
    for number in 0..4 {
        writeln!(text, "FROM base AS s{number}\nRUN sleep 1; ulimit -Sn > /n{number}").unwrap();
    }
    text.push_str("FROM scratch\n");
    for number in 0..4 {
        writeln!(text, "COPY --from=s{number} /n{number} /").unwrap();
    }
    let story = Story::new(&text, &[("f", "text")]);
    let output = format!("type=oci,dest={}", story.home.arg("image.tar"));
    let context = story.home.arg("context");
    let asked = story.home.command(["build", "--output", &output, &context]);
    let mut command = std::process::Command::new("bash");
    command.args(["-c", "ulimit -Sn 200 && exec \"$0\" \"$@\""]).arg(asked.get_program());
    command.args(asked.get_args()).env_clear().current_dir(story.home.path("."));
    command.envs(asked.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Running::start(command).finish(LONG).well();
    let tree = Image::read_tar(&story.home.path("image.tar")).tree();
    for number in 0..4 {
        assert_eq!(tree.text(&format!("n{number}")).unwrap(), "200\n");
    }
}
