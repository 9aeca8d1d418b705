//! A cluster on a bucket and a Redis, with a folder to build.

use std::fmt::Write as _;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::cluster::{Cluster, Store};
use crate::files::{ContextEntry, write_context};
use crate::home::Home;
use crate::image::Image;
use crate::redis::RedisServer;
use crate::registry::Registry;
use crate::running::Finished;
use crate::s3::S3Server;
use crate::story::fill;
use crate::wait::{LONG, wait_for};

/// How long a store that does well again may take to have all that was kept back.
const CATCH_UP: Duration = Duration::from_mins(1);

/// The cluster, and what it stands on.
pub struct Site {
    /// A coordinator and workers.
    pub cluster: Cluster,
    /// The bucket's server.
    pub s3: S3Server,
    /// The index.
    pub redis: RedisServer,
    /// `docker.io`, as far as the cluster can tell.
    pub registry: Registry,
    fresh: usize,
}

impl Site {
    /// Starts one with one worker and this in the context.
    pub fn start(dockerfile: &str, files: &[(&str, &str)]) -> Site {
        let redis = RedisServer::start(&[]);
        let index = redis.url();
        Site::start_on(redis, &index, (dockerfile, files))
    }

    /// One whose coordinator has a certificate, as this configuration says; without a worker.
    pub fn start_secure(config: &str, dockerfile: &str) -> Site {
        let redis = RedisServer::start(&[]);
        let index = redis.url();
        let start = |store, home: Home| Cluster::start_secure(store, home, 0, 1);
        Site::start_as(redis, &index, (dockerfile, &[]), (config, start))
    }

    /// The same with an index at this address, behind which this server is.
    pub fn start_on(redis: RedisServer, index: &str, context: (&str, &[(&str, &str)])) -> Site {
        let start = |store, home: Home| Cluster::start_on(store, home, 1, 2);
        Site::start_as(redis, index, context, ("", start))
    }

    fn start_as(
        redis: RedisServer,
        index: &str,
        (dockerfile, files): (&str, &[(&str, &str)]),
        (config, start): (&str, impl FnOnce(Store, Home) -> Cluster),
    ) -> Site {
        let (registry, s3) = (Registry::start(), S3Server::start());
        fill(&registry);
        let flags = ["--store".into(), s3.url("acme"), "--index".into(), index.to_owned()];
        let store = Store { flags: flags.to_vec(), environment: s3.environment().to_vec() };
        let home = Home::new(&format!("{}\n{config}", registry.as_docker_io()));
        let dockerfile = [ContextEntry::file("Dockerfile", dockerfile)];
        let files = files.iter().map(|(path, text)| ContextEntry::file(path, text));
        let entries: Vec<ContextEntry> = dockerfile.into_iter().chain(files).collect();
        write_context(&home.path("context"), &entries);
        let cluster = start(store, home);
        Site { cluster, s3, redis, registry, fresh: 0 }
    }

    /// Writes a file of the context anew.
    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(self.cluster.home.path("context").join(path), text).unwrap();
    }

    /// Submits the build, which may fail.
    pub fn try_submit(&self) -> Finished {
        let output = format!("type=oci,dest={}", self.cluster.home.arg("image.tar"));
        let context = self.cluster.home.arg("context");
        self.cluster.ask("submit", &["--progress", "plain", "--output", &output, &context])
    }

    /// Submits the build and gives its image, and what the client said.
    pub fn submit(&self) -> (Image, String) {
        let done = self.try_submit();
        assert!(done.status.success(), "{}\n{}", done.stderr, self.cluster.said());
        (Image::read_tar(&self.cluster.home.path("image.tar")), done.stderr)
    }

    /// Ends the worker that there is, and starts one with an empty folder.
    pub fn fresh_worker(&mut self) {
        self.cluster.end_worker(self.fresh);
        self.fresh = self.cluster.start_worker(2);
    }

    /// Checks that every blob in the bucket is what its name says.
    pub fn check_blobs(&self) {
        let keys = self.s3.keys();
        let named =
            |key: &String| Some((key.clone(), key.split_once("/blob/sha256/")?.1.to_owned()));
        let blobs: Vec<(String, String)> = keys.iter().filter_map(named).collect();
        assert!(!blobs.is_empty(), "there are none: {keys:?}");
        for (key, name) in blobs {
            let bytes = std::fs::read(self.s3.file(&key)).unwrap();
            let digest = Sha256::digest(&bytes).iter().fold(String::new(), |mut text, byte| {
                // Writing to a String does not fail.
                let _ok = write!(text, "{byte:02x}");
                text
            });
            assert_eq!(digest, name, "{} bytes", bytes.len());
        }
    }

    /// Whether the coordinator says that builds go on without the store.
    pub fn is_failing(&self) -> bool {
        self.cluster.metric("dcbuild_store_failing") == Some(1)
    }

    /// Waits until all results are in the bucket, and all that was kept back meanwhile.
    pub fn wait_until_sent(&self) {
        let named = ["dcbuild_undurable_results", "dcbuild_store_waiting", "dcbuild_store_failing"];
        let sent = || named.iter().all(|name| self.cluster.metric(name) == Some(0));
        let status = || {
            let values = named.map(|name| self.cluster.metric(name));
            format!("{values:?}\n{}", self.cluster.said())
        };
        wait_for("all is in the bucket", CATCH_UP, || sent().then_some(()), status);
    }

    /// Waits until the coordinator has seen that the store fails.
    pub fn wait_until_failing(&self) {
        let failing = || self.is_failing().then_some(());
        wait_for("the store is seen to fail", LONG, failing, || self.cluster.said());
    }
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}
