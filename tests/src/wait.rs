//! Waiting for a state, with a limit.

use std::time::Duration;

/// How long anything may take that should take seconds.
pub const LONG: Duration = Duration::from_mins(2);

const PAUSE: Duration = Duration::from_millis(10);

/// Measures how long something takes.
#[derive(Debug)]
#[expect(
    clippy::disallowed_types,
    reason = "these tests watch other processes; their time cannot be paused"
)]
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Starts now.
    #[expect(clippy::disallowed_types, reason = "as the type")]
    pub fn start() -> Stopwatch {
        Stopwatch(std::time::Instant::now())
    }

    /// How long ago that was.
    pub fn passed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Asks again and again until there is an answer; past the limit the test fails with `status` in its message.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Option<T>,
    status: impl Fn() -> String,
) -> T {
    let watch = Stopwatch::start();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(watch.passed() < limit, "{what}: not within {limit:?}\n{}", status());
        std::thread::sleep(PAUSE);
    }
}
