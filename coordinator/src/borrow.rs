//! `--cache-from`: what a build takes from other places, which its client reaches.
//!
//! Only records that carry this coordinator's seal count. Where others submit builds, that must be a seal that nobody can
//! forge: else whoever names a place could put what he likes under the keys of others.

use std::collections::BTreeMap;
use std::sync::Arc;

use dcbuild_carry::documents::DOCUMENTS_BYTES_MAX;
use dcbuild_carry::{Borrowed, Lender, Loan, NotLent, why_unopened};
use dcbuild_model::{BlobDigest, Scope, limits};
use dcbuild_progress::{Log, Stream, Update, VertexId, Warning};
use dcbuild_proto::document::{Answer, Question};
use dcbuild_store::read_bytes;
use tokio::time::{Instant, timeout};

use crate::build::{AskError, Build, Shown};
use crate::config::Granting;
use crate::driver::DriverParts;
use crate::questions::Reply;

/// Has the client of a build bring blobs.
struct ClientLender {
    build: Arc<Build>,
    source: u32,
    /// When the client told what it lends.
    since: Instant,
}

#[async_trait::async_trait]
impl Lender for ClientLender {
    async fn bring(&self, blob: &BlobDigest) -> Result<(), NotLent> {
        let question = Question::CacheBlob { source: self.source, blob: *blob };
        let reply = tokio::select! {
            reply = timeout(limits::FETCH_TIME_MAX, self.build.ask(question)) => reply,
            () = self.build.company.lacks_client(self.since, limits::LENDER_AWAY_MAX) => {
                return Err(NotLent { reason: "the client that lends it is gone".into() });
            }
        };
        match reply {
            Ok(Ok(Reply::Answer(Answer::Stored {}))) => Ok(()),
            Ok(Ok(_)) => Err(NotLent { reason: "the client gave another answer".into() }),
            Ok(Err(error)) => Err(NotLent { reason: error.to_string() }),
            Err(_) => Err(NotLent { reason: "the client did not bring it in time".into() }),
        }
    }
}

/// What is said of a place: beside its vertex, or as a warning at the end as well.
enum Said {
    Note(String),
    Warning(String),
}

/// What is to be said where all records are of scopes that a build takes nothing from.
fn none_readable(scopes: &BTreeMap<Scope, usize>, own: &Scope) -> Option<String> {
    if scopes.is_empty() || scopes.keys().any(|scope| own.is_within(scope)) {
        return None;
    }
    let of = scopes.keys().map(Scope::as_str).collect::<Vec<_>>().join(", ");
    Some(format!(
        "nothing is taken from it: its records are of the scope {of}, and this build, of {own}, takes those of its own scope and \
         of the ones above; write the cache from one of these (--scope, DCBUILD_SCOPE)"
    ))
}

/// Looks at all places that a build names, before it looks for its records. What fails is a miss.
pub(crate) async fn borrow(build: &Arc<Build>, parts: &DriverParts) -> Result<(), AskError> {
    for (at, source) in (0..).zip(&build.submission.caches.from) {
        let name = format!("importing cache manifest from {}", source.title);
        let shown = Shown::start(build, &*parts.clock, name);
        let said = one(build, parts, at).await?;
        match said {
            Some(Said::Note(text)) => note(build, parts, shown.id(), text),
            Some(Said::Warning(text)) => {
                let vertex = shown.id();
                let short = format!("{}: {text}", source.title);
                build.tell(Update::Warning(Warning::of(vertex, short)));
            }
            None => {}
        }
        shown.done();
    }
    Ok(())
}

fn note(build: &Build, parts: &DriverParts, vertex: VertexId, text: String) {
    let bytes = format!("{text}\n").into_bytes();
    let log = Log { vertex, stream: Stream::Stderr, bytes, time: parts.clock.now() };
    build.tell(Update::Log(log));
}

async fn one(
    build: &Arc<Build>,
    parts: &DriverParts,
    source: u32,
) -> Result<Option<Said>, AskError> {
    let stores = &parts.records.stores;
    let Some(lent) = &stores.lent else { return Ok(None) };
    if parts.granting != Granting::Everything && !stores.seal.is_keyed() {
        return Ok(Some(Said::Warning(
            "not read: without a signing key (DCBUILD_SIGNING_KEY) the coordinator cannot tell whose records these are".into(),
        )));
    }
    let (found, said) = match build.ask(Question::Cache { source }).await {
        Ok(Reply::Answer(Answer::Cache { found: None, note, foreign: false })) => {
            return Ok(Some(Said::Note(note)));
        }
        Ok(Reply::Answer(Answer::Cache { found: None, note, foreign: true })) => {
            return Ok(Some(Said::Warning(note)));
        }
        Ok(Reply::Answer(Answer::Cache { found: Some(found), note, .. })) => (found, note),
        Ok(_) => return Ok(Some(Said::Note("the client gave another answer".into()))),
        Err(AskError::Ended) => return Err(AskError::Ended),
        Err(error) => return Ok(Some(Said::Warning(error.to_string()))),
    };
    let bytes = match read_bytes(&*stores.blobs, &found, 2 * DOCUMENTS_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(error) => return Ok(Some(Said::Warning(dcbuild_process::story(&error)))),
    };
    let borrowed = match Borrowed::parse(&bytes) {
        Ok(borrowed) => borrowed,
        Err(error) => return Ok(Some(Said::Warning(dcbuild_process::story(&error)))),
    };
    let foreign = borrowed.keep_opened(&stores.seal);
    let records = borrowed.documents.records();
    let of_others = none_readable(&borrowed.documents.scopes(), &build.scope);
    let lender = ClientLender { build: build.clone(), source, since: Instant::now() };
    match Loan::new(borrowed, stores.seal.clone(), Arc::new(lender)).await {
        Ok(loan) => lent.lend(build.id, loan),
        Err(error) => return Ok(Some(Said::Warning(dcbuild_process::story(&error)))),
    }
    if foreign.is_empty() {
        return Ok(Some(of_others.map_or(Said::Note(said), Said::Warning)));
    }
    let (count, why) = (foreign.len(), why_unopened(&stores.seal));
    let text = format!("{count} documents {why}, and are passed over; {records} are left");
    Ok(Some(Said::Warning(text)))
}
