//! Follows one build through its events, over as many connections as it takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dcbuild_model::BuildId;
use dcbuild_progress::{Update, VertexState, is_internal};
use dcbuild_proto::document::{Outcome, Question};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Client;
use crate::answer::Sources;
use crate::rpc::{Builds, Event, Role, RpcError, Session};
use crate::show::Show;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The same where somebody waits for a build to begin.
const FIRST_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a cancelled build may take to say so.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long it is worth trying again; each success starts it anew.
pub(super) struct Patience {
    limit: Duration,
    pause_max: Duration,
    until: Option<Instant>,
    pause: Duration,
}

impl Patience {
    /// The patience with what went on before.
    fn new(limit: Duration) -> Patience {
        Patience { limit, pause_max: PAUSE_MAX, until: None, pause: FIRST_PAUSE }
    }

    /// The patience with what is about to begin.
    pub(super) fn of_first(limit: Duration) -> Patience {
        Patience { pause_max: FIRST_PAUSE_MAX, ..Patience::new(limit) }
    }

    /// Waits before another try; false where no other is due.
    pub(super) async fn wait(&mut self) -> bool {
        let now = Instant::now();
        let until = *self.until.get_or_insert(now + self.limit);
        if now >= until {
            return false;
        }
        tokio::time::sleep(self.pause.min(until - now)).await;
        self.pause = (self.pause * 2).min(self.pause_max);
        true
    }

    fn restore(&mut self) {
        *self = Patience::new(self.limit);
    }
}

/// How following a build ended.
pub(super) enum Followed {
    Ended(Box<Outcome>),
    /// The client went before the build ended.
    Left,
}

/// Tells the coordinator that a build is not wanted, if it can be told.
async fn cancel(builds: &Builds, id: BuildId, until: Instant) {
    if let Ok(Err(error)) = tokio::time::timeout_at(until, builds.cancel(id)).await {
        tracing::debug!(error = %crate::answer::chain(&error), "the build could not be cancelled");
    }
}

/// The same of one that may have been submitted, or not.
pub(super) async fn cancel_if_known(builds: &Builds, id: BuildId) {
    cancel(builds, id, Instant::now() + FAREWELL).await;
}

/// What a client is to the build that it follows.
#[derive(Clone)]
pub(super) enum Presence {
    /// It submitted it, answers what it asks, and ends it when it is told to stop.
    Owner { sources: Arc<Sources>, secrets: BTreeMap<String, Vec<u8>>, stay: Stay },
    /// It answers what it can, and leaves the build alone when it goes.
    Attached { sources: Arc<Sources> },
    /// It answers nothing.
    LooksOn,
}

/// How long a client stays.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stay {
    ToTheEnd,
    /// Until the build can do without it.
    Briefly,
}

impl Presence {
    fn role(&self) -> Role {
        match self {
            Presence::Owner { secrets, .. } => Role::Owns(secrets.clone()),
            Presence::Attached { .. } => Role::Answers,
            Presence::LooksOn => Role::LooksOn,
        }
    }

    fn owns(&self) -> bool {
        matches!(self, Presence::Owner { .. })
    }
}

pub(super) struct Follow<'a> {
    pub(super) client: &'a Client,
    pub(super) id: BuildId,
    pub(super) presence: Presence,
}

enum Woke {
    Event(Result<(u64, Event), RpcError>),
    Tick,
    Stop,
    /// The time for a farewell is over.
    Late,
}

/// What is known across connections.
struct Course {
    /// The first event that was not seen.
    next: u64,
    /// When to go, once the user asked to stop.
    leave: Option<Instant>,
}

enum Cut {
    Followed(Followed),
    /// The connection ended; the build may not have.
    Lost(RpcError),
}

impl Follow<'_> {
    pub(super) async fn run(
        self,
        show: &mut Show<'_>,
        stop: &CancellationToken,
    ) -> Result<Followed, RpcError> {
        let mut patience = Patience::new(self.client.config.reconnect);
        let mut course = Course { next: 0, leave: None };
        loop {
            let attend = self.client.builds.attend(self.id, course.next, self.presence.role());
            let lost = match self.shown(attend, show, stop, &mut course).await {
                None => return Ok(self.stopped()),
                Some(Err(error)) => error,
                Some(Ok(session)) => {
                    let before = course.next;
                    let cut = self.converse(session, show, stop, &mut course).await?;
                    if course.next > before {
                        patience.restore();
                    }
                    match cut {
                        Cut::Followed(followed) => return Ok(followed),
                        Cut::Lost(error) => error,
                    }
                }
            };
            if course.leave.is_some() {
                return Ok(self.stopped());
            }
            if !lost.may_pass() {
                return Err(lost);
            }
            tracing::debug!(error = %crate::answer::chain(&lost), "the connection is lost");
            match self.shown(patience.wait(), show, stop, &mut course).await {
                None => return Ok(self.stopped()),
                Some(true) => {}
                Some(false) => return Err(lost),
            }
        }
    }

    /// Waits for something while the screen goes on; none where the user asked to stop meanwhile.
    async fn shown<T>(
        &self,
        work: impl Future<Output = T>,
        show: &mut Show<'_>,
        stop: &CancellationToken,
        course: &mut Course,
    ) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let done = tokio::select! {
                done = &mut work => Some(done),
                () = show.tick() => None,
                () = stop.cancelled(), if course.leave.is_none() => {
                    self.cancel(course).await;
                    return None;
                }
            };
            show.draw();
            if done.is_some() {
                return done;
            }
        }
    }

    /// Tells the coordinator that the build is not wanted, if it can be told; one that only looks on just goes.
    async fn cancel(&self, course: &mut Course) {
        let until = Instant::now() + FAREWELL;
        course.leave = Some(until);
        if self.presence.owns() {
            cancel(&self.client.builds, self.id, until).await;
        }
    }

    async fn converse(
        &self,
        mut session: Session,
        show: &mut Show<'_>,
        stop: &CancellationToken,
        course: &mut Course,
    ) -> Result<Cut, RpcError> {
        loop {
            let late = course.leave;
            let woke = tokio::select! {
                event = session.next() => Woke::Event(event),
                () = show.tick() => Woke::Tick,
                () = stop.cancelled(), if late.is_none() => Woke::Stop,
                () = until(late) => Woke::Late,
            };
            match woke {
                Woke::Tick => show.draw(),
                Woke::Late => return Ok(Cut::Followed(self.stopped())),
                Woke::Stop if !self.presence.owns() => return Ok(Cut::Followed(Followed::Left)),
                Woke::Stop => self.cancel(course).await,
                Woke::Event(Err(error)) if error.may_pass() => return Ok(Cut::Lost(error)),
                Woke::Event(Err(error)) => return Err(error),
                Woke::Event(Ok((number, event))) => {
                    if let Some(next) = numbered(number, &event) {
                        course.next = course.next.max(next);
                    }
                    if let Some(followed) = self.take(event, &session, show) {
                        return Ok(Cut::Followed(followed));
                    }
                }
            }
        }
    }

    fn take(&self, event: Event, session: &Session, show: &mut Show<'_>) -> Option<Followed> {
        match event {
            Event::CaughtUp { now } => {
                if let Some(now) = now {
                    show.tell_time(now);
                }
                None
            }
            Event::Question { number, ask } => {
                self.answer(number, ask, session);
                None
            }
            Event::Update(update) => {
                let brief = matches!(self.presence, Presence::Owner { stay: Stay::Briefly, .. });
                show.update(&update);
                (brief && is_under_way(&update)).then_some(Followed::Left)
            }
            Event::Finished(outcome) => Some(Followed::Ended(outcome)),
        }
    }

    fn answer(&self, number: u64, ask: Question, session: &Session) {
        let (Presence::Owner { sources, .. } | Presence::Attached { sources }) = &self.presence
        else {
            return;
        };
        if !self.presence.owns() && !matches!(ask, Question::Credentials { .. }) {
            // Only the client that has the folders can answer; it may come back.
            return;
        }
        let (sources, replies) = (sources.clone(), session.replies.clone());
        self.client.tasks.spawn(async move {
            let reply = sources.answer(ask).await;
            replies.reply(number, reply).await;
        });
    }

    fn stopped(&self) -> Followed {
        if !self.presence.owns() {
            return Followed::Left;
        }
        let reason = "the user stopped it".to_owned();
        Followed::Ended(Box::new(Outcome::Canceled { reason }))
    }
}

/// The number of the event after this one; questions stand beside the others and have no number among them.
fn numbered(number: u64, event: &Event) -> Option<u64> {
    matches!(event, Event::Update(_)).then(|| number.saturating_add(1))
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Whether a step of the Dockerfile is on its way, so that nothing more is asked of the client.
fn is_under_way(update: &Update) -> bool {
    match update {
        Update::Vertex(vertex) => {
            // Those of a build that is still being planned or handed over are its own.
            !is_internal(&vertex.name) && vertex.state != VertexState::Waiting
        }
        Update::Status(_) | Update::Log(_) | Update::Warning(_) => false,
    }
}
