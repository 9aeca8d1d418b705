//! Loads an archive into a running docker daemon, over its unix socket, its port, there with TLS if it is asked for, or
//! through ssh.

mod error;
mod ssh;
mod tls;

use std::path::{Path, PathBuf};
use std::time::Duration;

use dcbuild_model::Daemon;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

pub use error::LoadError;
pub use ssh::SshAddressError;
pub use tls::DaemonTlsError;

const HEAD_BYTES_MAX: usize = 64 << 10;
const BODY_BYTES_MAX: usize = 1 << 20;
const PIECE_BYTES: usize = 256 << 10;
/// The daemon unpacks layers before it answers; large images take it minutes.
const SILENCE_MAX: Duration = Duration::from_mins(10);

/// Streams a docker archive into a daemon and returns what it says.
pub async fn docker_load<R>(daemon: &Daemon, archive: R) -> Result<String, LoadError>
where
    R: AsyncRead + Unpin + Send,
{
    let address = &daemon.address;
    let Some(place) = ssh::Place::of(address) else {
        let (socket, stream) = Box::pin(connect(daemon)).await?;
        return speak(&socket, stream, archive).await.map_err(|error| match error {
            LoadError::Broken { socket, source } if daemon.tls.is_some() => {
                LoadError::Cut { socket, source }
            }
            error => error,
        });
    };
    let place =
        place.map_err(|source| LoadError::SshAddress { address: unsigned(address), source })?;
    let (tunnel, stream) = ssh::Tunnel::open(&place)
        .map_err(|source| LoadError::NoSsh { address: address.clone(), source })?;
    let spoken = tokio::select! {
        spoken = speak(Path::new(address), stream, archive) => spoken,
        never = tunnel.hear() => match never {},
    };
    match spoken {
        Err(
            error @ (LoadError::Broken { .. }
            | LoadError::Answer { .. }
            | LoadError::Stalled { .. }),
        ) => Err(behind_ssh(address, tunnel, error).await),
        spoken => spoken,
    }
}

/// An address that is none, without whatever stands before its host: a password may be in it, with any sign.
fn unsigned(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((_, host)) => format!("ssh://{host}"),
        None => address.to_owned(),
    }
}

/// What ssh itself says goes before what was noticed of it on this side.
async fn behind_ssh(address: &str, tunnel: ssh::Tunnel, error: LoadError) -> LoadError {
    let (status, words) = tunnel.part().await;
    // Words alone, such as a banner, are no reason.
    let Some(status) = status.filter(|status| !status.success()) else { return error };
    let ended = match status.code() {
        Some(code) => format!("ended with exit code {code}"),
        None => "was ended by a signal".to_owned(),
    };
    let words = if words.is_empty() { "it said nothing".to_owned() } else { words };
    LoadError::Ssh { address: address.to_owned(), ended, words }
}

/// Sends the archive and hears the answer.
async fn speak<R, S>(socket: &Path, stream: S, archive: R) -> Result<String, LoadError>
where
    R: AsyncRead + Unpin + Send,
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (read, write) = tokio::io::split(stream);
    let mut answer = Answer { read, socket, buffer: Vec::new() };
    // A daemon that refuses answers before it has all; its answer then tells more than the broken pipe.
    let sent = send(socket, archive, write).await;
    let (status, body) = match (sent, answer.receive().await) {
        (Err(LoadError::Archive(source)), _) => return Err(LoadError::Archive(source)),
        (_, Ok(answer)) => answer,
        (Err(error), Err(_)) | (Ok(()), Err(error)) => return Err(error),
    };
    outcome(status, &body)
}

/// What goes both ways.
trait Line: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Line for T {}

/// How long a daemon may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens a connection; says with whom.
async fn connect(daemon: &Daemon) -> Result<(PathBuf, Box<dyn Line>), LoadError> {
    let address = &daemon.address;
    let unix = address.strip_prefix("unix://").filter(|path| path.starts_with('/'));
    let port = address.strip_prefix("tcp://").filter(|port| port.contains(':'));
    if let Some(path) = unix {
        let socket = PathBuf::from(path);
        let stream = in_time(&socket, UnixStream::connect(path)).await?;
        return Ok((socket, Box::new(stream)));
    }
    let Some(port) = port else {
        return Err(LoadError::Address { address: address.to_owned() });
    };
    let socket = PathBuf::from(port);
    let stream = in_time(&socket, TcpStream::connect(port)).await?;
    let Some(tls) = &daemon.tls else { return Ok((socket, Box::new(stream))) };
    match tokio::time::timeout(PATIENCE, tls::encrypt(stream, port, tls)).await {
        Ok(Ok(stream)) => Ok((socket, Box::new(stream))),
        Ok(Err(source)) => Err(LoadError::Tls { socket, source }),
        Err(_) => {
            let source = DaemonTlsError::Handshake(std::io::ErrorKind::TimedOut.into());
            Err(LoadError::Tls { socket, source })
        }
    }
}

async fn in_time<T>(
    socket: &Path,
    connect: impl Future<Output = std::io::Result<T>>,
) -> Result<T, LoadError> {
    let done = tokio::time::timeout(PATIENCE, connect).await;
    let done = done.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    done.map_err(|source| LoadError::NoDaemon { socket: socket.into(), source })
}

async fn send<R, W>(socket: &Path, mut archive: R, mut out: W) -> Result<(), LoadError>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let broken = |source| LoadError::Broken { socket: socket.into(), source };
    let head = "POST /images/load?quiet=1 HTTP/1.1\r\nHost: docker\r\nUser-Agent: dcbuild\r\n\
                Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\
                Connection: close\r\n\r\n";
    write_all(socket, &mut out, head.as_bytes()).await?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = archive.read(&mut piece).await.map_err(LoadError::Archive)?;
        let bytes = piece.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        write_all(socket, &mut out, format!("{length:x}\r\n").as_bytes()).await?;
        write_all(socket, &mut out, bytes).await?;
        write_all(socket, &mut out, b"\r\n").await?;
    }
    write_all(socket, &mut out, b"0\r\n\r\n").await?;
    out.flush().await.map_err(broken)
}

async fn write_all<W>(socket: &Path, out: &mut W, bytes: &[u8]) -> Result<(), LoadError>
where
    W: AsyncWrite + Unpin + Send,
{
    match tokio::time::timeout(SILENCE_MAX, out.write_all(bytes)).await {
        Ok(written) => {
            written.map_err(|source| LoadError::Broken { socket: socket.into(), source })
        }
        Err(_) => Err(stalled(socket)),
    }
}

fn stalled(socket: &Path) -> LoadError {
    LoadError::Stalled { socket: socket.into(), seconds: SILENCE_MAX.as_secs() }
}

struct Answer<'a, R> {
    read: R,
    socket: &'a Path,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin + Send> Answer<'_, R> {
    /// Reads the whole answer; the connection closes behind it, as was asked.
    async fn receive(&mut self) -> Result<(u16, Vec<u8>), LoadError> {
        let nonsense = || LoadError::Answer { socket: self.socket.into() };
        let max = u64::try_from(HEAD_BYTES_MAX + BODY_BYTES_MAX).unwrap_or(u64::MAX);
        let mut limited = (&mut self.read).take(max);
        let read = limited.read_to_end(&mut self.buffer);
        match tokio::time::timeout(SILENCE_MAX, read).await {
            Ok(Err(source)) if self.buffer.is_empty() => {
                return Err(LoadError::Broken { socket: self.socket.into(), source });
            }
            // A reset behind an answer takes nothing from the answer.
            Ok(_) => {}
            Err(_) => return Err(stalled(self.socket)),
        }
        let end = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, body) =
            end.and_then(|at| self.buffer.split_at_checked(at)).ok_or_else(nonsense)?;
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let body = body.get(4..).unwrap_or_default();
        let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
        let status = status.filter(|_| head.starts_with("http/1.")).ok_or_else(nonsense)?;
        let chunked = head.lines().any(|line| {
            line.strip_prefix("transfer-encoding:").is_some_and(|value| value.contains("chunked"))
        });
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length = length.and_then(|text| text.trim().parse::<usize>().ok());
        let (body, whole) = match length {
            _ if chunked => unchunk(body),
            Some(length) => (body.to_vec(), body.len() >= length),
            None => (body.to_vec(), true),
        };
        let is_too_long = u64::try_from(self.buffer.len()).is_ok_and(|read| read >= max);
        if (200..300).contains(&status) && !whole && !is_too_long {
            // What it says of a failure goes before the failure to say more.
            outcome(status, &body)?;
            let words = "the daemon ended its answer before it was done";
            let source = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, words);
            return Err(LoadError::Broken { socket: self.socket.into(), source });
        }
        Ok((status, body))
    }
}

/// Joins the chunks of a body, as far as they are there, and says whether the last one is.
fn unchunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let (line, after) = rest.split_at(end);
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let text = String::from_utf8_lossy(digits);
        let Ok(length) = usize::from_str_radix(text.trim(), 16) else { break };
        let after = after.get(2..).unwrap_or_default();
        if length == 0 {
            return (body, true);
        }
        body.extend_from_slice(after.get(..length.min(after.len())).unwrap_or_default());
        rest = length.checked_add(2).and_then(|next| after.get(next..)).unwrap_or_default();
    }
    (body, false)
}

/// The daemon answers 200 and puts failures into its stream of JSON lines.
fn outcome(status: u16, body: &[u8]) -> Result<String, LoadError> {
    let clip = |text: &str| text.chars().take(1_000).collect::<String>();
    let mut said = String::new();
    for value in serde_json::Deserializer::from_slice(body).into_iter::<serde_json::Value>() {
        let Ok(value) = value else { break };
        let text = |key: &str| value.get(key).and_then(serde_json::Value::as_str);
        let refusal = text("error").or_else(|| text("message").filter(|_| status >= 400));
        if let Some(message) = refusal {
            return Err(LoadError::Refused { status, message: clip(message) });
        }
        said.push_str(text("stream").unwrap_or_default());
    }
    if (200..300).contains(&status) {
        return Ok(said.trim().to_owned());
    }
    let words = String::from_utf8_lossy(body);
    let words = words.trim();
    let message = if words.is_empty() { format!("status {status}") } else { clip(words) };
    Err(LoadError::Refused { status, message })
}

#[cfg(test)]
mod tests;
