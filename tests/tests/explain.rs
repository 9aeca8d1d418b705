//! What `dcbuild explain` says of a miss, on one machine and on a cluster.
#![expect(clippy::unwrap_used, reason = "test")]

use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::story::{Story, fill};
use serde_json::Value;

const DOCKERFILE: &str = "FROM busybox:golden AS build\nARG VERSION=1\nWORKDIR /app\nCOPY src ./src\n\
    RUN cat src/* > /all\nRUN echo $VERSION > /version\n\
    FROM busybox:golden\nCOPY --from=build /all /all\nRUN wc -c /all > /count\n";
const FILES: &[(&str, &str)] = &[("src/a.txt", "a\n"), ("src/b.txt", "b\n")];

fn contains(text: &str, wanted: &[&str]) {
    for part in wanted {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

/// Why a step whose name has the text was missed; its verdict and its reason.
fn why<'a>(explained: &'a Value, name: &str) -> (&'a str, &'a Value) {
    let steps = explained["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["name"].as_str().unwrap().contains(name));
    let step = step.unwrap_or_else(|| panic!("no {name} in {explained}"));
    (step["verdict"].as_str().unwrap(), &step["reason"])
}

fn explained(story: &Story, rest: &[&str]) -> Value {
    let arguments = ["explain"].into_iter().chain(rest.iter().copied()).chain(["--format", "json"]);
    serde_json::from_str(&story.home.run(arguments).well().stdout).unwrap()
}

#[test]
fn a_build_of_this_machine_is_explained_step_by_step() {
    let story = Story::new(DOCKERFILE, FILES);
    let said = story.home.run(["explain"]).failed().stderr;
    contains(&said, &["no build is known here"]);

    story.build(&[]);
    let said = story.home.run(["explain", "last"]).well().stdout;
    contains(&said, &["of context, submitted", "RUN cat src/*", "no earlier build is known here"]);

    story.build(&[]);
    let said = story.home.run(["explain"]).well().stdout;
    assert!(!said.contains("miss"), "{said}");

    story.write("src/b.txt", "longer\n");
    story.build(&["--build-arg", "VERSION=2"]);
    let all = explained(&story, &[]);
    let (verdict, reason) = why(&all, "COPY src");
    assert_eq!((verdict, &reason["why"]), ("miss", &Value::from("changed")));
    let files = &reason["changes"][0];
    assert_eq!(files["input"], "context src");
    assert_eq!(files["files"][0]["path"], "/app/src/b.txt");
    assert_eq!(files["files"][0]["how"], "content, 2 bytes, now 7");
    assert_eq!(files["files"].as_array().unwrap().len(), 1, "a.txt is what it was: {files}");
    let (_, reason) = why(&all, "RUN echo");
    let variable = &reason["changes"][0];
    assert_eq!((&variable["what"], &variable["name"]), (&"variable".into(), &"VERSION".into()));
    assert_eq!((&variable["before"], &variable["after"]), (&"1".into(), &"2".into()));
    let (_, reason) = why(&all, "RUN cat");
    let parent = &reason["changes"][1];
    assert_eq!(parent["what"], "parent", "it sees VERSION too: {reason}");
    contains(&parent["name"].to_string(), &["COPY src"]);
    let said = story.home.run(["explain", "last", "RUN echo"]).well().stdout;
    contains(&said, &["build argument VERSION: was \"1\", now \"2\""]);
    assert!(!said.contains("COPY src"), "one step was asked for: {said}");

    let said = story.home.run(["explain", "last", "RUN make"]).failed().stderr;
    contains(&said, &["has no step 'RUN make'", "RUN cat src/*"]);
    let said = story.home.run(["explain", "01234567890123456789012345"]).failed().stderr;
    contains(&said, &["there is no account of build", all["build"].as_str().unwrap()]);
    let said = story.home.run(["explain", "first"]).failed().stderr;
    contains(&said, &["'first' is neither `last` nor the id of a build"]);
}

#[test]
fn what_was_asked_for_and_what_failed_is_said() {
    let story = Story::new("FROM busybox:golden\nRUN true\nRUN exit 3\n", &[]);
    story.try_build(&[]).failed();
    let first = explained(&story, &[]);
    assert_eq!(why(&first, "RUN true").0, "miss");
    assert_eq!(why(&first, "RUN exit 3").0, "failed");
    story.try_build(&["--no-cache"]).failed();
    let second = explained(&story, &["last", "run true"]);
    assert_eq!(why(&second, "RUN true").1["why"], "no-cache");
    // The result of a build without a cache is taken by the next.
    story.try_build(&[]).failed();
    assert_eq!(why(&explained(&story, &[]), "RUN true").0, "hit");
    // The build that is meant may be an older one.
    let again = explained(&story, &[second["build"].as_str().unwrap()]);
    assert_eq!(why(&again, "RUN true").1["why"], "no-cache");
}

#[test]
fn what_was_pruned_is_said_with_its_rule() {
    let story = Story::new("FROM busybox:golden\nRUN echo a > /a\n", &[]);
    story.try_build(&[]).well();
    story.home.run(["prune", "--all"]).well();
    story.try_build(&[]).well();
    let explained = explained(&story, &[]);
    let (verdict, reason) = why(&explained, "RUN echo");
    assert_eq!(verdict, "miss");
    assert_eq!((&reason["why"], &reason["rule"]["rule"]), (&"evicted".into(), &"all".into()));
    let said = story.home.run(["explain"]).well().stdout;
    contains(
        &said,
        &["because its record was removed at", "everything that nobody used was to go"],
    );
}

#[test]
fn another_base_and_another_text_are_named() {
    let story = Story::new("FROM busybox:golden\nRUN true\n", &[]);
    story.try_build(&[]).well();
    story.write("Dockerfile", "FROM golang:1.24\nRUN true && true\n");
    story.try_build(&[]).well();
    let said = story.home.run(["explain"]).well().stdout;
    contains(
        &said,
        &[
            "the instruction itself",
            "before: RUN true\n",
            "now:    RUN true && true",
            "it stands on",
        ],
    );
    let from = explained(&story, &["last", "1"]);
    let (verdict, reason) = why(&from, "FROM");
    assert_eq!((verdict, &reason["why"]), ("miss", &"changed".into()), "{from}");
    let base = &reason["changes"][0];
    assert_eq!(base["what"], "base", "{reason}");
    contains(&base.to_string(), &["busybox:golden", "golang:1.24"]);
    assert_ne!(base["before"], base["after"]);
    // Times are those of all other JSON of this program.
    let submitted = from["submitted"].as_str().unwrap();
    assert!(submitted.starts_with("20") && submitted.ends_with('Z'), "{submitted}");
    assert!(reason["at"].as_str().unwrap().ends_with('Z'), "{reason}");
}

#[test]
fn a_cluster_explains_its_builds() {
    let registry = Registry::start();
    fill(&registry);
    let mut cluster = Cluster::start(Home::new(&registry.as_docker_io()), 1, 2);
    let context = cluster.home.path("context");
    let mut entries = vec![ContextEntry::file("Dockerfile", DOCKERFILE)];
    entries.extend(FILES.iter().map(|(path, text)| ContextEntry::file(path, text)));
    write_context(&context, &entries);
    let said = cluster.ask("explain", &[]).failed().stderr;
    contains(&said, &["no build is known here"]);

    let folder = cluster.home.arg("context");
    cluster.ask("submit", &["-t", "app:1", &folder]).well();
    std::fs::write(context.join("src/a.txt"), "other\n").unwrap();
    cluster.ask("submit", &["-t", "app:2", &folder]).well();
    // Accounts outlive the coordinator.
    cluster.kill_coordinator();
    cluster.start_coordinator();
    let said = cluster.ask("explain", &["last"]).well().stdout;
    contains(&said, &["files of context src", "/app/src/a.txt: content", "COPY src"]);
    let said = cluster.ask("explain", &["last", "9999"]).failed().stderr;
    contains(&said, &["has no step '9999'"]);
    let said = cluster.ask("explain", &["01234567890123456789012345"]).failed().stderr;
    contains(&said, &["there is no account of build"]);
}
