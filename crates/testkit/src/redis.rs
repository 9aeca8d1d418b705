//! Redis servers and sentinels that tests start on free ports, and that end with them.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

const PAUSE: Duration = Duration::from_millis(10);

/// How often something is looked at before a test gives up: a minute's worth.
const LOOKS: usize = 6_000;

/// Looks again and again until there is an answer; in the end it panics, saying what was waited for.
pub async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..LOOKS {
        if let Some(answer) = look().await {
            return answer;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("{what}: not within a minute");
}

/// A port that nobody uses at the moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

/// A server or sentinel that runs until it is dropped.
#[derive(Debug)]
pub struct RedisServer {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    /// What `redis-cli` needs to know beside the port.
    pub cli: Vec<String>,
    folder: TempDir,
    mode: Mode,
    options: Vec<String>,
    child: Option<Child>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Server,
    Sentinel,
}

impl RedisServer {
    /// Starts a server with options as in its configuration file, such as `maxmemory 1mb`.
    pub fn start(options: &[&str]) -> RedisServer {
        RedisServer::start_at(free_port(), options)
    }

    /// Starts a server on a port.
    pub fn start_at(port: u16, options: &[&str]) -> RedisServer {
        let fixed = ["save \"\"", "appendonly no"];
        RedisServer::new(port, &[&fixed[..], options].concat(), Mode::Server)
    }

    /// Starts a sentinel that watches the server on `primary` under the name `main`; two of them must agree.
    pub fn start_sentinel(primary: u16) -> RedisServer {
        let watch = format!("sentinel monitor main 127.0.0.1 {primary} 2");
        let options = [
            &*watch,
            "sentinel down-after-milliseconds main 500",
            "sentinel failover-timeout main 3000",
        ];
        RedisServer::new(free_port(), &options, Mode::Sentinel)
    }

    /// Starts a sentinel that watches the server on `primary` under the name `main`, alone and with more options.
    pub fn start_sentinel_with(primary: u16, options: &[&str]) -> RedisServer {
        let watch = format!("sentinel monitor main 127.0.0.1 {primary} 1");
        RedisServer::new(free_port(), &[&[&*watch], options].concat(), Mode::Sentinel)
    }

    fn new(port: u16, options: &[&str], mode: Mode) -> RedisServer {
        let folder = tempfile::tempdir().expect("a folder for redis");
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = RedisServer { port, cli: Vec::new(), folder, mode, options, child: None };
        server.start_again();
        server
    }

    /// Starts it again after it was killed, on the same port and in the same folder.
    pub fn start_again(&mut self) {
        let program = "/usr/bin/redis-server";
        assert!(
            Path::new(program).exists(),
            "there is no {program}: apt-get install redis-server, or `cargo xtask setup`"
        );
        let file = self.folder.path().join("redis.conf");
        let place = self.folder.path().display();
        // A certificate's port is the only one: `port 0` stands among the options then.
        let port = if self.options.iter().any(|option| option == "port 0") { 0 } else { self.port };
        let lines =
            format!("port {port}\nbind 127.0.0.1\ndir {place}\n{}\n", self.options.join("\n"));
        std::fs::write(&file, lines).expect("the configuration is written");
        let mut command = Command::new(program);
        command.arg(&file);
        if self.mode == Mode::Sentinel {
            command.arg("--sentinel");
        }
        let log = std::fs::File::create(self.folder.path().join("log")).expect("a log");
        command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("redis starts"));
        for _ in 0..LOOKS {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        panic!("redis does not listen on {}: {}", self.port, self.log());
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its URL, for a server without TLS and passwords.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs a command by `redis-cli` and returns what it prints.
    pub fn ask(&self, words: &[&str]) -> String {
        let mut command = Command::new("/usr/bin/redis-cli");
        command.args(["-p", &self.port.to_string()]).args(&self.cli).args(words);
        let done = command.output().expect("redis-cli runs");
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    /// A field of its `INFO`.
    pub fn info(&self, field: &str) -> String {
        let all = self.ask(&["INFO"]);
        let line = all.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {field} in {all}")).trim().to_owned()
    }

    fn signal(&self, name: &str) {
        let id = self.child.as_ref().expect("it runs").id().to_string();
        let sent = Command::new("kill").args([name, &id]).status().expect("kill runs");
        assert!(sent.success());
    }

    /// Stops it without ending it: connections stay, and nothing answers.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is killed");
            child.wait().expect("it has ended");
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
