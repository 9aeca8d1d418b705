//! Starts the registry of the distribution project on a free port, and stops it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A registry that runs until it is dropped.
pub(crate) struct RegistryServer {
    pub(crate) host: String,
    child: Child,
    _folder: tempfile::TempDir,
}

impl RegistryServer {
    /// Starts it; none where it is not installed.
    pub(crate) async fn start() -> Option<RegistryServer> {
        RegistryServer::start_with(|_| String::new()).await
    }

    /// Starts it with more lines about http, which may name files of its folder.
    pub(crate) async fn start_with(http: impl Fn(&Path) -> String) -> Option<RegistryServer> {
        let program = Path::new("/usr/bin/docker-registry");
        if !program.exists() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
             delete:\n    enabled: true\nhttp:\n  addr: {host}\n",
            folder.path().join("data").display()
        ) + &http(folder.path());
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let child = Command::new(program)
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = RegistryServer { host, child, _folder: folder };
        server.wait().await;
        Some(server)
    }

    async fn wait(&self) {
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(&self.host).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the registry at {} does not listen after 10 seconds", self.host);
    }
}

impl Drop for RegistryServer {
    fn drop(&mut self) {
        // It may have ended by itself, which is what is wanted.
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}
