//! Source policies: what a build may take from outside, on one machine and on a cluster.
#![expect(clippy::unwrap_used, reason = "test")]

use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::running::{Finished, Running};
use dcbuild_tests::story::Story;
use dcbuild_tests::wait::LONG;
use dcbuild_tests::web::Web;

const BASE: &str = "FROM busybox:golden\nRUN echo made > /made\n";
const DENY_ALL: &str = r#"{"rules": [
    {"action": "DENY", "selector": {"identifier": "*"}},
    {"action": "ALLOW", "selector": {"identifier": "local://dockerfile"}}
]}"#;
/// The digest of `text`.
const TEXT_SHA256: &str = "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1";

fn rule(action: &str, identifier: &str) -> String {
    format!(r#"{{"action": "{action}", "selector": {{"identifier": "{identifier}"}}}}"#)
}

fn convert(from: &str, updates: &str) -> String {
    format!(
        r#"{{"action": "CONVERT", "selector": {{"identifier": "{from}"}}, "updates": {{{updates}}}}}"#
    )
}

fn to(identifier: &str) -> String {
    format!(r#""identifier": "{identifier}""#)
}

/// Writes a policy beside the context and gives its path.
fn policy(story: &Story, rules: &[String]) -> String {
    let text = format!(r#"{{"version": 1, "rules": [{}]}}"#, rules.join(", "));
    std::fs::write(story.home.path("policy.json"), text).unwrap();
    story.home.arg("policy.json")
}

fn refused(story: &Story, rules: &[String]) -> String {
    let file = policy(story, rules);
    let done = story.try_build(&["--policy", &file]);
    assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
    done.stderr
}

/// Builds with the variable that docker knows.
fn with_variable(story: &Story, file: &str) -> Finished {
    let mut command =
        story.home.command(["build", "--progress", "plain", &story.home.arg("context")]);
    command.env("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", file);
    Running::start(command).finish(LONG)
}

/// A step that is in the cache stands on nothing that is denied by now.
#[test]
fn what_is_denied_is_denied_though_the_cache_has_it() {
    let story = Story::new(BASE, &[]);
    story.build(&[]);
    std::fs::write(story.home.path("deny.json"), DENY_ALL).unwrap();
    let done = with_variable(&story, &story.home.arg("deny.json"));
    assert_eq!(done.status.code(), Some(1));
    let want = "busybox:golden: could not resolve image due to policy: source \"docker-image://docker.io/library/busybox:golden\" denied by policy: source denied by policy";
    assert!(done.stderr.contains(want), "{}", done.stderr);
    assert!(done.stderr.contains("Dockerfile:1"), "{}", done.stderr);
    assert!(done.stderr.contains("hint: rule 1 of deny.json denies it"), "{}", done.stderr);
    // What the policy does not deny is as it was, and from the cache.
    let file = policy(&story, &[rule("DENY", "docker-image://docker.io/library/alpine:*")]);
    let again = story.build(&["--policy", &file]);
    assert_eq!(again.ran, [""; 0]);
    with_variable(&story, &file).well();
}

#[test]
fn another_image_is_taken_in_the_place_of_one() {
    let story =
        Story::new("FROM nosuch:1 AS a\nFROM nosuch:2\nCOPY --from=a /bin/busybox /b\n", &[]);
    let file = policy(
        &story,
        &[convert(
            "docker-image://docker.io/library/nosuch:*",
            &to("docker-image://docker.io/library/busybox:golden"),
        )],
    );
    let built = story.build(&["--policy", &file]);
    story.write("Dockerfile", "FROM busybox:golden\nCOPY --from=busybox:golden /bin/busybox /b\n");
    assert_eq!(story.build(&[]).image.diff_ids(), built.image.diff_ids());
    // What is taken instead is asked about too, and a circle ends.
    story.write("Dockerfile", "FROM nosuch:1\n");
    let golden = "docker-image://docker.io/library/busybox:golden";
    let nosuch = "docker-image://docker.io/library/nosuch:1";
    let said = refused(&story, &[convert(nosuch, &to(golden)), rule("DENY", golden)]);
    assert!(said.contains(&format!("source {golden:?} denied by policy")), "{said}");
    let said = refused(&story, &[convert(nosuch, &to(golden)), convert(golden, &to(nosuch))]);
    assert!(said.contains("too many mutations on a single source"), "{said}");
    assert!(said.contains("hint: the rules go round"), "{said}");
}

#[test]
fn files_and_repositories_are_held_to_the_policy() {
    let web = Web::start();
    web.put("a", "text");
    web.put("mirror/a", "text");
    let url = web.url("a");
    let story = Story::new(&format!("FROM scratch\nADD {url} /x\n"), &[]);
    let pin = |digest: &str| convert(&url, &format!(r#""attrs": {{"http.checksum": "{digest}"}}"#));
    let said = refused(&story, &[pin(&format!("sha256:{}", "0".repeat(64)))]);
    assert!(said.contains("digest mismatch"), "{said}");
    let file = policy(&story, &[pin(&format!("sha256:{TEXT_SHA256}"))]);
    assert_eq!(story.build(&["--policy", &file]).image.tree().text("x").unwrap(), "text");
    let file = policy(&story, &[convert(&url, &to(&web.url("mirror/a")))]);
    assert_eq!(story.build(&["--policy", &file]).image.tree().text("x").unwrap(), "text");
    assert!(web.asked().iter().any(|line| line.starts_with("GET /mirror/a")), "{:?}", web.asked());
    let said = refused(&story, &[rule("DENY", "http://*")]);
    let want = format!("error evaluating the source policy: source {url:?} denied by policy");
    assert!(said.contains(&want) && said.contains("Dockerfile:2"), "{said}");

    let repository = web.repository("app");
    repository.commit(&[("f", "one")]);
    let git = web.url("app.git");
    story.write("Dockerfile", &format!("FROM scratch\nADD {git}#main /x\n"));
    let place = git.split_once("://").map_or("", |(_, place)| place);
    let said = refused(&story, &[rule("DENY", "git://*")]);
    assert!(said.contains(&format!("source \"git://{place}#main\" denied by policy")), "{said}");
}

#[test]
fn what_a_client_reads_and_fetches_itself_is_held_to_the_policy() {
    let web = Web::start();
    web.put("Dockerfile", "FROM scratch\nCOPY f /f\n");
    let story = Story::new("FROM scratch\nCOPY f /f\n", &[("f", "file")]);
    let said = refused(&story, &[rule("DENY", "local://*")]);
    assert!(said.contains("source \"local://dockerfile\" denied by policy"), "{said}");
    assert!(said.contains("hint: rule 1 of policy.json denies it"), "{said}");
    let said = refused(&story, &[rule("DENY", "local://context")]);
    assert!(said.contains("source \"local://context\" denied by policy"), "{said}");
    // A context that nothing is read of is not asked about.
    story.write("Dockerfile", "FROM scratch\nLABEL a=b\n");
    let file = policy(&story, &[rule("DENY", "local://context")]);
    story.try_build(&["--policy", &file]).well();

    let file = policy(&story, &[rule("DENY", "http://*"), rule("DENY", "local://x")]);
    let far = web.url("Dockerfile");
    let done = story.home.run(["build", "--policy", &file, &far]).failed();
    assert!(done.stderr.contains(&format!("source {far:?} denied by policy")), "{}", done.stderr);
    assert_eq!(web.asked(), [""; 0]);
    let named = format!("x={}", story.home.arg("context"));
    story.write("Dockerfile", "FROM scratch\nCOPY --from=x f /f\n");
    let done = story.try_build(&["--policy", &file, "--build-context", &named]).failed();
    assert!(done.stderr.contains("source \"local://x\" denied by policy"), "{}", done.stderr);
}

#[test]
fn a_policy_that_cannot_be_followed_stops_the_build() {
    let story = Story::new(BASE, &[]);
    let none = story.home.arg("none.json");
    let done = story.try_build(&["--policy", &none]).failed();
    assert!(done.stderr.contains("could not read the source policy"), "{}", done.stderr);
    let said = refused(&story, &[rule("FORBID", "*")]);
    assert!(said.contains("policy.json is no source policy: unknown variant `FORBID`"), "{said}");
}

#[test]
fn a_cluster_follows_the_policy_of_its_client() {
    let Story { home, registry } = Story::new(BASE, &[]);
    std::fs::write(home.path("deny.json"), DENY_ALL).unwrap();
    let (context, file) = (home.arg("context"), home.arg("deny.json"));
    let cluster = Cluster::start(home, 1, 1);
    cluster.ask("submit", &[&context]).well();
    let done = cluster.ask("submit", &["--policy", &file, &context]);
    assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
    assert!(done.stderr.contains("could not resolve image due to policy"), "{}", done.stderr);
    drop(registry);
}
