//! A cluster on a bucket and a Redis: a fresh worker starts warm, also when the index was flushed.

use dcbuild_tests::cluster::{Cluster, Store};
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::image::Image;
use dcbuild_tests::redis::RedisServer;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::s3::S3Server;
use dcbuild_tests::story::fill;

const DOCKERFILE: &str = "FROM busybox:golden AS build\nWORKDIR /src\nCOPY in.txt .\n\
    RUN cat in.txt in.txt > /out.txt\nFROM busybox:golden\nCOPY --from=build /out.txt /out.txt\n\
    RUN wc -c /out.txt > /count\n";

struct Site {
    cluster: Cluster,
    s3: S3Server,
    redis: RedisServer,
    _registry: Registry,
}

impl Site {
    fn start() -> Site {
        let (registry, s3, redis) = (Registry::start(), S3Server::start(), RedisServer::start(&[]));
        fill(&registry);
        let flags = ["--store".into(), s3.url("acme"), "--index".into(), redis.url()];
        let store = Store { flags: flags.to_vec(), environment: s3.environment().to_vec() };
        let home = Home::new(&registry.as_docker_io());
        let entries =
            [ContextEntry::file("Dockerfile", DOCKERFILE), ContextEntry::file("in.txt", "hello\n")];
        write_context(&home.path("context"), &entries);
        let cluster = Cluster::start_on(store, home, 1, 2);
        Site { cluster, s3, redis, _registry: registry }
    }

    /// Submits the build and gives its image, and what the client said.
    fn submit(&self) -> (Image, String) {
        let output = format!("type=oci,dest={}", self.cluster.home.arg("image.tar"));
        let context = self.cluster.home.arg("context");
        let rest = ["--progress", "plain", "--output", &output, &context];
        let done = self.cluster.ask("submit", &rest);
        assert!(done.status.success(), "{}\n{}", done.stderr, self.cluster.said());
        (Image::read_tar(&self.cluster.home.path("image.tar")), done.stderr)
    }
}

#[test]
fn a_fresh_worker_finds_everything_and_a_flushed_index_costs_no_step() {
    let mut site = Site::start();
    let (first, said) = site.submit();
    assert!(!said.contains("CACHED"), "{said}");
    site.cluster.wait_until_durable();
    let keys = site.s3.keys();
    assert!(keys.iter().any(|key| key.contains("/step/")), "records are in the bucket: {keys:?}");

    site.cluster.kill_worker(0);
    site.cluster.start_worker(2);
    for flushed in [false, true] {
        if flushed {
            assert_eq!(site.redis.ask(&["FLUSHALL"]), "OK");
        }
        let (again, said) = site.submit();
        assert_eq!(again.digest, first.digest);
        // The base, the COPY and the RUN of the last stage; nobody needs the other one.
        assert_eq!(said.matches("CACHED").count(), 3, "{said}\n{}", site.cluster.said());
    }
}
