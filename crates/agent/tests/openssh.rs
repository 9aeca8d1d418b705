//! Our keys against OpenSSH: what ssh-keygen made is listed and signs so that ssh-keygen finds it good.
#![expect(clippy::unwrap_used, reason = "test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use dcbuild_agent::{Agent, KeyError, OpenAgentError, bind, serve};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Runs a command and returns what it printed.
fn run(command: &mut Command) -> Output {
    let told = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{told}: {error} (apt-get install openssh-client)"))
}

fn keygen(folder: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let path = folder.join(name);
    let mut command = Command::new("ssh-keygen");
    let output = run(command.args(["-q", "-C", "", "-f"]).arg(&path).args(flags));
    assert!(output.status.success(), "{output:?}");
    path
}

const PLAIN: &[(&str, &[&str])] = &[
    ("ed25519", &["-t", "ed25519", "-N", ""]),
    ("rsa", &["-t", "rsa", "-b", "2048", "-N", ""]),
    ("rsa-3072", &["-t", "rsa", "-b", "3072", "-N", ""]),
    ("rsa-pem", &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", ""]),
    ("rsa-pkcs8", &["-t", "rsa", "-b", "2048", "-m", "PKCS8", "-N", ""]),
    ("p256", &["-t", "ecdsa", "-b", "256", "-N", ""]),
    ("p384", &["-t", "ecdsa", "-b", "384", "-N", ""]),
    ("p256-pem", &["-t", "ecdsa", "-b", "256", "-m", "PEM", "-N", ""]),
    ("p384-pem", &["-t", "ecdsa", "-b", "384", "-m", "PEM", "-N", ""]),
    ("p256-pkcs8", &["-t", "ecdsa", "-b", "256", "-m", "PKCS8", "-N", ""]),
];

struct Served {
    folder: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

impl Served {
    fn start(agent: Agent) -> Served {
        let folder = tempfile::tempdir().unwrap();
        let listener = bind(folder.path(), "agent").unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(serve(listener, Arc::new(agent), tasks.clone(), stop.clone()));
        Served { folder, _stop: stop.drop_guard() }
    }

    async fn client(&self, program: &str, args: Vec<String>) -> Output {
        let socket = self.folder.path().join("agent");
        let program = program.to_owned();
        let work = move || run(Command::new(program).args(args).env("SSH_AUTH_SOCK", socket));
        tokio::task::spawn_blocking(work).await.unwrap()
    }
}

fn texts(args: &[&str]) -> Vec<String> {
    args.iter().map(|text| (*text).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_kind_are_listed_and_sign() {
    let made = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> =
        PLAIN.iter().map(|(name, flags)| keygen(made.path(), name, flags)).collect();
    let served = Served::start(Agent::open(&paths).unwrap());
    let listed = served.client("ssh-add", texts(&["-L"])).await;
    let mut want = Vec::new();
    for path in &paths {
        let public = std::fs::read_to_string(path.with_extension("pub"));
        let public = public.unwrap_or_else(|_| {
            let output = run(Command::new("ssh-keygen").arg("-y").arg("-f").arg(path));
            String::from_utf8(output.stdout).unwrap()
        });
        want.push(public.split_whitespace().take(2).collect::<Vec<_>>().join(" "));
    }
    let text = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(text.lines().map(str::trim).collect::<Vec<_>>(), want);
    for (path, public) in paths.iter().zip(&want) {
        // Only the public half: the signature must come from the agent.
        let file = made.path().join("one.pub");
        std::fs::write(&file, public).unwrap();
        let data = made.path().join("data");
        std::fs::write(&data, "what is signed").unwrap();
        drop(std::fs::remove_file(made.path().join("data.sig")));
        let (file, data) = (file.display().to_string(), data.display().to_string());
        let sign = ["-Y", "sign", "-n", "file", "-U", "-f", &file, &data];
        let signed = served.client("ssh-keygen", texts(&sign)).await;
        assert!(signed.status.success(), "{}: {signed:?}", path.display());
        let check = Command::new("ssh-keygen")
            .args(["-Y", "check-novalidate", "-n", "file", "-s", &format!("{data}.sig")])
            .stdin(std::fs::File::open(&data).unwrap())
            .output()
            .unwrap();
        assert!(check.status.success(), "{}: {check:?}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_agent_is_asked_and_nothing_is_changed_in_it() {
    let made = tempfile::tempdir().unwrap();
    let key = keygen(made.path(), "key", PLAIN[0].1);
    let socket = made.path().join("real");
    let mut real = Command::new("ssh-agent")
        .args(["-D", "-a"])
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let there = async {
        while !socket.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let limit = std::time::Duration::from_secs(20);
    tokio::time::timeout(limit, there).await.expect("ssh-agent starts");
    let add = |program: &mut Command| run(program.env("SSH_AUTH_SOCK", &socket));
    assert!(add(Command::new("ssh-add").arg(&key)).status.success());
    let served = Served::start(Agent::open(std::slice::from_ref(&socket)).unwrap());
    let listed = served.client("ssh-add", texts(&["-l"])).await;
    assert!(String::from_utf8_lossy(&listed.stdout).contains("(ED25519)"), "{listed:?}");
    let other = keygen(made.path(), "other", PLAIN[1].1).display().to_string();
    for refused in [&["-D"][..], &["-x"], &[other.as_str()], &["-d", other.as_str()]] {
        let output = served.client("ssh-add", texts(refused)).await;
        assert!(!output.status.success(), "{refused:?}: {output:?}");
    }
    let listed = add(Command::new("ssh-add").arg("-l"));
    real.kill().unwrap();
    real.wait().unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), 1, "{listed:?}");
}

#[test]
fn what_cannot_be_served_is_told_apart() {
    let made = tempfile::tempdir().unwrap();
    let why = |path: &Path| match Agent::open(&[path.to_owned()]) {
        Err(OpenAgentError::Key { source, .. }) => source,
        other => panic!("{other:?}"),
    };
    for (name, flags) in [
        ("openssh", &["-t", "ed25519", "-N", "secret"][..]),
        ("pem", &["-t", "rsa", "-m", "PEM", "-N", "secret"]),
        ("pkcs8", &["-t", "rsa", "-m", "PKCS8", "-N", "secret"]),
    ] {
        assert_eq!(why(&keygen(made.path(), name, flags)), KeyError::Encrypted, "{name}");
    }
    let small = keygen(made.path(), "small", &["-t", "rsa", "-b", "1024", "-N", ""]);
    assert_eq!(why(&small).to_string(), "the key is not sound: it has fewer than 2048 bits");
    let other = keygen(made.path(), "p521", &["-t", "ecdsa", "-b", "521", "-N", ""]);
    assert!(why(&other).to_string().contains("ecdsa-sha2-nistp521"), "{}", why(&other));
    assert_eq!(why(&other.with_extension("pub")), KeyError::NotAKey);
    let absent = Agent::open(&[made.path().join("absent")]);
    assert!(matches!(absent, Err(OpenAgentError::Read { .. })), "{absent:?}");
    let socket = made.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mixed = Agent::open(&[socket, small]);
    assert!(matches!(mixed, Err(OpenAgentError::Mixed { .. })), "{mixed:?}");
}
