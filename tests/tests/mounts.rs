//! What a RUN has mounted: a part of a stage without the rest of it, and cache mounts that begin empty.
#![expect(clippy::unwrap_used, reason = "test")]

use std::path::PathBuf;

use dcbuild_tests::base::busybox_with;
use dcbuild_tests::bucket::Site;
use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::image::Image;
use dcbuild_tests::layout::LayerTar;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::s3::faults::Fault;
use dcbuild_tests::story::{Story, fill};
use dcbuild_tests::wait::{LONG, wait_for};

/// A stage of 60 MB in which all else is small.
const STAGE: &str = "FROM busybox:golden AS one\n\
    RUN head -c 60000000 /dev/urandom > /large && head -c 1000000 /dev/urandom > /one && \
    mkdir -p /d/sub && for n in $(seq 300); do echo $n > /d/sub/$n; done && \
    ln /d/sub/7 /d/seven && ln -s sub/8 /d/eight && ln -s /one /d/out && ln -s ../d/sub /link && \
    chmod 2751 /d && chown 3:4 /d /d/sub/9 && chmod 600 /d/sub/9 && touch -d '2001-02-03 04:05:06' /d/sub/9\n";

/// Says of what is mounted all that a RUN can see of it.
const LOOK: &str = "FROM busybox:golden AS look\n\
    RUN --mount=from=one,source=/one,target=/m/one \
        --mount=from=one,source=/d,target=/m/d \
        --mount=from=one,source=/d/eight,target=/m/eight \
        --mount=from=one,source=/link/9,target=/m/nine \
        --mount=from=one,source=link,target=/m/rw,rw \
        { stat -c '%n %a %u:%g %h %y %F' /m/d /m/d/sub/9 /m/nine; \
          stat -c '%n %F' /m/d/eight /m/d/out; readlink /m/d/eight /m/d/out; \
          stat -c '%n %s' /m/one; cat /m/eight /m/d/seven /m/d/eight; cat /m/d/out || echo out is not here; \
          ls /m/d/sub | wc -l; ls -a /m/d; test /m/d/seven -ef /m/d/sub/7 && echo tied; \
          echo more >> /m/rw/1; rm /m/rw/2; echo new > /m/rw/new; cat /m/rw/1; ls /m/rw | wc -l; \
          touch /m/d/x || echo as it is; echo z >> /m/one || echo this too; } > /out 2>&1\n";

#[test]
fn a_part_of_a_stage_is_mounted_without_the_rest_and_looks_the_same() {
    let mut site = Site::start(&format!("{STAGE}{LOOK}"), &[]);
    let whole = site.submit().0.tree().text("out").unwrap();
    site.wait_until_sent();
    site.fresh_worker();
    // The instruction is another, and nothing else of the stage is wanted.
    site.write(
        "Dockerfile",
        &format!("{STAGE}{}", LOOK.replace("> /out 2>&1", "> /out 2>&1; true")),
    );
    let before = site.s3.sent_bytes();
    let (image, said) = site.submit();
    let brought = site.s3.sent_bytes() - before;
    assert_eq!(image.tree().text("out").unwrap(), whole, "{said}");
    let lines = |text: &str| whole.contains(text);
    assert!(lines("/m/d 2751 3:4 3 "), "{whole}");
    assert!(lines("/m/nine 600 3:4 1 2001-02-03 04:05:06"), "{whole}");
    assert!(lines("out is not here") && lines("tied"), "{whole}");
    assert!(lines("as it is") && lines("this too"), "{whole}");
    assert!(lines("/m/one 1000000"), "{whole}");
    assert!((1_000_000..5_000_000).contains(&brought), "{brought} bytes of a stage of 61 MB");
    assert!(said.contains("CACHED"), "{said}");
}

/// A program that becomes root, left in a cache mount, is one for every account of the machine that can reach it.
#[test]
fn what_runs_leave_in_cache_mounts_is_out_of_reach_for_other_accounts() {
    use std::os::unix::fs::PermissionsExt as _;
    let text = "FROM busybox:golden\nRUN --mount=type=cache,target=/c cp /bin/busybox /c/b && chmod 4755 /c/b\n";
    let story = Story::new(text, &[]);
    let folder = story.home.path("state/worker/cache");
    for _ in 0..2 {
        story.build(&["--no-cache"]);
        for folder in [&folder, &story.home.path("state")] {
            let mode = std::fs::metadata(folder).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", folder.display());
            // As earlier versions had it.
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
}

/// A shell takes the last of two; most programs take the first.
#[test]
fn a_secret_takes_the_place_of_a_variable_of_its_name() {
    let text = "FROM busybox:golden\nARG T=old\n\
        RUN --mount=type=secret,id=s,env=T [\"/bin/busybox\", \"env\"]\n";
    let story = Story::new(text, &[]);
    std::fs::write(story.home.path("secret"), "new").unwrap();
    let secret = format!("id=s,src={}", story.home.arg("secret"));
    let said = story.try_build(&["--progress", "plain", "--secret", &secret]).well().stderr;
    let values: Vec<&str> =
        said.lines().filter_map(|line| line.split_once(" T=")).map(|it| it.1).collect();
    assert_eq!(values, ["new"], "{said}");
}

#[test]
fn a_stage_without_a_layer_is_mounted_as_an_empty_folder() {
    let text = "FROM scratch AS none\nFROM busybox:golden\n\
        RUN --mount=from=none,target=/m { ls -A /m | wc -l; touch /m/x || echo as it is; } > /out\n\
        RUN --mount=from=none,target=/m,rw touch /m/x && ls /m >> /out\n";
    let tree = Story::new(text, &[]).build(&[]).image.tree();
    assert_eq!(tree.text("out").unwrap(), "0\nas it is\nx\n");
}

/// Tools that write a layer as a tar of two files leave the folders out, and mean those of the layers below.
#[test]
fn a_folder_that_a_layer_only_has_files_in_looks_as_it_did_below() {
    let text = "FROM odd:1 AS odd\nRUN stat -c '%n %a' /tmp /root /root/deep > /seen; touch /tmp/mine\n\
        USER nobody\nRUN touch /tmp/others\nFROM busybox:golden AS last\n\
        RUN --mount=from=odd,target=/m stat -c '%n %a' /m/tmp /m/root > /mounted\nCOPY --from=odd /seen /\n\
        FROM odd:1 AS again\nRUN echo a > /a\nRUN rm $(mktemp)\nRUN stat -c '%a' /tmp > /seen\n";
    let story = Story::new(text, &[]);
    let tool =
        LayerTar::default().file("tmp/tool", 0o644, b"z").file("root/deep/tool", 0o600, b"a");
    story.registry.put("library/odd:1", &busybox_with(tool));
    let tree = story.build(&["--target", "last"]).image.tree();
    assert_eq!(tree.text("seen").unwrap(), "/tmp 1777\n/root 700\n/root/deep 755\n");
    assert_eq!(tree.text("mounted").unwrap(), "/m/tmp 1777\n/m/root 700\n");
    // A RUN that changes nothing but such a folder.
    let again = story.build(&["--target", "again"]).image.tree();
    assert_eq!(again.text("seen").unwrap(), "1777\n");
    let image = story.build(&["--target", "odd"]).image;
    assert_eq!(image.tree().get("tmp").unwrap().mode, 0o1777);
}

#[test]
fn a_folder_of_many_small_files_is_brought_with_few_requests() {
    let mut site = Site::start(&(STAGE.to_owned() + "FROM scratch\nCOPY --from=one /one /\n"), &[]);
    site.submit();
    site.wait_until_sent();
    site.fresh_worker();
    let run = "FROM busybox:golden\nRUN --mount=from=one,source=/d/sub,target=/m cat /m/* | wc -l > /out\n";
    site.write("Dockerfile", &format!("{STAGE}{run}"));
    let before = (site.s3.sent_bytes(), site.s3.count("GetObject"));
    let (image, said) = site.submit();
    assert_eq!(image.tree().text("out").unwrap(), "300\n", "{said}");
    let brought = site.s3.sent_bytes() - before.0;
    assert!(brought < 4_000_000, "{brought} bytes of a stage of 61 MB");
    let asked = site.s3.count("GetObject") - before.1;
    assert!(asked < 100, "{asked} requests for a folder of 300 files");
}

#[test]
fn a_part_comes_from_the_stage_s_maker_while_the_bucket_takes_nothing() {
    let stage = |name: &str| {
        format!(
            "FROM busybox:golden AS {name}\n\
             RUN head -c 60000000 /dev/urandom > /{name}-large && \
             head -c 1000000 /dev/urandom > /{name} && sleep 1\n"
        )
    };
    let run = "FROM busybox:golden\n\
        RUN --mount=from=one,source=/one,target=/a --mount=from=other,source=/other,target=/b \
        cat /a /b | wc -c > /count\n";
    let mut site = Site::start(&(stage("one") + &stage("other") + run), &[]);
    site.cluster.end_worker(0);
    for _ in 0..2 {
        site.cluster.start_worker(1);
    }
    let writes = ["PutObject", "UploadPart", "CreateMultipartUpload"];
    site.s3.fail(move |seen| {
        (writes.contains(&seen.request) && seen.path.contains("/blob/")).then_some(Fault::Stall)
    });
    let (image, _) = site.submit();
    assert_eq!(image.tree().text("count").unwrap(), "2000000\n");
    // What a worker has read it says with its next sign of life.
    let read = || site.cluster.metric("dcbuild_peer_bytes_total{tls=\"no\"}").filter(|it| *it > 0);
    let bytes = wait_for("a worker says what it read", LONG, read, || site.cluster.said());
    assert!((1_000_000..1_100_000).contains(&bytes), "{bytes} bytes of a layer of 61 MB");
}

#[test]
fn a_file_of_the_context_is_mounted_without_the_rest() {
    // So large that it would be seen, and not to be made smaller.
    let mut state = 1u64;
    let noise: String = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b' ' + u8::try_from((state >> 33) % 90).unwrap())
    })
    .take(5_000_000)
    .collect();
    let dockerfile = "FROM busybox:golden\n\
        RUN --mount=source=small,target=/m cat /m > /out\n\
        RUN --mount=source=link,target=/m cat /m/deep && stat -c '%u %a' /m/deep >> /out && ls /m >> /out\n";
    let files = [("large", noise.as_str()), ("small", "small\n"), ("folder/deep", "deep\n")];
    let site = Site::start(dockerfile, &files);
    std::os::unix::fs::symlink("folder", site.cluster.home.path("context/link")).unwrap();
    let (image, said) = site.submit();
    assert_eq!(image.tree().text("out").unwrap(), "small\n0 644\ndeep\n", "{said}");
    site.wait_until_sent();
    let bytes = |key: &String| std::fs::metadata(site.s3.file(key)).unwrap().len();
    let stored: u64 = site.s3.keys().iter().map(bytes).sum();
    // Most of it is the base.
    assert!(stored < 2_000_000, "{stored} bytes are in the bucket");
}

#[test]
fn a_source_that_is_not_there_is_refused_as_it_is_where_all_is_here() {
    let run = |source: &str| {
        format!("{STAGE}FROM busybox:golden\nRUN --mount=from=one,source={source},target=/m true\n")
    };
    let mut site = Site::start(&(STAGE.to_owned() + "FROM scratch\nCOPY --from=one /one /\n"), &[]);
    site.submit();
    site.wait_until_sent();
    for _ in 0..2 {
        for (source, shown) in [("/none/x", "/none/x"), ("d/sub/1/x", "/d/sub/1/x")] {
            site.write("Dockerfile", &run(source));
            let failed = site.try_submit();
            assert!(!failed.status.success());
            let wanted = format!("\"{shown}\": not found");
            assert!(failed.stderr.contains(&wanted), "{}", failed.stderr);
        }
        site.fresh_worker();
    }
}

/// A build of two RUNs that share a cache, each of which says what it finds there.
const CACHES: &str = "FROM busybox:golden AS first\nARG T\n\
    RUN --mount=type=cache,id=x,target=/c echo one: $(ls /c) > /out; touch /c/one$T\n\
    RUN --mount=type=cache,id=x,target=/c,sharing=locked echo two: $(ls /c) >> /out; touch /c/two$T\n\
    RUN --mount=type=cache,id=y,target=/c,from=first,source=/etc echo three: $(ls /c | grep three) >> /out; touch /c/three$T\n\
    FROM first\n";

#[test]
fn a_build_that_takes_nothing_from_the_cache_begins_with_empty_cache_mounts() {
    let dockerfile = CACHES.replace("from=first", "from=busybox:golden");
    let story = Story::new(&dockerfile, &[]);
    let out = |flags: &[&str]| story.build(flags).image.tree().text("out").unwrap();
    // So does docker with the same Dockerfile, but for the last two.
    assert_eq!(out(&["--build-arg", "T=1"]), "one:\ntwo: one1\nthree:\n");
    assert_eq!(out(&["--build-arg", "T=2", "--no-cache"]), "one:\ntwo: one2\nthree:\n");
    let third = "one: one2 two2\ntwo: one2 one3 two2\nthree: three2\n";
    assert_eq!(out(&["--build-arg", "T=3"]), third);
    let kept = ["--build-arg", "T=3", "--no-cache", "--keep-cache-mounts"];
    assert_eq!(out(&kept).lines().next(), Some("one: one2 one3 two2 two3"));
    let other = ["--build-arg", "T=4", "--no-cache-filter", "other"];
    assert_eq!(out(&other).lines().next(), Some("one: one2 one3 two2 two3"));
    let filtered = ["--build-arg", "T=4", "--no-cache-filter", "first"];
    assert_eq!(out(&filtered), "one:\ntwo: one4\nthree:\n");
}

/// A cluster of one worker that has places for two steps.
struct Caching {
    cluster: Cluster,
    _registry: Registry,
}

impl Caching {
    fn start() -> Caching {
        let registry = Registry::start();
        fill(&registry);
        let home = Home::new(&registry.as_docker_io());
        Caching { cluster: Cluster::start(home, 1, 2), _registry: registry }
    }

    /// Writes a context of a RUN with a mount, and gives the arguments that build it.
    fn build(&self, name: &str, (mount, command): (&str, &str)) -> Vec<String> {
        let text = format!("FROM busybox:golden AS one\nRUN {mount} {command}\n");
        let path = self.cluster.home.path(name);
        write_context(&path, &[ContextEntry::file("Dockerfile", &text)]);
        let output = format!("type=oci,dest={}", self.cluster.home.arg(&format!("{name}.tar")));
        let context = self.cluster.home.arg(name);
        ["--progress", "plain", "--output", &output, &context].map(str::to_owned).to_vec()
    }

    fn out(&self, name: &str) -> String {
        Image::read_tar(&self.cluster.home.path(&format!("{name}.tar"))).tree().text("out").unwrap()
    }

    /// The folder of the cache mount of the first worker that holds such a file.
    fn folder_with(&self, name: &str) -> PathBuf {
        let caches = self.cluster.home.path("worker-0/cache");
        let find = || {
            let folders = std::fs::read_dir(&caches).ok()?.filter_map(Result::ok);
            let mut files = folders.map(|folder| folder.path().join("fs"));
            files.find(|folder| folder.join(name).exists())
        };
        wait_for(name, LONG, find, || self.cluster.said())
    }

    fn run(&self, command: &str, flags: &[&str]) -> String {
        let build = self.build("own", ("--mount=type=cache,target=/c", command));
        let all: Vec<&str> =
            flags.iter().copied().chain(build.iter().map(String::as_str)).collect();
        self.cluster.ask("submit", &all).well();
        self.out("own")
    }

    /// Waits until the latest version of the mount has been written back by a worker.
    fn wait_for_version(&self, has: impl Fn(&str) -> bool) {
        let folder = self.cluster.home.path("store/cache-mount/local");
        let written = || {
            let entry = std::fs::read_dir(&folder).ok()?.next()?.ok()?;
            std::fs::read_to_string(entry.path()).ok().filter(|text| has(text)).map(drop)
        };
        wait_for("a version is written back", LONG, written, || self.cluster.said());
    }
}

#[test]
fn a_version_of_before_is_not_brought_and_the_next_build_goes_on_from_the_new_one() {
    let mut site = Caching::start();
    site.run("touch /c/old; ls /c > /out", &[]);
    site.wait_for_version(|text| !text.contains("emptied"));
    // A worker that has nothing of its own could only have it from the store.
    site.cluster.kill_worker(0);
    let second = site.cluster.start_worker(2);
    assert_eq!(site.run("ls /c > /out; touch /c/new", &["--no-cache"]), "");
    site.wait_for_version(|text| text.contains("emptied"));
    site.cluster.kill_worker(second);
    let third = site.cluster.start_worker(2);
    assert_eq!(site.run("ls /c > /out; touch /c/newer", &[]), "new\n");
    // The first still has the old one, and may not go on from that.
    site.wait_for_version(|text| !text.contains("emptied"));
    site.cluster.kill_worker(third);
    site.cluster.start_worker_again(0, 2);
    assert_eq!(site.run("ls /c > /out; true", &[]), "new\nnewer\n");
    assert_eq!(
        site.run("ls /c > /out; touch /c/kept", &["--no-cache", "--keep-cache-mounts"]),
        "new\nnewer\n"
    );
}

#[test]
fn who_has_a_cache_mounted_keeps_it_while_another_build_begins_with_an_empty_one() {
    let site = Caching::start();
    for sharing in ["shared", "locked", "private"] {
        let mount = format!("--mount=type=cache,target=/c,id={sharing},sharing={sharing}");
        // It ends only when it is told, and that the other cannot do: it sees another folder.
        let wait = "touch /c/old; while test ! -e /c/go; do sleep 0.1; done; ls /c > /out";
        let first = site.build("first", (&mount, wait));
        let first: Vec<&str> = first.iter().map(String::as_str).collect();
        let running = site.cluster.client("submit", &first);
        let folder = site.folder_with("old");
        let second = site.build("second", (&mount, "ls /c > /out; touch /c/new /c/go"));
        let second = [vec!["--no-cache"], second.iter().map(String::as_str).collect()].concat();
        site.cluster.ask("submit", &second).well();
        assert_eq!(site.out("second"), "", "{sharing}");
        std::fs::write(folder.join("go"), "").unwrap();
        running.finish(LONG).well();
        assert_eq!(site.out("first"), "go\nold\n", "{sharing}");
        let third = site.build("third", (&mount, "ls /c > /out; touch /c/newer"));
        let third: Vec<&str> = third.iter().map(String::as_str).collect();
        site.cluster.ask("submit", &third).well();
        assert_eq!(site.out("third"), "go\nnew\n", "{sharing}");
        std::fs::remove_file(folder.join("old")).unwrap();
    }
}

/// As with `BuildKit`, in whatever way each of them is shared.
#[test]
fn mounts_of_one_id_are_one_cache() {
    let ways = ["shared", "locked", "private"];
    let runs = ways.iter().flat_map(|first| ways.iter().map(move |second| (first, second)));
    let runs = runs.map(|(first, second)| {
        let mount = |way: &str, target: &str| {
            format!("--mount=type=cache,id=x,sharing={way},target={target}")
        };
        let (one, other) = (mount(first, "/c"), mount(second, "/d"));
        let name = format!("/out/{first}-{second}");
        format!("RUN {one} {other} echo {name} > /c/said && mkdir -p /out && cp /d/said {name}\n")
    });
    let story = Story::new(&format!("FROM busybox:golden\n{}", runs.collect::<String>()), &[]);
    let tree = story.build(&[]).image.tree();
    for name in ways.iter().flat_map(|first| ways.map(|second| format!("out/{first}-{second}"))) {
        assert_eq!(tree.text(&name), Some(format!("/{name}\n")));
    }
}

/// Each RUN would have what the other waits for.
#[test]
fn runs_that_name_their_caches_in_another_order_do_not_wait_for_each_other() {
    let mount =
        |id: char, way: &str| format!("--mount=type=cache,id={id},sharing={way},target=/{id}");
    let stages = (0..24).map(|stage| {
        let (a, b) =
            (mount('a', if stage % 3 == 0 { "private" } else { "locked" }), mount('b', "locked"));
        let mounts = if stage % 2 == 0 { format!("{a} {b}") } else { format!("{b} {a}") };
        format!("FROM busybox:golden AS s{stage}\nRUN {mounts} echo {stage} > /said\n")
    });
    let copies = (0..24).map(|stage| format!("COPY --from=s{stage} /said /{stage}\n"));
    let dockerfile: String = stages.chain(["FROM scratch\n".to_owned()]).chain(copies).collect();
    let tree = Story::new(&dockerfile, &[]).build(&[]).image.tree();
    assert_eq!(tree.text("23"), Some("23\n".to_owned()));
}

#[test]
fn what_nobody_goes_on_from_is_removed() {
    let site = Caching::start();
    site.run("touch /c/old; true > /out", &[]);
    let folder = site.folder_with("old");
    site.run("touch /c/new; ls /c > /out", &["--no-cache"]);
    let gone = || (!folder.exists()).then_some(());
    wait_for("the old folder is removed", LONG, gone, || site.cluster.said());
    assert_eq!(site.run("ls /c > /out", &[]), "new\n");
}

#[test]
fn a_shared_cache_that_starts_from_a_stage_is_shared_while_it_is_used() {
    let mount = "--mount=type=cache,target=/c,id=s,from=seed,source=/seed";
    let wait = |own: &str, other: &str| {
        format!(
            "FROM busybox:golden AS {own}\n\
             RUN {mount} touch /c/{own}; n=0; while test ! -e /c/{other}; do \
             n=$((n+1)); test $n -lt 200; sleep 0.1; done; ls /c > /{own}\n"
        )
    };
    let seed = "FROM busybox:golden AS seed\n\
        RUN mkdir -p /seed/below && echo first > /seed/f && chown 3:4 /seed/f && chmod 750 /seed\n";
    let ends = "FROM scratch\nCOPY --from=left /left /\nCOPY --from=right /right /\n";
    let text = format!("{seed}{}{}{ends}", wait("left", "right"), wait("right", "left"));
    // Neither could go on if one waited for the other to end.
    let text = text.replace("test $n -lt 200;", "test $n -lt 200 || exit 9;");
    let story = Story::new(&text, &[]);
    let tree = story.build(&[]).image.tree();
    for name in ["left", "right"] {
        assert_eq!(tree.text(name).unwrap(), "below\nf\nleft\nright\n");
    }
    let look = format!(
        "{seed}FROM busybox:golden\nRUN {mount},readonly stat -c '%u:%g' /c/f > /out; \
        stat -c %a /c >> /out; touch /c/x || echo as it is >> /out; ls /c >> /out\n"
    );
    story.write("Dockerfile", &look);
    let out = story.build(&[]).image.tree().text("out").unwrap();
    assert_eq!(out, "3:4\n750\nas it is\nbelow\nf\nleft\nright\n");
}

/// A device node that a RUN makes opens in a mount as it does in the RUN's own tree: `debootstrap` into a cache asks that.
#[test]
fn device_nodes_open_in_mounts_as_in_the_root() {
    let text = "FROM busybox:golden\n\
        RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=type=bind,target=/b,rw \\\n\
        opens() { mknod -m 666 $1/n c 1 3 && (echo x > $1/n) 2> /dev/null && echo yes || echo no; }; \\\n\
        opens / > /want; for at in /c /t /b; do opens $at | cmp - /want || exit 9; done\n";
    let story = Story::new(text, &[]);
    story.build(&[]);
}
