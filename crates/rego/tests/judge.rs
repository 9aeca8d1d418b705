//! Whole policies about sources as a build asks: those of docker's pages, and those that make mistakes.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;

use dcbuild_plan::policy::{Facts, GitFacts, PolicyAsk, Verdict};
use dcbuild_rego::{Detail, Environment, Folders, Judgement, Policies, PolicyFile, RegoError};
use expect_test::{Expect, expect};
use tempfile::TempDir;

const ALPINE: &str = "docker-image://docker.io/library/alpine:3.19";
const DIGEST: &str = "sha256:4b7ce07002c69e8f3d704a9c5d6fd3053be500b7f1c69fc0d80990c2ad8dd412";
const OTHER: &str = "sha256:8a1f59ffb675680d47db6337b49d22281a139e9d709335b492be023728e11715";

/// A policy that lets through what one condition allows.
fn allows(condition: &str) -> String {
    format!(
        "package docker\n\ndefault allow := false\n\nallow if {{\n    {condition}\n}}\n\ndecision := {{\"allow\": allow}}\n"
    )
}

struct Place(TempDir);

impl Place {
    fn new(files: &[(&str, &str)]) -> Place {
        let place = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = place.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Place(place)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, names: &[&str], detail: Detail) -> Result<Policies, RegoError> {
        let file = |name: &&str| PolicyFile { name: (*name).to_owned(), path: self.path(name) };
        let files: Vec<PolicyFile> = names.iter().map(file).collect();
        let folders =
            Folders { context: Some(self.0.path().to_owned()), working: self.path("cwd") };
        let env = Environment {
            args: BTreeMap::from([("MODE".into(), "ci".into())]),
            filename: "Dockerfile".into(),
            target: "release".into(),
            ..Environment::default()
        };
        Policies::load(&files, folders, env, detail)
    }
}

fn ask(identifier: &str) -> PolicyAsk {
    PolicyAsk {
        identifier: identifier.to_owned(),
        attrs: BTreeMap::new(),
        platform: identifier.starts_with("docker-image").then(|| "linux/arm64".to_owned()),
        pinned_by: BTreeSet::new(),
        facts: None,
    }
}

fn judge(text: &str, ask: &PolicyAsk) -> Judgement {
    let place = Place::new(&[("p.rego", text)]);
    place.load(&["p.rego"], Detail::Decisions).unwrap().judge(ask)
}

fn denied() -> Verdict {
    Verdict::Denied { policy: "p.rego".into(), messages: Vec::new() }
}

fn image_facts() -> Facts {
    Facts::Image {
        digest: DIGEST.into(),
        created: Some("2024-01-01T00:00:00Z".into()),
        env: vec!["PATH=/bin".into()],
        labels: BTreeMap::from([("vendor".into(), "us".into())]),
        user: "app".into(),
        volumes: vec!["/data".into()],
        working_dir: "/srv".into(),
    }
}

#[test]
fn the_name_of_an_image_is_seen_before_anybody_looks_at_it() {
    for (condition, allowed) in [
        ("input.image.repo == \"alpine\"", true),
        ("input.image.fullRepo == \"docker.io/library/alpine\"", true),
        ("input.image.ref == \"docker.io/library/alpine:3.19\"", true),
        ("input.image.host in [\"docker.io\", \"ghcr.io\"]", true),
        ("input.image.tag == \"3.19\"", true),
        (
            "semver.compare(\"3.19.0\", \"3.2.0\") > 0; regex.match(`^3\\.[0-9]+$`, input.image.tag)",
            true,
        ),
        ("glob.match(\"library/*\", [\"/\"], \"library/alpine\")", true),
        ("input.image.platform == \"linux/arm64\"; input.image.arch == \"arm64\"", true),
        ("input.image.isCanonical", false),
        ("not input.image.isCanonical", true),
        ("input.local", false),
        ("input.env.target == \"release\"; input.env.args.MODE == \"ci\"", true),
        ("input.env.filename == \"Dockerfile\"", true),
        ("input.image.host == \"quay.io\"", false),
        ("to_number(input.image.tag) > 100", false),
        ("to_number(\"no number\") > 100", false),
    ] {
        let want = if allowed { Verdict::Allowed {} } else { denied() };
        assert_eq!(judge(&allows(condition), &ask(ALPINE)).verdict, want, "{condition}");
    }
    let canonical = ask(&format!("{ALPINE}@{DIGEST}"));
    let condition = format!("input.image.isCanonical; input.image.checksum == \"{DIGEST}\"");
    assert_eq!(judge(&allows(&condition), &canonical).verdict, Verdict::Allowed {});
    let condition = "input.image.repo == \"ghcr.io/org/app\"; input.image.host == \"ghcr.io\"";
    let far = ask("docker-image://ghcr.io/org/app:1");
    assert_eq!(judge(&allows(condition), &far).verdict, Verdict::Allowed {});
}

#[test]
fn what_must_be_looked_at_is_asked_for_and_then_seen() {
    for condition in [
        "input.image.labels.vendor == \"us\"",
        "input.image.labels[\"vendor\"] == \"us\"",
        "input.image.user == \"app\"; input.image.workingDir == \"/srv\"",
        "\"PATH=/bin\" in input.image.env; \"/data\" in input.image.volumes",
        "input.image.createdTime < \"2025\"",
        "some image in [input.image]; image.labels.vendor == \"us\"",
    ] {
        let text = allows(condition);
        assert_eq!(judge(&text, &ask(ALPINE)).verdict, Verdict::Open {}, "{condition}");
        let looked = PolicyAsk { facts: Some(image_facts()), ..ask(ALPINE) };
        assert_eq!(judge(&text, &looked).verdict, Verdict::Allowed {}, "{condition}");
    }
}

#[test]
fn files_repositories_and_folders_are_seen() {
    let url = "https://Example.com:443/a/b.tar?v=1&w=a%20b&v=2";
    for condition in [
        "input.http.schema == \"https\"; input.http.host == \"example.com\"",
        "input.http.path == \"/a/b.tar\"; input.http.query.v == [\"1\", \"2\"]",
        "input.http.query.w[0] == \"a b\"",
        "startswith(input.http.url, \"https://Example.com\")",
    ] {
        assert_eq!(
            judge(&allows(condition), &ask(url)).verdict,
            Verdict::Allowed {},
            "{condition}"
        );
    }
    let text = allows(&format!("input.http.checksum == \"{DIGEST}\""));
    assert_eq!(judge(&text, &ask(url)).verdict, Verdict::Open {});
    let digest = DIGEST.to_owned();
    let looked = PolicyAsk { facts: Some(Facts::File { digest }), ..ask(url) };
    assert_eq!(judge(&text, &looked).verdict, Verdict::Allowed {});
    let named =
        PolicyAsk { attrs: BTreeMap::from([("http.checksum".into(), DIGEST.into())]), ..ask(url) };
    assert_eq!(judge(&text, &named).verdict, Verdict::Allowed {});
    let folder = ask("local://context");
    assert_eq!(
        judge(&allows("input.local.name == \"context\""), &folder).verdict,
        Verdict::Allowed {}
    );
}

#[test]
fn a_repository_is_seen_by_its_address_and_by_what_its_reference_is() {
    let git = |reference: &str| PolicyAsk {
        attrs: BTreeMap::from([("git.fullurl".into(), "https://github.com/moby/b.git".into())]),
        ..ask(&format!("git://github.com/moby/b.git#{reference}"))
    };
    let remote = "input.git.remote == \"https://github.com/moby/b.git\"; input.git.host == \"github.com\"; input.git.schema == \"https\"";
    assert_eq!(judge(&allows(remote), &git("v1")).verdict, Verdict::Allowed {});
    let subdir = allows("input.git.subDir == \"src\"");
    assert_eq!(judge(&subdir, &git("v1:src/")).verdict, Verdict::Allowed {});
    let commit = "ab".repeat(20);
    let pinned =
        allows(&format!("input.git.isCommitRef; input.git.commitChecksum == \"{commit}\""));
    assert_eq!(judge(&pinned, &git(&commit)).verdict, Verdict::Allowed {});
    let tag = allows(
        "input.git.tagName == \"v1\"; input.git.isAnnotatedTag; input.git.tag.tagger.name == \"T\"; input.git.commit.author.email == \"a@b\"",
    );
    assert_eq!(judge(&tag, &git("v1")).verdict, Verdict::Open {});
    let facts = Facts::Git(GitFacts {
        reference: "refs/tags/v1".into(),
        checksum: "cd".repeat(20),
        commit,
        commit_object: "tree 1\nauthor A <a@b> 1 +0000\n\nmessage\n".into(),
        tag_object: Some("object 1\ntagger T <t@u> 1 +0000\n\nv1\n".into()),
    });
    let looked = PolicyAsk { facts: Some(facts), ..git("v1") };
    assert_eq!(judge(&tag, &looked).verdict, Verdict::Allowed {});
    let branch = allows("input.git.branch == \"v1\"");
    assert_eq!(judge(&branch, &looked).verdict, denied());
}

#[test]
fn a_policy_says_why_and_prints() {
    let text = "package docker\n\ndefault allow := false\n\nallow if {\n    print(\"asked about\", input.image.ref)\n    input.image.isCanonical\n}\n\ndeny_msg contains msg if {\n    not allow\n    msg := sprintf(\"%s has no digest\", [input.image.ref])\n}\n\ndecision := {\"allow\": allow, \"deny_msg\": deny_msg}\n";
    let Judgement { verdict, log } = judge(text, &ask(ALPINE));
    let messages = vec!["docker.io/library/alpine:3.19 has no digest".to_owned()];
    assert_eq!(verdict, Verdict::Denied { policy: "p.rego".into(), messages });
    assert_eq!(log, ["p.rego:6: asked about docker.io/library/alpine:3.19", "p.rego: DENY"]);
    let place = Place::new(&[("p.rego", text)]);
    let quiet = place.load(&["p.rego"], Detail::None).unwrap().judge(&ask(ALPINE));
    assert_eq!(quiet.log, [""; 0]);
    let loud = place.load(&["p.rego"], Detail::Inputs).unwrap().judge(&ask(ALPINE));
    assert!(loud.log[0].contains("\"fullRepo\": \"docker.io/library/alpine\""), "{:?}", loud.log);
}

#[test]
fn all_policies_must_allow_and_one_may_pin() {
    let pin = allows(&format!("input.image.tag == \"3.19\"; pin_image(input.image, \"{DIGEST}\")"));
    let place = Place::new(&[
        ("a.rego", allows("input.image.repo == \"alpine\"").as_str()),
        ("b.rego", &allows("input.image.host == \"quay.io\"")),
        ("c.rego", &pin),
        ("d.rego", &allows(&format!("input.image.checksum != \"{DIGEST}\""))),
    ]);
    let judged = |names: &[&str], ask: &PolicyAsk| {
        place.load(names, Detail::None).unwrap().judge(ask).verdict
    };
    let by_b = Verdict::Denied { policy: "b.rego".into(), messages: Vec::new() };
    assert_eq!(judged(&["a.rego", "b.rego"], &ask(ALPINE)), by_b);
    let pinned = Verdict::Pinned { policy: "c.rego".into(), digest: DIGEST.into() };
    assert_eq!(judged(&["a.rego", "c.rego"], &ask(ALPINE)), pinned);
    // Asked again about what one has pinned, the others have their say, and that one has had it.
    let again = PolicyAsk {
        pinned_by: BTreeSet::from(["c.rego".into()]),
        ..ask(&format!("{ALPINE}@{DIGEST}"))
    };
    assert_eq!(judged(&["a.rego", "c.rego"], &again), Verdict::Allowed {});
    let by_d = Verdict::Denied { policy: "d.rego".into(), messages: Vec::new() };
    assert_eq!(judged(&["c.rego", "d.rego"], &again), by_d);
    // What has the digest already is not pinned anew.
    let same = ask(&format!("{ALPINE}@{DIGEST}"));
    assert_eq!(judged(&["c.rego"], &same), Verdict::Allowed {});
}

#[test]
fn policies_read_files_of_their_build_and_no_others() {
    let place = Place::new(&[
        (
            "p.rego",
            "package docker\n\nimport data.lib.names\n\ndecision := {\"allow\": data.lib.names.good(input.image.tag)}\n",
        ),
        (
            "lib/names.rego",
            "package whatever\n\nimport data.deep\n\ngood(tag) if tag in deep.tags\n",
        ),
        ("deep.rego", "package deep\n\ntags := load_json(\"versions.json\").alpine\n"),
        ("versions.json", "{\"alpine\": [\"3.18\", \"3.19\"]}"),
        ("cwd/here.json", "[\"3.19\"]"),
        ("cwd.rego", &allows("input.image.tag in load_json(\"cwd://here.json\")")),
        ("none.rego", &allows("load_json(\"none.json\")")),
        ("out.rego", &allows("load_json(\"../secret\")")),
        ("link.rego", &allows("load_json(\"link.json\")")),
        ("bad.rego", &allows("load_json(\"p.rego\")")),
        ("lost.rego", "package docker\nimport data.lost.names\ndecision := {\"allow\": true}\n"),
    ]);
    std::os::unix::fs::symlink("/etc/passwd", place.path("link.json")).unwrap();
    let judged =
        |name: &str| place.load(&[name], Detail::None).unwrap().judge(&ask(ALPINE)).verdict;
    assert_eq!(judged("p.rego"), Verdict::Allowed {});
    assert_eq!(judged("cwd.rego"), Verdict::Allowed {});
    for (name, part) in [
        ("none.rego", "none.rego:6:14: could not read 'none.json' for a policy"),
        ("out.rego", "'../secret' is outside of the folders that a policy may read"),
        ("link.rego", "'link.json' is outside of the folders"),
        ("bad.rego", "'p.rego' is no JSON"),
    ] {
        let Verdict::Failed { message, .. } = judged(name) else { panic!("{name}") };
        assert!(message.contains(part), "{name}: {message}");
    }
    let error = place.load(&["lost.rego"], Detail::None).unwrap_err();
    assert!(error.to_string().contains("could not read 'lost/names.rego'"), "{error}");
}

/// What a policy that makes a mistake is answered with, when it is loaded or when it is asked.
fn check(text: &str, want: Expect) {
    let place = Place::new(&[("p.rego", text)]);
    let said = match place.load(&["p.rego"], Detail::None) {
        Err(error) => {
            let cause = error.source().map(|it| format!(": {it}")).unwrap_or_default();
            format!("{error}{cause}\nhint: {}\n", error.hint().unwrap_or("none"))
        }
        Ok(policies) => match policies.judge(&ask(ALPINE)).verdict {
            Verdict::Failed { message, hint } => {
                format!("{message}\nhint: {}\n", hint.as_deref().unwrap_or("none"))
            }
            other => format!("{other:?}\n"),
        },
    };
    want.assert_eq(&said.replace(&place.0.path().display().to_string(), "FOLDER"));
}

#[test]
fn mistakes_of_the_language_are_told_with_their_place() {
    check(
        "package docker\n\nallow { true }\n",
        expect![[r#"
        p.rego:3:7: `if` keyword is required before rule body
        hint: policies are written in Rego v1: 'allow if { ... }'
    "#]],
    );
    check(
        "package docker\n\ndecision := {\"allow\": true\n",
        expect![[r#"
        p.rego:4:1: expecting `}` while parsing object
        hint: none
    "#]],
    );
    check(
        "package other\n\ndecision := {\"allow\": true}\n",
        expect![[r#"
        p.rego is in the package 'other', and not in 'docker'
        hint: begin it with 'package docker'
    "#]],
    );
}

#[test]
fn a_policy_without_a_good_decision_is_told() {
    check(
        "package docker\n\nallow := true\n",
        expect![[r#"
        p.rego decides nothing: it has no rule 'decision'
        hint: end it with 'decision := {"allow": allow}', and 'default allow := false'
    "#]],
    );
    check(
        "package docker\n\ndecision := {\"allow\": true} if input.git\n",
        expect![[r#"
        p.rego decides nothing: 'decision' is undefined for this source
        hint: end it with 'decision := {"allow": allow}', and 'default allow := false'
    "#]],
    );
    check(
        "package docker\n\ndecision := true\n",
        expect![[r#"
        p.rego decides nothing: 'decision' is no object
        hint: end it with 'decision := {"allow": allow}', and 'default allow := false'
    "#]],
    );
    check(
        "package docker\n\ndecision := {\"allow\": \"yes\"}\n",
        expect![[r#"
        p.rego decides nothing: 'allow' of 'decision' is neither true nor false
        hint: end it with 'decision := {"allow": allow}', and 'default allow := false'
    "#]],
    );
    check(
        "package docker\n\ndecision := {\"allow\": true, \"caps\": {\"x\": true}}\n",
        expect![[r#"
            p.rego decides nothing: its 'caps' ask for what a RUN may reach, which nobody here watches
            hint: end it with 'decision := {"allow": allow}', and 'default allow := false'
        "#]],
    );
}

#[test]
fn what_is_not_there_is_told_where_it_is_asked_for() {
    check(
        &allows("time.now_ns() > 1"),
        expect![[r#"
        p.rego:6:16: could not find function time.now_ns
        hint: functions of clocks, chance, YAML and the network are not there, and one of an import is called by its whole name, data.lib.name(...): see docs/policy.md
    "#]],
    );
    check(
        &allows("input.image.hasProvenance"),
        expect![[r#"
        p.rego:6: a policy cannot have 'hasProvenance' here: what lies beside an image in its registry is not read
        hint: leave it out of the policy, or build with docker; 'dcbuild build --policy disabled=true' builds without any policy
    "#]],
    );
    check(
        &allows("docker_github_builder(input.image, \"org/app\")"),
        expect![[r#"
        p.rego:6: a policy cannot have 'docker_github_builder' here: nobody here verifies signatures and attestations
        hint: leave it out of the policy, or build with docker; 'dcbuild build --policy disabled=true' builds without any policy
    "#]],
    );
}

#[test]
fn what_is_pinned_wrongly_or_takes_too_long_is_told() {
    check(
        &allows("pin_image(input.image, \"latest\")"),
        expect![[r#"
            p.rego:6:14: 'latest' is no digest for pin_image(input.image, "sha256:...")
            hint: none
        "#]],
    );
    check(
        &allows("pin_image({\"ref\": \"other\"}, \"sha256:1\")"),
        expect![[r#"
        p.rego:6:14: pin_image(input.image, "sha256:...") pins the image that is asked about, and no other
        hint: none
    "#]],
    );
    check(
        &allows(&format!(
            "pin_image(input.image, \"{DIGEST}\"); pin_image(input.image, \"{OTHER}\")"
        )),
        expect![[r#"
            p.rego decides nothing: it pins the image to sha256:4b7ce07002c69e8f3d704a9c5d6fd3053be500b7f1c69fc0d80990c2ad8dd412 and to sha256:8a1f59ffb675680d47db6337b49d22281a139e9d709335b492be023728e11715
            hint: end it with 'decision := {"allow": allow}', and 'default allow := false'
        "#]],
    );
    check(
        &allows(
            "count([x | some a in numbers.range(1, 10000); some b in numbers.range(1, 10000); x := a * b]) > 1",
        ),
        expect![[r#"
            p.rego: it takes longer than 10 seconds
            hint: none
        "#]],
    );
}

#[test]
fn a_layout_cannot_be_asked_about() {
    let Verdict::Failed { message, .. } = judge(&allows("true"), &ask("oci-layout://base")).verdict
    else {
        panic!("it is judged")
    };
    assert!(message.contains("cannot be asked about \"oci-layout://base\""), "{message}");
}

#[test]
fn a_policy_that_is_not_there_is_named() {
    let place = Place::new(&[]);
    let error = place.load(&["none.rego"], Detail::None).unwrap_err().to_string();
    assert!(error.starts_with("could not read the policy '"), "{error}");
}
