//! Real cells on a tree of busybox. The test binary is its own helper, which is why it has no harness; it speaks enough
//! of the harness's language to be listed and run one test at a time.
#![expect(clippy::unwrap_used, reason = "test")]
#![expect(clippy::print_stdout, reason = "the harness's language is spoken on standard output")]

mod devices;
mod groups;
mod network;
mod older;

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use dcbuild_sandbox::{
    CELL_ARGUMENT, CellError, CellExit, CellSpec, IsolatedConfig, Limits, Mount, Network, Outcome,
    Rootfs, Sandbox, SandboxConfig, SecretBytes, Security, Stream, Ulimit, UlimitResource,
    cell_main,
};
use expect_test::{Expect, expect};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const TESTS: &[(&str, fn())] = &[
    ("what_a_step_sees", what_a_step_sees),
    ("a_step_reads_its_own_limits", groups::a_step_reads_its_own_limits),
    ("folders_of_any_name", folders_of_any_name),
    ("exit_codes_and_signals", exit_codes_and_signals),
    ("outputs_stay_apart", outputs_stay_apart),
    ("users", users),
    ("signals_are_as_usual", signals_are_as_usual),
    ("capabilities", capabilities),
    ("mounts", mounts),
    ("a_tmpfs_has_the_mode_of_what_it_covers", a_tmpfs_has_the_mode_of_what_it_covers),
    ("a_home_of_nothing_is_none", a_home_of_nothing_is_none),
    ("stubs_are_named_and_leave_times_alone", stubs_are_named_and_leave_times_alone),
    ("filtered_calls", filtered_calls),
    ("devices_made_by_a_step_open_what_is_usual", devices::those_that_are_usual_open),
    ("devices_made_by_a_step_open_nothing_unguarded", devices::without_a_guard_none_opens),
    ("devices_made_by_a_step_that_may_do_all_open", devices::all_open_for_a_step_that_may_do_all),
    ("working_folder_stays_inside", working_folder_stays_inside),
    ("links_in_the_image_are_harmless", links_in_the_image_are_harmless),
    ("no_network_is_a_loopback", no_network_is_a_loopback),
    (
        "isolated_steps_reach_out_and_nothing_near",
        network::isolated_steps_reach_out_and_nothing_near,
    ),
    ("isolated_networks_end_with_their_process", network::isolated_networks_end_with_their_process),
    ("memory_limit", memory_limit),
    ("processes_limit", processes_limit),
    ("programs_of_386_run_under_the_same_filter", older::programs_of_386_run_under_the_same_filter),
    ("groups_of_version_2", groups::groups_of_version_2),
    ("stop_leaves_nothing", stop_leaves_nothing),
    ("timeout", timeout),
    ("caller_killed_leaves_nothing", caller_killed_leaves_nothing),
    ("groups_below_one_that_is_named", groups::groups_below_one_that_is_named),
    ("sweep_removes_dead_attempts", groups::sweep_removes_dead_attempts),
    ("a_step_has_what_its_build_asks_for", groups::a_step_has_what_its_build_asks_for),
    ("insecure", insecure),
    ("refused_specs", refused_specs),
    ("speed", speed),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(CELL_ARGUMENT) => return cell_main(),
        Some("hold") => return hold(&arguments[1..]),
        _ => {}
    }
    if arguments.iter().any(|each| each == "--list") {
        if !arguments.iter().any(|each| each == "--ignored") {
            for (name, _) in TESTS {
                println!("{name}: test");
            }
        }
        return ExitCode::SUCCESS;
    }
    assert!(Path::new("/bin/busybox").exists(), "these tests need busybox-static at /bin/busybox");
    assert!(rustix_uid() == 0, "these tests need to be root");
    let exact = arguments.iter().any(|each| each == "--exact");
    let filters: Vec<_> = arguments.iter().filter(|each| !each.starts_with("--")).collect();
    let matches =
        |name: &str, filter: &str| if exact { name == filter } else { name.contains(filter) };
    let wanted: Vec<_> = TESTS
        .iter()
        .filter(|(name, _)| filters.is_empty() || filters.iter().any(|each| matches(name, each)))
        .collect();
    println!("\nrunning {} tests", wanted.len());
    let mut failed = 0;
    for (name, test) in &wanted {
        let passed = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    let (passed, out) = (wanted.len() - failed, TESTS.len() - wanted.len());
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {out} filtered out\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn rustix_uid() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

struct Fixture {
    dir: tempfile::TempDir,
    sandbox: Sandbox,
    group: String,
}

struct Ran {
    exit: Result<CellExit, CellError>,
    stdout: String,
    stderr: String,
}

impl Fixture {
    fn new(group: &str) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let group = format!("dcbuild-test-{group}");
        let lower = dir.path().join("lower");
        for folder in ["bin", "etc", "tmp", "root", "upper", "work"] {
            let base = if matches!(folder, "upper" | "work") { dir.path() } else { &lower };
            std::fs::create_dir_all(base.join(folder)).unwrap();
        }
        for path in [lower.clone(), dir.path().join("upper")] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        std::fs::set_permissions(lower.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
        std::fs::copy("/bin/busybox", lower.join("bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "ls", "id", "stat", "sleep", "mount", "unshare", "touch", "dd", "env",
            "tr", "grep", "hostname", "mknod", "kill", "head", "setsid", "chmod", "mkdir", "ip",
            "true", "su", "readlink", "tail", "nc",
        ] {
            symlink("busybox", lower.join("bin").join(name)).unwrap();
        }
        let write = |path: &str, text: &str| std::fs::write(lower.join(path), text).unwrap();
        write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nbob:x:77:88::/home/bob:/bin/sh\n");
        write("etc/group", "root:x:0:\nwheel:x:10:bob\n");
        let sandbox = sandbox(dir.path(), &group);
        Fixture { dir, sandbox, group }
    }

    fn spec(&self, script: &str) -> CellSpec {
        spec(self.dir.path(), script)
    }

    /// A step that can run beside another, on a network of its own.
    fn second_spec(&self, script: &str) -> CellSpec {
        let mut spec = self.spec(script);
        spec.network = Network::Isolated;
        "attempt-2".clone_into(&mut spec.attempt);
        spec.rootfs.upper = self.dir.path().join("upper-2");
        spec.rootfs.work = self.dir.path().join("work-2");
        std::fs::create_dir(&spec.rootfs.upper).unwrap();
        std::fs::create_dir(&spec.rootfs.work).unwrap();
        spec
    }

    fn run(&self, spec: CellSpec) -> Ran {
        run(&self.sandbox, spec, CancellationToken::new())
    }

    fn lower(&self, path: &str) -> PathBuf {
        self.dir.path().join("lower").join(path)
    }

    fn check(&self, spec: CellSpec, expected: &Expect) {
        let ran = self.run(spec);
        let exit = match ran.exit {
            Ok(exit) => format!("{:?}", exit.outcome),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&format!("{}{}{exit}\n", ran.stdout, ran.stderr));
    }

    fn groups_left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for folder in ["memory", "pids", "cpu", "devices", "."] {
            let group = Path::new("/sys/fs/cgroup").join(folder).join(&self.group);
            for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    left.push(entry.path().display().to_string());
                }
            }
        }
        left
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        for folder in ["memory", "pids", "cpu", "devices", "."] {
            let _absent =
                std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(folder).join(&self.group));
        }
    }
}

fn sandbox(dir: &Path, group: &str) -> Sandbox {
    Sandbox::new(SandboxConfig {
        exe: std::env::current_exe().unwrap(),
        state: dir.join("state"),
        cgroup_root: "/sys/fs/cgroup".into(),
        cgroup_name: group.to_owned(),
    })
    .unwrap()
}

fn spec(dir: &Path, script: &str) -> CellSpec {
    // A volatile upper folder is used once.
    for folder in ["upper", "work"] {
        let _absent = std::fs::remove_dir_all(dir.join(folder));
        std::fs::create_dir(dir.join(folder)).unwrap();
        std::fs::set_permissions(dir.join(folder), PermissionsExt::from_mode(0o755)).unwrap();
    }
    CellSpec {
        attempt: "attempt-1".to_owned(),
        rootfs: Rootfs {
            lowers: vec![dir.join("lower")],
            upper: dir.join("upper"),
            work: dir.join("work"),
            volatile: true,
        },
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![("PATH".to_owned(), "/bin".to_owned())],
        cwd: "/".to_owned(),
        user: String::new(),
        mounts: Vec::new(),
        hostname: "buildkitsandbox".to_owned(),
        hosts: vec![("myhost".to_owned(), "1.2.3.4".parse().unwrap())],
        network: Network::None,
        security: Security::Default,
        limits: Limits::default(),
    }
}

fn run(sandbox: &Sandbox, spec: CellSpec, stop: CancellationToken) -> Ran {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (tx, mut rx) = mpsc::channel::<(Stream, bytes::Bytes)>(4);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let listen = async {
            while let Some((stream, bytes)) = rx.recv().await {
                match stream {
                    Stream::Stdout => stdout.extend_from_slice(&bytes),
                    Stream::Stderr => stderr.extend_from_slice(&bytes),
                }
            }
        };
        let (exit, ()) = tokio::join!(sandbox.run(spec, tx, stop), listen);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { exit, stdout: text(stdout), stderr: text(stderr) }
    })
}

fn what_a_step_sees() {
    let fixture = Fixture::new("sees");
    let script = "echo $$; tr '\\0' '|' < /proc/1/environ; echo; hostname; umask; cat; readlink /proc/self/fd/0
        cat /etc/hosts; ls -1 /dev; ls /proc/self/fd; ls -ld /dev/null /dev/shm | head -c 10; echo
        stat -c %T -f /dev/shm; (echo x > /etc/hosts) 2>&1; (echo x > /proc/sys/kernel/hostname) 2>&1
        (mkdir /sys/x) 2>&1; grep Seccomp: /proc/self/status";
    fixture.check(
        fixture.spec(script),
        &expect![[r#"
        1
        PATH=/bin|HOME=/root|
        buildkitsandbox
        0022
        /dev/null
        127.0.0.1	localhost buildkitsandbox
        ::1	localhost ip6-localhost ip6-loopback
        1.2.3.4	myhost
        fd
        full
        mqueue
        null
        ptmx
        pts
        random
        shm
        stderr
        stdin
        stdout
        tty
        urandom
        zero
        0
        1
        2
        3
        crw-rw-rw-
        tmpfs
        /bin/sh: can't create /etc/hosts: Read-only file system
        /bin/sh: can't create /proc/sys/kernel/hostname: Read-only file system
        mkdir: can't create directory '/sys/x': Read-only file system
        Seccomp:	2
        Exited(0)
    "#]],
    );
}

/// What divides words in the options of a mount, or does not fit into one.
fn folders_of_any_name() {
    let fixture = Fixture::new("names");
    let long = format!("{}/{}", "x".repeat(200), "y".repeat(100));
    for name in ["back\\slash", "col:on", "com,ma", "sp ace\nline", "q\"uote", &long] {
        let odd = fixture.dir.path().join(name);
        std::fs::create_dir_all(odd.join("second/own")).unwrap();
        std::fs::rename(fixture.lower(""), odd.join("lower")).unwrap();
        let mut spec = spec(&odd, "echo made > /made; ls -d /own /bin");
        spec.rootfs.lowers.push(odd.join("second"));
        let ran = run(&sandbox(&odd, &fixture.group), spec, CancellationToken::new());
        let exit = ran.exit.map(|exit| format!("{:?}", exit.outcome));
        assert!(matches!(exit.as_deref(), Ok("Exited(0)")), "{name:?}: {exit:?} {}", ran.stderr);
        assert_eq!(ran.stdout, "/bin\n/own\n", "{name:?}");
        assert_eq!(std::fs::read_to_string(odd.join("upper/made")).unwrap(), "made\n", "{name:?}");
        std::fs::rename(odd.join("lower"), fixture.lower("")).unwrap();
    }
}

fn exit_codes_and_signals() {
    let fixture = Fixture::new("exit");
    let table: [(&[&str], &str); 6] = [
        (&["/bin/sh", "-c", "exit 7"], "Ok(Exited(7))"),
        (&["true"], "Ok(Exited(0))"),
        (&["nosuch"], "Ok(Exited(127))"),
        (&["/nosuch"], "Ok(Exited(127))"),
        (&["/etc/passwd"], "Ok(Exited(126))"),
        (&["/bin/sh", "-c", "(sleep 1000 &); echo done"], "Ok(Exited(0))"),
    ];
    for (argv, expected) in table {
        let mut spec = fixture.spec("");
        spec.argv = argv.iter().map(|each| (*each).to_owned()).collect();
        let ran = fixture.run(spec);
        assert_eq!(format!("{:?}", ran.exit.map(|exit| exit.outcome)), expected, "{argv:?}");
    }
    assert!(fixture.groups_left().is_empty());
}

fn outputs_stay_apart() {
    let fixture = Fixture::new("output");
    let ran =
        fixture.run(fixture.spec("echo a; echo b >&2; head -c 300000 /dev/zero | tr '\\0' x"));
    assert_eq!((ran.stdout.len(), ran.stderr.as_str()), (300_002, "b\n"));
}

fn users() {
    let fixture = Fixture::new("users");
    for (user, expected) in [
        ("", "uid=0(root) gid=0(root) groups=0(root) /root\n"),
        ("bob", "uid=77(bob) gid=88 groups=10(wheel),88 /home/bob\n"),
        ("12:34", "uid=12 gid=34 groups=34 /\n"),
        ("nosuch", "unable to find user nosuch: no matching entries in passwd file"),
    ] {
        let mut spec = fixture.spec("echo $(id) $HOME");
        user.clone_into(&mut spec.user);
        let ran = fixture.run(spec);
        let got = ran.exit.map_or_else(|error| error.to_string(), |_| ran.stdout);
        assert_eq!(got, expected, "{user}");
    }
    // Each may open by its name what it says.
    for user in ["bob", "12:34"] {
        let mut spec =
            fixture.spec("echo out > /dev/stdout; echo said > /dev/stderr; echo fd > /dev/fd/2");
        user.clone_into(&mut spec.user);
        let ran = fixture.run(spec);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "said\nfd\n"), "{user}");
    }
    std::fs::remove_file(fixture.lower("etc/passwd")).unwrap();
    symlink("/dev/zero", fixture.lower("etc/passwd")).unwrap();
    assert!(fixture.run(fixture.spec("true")).exit.is_err(), "a device is no passwd file");
}

/// Whatever whoever called has done with its own.
fn signals_are_as_usual() {
    use nix::sys::signal::{SigSet, Signal};
    let fixture = Fixture::new("signals");
    let ours: SigSet = [Signal::SIGTERM, Signal::SIGUSR1].into_iter().collect();
    ours.thread_block().unwrap();
    let mut spec = fixture.spec("");
    // Without a shell, which has habits of its own.
    spec.argv = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"].map(str::to_owned).to_vec();
    let ran = fixture.run(spec);
    ours.thread_unblock().unwrap();
    assert_eq!(ran.stdout, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

fn capabilities() {
    // Some container engines hand on what a process may pass to its programs.
    let held = rustix::thread::capabilities(None).unwrap();
    let sets = rustix::thread::CapabilitySets { inheritable: held.permitted, ..held };
    rustix::thread::set_capabilities(None, sets).unwrap();
    let fixture = Fixture::new("caps");
    let script = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups|Uid|Gid)' /proc/self/status";
    fixture.check(
        fixture.spec(script),
        &expect![[r#"
        Uid:	0	0	0	0
        Gid:	0	0	0	0
        Groups:	0 
        CapInh:	0000000000000000
        CapPrm:	00000000a80425fb
        CapEff:	00000000a80425fb
        CapBnd:	00000000a80425fb
        CapAmb:	0000000000000000
        NoNewPrivs:	0
        Seccomp:	2
        Exited(0)
    "#]],
    );
    let mut bob = fixture.spec(script);
    "bob".clone_into(&mut bob.user);
    fixture.check(
        bob,
        &expect![[r#"
        Uid:	77	77	77	77
        Gid:	88	88	88	88
        Groups:	10 88 
        CapInh:	0000000000000000
        CapPrm:	0000000000000000
        CapEff:	0000000000000000
        CapBnd:	00000000a80425fb
        CapAmb:	0000000000000000
        NoNewPrivs:	0
        Seccomp:	2
        Exited(0)
    "#]],
    );
}

fn a_tmpfs_has_the_mode_of_what_it_covers() {
    let fixture = Fixture::new("modes");
    let private = fixture.dir.path().join("lower/private");
    std::fs::create_dir(&private).unwrap();
    std::fs::set_permissions(&private, PermissionsExt::from_mode(0o700)).unwrap();
    let tmpfs = |target: &str, readonly| {
        let target = target.to_owned();
        Mount::Tmpfs { target, bytes_max: None, readonly }
    };
    let mut spec = fixture.spec("stat -c '%n %a' /private /private/in /new");
    spec.mounts = vec![tmpfs("/private", false), tmpfs("/private/in", true), tmpfs("/new", false)];
    fixture.check(
        spec,
        &expect![[r#"
            /private 700
            /private/in 1777
            /new 1777
            Exited(0)
        "#]],
    );
}

fn a_home_of_nothing_is_none() {
    let fixture = Fixture::new("home");
    for (home, seen) in [("", "/root\n"), ("/else", "/else\n")] {
        let mut spec = fixture.spec("echo $HOME");
        spec.env.push(("HOME".to_owned(), home.to_owned()));
        assert_eq!(fixture.run(spec).stdout, seen);
    }
}

fn mounts() {
    let fixture = Fixture::new("mounts");
    let source = fixture.dir.path().join("source");
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("sub/f"), "f\n").unwrap();
    symlink("/../../../../etc", source.join("out")).unwrap();
    let bind = |subpath: &str, target: &str, readonly| Mount::Bind {
        source: source.clone(),
        subpath: subpath.to_owned(),
        target: target.to_owned(),
        readonly,
    };
    let (upper, work) = (fixture.dir.path().join("u2"), fixture.dir.path().join("w2"));
    std::fs::create_dir_all(&upper).unwrap();
    std::fs::create_dir_all(&work).unwrap();
    let overlay = |target: &str, subpath: &str, scratch| Mount::Overlay {
        lowers: vec![source.clone()],
        scratch,
        subpath: subpath.to_owned(),
        target: target.to_owned(),
    };
    let mut spec = fixture.spec(
        "cat /m/f /ro/sub/f; (touch /ro/x) 2>&1; touch /rw/x; cat /run/secrets/tok; stat -c '%a %u %g' /run/secrets/tok
        (echo > /run/secrets/tok) 2>&1; dd if=/dev/zero of=/t/f bs=1024 count=2048 2>/dev/null; stat -c '%s' /t/f; stat -c %a /t
        echo new > /o/f; cat /o/f; (touch /p/f) 2>&1; ls /t; (touch /tro/f) 2>&1",
    );
    spec.mounts = vec![
        bind("sub/f", "/m/f", true),
        bind("", "/ro", true),
        bind("", "/rw", false),
        Mount::Tmpfs { target: "/t".to_owned(), bytes_max: Some(1 << 20), readonly: false },
        Mount::Tmpfs { target: "/tro".to_owned(), bytes_max: None, readonly: true },
        bind("sub", "/t/deep/er", true),
        Mount::Secret {
            target: "/run/secrets/tok".to_owned(),
            bytes: SecretBytes(b"s3cret\n".to_vec()),
            mode: 0o440,
            uid: 12,
            gid: 34,
        },
        overlay("/o", "sub", Some((upper, work))),
        overlay("/p", "/sub", None),
    ];
    fixture.check(
        spec,
        &expect![[r#"
        f
        f
        touch: /ro/x: Read-only file system
        s3cret
        440 12 34
        /bin/sh: can't create /run/secrets/tok: Read-only file system
        1048576
        1777
        new
        touch: /p/f: Read-only file system
        deep
        f
        touch: /tro/f: Read-only file system
        Exited(1)
    "#]],
    );
    assert!(source.join("x").exists());
    assert_eq!(std::fs::read_to_string(source.join("sub/f")).unwrap(), "f\n");
    for (subpath, target) in [("out/passwd", "/m"), ("nope", "/m"), ("", "/proc/x"), ("", "/")] {
        let mut spec = fixture.spec("true");
        spec.mounts = vec![bind(subpath, target, true)];
        let error = fixture.run(spec).exit.unwrap_err();
        assert!(matches!(error, CellError::Refused { .. }), "{subpath} {target}: {error}");
    }
}

fn stubs_are_named_and_leave_times_alone() {
    let fixture = Fixture::new("stubs");
    symlink("real/none", fixture.lower("link")).unwrap();
    let before = std::fs::metadata(fixture.lower("etc")).unwrap();
    let mut spec = fixture.spec("true");
    "/w/d".clone_into(&mut spec.cwd);
    spec.mounts = vec![
        Mount::Tmpfs { target: "/p/q/r".to_owned(), bytes_max: None, readonly: false },
        Mount::Tmpfs { target: "/link".to_owned(), bytes_max: None, readonly: false },
    ];
    let stubs = fixture.run(spec).exit.unwrap().stubs;
    let stubs: Vec<String> = stubs.iter().map(ToString::to_string).collect();
    expect![[r#"
        /real
        /real/none
        /etc/hosts
        /etc/resolv.conf
        /p
        /p/q
        /p/q/r"#]]
    .assert_eq(&stubs.join("\n"));
    let after = std::fs::metadata(fixture.dir.path().join("upper/etc")).unwrap();
    assert_eq!((before.mtime(), before.mtime_nsec()), (after.mtime(), after.mtime_nsec()));
    assert!(fixture.dir.path().join("upper/w/d").is_dir());
}

fn filtered_calls() {
    let fixture = Fixture::new("filter");
    fixture.check(
        fixture.spec("mkdir /m; mount -t tmpfs t /m; unshare -U true; unshare -n true; true"),
        &expect![[r#"
            mount: permission denied (are you root?)
            unshare: unshare(0x10000000): Operation not permitted
            unshare: unshare(0x40000000): Operation not permitted
            Exited(0)
        "#]],
    );
}

fn working_folder_stays_inside() {
    let fixture = Fixture::new("cwd");
    for number in 3..50 {
        let mut spec = fixture.spec("pwd; ls ../../..");
        spec.cwd = format!("/proc/self/fd/{number}");
        let ran = fixture.run(spec);
        assert!(ran.exit.is_err(), "{number}: {}", ran.stdout);
        let error = ran.exit.unwrap_err();
        assert!(matches!(error, CellError::Refused { .. }), "{number}: {error}");
    }
    let mut spec = fixture.spec("/bin/busybox pwd");
    "/../../made/../made/here".clone_into(&mut spec.cwd);
    fixture.check(
        spec,
        &expect![[r#"
        /made/here
        Exited(0)
    "#]],
    );
}

fn links_in_the_image_are_harmless() {
    for name in ["dev", "proc", "sys"] {
        let fixture = Fixture::new("links");
        let canary = fixture.dir.path().join("canary");
        std::fs::create_dir(&canary).unwrap();
        symlink(&canary, fixture.lower(name)).unwrap();
        let error = fixture.run(fixture.spec("true")).exit.unwrap_err();
        assert!(matches!(error, CellError::Refused { .. }), "{error}");
        assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0);
    }
    let fixture = Fixture::new("links");
    symlink("/../../../../tmp/escaped", fixture.lower("etc/hosts")).unwrap();
    let ran = fixture.run(fixture.spec("cat /tmp/escaped"));
    assert!(ran.stdout.starts_with("127.0.0.1\tlocalhost buildkitsandbox"), "{}", ran.stdout);
}

fn no_network_is_a_loopback() {
    let fixture = Fixture::new("network");
    fixture.check(
        fixture.spec("ls /sys/class/net; ip -o link | head -c 30; echo; /bin/busybox ping -c 1 -W 1 127.0.0.1 >/dev/null && echo up"),
        &expect![[r#"
            lo
            1: lo: <LOOPBACK,UP,LOWER_UP> 
            up
            Exited(0)
        "#]],
    );
    let mut spec = fixture.spec("true");
    spec.network = Network::Isolated;
    let exit = fixture.run(spec).exit;
    assert!(matches!(exit, Err(CellError::NetworkUnavailable { .. })), "{exit:?}");
    assert!(!fixture.sandbox.has_network(Network::Isolated));
}

fn memory_limit() {
    let fixture = Fixture::new("memory");
    let mut spec = fixture.spec("tail /dev/zero");
    spec.limits.memory_bytes_max = Some(32 << 20);
    let exit = fixture.run(spec).exit.unwrap();
    assert!(exit.oom_killed, "{exit:?}");
    assert_ne!(exit.outcome, Outcome::Exited(0));
}

fn processes_limit() {
    let fixture = Fixture::new("pids");
    let mut spec = fixture.spec("f() { f | f & }; f; sleep 1");
    spec.limits.pids_max = 64;
    let exit = fixture.run(spec).exit.unwrap();
    assert!(exit.pids_limit_hit, "{exit:?}");
    assert!(fixture.groups_left().is_empty());
}

fn stop_leaves_nothing() {
    let fixture = Fixture::new("stop");
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let script = "trap '' TERM INT HUP; (setsid sleep 98761 &); echo ready; sleep 98761";
    let elapsed = runtime.block_on(async {
        let (tx, mut rx) = mpsc::channel(1);
        let wait = async {
            rx.recv().await.unwrap();
            stop.cancel();
            tokio::time::Instant::now()
        };
        let (exit, stopped) =
            tokio::join!(fixture.sandbox.run(fixture.spec(script), tx, stop.clone()), wait);
        assert!(matches!(exit, Err(CellError::Stopped)), "{exit:?}");
        stopped.elapsed()
    });
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    assert_eq!(running("98761"), 0);
    assert!(fixture.groups_left().is_empty());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&*fixture.dir.path().to_string_lossy()));
}

fn timeout() {
    let fixture = Fixture::new("timeout");
    let mut spec = fixture.spec("sleep 98762");
    spec.limits.timeout = Some(Duration::from_millis(50));
    assert!(matches!(fixture.run(spec).exit, Err(CellError::TimedOut { .. })));
    assert_eq!(running("98762"), 0);
}

/// How many processes have this among their arguments.
fn running(argument: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .filter(|line| line.split(|byte| *byte == 0).any(|each| each == argument.as_bytes()))
        .count()
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not come to be in five seconds");
}

/// Runs a step until it is killed itself.
fn hold(arguments: &[String]) -> ExitCode {
    let dir = Path::new(arguments.last().unwrap());
    let isolated = arguments[0] == "isolated";
    let seconds = if isolated { "98765" } else { "98763" };
    let mut sandbox = sandbox(dir, &format!("dcbuild-test-hold-{seconds}"));
    sandbox.sweep(&BTreeSet::new()).unwrap();
    let mut spec = spec(dir, &format!("(setsid sleep {seconds} &); sleep {seconds}"));
    if isolated {
        sandbox = sandbox.isolated(IsolatedConfig::default()).unwrap();
        spec.network = Network::Isolated;
    }
    let _ended = run(&sandbox, spec, CancellationToken::new());
    ExitCode::FAILURE
}

fn caller_killed_leaves_nothing() {
    let fixture = Fixture::new("hold-98763");
    let mut caller = std::process::Command::new(std::env::current_exe().unwrap())
        .arg("hold")
        .arg(fixture.dir.path())
        .spawn()
        .unwrap();
    wait_for("the step", || running("98763") >= 2);
    caller.kill().unwrap();
    caller.wait().unwrap();
    wait_for("the step's end", || running("98763") == 0);
    fixture.sandbox.sweep(&BTreeSet::new()).unwrap();
    assert!(fixture.groups_left().is_empty());
}

fn insecure() {
    let fixture = Fixture::new("insecure");
    let mut spec = fixture.spec("mkdir /m && mount -t tmpfs t /m && echo mounted; ulimit -n");
    spec.security = Security::Insecure;
    spec.limits.ulimits =
        vec![Ulimit { resource: UlimitResource::Nofile, soft: Some(99), hard: Some(100) }];
    fixture.check(
        spec,
        &expect![[r#"
        mounted
        99
        Exited(0)
    "#]],
    );
}

fn refused_specs() {
    let fixture = Fixture::new("refused");
    let changes: [fn(&mut CellSpec); 4] = [
        |spec| "../x".clone_into(&mut spec.attempt),
        |spec| spec.argv.clear(),
        |spec| spec.argv.push("a\0b".to_owned()),
        |spec| "4294967296".clone_into(&mut spec.user),
    ];
    for change in changes {
        let mut spec = fixture.spec("true");
        change(&mut spec);
        assert!(matches!(fixture.run(spec).exit, Err(CellError::Refused { .. })));
    }
}

fn speed() {
    let fixture = Fixture::new("speed");
    let mut best = CellExitTimes::default();
    for _ in 0..20 {
        let mut spec = fixture.spec("");
        spec.argv = vec!["/bin/true".to_owned()];
        let timings = fixture.run(spec).exit.unwrap().timings;
        best.0.push(timings.setup + timings.run);
    }
    best.0.sort();
    // A generous bound: the machine may be busy, and this build is not optimised.
    assert!(best.0[0] < Duration::from_millis(100), "{:?}", best.0);
    println!("fastest {:?}, median {:?}", best.0[0], best.0[best.0.len() / 2]);
}

#[derive(Default)]
struct CellExitTimes(Vec<Duration>);
