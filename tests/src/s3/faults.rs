//! What can go wrong with a request, and who decides.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::Method;
use hyper::http::request::Parts;

/// A request, as a rule sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// How many came before it since the rule was set.
    pub number: u64,
    /// Its name in S3, such as `GetObject`.
    pub request: &'static str,
    /// The key or bucket that it is about.
    pub path: String,
}

/// What goes wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// An error is answered in place of anything.
    Answer {
        /// The status.
        status: u16,
        /// The code, as S3 names it.
        code: &'static str,
        /// The header that asks for patience, in seconds.
        retry_after: Option<u64>,
    },
    /// The same with words of the server's own, and headers.
    Said {
        /// The status.
        status: u16,
        /// The code, as S3 names it.
        code: &'static str,
        /// What it says, with further parts of its document where there are any.
        message: &'static str,
        /// A header beside it.
        header: Option<(&'static str, &'static str)>,
    },
    /// The connection is closed without an answer.
    Close,
    /// No answer ever comes.
    Stall,
    /// Half of the answer's body comes, then nothing more.
    StallInBody,
    /// Half of the answer's body comes, then the connection breaks.
    BreakInBody,
    /// The first half of the range is answered, and said to be no more than that.
    HalfRange,
    /// One bit of the answer's body is another.
    FlipBit,
    /// The store gets half of the request's body and is told that it is all.
    CutUpload,
    /// All is well, and the answer comes so much later.
    Late(Duration),
    /// A listing begins anew: the server does not know the key to begin behind.
    NoStartAfter,
    /// A listing begins anew whatever it is to go on with, and says that there is more.
    FirstPage,
    /// All is well, and the answer does not say which checksum was found.
    NoChecksum,
    /// All is well, and the answer's document has a name of its own, as moto's has for uploads in parts.
    OwnName,
}

impl Fault {
    /// What S3 answers when it has too much to do.
    pub const SLOW_DOWN: Fault = Fault::Answer { status: 503, code: "SlowDown", retry_after: None };

    /// What S3 answers where there is no such bucket.
    pub const NO_BUCKET: Fault =
        Fault::Answer { status: 404, code: "NoSuchBucket", retry_after: None };

    /// What S3 answers where the bucket is in another region.
    pub const REDIRECTED: Fault = Fault::Said {
        status: 301,
        code: "PermanentRedirect",
        message: "The bucket you are attempting to access must be addressed using the specified endpoint.",
        header: Some(("x-amz-bucket-region", "eu-west-1")),
    };

    /// What S3 answers to a signature for another region.
    pub const OTHER_REGION: Fault = Fault::Said {
        status: 400,
        code: "AuthorizationHeaderMalformed",
        message: "the region 'us-east-1' is wrong; expecting 'eu-west-1'</Message><Region>eu-west-1</Region><Message>",
        header: None,
    };

    /// What S3 answers to a key that it does not know.
    pub const UNKNOWN_KEY: Fault =
        Fault::Answer { status: 403, code: "InvalidAccessKeyId", retry_after: None };

    /// What Garage answers to a write where the bucket's quota is used up.
    pub const QUOTA_IS_REACHED: Fault = Fault::Said {
        status: 403,
        code: "AccessDenied",
        message: "Forbidden: Bucket size quota is reached, maximum total size of objects for this bucket: 1000",
        header: None,
    };

    /// What S3 answers to who may not.
    pub const DENIED: Fault =
        Fault::Answer { status: 403, code: "AccessDenied", retry_after: None };
}

type Rule = Arc<dyn Fn(&Seen) -> Option<Fault> + Send + Sync>;

/// The rule in force, and how often it fired.
pub(super) struct Faults {
    rule: Mutex<Rule>,
    seen: AtomicU64,
    fired: AtomicU64,
}

impl Faults {
    pub(super) fn none() -> Faults {
        let (seen, fired) = (AtomicU64::new(0), AtomicU64::new(0));
        Faults { rule: Mutex::new(Arc::new(|_| None)), seen, fired }
    }

    pub(super) fn set(&self, rule: impl Fn(&Seen) -> Option<Fault> + Send + Sync + 'static) {
        *self.rule.lock().unwrap() = Arc::new(rule);
        self.seen.store(0, Ordering::SeqCst);
    }

    pub(super) fn fired(&self) -> u64 {
        self.fired.load(Ordering::SeqCst)
    }

    pub(super) fn decide(&self, request: &'static str, path: &str) -> Option<Fault> {
        let number = self.seen.fetch_add(1, Ordering::SeqCst);
        let rule = self.rule.lock().unwrap().clone();
        let fault = rule(&Seen { number, request, path: path.into() })?;
        self.fired.fetch_add(1, Ordering::SeqCst);
        Some(fault)
    }
}

/// The name in S3 of a request.
pub(super) fn name(request: &Parts) -> &'static str {
    let query = request.uri.query().unwrap_or_default();
    let keys: Vec<&str> =
        query.split('&').map(|pair| pair.split('=').next().unwrap_or_default()).collect();
    let asks = |key: &str| keys.contains(&key);
    let has_key = request.uri.path().trim_matches('/').contains('/');
    match (&request.method, has_key) {
        (&Method::HEAD, true) => "HeadObject",
        (&Method::HEAD, false) => "HeadBucket",
        (&Method::GET, true) => "GetObject",
        (&Method::GET, false) if asks("uploads") => "ListMultipartUploads",
        (&Method::GET, false) => "ListObjectsV2",
        (&Method::PUT, true) if asks("uploadId") => "UploadPart",
        (&Method::PUT, true) if request.headers.contains_key("x-amz-copy-source") => "CopyObject",
        (&Method::PUT, true) => "PutObject",
        (&Method::POST, true) if asks("uploads") => "CreateMultipartUpload",
        (&Method::POST, true) if asks("uploadId") => "CompleteMultipartUpload",
        (&Method::POST, false) if asks("delete") => "DeleteObjects",
        (&Method::DELETE, true) if asks("uploadId") => "AbortMultipartUpload",
        (&Method::DELETE, true) => "DeleteObject",
        _ => "Other",
    }
}
