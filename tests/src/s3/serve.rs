//! Takes connections, asks what is to go wrong, and does so.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::backend::{Backend, Cut, Forgotten, Uploads};
use super::faults::{self, Fault, Faults};
use super::{KEY, SECRET};

/// How long a client may take until it speaks TLS; others wait.
const HANDSHAKE: Duration = Duration::from_secs(1);

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// What outlives a pause in serving.
pub(super) struct State {
    pub(super) faults: Faults,
    pub(super) uploads: Uploads,
    requests: Mutex<BTreeMap<String, u64>>,
    sent: AtomicU64,
    service: S3Service,
}

impl State {
    pub(super) fn new(folder: &Path) -> State {
        let uploads = Uploads::default();
        let mut service = S3ServiceBuilder::new(Backend::new(folder, uploads.clone()));
        service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = service.build();
        State {
            faults: Faults::none(),
            uploads,
            requests: Mutex::default(),
            sent: AtomicU64::new(0),
            service,
        }
    }

    pub(super) fn requests(&self) -> BTreeMap<String, u64> {
        self.requests.lock().unwrap().clone()
    }

    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Failed> {
        let (mut head, body) = request.into_parts();
        let name = faults::name(&head);
        *self.requests.lock().unwrap().entry(name.into()).or_default() += 1;
        let fault = self.faults.decide(name, head.uri.path().trim_matches('/'));
        match &fault {
            Some(Fault::Close) => return Err("told to close".into()),
            Some(Fault::Stall) => std::future::pending().await,
            Some(Fault::CutUpload) => drop(head.extensions.insert(Cut)),
            Some(Fault::NoStartAfter) => drop(head.extensions.insert(Forgotten::StartAfter)),
            Some(Fault::FirstPage) => drop(head.extensions.insert(Forgotten::Place)),
            Some(Fault::Answer { status, code, retry_after }) => {
                // Who does not read the request to its end breaks the connection, and the answer may never be seen.
                BodyExt::collect(body).await?;
                let seconds = retry_after.map(|seconds| seconds.to_string());
                let header = seconds.as_deref().map(|seconds| ("retry-after", seconds));
                return refusal(name, *status, (code, "told to"), header);
            }
            Some(Fault::Said { status, code, message, header }) => {
                BodyExt::collect(body).await?;
                return refusal(name, *status, (code, message), *header);
            }
            _ => {}
        }
        let request = Request::from_parts(head, Body::from(body));
        let answer = self.service.call(request).await.map_err(|error| format!("{error:?}"))?;
        let length =
            answer.headers().get(CONTENT_LENGTH).and_then(|it| it.to_str().ok()?.parse().ok());
        // Who asks only about an object hears its length, and gets nothing of it.
        let length = length.filter(|_| !name.starts_with("Head"));
        self.sent.fetch_add(length.unwrap_or(0), Ordering::Relaxed);
        match fault {
            Some(Fault::OwnName) => {
                let (mut head, body) = answer.into_parts();
                let text = BodyExt::collect(body).await?.to_bytes();
                let text = String::from_utf8_lossy(&text).replace("UploadResult", "UploadResponse");
                head.headers.remove(CONTENT_LENGTH);
                Ok(Response::from_parts(head, Body::from(text)))
            }
            Some(fault @ (Fault::StallInBody | Fault::BreakInBody | Fault::FlipBit)) => {
                spoil(answer, &fault).await
            }
            Some(Fault::HalfRange) => half_range(answer).await,
            Some(Fault::Late(pause)) => {
                tokio::time::sleep(pause).await;
                Ok(answer)
            }
            Some(Fault::NoChecksum) => {
                let mut answer = answer;
                answer.headers_mut().remove("x-amz-checksum-sha256");
                Ok(answer)
            }
            _ => Ok(answer),
        }
    }
}

/// An error's answer, without a document where only the head is asked for.
fn refusal(
    request: &str,
    status: u16,
    (code, message): (&str, &str),
    header: Option<(&str, &str)>,
) -> Result<Response<Body>, Failed> {
    let text = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    let mut answer = Response::builder().status(status);
    if let Some((name, value)) = header {
        answer = answer.header(name, value);
    }
    let text = if request.starts_with("Head") { String::new() } else { text };
    Ok(answer.body(text.into())?)
}

/// Does to an answer's body what it is told.
async fn spoil(answer: Response<Body>, fault: &Fault) -> Result<Response<Body>, Failed> {
    let (head, body) = answer.into_parts();
    let bytes = BodyExt::collect(body).await?.to_bytes();
    let (first, second) = (bytes.slice(..bytes.len() / 2), bytes.slice(bytes.len() / 2..));
    let half = || futures::stream::iter([Ok::<Frame<Bytes>, Failed>(Frame::data(first.clone()))]);
    let body = match fault {
        Fault::StallInBody => {
            Body::http_body_unsync(StreamBody::new(half().chain(futures::stream::pending())))
        }
        Fault::BreakInBody => {
            let broken = futures::stream::iter([Err::<Frame<Bytes>, Failed>("told to".into())]);
            Body::http_body_unsync(StreamBody::new(half().chain(broken)))
        }
        _ => {
            let mut flipped = second.to_vec();
            if let Some(byte) = flipped.first_mut() {
                *byte ^= 1;
            }
            Body::from([&first[..], &flipped].concat())
        }
    };
    Ok(Response::from_parts(head, body))
}

/// Answers with less of a range than was asked for, as HTTP allows.
async fn half_range(answer: Response<Body>) -> Result<Response<Body>, Failed> {
    let (mut head, body) = answer.into_parts();
    let bytes = BodyExt::collect(body).await?.to_bytes();
    let half = bytes.slice(..bytes.len() / 2);
    let said = head.headers.get(CONTENT_RANGE).ok_or("it is no range")?.to_str()?.to_owned();
    let (range, size) = said.split_once('/').ok_or("it is malformed")?;
    let start = range.trim_start_matches("bytes ").split('-').next().unwrap_or_default();
    let last = start.parse::<usize>()? + half.len() - 1;
    head.headers.insert(CONTENT_RANGE, format!("bytes {start}-{last}/{size}").parse()?);
    head.headers.insert(CONTENT_LENGTH, half.len().into());
    Ok(Response::from_parts(head, Body::from(half)))
}

/// A thread that serves until this is dropped.
pub(super) struct Serving {
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    pub(super) fn start(
        listener: TcpListener,
        state: Arc<State>,
        tls: Option<Arc<ServerConfig>>,
    ) -> Serving {
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = { runtime }.worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(serve(listener, state, (tls, stopped)));
            runtime.shutdown_background();
        });
        Serving { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking(), "the server of S3 panicked");
        }
    }
}

async fn serve(
    listener: TcpListener,
    state: Arc<State>,
    (tls, mut stopped): (Option<Arc<ServerConfig>>, oneshot::Receiver<Infallible>),
) {
    let acceptor = tls.map(TlsAcceptor::from);
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stopped => return,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, _)) = accepted else { continue };
        // Small answers are waited for.
        stream.set_nodelay(true).unwrap();
        let state = state.clone();
        let answer = service_fn(move |request| {
            let state = state.clone();
            async move { state.answer(request).await }
        });
        let http = hyper::server::conn::http1::Builder::new();
        // A connection that breaks is its client's to notice.
        let Some(acceptor) = &acceptor else {
            connections.spawn(http.serve_connection(TokioIo::new(stream), answer));
            continue;
        };
        // Who does not like the certificate goes at once.
        if let Ok(Ok(stream)) = timeout(HANDSHAKE, acceptor.accept(stream)).await {
            connections.spawn(http.serve_connection(TokioIo::new(stream), answer));
        }
    }
}
