//! What workers of a cluster with TLS read from each other.

use std::time::Duration;

use dcbuild_testkit::tls::{Authority, Pair, Use, Valid};
use dcbuild_tests::bucket::Site;
use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::http::{Guest, request};
use dcbuild_tests::image::Image;
use dcbuild_tests::s3::faults::Fault;
use dcbuild_tests::wait::{LONG, Stopwatch, wait_for};

use super::{of_coordinator, of_others};

const ENCRYPTED: &str = "dcbuild_peer_bytes_total{tls=\"yes\"}";
const PLAIN: &str = "dcbuild_peer_bytes_total{tls=\"no\"}";

/// Two stages that two workers of one slot make at once, so that whoever goes on lacks one of them.
fn dockerfile() -> String {
    let stage = |name: &str| {
        format!(
            "FROM busybox:golden AS {name}\n\
             RUN head -c 20000000 /dev/urandom > /large && echo {name} > /{name} && sleep 1\n"
        )
    };
    let copies = "FROM scratch\nCOPY --from=one /one /\nCOPY --from=other /other /\n";
    stage("one") + &stage("other") + copies
}

/// A certificate for no name that a worker is reached by, as clients have it.
fn member(ours: &Authority) -> Pair {
    ours.certificate_for("member", Valid::Now, Use::Clients)
}

/// A site without workers whose members are known by this certificate.
fn site(ours: &Authority, member: &Pair) -> Site {
    let server = ours.certificate("127.0.0.1", Valid::Now);
    let config = of_coordinator(&server, Some(ours.ca())) + &of_others(ours.ca(), member);
    let mut site = Site::start_secure(&config, &dockerfile());
    site.cluster.read_securely(ours.ca(), member.clone());
    site
}

/// Has the bucket take no blob any more, so that what is read of a layer comes from its maker.
fn hold_up(site: &Site) {
    let writes = ["PutObject", "UploadPart", "CreateMultipartUpload"];
    site.s3.fail(move |seen| {
        (writes.contains(&seen.request) && seen.path.contains("/blob/")).then_some(Fault::Stall)
    });
}

/// Where the workers let each other in.
fn doors(cluster: &Cluster) -> Vec<String> {
    let listed = cluster.ask("workers", &[]).well().stdout;
    let words = listed.split_whitespace();
    words.filter(|word| word.starts_with("127.0.0.1:")).map(str::to_owned).collect()
}

fn both(site: &Site) {
    let (image, said) = site.submit();
    let texts = ["one", "other"].map(|name| image.tree().text(name).unwrap());
    assert_eq!(texts, ["one\n", "other\n"]);
    assert!(!said.contains("was lost"), "{said}");
}

#[test]
fn workers_read_from_each_other_over_tls() {
    let ours = Authority::new("ours");
    let member = member(&ours);
    let mut site = site(&ours, &member);
    for _ in 0..2 {
        site.cluster.start_worker(1);
    }
    let open = || (doors(&site.cluster).len() == 2).then(|| doors(&site.cluster));
    let open = wait_for("both let others in", LONG, open, || site.cluster.said());

    // Nobody else gets anything there: who speaks no TLS, who shows nothing, who has no ticket.
    let plain = request(&open[0], "GET /", &[], b"");
    assert_eq!(plain.status, 400);
    assert!(String::from_utf8_lossy(&plain.body).contains("TLS only"), "{plain:?}");
    let nameless = Guest { ca: &ours.ca(), shown: None }.request(&open[0], "GET /");
    assert!(nameless.is_err(), "{nameless:?}");
    let doctor = site.cluster.ask("doctor", &[]).stdout;
    for door in &open {
        assert!(doctor.contains(&format!("is reached at {door}, over TLS")), "{doctor}");
    }

    // Both are renewed before they are ever needed.
    ours.renew(&member, "member", Valid::Now);
    let noticed = || {
        let said = site.cluster.said();
        (said.matches("the certificates were read again").count() >= 2).then_some(())
    };
    wait_for("both workers see their new certificate", LONG, noticed, || site.cluster.said());

    hold_up(&site);
    both(&site);
    assert!(site.s3.fired() > 0, "the bucket took something");
    let read = || site.cluster.metric(ENCRYPTED).filter(|bytes| *bytes > 0);
    let bytes = wait_for("a worker says what it read", LONG, read, || site.cluster.said());
    assert!(bytes < 1_000_000, "one small file of 20 MB is wanted: {bytes}");
    assert_eq!(site.cluster.metric(PLAIN), Some(0));
    assert!(!site.cluster.said().contains("nothing is read from"), "{}", site.cluster.said());
    site.s3.heal();
    site.wait_until_sent();
}

#[test]
fn workers_that_do_not_trust_each_other_wait_for_the_store() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let mut site = site(&ours, &member(&ours));
    site.cluster.start_worker(1);
    // Another one that trusts other workers only where they are of another CA.
    let config = std::fs::read_to_string(site.cluster.home.path("config.toml")).unwrap();
    let peer_ca = format!("[worker.tls]\npeer_ca = '{}'\n", theirs.ca().display());
    let path = site.cluster.home.path("other.toml");
    std::fs::write(&path, config.replace("[worker.tls]\n", &peer_ca)).unwrap();
    site.cluster.start_worker_from(1, &path);
    // Nothing is in the store when it is wanted; it comes once it is seen that the maker does not give it.
    hold_up(&site);
    let output = format!("type=oci,dest={}", site.cluster.home.arg("image.tar"));
    let context = site.cluster.home.arg("context");
    let build =
        site.cluster.client("submit", &["--progress", "plain", "--output", &output, &context]);
    let refused =
        || site.cluster.said().contains("nothing is read from another worker").then_some(());
    wait_for("a worker is not trusted", LONG, refused, || site.cluster.said());
    site.s3.heal();
    let done = build.finish(LONG).well();
    assert!(!done.stderr.contains("was lost"), "{}", done.stderr);
    let tree = Image::read_tar(&site.cluster.home.path("image.tar")).tree();
    let texts = ["one", "other"].map(|name| tree.text(name).unwrap());
    assert_eq!(texts, ["one\n", "other\n"]);
    let said = site.cluster.said();
    assert!(said.contains("worker.tls.peer_ca"), "{said}");
    assert_eq!(site.cluster.metric(ENCRYPTED), Some(0));
    assert_eq!(site.cluster.metric(PLAIN), Some(0));
}

#[test]
fn a_worker_without_a_certificate_reads_and_gives_by_the_store_alone() {
    let ours = Authority::new("ours");
    let (server, member) = (ours.certificate("127.0.0.1", Valid::Now), member(&ours));
    // This coordinator asks nobody for a certificate.
    let config = of_coordinator(&server, None) + &of_others(ours.ca(), &member);
    let mut site = Site::start_secure(&config, &dockerfile());
    site.cluster.read_securely(ours.ca(), member.clone());
    site.cluster.start_worker(1);
    let path = site.cluster.home.path("other.toml");
    let nameless = format!("[worker.tls]\nca = '{}'\n", ours.ca().display());
    let config = std::fs::read_to_string(site.cluster.home.path("config.toml")).unwrap();
    let (rest, _) = config.split_once("[worker.tls]").unwrap();
    std::fs::write(&path, rest.to_owned() + &nameless).unwrap();
    site.cluster.start_worker_from(1, &path);
    let open = || (doors(&site.cluster).len() == 1).then_some(());
    wait_for("one of them lets others in", LONG, open, || site.cluster.said());
    let watch = Stopwatch::start();
    both(&site);
    assert!(watch.passed() < Duration::from_mins(1), "{:?}", watch.passed());
    let said = site.cluster.said();
    assert!(said.contains("for it has no certificate to show"), "{said}");
    assert_eq!(site.cluster.metric(ENCRYPTED), Some(0));
    assert_eq!(site.cluster.metric(PLAIN), Some(0));
}
