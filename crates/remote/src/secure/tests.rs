use std::sync::Arc;

use bytes::Bytes;
use dcbuild_model::{LayerId, TreePath};
use dcbuild_proto::pb;
use dcbuild_proto::pb::peers_client::PeersClient;
use dcbuild_testkit::tls::{Authority, Pair, Use, Valid};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::transport::Server;

use super::*;
use crate::encrypted::{ServerCertificates, ServerTls, Speech, encrypted};
use crate::peer::{Held, PeerKey, PeerService};

/// So often is each refusal looked at: whether its reason is heard was a matter of luck once.
const TIMES: usize = 30;
const LIMIT: Duration = Duration::from_secs(20);

struct Nothing;

impl Held for Nothing {
    fn table(&self, _: &LayerId) -> std::io::Result<Option<Bytes>> {
        Ok(None)
    }

    fn file(
        &self,
        _: &LayerId,
        _: &TreePath,
    ) -> std::io::Result<Option<Box<dyn std::io::Read + Send>>> {
        Ok(None)
    }

    fn write(&self, _: &LayerId, _: &mut dyn std::io::Write) -> std::io::Result<bool> {
        Ok(false)
    }
}

/// A server that answers whoever it lets in.
struct Site {
    address: String,
    _tasks: TaskTracker,
}

impl Site {
    async fn start(Pair { cert, key }: Pair, client_ca: Option<PathBuf>) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let files = ServerTls { cert, key, client_ca };
        let shown = ServerCertificates::open(files, Speech::Calls).unwrap();
        let incoming = encrypted(listener, Arc::new(shown));
        let service = PeerService::new(Arc::new(Nothing), PeerKey::random()).into_server();
        let tasks = TaskTracker::new();
        tasks.spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        Site { address, _tasks: tasks }
    }

    fn channel(&self, files: ClientTls) -> Channel {
        let certificates = Arc::new(ClientCertificates::open(files).unwrap());
        secure_channel(&self.address, (certificates, Trust::Name), LIMIT, |it| it).unwrap()
    }
}

/// Asks for what nobody gets without a ticket: to be refused that is to be let in.
async fn ask(channel: Channel) -> Status {
    let request = pb::PeerRequest { layer: "none".into(), ticket: Bytes::new() };
    PeersClient::new(channel).get_table(request).await.unwrap_err()
}

fn files(authority: &Authority, pair: Option<&Pair>) -> ClientTls {
    let identity = pair.map(|Pair { cert, key }| (cert.clone(), key.clone()));
    ClientTls { ca: Some(authority.ca()), identity }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_let_in_hears_why_each_time() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let site = Site::start(ours.certificate("127.0.0.1", Valid::Now), Some(ours.ca())).await;
    let good = ours.certificate("c", Valid::Now);
    let well = ask(site.channel(files(&ours, Some(&good)))).await;
    assert_eq!(well.code(), tonic::Code::InvalidArgument, "{well:?}");
    let of_servers = ours.certificate_for("c", Valid::Now, Use::Servers);
    for (pair, fault) in [
        (None, TlsFault::Wanted),
        (Some(theirs.certificate("c", Valid::Now)), TlsFault::RefusedIssuer),
        (Some(ours.certificate("c", Valid::Formerly)), TlsFault::RefusedDate),
        (Some(ours.certificate("c", Valid::Later)), TlsFault::RefusedDate),
        (Some(of_servers), TlsFault::RefusedUse),
    ] {
        for time in 0..TIMES {
            let status = ask(site.channel(files(&ours, pair.as_ref()))).await;
            let shown = pair.as_ref().map(|pair| pair.cert.clone());
            let told = Distrust { fault, shown };
            assert_eq!(Distrust::find(&status), Some(told), "the time {time}: {status:?}");
        }
    }
}

#[tokio::test]
async fn a_refusal_names_the_certificate() {
    let path = PathBuf::from("/etc/dcbuild/ann.crt");
    let distrust = Distrust { fault: TlsFault::RefusedDate, shown: Some(path.clone()) };
    assert!(distrust.to_string().ends_with("by the clock there, /etc/dcbuild/ann.crt"));
    let distrust = Distrust { fault: TlsFault::Untrusted, shown: Some(path) };
    assert!(!distrust.to_string().contains("ann.crt"), "it is the server's that is at fault");
}

#[tokio::test]
async fn a_certificate_is_read_again_for_the_next_connection() {
    let ours = Authority::new("ours");
    let site = Site::start(ours.certificate("127.0.0.1", Valid::Now), Some(ours.ca())).await;
    let own = ours.certificate("c", Valid::Formerly);
    let channel = site.channel(files(&ours, Some(&own)));
    let refused = Distrust::find(&ask(channel.clone()).await).unwrap();
    assert_eq!(refused.fault, TlsFault::RefusedDate);
    ours.renew(&own, "c", Valid::Now);
    let well = ask(channel).await;
    assert_eq!(well.code(), tonic::Code::InvalidArgument, "{well:?}");
}

#[tokio::test]
async fn a_server_that_waits_to_be_spoken_to_is_spoken_to() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    // As proxies do: not a byte before the client's first.
    let ours = Authority::new("ours");
    let pair = ours.certificate("127.0.0.1", Valid::Now);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let served = ServerTls { cert: pair.cert, key: pair.key, client_ca: Some(ours.ca()) };
    let shown = Arc::new(ServerCertificates::open(served, Speech::Calls).unwrap());
    let mut incoming = encrypted(listener, shown);
    let serving = async {
        use futures::StreamExt as _;
        let mut stream = incoming.next().await.unwrap().unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        assert!(preface.starts_with(b"PRI * HTTP/2.0"));
        // Empty settings.
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let mut next = [0; 4];
        stream.read_exact(&mut next).await.unwrap();
        assert_eq!(next[3], 4, "its settings come next, and no second preface");
    };
    let certificates =
        ClientCertificates::open(files(&ours, Some(&ours.certificate("c", Valid::Now))));
    let certificates = Arc::new(certificates.unwrap());
    let channel = secure_channel(&address, (certificates, Trust::Name), LIMIT, |it| it).unwrap();
    tokio::select! {
        () = serving => {}
        answered = ask(channel) => panic!("{answered:?}"),
    }
}
