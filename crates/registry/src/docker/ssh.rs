//! A docker daemon on another machine, by way of the user's `ssh` and the `docker` there, as docker's own client goes.

use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dcbuild_model::remote::percent_decoded;
use tokio::io::{AsyncReadExt as _, Join};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use url::Url;

/// How much of what ssh says is kept: the last of it.
const WORDS_BYTES_MAX: usize = 4 << 10;
/// How long ssh may take to end where it is of no more use, and to say why.
const PARTING: Duration = Duration::from_secs(2);

/// What ssh says beside the reason where nobody can be asked.
const NOISE: [&str; 2] = ["ssh_askpass: exec(", "Permission denied, please try again"];

/// Says why an address names no machine.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SshAddressError {
    /// It is no address at all.
    #[error("it is no address: {0}")]
    Syntax(url::ParseError),
    /// It names no host.
    #[error("it names no host")]
    NoHost,
    /// It has a password.
    #[error("it has a password, which ssh takes from nobody's command line")]
    Password,
    /// It has what the address of a daemon has not.
    #[error("it has a {what}, which the address of a daemon cannot have")]
    More {
        /// What that is.
        what: &'static str,
    },
}

/// Who is spoken to, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    user: Option<String>,
    host: String,
    port: Option<u16>,
    /// The daemon's socket there, where it is not the usual one.
    socket: Option<String>,
}

impl Place {
    /// Reads `ssh://[USER@]HOST[:PORT][/SOCKET]`; none where the address is of another kind.
    pub(super) fn of(address: &str) -> Option<Result<Place, SshAddressError>> {
        address.starts_with("ssh://").then(|| Place::parse(address))
    }

    fn parse(address: &str) -> Result<Place, SshAddressError> {
        let url = Url::parse(address).map_err(|error| match error {
            url::ParseError::EmptyHost => SshAddressError::NoHost,
            error => SshAddressError::Syntax(error),
        })?;
        if url.password().is_some() {
            return Err(SshAddressError::Password);
        }
        for (what, found) in [("query", url.query()), ("fragment", url.fragment())] {
            if found.is_some() {
                return Err(SshAddressError::More { what });
            }
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(SshAddressError::NoHost)?;
        let plain = percent_decoded;
        let user = Some(plain(url.username())).filter(|user| !user.is_empty());
        let socket = plain(url.path());
        let socket = Some(socket).filter(|path| !path.trim_matches('/').is_empty());
        let host = plain(host.trim_start_matches('[').trim_end_matches(']'));
        Ok(Place { user, host, port: url.port(), socket })
    }

    /// What ssh is given.
    fn arguments(&self) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(user) = &self.user {
            all.extend(["-l".to_owned(), user.clone()]);
        }
        if let Some(port) = self.port {
            all.extend(["-p".to_owned(), port.to_string()]);
        }
        all.extend(
            ["-o", "BatchMode=yes", "-o", "ConnectTimeout=30", "-T", "--"].map(str::to_owned),
        );
        all.extend([self.host.clone(), "docker".to_owned()]);
        // A shell reads it at the other end.
        all.extend(self.socket.iter().map(|path| quoted(&format!("--host=unix://{path}"))));
        all.extend(["system", "dial-stdio"].map(str::to_owned));
        all
    }
}

/// A word that a shell reads as it stands.
fn quoted(word: &str) -> String {
    let is_plain = |ch: char| ch.is_ascii_alphanumeric() || "-_=:/.,@%+".contains(ch);
    if word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What goes to the daemon and comes from it.
pub(super) type Stream = Join<ChildStdout, ChildStdin>;

/// A running ssh; it is killed with this.
pub(super) struct Tunnel {
    child: tokio::sync::Mutex<Child>,
    stderr: tokio::sync::Mutex<ChildStderr>,
    said: Mutex<Vec<u8>>,
}

impl Tunnel {
    /// Starts ssh; whether it comes through shows when it is spoken to.
    pub(super) fn open(place: &Place) -> std::io::Result<(Tunnel, Stream)> {
        let mut command = Command::new("ssh");
        command.args(place.arguments()).kill_on_drop(true);
        // Who looks at the progress display cannot see a question, let alone answer it: docker's client gives ssh no terminal
        // either.
        command.env("SSH_ASKPASS_REQUIRE", "force");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let all = stdin.zip(stdout).zip(stderr);
        let ((stdin, stdout), stderr) = all.expect("all three were asked for");
        let tunnel = Tunnel { child: child.into(), stderr: stderr.into(), said: Mutex::default() };
        Ok((tunnel, tokio::io::join(stdout, stdin)))
    }

    /// Hears what ssh says as long as it is polled, and never ends: one that a master process serves holds its standard error
    /// open for as long as that lives.
    pub(super) async fn hear(&self) -> std::convert::Infallible {
        let mut stderr = self.stderr.lock().await;
        let mut piece = [0; 1024];
        while let Ok(length @ 1..) = stderr.read(&mut piece).await {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.extend_from_slice(piece.get(..length).unwrap_or_default());
            let over = said.len().saturating_sub(WORDS_BYTES_MAX);
            said.drain(..over);
        }
        std::future::pending().await
    }

    /// Why it is of no use: how it ended, if it did within a moment, and its last words.
    pub(super) async fn part(self) -> (Option<ExitStatus>, String) {
        let wait = async { self.child.lock().await.wait().await.ok() };
        let ended = async {
            let status = wait.await;
            // What it said before it ended lies in the pipe.
            drop(timeout(PARTING / 10, std::future::pending::<()>()).await);
            status
        };
        let status = tokio::select! {
            ended = timeout(PARTING, ended) => ended.ok().flatten(),
            never = self.hear() => match never {},
        };
        let said = self.said.into_inner().unwrap_or_else(PoisonError::into_inner);
        let said = String::from_utf8_lossy(&said);
        let tells = |line: &&str| !line.is_empty() && !NOISE.iter().any(|it| line.contains(it));
        let lines = said.lines().map(str::trim).filter(tells);
        let words = lines.collect::<Vec<_>>().join("; ");
        (status, words.chars().filter(|ch| !ch.is_control()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(address: &str) -> String {
        Place::of(address).unwrap().unwrap().arguments().join(" ")
    }

    #[test]
    fn ssh_is_called_as_docker_s_client_calls_it() {
        for (address, want) in [
            (
                "ssh://far",
                "-o BatchMode=yes -o ConnectTimeout=30 -T -- far docker system dial-stdio",
            ),
            (
                "ssh://me@far:2222",
                "-l me -p 2222 -o BatchMode=yes -o ConnectTimeout=30 -T -- far docker system dial-stdio",
            ),
            (
                "ssh://me@[::1]/",
                "-l me -o BatchMode=yes -o ConnectTimeout=30 -T -- ::1 docker system dial-stdio",
            ),
            (
                "ssh://far/run/user/1/docker.sock",
                "-o BatchMode=yes -o ConnectTimeout=30 -T -- far docker --host=unix:///run/user/1/docker.sock system dial-stdio",
            ),
            (
                "ssh://a%40b@Far/own%20one/it's.sock",
                r"-l a@b -o BatchMode=yes -o ConnectTimeout=30 -T -- Far docker '--host=unix:///own one/it'\''s.sock' system dial-stdio",
            ),
        ] {
            assert_eq!(arguments(address), want, "{address}");
        }
    }

    #[test]
    fn what_names_no_machine_is_refused() {
        for (address, want) in [
            ("ssh://", "it names no host"),
            (
                "ssh://me:secret@far",
                "it has a password, which ssh takes from nobody's command line",
            ),
            ("ssh://far?x=1", "it has a query, which the address of a daemon cannot have"),
            ("ssh://far#x", "it has a fragment, which the address of a daemon cannot have"),
            ("ssh://far:port", "it is no address: invalid port number"),
        ] {
            let error = Place::of(address).unwrap().unwrap_err().to_string();
            assert_eq!(error, want, "{address}");
        }
        assert_eq!(Place::of("tcp://far:1"), None);
    }
}
