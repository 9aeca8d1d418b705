//! Registries, forges and servers that are not there, are not well or say nothing: what is said, and the exit code by which a
//! CI system tries again.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::registry::{Registry, free_port};
use dcbuild_tests::running::{Finished, Running};
use dcbuild_tests::story::Story;
use dcbuild_tests::wait::LONG;
use dcbuild_tests::web::Web;

/// Another try may do.
const ANOTHER: Option<i32> = Some(75);
/// Its author mends it.
const AUTHOR: Option<i32> = Some(1);

fn check(story: &Story, dockerfile: &str, flags: &[&str], (code, says): (Option<i32>, &str)) {
    story.write("Dockerfile", dockerfile);
    let done = story.try_build(flags);
    assert_eq!(done.status.code(), code, "{dockerfile}\n{}", done.stderr);
    assert!(done.stderr.contains(says), "{dockerfile}\nno {says:?} in\n{}", done.stderr);
}

#[test]
fn the_exit_code_says_whether_another_try_may_do() {
    let story = Story::new("", &[]);
    let web = Web::start();
    web.repository("app").commit(&[("a", "a")]);
    let closed = format!("127.0.0.1:{}", free_port());
    let (add, from) = ("FROM scratch\nADD", "FROM");
    let repository = web.url("app.git");
    for (dockerfile, want) in [
        (format!("{add} http://{closed}/x /x"), (ANOTHER, "could not fetch http://")),
        (format!("{add} {} /x", web.url("ill/x")), (ANOTHER, "503 Service Unavailable")),
        (format!("{add} {} /x", web.url("x")), (AUTHOR, "404 Not Found")),
        (format!("{add} http://{closed}/x.git /x"), (ANOTHER, "Failed to connect")),
        (format!("{add} {} /x", web.url("ill/x.git")), (ANOTHER, "503")),
        (format!("{add} {} /x", web.url("none.git")), (AUTHOR, "could not list")),
        (format!("{add} {repository}#nothing /x"), (AUTHOR, "has no 'nothing'")),
        (format!("{add} {repository}#e9372ac /x"), (AUTHOR, "all of its 40 digits")),
        (format!("{from} {closed}/app:1"), (ANOTHER, "nothing listens at")),
        (format!("{from} busybox:none"), (AUTHOR, "manifest unknown")),
    ] {
        check(&story, &format!("{dockerfile}\n"), &[], want);
    }
    let target = format!("{closed}/app:1");
    let push = ["--push", "-t", &target];
    check(&story, "FROM scratch\nCOPY Dockerfile /d\n", &push, (ANOTHER, "nothing listens at"));
    let told = story.try_build(&push).failed().stderr;
    assert!(!told.contains("attempt 1 of"), "it is tried on another worker:\n{told}");
}

/// A port at which everything is answered with the same.
fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let host = listener.local_addr().expect("its address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            // Whoever hangs up early is told nothing.
            let _asked = stream.read(&mut [0; 4096]);
            let _told = stream.write_all(answer.as_bytes());
        }
    });
    host
}

const ASTRAY: &str =
    "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const YES: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

#[test]
fn what_is_no_such_server_may_be_one_at_another_try() {
    let story = Story::new("", &[]);
    let (astray, other, yes) =
        (answering(ASTRAY), answering("hello there\r\n\r\n"), answering(YES));
    let (add, from) = ("FROM scratch\nADD", "FROM");
    for (dockerfile, says) in [
        (format!("{from} {astray}/app:1"), "redirected more than 10 times"),
        (format!("{add} http://{astray}/x /x"), "it redirects more than 10 times"),
        (format!("{add} http://{astray}/x.git /x"), "redirects followed"),
        (format!("{from} {other}/app:1"), "could not reach"),
        (format!("{add} http://{other}/x /x"), "could not fetch"),
        (format!("{add} http://{other}/x.git /x"), "HTTP/0.9"),
    ] {
        check(&story, &format!("{dockerfile}\n"), &[], (ANOTHER, says));
    }
    let app = "FROM scratch\nCOPY Dockerfile /d\n";
    for (host, says) in [(&astray, "redirected more than"), (&yes, "and does not have it")] {
        let target = format!("{host}/app:1");
        check(&story, app, &["--push", "-t", &target], (ANOTHER, says));
    }
}

/// A port that takes connections, and says nothing.
fn mute() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let host = listener.local_addr().expect("its address").to_string();
    (listener, host)
}

#[test]
fn a_registry_that_says_nothing_is_told_of_and_no_cache_holds_a_build() {
    let (_listener, host) = mute();
    let story = Story::new(&format!("FROM {host}/app:1\n"), &[]);
    let context = story.home.arg("context");
    let build = |flags: &[&str]| {
        let fixed = ["build", "--progress", "plain"];
        story.home.start(fixed.into_iter().chain(flags.iter().copied()).chain([context.as_str()]))
    };
    let from = build(&[]);
    let told = format!("http://{host} has said nothing for 10 s");
    from.says(&told, LONG);
    from.terminate();
    from.finish(LONG).failed();

    story.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /d\n");
    let target = format!("{host}/app:2");
    let push = build(&["--push", "-t", &target]);
    push.says(&told, LONG);
    push.terminate();
    push.finish(LONG).failed();

    story.write("Dockerfile", &format!("FROM scratch\nADD http://{host}/file /x\n"));
    let add = build(&[]);
    add.says(&told, LONG);
    add.terminate();
    add.finish(LONG).failed();

    story.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /d\n");
    let cache = format!("type=registry,ref={host}/cache:1");
    let done = build(&["--cache-from", &cache]).finish(Duration::from_secs(40)).well();
    let said = "could not be read: could not pull";
    assert!(done.stderr.contains(said), "no {said:?} in\n{}", done.stderr);
    assert!(done.stderr.contains("was silent for 10 seconds"), "{}", done.stderr);
}

fn with_variable(home: &Home, (name, value): (&str, &str), arguments: &[&str]) -> Finished {
    let mut command = home.command(arguments.iter().copied());
    command.env(name, value);
    Running::start(command).finish(LONG)
}

#[test]
fn credentials_of_the_environment_open_a_registry() {
    const VARIABLE: &str = "DOCKER_AUTH_CONFIG";
    let registry = Registry::with_login();
    let story = Story::new("FROM scratch\nCOPY Dockerfile /d\n", &[]);
    let (context, target) = (story.home.arg("context"), format!("{}/app:1", registry.host));
    let push = ["build", "--push", "-t", &target, &context];
    // `bob:hunter2`.
    let auths = format!(r#"{{"auths":{{"{}":{{"auth":"Ym9iOmh1bnRlcjI="}}}}}}"#, registry.host);
    with_variable(&story.home, (VARIABLE, &auths), &push).well();

    let done = with_variable(&story.home, (VARIABLE, "hunter2"), &push).failed();
    let want = "warning: DOCKER_AUTH_CONFIG is skipped: it is no docker config, from line 1 on";
    assert!(done.stderr.contains(want), "{}", done.stderr);
    assert!(!done.stderr.contains("hunter2"), "{}", done.stderr);

    // A cache of the same registry is asked with the same.
    let cache = format!("type=registry,ref={}/cache:1", registry.host);
    let carry = ["build", "--cache-to", &cache, &context];
    let done = with_variable(&story.home, (VARIABLE, &auths), &carry).well();
    assert!(!done.stderr.contains("warning"), "{}", done.stderr);
}

/// Mirrors of companies want logins of their own, for layers as for manifests.
#[test]
fn a_mirror_with_a_login_gives_the_layers_too() {
    let registry = Registry::with_login();
    let text = "FROM base/of-theirs:1\nCOPY Dockerfile /d\nRUN cat /d > /e\n";
    registry.put("base/of-theirs:1", &dcbuild_tests::base::busybox());
    let home = Home::new(&registry.as_docker_io());
    write_context(&home.path("context"), &[ContextEntry::file("Dockerfile", text)]);
    let auths = format!(r#"{{"auths":{{"{}":{{"auth":"Ym9iOmh1bnRlcjI="}}}}}}"#, registry.host);
    let build = ["build", &home.arg("context")];
    with_variable(&home, ("DOCKER_AUTH_CONFIG", &auths), &build).well();
}

#[test]
fn a_token_names_its_forge_with_the_port_and_one_that_is_refused_is_told_from_none() {
    let story = Story::new("", &[]);
    let web = Web::start();
    web.repository("app").commit(&[("a", "a")]);
    let (private, closed) = (web.url("private/app.git"), web.url("closed/app.git"));
    std::fs::write(story.home.path("token"), "t").unwrap();
    let secret = |id: &str| format!("id=GIT_AUTH_TOKEN.{id},src={}", story.home.arg("token"));
    let (with_port, host) = (secret(&web.host), web.host.split(':').next().unwrap());
    let add = |url: &str| format!("FROM scratch\nADD {url} /x\n");

    story.write("Dockerfile", &add(&private));
    story.try_build(&["--secret", &with_port]).well();
    story.try_build(&["--no-cache", "--secret", &secret(host)]).well();
    // It opens a context as well, which has no Dockerfile: that is said by its address.
    let done = story.home.run(["build", "--secret", &with_port, &private]).failed();
    let want = format!("could not find the Dockerfile 'Dockerfile' in {private}");
    assert!(done.stderr.contains(&want), "no {want:?} in\n{}", done.stderr);

    let refused = format!("does not take GIT_AUTH_TOKEN.{}", web.host);
    check(&story, &add(&closed), &["--secret", &with_port], (AUTHOR, &refused));
    let hint = "hint: see whether the token of --secret id=GIT_AUTH_TOKEN.";
    check(&story, &add(&closed), &["--secret", &with_port], (AUTHOR, hint));
    check(&story, &add(&closed), &[], (AUTHOR, "hint: give --secret id=GIT_AUTH_TOKEN"));
}
