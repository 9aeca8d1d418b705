//! Steps with a network of their own, between a host and a fake world outside.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use dcbuild_sandbox::{CellError, IsolatedConfig, Network, Stream};
use expect_test::expect;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Fixture, running, wait_for};

/// A host and a machine beyond it, in two network namespaces that end with the test's threads.
struct World {
    internet: std::thread::JoinHandle<()>,
    stop: std::sync::mpsc::SyncSender<()>,
}

fn unshare_network() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
}

fn ip(arguments: &str) {
    let done = std::process::Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Answers every connection with one word, as long as the process lives.
fn serve(address: &str, word: &'static str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let _gone = connection.unwrap().write_all(word.as_bytes());
        }
    });
}

fn answers(address: &str) -> String {
    let mut word = String::new();
    let timeout = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address.parse().unwrap(), timeout).unwrap();
    std::io::Read::read_to_string(&mut stream, &mut word).unwrap();
    word
}

impl World {
    /// Makes this thread's network a host that has 203.0.113.1, with a machine at 203.0.113.2 that also answers at the
    /// address of a cloud's metadata and at a private one.
    fn new() -> World {
        unshare_network();
        ip("link set lo up");
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::sync_channel(0);
        let (joined, go) = std::sync::mpsc::channel();
        let internet = std::thread::spawn(move || {
            unshare_network();
            tell.send(nix::unistd::gettid()).unwrap();
            go.recv().unwrap();
            for address in ["203.0.113.2/24", "169.254.169.254/32", "10.9.0.1/32"] {
                ip(&format!("addr add {address} dev net0"));
            }
            ip("link set net0 up");
            serve("0.0.0.0:80", "internet");
            tell.send(nix::unistd::gettid()).unwrap();
            let _stopped = stopped.recv();
        });
        ip(&format!("link add up0 type veth peer name net0 netns {}", told.recv().unwrap()));
        ip("addr add 203.0.113.1/24 dev up0");
        // As in clouds and overlays.
        ip("link set up0 mtu 1400");
        ip("link set up0 up");
        joined.send(()).unwrap();
        told.recv().unwrap();
        ip("route add default via 203.0.113.2");
        serve("0.0.0.0:81", "host");
        for address in ["203.0.113.2:80", "169.254.169.254:80", "10.9.0.1:80"] {
            assert_eq!(answers(address), "internet");
        }
        for address in ["127.0.0.1:81", "203.0.113.1:81"] {
            assert_eq!(answers(address), "host");
        }
        World { internet, stop }
    }

    fn end(self) {
        drop(self.stop);
        self.internet.join().unwrap();
    }
}

/// The network cards of steps on this thread's host.
fn cards() -> usize {
    let done = std::process::Command::new("ip").args(["-o", "link"]).output().unwrap();
    String::from_utf8(done.stdout).unwrap().matches(": dcb").count()
}

/// Does something in a thread of its own, whose network is changed.
fn apart(work: fn()) {
    if let Err(panic) = std::thread::spawn(work).join() {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) fn isolated_steps_reach_out_and_nothing_near() {
    apart(|| {
        let world = World::new();
        let fixture = Fixture::new("isolated");
        let config =
            IsolatedConfig { refused: vec![([10, 9, 0, 0].into(), 16)], ..Default::default() };
        // It begins with the same names as the next.
        let beside = fixture.sandbox.clone().isolated(IsolatedConfig::default()).unwrap();
        let isolated = fixture.sandbox.clone().isolated(config).unwrap();
        assert!(isolated.has_network(Network::Isolated));
        let own = "own=$(ip -4 -o addr show dev eth0 | grep -oE '10[.][0-9.]+' | head -n 1)";
        let server = format!(
            "{own}; while :; do echo step | nc -l -p 82; done & sleep 0.2
            echo $own $(nc -w 1 $own 82); sleep 98764"
        );
        let server = fixture.second_spec(&server);
        let stop = CancellationToken::new();
        let (tx, mut rx) = mpsc::channel::<(Stream, bytes::Bytes)>(4);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ran = runtime.block_on(async {
            let probe = async {
                let (_, bytes) = rx.recv().await.unwrap();
                let line = String::from_utf8(bytes.to_vec()).unwrap();
                let (near, said) = line.trim().split_once(' ').unwrap();
                assert_eq!(said, "step", "a step reaches itself");
                let mut spec = fixture.spec(&format!(
                    "{own}; try() {{ echo $1 $2: $(nc -w 1 $1 $2 2>/dev/null </dev/null); }}
                    gateway=${{own%.*}}.$((${{own##*.}} - 1))
                    try 203.0.113.2 80; try 127.0.0.1 81; try 203.0.113.1 81; try 169.254.169.254 80; try 10.9.0.1 80
                    [ \"$(try $gateway 81)\" = \"$gateway 81:\" ] && echo no gateway
                    [ \"$(try {near} 82)\" = \"{near} 82:\" ] && echo no other step
                    ls /sys/class/net; cat /sys/class/net/eth0/mtu; [ $own != {near} ] && echo two"
                ));
                spec.network = Network::Isolated;
                let (tx, mut rx) = mpsc::channel::<(Stream, bytes::Bytes)>(4);
                let mut text = Vec::new();
                let hear = async {
                    while let Some((_, bytes)) = rx.recv().await {
                        text.extend_from_slice(&bytes);
                    }
                };
                let (exit, ()) = tokio::join!(isolated.run(spec, tx, CancellationToken::new()), hear);
                stop.cancel();
                format!("{}{:?}\n", String::from_utf8(text).unwrap(), exit.map(|exit| exit.outcome))
            };
            let (exit, ran) = tokio::join!(isolated.run(server, tx, stop.clone()), probe);
            assert!(matches!(exit, Err(CellError::Stopped)), "{exit:?}");
            ran
        });
        expect![[r#"
            203.0.113.2 80: internet
            127.0.0.1 81:
            203.0.113.1 81:
            169.254.169.254 80:
            10.9.0.1 80:
            no gateway
            no other step
            eth0
            lo
            1400
            two
            Ok(Exited(0))
        "#]]
        .assert_eq(&ran);
        assert!(fixture.groups_left().is_empty());
        drop((isolated, beside));
        wait_for("the end of all cards", || cards() == 0);
        world.end();
    });
}

pub(crate) fn isolated_networks_end_with_their_process() {
    apart(|| {
        unshare_network();
        let fixture = Fixture::new("hold-98765");
        let mut caller = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["hold", "isolated"])
            .arg(fixture.dir.path())
            .spawn()
            .unwrap();
        wait_for("the step", || running("98765") >= 2);
        assert!(cards() >= 2, "the step's and a spare one");
        caller.kill().unwrap();
        caller.wait().unwrap();
        wait_for("the step's end", || running("98765") == 0);
        wait_for("the end of all cards", || cards() == 0);
        // What the rules of the dead process name is nobody's; a second start puts the same in force.
        fixture.sandbox.clone().isolated(IsolatedConfig::default()).unwrap();
        fixture.sandbox.sweep(&BTreeSet::new()).unwrap();
        assert!(fixture.groups_left().is_empty());
    });
}
