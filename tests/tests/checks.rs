//! What `--check` and `--call` say, on one machine and on a cluster, and what a build says of the same.

use dcbuild_tests::base::busybox_with;
use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::layout::LayerTar;
use dcbuild_tests::story::Story;
use dcbuild_tests::wait::LONG;

const DOCKERFILE: &str = "FROM scratch as base\nARG TOKEN\nFROM busybox:golden\nCOPY $a$PATH /x\n";

const FOUND: &str = "\
Check complete, 3 warnings have been found!

WARNING: FromAsCasing - https://docs.docker.com/go/dockerfile/rule/from-as-casing/
'as' and 'FROM' keywords' casing do not match
Dockerfile:1
--------------------
   1 | >>> FROM scratch as base
   2 |     ARG TOKEN
   3 |     FROM busybox:golden
--------------------

WARNING: SecretsUsedInArgOrEnv - https://docs.docker.com/go/dockerfile/rule/secrets-used-in-arg-or-env/
Do not use ARG or ENV instructions for sensitive data (ARG \"TOKEN\")
Dockerfile:2
--------------------
   1 |     FROM scratch as base
   2 | >>> ARG TOKEN
   3 |     FROM busybox:golden
   4 |     COPY $a$PATH /x
--------------------

WARNING: UndefinedVar - https://docs.docker.com/go/dockerfile/rule/undefined-var/
Usage of undefined variable '$a'
Dockerfile:4
--------------------
   2 |     ARG TOKEN
   3 |     FROM busybox:golden
   4 | >>> COPY $a$PATH /x
--------------------
";

#[test]
fn a_check_says_what_is_questionable_and_builds_nothing() {
    let story = Story::new(DOCKERFILE, &[]);
    let done = story.try_build(&["--check"]);
    assert_eq!((done.stdout.as_str(), done.status.code()), (FOUND, Some(1)), "{}", done.stderr);
    let done = story.try_build(&["--call=check,format=json,ignorestatus=true"]).well();
    let json: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(json["warnings"].as_array().unwrap().len(), 3);
    let args = ["--check", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all"];
    assert_eq!(story.try_build(&args).well().stdout, "Check complete, no warnings found.\n");

    story.write("Dockerfile", "FROM scratch AS Bad\nRUNN x\n");
    let done = story.try_build(&["--check"]).failed();
    assert!(
        done.stdout.starts_with("Check complete, 1 warning has been found!\n"),
        "{}",
        done.stdout
    );
    assert!(done.stderr.contains("unknown instruction: RUNN"), "{}", done.stderr);
    assert!(done.stderr.contains("2 | >>> RUNN x"), "{}", done.stderr);
}

#[test]
fn a_build_warns_at_its_end_and_can_be_made_to_fail() {
    let text = "FROM scratch\nCOPY Dockerfile /$no\n";
    let story = Story::new(text, &[]);
    let done = story.try_build(&[]).well();
    let want = "\n 1 warning found (use --check to expand):\n \
                - UndefinedVar: Usage of undefined variable '$no' (line 2)\n";
    assert!(done.stderr.contains(want), "{}", done.stderr);
    story.write("Dockerfile", &format!("# check=error=true\n{text}"));
    let done = story.try_build(&[]).failed();
    assert!(
        done.stderr.contains("lint violation found for rules: UndefinedVar"),
        "{}",
        done.stderr
    );
    story.write("Dockerfile", &format!("# check=skip=UndefinedVar;error=true\n{text}"));
    assert!(!story.try_build(&[]).well().stderr.contains("warning"));
}

#[test]
fn a_cluster_answers_as_one_machine_does() {
    let cluster = Cluster::start(Home::new(""), 0, 1);
    let dockerfile = "# what is built\nARG BASE=scratch\n# one compiles\nFROM $BASE AS one\n\
                      RUN --mount=type=secret,id=s true\nFROM one AS Two\n";
    write_context(&cluster.home.path("context"), &[ContextEntry::file("Dockerfile", dockerfile)]);
    let context = cluster.home.arg("context");
    let outline = cluster.client("submit", &["--call=outline", "--target=one", &context]);
    let want = "TARGET:      one\nDESCRIPTION: compiles\n\nBUILD ARG   VALUE     DESCRIPTION\n\
                BASE        scratch   \n\nSECRET   REQUIRED\ns        \n\n";
    assert_eq!(outline.finish(LONG).well().stdout, want);
    let targets = cluster.client("submit", &["--call=targets", &context]).finish(LONG).well();
    assert_eq!(
        targets.stdout,
        "TARGET        DESCRIPTION\none           compiles\ntwo (default) \n"
    );
    let check = cluster.client("submit", &["--check", &context]).finish(LONG).failed();
    assert!(check.stdout.contains("Stage name 'Two' should be lowercase"), "{}", check.stdout);
}

/// What a package manager would leave: apt-get of this image writes lists.
const APT: &str = "#!/bin/sh\nmkdir -p /var/lib/apt/lists /var/lib/dpkg\n\
                   [ $1 = update ] && head -c 2345678 /dev/zero > /var/lib/apt/lists/deb_main || :\n\
                   echo status > /var/lib/dpkg/status\n";

#[test]
fn advice_says_what_it_saves_where_a_build_has_left_it() {
    let story = Story::new("", &[]);
    let apt = LayerTar::default().dir("bin", 0o755).file("bin/apt-get", 0o755, APT.as_bytes());
    story.registry.put("library/debian:12", &busybox_with(apt));
    let text = "FROM debian:12\nCOPY Dockerfile /\nRUN apt-get update && apt-get install -y curl\n";
    story.write("Dockerfile", text);
    let advice = "the package lists of apt stay in the layer";
    let asked = |flags: &[&str]| {
        let done = story.try_build(&[&["--call=advice"], flags].concat());
        assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
        done
    };
    let before = asked(&[]);
    assert!(before.stdout.contains(&format!("{advice}: end the RUN")), "{}", before.stdout);
    assert!(!before.stderr.contains("RUN apt-get"), "nothing runs: {}", before.stderr);
    story.build(&[]);
    let after = asked(&[]);
    let want = format!("{advice} (2.3 MB): end the RUN with rm -rf /var/lib/apt/lists/*");
    assert!(after.stdout.contains(&want), "{}", after.stdout);
    assert!(!after.stderr.contains("RUN apt-get"), "nothing runs: {}", after.stderr);
    let json = story.try_build(&["--call=advice,format=json"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["warnings"][0]["savedBytes"], 2_345_678);
    // What was built is another step by now: of that one nothing is known.
    story.write("Dockerfile", &text.replace("install -y curl", "install -y jq"));
    assert!(asked(&[]).stdout.contains(&format!("{advice}: end")));
    // A file that is fetched is not fetched for advice.
    story.write("Dockerfile", &text.replace("COPY Dockerfile /", "ADD http://127.0.0.1:9/x /"));
    assert!(asked(&[]).stdout.contains(&format!("{advice}: end")));
}
