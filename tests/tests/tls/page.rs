//! Health and metrics over TLS.

use dcbuild_testkit::tls::{Authority, Pair, Valid};
use dcbuild_tests::cluster::{Cluster, Store};
use dcbuild_tests::home::Home;
use dcbuild_tests::http::{Guest, request};

use super::of_coordinator;

const METRICS: &str = "GET /metrics";

/// A coordinator alone, who shows its page like this.
fn start(ours: &Authority, http_tls: &str, with_ca: bool) -> Cluster {
    let server = ours.certificate("127.0.0.1", Valid::Now);
    let tls = of_coordinator(&server, with_ca.then(|| ours.ca()));
    let config = format!("[coordinator]\nhttp_tls = '{http_tls}'\n{tls}");
    Cluster::start_secure(Store::default(), Home::new(&config), 0, 1)
}

/// The status and the text of a page, as one sees it who trusts the authority and shows this.
fn read(ours: &Authority, cluster: &Cluster, line: &str, shown: Option<&Pair>) -> (u16, String) {
    let answer = Guest { ca: &ours.ca(), shown }.request(cluster.page(), line).unwrap();
    (answer.status, String::from_utf8(answer.body).unwrap())
}

#[test]
fn metrics_are_read_over_tls_by_whoever_has_a_certificate() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let cluster = start(&ours, "same", true);
    let member = ours.certificate("prometheus", Valid::Now);
    let (status, page) = read(&ours, &cluster, METRICS, Some(&member));
    assert_eq!(status, 200);
    assert!(page.contains("dcbuild_peer_bytes_total{tls=\"yes\"} 0"), "{page}");
    // Whoever has none hears whether the coordinator lives, and no more.
    assert_eq!(read(&ours, &cluster, "GET /healthz", None), (200, "ok\n".to_owned()));
    let (status, page) = read(&ours, &cluster, METRICS, None);
    assert_eq!(status, 403);
    assert!(page.contains("coordinator.http_tls") && !page.contains("dcbuild_builds"), "{page}");
    // A strange one is worse than none.
    let strange = theirs.certificate("prometheus", Valid::Now);
    let refused = Guest { ca: &ours.ca(), shown: Some(&strange) }.request(cluster.page(), METRICS);
    assert!(refused.is_err(), "{refused:?}");
    // In the clear nothing is said but how to ask.
    for line in [METRICS, "GET /healthz"] {
        let plain = request(cluster.page(), line, &[], b"");
        let text = String::from_utf8_lossy(&plain.body);
        assert_eq!((plain.status, text.contains("write https://")), (400, true), "{text}");
    }
}

#[test]
fn metrics_are_open_where_the_coordinator_is_or_where_it_is_said() {
    let ours = Authority::new("ours");
    for (http_tls, with_ca) in [("same", false), ("open", true)] {
        let cluster = start(&ours, http_tls, with_ca);
        let (status, page) = read(&ours, &cluster, METRICS, None);
        assert_eq!(status, 200, "{http_tls}: {page}");
        assert_eq!(request(cluster.page(), METRICS, &[], b"").status, 400);
    }
    let cluster = start(&ours, "off", true);
    assert_eq!(request(cluster.page(), METRICS, &[], b"").status, 200);
}

#[test]
fn the_page_shows_a_renewed_certificate() {
    let ours = Authority::new("ours");
    let server = ours.certificate("127.0.0.1", Valid::Formerly);
    let home = Home::new(&of_coordinator(&server, None));
    let cluster = Cluster::start_secure(Store::default(), home, 0, 1);
    let guest = ours.ca();
    let guest = Guest { ca: &guest, shown: None };
    let expired = guest.request(cluster.page(), METRICS).unwrap_err();
    assert!(expired.to_string().contains("xpired"), "{expired}");
    ours.renew(&server, "127.0.0.1", Valid::Now);
    assert_eq!(guest.request(cluster.page(), METRICS).unwrap().status, 200);
}
