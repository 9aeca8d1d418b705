//! Waits for git, tells of what it waits for, and does not wait for ever.

use std::process::ExitStatus;
use std::time::Duration;

use dcbuild_model::limits;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{Ear, TOLD_EVERY, has_said_nothing};

/// How long a server may be silent before it says what it has: git tells of no progress there, however long the list.
const LIST_SILENCE_MAX: Duration = Duration::from_mins(2);
/// How much of what git says to people is kept: the last of it.
const WORDS_BYTES_MAX: usize = 64 << 10;
/// How long what git has written may take to be read once it has ended; what it leaves running may hold its pipes open.
const REST: Duration = Duration::from_millis(200);

/// How much of what git says to programs is kept; the largest servers list some ten MiB of references.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// What git did.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

/// Says why git was not waited for any longer.
pub(super) enum Gone {
    /// It could not be run.
    System(std::io::Error),
    /// It, and thus its server, was silent for this long.
    Silent(Duration),
    /// It took longer than anything may.
    Slow,
    /// It said more than anybody needs.
    Long,
}

/// How long a command of git's may be silent; none where it speaks to no server.
pub(super) fn silence_max(arguments: &[&str]) -> Option<Duration> {
    match arguments.first() {
        Some(&"ls-remote") => Some(LIST_SILENCE_MAX),
        Some(&("fetch" | "submodule")) => Some(limits::FETCH_SILENCE_MAX),
        _ => None,
    }
}

/// Git and all that it has started, killed with this.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let id = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // What has ended by itself meanwhile needs no end.
            kill_process_group(id, Signal::KILL).unwrap_or_default();
        }
    }
}

/// How the lines begin with which git ends a transfer, and what it does of its own after that.
const OVER: [&str; 5] = [
    "Receiving objects: 100%",
    "Resolving deltas: 100%",
    "Unpacking objects: 100%",
    "Updating files: ",
    "Checking out files: ",
];

/// What git is waited for with.
pub(super) struct Listener<'a> {
    pub(super) server: &'a str,
    pub(super) ear: Option<&'a Ear>,
    pub(super) silence_max: Option<Duration>,
}

impl Listener<'_> {
    /// Runs git to its end.
    pub(super) async fn run(&self, mut command: Command) -> Result<Ended, Gone> {
        // In a group of its own: what speaks to servers for git notices nobody's end before the server says something.
        command.process_group(0);
        let mut group = Group(command.spawn().map_err(Gone::System)?);
        let heard = timeout(limits::FETCH_TIME_MAX, self.hear(&mut group)).await;
        heard.unwrap_or(Err(Gone::Slow))
    }

    async fn hear(&self, Group(child): &mut Group) -> Result<Ended, Gone> {
        let (mut out, mut err) = (Voice::new(child.stdout.take()), Voice::new(child.stderr.take()));
        let (mut heard, mut told) = (Instant::now(), Instant::now());
        let mut status = None;
        loop {
            if let Some(status) = status
                && out.has_ended()
                && err.has_ended()
            {
                return Ok(Ended { status, stdout: out.heard, stderr: err.heard });
            }
            tokio::select! {
                () = out.listen() => {
                    heard = Instant::now();
                    if out.heard.len() > ANSWER_BYTES_MAX {
                        return Err(Gone::Long);
                    }
                }
                () = err.listen() => {
                    heard = Instant::now();
                    let over = err.heard.len().saturating_sub(WORDS_BYTES_MAX);
                    err.heard.drain(..over);
                }
                ended = child.wait(), if status.is_none() => {
                    status = Some(ended.map_err(Gone::System)?);
                }
                () = sleep(REST), if status.is_some() => {
                    (out.pipe, err.pipe) = (None, None);
                }
                () = sleep_until(told + TOLD_EVERY) => {
                    told = Instant::now();
                    self.tell(told - heard, &err.heard)?;
                }
            }
        }
    }

    /// Tells what git waits for, or how far it has come.
    fn tell(&self, silent: Duration, words: &[u8]) -> Result<(), Gone> {
        let Some(max) = self.silence_max else { return Ok(()) };
        let words = String::from_utf8_lossy(words);
        let last = words.rsplit(['\r', '\n']).map(str::trim).find(|line| !line.is_empty());
        // Once all has come, git says nothing while it looks over it, and no server is waited for.
        let has_come = last.is_some_and(|line| OVER.iter().any(|over| line.starts_with(over)));
        if silent >= max && !has_come {
            return Err(Gone::Silent(max));
        }
        let Some(ear) = self.ear else { return Ok(()) };
        match last {
            Some(_) if has_come && silent >= TOLD_EVERY => {
                ear.tell(&format!("{}: git looks over what has come", self.server));
            }
            Some(line) if silent < TOLD_EVERY => {
                let line: String = line.chars().filter(|ch| !ch.is_control()).collect();
                ear.tell(&format!("{}: {line}", self.server));
            }
            _ => ear.tell(&has_said_nothing(self.server, silent, max)),
        }
        Ok(())
    }
}

/// One of the pipes through which a process speaks.
struct Voice<R> {
    pipe: Option<R>,
    heard: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Voice<R> {
    fn new(pipe: Option<R>) -> Voice<R> {
        Voice { pipe, heard: Vec::new() }
    }

    fn has_ended(&self) -> bool {
        self.pipe.is_none()
    }

    /// Waits for more; for ever where no more comes.
    async fn listen(&mut self) {
        let Some(pipe) = &mut self.pipe else { return std::future::pending().await };
        if !matches!(pipe.read_buf(&mut self.heard).await, Ok(1..)) {
            self.pipe = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Runs a script as if it were git; answers what was told meanwhile.
    async fn listen(script: &str, max: Option<Duration>) -> (Result<Ended, Gone>, Vec<String>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        let ear = Ear::new(move |line| heard.lock().unwrap().push(line.to_owned()));
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let listener = Listener { server: "git://h", ear: Some(&ear), silence_max: max };
        let ended = listener.run(command).await;
        let told = told.lock().unwrap().clone();
        (ended, told)
    }

    /// The clock is paused: it runs ahead as soon as everybody waits, and a silent process is waited for.
    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_told_of_and_given_up() {
        let begun = Instant::now();
        let (ended, told) = listen("sleep 1000", Some(Duration::from_secs(30))).await;
        assert!(matches!(ended, Err(Gone::Silent(max)) if max.as_secs() == 30));
        assert_eq!(begun.elapsed().as_secs(), 30);
        let want = [10, 20].map(|secs| {
            format!("git://h has said nothing for {secs} s; after 30 s it is given up")
        });
        assert_eq!(told, want);
    }

    #[test]
    fn what_git_does_without_its_server_is_no_silence_of_that() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        let ear = Ear::new(move |line| heard.lock().unwrap().push(line.to_owned()));
        let max = Duration::from_mins(1);
        let listener = Listener { server: "git://h", ear: Some(&ear), silence_max: Some(max) };
        let come = b"Receiving objects: 100% (9/9), done.\nResolving deltas: 100% (3/3), done.\n";
        listener.tell(Duration::from_secs(90), come).unwrap_or_else(|_| panic!("it is given up"));
        assert_eq!(*told.lock().unwrap(), ["git://h: git looks over what has come"]);
        let coming = b"Receiving objects: 100% (9/9), done.\rReceiving objects:  10% (1/9)\r";
        let given_up = listener.tell(Duration::from_secs(90), coming);
        assert!(matches!(given_up, Err(Gone::Silent(_))));
    }

    #[tokio::test]
    async fn git_is_heard_to_the_end_though_what_it_leaves_running_holds_its_pipes() {
        let script = "echo out; echo err >&2; sleep 1000 & echo $! >&2; exit 3";
        let (ended, _) = listen(script, None).await;
        let Ok(ended) = ended else { panic!("it ended") };
        assert_eq!((ended.status.code(), ended.stdout.as_slice()), (Some(3), &b"out\n"[..]));
        let words = String::from_utf8(ended.stderr).unwrap();
        let id = words.strip_prefix("err\n").unwrap();
        let id = Pid::from_raw(id.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(id, Signal::KILL).unwrap();
    }

    fn is_running(id: &str) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", id.trim()));
        state.is_ok_and(|state| !state.contains(") Z "))
    }

    #[tokio::test]
    async fn what_git_has_started_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("id");
        let script = format!("sleep 1000 & echo $! > {}; wait", note.display());
        let noted = async {
            loop {
                match std::fs::read_to_string(&note) {
                    Ok(id) if id.ends_with('\n') => return id,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        let id = tokio::select! {
            _ = listen(&script, Some(Duration::from_mins(1))) => panic!("nothing ends it"),
            id = noted => id,
        };
        let gone = async {
            while is_running(&id) {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), gone).await.unwrap();
    }
}
