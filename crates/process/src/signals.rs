//! Ctrl-C and SIGTERM.

use std::io;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a shell reports of a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Signals that come so soon after the first are the same wish: `timeout` sends its own to the process and to its group.
const SAME: Duration = Duration::from_secs(1);

/// Returns a token that the first Ctrl-C or SIGTERM cancels; a second one, a moment later, ends the process at once.
pub fn signals() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let token = stop.clone();
    let mut waiting = Waiting::new()?;
    // Nobody waits for this task: it lasts as long as the process.
    drop(TaskTracker::new().spawn(async move {
        waiting.next().await;
        token.cancel();
        let first = Instant::now();
        while first.elapsed() < SAME {
            waiting.next().await;
        }
        leave();
    }));
    Ok(stop)
}

#[expect(clippy::exit, reason = "the user asked twice; nothing may hold the process any longer")]
fn leave() {
    std::process::exit(INTERRUPTED);
}

#[cfg(unix)]
struct Waiting {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Waiting {
    fn new() -> io::Result<Waiting> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Waiting {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(windows)]
struct Waiting(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Waiting {
    fn new() -> io::Result<Waiting> {
        tokio::signal::windows::ctrl_c().map(Waiting)
    }

    async fn next(&mut self) {
        self.0.recv().await;
    }
}
