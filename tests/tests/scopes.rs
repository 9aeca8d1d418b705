//! Scopes on a cluster: who takes whose records, cache mounts and names, and who sees what.

use std::path::PathBuf;
use std::process::Command;

use dcbuild_testkit::tls::{Authority, Pair, Valid};
use dcbuild_tests::cluster::{Cluster, Store};
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::redis::RedisServer;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::running::{Finished, Running};
use dcbuild_tests::s3::S3Server;
use dcbuild_tests::story::fill;
use dcbuild_tests::wait::{LONG, wait_for};

/// A cluster of the tenant `acme`, one worker.
struct Site {
    cluster: Cluster,
    _registry: Registry,
    bucket: Option<(S3Server, RedisServer)>,
}

impl Site {
    /// On a folder.
    fn start() -> Site {
        let registry = Registry::start();
        fill(&registry);
        let config = registry.as_docker_io() + "\n[coordinator]\nscope = 'acme'\n";
        let cluster = Cluster::start(Home::new(&config), 1, 2);
        Site { cluster, _registry: registry, bucket: None }
    }

    /// On a bucket with a Redis.
    fn start_on_bucket() -> Site {
        let (registry, s3, redis) = (Registry::start(), S3Server::start(), RedisServer::start(&[]));
        fill(&registry);
        let config = registry.as_docker_io() + "\n[coordinator]\nscope = 'acme'\n";
        let flags = ["--store".into(), s3.url("store"), "--index".into(), redis.url()];
        let store = Store { flags: flags.to_vec(), environment: s3.environment().to_vec() };
        let cluster = Cluster::start_on(store, Home::new(&config), 1, 2);
        Site { cluster, _registry: registry, bucket: Some((s3, redis)) }
    }

    /// Builds in a scope, and gives what the client said.
    fn build(&self, scope: &str, dockerfile: &str) -> String {
        self.build_as(scope, dockerfile, &[])
    }

    fn build_as(&self, scope: &str, dockerfile: &str, flags: &[&str]) -> String {
        let home = &self.cluster.home;
        write_context(&home.path("context"), &[ContextEntry::file("Dockerfile", dockerfile)]);
        let context = home.arg("context");
        let fixed = ["--scope", scope, "--progress", "plain", &context];
        let done = self.cluster.ask("submit", &[&fixed, flags].concat());
        assert!(done.status.success(), "{}\n{}", done.stderr, self.cluster.said());
        self.cluster.wait_until_durable();
        done.stderr
    }

    fn ask(&self, word: &str, rest: &[&str]) -> String {
        self.cluster.ask(word, rest).well().stdout
    }
}

/// Whether a step was found, by what a client said of it.
fn hit(said: &str, step: &str) -> bool {
    let line = said.lines().find(|line| line.contains(step));
    let number = line.and_then(|line| line.split(' ').next());
    let number = number.unwrap_or_else(|| panic!("no {step} in {said}"));
    said.lines().any(|line| line == format!("{number} CACHED"))
}

const FIRST: &str = "FROM busybox:golden\nRUN echo first > /first\n";
const BOTH: &str = "FROM busybox:golden\nRUN echo first > /first\nRUN echo second > /second\n";

fn families(site: &Site) {
    assert!(!hit(&site.build("acme/shop", FIRST), "echo first"));
    // A pull request takes what its parent has, and writes its own.
    let said = site.build("acme/shop/pr/7", BOTH);
    assert!(hit(&said, "echo first"), "{said}");
    assert!(!hit(&said, "echo second"), "{said}");
    let again = site.build("acme/shop/pr/7", BOTH);
    assert!(hit(&again, "echo second"), "{again}");
    // Neither another one nor its parent sees it.
    assert!(!hit(&site.build("acme/shop/pr/8", BOTH), "echo second"));
    let parent = site.build("acme/shop", BOTH);
    assert!(hit(&parent, "echo first") && !hit(&parent, "echo second"), "{parent}");
    // A stranger sees nothing of all that.
    let stranger = site.build("acme/shop-2", BOTH);
    assert!(!hit(&stranger, "echo first") && !hit(&stranger, "echo second"), "{stranger}");
}

#[test]
fn a_pull_request_takes_what_its_parent_has_and_keeps_what_it_makes_to_itself() {
    families(&Site::start());
}

#[test]
fn the_same_in_a_bucket() {
    let site = Site::start_on_bucket();
    families(&site);
    let records = site.ask("cache", &["ls", "--scope", "acme/shop/pr/7"]);
    assert!(records.contains("acme/shop/pr/7") && records.contains("acme/shop "), "{records}");
    assert!(!records.contains("pr/8") && !records.contains("shop-2"), "{records}");
    // A request that is closed takes its records along, and no other.
    let (s3, _) = site.bucket.as_ref().unwrap();
    let of = |scope: &str| {
        let part = format!("/scope/{scope}/step/");
        s3.keys().iter().filter(|key| key.contains(&part)).count()
    };
    let (own, others) = (of("acme/shop/pr/7"), of("acme/shop") + of("acme/shop/pr/8"));
    assert!(own > 0 && others > 0, "{:?}", s3.keys());
    let prune = ["prune", "--all", "--scope", "acme/shop/pr/7"];
    let swept = || (of("acme/shop/pr/7") == 0).then_some(());
    // What a build has just used is held for a moment.
    let try_it = || site.cluster.ask("cache", &prune).status.success().then(swept).flatten();
    wait_for("the scope is swept", LONG, try_it, || site.cluster.said());
    assert_eq!(of("acme/shop") + of("acme/shop/pr/8"), others);
    assert!(hit(&site.build("acme/shop/pr/8", BOTH), "echo second"), "its blobs are still there");
}

#[test]
fn a_cache_that_is_carried_keeps_its_scopes() {
    let site = Site::start();
    site.build("acme/shop", FIRST);
    site.build("acme/shop/pr/7", BOTH);
    let home = &site.cluster.home;
    let store = |name: &str| format!("dir:{}", home.arg(name));
    let cache = |of: &str, rest: &[&str]| {
        Running::start(home.command([&["cache", "--store", &store(of)], rest].concat()))
            .finish(LONG)
    };
    let scopes = |of: &str| {
        let listed = cache(of, &["ls", "--format", "json"]).well().stdout;
        let listed: serde_json::Value = serde_json::from_str(&listed).expect("a list");
        let records = listed["records"].as_array().expect("records").clone();
        let scopes = records.iter().map(|it| it["scope"].as_str().expect("a scope").to_owned());
        scopes.collect::<std::collections::BTreeSet<String>>()
    };
    assert_eq!(scopes("store"), ["acme/shop", "acme/shop/pr/7"].map(str::to_owned).into());
    // Without a word all of it goes, and stays whose it is.
    let (all, one) = (home.arg("all"), home.arg("one"));
    cache("store", &["export", &all]).well();
    cache("second", &["import", &all]).well();
    assert_eq!(scopes("second"), scopes("store"));
    // One scope brings what it stands on; moved to another place, what was below is below.
    cache("store", &["export", &one, "--scope", "acme/shop/pr/7"]).well();
    cache("third", &["import", &one, "--scope", "team"]).well();
    assert_eq!(scopes("third"), ["team", "team/pr/7"].map(str::to_owned).into());
    let said = cache("store", &["export", &home.arg("none"), "--scope", "team"]).failed().stderr;
    let none = "the scope team has no records here, acme/shop, acme/shop/pr/7 has";
    assert!(said.contains(none), "{said}");
    // A build of another scope is told why it finds nothing there.
    let from = format!("type=local,src={all}");
    let build =
        home.command(["build", "--progress", "plain", "--cache-from", &from, &home.arg("context")]);
    let said = Running::start(build).finish(LONG).well().stderr;
    let why =
        "its records are of the scope acme/shop, acme/shop/pr/7, and this build, of local, takes";
    assert!(said.contains(why), "{said}");
}

#[test]
fn a_cache_mount_starts_from_its_parents_version_and_is_written_back_to_its_own() {
    let site = Site::start();
    let run = |scope: &str, command: &str| {
        let mount = "--mount=type=cache,target=/c,sharing=locked";
        site.build(scope, &format!("FROM busybox:golden\nRUN {mount} {command}\n"))
    };
    let versions = |scope: &str| {
        let folder = site.cluster.home.path("store/cache-mount").join(scope.replace('/', "+"));
        let entry = std::fs::read_dir(folder).ok()?.next()?;
        std::fs::read_to_string(entry.unwrap().path()).ok()
    };
    let written = |scope: &str| {
        wait_for("it is written back", LONG, || versions(scope), || site.cluster.said())
    };
    run("acme/shop", "echo main > /c/main");
    let main = written("acme/shop");
    let said = run("acme/shop/pr/7", "cat /c/main && echo request > /c/request");
    assert!(said.contains("restoring cache mount /c"), "{said}");
    written("acme/shop/pr/7");
    assert_eq!(written("acme/shop"), main, "the parent's is as it was");
    run("acme/shop", "test -e /c/main && test ! -e /c/request");
    run("acme/shop/pr/7", "test -e /c/main && test -e /c/request && echo again");
    run("acme/other", "test ! -e /c/main && test ! -e /c/request && echo nothing there");
}

#[test]
fn names_and_builds_are_seen_by_their_scope_and_its_parents_names_can_be_built_upon() {
    let site = Site::start();
    site.build_as("acme/shop", FIRST, &["-t", "base:1"]);
    let on_it = "FROM base:1\nRUN cat /first > /again\n";
    site.build_as("acme/shop/pr/7", on_it, &["-t", "request:1"]);
    let images = |scope: &str| site.ask("images", &["--scope", scope]);
    assert!(images("acme/shop/pr/7").contains("request:1"));
    let parents = images("acme/shop");
    assert!(parents.contains("base:1") && !parents.contains("request:1"), "{parents}");
    assert!(!images("acme/other").contains(":1"));
    // Nobody takes a name away that is another's.
    let removed = site.cluster.ask("rmi", &["--scope", "acme/shop/pr/7", "base:1"]);
    assert_eq!(removed.status.code(), Some(1), "{}", removed.stderr);
    assert!(images("acme/shop").contains("base:1"));

    let ps = |scope: &[&str]| site.ask("ps", &[&["-a"], scope].concat());
    let all = ps(&[]);
    assert!(all.contains("acme/shop ") && all.contains("acme/shop/pr/7 "), "{all}");
    let own = ps(&["--scope", "acme/shop/pr"]);
    assert_eq!(own.lines().count(), 2, "{own}");
    let parents = all.lines().find(|line| line.contains("acme/shop ")).unwrap();
    let id = parents.split(' ').next().unwrap();
    for word in ["logs", "cancel", "explain"] {
        let told = site.cluster.ask(word, &["--scope", "acme/shop/pr/7", id]);
        assert!(told.stderr.contains("there is no build"), "{word}: {}", told.stderr);
    }
    // A first build of a request is explained by what its parent built.
    let valued = |value: u32| format!("FROM busybox:golden\nARG V={value}\nRUN echo $V > /v\n");
    site.build("acme/shop", &valued(1));
    site.build("acme/shop/pr/9", &valued(2));
    let told = site.ask("explain", &["--scope", "acme/shop/pr/9"]);
    assert!(told.contains("miss") && !told.contains("nobody ever made it"), "{told}");
}

/// Someone with a certificate.
struct Guest<'a> {
    cluster: &'a Cluster,
    ca: PathBuf,
    shown: Pair,
}

impl Guest<'_> {
    fn command(&self, word: &str) -> Command {
        let mut command = self.cluster.command(word);
        command.env("DCBUILD_TLS_CA", &self.ca);
        command.env("DCBUILD_TLS_CERT", &self.shown.cert);
        command.env("DCBUILD_TLS_KEY", &self.shown.key);
        command
    }

    fn submit(&self, flags: &[&str]) -> Finished {
        let mut command = self.command("submit");
        command.args(["--progress", "plain"]).args(flags).arg(self.cluster.home.arg("context"));
        Running::start(command).finish(LONG)
    }
}

#[test]
fn a_certificate_gives_a_scope_and_no_request_gives_more() {
    let (ours, registry) = (Authority::new("ours"), Registry::start());
    fill(&registry);
    let server = ours.certificate("127.0.0.1", Valid::Now);
    let member = ours.certificate("member", Valid::Now);
    let (ca, cert, key) = (ours.ca(), server.cert, server.key);
    let config = format!(
        "{}\n[coordinator]\nscope = 'acme'\n[coordinator.scopes]\n'forks.example' = 'acme/shop/pr'\n\
         [coordinator.tls]\ncert = '{}'\nkey = '{}'\nclient_ca = '{}'\n\
         [worker.tls]\nca = '{}'\ncert = '{}'\nkey = '{}'\n",
        registry.as_docker_io(),
        cert.display(),
        key.display(),
        ca.display(),
        ca.display(),
        member.cert.display(),
        member.key.display(),
    );
    let cluster = Cluster::start_secure(Store::default(), Home::new(&config), 1, 1);
    let home = &cluster.home;
    write_context(&home.path("context"), &[ContextEntry::file("Dockerfile", FIRST)]);
    let guest = |shown: Pair| Guest { cluster: &cluster, ca: ours.ca(), shown };
    let forks = guest(ours.certificate("forks.example", Valid::Now));
    let owner = guest(member);

    let first = forks.submit(&["-t", "mine:1"]).well().stderr;
    assert!(!hit(&first, "echo first"), "{first}");
    let own = home.path("store/step/acme+shop+pr");
    wait_for("the record is kept", LONG, || own.exists().then_some(()), || cluster.said());
    let above = forks.submit(&["--scope", "acme/shop"]);
    assert_eq!(above.status.code(), Some(1), "{}", above.stderr);
    let words = "may build in the scope acme/shop/pr and below it, and acme/shop is neither";
    assert!(above.stderr.contains(words), "{}", above.stderr);
    let below = forks.submit(&["--scope", "acme/shop/pr/7"]).well().stderr;
    assert!(hit(&below, "echo first"), "{below}");
    let others = owner.submit(&["--scope", "acme/shop"]).well().stderr;
    assert!(!hit(&others, "echo first"), "the owner takes nothing of a fork: {others}");

    // It sends files, small and large ones.
    let large = "0123456789abcdef".repeat(200_000);
    let files = [
        ContextEntry::file("Dockerfile", "FROM busybox:golden\nCOPY small large /\n"),
        ContextEntry::file("small", "of a fork"),
        ContextEntry::file("large", &large),
    ];
    write_context(&home.path("context"), &files);
    let out = home.arg("out");
    forks.submit(&["-o", &format!("type=local,dest={out}")]).well();
    assert_eq!(std::fs::read_to_string(home.path("out/small")).unwrap(), "of a fork");
    assert_eq!(std::fs::read_to_string(home.path("out/large")).unwrap(), large);

    // A worker's word counts for everybody, so the holder of a scope is none.
    let folder = home.arg("evil");
    let mut worker = forks.command("worker");
    worker.args(["--data-dir", &folder]);
    let mut worker = Running::start(worker);
    let refused = || worker.stderr().contains("this certificate is for builds").then_some(());
    wait_for("the worker is refused", LONG, refused, || worker.stderr());
    worker.kill();
    let seen = Running::start(owner.command("workers")).finish(LONG).well();
    assert_eq!(seen.stdout.lines().count(), 2, "{}", seen.stdout);
}

#[test]
fn what_is_no_scope_is_refused_where_it_is_written() {
    let home = Home::new(
        "[submit]\nscope = 'Acme'\n[coordinator]\nscope = 'a/b/c/d/e'\n[coordinator.scopes]\nann = 'x y'\n'sha256:12' = 'a'\n",
    );
    let told = home.start(["submit", "."]).finish(LONG);
    assert_eq!(told.status.code(), Some(1));
    for words in [
        "submit.scope: 'Acme' is not a scope (up to 4 parts of a-z, 0-9, '.', '_' and '-', joined by '/')",
        "coordinator.scope: 'a/b/c/d/e' is not a scope",
        "coordinator.scopes.ann: 'x y' is not a scope",
        "coordinator.scopes.sha256:12: is neither a name that a certificate is for",
    ] {
        assert!(told.stderr.contains(words), "{words}: {}", told.stderr);
    }
    let home = Home::new("");
    let told = home.start(["build", "--scope", "acme/", "."]).finish(LONG);
    assert_eq!(told.status.code(), Some(2));
    assert!(told.stderr.contains("'acme/' is not a scope"), "{}", told.stderr);
    let mut command = home.command(["images"]);
    command.env("DCBUILD_SCOPE", "ACME");
    let told = Running::start(command).finish(LONG);
    assert!(told.stderr.contains("DCBUILD_SCOPE: 'ACME' is not a scope"), "{}", told.stderr);
}
