use dcbuild_model::{Added, Named, Remote};

use super::*;
use crate::sources::Sources;

fn policy(text: &str) -> SourcePolicy {
    SourcePolicy::parse("policy.json", text.as_bytes()).unwrap()
}

fn engine(texts: &[&str]) -> Engine {
    Engine::new(&texts.iter().map(|text| policy(text)).collect::<Vec<_>>()).unwrap()
}

fn nothing(sources: &Sources) -> Known<'_> {
    Known { platform: None, sources }
}

fn rules(rules: &[&str]) -> String {
    format!(r#"{{"version": 1, "rules": [{}]}}"#, rules.join(","))
}

fn rule(action: &str, identifier: &str) -> String {
    format!(r#"{{"action": "{action}", "selector": {{"identifier": "{identifier}"}}}}"#)
}

fn convert(from: &str, to: &str) -> String {
    format!(
        r#"{{"action": "CONVERT", "selector": {{"identifier": "{from}"}}, "updates": {{"identifier": "{to}"}}}}"#
    )
}

/// What is made of a source: its identifier and attributes, or why it is not taken.
fn told(engine: &Engine, identifier: &str, attrs: &[(&str, &str)]) -> String {
    let attrs = attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let source = Source { identifier: identifier.to_owned(), attrs: attrs.collect() };
    match engine.evaluate(source) {
        Ok(Source { identifier, attrs }) if attrs.is_empty() => identifier,
        Ok(Source { identifier, attrs }) => format!("{identifier} {attrs:?}"),
        Err(error) => format!("{error} ({})", error.hint().unwrap_or_default()),
    }
}

const BUSYBOX: &str = "docker-image://docker.io/library/busybox:latest";
const ALPINE: &str = "docker-image://docker.io/library/alpine:latest";

#[test]
fn the_last_rule_that_speaks_decides() {
    let (allow, deny) = (rule("ALLOW", BUSYBOX), rule("DENY", BUSYBOX));
    let denied = |rule: u32| {
        format!(
            "source {BUSYBOX:?} denied by policy: source denied by policy (rule {rule} of policy.json denies it)"
        )
    };
    for (given, want) in [
        (vec![&allow, &deny, &allow], BUSYBOX.to_owned()),
        (vec![&allow, &deny], denied(2)),
        (vec![&deny], denied(1)),
        (vec![&allow], BUSYBOX.to_owned()),
        (vec![], BUSYBOX.to_owned()),
    ] {
        let given: Vec<&str> = given.into_iter().map(String::as_str).collect();
        assert_eq!(told(&engine(&[&rules(&given)]), BUSYBOX, &[]), want, "{given:?}");
    }
    // What one policy allows, the next may deny.
    let two = engine(&[&rules(&[&allow]), &rules(&[&deny])]);
    assert!(told(&two, BUSYBOX, &[]).contains("denied by policy"));
    let all = engine(&[&rules(&[&rule("DENY", "*")])]);
    for identifier in [BUSYBOX, "https://example.com/x", "git://host/a.git#main", "local://context"]
    {
        assert!(told(&all, identifier, &[]).contains("denied by policy"), "{identifier}");
    }
    let hosts = engine(&[&rules(&[&rule("DENY", "https://*"), &rule("ALLOW", "https://a.com/*")])]);
    assert_eq!(told(&hosts, "https://a.com/b", &[]), "https://a.com/b");
    assert!(told(&hosts, "https://b.com/a", &[]).contains("denied by policy"));
    assert_eq!(told(&hosts, "http://b.com/a", &[]), "http://b.com/a");
}

#[test]
fn what_is_converted_is_asked_about_again() {
    let to_alpine = convert(BUSYBOX, ALPINE);
    let no_alpine = rule("DENY", "docker-image://docker.io/library/alpine:*");
    for order in [[&to_alpine, &no_alpine], [&no_alpine, &to_alpine]] {
        let engine = engine(&[&rules(&order.map(String::as_str))]);
        assert!(told(&engine, BUSYBOX, &[]).starts_with(&format!("source {ALPINE:?} denied")));
    }
    // A rule that converts goes before those that deny what it converts.
    let engine_of = |given: &[&str]| engine(&[&rules(given)]);
    let engine = engine_of(&[&rule("DENY", BUSYBOX), &to_alpine]);
    assert_eq!(told(&engine, BUSYBOX, &[]), ALPINE);
    let round = engine_of(&[&to_alpine, &convert(ALPINE, BUSYBOX)]);
    let error = told(&round, BUSYBOX, &[]);
    assert!(
        error.starts_with("too many mutations on a single source: too many operations"),
        "{error}"
    );
    assert!(error.contains(&format!("{BUSYBOX} -> {ALPINE}")), "{error}");
    // A rule that changes nothing converts nothing.
    assert_eq!(told(&engine_of(&[&convert(BUSYBOX, BUSYBOX)]), BUSYBOX, &[]), BUSYBOX);
    let chain = ["a", "b", "c"].map(|name| format!("docker-image://h/{name}:1"));
    let chain = engine_of(&[&convert(&chain[0], &chain[1]), &convert(&chain[1], &chain[2])]);
    assert_eq!(told(&chain, "docker-image://h/a:1", &[]), "docker-image://h/c:1");
}

/// Twenty conversions of this kind would make more than any machine has room for.
#[test]
fn what_a_rule_makes_is_bounded() {
    let many = convert("docker-image://*", &format!("docker-image://{}", "${1}".repeat(60)));
    let error = told(&engine(&[&rules(&[&many])]), BUSYBOX, &[]);
    assert!(error.starts_with("the source policy makes more than 64 KiB of"), "{error}");
    assert!(error.len() < 1000, "{error}");
}

#[test]
fn patterns_hand_on_what_they_matched() {
    const GOLANG: &str = "docker-image://docker.io/library/golang:1.19";
    const MIRROR: &str = "docker-image://fakereg.io/library/golang:1.19";
    let to = "docker-image://fakereg.io/library/golang:${1}";
    let selector = |identifier: &str, kind: &str| {
        format!(
            r#"{{"action": "CONVERT", "selector": {{"identifier": "{identifier}", {kind}}}, "updates": {{"identifier": "{to}"}}}}"#
        )
    };
    let wildcard = "docker-image://docker.io/library/golang:*";
    let regex = r"docker\\-image://docker\\.io/library/golang:(.*)";
    for (identifier, kind) in [
        (wildcard, r#""match_type": "WILDCARD""#),
        (wildcard, r#""matchType": "WILDCARD""#),
        (wildcard, r#""constraints": null"#),
        (regex, r#""matchType": "REGEX""#),
        (regex, r#""match_type": 2"#),
    ] {
        let engine = engine(&[&rules(&[&selector(identifier, kind)])]);
        assert_eq!(told(&engine, GOLANG, &[]), MIRROR, "{identifier} {kind}");
    }
    // An exact selector has no patterns, and `$` in what it converts to is a letter like others.
    let exact = engine(&[&rules(&[&selector(wildcard, r#""matchType": "EXACT""#)])]);
    assert_eq!(told(&exact, GOLANG, &[]), GOLANG);
    assert_eq!(told(&exact, wildcard, &[]), to);
}

#[test]
fn attributes_are_compared_and_set() {
    let constrained = |condition: &str| {
        engine(&[&rules(&[&format!(
            r#"{{"action": "DENY", "selector": {{"identifier": "*", "constraints": [{{"key": "foo", {condition}}}]}}}}"#
        )])])
    };
    for (condition, value, denied) in [
        (r#""value": "bar""#, "bar", true),
        (r#""value": "bar""#, "nope", false),
        (r#""value": "bar", "condition": "EQUAL""#, "bar", true),
        (r#""value": "bar", "condition": "NOTEQUAL""#, "bar", false),
        (r#""value": "bar", "condition": 1"#, "ok", true),
        (r#""value": "^b\\w+", "condition": "MATCHES""#, "bar", true),
        (r#""value": "^\\d+", "condition": "MATCHES""#, "b1", false),
        (r#""value": "\\d$", "condition": "MATCHES""#, "b1", true),
    ] {
        let told = told(&constrained(condition), BUSYBOX, &[("foo", value)]);
        assert_eq!(told.contains("denied by policy"), denied, "{condition} {value}: {told}");
    }
    // Where an attribute is absent it is empty.
    let absent = told(&constrained(r#""value": "bar""#), BUSYBOX, &[]);
    assert_eq!(absent, BUSYBOX);
}

fn added(address: &str, checksum: Option<&str>) -> Added {
    let remote = Remote::parse(address, Named::ByDockerfile).unwrap().unwrap();
    Added { remote, checksum: checksum.map(|digest| digest.parse().unwrap()) }
}

#[test]
fn what_is_fetched_follows_the_rules() {
    const SUM: &str = "sha256:6e4b94fc270e708e1068be28bd3551dc6917a4fc5a61293d51bb36e6b75c4b53";
    let url = "https://raw.githubusercontent.com/moby/buildkit/v0.10.1/README.md";
    let pin = |value: &str| {
        engine(&[&rules(&[&format!(
            r#"{{"action": "CONVERT", "selector": {{"identifier": "{url}"}}, "updates": {{"attrs": {{"http.checksum": "{value}"}}}}}}"#
        )])])
    };
    assert_eq!(pin(SUM).added_by_files(&added(url, None)).unwrap(), added(url, Some(SUM)));
    let error = pin("sha256:12").added_by_files(&added(url, None)).unwrap_err().to_string();
    assert!(error.contains("http.checksum"), "{error}");
    let git = |from: &str, to: &str| engine(&[&rules(&[&convert(from, to)])]);
    let mirror = git("https://a.com/*", "https://b.com/$1");
    assert_eq!(
        mirror.added_by_files(&added("https://a.com/x", None)).unwrap(),
        added("https://b.com/x", None)
    );
    for (from, to, address, want) in [
        (
            "git://github.com/moby/buildkit.git#master",
            "git://github.com/moby/buildkit.git#v0.10.1",
            "https://github.com/moby/buildkit.git#master",
            "https://github.com/moby/buildkit.git#v0.10.1",
        ),
        (
            "git://github.com/*",
            "git://mirror.example/${1}",
            "https://github.com/team/app.git#v1:src",
            "https://mirror.example/team/app.git#v1:src",
        ),
        (
            "git://github.com/team/app.git",
            "git://github.com/team/app.git#v2",
            "git@github.com:team/app.git",
            "git@github.com:team/app.git#v2",
        ),
        ("https://a.com/x", "git://a.com/y.git", "https://a.com/x", "https://a.com/y.git"),
    ] {
        let got = git(from, to).added_by_files(&added(address, None)).unwrap();
        assert_eq!(got, added(want, None), "{address}");
    }
    let elsewhere = format!(
        r#"{{"action": "CONVERT", "selector": {{"identifier": "git://*"}}, "updates": {{"attrs": {{"git.fullurl": "https://b.com/x.git", "git.checksum": "{}"}}}}}}"#,
        "ab".repeat(20)
    );
    let got =
        engine(&[&rules(&[&elsewhere])]).added_by_files(&added("https://a.com/x.git#v1", None));
    let want = format!("https://b.com/x.git?ref=v1&commit={}", "ab".repeat(20));
    assert_eq!(got.unwrap(), added(&want, None));
    let error = git("https://*", BUSYBOX).added_by_files(&added(url, None)).unwrap_err();
    assert!(error.to_string().contains("which is no web address"), "{error}");
    let error = git(BUSYBOX, "https://a.com/x")
        .image(&"busybox".parse().unwrap(), nothing(&Sources::default()))
        .unwrap_err();
    assert!(error.to_string().contains("which is no image of a registry"), "{error}");
}

#[test]
fn files_that_are_no_policies_are_refused() {
    for (text, part) in [
        ("", "is no source policy: it is no JSON object"),
        ("[]", "is no source policy: it is no JSON object"),
        ("{", "is no source policy: EOF"),
        (r#"{"version": 2}"#, "its version is 2, and 1 is known"),
        (r#"{"sources": []}"#, "unknown field `sources`"),
        (
            r#"{"rules": [{"action": "DENY"}]}"#,
            "rule 1 of policy.json cannot be followed: it has no selector",
        ),
        (r#"{"rules": [{"action": "FORBID", "selector": {}}]}"#, "unknown variant `FORBID`"),
        (r#"{"rules": [{"action": 7, "selector": {}}]}"#, "7 means nothing"),
        (
            r#"{"rules": [{"action": "CONVERT", "selector": {}}]}"#,
            "missing destination for convert rule",
        ),
        (
            r#"{"rules": [{"action": "DENY", "selector": {}, "updates": {}}]}"#,
            "it has updates and does not convert",
        ),
        (
            r#"{"rules": [{"action": "DENY", "selector": {"identifier": "a**"}}]}"#,
            "invalid wildcard: \"**\"",
        ),
        (
            r#"{"rules": [{"selector": {"identifier": "a"}}, {"selector": {"identifier": "(", "matchType": "REGEX"}}]}"#,
            "rule 2 of policy.json cannot be followed: invalid regex \"(\"",
        ),
        (
            r#"{"rules": [{"selector": {"constraints": [{"value": "(", "condition": "MATCHES"}]}}]}"#,
            "invalid regex",
        ),
    ] {
        let error = SourcePolicy::parse("policy.json", text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    // An empty file of rules denies nothing.
    assert_eq!(policy("{}").rules, []);
    // A policy travels as it was read.
    let policy = policy(&rules(&[&convert(BUSYBOX, ALPINE), &rule("DENY", "*")]));
    let text = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<SourcePolicy>(&text).unwrap(), policy);
}
