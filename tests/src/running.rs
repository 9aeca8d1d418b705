//! Processes that tests start, and end by their own id.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use crate::wait::wait_for;

/// A process that is killed when it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: NamedTempFile,
    stderr: NamedTempFile,
    shown: String,
}

/// What a process left behind.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Finished {
    /// Returns itself, if the process did what it should.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "often the check is all that is wanted")]
    pub fn well(self) -> Finished {
        assert!(self.status.success(), "{}\n{}{}", self.status, self.stdout, self.stderr);
        self
    }

    /// Returns itself, if the process refused in an orderly way.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "often the check is all that is wanted")]
    pub fn failed(self) -> Finished {
        let orderly = self.status.code().is_some_and(|code| code != 0 && code != 101);
        let panicked = self.stderr.contains("panicked at");
        assert!(orderly && !panicked, "{}\n{}{}", self.status, self.stdout, self.stderr);
        self
    }
}

fn text(file: &NamedTempFile) -> String {
    String::from_utf8_lossy(&std::fs::read(file.path()).unwrap()).into_owned()
}

impl Running {
    /// Starts the command, with its output going to files.
    pub fn start(mut command: Command) -> Running {
        let (stdout, stderr) = (NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap());
        command
            .stdin(Stdio::null())
            .stdout(stdout.reopen().unwrap())
            .stderr(stderr.reopen().unwrap());
        let shown = format!("{command:?}");
        let child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
        Running { child, stdout, stderr, shown }
    }

    /// What it wrote so far.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// What it complained of so far.
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// Does what Ctrl-C does.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it at once, as `kill -9` does, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }

    /// Waits until it wrote the text.
    pub fn says(&self, wanted: &str, limit: Duration) {
        wait_for(
            &format!("{} says {wanted:?}", self.shown),
            limit,
            || (self.stdout().contains(wanted) || self.stderr().contains(wanted)).then_some(()),
            || self.stdout() + &self.stderr(),
        );
    }

    /// Waits until it ends.
    pub fn finish(mut self, limit: Duration) -> Finished {
        let (stdout, stderr) = (self.stdout.path().to_owned(), self.stderr.path().to_owned());
        let child = &mut self.child;
        let status = wait_for(
            &format!("{} ends", self.shown),
            limit,
            || child.try_wait().unwrap(),
            || [&stdout, &stderr].map(|path| std::fs::read_to_string(path).unwrap()).concat(),
        );
        Finished { status, stdout: self.stdout(), stderr: self.stderr() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, which is what is wanted.
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Whether any process has the word as one of its arguments.
pub fn process_with_argument(word: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().any(|entry| {
        // Processes end while they are being looked at.
        let arguments = entry.and_then(|entry| std::fs::read(entry.path().join("cmdline")));
        arguments.is_ok_and(|bytes| bytes.split(|byte| *byte == 0).any(|it| it == word.as_bytes()))
    })
}
