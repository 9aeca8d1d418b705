//! Disks that are full, memory that runs out: what a user is told, and what does not count.

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

#[test]
fn a_full_worker_s_job_goes_to_another() {
    let registry = Registry::start();
    fill(&registry);
    let home = Home::new(&registry.as_docker_io());
    let _small = SmallDisk::mount(&home.path("worker-0"), 24);
    let cluster = Cluster::start(home, 2, 1);
    let stage = |name: &str| {
        format!(
            "FROM busybox:golden AS {name}\n\
             RUN sleep 1; dd if=/dev/zero of=/{name} bs=1M count=40 && echo {name} > /said\n"
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
