//! Pipes, devices, links without end: whole builds of them end at once, with what is wrong, or do no harm.
#![expect(clippy::unwrap_used, reason = "test")]

use std::os::unix::fs::symlink;

use dcbuild_tests::running::Finished;
use dcbuild_tests::story::Story;
use rustix::fs::{CWD, FileType, Mode, mknodat};

const BASE: &str = "FROM busybox:golden\n";

fn mkfifo(story: &Story, name: &str) {
    let path = story.context().join(name);
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[track_caller]
fn says(done: &Finished, part: &str) {
    assert!(!done.status.success());
    assert!(done.stderr.contains(part), "no {part:?} in\n{}", done.stderr);
    assert!(!done.stderr.contains("attempt 1 of 3"), "{}", done.stderr);
}

/// Whoever a step is, is looked up in a file of the image, and only in a file.
#[test]
fn accounts_that_are_no_file_are_refused() {
    let story = Story::new(BASE, &[]);
    for (accounts, run, copy) in [
        (
            "mkfifo /etc/passwd",
            "/etc/passwd is not a regular file",
            "passwd' is not a regular file",
        ),
        (
            "ln -s passwd /etc/passwd",
            "/etc/passwd is a link that leads to no file: it goes round",
            "too many links in 'etc/passwd'",
        ),
        ("mkdir /etc/passwd", "/etc/passwd is not a regular file", "passwd' is not a regular file"),
        ("ln -s /dev/zero /etc/passwd", "/etc/passwd is not a regular file", ""),
        (
            "dd if=/dev/zero of=/etc/passwd bs=1M count=11",
            "/etc/passwd is larger than 10 MiB",
            "passwd' is larger than 10485760 bytes",
        ),
    ] {
        let made = format!("{BASE}RUN rm -f /etc/passwd && mkdir -p /etc && {accounts}\n");
        story.write("Dockerfile", &format!("{made}USER bob\nRUN id\n"));
        says(&story.try_build(&[]), run);
        story.write("Dockerfile", &format!("{made}COPY --chown=bob Dockerfile /d\n"));
        let copied = story.try_build(&[]);
        // An image's own /dev is empty: the link leads to nothing, and who is not there is root, as for BuildKit.
        if copy.is_empty() {
            copied.well();
        } else {
            says(&copied, copy);
        }
        // A number needs no file.
        story.write("Dockerfile", &format!("{made}COPY --chown=7:8 Dockerfile /d\n"));
        story.try_build(&[]).well();
    }
}

/// Pipes are copied as pipes, from the context and from a stage; a socket is no part of a context.
#[test]
fn special_files_are_copied_and_never_opened() {
    let text = "FROM busybox:golden AS made\nRUN mkdir /m && mkfifo /m/p && mknod /m/n c 1 3\n\
        FROM scratch\nCOPY . /all/\nCOPY --from=made /m/ /made/\n";
    let story = Story::new(text, &[("file", "text\n")]);
    mkfifo(&story, "pipe");
    drop(std::os::unix::net::UnixListener::bind(story.context().join("socket")).unwrap());
    let tree = story.build(&[]).image.tree();
    assert_eq!(tree.text("all/file").unwrap(), "text\n");
    for path in ["all/pipe", "made/p", "made/n"] {
        assert!(tree.get(path).is_some(), "no {path}");
        assert!(tree.text(path).is_none(), "{path} is a file");
    }
}

#[test]
fn a_dockerfile_or_an_ignore_file_that_is_no_file_is_refused() {
    let story = Story::new(BASE, &[("file", "text\n")]);
    mkfifo(&story, ".dockerignore");
    says(&story.try_build(&[]), ".dockerignore");
    std::fs::remove_file(story.context().join(".dockerignore")).unwrap();
    std::fs::remove_file(story.context().join("Dockerfile")).unwrap();
    mkfifo(&story, "Dockerfile");
    says(&story.try_build(&[]), "Dockerfile");
    std::fs::remove_file(story.context().join("Dockerfile")).unwrap();
    std::fs::create_dir(story.context().join("Dockerfile")).unwrap();
    says(&story.try_build(&[]), "Dockerfile");
}

/// A named limit each: the largest Dockerfile, and the longest argument that Linux gives to a program.
#[test]
fn what_is_too_large_is_told_with_its_limit() {
    let large = format!("FROM busybox:golden\n{}", "# a comment\n".repeat(400_000));
    let story = Story::new(&large, &[]);
    says(&story.try_build(&[]), "larger than 4194304 bytes");
    let long = "    echo a word of one long command && \\\n".repeat(4000);
    story.write("Dockerfile", &format!("FROM busybox:golden\nRUN {long}    true\n"));
    says(&story.try_build(&[]), "Linux takes 128 KiB in one argument");
}

/// More links than the kernel would follow are followed, and none leads out.
#[test]
fn chains_of_links() {
    let story = Story::new("FROM scratch\nCOPY l0 /f\n", &[("real", "text\n")]);
    let link = |target: &str, name: &str| symlink(target, story.context().join(name)).unwrap();
    for number in 0..60 {
        link(&format!("l{}", number + 1), &format!("l{number}"));
    }
    link("d/../real", "l60");
    std::fs::create_dir(story.context().join("d")).unwrap();
    assert_eq!(story.build(&[]).image.tree().text("f").unwrap(), "text\n");

    link("b", "a");
    link("a", "b");
    link("/etc/passwd", "absolute");
    link("../../../../../../../../etc/passwd", "outwards");
    link("/proc/self/environ", "environ");
    for (source, want) in [
        ("a/", "too many links"),
        ("absolute", "not found"),
        ("outwards", "not found"),
        ("environ", "not found"),
    ] {
        story.write("Dockerfile", &format!("FROM scratch\nCOPY {source} /f\n"));
        says(&story.try_build(&[]), want);
    }
}
