//! ADD of what lies elsewhere: files behind URLs and git repositories, on one machine and on a cluster.

use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::image::Image;
use dcbuild_tests::merged::Merged;
use dcbuild_tests::story::{Built, Story};
use dcbuild_tests::wait::{LONG, wait_for};
use dcbuild_tests::web::{CHANGED_SECS, Web};

fn files(tree: &Merged) -> Vec<String> {
    tree.walk().map(|(path, _)| path).filter(|path| tree.text(path).is_some()).collect()
}

/// Builds a Dockerfile from nothing with this line.
fn added(line: &str) -> (Story, Built) {
    let story = Story::new(&format!("FROM scratch\n{line}\n"), &[("local.txt", "local")]);
    let built = story.build(&[]);
    (story, built)
}

fn refused(line: &str) -> String {
    let story = Story::new(&format!("FROM scratch\n{line}\n"), &[("local.txt", "local")]);
    story.try_build(&[]).failed().stderr
}

/// The digest of `text`.
const TEXT_SHA256: &str = "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1";

#[test]
fn a_file_has_the_name_of_its_url_and_the_time_that_the_server_says() {
    let web = Web::start();
    web.put("dir/tool.bin", "text");
    let url = web.url("dir/tool.bin?x=/y");
    let (_, built) = added(&format!(
        "ADD {url} /bin/\nADD {url} /named\nADD --chmod=755 --chown=7:8 {url} /set"
    ));
    let tree = built.image.tree();
    assert_eq!(files(&tree), ["bin/tool.bin", "named", "set"]);
    let node = tree.get("bin/tool.bin").unwrap();
    assert_eq!((node.mode, node.uid, node.gid, node.mtime), (0o600, 0, 0, CHANGED_SECS));
    let node = tree.get("set").unwrap();
    assert_eq!((node.mode, node.uid, node.gid), (0o755, 7, 8));
    let history = built.image.config["history"].to_string();
    assert!(history.contains(&format!("ADD {url} /bin/ # buildkit")), "{history}");
}

/// The name of a file behind a URL is no pattern, whatever is in it.
#[test]
fn a_file_s_name_may_look_like_a_pattern() {
    let web = Web::start();
    let names = [("f%5B1%5D.txt", "f[1].txt"), ("a%5Cb", "a\\b"), ("a%5Cb%2Ac%3F", "a\\b*c?")];
    for (asked, name) in names {
        web.put(asked, "text");
        let (_, built) = added(&format!("ADD {} /d/", web.url(asked)));
        assert_eq!(files(&built.image.tree()), [format!("d/{name}")]);
    }
}

#[test]
fn a_file_is_fetched_once_and_asked_for_by_its_etag_then() {
    let web = Web::start();
    web.put("a", "one");
    let url = web.url("moved/a");
    let (story, first) = added(&format!("ADD {url} /x"));
    let again = story.build(&[]);
    assert_eq!((again.ran.len(), &again.image.digest), (0, &first.image.digest));
    assert_eq!(web.asked(), ["GET /moved/a 302", "GET /a 200", "GET /moved/a 302", "GET /a 304"]);
    web.put("a", "two");
    assert_eq!(story.build(&[]).image.tree().text("x").unwrap(), "two");
    // The content counts, and nothing else: what was built before is there still.
    web.put("a", "one");
    assert_eq!(story.build(&[]).ran, Vec::<String>::new());
}

/// A disk may lose what it was given last; the server, asked, says for ever that nothing changed.
#[test]
fn a_kept_file_that_is_damaged_is_fetched_again() {
    let web = Web::start();
    web.put("a", "all of it");
    let (story, _) = added(&format!("ADD {} /x", web.url("a")));
    let kept = story.home.path("state/fetched");
    let mut cut = 0;
    for entry in std::fs::read_dir(&kept).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending != "note") {
            std::fs::write(path, "all").unwrap();
            cut += 1;
        }
    }
    assert_eq!(cut, 1);
    assert_eq!(story.build(&[]).image.tree().text("x").unwrap(), "all of it");
    assert_eq!(web.asked(), ["GET /a 200", "GET /a 304", "GET /a 200"]);
    story.build(&[]);
    assert_eq!(web.asked().last().unwrap(), "GET /a 304");
}

#[test]
fn checksums_are_checked() {
    let web = Web::start();
    web.put("a", "text");
    let url = web.url("a");
    added(&format!("ADD --checksum=sha256:{TEXT_SHA256} {url} /x"));
    let wrong = format!("sha256:{}", "0".repeat(64));
    let said = refused(&format!("ADD --checksum={wrong} {url} /x"));
    assert!(said.contains(&format!("digest mismatch sha256:{TEXT_SHA256}: {wrong}")), "{said}");
    for (line, want) in [
        (format!("ADD --checksum=md5:1 {url} /x"), "invalid checksum \"md5:1\""),
        (
            format!("ADD --checksum={wrong} {url} local.txt /x/"),
            "checksum can't be specified for multiple sources",
        ),
        (
            format!("ADD --checksum={wrong} local.txt /x"),
            "checksum requires HTTP(S) or Git sources",
        ),
        (format!("COPY {url} /x"), "source can't be a URL for COPY"),
        (format!("ADD {} /x", web.url("none")), "the server answered 404"),
        ("ADD http://127.0.0.1:1/x /x".into(), "could not fetch http://127.0.0.1:1/x"),
    ] {
        let said = refused(&line);
        assert!(said.contains(want) && said.contains("Dockerfile:2"), "{line}: {said}");
    }
}

#[test]
fn an_archive_behind_a_url_is_unpacked_where_that_is_asked() {
    let web = Web::start();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o640);
    header.set_cksum();
    builder.append_data(&mut header, "in/side", &b"text"[..]).unwrap();
    web.put("a.tar", builder.into_inner().unwrap());
    let url = web.url("a.tar");
    let (_, built) = added(&format!(
        "ADD {url} /packed/\nADD --unpack {url} /open/\nADD --unpack=true {url} local.txt /both/"
    ));
    let all = ["both/in/side", "both/local.txt", "open/in/side", "packed/a.tar"];
    assert_eq!(files(&built.image.tree()), all);
}

/// As docker unpacks what was put together of several archives: `lib` is a link in one and a folder in the other.
#[test]
fn an_archive_may_have_entries_below_its_own_links_and_links_to_files_of_the_base() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut put = |kind: tar::EntryType, name: &str, link: &str, text: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(u64::try_from(text.len()).unwrap());
        match link {
            "" => builder.append_data(&mut header, name, text.as_bytes()).unwrap(),
            link => builder.append_link(&mut header, name, link).unwrap(),
        }
    };
    put(tar::EntryType::Directory, "usr/lib/", "", "");
    put(tar::EntryType::Symlink, "lib", "/usr/lib", "");
    put(tar::EntryType::Regular, "lib/x.so", "", "x");
    put(tar::EntryType::Link, "lib/y.so", "lib/x.so", "");
    let whole = builder.into_inner().unwrap();
    let story = Story::new("FROM scratch\nADD a.tar /new/deep\n", &[]);
    std::fs::write(story.context().join("a.tar"), &whole).unwrap();
    let tree = story.build(&[]).image.tree();
    assert_eq!(files(&tree), ["new/deep/usr/lib/x.so", "new/deep/usr/lib/y.so"]);

    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_mode(0o644);
    header.set_size(0);
    builder.append_link(&mut header, "etc/new", "etc/passwd").unwrap();
    std::fs::write(story.context().join("a.tar"), builder.into_inner().unwrap()).unwrap();
    let dockerfile = "FROM busybox:golden\nADD a.tar /\n\
        RUN [ /etc/new -ef /etc/passwd ] && stat -c %h /etc/new > /names\n";
    story.write("Dockerfile", dockerfile);
    let tree = story.build(&[]).image.tree();
    assert_eq!(tree.text("names").unwrap(), "2\n");
    assert_eq!(tree.text("etc/new"), tree.text("etc/passwd"));
    story.write("Dockerfile", "FROM scratch\nADD a.tar /\n");
    let said = story.try_build(&[]).failed().stderr;
    assert!(said.contains("error: link /etc/passwd /etc/new: no such file or directory"), "{said}");
}

/// What is unpacked is what the key was made of, or nothing is: the files of another archive would be hits for this one.
#[test]
fn an_archive_that_changes_before_it_is_unpacked_ends_the_build() {
    let web = Web::start();
    let waits = "until wget -q -O /dev/null";
    let text = format!(
        "FROM busybox:golden\nRUN --network=host {waits} {}; do sleep 0.1; done\nADD a.tar /x/\n",
        web.url("go")
    );
    let story = Story::new(&text, &[]);
    let archive = |text: &str| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(text.len()).unwrap());
        builder.append_data(&mut header, "v", text.as_bytes()).unwrap();
        std::fs::write(story.context().join("a.tar"), builder.into_inner().unwrap()).unwrap();
    };
    archive("old");
    let flags = ["--allow", "network.host"];
    let running = story.start("image.tar", &flags);
    let has_begun = || (!web.asked().is_empty()).then_some(());
    wait_for("the RUN waits", LONG, has_begun, || running.stderr());
    archive("new");
    web.put("go", "");
    let done = running.finish(LONG).failed();
    assert!(done.stderr.contains("context changed during the build: /a.tar"), "{}", done.stderr);
    archive("old");
    assert_eq!(story.build(&flags).image.tree().text("x/v").unwrap(), "old");
}

#[test]
fn sources_of_all_kinds_may_stand_together() {
    let web = Web::start();
    web.put("a", "from the web");
    web.put("b", "from the web too");
    web.repository("app").commit(&[("src/c", "from git")]);
    let line = format!(
        "ADD {} local.txt {} {} /all/",
        web.url("a"),
        web.url("b"),
        web.url("app.git#:src")
    );
    let tree = added(&line).1.image.tree();
    let texts: Vec<String> = files(&tree).iter().map(|path| tree.text(path).unwrap()).collect();
    assert_eq!(files(&tree), ["all/a", "all/b", "all/c", "all/local.txt"]);
    assert_eq!(texts, ["from the web", "from the web too", "from git", "local"]);
}

#[test]
fn a_repository_is_added_with_or_without_its_git_folder() {
    let web = Web::start();
    let repository = web.repository("app");
    let commit = repository.commit(&[("a", "1"), ("sub/b", "2")]);
    let url = web.url("app.git");
    let (_, built) =
        added(&format!("ADD {url} /x\nADD --checksum={} {url}#main:sub /y", &commit[..10]));
    assert_eq!(files(&built.image.tree()), ["x/a", "x/sub/b", "y/b"]);
    let story = Story::new(&format!("FROM scratch\nADD --keep-git-dir=true {url} /x\n"), &[]);
    let kept = story.build(&[]);
    let tree = kept.image.tree();
    assert_eq!(tree.text("x/.git/HEAD").unwrap().trim(), commit);
    assert!(tree.text("x/.git/config").unwrap().contains(&url));
    let again = story.build(&["--no-cache"]);
    assert_eq!(files(&again.image.tree()), files(&tree), "the same commit gives the same files");
    assert_eq!(story.build(&[]).ran, Vec::<String>::new(), "and the same key");
    for (line, want) in [
        (
            format!("ADD --checksum=0123456789 {url} /x"),
            "expected checksum to match 0123456789, got",
        ),
        (format!("ADD --checksum=sha256:1 {url} /x"), "no name of a commit"),
        (format!("ADD {url}#none /x"), "has no 'none'"),
        (
            format!("ADD --keep-git-dir=false {url}?keep-git-dir=1 /x"),
            "disagree about keep-git-dir",
        ),
    ] {
        let said = refused(&line);
        assert!(said.contains(want), "{line}: {said}");
    }
}

#[test]
fn a_commit_is_fetched_by_its_name_when_its_branch_has_moved_on() {
    let web = Web::start();
    let repository = web.repository("app");
    let old = repository.commit(&[("a", "1")]);
    repository.commit(&[("a", "2")]);
    let url = format!("{}?branch=main&checksum={old}", web.url("app.git"));
    let said = refused(&format!("ADD {url} /x"));
    assert!(said.contains(&format!("expected checksum to match {old}, got")), "{said}");
    let tree = added(&format!("ADD {url}&fetch-by-commit=true /x")).1.image.tree();
    assert_eq!(tree.text("x/a").unwrap(), "1");
    let said = refused(&format!("ADD {}?fetch-by-commit=true /x", web.url("app.git")));
    assert!(said.contains("fetch-by-commit of a git URL needs the whole name"), "{said}");
}

#[test]
fn a_repository_s_files_may_have_the_time_of_their_commit() {
    let web = Web::start();
    let repository = web.repository("app");
    repository.commit(&[("a", "1"), ("sub/b", "2")]);
    repository.run(&["commit", "--amend", "--quiet", "--no-edit", "--date=2020-01-02T03:04:05Z"]);
    repository.run(&["rebase", "--quiet", "--root", "--committer-date-is-author-date"]);
    repository.publish();
    let url = web.url("app.git");
    let tree = added(&format!("ADD {url}?mtime=commit /x\nADD {url} /y")).1.image.tree();
    for (path, is_commit_s) in [("x/a", true), ("x/sub", true), ("x/sub/b", true), ("y/a", false)] {
        let time = tree.get(path).unwrap().mtime;
        assert_eq!(time == 1_577_934_245, is_commit_s, "{path}: {time}");
    }
}

#[test]
fn a_new_commit_is_seen_and_the_old_one_is_known() {
    let web = Web::start();
    let repository = web.repository("app");
    repository.commit(&[("a", "1")]);
    let (story, first) = added(&format!("ADD {} /x", web.url("app.git")));
    assert_eq!(story.build(&[]).ran, Vec::<String>::new());
    repository.commit(&[("a", "2")]);
    let second = story.build(&[]);
    assert_eq!(second.image.tree().text("x/a").unwrap(), "2");
    assert_ne!(second.image.digest, first.image.digest);
}

#[test]
fn a_token_opens_a_private_repository_and_is_seen_nowhere() {
    let web = Web::start();
    web.repository("app").commit(&[("a", "1")]);
    let story = Story::new(&format!("FROM scratch\nADD {} /x\n", web.url("private/app.git")), &[]);
    std::fs::write(story.home.path("token"), "s3cr3t").unwrap();
    let secret = format!("id=GIT_AUTH_TOKEN,src={}", story.home.arg("token"));
    let done = story.try_build(&["--secret", &secret]).well();
    assert!(!done.stderr.contains("s3cr3t"));
    assert!(story.try_build(&[]).failed().stderr.contains("could not"));
}

/// A cluster whose context has this Dockerfile.
fn cluster(config: &str, dockerfile: &str) -> Cluster {
    let cluster = Cluster::start(Home::new(config), 1, 1);
    write_context(&cluster.home.path("context"), &[ContextEntry::file("Dockerfile", dockerfile)]);
    cluster
}

#[test]
fn a_cluster_fetches_from_public_addresses_and_from_those_that_are_named() {
    let web = Web::start();
    web.put("a", "text");
    web.repository("app").commit(&[("b", "1")]);
    let dockerfile =
        format!("FROM scratch\nADD {} /x/\nADD {} /y/\n", web.url("moved/a"), web.url("app.git"));
    let closed = cluster("", &dockerfile);
    let context = closed.home.arg("context");
    let done = closed.client("submit", &["--progress", "plain", &context]).finish(LONG).failed();
    let want = "127.0.0.1 may not be reached: 127.0.0.1 is not a public address";
    assert!(done.stderr.contains(want), "{}", done.stderr);
    assert!(web.asked().is_empty(), "{:?}", web.asked());
    drop(closed);
    let open = cluster("[fetch]\nallow = [\"127.0.0.1\"]\n", &dockerfile);
    let (context, tar) = (open.home.arg("context"), open.home.arg("image.tar"));
    let output = format!("type=oci,dest={tar}");
    open.client("submit", &["--output", &output, &context]).finish(LONG).well();
    let tree = Image::read_tar(&open.home.path("image.tar")).tree();
    assert_eq!(files(&tree), ["x/a", "y/b"]);
    assert!(
        web.asked().iter().any(|line| line.contains("git-upload-pack")),
        "git went through the door"
    );
}
