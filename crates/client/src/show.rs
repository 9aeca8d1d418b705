//! A build on a screen: updates go in, text comes out ten times a second.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dcbuild_model::UnixTime;
use dcbuild_process::{Clock, Env};
use dcbuild_progress::text::clip;
use dcbuild_progress::{
    Colour, Display, LogLine, Mode, Output, Size, Stream, Summary, Tally, Update, Vertex, VertexId,
    VertexState, Warning, Warnings,
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::variables;

const TICK: Duration = Duration::from_millis(100);
/// How many last lines of a step are shown when it failed.
const TAIL_LINES: usize = 20;
const LINE_BYTES_MAX: usize = 8 << 10;
const NANOS: i128 = 1_000_000_000;
/// Clocks that differ by less say the same: so long may a word of the time be on its way.
const SKEW_MIN: i128 = NANOS;

/// Where progress is written.
pub trait Screen: Send {
    /// Writes text; a screen that is gone swallows it.
    fn write(&mut self, text: &str);

    /// How large it is.
    fn size(&self) -> Size;

    /// What it can show.
    fn output(&self) -> Output;
}

/// One of the process's two outputs: standard error for progress, standard output where the log itself is asked for.
#[derive(Debug)]
pub struct Console {
    stream: Stream,
    output: Output,
}

impl Console {
    /// Standard error.
    pub fn stderr(env: &Env) -> Console {
        let terminal = rustix::termios::isatty(std::io::stderr());
        Console { stream: Stream::Stderr, output: Console::output(terminal, env) }
    }

    /// Standard output.
    pub fn stdout(env: &Env) -> Console {
        let terminal = rustix::termios::isatty(std::io::stdout());
        Console { stream: Stream::Stdout, output: Console::output(terminal, env) }
    }

    /// What can be shown: a dumb terminal cannot move its cursor.
    fn output(terminal: bool, env: &Env) -> Output {
        let moves = terminal && env.get("TERM") != Some("dumb");
        if moves { Output::Terminal(variables::look(env)) } else { Output::Stream }
    }
}

fn write_flushed(mut out: impl std::io::Write, text: &str) {
    // There is nobody left to tell.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

impl Screen for Console {
    fn write(&mut self, text: &str) {
        match self.stream {
            Stream::Stdout => write_flushed(std::io::stdout().lock(), text),
            Stream::Stderr => write_flushed(std::io::stderr().lock(), text),
        }
    }

    fn size(&self) -> Size {
        let found = match self.stream {
            Stream::Stdout => rustix::termios::tcgetwinsize(std::io::stdout()),
            Stream::Stderr => rustix::termios::tcgetwinsize(std::io::stderr()),
        };
        let Ok(found) = found else { return Size::default() };
        if found.ws_col == 0 || found.ws_row == 0 {
            return Size::default();
        }
        Size { columns: found.ws_col.into(), rows: found.ws_row.into() }
    }

    fn output(&self) -> Output {
        self.output
    }
}

/// The last lines that a vertex wrote.
#[derive(Default)]
pub(crate) struct Tail {
    pub(crate) name: String,
    started: Option<UnixTime>,
    lines: VecDeque<LogLine>,
    open: BTreeMap<Stream, Vec<u8>>,
}

impl Tail {
    fn feed(&mut self, stream: Stream, bytes: &[u8], time: UnixTime) {
        let at = self.started.map_or(Duration::ZERO, |started| since(started, time));
        let mut open = self.open.remove(&stream).unwrap_or_default();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE_BYTES_MAX.saturating_sub(open.len());
            open.extend_from_slice(piece.get(..piece.len().min(room)).unwrap_or_default());
            if piece.ends_with(b"\n") {
                while open.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                    open.pop();
                }
                self.push(LogLine { at, bytes: std::mem::take(&mut open) });
            }
        }
        if !open.is_empty() {
            self.open.insert(stream, open);
        }
    }

    fn push(&mut self, line: LogLine) {
        self.lines.push_back(line);
        if self.lines.len() > TAIL_LINES {
            self.lines.pop_front();
        }
    }

    /// The last lines, one that was never ended among them.
    pub(crate) fn lines(&self) -> Vec<LogLine> {
        let at = self.lines.back().map_or(Duration::ZERO, |line| line.at);
        let open = self.open.values().map(|bytes| LogLine { at, bytes: bytes.clone() });
        self.lines.iter().cloned().chain(open).collect()
    }
}

fn since(from: UnixTime, to: UnixTime) -> Duration {
    let nanos = (nanos(to) - nanos(from)).max(0);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn nanos(time: UnixTime) -> i128 {
    i128::from(time.secs) * NANOS + i128::from(time.nanos)
}

fn at_nanos(nanos: i128) -> UnixTime {
    UnixTime {
        secs: i64::try_from(nanos.div_euclid(NANOS)).unwrap_or_default(),
        nanos: u32::try_from(nanos.rem_euclid(NANOS)).unwrap_or_default(),
    }
}

/// Shows one build.
pub(crate) struct Show<'s> {
    screen: &'s mut dyn Screen,
    display: Display,
    clock: Arc<dyn Clock>,
    /// By how much our clock is ahead of the coordinator's, whose times are shown.
    ahead_nanos: i128,
    began: Instant,
    tails: BTreeMap<VertexId, Tail>,
    tally: Tally,
    warnings: Warnings,
    /// All that was warned of, for programs.
    warned: Vec<Warning>,
    /// What the tries before this one came to.
    earlier: Option<Summary>,
    /// Whether a summary is for people, and this display is.
    sums_up: bool,
    ticks: Interval,
}

impl<'s> Show<'s> {
    pub(crate) fn new(mode: Mode, screen: &'s mut dyn Screen, clock: Arc<dyn Clock>) -> Show<'s> {
        let display = Display::new(mode, screen.output());
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let sums_up = matches!(mode, Mode::Auto | Mode::Tty | Mode::Plain);
        let tails = BTreeMap::new();
        let (tally, warnings) = (Tally::default(), Warnings::default());
        let (warned, earlier) = (Vec::new(), None);
        let (ahead_nanos, began) = (0, Instant::now());
        Show {
            screen,
            display,
            clock,
            ahead_nanos,
            began,
            tails,
            tally,
            warnings,
            warned,
            earlier,
            sums_up,
            ticks,
        }
    }

    /// Takes the time by the clock that the times of updates come from.
    pub(crate) fn tell_time(&mut self, now: UnixTime) {
        let ahead = nanos(self.clock.now()) - nanos(now);
        self.ahead_nanos = if ahead.abs() < SKEW_MIN { 0 } else { ahead };
    }

    /// The time by that clock.
    fn now(&self) -> UnixTime {
        match self.ahead_nanos {
            0 => self.clock.now(),
            ahead => at_nanos(nanos(self.clock.now()) - ahead),
        }
    }

    pub(crate) fn update(&mut self, update: &Update) {
        match update {
            Update::Vertex(vertex) => {
                let tail = self.tails.entry(vertex.id).or_default();
                tail.name.clone_from(&vertex.name);
                tail.started = vertex.state.started().or(tail.started);
            }
            Update::Log(log) => {
                let tail = self.tails.entry(log.vertex).or_default();
                tail.feed(log.stream, &log.bytes, log.time);
            }
            Update::Warning(warning) => self.warned.push(warning.clone()),
            Update::Status(_) => {}
        }
        self.tally.update(update);
        self.warnings.update(update);
        self.display.update(update);
    }

    /// All that was warned of.
    pub(crate) fn warned(&self) -> &[Warning] {
        &self.warned
    }

    /// Goes on from a try that came to nothing.
    pub(crate) fn after(self, earlier: Option<Summary>) -> Show<'s> {
        Show { earlier, ..self }
    }

    /// What this build came to so far, with the tries before this one.
    pub(crate) fn summary(&self) -> Summary {
        // How long it took is measured here, by whom it took time.
        let took = self.began.elapsed();
        let summary = Summary { took, ..self.tally.summary(self.now()) };
        match &self.earlier {
            Some(earlier) => summary.after(earlier.clone()),
            None => summary,
        }
    }

    /// What ran, what was a hit, and where the time went.
    pub(crate) fn sum_up(&mut self) {
        let summary = self.summary();
        self.say(&summary);
    }

    /// The same of a build that was joined on its way, or after its end.
    pub(crate) fn sum_up_joined(&mut self) {
        let ended = self.tally.ended().unwrap_or_else(|| self.now());
        let summary = self.tally.summary(ended);
        self.say(&summary);
    }

    fn say(&mut self, summary: &Summary) {
        if self.sums_up {
            let text = summary.render();
            match self.screen.output() {
                Output::Stream => self.write(&text),
                // A name that wraps is hard to tell from the next one.
                Output::Terminal(_) => {
                    let columns = self.screen.size().columns;
                    let lines = text.lines().map(|line| format!("{}\n", clip(line, columns)));
                    let clipped: String = lines.collect();
                    self.write(&clipped);
                }
            }
        }
    }

    /// Waits for the next time to draw.
    pub(crate) async fn tick(&mut self) {
        self.ticks.tick().await;
    }

    pub(crate) fn draw(&mut self) {
        let (now, size) = (self.now(), self.screen.size());
        let text = self.display.draw(now, size);
        self.write(&text);
    }

    pub(crate) fn finish(&mut self) {
        let (now, size) = (self.now(), self.screen.size());
        let text = self.display.finish(now, size);
        self.write(&text);
        let warnings = std::mem::take(&mut self.warnings);
        if self.sums_up {
            let colour = match self.screen.output() {
                Output::Terminal(look) => look.colour,
                Output::Stream => Colour::Off,
            };
            self.write(&warnings.render(colour));
        }
    }

    pub(crate) fn write(&mut self, text: &str) {
        if !text.is_empty() {
            self.screen.write(text);
        }
    }

    pub(crate) fn tail(&self, vertex: &VertexId) -> Option<&Tail> {
        self.tails.get(vertex)
    }

    /// Shows work of the client itself while it goes on.
    pub(crate) async fn during<T, E: std::error::Error + 'static>(
        &mut self,
        name: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let started = self.now();
        let vertex = |state| {
            let (id, name) = (VertexId::of(name), name.to_owned());
            Update::Vertex(Vertex { id, name, inputs: Vec::new(), state })
        };
        self.update(&vertex(VertexState::Running { started }));
        let mut work = std::pin::pin!(work);
        let done = loop {
            let done = tokio::select! {
                done = &mut work => Some(done),
                () = self.tick() => None,
            };
            self.draw();
            if let Some(done) = done {
                break done;
            }
        };
        let completed = self.now();
        self.update(&vertex(match &done {
            Ok(_) => VertexState::Done { started, completed },
            Err(error) => {
                let error = crate::answer::chain(error);
                VertexState::Failed { started, completed, error }
            }
        }));
        done
    }
}

#[cfg(test)]
mod tests {
    use dcbuild_progress::Look;

    use super::*;

    #[test]
    fn a_dumb_terminal_gets_plain_lines() {
        let output = |terminal, env: &[(&str, &str)]| {
            Console::output(terminal, &env.iter().copied().collect())
        };
        assert_eq!(output(true, &[("TERM", "xterm")]), Output::Terminal(Look::default()));
        let plain = Look { colour: Colour::Off, ..Look::default() };
        assert_eq!(output(true, &[("NO_COLOR", "1")]), Output::Terminal(plain));
        assert_eq!(output(true, &[("TERM", "dumb")]), Output::Stream);
        assert_eq!(output(false, &[]), Output::Stream);
    }

    /// A clock that stands.
    struct Stands(UnixTime);

    impl Clock for Stands {
        fn now(&self) -> UnixTime {
            self.0
        }
    }

    /// A stream that keeps what is written.
    #[derive(Default)]
    struct Page(String);

    impl Screen for Page {
        fn write(&mut self, text: &str) {
            self.0.push_str(text);
        }

        fn size(&self) -> Size {
            Size::default()
        }

        fn output(&self) -> Output {
            Output::Stream
        }
    }

    #[tokio::test(start_paused = true)]
    async fn durations_are_of_one_clock() {
        let at = |secs| UnixTime { secs, nanos: 0 };
        let mut page = Page::default();
        let mut show = Show::new(Mode::Plain, &mut page, Arc::new(Stands(at(10_008))));
        // The coordinator's clock is an hour behind.
        show.tell_time(at(6_408));
        assert_eq!(show.now(), at(6_408));
        let (id, name) = (VertexId::of("a"), "[a 1/1] RUN make".to_owned());
        let vertex =
            |state| Update::Vertex(Vertex { id, name: name.clone(), inputs: Vec::new(), state });
        show.update(&vertex(VertexState::Running { started: at(6_400) }));
        tokio::time::advance(Duration::from_secs(8)).await;
        show.sum_up();
        // One that was joined late took as long as its steps did, by the clock of the coordinator.
        show.update(&vertex(VertexState::Done { started: at(6_400), completed: at(6_403) }));
        let earlier = show.summary();
        show.sum_up_joined();
        assert!(page.0.contains("Built in 8.0s"), "{}", page.0);
        assert!(page.0.contains("8.0s  [a 1/1] RUN make"), "{}", page.0);
        let joined = "Built in 3.0s: 1 ran, 0 cached\n    3.0s  [a 1/1] RUN make\n";
        assert!(page.0.ends_with(joined), "{}", page.0);
        // One that goes on from a try that came to nothing has taken the time of both.
        let mut show = Show::new(Mode::Plain, &mut page, Arc::new(Stands(at(10_008))));
        show = show.after(Some(earlier));
        tokio::time::advance(Duration::from_secs(2)).await;
        show.update(&vertex(VertexState::Cached { completed: at(10_008) }));
        show.sum_up();
        assert!(page.0.contains("Built in 10.0s (2 tries): 1 ran, 1 cached"), "{}", page.0);
        // What a message takes on its way is no difference of clocks.
        let mut show = Show::new(Mode::Plain, &mut page, Arc::new(Stands(at(10_008))));
        show.tell_time(UnixTime { secs: 10_007, nanos: 900_000_000 });
        assert_eq!(show.now(), at(10_008));
    }

    #[test]
    fn a_tail_keeps_the_last_lines_and_an_open_one() {
        let at = |secs| UnixTime { secs, nanos: 0 };
        let mut tail = Tail { started: Some(at(5)), ..Tail::default() };
        for number in 0..30 {
            tail.feed(Stream::Stdout, format!("{number}\r\nx").as_bytes(), at(6));
        }
        tail.feed(Stream::Stderr, b"open", at(9));
        let lines = tail.lines();
        let texts: Vec<_> =
            lines.iter().map(|line| String::from_utf8_lossy(&line.bytes).into_owned()).collect();
        assert_eq!(texts.len(), TAIL_LINES + 2);
        assert_eq!(texts.first().map(String::as_str), Some("x10"));
        assert_eq!(&texts[TAIL_LINES..], ["x", "open"]);
        assert!(lines.iter().all(|line| line.at == Duration::from_secs(1)));
    }
}
