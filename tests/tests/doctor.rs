//! `dcbuild doctor` says what is wrong with a store, an index or a coordinator, and the way out.
#![expect(clippy::unwrap_used, reason = "test")]

use dcbuild_tests::home::Home;
use dcbuild_tests::redis::RedisServer;
use dcbuild_tests::running::{Finished, Running};
use dcbuild_tests::s3::S3Server;
use dcbuild_tests::s3::faults::Fault;
use dcbuild_tests::wait::LONG;
use serde_json::Value;

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn ask(home: &Home, s3: &S3Server, flags: &[&str]) -> Finished {
    let mut command = home.command(["doctor"].iter().chain(flags));
    command.envs(s3.environment()).env("DCBUILD_SIGNING_KEY", KEY);
    Running::start(command).finish(LONG)
}

/// The verdicts on a part, and all hints and words of it.
fn findings(done: &Finished, part: &str) -> (Vec<String>, String) {
    let told: Value = serde_json::from_str(&done.stdout).unwrap();
    let rows = told["findings"].as_array().unwrap().iter().filter(|row| row["part"] == part);
    let rows: Vec<&Value> = rows.collect();
    let verdicts = rows.iter().map(|row| row["verdict"].as_str().unwrap().to_owned()).collect();
    (verdicts, rows.iter().map(ToString::to_string).collect())
}

#[test]
fn a_good_store_and_index_are_good() {
    let (home, s3, redis) = (Home::new(""), S3Server::start(), RedisServer::start(&[]));
    let (store, index) = (s3.url("acme"), redis.url());
    let flags = ["--store", &store, "--index", &index, "--format", "json"];
    let done = ask(&home, &s3, &flags);
    assert_eq!(findings(&done, "store").0, ["ok"; 6], "{}", done.stdout);
    assert_eq!(findings(&done, "signing key").0, ["ok"]);
    assert_eq!(findings(&done, "index").0[0], "ok");
    assert_eq!(findings(&done, "state").0, ["ok"]);
    assert!(s3.keys().is_empty(), "it leaves nothing behind");
    let text = ask(&home, &s3, &flags[..4]);
    assert!(text.stdout.contains("ok       store        can write an object"), "{}", text.stdout);
}

#[test]
fn a_redis_without_tls_is_told_from_one_that_is_silent() {
    let (home, s3, redis) = (Home::new(""), S3Server::start(), RedisServer::start(&[]));
    let (store, index) = (s3.url("acme"), redis.url().replace("redis://", "rediss://"));
    let done = ask(&home, &s3, &["--store", &store, "--index", &index, "--format", "json"]);
    let (verdicts, said) = findings(&done, "index");
    assert_eq!(verdicts, ["wrong"], "{}", done.stdout);
    assert!(said.contains("speaks no TLS") && said.contains("write redis://"), "{said}");
    assert_eq!(done.stderr, "");
}

#[test]
fn what_is_wrong_is_said_with_the_way_out_and_an_exit_code() {
    let (home, mut s3) = (Home::new(""), S3Server::start());
    let store = s3.url("acme");
    let flags = ["--store", &store, "--format", "json"];
    s3.fail(|_| Some(Fault::DENIED));
    let done = ask(&home, &s3, &flags);
    assert_eq!(done.status.code(), Some(1));
    assert!(
        s3.fired() > 0 && findings(&done, "store").1.contains("s3:ListBucket"),
        "{}",
        done.stdout
    );
    for (fault, names) in [
        (
            Fault::NO_BUCKET,
            "is not where its address says: ListObjectsV2 failed: 404 NoSuchBucket told to; create the bucket",
        ),
        (Fault::REDIRECTED, "its region is eu-west-1; name the bucket's region with ?region="),
        (
            Fault::UNKNOWN_KEY,
            "refused access: ListObjectsV2 failed: 403 InvalidAccessKeyId told to; check AWS_ACCESS_KEY_ID",
        ),
    ] {
        s3.fail(move |_| Some(fault.clone()));
        let done = ask(&home, &s3, &flags);
        assert_eq!(done.status.code(), Some(1));
        assert!(findings(&done, "store").1.contains(names), "{}", done.stdout);
    }
    s3.heal();
    // What can be read can be full.
    s3.fail(|seen| (seen.request == "PutObject").then_some(Fault::QUOTA_IS_REACHED));
    let said = findings(&ask(&home, &s3, &flags), "store").1;
    assert!(said.contains("is full") && said.contains("`dcbuild cache prune`"), "{said}");
    s3.heal();
    s3.refuse();
    let done = ask(&home, &s3, &flags);
    assert!(findings(&done, "store").1.contains("check the endpoint"), "{}", done.stdout);
    let index = "redis://127.0.0.1:1";
    let flags = ["--store", &store, "--index", index, "--coordinator", "http://127.0.0.1:1"];
    let done = ask(&home, &s3, &[&flags[..], &["--format", "json"]].concat());
    assert_eq!(findings(&done, "index").0, ["wrong"], "{}", done.stdout);
    assert_eq!(findings(&done, "coordinator").0, ["wrong"], "{}", done.stdout);
    let refused = "Connection refused (os error 111)";
    let said = findings(&done, "index").1;
    assert!(said.contains(refused) && !said.contains(&format!("{refused}: {refused}")), "{said}");
    assert_eq!(done.stderr, "", "what is wrong is said once");
    let done = ask(&home, &s3, &["--store", "s3:/typo"]);
    assert_eq!(done.status.code(), Some(1), "{}", done.stdout);
}
