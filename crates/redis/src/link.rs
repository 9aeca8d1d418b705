//! Keeps one connection, and lets nobody wait long for it: a dead server costs one deadline now and then, not one a call.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, ScriptInvocation, Value};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::config::{RedisConfig, Servers};
use crate::fault::{Aftermath, RedisFault};
use crate::open::{DEADLINE, Opened, open, primary};

/// The longest pause between two tries to connect.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// How often sentinels are asked whether the primary is still the one that we write to: one that was cut off from the
/// others does not say so itself.
const PRIMARY_ASKED_EVERY: Duration = Duration::from_secs(10);

/// How often it is said that the index fails.
const SAID_EVERY: Duration = Duration::from_mins(1);

/// What is sent.
pub(crate) enum Call<'a> {
    Script(&'a ScriptInvocation<'a>),
    Command(&'a Cmd),
}

impl Call<'_> {
    async fn send(&self, connection: &mut MultiplexedConnection) -> RedisResult<Value> {
        match self {
            Call::Script(script) => script.invoke_async(connection).await,
            Call::Command(command) => command.query_async(connection).await,
        }
    }
}

#[derive(Clone)]
struct Up {
    number: u64,
    opened: Opened,
}

#[derive(Clone)]
enum State {
    /// It may be there in a moment: wait.
    Connecting,
    Up(Up),
    /// It was tried and is not there: do not wait.
    Down(RedisFault),
}

struct Shared {
    config: RedisConfig,
    state: watch::Sender<State>,
    broken: Notify,
    opened: AtomicU64,
    /// Whether the present connection has ever answered a call.
    proved: AtomicBool,
    outages: Outages,
}

/// Says that the index fails, once in a while: nothing fails with it, and who watches the log is to know why all is slower.
#[derive(Default)]
struct Outages(Mutex<Outage>);

#[derive(Default)]
struct Outage {
    said: Option<Instant>,
    /// Whether that was said and it was not well since.
    lasts: bool,
}

impl Outages {
    fn failed(&self, config: &RedisConfig, fault: &RedisFault) {
        // Where there is no memory left, there may be room to make.
        if !matches!(fault, RedisFault::Stopped | RedisFault::Full { .. }) {
            self.say(config, fault);
        }
    }

    fn say(&self, config: &RedisConfig, fault: &RedisFault) {
        let mut outage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if outage.said.is_none_or(|said| said.elapsed() >= SAID_EVERY) {
            outage.said = Some(Instant::now());
            outage.lasts = true;
            tracing::warn!(
                "the index {config} fails, and the store is asked instead, which takes longer: {fault}"
            );
        }
    }

    fn well(&self, config: &RedisConfig) {
        let mut outage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut outage.lasts) {
            tracing::info!("the index {config} does well again");
        }
    }
}

/// One connection, made again in the background when it breaks.
pub(crate) struct Link {
    shared: Arc<Shared>,
    _keeper: DropGuard,
}

impl Link {
    /// Says that there was no room to make.
    pub(crate) fn is_full(&self, fault: &RedisFault) {
        self.shared.outages.say(self.config(), fault);
    }

    /// Begins to connect; the task that does it ends with `stop`, or with the link.
    pub(crate) fn start(
        config: RedisConfig,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Link {
        let shared = Arc::new(Shared {
            config,
            state: watch::Sender::new(State::Connecting),
            broken: Notify::new(),
            opened: AtomicU64::new(0),
            proved: AtomicBool::new(false),
            outages: Outages::default(),
        });
        let stop = stop.child_token();
        let keeper = Arc::clone(&shared);
        tasks.spawn({
            let stop = stop.clone();
            async move {
                let _stopped = stop.run_until_cancelled(keeper.keep()).await;
                keeper.state.send_replace(State::Down(RedisFault::Stopped));
            }
        });
        Link { shared, _keeper: stop.drop_guard() }
    }

    pub(crate) fn config(&self) -> &RedisConfig {
        &self.shared.config
    }

    /// Sends something and waits for its answer, [`DEADLINE`] at most in all; over a connection that turns out to have been
    /// closed it is sent once more, so it must bear that.
    pub(crate) async fn run(&self, call: &Call<'_>) -> Result<Value, RedisFault> {
        let answer = self.send(call).await;
        match &answer {
            Ok(_) => self.shared.outages.well(&self.shared.config),
            Err(fault) => self.shared.outages.failed(&self.shared.config, fault),
        }
        answer
    }

    async fn send(&self, call: &Call<'_>) -> Result<Value, RedisFault> {
        let until = Instant::now() + DEADLINE;
        let mut again = true;
        loop {
            let mut up = self.shared.connection(until).await?;
            let fault = match timeout_at(until, call.send(&mut up.opened.connection)).await {
                Ok(Ok(value)) => {
                    self.shared.proved.store(true, Ordering::SeqCst);
                    return Ok(value);
                }
                Ok(Err(source)) => RedisFault::of(source, &up.opened.address.to_string()),
                Err(_) => RedisFault::Silent { within: DEADLINE },
            };
            self.shared.broke(up.number, &fault);
            if !again || fault.aftermath() != Aftermath::Replace {
                return Err(fault);
            }
            again = false;
        }
    }
}

impl Shared {
    async fn connection(&self, until: Instant) -> Result<Up, RedisFault> {
        let mut state = self.state.subscribe();
        let ready = async {
            loop {
                let now = state.borrow_and_update().clone();
                match now {
                    State::Up(up) => return Ok(up),
                    State::Down(fault) => return Err(fault),
                    State::Connecting => {}
                }
                if state.changed().await.is_err() {
                    return Err(RedisFault::Stopped);
                }
            }
        };
        if let Ok(ready) = timeout_at(until, ready).await {
            return ready;
        }
        // Whoever comes next need not wait as long.
        let fault = RedisFault::Silent { within: DEADLINE };
        self.state.send_if_modified(|state| {
            let waited = matches!(state, State::Connecting);
            if waited {
                *state = State::Down(fault.clone());
            }
            waited
        });
        Err(fault)
    }

    fn broke(&self, number: u64, fault: &RedisFault) {
        let next = match fault.aftermath() {
            Aftermath::Keep => {
                self.proved.store(true, Ordering::SeqCst);
                return;
            }
            Aftermath::Replace => State::Connecting,
            Aftermath::Down => State::Down(fault.clone()),
        };
        let changed = self.state.send_if_modified(|state| {
            let ours = matches!(state, State::Up(up) if up.number == number);
            if ours {
                *state = next;
            }
            ours
        });
        if changed {
            self.broken.notify_one();
        }
    }

    async fn keep(&self) {
        let mut failures = 0;
        loop {
            match open(&self.config).await {
                Ok(opened) => {
                    self.use_until_broken(opened).await;
                    let proved = self.proved.load(Ordering::SeqCst);
                    failures = if proved { 0 } else { failures + 1 };
                }
                Err(fault) => {
                    tracing::debug!(%fault, server = %self.config, "redis is not there");
                    self.state.send_replace(State::Down(fault));
                    failures += 1;
                }
            }
            tokio::time::sleep(pause(failures)).await;
        }
    }

    async fn use_until_broken(&self, opened: Opened) {
        let number = self.opened.fetch_add(1, Ordering::SeqCst);
        let address = opened.address.clone();
        self.proved.store(false, Ordering::SeqCst);
        self.state.send_replace(State::Up(Up { number, opened }));
        if matches!(self.config.servers, Servers::One(_)) {
            return self.broken.notified().await;
        }
        loop {
            let waited = tokio::time::timeout(PRIMARY_ASKED_EVERY, self.broken.notified()).await;
            if waited.is_ok() {
                return;
            }
            if primary(&self.config).await.is_ok_and(|now| now != address) {
                self.state.send_replace(State::Connecting);
                return;
            }
        }
    }
}

/// How long to wait after so many failures in a row; not the same for everybody, who would else come at once.
fn pause(failures: u32) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let whole = Duration::from_millis(50) * (1 << (failures - 1).min(6));
    whole.min(PAUSE_MAX).mul_f64(rand::random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        assert_eq!(pause(0), Duration::ZERO);
        for failures in 1..40 {
            let pause = pause(failures);
            assert!(pause >= Duration::from_millis(25) && pause < PAUSE_MAX, "{pause:?}");
        }
        assert!(pause(7) > pause(1));
        assert_ne!([pause(9), pause(9)], [pause(9), pause(9)]);
    }
}
