//! What an ADD asks for, of the context and from elsewhere.

use dcbuild_model::{Digest, SelectionDigest};
use dcbuild_plan::{CopySource, Need, Op, Planned, Request, Sources, plan};

/// The contexts that a line asks for, and what it reads of each; or why it is refused.
fn needs(line: &str) -> Vec<String> {
    let request = Request::new(format!("FROM scratch\n{line}\n"));
    match plan(&request, &Sources::default()) {
        Err(error) => vec![error.to_string()],
        Ok(Planned::Ready(_)) => Vec::new(),
        Ok(Planned::Lacks(needs)) => needs
            .into_iter()
            .map(|need| match need {
                Need::Selection { context, selection } => {
                    format!("{context} {}", selection.sources.join(" "))
                }
                Need::Verdict(_) | Need::Remote(_) => panic!("there is no policy of a client"),
                Need::Image { reference, .. } => reference,
            })
            .collect(),
    }
}

#[test]
fn each_place_is_asked_for_what_is_read_of_it() {
    let digest = Digest::of(b"x");
    for (line, want) in [
        ("ADD a b /x/".to_owned(), vec!["context a b".to_owned()]),
        ("ADD https://e.example/d/a%5Bb*c /x".into(), vec![
            "remote:https://e.example/d/a%5Bb*c a[[]b[*]c".into(),
        ]),
        ("ARG V=1\nADD https://e.example/a-${V}.tar a /x/".into(), vec![
            "context a".into(),
            "remote:https://e.example/a-1.tar a-1.tar".into(),
        ]),
        (format!("ADD --checksum={digest} https://e.example/a /x"), vec![format!(
            "remote:https://e.example/a {digest} a"
        )]),
        ("ADD --keep-git-dir --checksum=abc123 git@e.example:x.git#v1:sub /x".into(), vec![
            "remote:git@e.example:x.git?ref=v1&subdir=sub&commit=abc123&keep-git-dir=true /".into(),
        ]),
        ("ADD github.com/x /x".into(), vec!["context github.com/x".into()]),
        ("ADD https://e.example/x.git?nonsense=1 /x".into(), vec![
            "unexpected query \"nonsense\" of a git URL: ref, tag, branch, subdir, commit, checksum, fetch-by-commit, keep-git-dir, mtime and submodules are known".into(),
        ]),
        ("COPY https://e.example/a /x".into(), vec![
            "source can't be a URL for COPY: https://e.example/a".into(),
        ]),
        (format!("ADD --checksum={digest} a /x"), vec![
            "checksum requires HTTP(S) or Git sources".into(),
        ]),
        (format!("ADD --checksum={digest} https://e.example/a https://e.example/b /x/"), vec![
            "checksum can't be specified for multiple sources".into(),
        ]),
    ] {
        assert_eq!(needs(&line), want, "{line}");
    }
}

#[test]
fn only_what_lies_here_is_unpacked_unless_the_flag_says_so() {
    let unpacked = |line: &str| -> Vec<bool> {
        let request = Request::new(format!("FROM scratch\n{line}\n"));
        let mut sources = Sources::default();
        let plan = loop {
            match plan(&request, &sources).unwrap() {
                Planned::Ready(plan) => break plan,
                Planned::Lacks(needs) => {
                    for need in needs {
                        let Need::Selection { context, selection } = need else { continue };
                        let digest = SelectionDigest(Digest::of(context.as_bytes()));
                        sources.selections.insert((context, selection), Ok(digest));
                    }
                }
            }
        };
        let Op::Copy(op) = &plan.steps[0].op else { panic!("{plan:?}") };
        let unpack = |source: &CopySource| match source {
            CopySource::Paths { unpack, .. } => *unpack,
            CopySource::Inline(_) => false,
        };
        op.sources.iter().map(unpack).collect()
    };
    let both = "a https://e.example/b https://e.example/c.git d /x/";
    assert_eq!(unpacked(&format!("ADD {both}")), [true, false, false, true]);
    assert_eq!(unpacked(&format!("ADD --unpack {both}")), [true, true, false, true]);
    assert_eq!(unpacked(&format!("ADD --unpack=false {both}")), [false, false, false, false]);
    assert_eq!(unpacked("COPY a /x"), [false]);
}
