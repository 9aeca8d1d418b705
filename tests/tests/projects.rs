//! A cache changes nothing but the time: each project makes the same tree cold, warm, warm on another machine, after a
//! sweep and without a cache, before a change of its files and after it.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::image::Image;
use dcbuild_tests::merged::Node;
use dcbuild_tests::progress::ran;
use dcbuild_tests::projects::{PROJECTS, Project};
use dcbuild_tests::redis::RedisServer;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::running::Running;
use dcbuild_tests::s3::S3Server;
use dcbuild_tests::story::fill;
use dcbuild_tests::wait::LONG;

/// No file of an image is younger, and it says that it was made then: so the same steps make the same digest.
const EPOCH: &str = "1700000000";

/// A registry, a bucket and its index.
struct Site {
    registry: Registry,
    s3: S3Server,
    redis: RedisServer,
}

/// What a build made, and which steps it ran for that.
struct Built {
    image: Image,
    ran: Vec<String>,
}

impl Site {
    fn start() -> Site {
        let (registry, s3, redis) = (Registry::start(), S3Server::start(), RedisServer::start(&[]));
        fill(&registry);
        Site { registry, s3, redis }
    }

    fn machine(&self) -> Machine<'_> {
        Machine { site: self, home: Home::new(&self.registry.as_docker_io()) }
    }

    /// Removes all that the bucket has for this cache.
    fn sweep(&self) {
        let machine = self.machine();
        let (store, index) = (self.s3.url("acme"), self.redis.url());
        let mut command =
            machine.home.command(["cache", "prune", "--all", "--store", &store, "--index", &index]);
        command.envs(self.s3.environment());
        let before = self.s3.keys().len();
        Running::start(command).finish(LONG).well();
        let after = self.s3.keys().len();
        assert!(after < before / 2, "the sweep left {after} of {before} objects");
    }
}

/// What a step does, less where it stands: projects share steps that stand elsewhere.
fn instruction(name: &str) -> &str {
    name.split_once("] ").map_or(name, |(_, instruction)| instruction)
}

/// Whether a step is one that every project may share with others.
fn is_base(name: &str) -> bool {
    name.contains("FROM ")
}

/// A machine with a state of its own.
struct Machine<'a> {
    site: &'a Site,
    home: Home,
}

impl Machine<'_> {
    /// Builds on the bucket.
    fn build(&self, project: &Project, is_changed: bool) -> Built {
        let (store, index) = (self.site.s3.url("acme"), self.site.redis.url());
        self.build_with(project, is_changed, &["--store", &store, "--index", &index])
    }

    /// Removes all that this machine has.
    fn forget(&self) {
        let said = self.home.run(["prune", "--all"]).well().stdout;
        let left = self.home.run(["cache", "ls"]).well().stdout;
        assert_eq!(left.lines().count(), 1, "{said}{left}");
    }

    /// Builds as if there were no cache.
    fn build_uncached(&self, project: &Project, is_changed: bool) -> Built {
        self.build_with(project, is_changed, &["--no-cache"])
    }

    fn build_with(&self, project: &Project, is_changed: bool, flags: &[&str]) -> Built {
        let folder = self.home.path("context");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        let change = project.change;
        let files = project.files.iter().filter(|(name, _)| !is_changed || *name != change.0);
        let files = files.chain(is_changed.then_some(&change));
        let files = files.map(|(path, text)| ContextEntry::file(path, text));
        let dockerfile = ContextEntry::file("Dockerfile", project.dockerfile);
        let entries: Vec<ContextEntry> = std::iter::once(dockerfile).chain(files).collect();
        write_context(&folder, &entries);
        let output = format!("type=oci,dest={},rewrite-timestamp=true", self.home.arg("image.tar"));
        let context = self.home.arg("context");
        let fixed = ["build", "--progress", "rawjson", "--output", &output];
        let all = fixed.iter().chain(flags).chain(project.flags).copied();
        let mut command = self.home.command(all.chain([context.as_str()]));
        command.envs(self.site.s3.environment()).env("SOURCE_DATE_EPOCH", EPOCH);
        let done = Running::start(command).finish(LONG);
        assert!(done.status.success(), "{}: {}", project.name, done.stderr);
        Built { image: Image::read_tar(&self.home.path("image.tar")), ran: ran(&done.stderr) }
    }
}

/// The tree, less times.
fn tree(built: &Built) -> BTreeMap<String, Node> {
    let timeless = |node: &Node| Node { mtime: 0, ..node.clone() };
    built.image.tree().walk().map(|(path, node)| (path, timeless(node))).collect()
}

#[track_caller]
fn same(project: &Project, one: &Built, other: &Built, when: &str) {
    let digests = (&one.image.digest, &other.image.digest);
    let (one, other_tree) = (tree(one), tree(other));
    let names: Vec<&String> = one.keys().chain(other_tree.keys()).collect();
    let differs = names.iter().find(|name| one.get(**name) != other_tree.get(**name));
    assert_eq!(differs, None, "{}, {when}: {one:#?}\n{other_tree:#?}", project.name);
    assert_eq!(digests.0, digests.1, "{}, {when}", project.name);
}

fn check(site: &Site, project: &Project) {
    let [home, away, bare] = [(); 3].map(|()| site.machine());
    let cold = home.build(project, false);
    assert!(!cold.ran.is_empty(), "{}: nothing ran", project.name);
    let warm = home.build(project, false);
    assert_eq!(
        (&warm.ran, &warm.image.digest),
        (&Vec::new(), &cold.image.digest),
        "{}",
        project.name
    );
    let far = away.build(project, false);
    assert_eq!(
        (&far.ran, &far.image.digest),
        (&Vec::new(), &cold.image.digest),
        "{}",
        project.name
    );
    let uncached = bare.build_uncached(project, false);
    same(project, &cold, &uncached, "without a cache");
    let ran_not = cold.ran.iter().find(|name| !uncached.ran.contains(name));
    assert_eq!(ran_not, None, "{}: without a cache", project.name);

    let changed = home.build(project, true);
    let spared = |name: &String| project.spared.iter().any(|spared| name.contains(spared));
    let wasted: Vec<&String> = changed.ran.iter().filter(|name| spared(name)).collect();
    assert_eq!(wasted, Vec::<&String>::new(), "{}", project.name);
    let bare = bare.build_uncached(project, true);
    assert_eq!(bare.image.config["created"], cold.image.config["created"]);
    same(project, &changed, &bare, "changed and without a cache");
    let far = away.build(project, true);
    assert_eq!(
        (&far.ran, &far.image.digest),
        (&Vec::new(), &changed.image.digest),
        "{}",
        project.name
    );

    let back = away.build(project, false);
    assert_eq!(
        (&back.ran, &back.image.digest),
        (&Vec::new(), &cold.image.digest),
        "{}",
        project.name
    );
}

/// Checks each fifth project, then sweeps the bucket and builds them all once more.
fn check_every_fifth(first: usize) {
    let site = Site::start();
    let projects: Vec<&Project> = PROJECTS.iter().skip(first).step_by(5).collect();
    for project in &projects {
        check(&site, project);
    }
    let (lived, kept, bare) = (site.machine(), site.machine(), site.machine());
    let before: Vec<Built> = projects.iter().map(|it| lived.build(it, true)).collect();
    for project in &projects {
        kept.build(project, true);
    }
    site.sweep();
    lived.forget();
    let (fresh, mut made) = (site.machine(), BTreeSet::new());
    for (project, before) in projects.iter().zip(&before) {
        let again = lived.build(project, true);
        same(project, before, &again, "after a sweep");
        // All of it was gone: what runs without a cache ran, but for what another project has just made.
        made.extend(again.ran.iter().map(|name| instruction(name).to_owned()));
        assert!(again.ran.iter().any(|name| !is_base(name)), "{}: {:?}", project.name, again.ran);
        for name in bare.build_uncached(project, true).ran {
            let known = made.contains(instruction(&name));
            assert!(known, "{}: {name} did not run: {:?}", project.name, again.ran);
        }
        let fresh = fresh.build(project, true);
        same(project, before, &fresh, "after a sweep, on a new machine");
        assert_eq!(fresh.ran, Vec::<String>::new(), "{}", project.name);
        // The bucket's loss is none to a machine that has all of it.
        let kept = kept.build(project, true);
        same(project, before, &kept, "after a sweep, where all of it is");
        assert_eq!(kept.ran, Vec::<String>::new(), "{}", project.name);
    }
}

#[test]
fn there_are_twenty_projects_and_each_has_its_own_name() {
    let names: std::collections::BTreeSet<&str> = PROJECTS.iter().map(|it| it.name).collect();
    assert_eq!((PROJECTS.len(), names.len()), (20, 20));
}

#[test]
fn projects_1_6_11_16_are_the_same_with_and_without_a_cache() {
    check_every_fifth(0);
}

#[test]
fn projects_2_7_12_17_are_the_same_with_and_without_a_cache() {
    check_every_fifth(1);
}

#[test]
fn projects_3_8_13_18_are_the_same_with_and_without_a_cache() {
    check_every_fifth(2);
}

#[test]
fn projects_4_9_14_19_are_the_same_with_and_without_a_cache() {
    check_every_fifth(3);
}

#[test]
fn projects_5_10_15_20_are_the_same_with_and_without_a_cache() {
    check_every_fifth(4);
}
