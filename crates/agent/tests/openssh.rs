//! Our keys against OpenSSH: what ssh-keygen made is listed and signs so that ssh-keygen finds it good.
#![expect(clippy::unwrap_used, reason = "test")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
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

/// A file whose key lies in hardware, as ssh-keygen writes it: the private half is a handle.
fn hardware_key() -> String {
    use base64::Engine as _;
    let kind = string(b"sk-ssh-ed25519@openssh.com");
    let public = [kind, string(&[7; 32]), string(b"ssh:")].concat();
    let handle = [&[1][..], &string(&[8; 64]), &string(b""), &string(b"c")].concat();
    let mut private = [&[1, 2, 3, 4, 1, 2, 3, 4][..], &public, &handle].concat();
    let padding = (1..).take((8 - private.len() % 8) % 8);
    private.extend(padding);
    let none = string(b"none");
    let head = [b"openssh-key-v1\0".to_vec(), none.clone(), none, string(b""), vec![0, 0, 0, 1]];
    let all = [head.concat(), string(&public), string(&private)].concat();
    let text = base64::engine::general_purpose::STANDARD.encode(all);
    let lines: Vec<String> =
        text.as_bytes().chunks(70).map(|it| String::from_utf8_lossy(it).into()).collect();
    let kind = "OPENSSH PRIVATE KEY";
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
}

/// Bytes with their length before them.
fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

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

async fn ssh_agent(socket: &Path) -> Child {
    let mut command = Command::new("ssh-agent");
    let real = command.args(["-D", "-a"]).arg(socket).stdout(Stdio::null()).spawn().unwrap();
    let there = async {
        while !socket.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let limit = std::time::Duration::from_secs(20);
    tokio::time::timeout(limit, there).await.expect("ssh-agent starts");
    real
}

/// What a key file of this kind could not be is no matter to an agent that has the key.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_signs_with_keys_that_no_file_could_give() {
    let made = tempfile::tempdir().unwrap();
    let key = keygen(made.path(), "p521", &["-t", "ecdsa", "-b", "521", "-N", ""]);
    let socket = made.path().join("real");
    let mut real = ssh_agent(&socket).await;
    let added = run(Command::new("ssh-add").arg(&key).env("SSH_AUTH_SOCK", &socket));
    let served = Served::start(Agent::open(std::slice::from_ref(&socket)).unwrap());
    let data = made.path().join("data");
    std::fs::write(&data, "what is signed").unwrap();
    let public = key.with_extension("pub").display().to_string();
    let data = data.display().to_string();
    let sign = ["-Y", "sign", "-n", "file", "-U", "-f", &public, &data];
    let signed = served.client("ssh-keygen", texts(&sign)).await;
    real.kill().unwrap();
    real.wait().unwrap();
    assert!(added.status.success(), "{added:?}");
    assert!(signed.status.success(), "{signed:?}");
    let check = Command::new("ssh-keygen")
        .args(["-Y", "check-novalidate", "-n", "file", "-s", &format!("{data}.sig")])
        .stdin(std::fs::File::open(&data).unwrap())
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
}

/// Keys of hardware have longer names and signatures with a counter behind them: every byte passes as it is.
#[tokio::test]
async fn what_an_agent_says_of_keys_of_hardware_passes_untouched() {
    let made = tempfile::tempdir().unwrap();
    let socket = made.path().join("hardware");
    let kinds: [&[u8]; 2] = [b"sk-ssh-ed25519@openssh.com", b"sk-ecdsa-sha2-nistp256@openssh.com"];
    let keys = kinds.map(|kind| [string(kind), string(&[7; 32]), string(b"ssh:")].concat());
    let listed: Vec<u8> =
        keys.iter().flat_map(|key| [string(key), string(b"mine")].concat()).collect();
    let listed = [&[12, 0, 0, 0, 2][..], &listed].concat();
    let signed =
        [&[14][..], &string(&[&string(kinds[0]), &[9; 64][..], &[1, 0, 0, 0, 5]].concat())]
            .concat();
    let answers = [listed.clone(), signed.clone()];
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let answering = std::thread::spawn(move || {
        answers.map(|answer| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut length = [0; 4];
            std::io::Read::read_exact(&mut stream, &mut length).unwrap();
            let mut asked = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
            std::io::Read::read_exact(&mut stream, &mut asked).unwrap();
            std::io::Write::write_all(&mut stream, &string(&answer)).unwrap();
            asked
        })
    });
    let agent = Agent::open(&[socket]).unwrap();
    assert_eq!(agent.ask(&[11]).await.unwrap(), listed);
    let sign = [&[13][..], &string(&keys[0]), &string(b"data"), &[0, 0, 0, 0]].concat();
    assert_eq!(agent.ask(&sign).await.unwrap(), signed);
    assert_eq!(answering.join().unwrap(), [vec![11], sign]);
}

#[test]
fn key_files_of_hardware_are_refused_by_name() {
    let made = tempfile::tempdir().unwrap();
    let path = made.path().join("sk");
    std::fs::write(&path, hardware_key()).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, private).unwrap();
    let listed = run(Command::new("ssh-keygen").arg("-l").arg("-f").arg(&path));
    assert!(String::from_utf8_lossy(&listed.stdout).contains("ED25519-SK"), "{listed:?}");
    let Err(OpenAgentError::Key { source, .. }) = Agent::open(&[path]) else {
        panic!("the key is served")
    };
    let said = source.to_string();
    assert!(said.contains("keys of the kind sk-ssh-ed25519@openssh.com are not served"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_agent_is_asked_and_nothing_is_changed_in_it() {
    let made = tempfile::tempdir().unwrap();
    let key = keygen(made.path(), "key", PLAIN[0].1);
    let socket = made.path().join("real");
    let mut real = ssh_agent(&socket).await;
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
