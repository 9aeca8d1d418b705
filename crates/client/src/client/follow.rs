//! Follows one build through its events, over as many connections as it takes.

use std::sync::Arc;
use std::time::Duration;

use dcbuild_model::BuildId;
use dcbuild_progress::{Update, VertexState};
use dcbuild_proto::document::Outcome;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Client;
use crate::answer::Sources;
use crate::rpc::{Event, Role, RpcError, Session};
use crate::show::Show;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a cancelled build may take to say so.
const FAREWELL: Duration = Duration::from_secs(1);
/// Vertices of a build that is still being planned or handed over have names that begin so.
const INTERNAL: &str = "[internal]";

/// How long it is worth trying again; each success starts it anew.
pub(super) struct Patience {
    limit: Duration,
    until: Option<Instant>,
    pause: Duration,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Patience {
        Patience { limit, until: None, pause: FIRST_PAUSE }
    }

    /// Waits before another try; false where no other is due.
    pub(super) async fn wait(&mut self) -> bool {
        let now = Instant::now();
        let until = *self.until.get_or_insert(now + self.limit);
        if now + self.pause > until {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
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

pub(super) struct Follow<'a> {
    pub(super) client: &'a Client,
    pub(super) id: BuildId,
    pub(super) role: Role,
    /// What questions are answered from; none for one that looks on.
    pub(super) sources: Option<Arc<Sources>>,
    /// Whether the client leaves as soon as the build can do without it.
    pub(super) detached: bool,
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
            let attend = self.client.builds.attend(self.id, course.next, self.role.clone());
            let lost = match self.shown(attend, show, stop, &mut course).await {
                None => return Ok(canceled()),
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
                return Ok(canceled());
            }
            if !lost.may_pass() {
                return Err(lost);
            }
            tracing::debug!(error = %crate::answer::chain(&lost), "the connection is lost");
            match self.shown(patience.wait(), show, stop, &mut course).await {
                None => return Ok(canceled()),
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
        if self.sources.is_some() {
            let told = tokio::time::timeout_at(until, self.client.builds.cancel(self.id)).await;
            if let Ok(Err(error)) = told {
                tracing::debug!(error = %crate::answer::chain(&error), "the build could not be cancelled");
            }
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
                Woke::Late => return Ok(Cut::Followed(canceled())),
                Woke::Stop if self.sources.is_none() => return Ok(Cut::Followed(Followed::Left)),
                Woke::Stop => self.cancel(course).await,
                Woke::Event(Err(error)) if error.may_pass() => return Ok(Cut::Lost(error)),
                Woke::Event(Err(error)) => return Err(error),
                Woke::Event(Ok((number, event))) => {
                    if let Some(followed) = self.take(number, event, &session, show, course) {
                        return Ok(Cut::Followed(followed));
                    }
                }
            }
        }
    }

    /// Takes one event; questions stand beside the others and have no number among them.
    fn take(
        &self,
        number: u64,
        event: Event,
        session: &Session,
        show: &mut Show<'_>,
        course: &mut Course,
    ) -> Option<Followed> {
        match event {
            Event::CaughtUp => {}
            Event::Question { number, ask } => {
                if let Some(sources) = self.sources.clone() {
                    let replies = session.replies.clone();
                    self.client.tasks.spawn(async move {
                        let reply = sources.answer(ask).await;
                        replies.reply(number, reply).await;
                    });
                }
            }
            Event::Update(update) => {
                course.next = course.next.max(number.saturating_add(1));
                let left = self.detached && is_under_way(&update);
                show.update(&update);
                if left {
                    return Some(Followed::Left);
                }
            }
            Event::Finished(outcome) => return Some(Followed::Ended(outcome)),
        }
        None
    }
}

fn canceled() -> Followed {
    let reason = "the user stopped it".to_owned();
    Followed::Ended(Box::new(Outcome::Canceled { reason }))
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
            !vertex.name.starts_with(INTERNAL) && vertex.state != VertexState::Waiting
        }
        Update::Status(_) | Update::Log(_) | Update::Warning(_) => false,
    }
}
