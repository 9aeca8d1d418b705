//! Policies in Rego: what a build may take, on one machine and on a cluster.

use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::story::Story;
use dcbuild_tests::web::Web;

/// The digest of `text`.
const TEXT: &str = "sha256:982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1";
const BASE: &str = "FROM busybox:golden\nRUN echo made > /made\n";

/// A policy that lets folders through, and what the conditions allow.
fn allows(conditions: &[&str]) -> String {
    let rules: String =
        conditions.iter().map(|it| ["allow if {\n    ", it, "\n}\n\n"].concat()).collect();
    format!(
        "package docker\n\ndefault allow := false\n\nallow if input.local\n\n{rules}deny_msg contains \"not on the list\" if not allow\n\ndecision := {{\"allow\": allow, \"deny_msg\": deny_msg}}\n"
    )
}

fn refused(story: &Story, flags: &[&str]) -> String {
    let done = story.try_build(flags);
    assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
    done.stderr
}

#[test]
fn a_policy_beside_the_dockerfile_is_asked_by_itself_and_of_what_is_cached_too() {
    let story = Story::new(BASE, &[("f", "file")]);
    story.build(&[]);
    story.write("Dockerfile.rego", &allows(&["input.image.repo == \"alpine\""]));
    let said = refused(&story, &[]);
    let want = "busybox:golden: could not resolve image due to policy: source \"docker-image://docker.io/library/busybox:golden\" not allowed by policy: not on the list";
    assert!(said.contains(want) && said.contains("Dockerfile:1"), "{said}");
    assert!(said.contains("hint: Dockerfile.rego does not allow it"), "{said}");
    // Without it, with another one, and with one that allows.
    story.try_build(&["--policy", "disabled=true"]).well();
    let other = allows(&["input.image.tag == \"golden\""]);
    std::fs::write(story.home.path("other.rego"), other).unwrap();
    let other = story.home.arg("other.rego");
    let named = format!("reset=true,filename={other}");
    assert_eq!(story.build(&["--policy", &named]).ran, [""; 0]);
    refused(&story, &["--policy", &other]);
    story.write("Dockerfile.rego", &allows(&["input.image.repo == \"busybox\""]));
    story.try_build(&["--policy", &format!("filename={other},strict=true")]).well();
    // The name of the Dockerfile is that of its policy.
    story.write("app.Dockerfile", BASE);
    let file = story.home.arg("context/app.Dockerfile");
    story.try_build(&["--policy", "strict=true"]).well();
    let said = refused(&story, &["-f", &file, "--policy", "strict=true"]);
    assert!(said.contains("there is no policy, and --policy strict=true wants one"), "{said}");
    assert!(said.contains("app.Dockerfile.rego', or name a file with --policy"), "{said}");
    story.write("app.Dockerfile.rego", &allows(&[]));
    let said = refused(&story, &["-f", &file]);
    assert!(said.contains("hint: app.Dockerfile.rego does not allow it"), "{said}");
}

#[test]
fn what_an_image_holds_is_looked_up_where_a_policy_reads_it() {
    let story = Story::new(BASE, &[("versions.json", "[\"golden\"]")]);
    story.write("Dockerfile.rego", &allows(&["input.image.labels.vendor == \"us\""]));
    refused(&story, &[]);
    let text = "\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\" in input.image.env\n    startswith(input.image.checksum, \"sha256:\")\n    print(\"a digest:\", input.image.checksum)\n    input.image.tag in load_json(\"versions.json\")";
    story.write("Dockerfile.rego", &allows(&[text]));
    let done = story.try_build(&["--policy", "log-level=debug"]).well();
    assert!(
        done.stderr.contains("check policy for docker-image://docker.io/library/busybox:golden"),
        "{}",
        done.stderr
    );
    assert!(done.stderr.contains("a digest: sha256:"), "{}", done.stderr);
    assert!(
        done.stderr.contains("\"workingDir\"") || done.stderr.contains("\"fullRepo\""),
        "{}",
        done.stderr
    );
    assert!(done.stderr.contains("Dockerfile.rego: ALLOW"), "{}", done.stderr);
    // An image that is not there is said as without a policy.
    story.write("Dockerfile", "FROM busybox:nosuch\n");
    let said = refused(&story, &[]);
    assert!(said.contains("busybox:nosuch: failed to resolve source metadata"), "{said}");
}

#[test]
fn a_policy_pins_an_image_and_the_files_of_rules_are_asked_about_that() {
    let story = Story::new(BASE, &[]);
    let digest = story.registry.get("library/busybox:golden").digest;
    let pin = allows(&[&format!(
        "input.image.tag == \"golden\"\n    pin_image(input.image, \"{digest}\")"
    )]);
    story.write("Dockerfile.rego", &pin);
    let done = story.try_build(&[]).well();
    assert!(done.stderr.contains(&format!("busybox:golden@{digest}")), "{}", done.stderr);
    let rules = format!(
        r#"{{"rules": [{{"action": "DENY", "selector": {{"identifier": "docker-image://*@{digest}"}}}}]}}"#
    );
    std::fs::write(story.home.path("deny.json"), rules).unwrap();
    let said = refused(&story, &["--policy", &story.home.arg("deny.json")]);
    assert!(said.contains(&format!("busybox:golden@{digest}\" denied by policy")), "{said}");
    let wrong = format!("sha256:{}", "0".repeat(64));
    story.write("Dockerfile.rego", &pin.replace(&digest, &wrong));
    let said = refused(&story, &[]);
    assert!(said.contains(&wrong), "{said}");
}

#[test]
fn files_and_repositories_are_looked_at_before_they_are_taken() {
    let web = Web::start();
    web.put("a", "text");
    let (url, repository) = (web.url("a"), web.repository("app"));
    let story = Story::new(&format!("FROM scratch\nADD {url} /x\n"), &[]);
    story.write("Dockerfile.rego", &allows(&["input.http.schema == \"https\""]));
    let said = refused(&story, &[]);
    assert!(said.contains(&format!("source {url:?} not allowed by policy")), "{said}");
    assert!(said.contains("Dockerfile:2"), "{said}");
    assert_eq!(web.asked(), [""; 0]);
    story.write("Dockerfile.rego", &allows(&[&format!("input.http.checksum == \"{TEXT}\"")]));
    assert_eq!(story.build(&[]).image.tree().text("x").unwrap(), "text");
    web.put("a", "another text");
    refused(&story, &["--no-cache"]);

    let commit = repository.commit(&[("f", "one")]);
    repository.run(&["tag", "--annotate", "--message", "first", "v1"]);
    repository.publish();
    let git = web.url("app.git");
    for (reference, condition, allowed) in [
        ("v1", "input.git.tagName == \"v1\"\n    input.git.isAnnotatedTag\n    input.git.tag.message == \"first\\n\"".to_owned(), true),
        ("v1", format!("input.git.commitChecksum == \"{commit}\"\n    input.git.checksum != input.git.commitChecksum"), true),
        ("main", "input.git.branch == \"main\"\n    input.git.commit.author.email == \"a@example.com\"".to_owned(), true),
        ("", "input.git.ref == \"refs/heads/main\"".to_owned(), true),
        ("main", "input.git.tagName == \"v1\"".to_owned(), false),
        ("main", format!("input.git.remote == {git:?}"), true),
        (&commit, "input.git.isCommitRef".to_owned(), true),
    ] {
        let reference = if reference.is_empty() { String::new() } else { format!("#{reference}") };
        story.write("Dockerfile", &format!("FROM scratch\nADD {git}{reference} /x\n"));
        story.write("Dockerfile.rego", &allows(&[&condition]));
        let done = story.try_build(&[]);
        assert_eq!(done.status.success(), allowed, "{condition}: {}", done.stderr);
    }
}

#[test]
fn what_a_flag_names_is_asked_about_too() {
    let web = Web::start();
    let repository = web.repository("app");
    let deny = allows(&["input.git.branch == \"release\""]);
    repository.commit(&[
        ("Dockerfile", "FROM scratch\nCOPY f /f\n"),
        ("f", "one"),
        ("Dockerfile.rego", &deny),
    ]);
    let story = Story::new("FROM scratch\nCOPY --from=lib f /f\n", &[]);
    let git = web.url("app.git");
    let done = story.home.run(["build", &git]).failed();
    assert!(done.stderr.contains("not allowed by policy: not on the list"), "{}", done.stderr);
    repository.run(&["branch", "release"]);
    repository.publish();
    story.home.run(["build", &format!("{git}#release")]).well();
    story.write("Dockerfile.rego", &deny);
    let lib = format!("lib={git}");
    let said = refused(&story, &["--build-context", &lib]);
    assert!(said.contains("not allowed by policy: not on the list"), "{said}");
    story.try_build(&["--build-context", &format!("lib={git}#release")]).well();
    // Folders too, each by its name.
    story.write("Dockerfile", "FROM scratch\nCOPY f /f\n");
    story.write("f", "file");
    story.write("Dockerfile.rego", "package docker\n\ndefault allow := false\n\nallow if input.local.name == \"dockerfile\"\n\ndecision := {\"allow\": allow}\n");
    let said = refused(&story, &[]);
    assert!(said.contains("source \"local://context\" not allowed by policy"), "{said}");
    story.write(
        "Dockerfile.rego",
        "package docker\n\ndecision := {\"allow\": input.local.name == \"context\"}\n",
    );
    let said = refused(&story, &[]);
    assert!(said.contains("source \"local://dockerfile\" not allowed by policy"), "{said}");
}

#[test]
fn a_policy_that_cannot_be_asked_stops_the_build() {
    let story = Story::new(BASE, &[]);
    for (text, part) in [
        ("package docker\nallow { true }\n", "caused by: Dockerfile.rego:2:7: `if` keyword"),
        (
            "package docker\ndecision := {\"allow\": input.image.hasProvenance}\n",
            "caused by: Dockerfile.rego:2: a policy cannot have 'hasProvenance' here",
        ),
        (
            "package docker\ndecision := {\"allow\": verify_git_signature(input.git.tag, \"k\")}\n",
            "a policy cannot have 'verify_git_signature' here",
        ),
        (
            "package docker\ndecision := {\"allow\": nosuch(input.local.name)}\n",
            "Dockerfile.rego:2:29: could not find function nosuch",
        ),
    ] {
        story.write("Dockerfile.rego", text);
        let said = refused(&story, &[]);
        assert!(said.contains(part), "{text}: {said}");
    }
}

#[test]
fn a_cluster_asks_the_policy_of_its_client() {
    let Story { home, registry } = Story::new(BASE, &[]);
    let context = home.arg("context");
    let deny = allows(&["input.image.repo == \"alpine\""]);
    let label = allows(&["startswith(input.image.checksum, \"sha256:\")"]);
    let cluster = Cluster::start(home, 1, 1);
    cluster.ask("submit", &[&context]).well();
    std::fs::write(cluster.home.path("context/Dockerfile.rego"), deny).unwrap();
    let done = cluster.ask("submit", &[&context]);
    assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
    assert!(done.stderr.contains("not allowed by policy: not on the list"), "{}", done.stderr);
    std::fs::write(cluster.home.path("context/Dockerfile.rego"), label).unwrap();
    let done = cluster.ask("submit", &[&context]).well();
    assert!(done.stderr.contains("Dockerfile.rego: ALLOW"), "{}", done.stderr);
    drop(registry);
}
