//! A real registry, for as long as a test runs.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PROGRAM: &str = "/usr/bin/docker-registry";
/// How long it may take to listen.
const START_MAX: Duration = Duration::from_secs(20);

/// A registry with an empty folder; it ends when it is dropped.
pub(crate) struct Registry {
    folder: tempfile::TempDir,
    child: Child,
    /// How images are named that lie there.
    pub(crate) host: String,
}

impl Registry {
    pub(crate) async fn start() -> Registry {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let config = format!(
            "version: 0.1\nlog:\n  formatter: text\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n",
            data.display()
        );
        let config_file = folder.path().join("config.yml");
        std::fs::write(&config_file, config).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg(&config_file)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{PROGRAM}: {error}; it is Debian's docker-registry"));
        let mut registry = Registry { folder, child, host: String::new() };
        let port = tokio::time::timeout(START_MAX, async {
            loop {
                if let Some(port) = registry.port() {
                    break port;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let port = port.await.unwrap_or_else(|_| panic!("no registry: {}", registry.log()));
        registry.host = format!("localhost:{port}");
        registry
    }

    fn port(&self) -> Option<String> {
        let log = self.log();
        let (_, rest) = log.split_once("listening on 127.0.0.1:")?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        // The line may be written in part only.
        (digits.len() < rest.len()).then_some(digits)
    }

    /// What it was asked, a line each.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
