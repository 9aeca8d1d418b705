//! Contexts and Dockerfiles that are no folder of this machine: archives, URLs, git repositories, standard input.
#![expect(clippy::unwrap_used, reason = "test")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::home::Home;
use dcbuild_tests::image::Image;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::running::Finished;
use dcbuild_tests::story::fill;
use dcbuild_tests::wait::LONG;
use dcbuild_tests::web::Web;

const DOCKERFILE: &str = "FROM scratch\nCOPY . /all/\n";

struct User {
    home: Home,
    web: Web,
}

impl User {
    fn new() -> User {
        User { home: Home::new(""), web: Web::start() }
    }

    fn arguments(&self, rest: &[&str]) -> Vec<String> {
        let output = format!("type=oci,dest={}", self.home.arg("image.tar"));
        let fixed = ["build", "--progress", "plain", "--output", &output];
        fixed.into_iter().chain(rest.iter().copied()).map(str::to_owned).collect()
    }

    fn try_build(&self, rest: &[&str]) -> Finished {
        self.home.run(self.arguments(rest))
    }

    /// The files of the image that a build makes.
    fn build(&self, rest: &[&str]) -> Vec<String> {
        self.try_build(rest).well();
        self.files()
    }

    fn files(&self) -> Vec<String> {
        let tree = Image::read_tar(&self.home.path("image.tar")).tree();
        let files = tree.walk().map(|(path, _)| path).filter(|path| tree.text(path).is_some());
        files.collect()
    }

    fn with_stdin(&self, rest: &[&str], stdin: &[u8]) -> Finished {
        let mut command = self.home.command(self.arguments(rest));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let bytes = stdin.to_vec();
        // A client that refuses reads no further.
        let fed = std::thread::spawn(move || drop(pipe.write_all(&bytes)));
        let output = child.wait_with_output().unwrap();
        fed.join().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Finished { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// A folder as an archive; `flag` says how tar compresses it.
fn archive(folder: &Path, flag: &str) -> Vec<u8> {
    let output = Command::new("tar")
        .arg("--create")
        .args((!flag.is_empty()).then_some(flag))
        .arg(".")
        .current_dir(folder)
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

const ALL: [&str; 2] = ["all/Dockerfile", "all/sub/a"];

#[test]
fn an_archive_on_standard_input_is_the_context() {
    let user = User::new();
    let whole = folder(&[
        ("Dockerfile", DOCKERFILE),
        ("sub/a", "text"),
        ("other", "FROM scratch\nCOPY sub/a /b\n"),
    ]);
    for flag in ["", "--gzip", "--bzip2", "--xz"] {
        let bytes = archive(whole.path(), flag);
        user.with_stdin(&["-"], &bytes).well();
        assert_eq!(user.files(), ["all/Dockerfile", "all/other", "all/sub/a"], "{flag}");
        user.with_stdin(&["-f", "other", "-"], &bytes).well();
        assert_eq!(user.files(), ["b"], "{flag}");
    }
}

#[test]
fn standard_input_can_be_the_dockerfile_alone() {
    let user = User::new();
    user.with_stdin(&["-"], b"FROM scratch\nCOPY <<E /here\nx\nE\n").well();
    assert_eq!(user.files(), ["here"]);
    let here = folder(&[("a", "text")]);
    let here = here.path().to_str().unwrap();
    user.with_stdin(&["-f", "-", here], b"FROM scratch\nCOPY a /b\n").well();
    assert_eq!(user.files(), ["b"]);
    let done = user.with_stdin(&["-f", "x", "-"], b"FROM scratch\n").failed();
    assert!(
        done.stderr.contains("both stdin and flag correspond to Dockerfiles"),
        "{}",
        done.stderr
    );
    let done = user.with_stdin(&["-f", "-", here], b"\x1f\x8b\x08rest").failed();
    assert!(
        done.stderr.contains("standard input is a gzip archive, and no Dockerfile"),
        "{}",
        done.stderr
    );
}

#[test]
fn the_files_of_an_archive_have_their_owners_in_a_mount_too() {
    let registry = Registry::start();
    fill(&registry);
    let user = User { home: Home::new(&registry.as_docker_io()), web: Web::start() };
    let mut builder = tar::Builder::new(Vec::new());
    let text = "FROM busybox:golden\nRUN --mount=type=bind,target=/m stat -c '%a %u:%g' /m/mine > /mounted\n";
    for (name, owner, text) in [("Dockerfile", 0, text), ("mine", 1000, "mine")] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(1_000_000_000);
        header.set_size(u64::try_from(text.len()).unwrap());
        builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    user.with_stdin(&["-"], &builder.into_inner().unwrap()).well();
    let tree = Image::read_tar(&user.home.path("image.tar")).tree();
    assert_eq!(tree.text("mounted").unwrap(), "600 1000:1000\n");
}

/// As docker: ADD and contexts are unpacked alike, and files belong to whom the archive says.
#[test]
fn an_archive_is_unpacked_as_by_add() {
    let user = User::new();
    let mut builder = tar::Builder::new(Vec::new());
    let mut put = |name: &str, kind: tar::EntryType, mode: u32, owner: u64, text: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(1_000_000_000);
        if kind.is_symlink() {
            header.set_size(0);
            return builder.append_link(&mut header, name, text).unwrap();
        }
        header.set_size(u64::try_from(text.len()).unwrap());
        builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    };
    let (file, folder, link) =
        (tar::EntryType::Regular, tar::EntryType::Directory, tar::EntryType::Symlink);
    put("Dockerfile", file, 0o644, 0, DOCKERFILE);
    put("mine", file, 0o400, 1000, "mine");
    put("d", folder, 0o755, 0, "");
    put("l", link, 0o777, 0, "d");
    put("l/below", file, 0o644, 0, "below");
    put("twice", folder, 0o755, 0, "");
    put("twice", folder, 0o500, 7, "");
    put("turned", folder, 0o755, 0, "");
    put("turned", file, 0o644, 0, "a file");
    let bytes = builder.into_inner().unwrap();
    user.with_stdin(&["-"], &bytes).well();
    let tree = Image::read_tar(&user.home.path("image.tar")).tree();
    let owned = |path: &str| {
        let node = tree.get(path).unwrap();
        (node.mode, node.uid, node.gid)
    };
    assert_eq!(owned("all/mine"), (0o400, 1000, 1000));
    assert_eq!(owned("all/twice"), (0o500, 7, 7));
    assert_eq!(tree.get("all/l").unwrap().link.as_deref(), Some("d"));
    assert_eq!(tree.text("all/d/below").unwrap(), "below");
    assert_eq!(tree.text("all/turned").unwrap(), "a file");

    // What is damaged behind the end of the tar is damaged all the same.
    let gzip = {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&bytes).unwrap();
        gzip.finish().unwrap()
    };
    user.with_stdin(&["-"], &gzip).well();
    let mut wrong = gzip.clone();
    let sum = wrong.len() - 8;
    wrong[sum] ^= 1;
    for broken in [&wrong[..], &gzip[..gzip.len() - 4]] {
        let done = user.with_stdin(&["-"], broken).failed();
        assert!(done.stderr.contains("could not unpack the context"), "{}", done.stderr);
    }
}

#[test]
fn an_archive_that_leads_out_of_its_folder_stays_inside() {
    let user = User::new();
    let mut builder = tar::Builder::new(Vec::new());
    let mut put = |name: &[u8], kind: tar::EntryType, link: &str, text: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(u64::try_from(text.len()).unwrap());
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        header.set_cksum();
        builder.append(&header, text).unwrap();
    };
    let canary = user.home.path("canary");
    std::fs::write(&canary, "alive").unwrap();
    let outside = user.home.path("").display().to_string();
    put(b"Dockerfile", tar::EntryType::Regular, "", DOCKERFILE.as_bytes());
    put(b"out", tar::EntryType::Symlink, &outside, b"");
    put(b"out/canary", tar::EntryType::Regular, "", b"dead");
    put(b"../../canary", tar::EntryType::Regular, "", b"dead");
    let bytes = builder.into_inner().unwrap();
    let done = user.with_stdin(&["-"], &bytes);
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), "alive", "{}", done.stderr);
}

#[test]
fn a_url_is_an_archive_or_a_dockerfile() {
    let user = User::new();
    let whole = folder(&[("Dockerfile", DOCKERFILE), ("sub/a", "text")]);
    user.web.put("context.tar.gz", archive(whole.path(), "--gzip"));
    user.web.put("Dockerfile", "FROM scratch\nCOPY <<E /here\nx\nE\n");
    assert_eq!(user.build(&[&user.web.url("context.tar.gz")]), ALL);
    assert_eq!(user.build(&[&user.web.url("moved/context.tar.gz")]), ALL, "a redirect is followed");
    assert_eq!(user.build(&[&user.web.url("Dockerfile")]), ["here"]);
    let here = folder(&[("a", "text")]);
    let dockerfile = user.web.url("Dockerfile");
    assert_eq!(user.build(&["-f", &dockerfile, here.path().to_str().unwrap()]), ["here"]);
    let done = user.try_build(&[&user.web.url("none")]).failed();
    assert!(done.stderr.contains("the server answered 404"), "{}", done.stderr);
}

#[test]
fn a_git_repository_is_a_context() {
    let user = User::new();
    let repository = user.web.repository("app");
    let first = repository.commit(&[
        ("Dockerfile", DOCKERFILE),
        ("sub/Dockerfile", DOCKERFILE),
        ("sub/a", "1"),
    ]);
    repository.run(&["tag", "-a", "-m", "x", "v1"]);
    repository.run(&["checkout", "--quiet", "-b", "next"]);
    repository.commit(&[("sub/b", "2")]);
    let url = user.web.url("app.git");
    let build = |suffix: &str| user.build(&[&format!("{url}{suffix}")]);
    let old = ["all/Dockerfile", "all/sub/Dockerfile", "all/sub/a"];
    assert_eq!(build(""), old, "HEAD is the first branch, and .git does not come along");
    let new = ["all/Dockerfile", "all/sub/Dockerfile", "all/sub/a", "all/sub/b"];
    assert_eq!(build("#next"), new);
    assert_eq!(build("#v1"), old);
    assert_eq!(build(&format!("#{first}")), old);
    assert_eq!(build("#next:sub"), ["all/Dockerfile", "all/a", "all/b"]);
    assert_eq!(build("?branch=next&subdir=sub"), ["all/Dockerfile", "all/a", "all/b"]);
    assert_eq!(build(&format!("?tag=v1&commit={}", &first[..12])), old);
    for (suffix, want) in [
        ("#none", "has no 'none'"),
        ("#main:none", "has no folder 'none'"),
        ("?ref=next&commit=0123456789", "expected checksum to match 0123456789, got "),
        ("?nonsense=1", "unexpected query \"nonsense\" of a git URL"),
    ] {
        let done = user.try_build(&[&format!("{url}{suffix}")]).failed();
        assert!(done.stderr.contains(want), "{suffix}: {}", done.stderr);
    }
}

#[test]
fn an_image_can_have_the_time_of_its_context() {
    let user = User::new();
    let created = || {
        let image = Image::read_tar(&user.home.path("image.tar"));
        image.config["created"].as_str().unwrap().to_owned()
    };
    let text = |secs: &str| {
        let mut date = Command::new("date");
        date.args(["-u", "-d", &format!("@{secs}"), "+%Y-%m-%dT%H:%M:%SZ"]);
        String::from_utf8(date.output().unwrap().stdout).unwrap().trim().to_owned()
    };
    let asks = ["--build-arg", "SOURCE_DATE_EPOCH=context"];
    let repository = user.web.repository("app");
    let dockerfile = "ARG SOURCE_DATE_EPOCH=context\nFROM scratch\nCOPY . /all/\n";
    repository.commit(&[("Dockerfile", DOCKERFILE), ("dated/Dockerfile", dockerfile)]);
    let committed = text(&repository.run(&["log", "-1", "--format=%ct"]));
    user.build(&[asks[0], asks[1], &user.web.url("app.git")]);
    assert_eq!(created(), committed);
    user.build(&[&user.web.url("app.git#main:dated")]);
    assert_eq!(created(), committed);

    // Of a context of another name, and of an archive: its newest file.
    let lib = format!("lib={}", user.web.url("app.git"));
    let here = folder(&[("Dockerfile", DOCKERFILE), ("old", "x")]);
    let by_name = ["--build-context", &lib, "--build-arg", "SOURCE_DATE_EPOCH=lib"];
    user.build(&[by_name[0], by_name[1], by_name[2], by_name[3], here.path().to_str().unwrap()]);
    assert_eq!(created(), committed);
    let since = std::time::UNIX_EPOCH;
    for (name, secs) in [("Dockerfile", 1_000_000_000), ("old", 900_000_000)] {
        let file = std::fs::File::options().write(true).open(here.path().join(name)).unwrap();
        file.set_modified(since + std::time::Duration::from_secs(secs)).unwrap();
    }
    user.with_stdin(&[asks[0], asks[1], "-"], &archive(here.path(), "--gzip")).well();
    assert_eq!(created(), text("1000000000"));
    // A folder has no time of its own.
    user.build(&[asks[0], asks[1], here.path().to_str().unwrap()]);
    assert_ne!(created(), text("1000000000"));
}

#[test]
fn a_repository_cannot_lead_out_of_itself() {
    let user = User::new();
    let repository = user.web.repository("app");
    std::os::unix::fs::symlink("/", repository.work().join("root")).unwrap();
    repository.commit(&[("Dockerfile", DOCKERFILE)]);
    let done = user.try_build(&[&user.web.url("app.git#main:root")]).failed();
    assert!(done.stderr.contains("has no folder 'root'"), "{}", done.stderr);
    let done = user.try_build(&["ext::sh -c true"]).failed();
    assert!(!done.stderr.contains("fetching"), "{}", done.stderr);
}

#[test]
fn submodules_come_along() {
    let user = User::new();
    let inner = user.web.repository("inner");
    inner.commit(&[("deep", "text")]);
    let outer = user.web.repository("outer");
    outer.commit(&[("Dockerfile", DOCKERFILE)]);
    outer.run(&["submodule", "--quiet", "add", &user.web.url("inner.git"), "sub"]);
    outer.commit(&[]);
    let url = user.web.url("outer.git");
    assert_eq!(user.build(&[&url]), ["all/.gitmodules", "all/Dockerfile", "all/sub/deep"]);
    let without = user.build(&[&format!("{url}?submodules=false")]);
    assert_eq!(without, ["all/.gitmodules", "all/Dockerfile"]);
}

#[test]
fn a_private_repository_needs_a_token() {
    let user = User::new();
    user.web.repository("app").commit(&[("Dockerfile", DOCKERFILE)]);
    let url = user.web.url("private/app.git");
    let done = user.try_build(&[&url]).failed();
    assert!(done.stderr.contains("hint: give --secret id=GIT_AUTH_TOKEN"), "{}", done.stderr);
    std::fs::write(user.home.path("token"), "s3cr3t\n").unwrap();
    let secret = format!("id=GIT_AUTH_TOKEN,src={}", user.home.arg("token"));
    let done = user.try_build(&["--secret", &secret, &url]).well();
    assert!(!done.stderr.contains("s3cr3t"), "{}", done.stderr);
    assert_eq!(user.files(), ["all/Dockerfile"]);
}

#[test]
fn named_contexts_come_from_elsewhere_too() {
    let user = User::new();
    let repository = user.web.repository("lib");
    repository.commit(&[("src/a", "1")]);
    user.web.put("tool.bin", "tool");
    let here = folder(&[(
        "Dockerfile",
        "FROM scratch\nCOPY --from=lib a /from-git\nCOPY --from=tool tool.bin /from-url\n",
    )]);
    let lib = format!("lib={}", user.web.url("lib.git#main:src"));
    let tool = format!("tool={}", user.web.url("tool.bin"));
    let here = here.path().to_str().unwrap();
    let files = user.build(&["--build-context", &lib, "--build-context", &tool, here]);
    assert_eq!(files, ["from-git", "from-url"]);
}

#[test]
fn contexts_can_be_stages_or_nothing() {
    let user = User::new();
    let dockerfile = "FROM scratch AS one\nCOPY x /x\nFROM base AS two\nCOPY --from=other x /y\n\
                      FROM none\nCOPY --from=two / /\n";
    let here = folder(&[("Dockerfile", dockerfile), ("x", "x")]);
    let here = here.path().to_str().unwrap();
    let contexts = |base: &str| {
        let given = [base, "other=target:ONE", "none=docker-image://scratch"];
        given.iter().flat_map(|text| ["--build-context".to_owned(), (*text).to_owned()]).collect()
    };
    let given: Vec<String> = contexts("base=target:one");
    let flags: Vec<&str> = given.iter().map(String::as_str).chain([here]).collect();
    assert_eq!(user.build(&flags), ["x", "y"]);
    let given: Vec<String> = contexts("base=target:three");
    let flags: Vec<&str> = given.iter().map(String::as_str).chain([here]).collect();
    let told = user.try_build(&flags).failed().stderr;
    assert!(told.contains("is target:three, and no stage before this one has that name"), "{told}");
    assert!(told.contains("Dockerfile:3"), "{told}");
}

#[test]
fn a_cluster_builds_them_as_well() {
    let web = Web::start();
    web.repository("app").commit(&[("Dockerfile", DOCKERFILE), ("sub/a", "1")]);
    let cluster = Cluster::start(Home::new(""), 1, 1);
    let output = format!("type=oci,dest={}", cluster.home.arg("image.tar"));
    let url = web.url("app.git");
    cluster.client("submit", &["--output", &output, &url]).finish(LONG).well();
    let tree = Image::read_tar(&cluster.home.path("image.tar")).tree();
    assert_eq!(tree.text("all/sub/a").unwrap(), "1");
    assert!(tree.get("all/.git").is_none());
}
