//! What a build, its driver and its clients share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dcbuild_model::{BuildId, Scope, UnixTime, limits};
use dcbuild_progress::{Log, Status, Stream, Update, Vertex, VertexId, VertexState, Warning};
use dcbuild_proto::document::{self, Answer, Outcome, Question, RegistryCredentials, Submission};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::company::Company;
use crate::journal::Journal;
use crate::questions::{Questions, Reply};
use crate::remotes::Remotes;
use crate::rpc::events;

/// Says why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// The client could not do it.
    #[error("{0}")]
    Failed(String),
    /// A file is not what it was when it was hashed.
    #[error("context changed during the build: {path}")]
    Changed {
        /// The file.
        path: String,
    },
    /// The build ended first.
    #[error("the build has ended")]
    Ended,
}

/// A build, as far as it is not the scheduler's.
pub(crate) struct Build {
    pub(crate) id: BuildId,
    pub(crate) submission: Submission,
    /// Whose records it reads and writes.
    pub(crate) scope: Scope,
    pub(crate) submitted: UnixTime,
    pub(crate) journal: Journal,
    pub(crate) questions: Questions,
    /// The clients that attend it and answer.
    pub(crate) company: Company,
    /// What its ADDs took from elsewhere.
    pub(crate) remotes: Remotes,
    /// Cancelled when the build has ended.
    pub(crate) over: CancellationToken,
    confided: Mutex<Confided>,
    /// Held while credentials are asked for, so that each registry's are asked for once.
    asking: tokio::sync::Mutex<()>,
}

/// What is known of the credentials for a registry.
pub(crate) enum Known {
    /// The client was not asked.
    Unasked,
    /// It has none.
    Nothing,
    /// It has these.
    These(RegistryCredentials),
    /// It had these some time ago: a helper may have better ones now.
    Old(RegistryCredentials),
}

/// What a client said of its credentials for a registry, and when.
struct Said {
    credentials: Option<RegistryCredentials>,
    at: Instant,
}

impl Said {
    fn is_something(&self) -> bool {
        self.credentials.as_ref().is_some_and(|found| !found.is_nothing())
    }
}

/// What clients confided; never in the log, gone with the process.
#[derive(Default)]
struct Confided {
    secrets: BTreeMap<String, Vec<u8>>,
    credentials: BTreeMap<String, Said>,
    /// Whether a client that answers has been there.
    met: bool,
    /// Whether the one that submitted the build has, in this process's time.
    owner_met: bool,
}

impl Build {
    /// A build; one whose submission names no scope is of the coordinator's own.
    pub(crate) fn new(
        id: BuildId,
        submission: Submission,
        submitted: UnixTime,
        (own, journal): (&Scope, Journal),
    ) -> Build {
        let scope = submission.scope.clone().unwrap_or_else(|| own.clone());
        let micros = u64::try_from(submitted.secs).unwrap_or(0).wrapping_mul(1_000_000);
        let first = micros.wrapping_add(journal.count() << 8);
        Build {
            id,
            submission,
            scope,
            submitted,
            journal,
            questions: Questions::new(first),
            company: Company::new(),
            remotes: Remotes::default(),
            over: CancellationToken::new(),
            confided: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    fn confided(&self) -> MutexGuard<'_, Confided> {
        self.confided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tell(&self, update: Update) {
        self.journal.push(events::encode_update(update));
    }

    pub(crate) fn finish(&self, outcome: &Outcome) {
        self.journal.push(events::encode_outcome(outcome));
        self.journal.end();
        self.over.cancel();
        *self.confided() = Confided::default();
        self.remotes.clear();
    }

    /// Asks the attending client, now or when one is there.
    pub(crate) async fn ask(&self, question: Question) -> Result<Reply, AskError> {
        let answer = self.questions.ask(question);
        self.journal.nudge();
        let reply = tokio::select! {
            () = self.over.cancelled() => return Err(AskError::Ended),
            reply = answer => reply.map_err(|_| AskError::Ended)?,
        };
        match reply {
            Reply::Answer(Answer::Failed { message }) => Err(AskError::Failed(message)),
            reply => Ok(reply),
        }
    }

    /// The client's credentials for a registry; asked for once, and once more when they are old.
    pub(crate) async fn credentials(
        &self,
        host: &str,
    ) -> Result<Option<RegistryCredentials>, AskError> {
        let _one = self.asking.lock().await;
        let old = match self.known_credentials(host) {
            Known::Unasked => None,
            Known::Nothing => return Ok(None),
            Known::These(found) => return Ok(Some(found)),
            Known::Old(found) => Some(found),
        };
        let (asked, limit) = (Instant::now(), limits::LENDER_AWAY_MAX);
        self.owner_met(asked).await?;
        let asking = self.ask(Question::Credentials { host: host.into() });
        let answer = match &old {
            // What is known is better than a client that does not come back.
            Some(_) => tokio::select! {
                answer = asking => Some(answer),
                () = self.company.lacks_client(asked, limit) => None,
            },
            None => Some(asking.await),
        };
        let found = match answer {
            Some(Ok(Reply::Credentials(found))) => found,
            Some(Ok(Reply::Answer(_))) | None => None,
            Some(Err(error @ (AskError::Failed(_) | AskError::Changed { .. }))) => {
                let message = error.to_string();
                tracing::debug!(host, message, "the client has no credentials");
                None
            }
            Some(Err(AskError::Ended)) => return Err(AskError::Ended),
        };
        // A helper that fails this time takes nothing away: most credentials do not age.
        let found = match old {
            Some(old) => Some(found.filter(|found| !found.is_nothing()).unwrap_or(old)),
            None => found,
        };
        if let Some(nothing) = found.as_ref().filter(|found| found.is_nothing()) {
            let note = format!("no credentials for {host}: {}", nothing.source);
            self.tell(Update::Warning(Warning::of(VertexId::of(&self.definition()), &note)));
        }
        let said = Said { credentials: found.clone(), at: Instant::now() };
        self.confided().credentials.insert(host.into(), said);
        Ok(found)
    }

    /// What reading the Dockerfile is called where it is shown.
    pub(crate) fn definition(&self) -> String {
        format!("[internal] load build definition from {}", self.submission.request.filename)
    }

    /// What an ssh agent of the client says to a message.
    pub(crate) async fn ask_agent(&self, id: String, message: &[u8]) -> Result<Vec<u8>, AskError> {
        let question = Question::Agent { id, message: document::to_hex(message) };
        let said = match self.ask(question).await? {
            Reply::Answer(Answer::Agent { message }) => document::from_hex(&message),
            Reply::Answer(_) | Reply::Credentials(_) => None,
        };
        said.ok_or_else(|| AskError::Failed("the client's answer is malformed".into()))
    }

    /// What is known already of a registry's credentials.
    pub(crate) fn known_credentials(&self, host: &str) -> Known {
        match self.confided().credentials.get(host) {
            None => Known::Unasked,
            Some(Said { credentials: None, .. }) => Known::Nothing,
            Some(Said { credentials: Some(found), at }) => {
                let is_old = at.elapsed() > limits::CREDENTIALS_FRESH && !found.is_nothing();
                if is_old { Known::Old(found.clone()) } else { Known::These(found.clone()) }
            }
        }
    }

    /// The hosts that the client gave credentials for.
    pub(crate) fn credentialed(&self) -> BTreeSet<String> {
        let confided = self.confided();
        let known = confided.credentials.iter().filter(|(_, said)| said.is_something());
        known.map(|(host, _)| host.clone()).collect()
    }

    /// Takes the secrets of a client that answers; all there are, if it owns the build.
    pub(crate) fn confide(&self, secrets: BTreeMap<String, Vec<u8>>, owns: bool) {
        let mut confided = self.confided();
        confided.secrets.extend(secrets);
        confided.met = true;
        if owns && !confided.owner_met {
            confided.owner_met = true;
            // What others had none of it may have.
            confided.credentials.retain(|_, said| said.is_something());
        }
        drop(confided);
        self.journal.nudge();
    }

    pub(crate) fn secret(&self, id: &str) -> Option<Vec<u8>> {
        self.confided().secrets.get(id).cloned()
    }

    /// The secrets whose ids mean something.
    pub(crate) fn secrets_named(&self, means: impl Fn(&str) -> bool) -> Vec<(String, Vec<u8>)> {
        let confided = self.confided();
        let named = confided.secrets.iter().filter(|(id, _)| means(id));
        named.map(|(id, value)| (id.clone(), value.clone())).collect()
    }

    /// Waits until the client has been there whose build it is, so that its secrets are known; whoever else answers stands
    /// for one that stays away.
    pub(crate) async fn met(&self) -> Result<(), AskError> {
        self.owner_met(Instant::now()).await?;
        self.has_confided(|confided| confided.met).await
    }

    /// Waits until the client that submitted the build has been here, but not for one that has been away for long since
    /// `asked`.
    async fn owner_met(&self, asked: Instant) -> Result<(), AskError> {
        // Whoever looks on may be here first, and is not to answer for the one whose build it is.
        tokio::select! {
            met = self.has_confided(|confided| confided.owner_met) => met,
            () = self.company.lacks_owner(asked, limits::LENDER_AWAY_MAX) => Ok(()),
        }
    }

    /// Waits until this is true of what clients have confided.
    async fn has_confided(&self, is_so: impl Fn(&Confided) -> bool) -> Result<(), AskError> {
        let mut changed = self.journal.watch();
        while !is_so(&self.confided()) {
            tokio::select! {
                () = self.over.cancelled() => return Err(AskError::Ended),
                seen = changed.changed() => seen.map_err(|_| AskError::Ended)?,
            }
        }
        Ok(())
    }

    /// Waits until all these secrets are here; one that is not is an error once the client that submitted the build has
    /// been: who only attached has none.
    pub(crate) async fn has_secrets(&self, ids: &BTreeSet<String>) -> Result<(), AskError> {
        let mut changed = self.journal.watch();
        loop {
            changed.mark_unchanged();
            let missing = ids.iter().find(|id| self.secret(id).is_none());
            let Some(id) = missing else { return Ok(()) };
            if self.confided().owner_met {
                let message = format!("the client did not bring the secret '{id}'");
                return Err(AskError::Failed(message));
            }
            tokio::select! {
                () = self.over.cancelled() => return Err(AskError::Ended),
                seen = changed.changed() => seen.map_err(|_| AskError::Ended)?,
            }
        }
    }
}

/// A piece of work of the coordinator itself that a person sees.
pub(crate) struct Shown<'a> {
    build: &'a Build,
    clock: &'a dyn dcbuild_process::Clock,
    vertex: Vertex,
    started: UnixTime,
}

impl<'a> Shown<'a> {
    pub(crate) fn start(
        build: &'a Build,
        clock: &'a dyn dcbuild_process::Clock,
        name: impl Into<String>,
    ) -> Shown<'a> {
        let (name, started) = (name.into(), clock.now());
        let id = VertexId::of(&name);
        let state = VertexState::Running { started };
        let vertex = Vertex { id, name, inputs: Vec::new(), state };
        build.tell(Update::Vertex(vertex.clone()));
        Shown { build, clock, vertex, started }
    }

    pub(crate) fn id(&self) -> VertexId {
        self.vertex.id
    }

    /// Says how many bytes a part of the work was, once that is known.
    pub(crate) fn bytes(&self, what: &str, bytes: u64) {
        let time = self.clock.now();
        self.build.tell(Update::Status(Status {
            vertex: self.vertex.id,
            id: what.to_owned(),
            current: bytes,
            total: None,
            time,
            started: Some(self.started),
            completed: Some(time),
        }));
    }

    /// Shows lines of text.
    pub(crate) fn log(&self, lines: &[String]) {
        for line in lines {
            let (vertex, stream) = (self.vertex.id, Stream::Stderr);
            let bytes = format!("{line}\n").into_bytes();
            self.build.tell(Update::Log(Log { vertex, stream, bytes, time: self.clock.now() }));
        }
    }

    pub(crate) fn done(self) {
        let completed = self.clock.now();
        self.end(VertexState::Done { started: self.started, completed });
    }

    pub(crate) fn failed(self, error: impl Into<String>) {
        let completed = self.clock.now();
        let state = VertexState::Failed { started: self.started, completed, error: error.into() };
        self.end(state);
    }

    fn end(&self, state: VertexState) {
        self.build.tell(Update::Vertex(Vertex { state, ..self.vertex.clone() }));
    }
}
