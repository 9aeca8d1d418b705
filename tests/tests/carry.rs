//! `dcbuild cache import` into a bucket that fails: what it says, what can be seen of it, and that a second run ends it.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dcbuild_tests::cluster::{Cluster, Store};
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::running::{Finished, Running};
use dcbuild_tests::s3::S3Server;
use dcbuild_tests::s3::faults::{Fault, Seen};
use dcbuild_tests::story::Story;
use dcbuild_tests::wait::{LONG, wait_for};
use serde_json::Value;

const DOCKERFILE: &str = "FROM busybox:golden AS build\nCOPY in.txt /in.txt\nRUN cat /in.txt /in.txt > /out.txt\n\
    FROM busybox:golden\nCOPY --from=build /out.txt /out.txt\nRUN cat /proc/sys/kernel/random/uuid > /id\n";

/// An exported cache, and a bucket that is empty.
struct Carrying {
    story: Story,
    s3: S3Server,
    /// The step that differs between any two runs.
    id: String,
}

impl Carrying {
    fn new() -> Carrying {
        let story = Story::new(DOCKERFILE, &[("in.txt", "hello\n")]);
        let id = story.build(&[]).image.tree().text("id").unwrap();
        story.home.run(["cache", "export", &story.home.arg("exported")]).well();
        std::fs::rename(story.home.path("state"), story.home.path("old")).unwrap();
        Carrying { story, s3: S3Server::start(), id }
    }

    /// Starts `dcbuild cache` about the bucket.
    fn start(&self, arguments: &[&str]) -> Running {
        let store = self.s3.url("acme");
        let place = ["--store", &store];
        let all = ["cache"].iter().chain(arguments).chain(&place);
        let mut command = self.story.home.command(all);
        command.envs(self.s3.environment());
        Running::start(command)
    }

    fn start_import(&self) -> Running {
        self.start(&["import", &self.story.home.arg("exported")])
    }

    fn import(&self) -> Finished {
        self.start_import().finish(LONG)
    }

    /// Imports while this goes wrong, and gives what was said.
    fn fails(
        &self,
        what: &str,
        rule: impl Fn(&Seen) -> Option<Fault> + Send + Sync + 'static,
    ) -> String {
        let before = self.s3.fired();
        self.s3.fail(rule);
        let said = self.import().failed();
        assert!(self.s3.fired() > before, "{what}: nothing went wrong");
        self.s3.heal();
        self.check_whole(what);
        assert!(!said.stdout.contains("imported"), "{what}: {}", said.stdout);
        let goes_on = "the same command goes on where this one stopped";
        assert!(said.stderr.contains(goes_on), "{what}: {}", said.stderr);
        // Nothing of it waits on this machine for anybody.
        let left = ["aside", "waiting"].map(|name| self.story.home.path("state").join(name));
        assert!(left.iter().all(|left| !left.exists()), "{what}: {left:?}");
        said.stderr
    }

    /// All that is in the bucket was written ten days ago.
    fn grow_old(&self) {
        let files = self.s3.keys().into_iter().map(|key| self.s3.file(&key));
        let touched = Command::new("touch").args(["-d", "10 days ago"]).args(files).status();
        assert!(touched.unwrap().success());
    }

    fn keys(&self, of: &str) -> BTreeSet<String> {
        self.s3.keys().into_iter().filter(|key| key.contains(of)).collect()
    }

    /// Whether each record that is in the bucket has all that it speaks of.
    fn check_whole(&self, what: &str) {
        let keys: BTreeSet<String> = self.s3.keys().into_iter().collect();
        let has = |key: String| assert!(keys.contains(&key), "{what}: no {key} in {keys:?}");
        for key in self.keys("/step/") {
            for layer in layers(&document(&self.s3.file(&key))) {
                let hex = layer["layer"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
                has(format!("acme/blob/sha256/{hex}"));
                if layer["base"].is_null() {
                    let forms = self.keys(&format!("acme/layer/{hex}/"));
                    assert!(!forms.is_empty(), "{what}: {key} has no blob");
                }
            }
        }
        for key in self.keys("acme/layer/") {
            let form = document(&self.s3.file(&key))["value"].clone();
            for blob in [&form["blob"]["digest"], &form["index"]] {
                let hex = blob.as_str().unwrap().rsplit(':').next().unwrap();
                has(format!("acme/blob/sha256/{hex}"));
            }
        }
    }

    /// A second run ends it, and a machine that has nothing finds all of it.
    fn ends(&self) {
        let said = self.import().well().stdout;
        assert!(said.contains("imported"), "{said}");
        self.check_whole("at the end");
        let home = &self.story.home;
        let (store, output) = (self.s3.url("acme"), home.arg("image.tar"));
        let output = format!("type=oci,dest={output}");
        let context = home.arg("context");
        let flags =
            ["build", "--progress", "plain", "--store", &store, "--output", &output, &context];
        let mut command = home.command(flags);
        command.envs(self.s3.environment());
        let done = Running::start(command).finish(LONG).well();
        let image = dcbuild_tests::image::Image::read_tar(&home.path("image.tar"));
        assert_eq!(image.tree().text("id").unwrap(), self.id, "{}", done.stderr);
    }
}

/// A sealed document's content, which follows its seal.
fn document(path: &PathBuf) -> Value {
    let bytes = std::fs::read(path).unwrap();
    let at = (0..bytes.len()).find(|at| bytes[*at..].starts_with(b"{\"version\"")).unwrap();
    serde_json::from_slice(&bytes[at..]).unwrap()
}

fn layers(record: &Value) -> Vec<Value> {
    record["record"]["result"]["layers"].as_array().unwrap().clone()
}

fn is_write(seen: &Seen) -> bool {
    seen.request == "PutObject"
}

#[test]
fn a_bucket_that_refuses_is_named_and_the_next_run_imports_all() {
    let it = Carrying::new();
    let said = it.fails("403", |seen| is_write(seen).then_some(Fault::DENIED));
    assert!(said.contains("AccessDenied"), "{said}");
    assert_eq!(it.s3.keys(), Vec::<String>::new());
    let full = Fault::Answer { status: 507, code: "StorageFull", retry_after: None };
    let said = it.fails("full", move |seen| is_write(seen).then_some(full.clone()));
    assert!(said.contains("StorageFull"), "{said}");
    assert_eq!(it.s3.keys(), Vec::<String>::new());
    it.ends();
}

#[test]
fn a_bucket_that_has_too_much_to_do_is_given_up_in_time() {
    let it = Carrying::new();
    // It asks for patience each time: that is tried again, and then left alone.
    for of in ["PutObject", ""] {
        let rule = move |seen: &Seen| seen.request.contains(of).then_some(Fault::SLOW_DOWN);
        let said = it.fails("503", rule);
        assert!(said.contains("the store s3://cache/acme at http://127.0.0.1:"), "{said}");
        assert!(said.contains("SlowDown") || said.contains("times in a row"), "{said}");
        assert_eq!(it.s3.keys(), Vec::<String>::new());
    }
    // It asks for patience once in a while, and never twice for the same, which is no failure.
    let (before, asked) = (it.s3.fired(), Mutex::new(BTreeSet::new()));
    it.s3.fail(move |seen| {
        let mut asked = asked.lock().unwrap();
        let is_new = asked.insert((seen.request, seen.path.clone()));
        (is_new && asked.len() % 4 == 1).then_some(Fault::SLOW_DOWN)
    });
    let said = it.import().well().stdout;
    assert!(it.s3.fired() > before);
    assert!(said.contains("imported"), "{said}");
    it.s3.heal();
    it.ends();
}

#[test]
fn a_bucket_that_dies_in_the_middle_holds_nothing_that_is_not_whole() {
    let it = Carrying::new();
    it.fails("blobs", after(3, "/blob/", Fault::Close));
    assert!(!it.keys("/blob/").is_empty() && it.keys("/step/").is_empty(), "{:?}", it.s3.keys());
    it.fails("forms", after(1, "/layer/", Fault::Close));
    // Several are under way at once: what went well for the server may be given up by then.
    assert!(it.keys("/layer/").len() <= 1 && it.keys("/step/").is_empty(), "{:?}", it.s3.keys());
    it.fails("records", after(3, "/step/", Fault::DENIED));
    assert!(!it.keys("/layer/").is_empty() && it.keys("/step/").len() <= 3, "{:?}", it.s3.keys());
    it.ends();
}

/// So many writes of a kind go well, and then all fail.
fn after(well: u64, kind: &'static str, fault: Fault) -> impl Fn(&Seen) -> Option<Fault> {
    let writes = AtomicU64::new(0);
    move |seen| {
        if is_write(seen) && seen.path.contains(kind) {
            writes.fetch_add(1, Ordering::SeqCst);
        }
        (writes.load(Ordering::SeqCst) > well).then(|| fault.clone())
    }
}

#[test]
fn a_bucket_that_is_not_there_is_named() {
    let mut it = Carrying::new();
    it.s3.refuse();
    let said = it.import().failed().stderr;
    assert!(said.contains(&it.s3.endpoint()) && said.contains("goes on where"), "{said}");
    it.s3.serve_again();
    it.ends();
}

#[test]
fn what_is_being_imported_is_not_swept() {
    let it = Carrying::new();
    // The first record waits for an answer: all blobs are there, and nothing yet that needs them.
    let (before, once) = (it.s3.fired(), AtomicBool::new(false));
    it.s3.fail(move |seen| {
        let first =
            is_write(seen) && seen.path.contains("/step/") && !once.swap(true, Ordering::SeqCst);
        first.then_some(Fault::Stall)
    });
    let importing = it.start_import();
    let fired = || (it.s3.fired() > before).then_some(());
    wait_for("a record is on its way", LONG, fired, || format!("{:?}", it.s3.requests()));
    let blobs = it.keys("/blob/");
    assert!(!blobs.is_empty() && it.keys("/use/").len() == 1, "{:?}", it.s3.keys());
    for rule in [&["--all"][..], &["--keep-storage", "1B"]] {
        let said = it.start(&[&["prune"], rule].concat()).finish(LONG).well().stdout;
        assert!(said.contains("nothing removed: builds or imports go on"), "{said}");
    }
    assert_eq!(it.keys("/blob/"), blobs);
    assert!(importing.finish(LONG).well().stdout.contains("imported"));
    assert_eq!(it.keys("/use/"), BTreeSet::new());
    it.check_whole("in spite of the sweep");
    it.ends();
}

#[test]
fn what_is_imported_again_counts_as_used_now() {
    let it = Carrying::new();
    it.import().well();
    it.grow_old();
    let kept = it.keys("/step/");
    assert!(it.import().well().stdout.contains("and 0 blobs"));
    let prune = |age: &str| it.start(&["prune", "--older-than", age]).finish(LONG).well().stdout;
    let said = prune("48h");
    assert_eq!(it.keys("/step/"), kept, "{said}");
    it.check_whole("after the sweep");
    it.ends();
    // Without the second import it would have gone.
    it.grow_old();
    let said = prune("48h");
    assert_eq!(it.keys("/step/"), BTreeSet::new(), "{said}");
}

/// Harms a file in one of three ways.
fn harm(path: &std::path::Path, way: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    match way % 3 {
        0 => bytes[0] ^= 1,
        1 => bytes.truncate(bytes.len() / 2),
        _ => return std::fs::remove_file(path).unwrap(),
    }
    std::fs::write(path, bytes).unwrap();
}

fn imported(said: &str) -> u64 {
    let count = said.strip_prefix("imported ").and_then(|rest| rest.split(' ').next());
    count.unwrap_or_else(|| panic!("{said}")).parse().unwrap()
}

#[test]
fn a_blob_that_is_damaged_costs_the_records_that_need_it_and_no_other() {
    let it = Carrying::new();
    let home = &it.story.home;
    let exported = home.path("exported");
    let blob =
        |digest: &str| exported.join("blobs/sha256").join(digest.rsplit(':').next().unwrap());
    let read = |path: &std::path::Path| -> Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let manifest = read(&exported.join("index.json"))["manifests"][0]["digest"].clone();
    let manifest = read(&blob(manifest.as_str().unwrap()));
    let layers = manifest["layers"].as_array().unwrap();
    let layers: Vec<&str> = layers.iter().map(|it| it["digest"].as_str().unwrap()).collect();
    let import = || home.run(["cache", "import", &home.arg("exported")]);
    let all = imported(&import().well().stdout);
    assert!(all > 3 && layers.len() > 3, "{all} records, {layers:?}");
    for (way, digest) in layers.iter().enumerate() {
        std::fs::remove_dir_all(home.path("state")).unwrap();
        let whole = std::fs::read(blob(digest)).unwrap();
        harm(&blob(digest), way);
        let told = import();
        assert_eq!(told.status.code(), Some(1), "{}{}", told.stdout, told.stderr);
        assert!(told.stderr.contains("1 blob of "), "{}", told.stderr);
        let line = told.stderr.lines().find(|line| line.contains(digest));
        let line = line.unwrap_or_else(|| panic!("{digest}: {}", told.stderr));
        assert!(line.contains(["damaged", "damaged", "missing"][way % 3]), "{line}");
        assert!(told.stdout.contains("records stay behind"), "{}", told.stdout);
        let some = imported(&told.stdout);
        assert!(some < all, "{some} of {all}");
        std::fs::write(blob(digest), whole).unwrap();
        // Who has it whole goes on from there.
        let again = import().well().stdout;
        assert_eq!(imported(&again), all, "{again}");
        assert!(again.contains(" and 1 blobs"), "{again}");
    }
    let built = it.story.build(&[]).image.tree().text("id").unwrap();
    assert_eq!(built, it.id, "a step ran again");
}

#[test]
fn a_running_coordinator_with_an_index_of_its_own_finds_what_is_imported() {
    let it = Carrying::new();
    let flags = ["--store".to_owned(), it.s3.url("acme")];
    let store = Store { flags: flags.to_vec(), environment: it.s3.environment().to_vec() };
    let home = Home::new(&it.story.registry.as_docker_io());
    let cluster = Cluster::start_on(store, home, 1, 2);
    let submit = |folder: &str| {
        let output = format!("type=oci,dest={}", cluster.home.arg("image.tar"));
        let done = cluster.ask("submit", &["--progress", "plain", "--output", &output, folder]);
        assert!(done.status.success(), "{}\n{}", done.stderr, cluster.said());
        cluster.wait_until_durable();
        done.stderr
    };
    // Its index has seen all of the bucket before anything is imported.
    let other = cluster.home.path("other");
    write_context(
        &other,
        &[ContextEntry::file("Dockerfile", "FROM busybox:golden\nRUN echo x > /x\n")],
    );
    for _ in 0..2 {
        submit(&cluster.home.arg("other"));
    }
    it.import().well();
    let said = submit(&it.story.home.arg("context"));
    let image = dcbuild_tests::image::Image::read_tar(&cluster.home.path("image.tar"));
    assert_eq!(image.tree().text("id").unwrap(), it.id, "{said}");
}
