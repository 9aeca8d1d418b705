//! A cluster over TLS: who is let in, what is said to who is not, and a bucket with a certificate of its own.
#![expect(clippy::unwrap_used, reason = "test")]

mod page;
mod peers;

use std::path::PathBuf;

use dcbuild_testkit::tls::{Authority, Pair, Use, Valid};
use dcbuild_tests::cluster::{Cluster, Store};
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::image::Image;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::running::{Finished, Running};
use dcbuild_tests::s3::S3Server;
use dcbuild_tests::story::fill;
use dcbuild_tests::wait::{LONG, wait_for};

/// So often those are asked who once heard a reason only sometimes.
const TIMES: usize = 5;

const TWO_STAGES: &str = "FROM busybox:golden AS build\nRUN echo made > /made\n\
                          FROM busybox:golden\nRUN echo other > /other\nCOPY --from=build /made /\n";

/// The coordinator's part of a configuration.
fn of_coordinator(Pair { cert, key }: &Pair, client_ca: Option<PathBuf>) -> String {
    let client_ca = client_ca.map(|ca| format!("client_ca = '{}'\n", ca.display()));
    let (cert, key) = (cert.display(), key.display());
    let client_ca = client_ca.unwrap_or_default();
    format!("[coordinator.tls]\ncert = '{cert}'\nkey = '{key}'\n{client_ca}")
}

/// The part of those who reach it.
fn of_others(ca: PathBuf, Pair { cert, key }: &Pair) -> String {
    let (ca, cert, key) = (ca.display(), cert.display(), key.display());
    let table = format!("ca = '{ca}'\ncert = '{cert}'\nkey = '{key}'\n");
    format!("[worker.tls]\n{table}[submit.tls]\n{table}")
}

fn build(cluster: &Cluster) -> Image {
    let home = &cluster.home;
    write_context(&home.path("context"), &[ContextEntry::file("Dockerfile", TWO_STAGES)]);
    let output = format!("type=oci,dest={}", home.arg("image.tar"));
    cluster.ask("submit", &["--output", &output, &home.arg("context")]).well();
    Image::read_tar(&home.path("image.tar"))
}

#[test]
fn a_cluster_whose_members_all_have_certificates_builds() {
    let (ours, registry) = (Authority::new("ours"), Registry::start());
    fill(&registry);
    let server = ours.certificate("127.0.0.1", Valid::Now);
    let config = registry.as_docker_io()
        + "\n"
        + &of_coordinator(&server, Some(ours.ca()))
        + &of_others(ours.ca(), &ours.certificate("member", Valid::Now));
    let cluster = Cluster::start_secure(Store::default(), Home::new(&config), 2, 1);
    assert_eq!(build(&cluster).tree().text("made").unwrap(), "made\n");
    let workers = cluster.ask("workers", &[]).well();
    assert_eq!(workers.stdout.lines().count(), 3, "{}", workers.stdout);
    let doctor = cluster.ask("doctor", &[]);
    assert!(doctor.stdout.contains("https://127.0.0.1"), "{}", doctor.stdout);
    assert!(doctor.stdout.contains("and its key can be used"), "{}", doctor.stdout);
    assert!(!doctor.stdout.contains("wrong    coordinator"), "{}", doctor.stdout);
}

/// Someone with these variables asks the doctor about a coordinator.
fn ask(home: &Home, url: &str, environment: &[(&str, PathBuf)]) -> Finished {
    let mut command = home.command(["doctor", "--coordinator", url]);
    command.envs(environment.iter().map(|(name, path)| (name, path)));
    Running::start(command).finish(LONG)
}

fn pair(Pair { cert, key }: Pair) -> [(&'static str, PathBuf); 2] {
    [("DCBUILD_TLS_CERT", cert), ("DCBUILD_TLS_KEY", key)]
}

#[test]
fn who_is_not_let_in_hears_why_and_the_way_out() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let server = ours.certificate("127.0.0.1", Valid::Now);
    let home = Home::new(&of_coordinator(&server, Some(ours.ca())));
    let cluster = Cluster::start_secure(Store::default(), home, 0, 1);
    let (url, home) = (&cluster.url, Home::new(""));
    let ca = |authority: &Authority| vec![("DCBUILD_TLS_CA", authority.ca())];
    let with = |pair_of: Pair| [ca(&ours), pair(pair_of).to_vec()].concat();
    let good = with(ours.certificate("c", Valid::Now));
    let well = ask(&home, url, &good);
    assert!(well.stdout.contains("answers and remembers 0 builds"), "{}", well.stdout);
    let localhost = url.replace("127.0.0.1", "localhost");
    let plain = url.replace("https://", "http://");
    for (url, environment, words, hint) in [
        (url, vec![], "nobody who is trusted here", "DCBUILD_TLS_CA"),
        (url, ca(&theirs), "nobody who is trusted here", "submit.tls.ca"),
        (&localhost, good.clone(), "for another name", "by a name that its certificate has"),
        (&plain, vec![], "this port speaks TLS only", "write https://"),
        (&plain, good.clone(), "is not encrypted, and certificates are set", "write https://"),
    ] {
        let told = ask(&home, url, &environment);
        assert_eq!(told.status.code(), Some(1), "{}", told.stdout);
        assert!(told.stdout.contains(words), "{words}: {}", told.stdout);
        assert!(told.stdout.contains(hint), "{hint}: {}", told.stdout);
    }
    // Whoever submits hears the same, and does not try for minutes.
    write_context(&home.path("context"), &[ContextEntry::file("Dockerfile", "FROM scratch\n")]);
    let mut command = home.command(["submit", "--coordinator", url, &home.arg("context")]);
    command.env("DCBUILD_TLS_CA", theirs.ca());
    let told = Running::start(command).finish(LONG);
    assert_eq!(told.status.code(), Some(1), "{}", told.stderr);
    assert!(told.stderr.contains("nobody who is trusted here"), "{}", told.stderr);
    assert!(told.stderr.contains("hint: name the CA"), "{}", told.stderr);
    // A worker goes on trying, since the coordinator may be mended, and says the way out.
    let mut command = home.command(["worker", "--coordinator", url, "--data-dir", &home.arg("w")]);
    command.env("DCBUILD_TLS_CA", theirs.ca());
    Running::start(command).says("worker.tls.ca", LONG);
}

/// Runs `doctor`, `submit` and `worker` as one who is known by this, and gives what they say.
fn turned_away(home: &Home, url: &str, environment: &[(&str, PathBuf)]) -> [String; 3] {
    let start = |arguments: &[&str]| {
        let mut command = home.command(arguments);
        command.envs(environment.iter().map(|(name, path)| (name, path)));
        Running::start(command)
    };
    let doctor = start(&["doctor", "--coordinator", url]).finish(LONG);
    assert_eq!(doctor.status.code(), Some(1), "{}", doctor.stdout);
    let submit = start(&["submit", "--coordinator", url, &home.arg("context")]).finish(LONG);
    assert_eq!(submit.status.code(), Some(1), "{}", submit.stderr);
    let worker = start(&["worker", "--coordinator", url, "--data-dir", &home.arg("w")]);
    worker.says("session with the coordinator broke", LONG);
    [doctor.stdout, submit.stderr, worker.stderr()]
}

#[test]
fn who_is_turned_away_for_its_certificate_hears_which_one_and_why_each_time() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let server = ours.certificate("127.0.0.1", Valid::Now);
    let home = Home::new(&of_coordinator(&server, Some(ours.ca())));
    let cluster = Cluster::start_secure(Store::default(), home, 0, 1);
    let home = Home::new("");
    write_context(&home.path("context"), &[ContextEntry::file("Dockerfile", "FROM scratch\n")]);
    for (shown, words, hint) in [
        (None, "wants a certificate of its client", "tls.cert and"),
        (Some(theirs.certificate("c", Valid::Now)), "does not trust who signed it", "client_ca"),
        (Some(ours.certificate("c", Valid::Formerly)), "has expired, or is not valid yet", "renew"),
        (Some(ours.certificate("c", Valid::Later)), "not valid yet by the clock there", "clocks"),
        (
            Some(ours.certificate_for("c", Valid::Now, Use::Servers)),
            "is not one for clients",
            "extended key usage",
        ),
    ] {
        let path = shown.as_ref().map(|pair| pair.cert.display().to_string());
        let environment: Vec<_> = [("DCBUILD_TLS_CA", ours.ca())]
            .into_iter()
            .chain(shown.map(pair).into_iter().flatten())
            .collect();
        for _ in 0..TIMES {
            for told in turned_away(&home, &cluster.url, &environment) {
                assert!(told.contains(words) && told.contains(hint), "{words}: {told}");
                assert!(path.as_ref().is_none_or(|path| told.contains(path)), "{path:?}: {told}");
            }
        }
    }
    assert!(cluster.said().contains("a client was turned away"), "{}", cluster.said());
}

#[test]
fn a_coordinator_without_certificates_speaks_no_tls() {
    let cluster = Cluster::start(Home::new(""), 0, 1);
    let url = cluster.url.replace("http://", "https://");
    let told = ask(&cluster.home, &url, &[]);
    assert!(told.stdout.contains("speaks no TLS"), "{}", told.stdout);
    assert!(told.stdout.contains("write http:// in place of https://"), "{}", told.stdout);
}

#[test]
fn a_certificate_that_has_expired_is_renewed_without_a_restart() {
    let ours = Authority::new("ours");
    let server = ours.certificate("127.0.0.1", Valid::Formerly);
    let home = Home::new(&of_coordinator(&server, None));
    let cluster = Cluster::start_secure(Store::default(), home, 0, 1);
    let home = Home::new("");
    let ask = || ask(&home, &cluster.url, &[("DCBUILD_TLS_CA", ours.ca())]);
    let told = ask();
    assert!(told.stdout.contains("certificate has expired"), "{}", told.stdout);
    assert!(told.stdout.contains("renew the certificate"), "{}", told.stdout);
    ours.renew(&server, "127.0.0.1", Valid::Now);
    let well = ask();
    assert!(well.stdout.contains("answers and remembers 0 builds"), "{}", well.stdout);
    std::fs::write(&server.key, "no key").unwrap();
    let well = ask();
    assert!(well.stdout.contains("answers"), "the one from before stays in use: {}", well.stdout);
    assert!(cluster.said().contains("the certificates from before stay in use"));
}

#[test]
fn certificates_that_cannot_be_used_are_named_at_the_start() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (one, other) = (ours.certificate("h", Valid::Now), theirs.certificate("h", Valid::Now));
    let mixed = Pair { key: other.key, ..one.clone() };
    let missing = Pair { cert: "/no/cert.pem".into(), ..one.clone() };
    let swapped = Pair { cert: one.key.clone(), key: one.cert.clone() };
    for (pair, words) in [
        (mixed, "could not use the certificate"),
        (missing, "could not read /no/cert.pem"),
        (swapped, "holds no certificate in PEM"),
    ] {
        let home = Home::new(&of_coordinator(&pair, None));
        let data = home.arg("data");
        let flags =
            ["--data-dir", &data, "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
        let done = home.run(["coordinator"].iter().chain(&flags));
        assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
        assert!(done.stderr.contains("coordinator.tls"), "{}", done.stderr);
        assert!(done.stderr.contains(words), "{}", done.stderr);
        let doctor = home.run(["doctor"]);
        assert!(doctor.stdout.contains(words), "{}", doctor.stdout);
    }
}

#[test]
fn a_cluster_builds_on_a_bucket_with_a_certificate_of_its_own() {
    let (ours, registry) = (Authority::new("ours"), Registry::start());
    fill(&registry);
    let s3 = S3Server::start_secure(&ours.certificate("127.0.0.1", Valid::Now));
    let flags = vec!["--store".to_owned(), s3.url("acme")];
    let store = Store { flags, environment: s3.environment().to_vec() };
    let mut home = Home::new(&registry.as_docker_io());
    home.set("AWS_CA_BUNDLE", ours.ca());
    let cluster = Cluster::start_on(store, home, 2, 1);
    assert_eq!(build(&cluster).tree().text("made").unwrap(), "made\n");
    cluster.wait_until_durable();
    let blobs = || s3.keys().iter().any(|key| key.contains("/blob/")).then_some(());
    wait_for("blobs are in the bucket", LONG, blobs, || cluster.said());
    assert!(!cluster.said().contains("could not reach the store"), "{}", cluster.said());

    let home = Home::new("");
    let store = s3.url("acme");
    let mut command = home.command(["doctor", "--store", &store]);
    command.envs(s3.environment());
    let told = Running::start(command).finish(LONG);
    assert_eq!(told.status.code(), Some(1), "{}", told.stdout);
    assert!(told.stdout.contains("AWS_CA_BUNDLE"), "{}", told.stdout);
}
