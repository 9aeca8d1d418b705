//! A registry that answers as a test wants it to, and remembers what it was asked.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Response};

/// A request that came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    /// How many requests for the same path came before.
    pub(crate) before: usize,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A server in this process.
pub(crate) struct Fake {
    pub(crate) host: String,
    log: Arc<Mutex<Vec<Seen>>>,
}

impl Fake {
    pub(crate) async fn start(
        answer: impl Fn(&str, &Seen) -> Response<Body> + Send + Sync + 'static,
    ) -> Fake {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::new(Vec::<Seen>::new()));
        let (name, seen_log, answer) = (host.clone(), log.clone(), Arc::new(answer));
        let app = axum::Router::new().fallback(move |request: Request| {
            let (name, log, answer) = (name.clone(), seen_log.clone(), answer.clone());
            async move {
                let (head, body) = request.into_parts();
                // Who does not read a request to its end breaks the connection, and the answer may never be seen.
                drop(axum::body::to_bytes(body, usize::MAX).await);
                let path = head.uri.path().to_owned();
                let before = log.lock().unwrap().iter().filter(|one| one.path == path).count();
                let seen = Seen {
                    method: head.method.to_string(),
                    query: head.uri.query().unwrap_or_default().to_owned(),
                    headers: head.headers,
                    before,
                    path,
                };
                log.lock().unwrap().push(seen.clone());
                answer(&name, &seen)
            }
        });
        #[expect(clippy::disallowed_methods, reason = "the server ends with the test's runtime")]
        let _server = tokio::spawn(async move { axum::serve(listener, app).await });
        Fake { host, log }
    }

    pub(crate) fn log(&self) -> Vec<Seen> {
        self.log.lock().unwrap().clone()
    }
}

pub(crate) fn answer(status: u16, body: impl Into<Body>) -> Response<Body> {
    Response::builder().status(status).body(body.into()).unwrap()
}

pub(crate) fn with(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

/// A body that promises more than it has.
pub(crate) fn cut(status: u16, promised: usize, bytes: bytes::Bytes) -> Response<Body> {
    let first = futures::stream::iter([Ok(bytes)]);
    // While the body waits, the server flushes what it has.
    let broken = futures::stream::once(async {
        tokio::task::yield_now().await;
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    });
    let stream = futures::StreamExt::chain(first, broken);
    with(status, &[("content-length", &promised.to_string())], Body::from_stream(stream))
}
