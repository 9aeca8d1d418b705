//! A registry of the distribution project on a free port, stopped at the end.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::http::{Answer, request};
use crate::image::Image;
use crate::layout::{Blob, MANIFEST, MadeImage};
use crate::running::Running;
use crate::wait::wait_for;

const PROGRAM: &str = "/usr/bin/docker-registry";

/// A line of a file of users: the password is `hunter2`.
const BOB: &str = "bob:$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n";

/// A port that nobody uses at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until somebody listens there.
pub fn wait_until_open(host: &str, process: &Running) {
    wait_for(
        &format!("{host} is open"),
        Duration::from_secs(20),
        || TcpStream::connect(host).is_ok().then_some(()),
        || process.stdout() + &process.stderr(),
    );
}

/// A registry that runs until it is dropped.
#[derive(Debug)]
pub struct Registry {
    /// Its address.
    pub host: String,
    /// Whether it wants bob.
    guarded: bool,
    _process: Running,
    _folder: TempDir,
}

impl Registry {
    /// Starts one.
    pub fn start() -> Registry {
        Registry::start_with(|_| String::new())
    }

    /// Starts one that lets in nobody but `bob` with the password `hunter2`.
    pub fn with_login() -> Registry {
        let registry = Registry::start_with(|folder| {
            let users = folder.join("users");
            std::fs::write(&users, BOB).unwrap();
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", users.display())
        });
        Registry { guarded: true, ..registry }
    }

    /// Starts one with more lines of configuration, which may name files of its folder.
    fn start_with(more: impl FnOnce(&Path) -> String) -> Registry {
        assert!(
            Path::new(PROGRAM).exists(),
            "there is no {PROGRAM}: apt-get install docker-registry, or `cargo xtask setup`"
        );
        let folder = tempfile::tempdir().unwrap();
        let host = format!("127.0.0.1:{}", free_port());
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
             delete:\n    enabled: true\nhttp:\n  addr: {host}\n",
            folder.path().join("data").display()
        ) + &more(folder.path());
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(&file);
        let process = Running::start(command);
        wait_until_open(&host, &process);
        Registry { host, guarded: false, _process: process, _folder: folder }
    }

    /// The lines of a configuration by which `docker.io` is this registry.
    pub fn as_docker_io(&self) -> String {
        let host = &self.host;
        format!(
            "[registry.\"docker.io\"]\nmirrors = [\"{host}\"]\n\n[registry.\"{host}\"]\nhttp = true\n"
        )
    }

    fn ask(&self, line: &str, headers: &[&str], body: &[u8]) -> Answer {
        // `bob:hunter2`.
        let login = ["Authorization: Basic Ym9iOmh1bnRlcjI="];
        let login = if self.guarded { &login[..] } else { &[] };
        request(&self.host, line, &[headers, login].concat(), body)
    }

    fn put_blob(&self, repository: &str, blob: &Blob) {
        let begun = self.ask(&format!("POST /v2/{repository}/blobs/uploads/"), &[], b"");
        let location = begun.header("location").unwrap_or_else(|| panic!("{begun:?}"));
        let host = format!("http://{}", self.host);
        let path = location.strip_prefix(&host).unwrap_or(location);
        let line = format!("PUT {path}&digest={}", blob.digest);
        let done = self.ask(&line, &["Content-Type: application/octet-stream"], &blob.bytes);
        assert_eq!(done.status, 201, "{done:?}");
    }

    /// Puts an image into it, under `REPOSITORY:TAG`.
    pub fn put(&self, name: &str, image: &MadeImage) {
        let (repository, tag) = name.rsplit_once(':').unwrap();
        for blob in &image.blobs {
            self.put_blob(repository, blob);
        }
        let line = format!("PUT /v2/{repository}/manifests/{tag}");
        let media_type = format!("Content-Type: {MANIFEST}");
        let done = self.ask(&line, &[&media_type], &image.manifest.bytes);
        assert_eq!(done.status, 201, "{done:?}");
    }

    /// Reads an image out of it, by `REPOSITORY:TAG`.
    pub fn get(&self, name: &str) -> Image {
        let (repository, tag) = name.rsplit_once(':').unwrap();
        let accept = [
            &*format!("Accept: {MANIFEST}"),
            "Accept: application/vnd.oci.image.index.v1+json",
            "Accept: application/vnd.docker.distribution.manifest.v2+json",
            "Accept: application/vnd.docker.distribution.manifest.list.v2+json",
        ];
        let found = self.ask(&format!("GET /v2/{repository}/manifests/{tag}"), &accept, b"");
        assert_eq!(found.status, 200, "{name}: {}", String::from_utf8_lossy(&found.body));
        let digest = crate::layout::digest(&found.body);
        let top = serde_json::json!({ "manifests": [{ "digest": digest }] });
        let blob = |wanted: &str| {
            if wanted == digest {
                return found.body.clone();
            }
            let manifest =
                self.ask(&format!("GET /v2/{repository}/manifests/{wanted}"), &accept, b"");
            if manifest.status == 200 {
                return manifest.body;
            }
            let blob = self.ask(&format!("GET /v2/{repository}/blobs/{wanted}"), &[], b"");
            assert_eq!(blob.status, 200, "{name}: blob {wanted}");
            blob.body
        };
        Image::below(&top, &blob)
    }

    /// The tags of a repository; none where there is no such repository.
    pub fn tags(&self, repository: &str) -> Vec<String> {
        let answer = self.ask(&format!("GET /v2/{repository}/tags/list"), &[], b"");
        let value: Value = serde_json::from_slice(&answer.body).unwrap();
        let tags = value["tags"].as_array().cloned().unwrap_or_default();
        tags.iter().map(|tag| tag.as_str().unwrap().to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::busybox;

    #[test]
    fn an_image_comes_back_as_it_went() {
        let registry = Registry::start();
        registry.put("library/busybox:golden", &busybox());
        let image = registry.get("library/busybox:golden");
        assert_eq!(image.digest, busybox().manifest.digest);
        assert_eq!(image.tree().get("bin/sh").unwrap().mode, 0o755);
        assert_eq!(registry.tags("library/busybox"), ["golden"]);
    }
}
