//! Loads an archive into a running docker daemon, over its unix socket or its port, there with TLS if it is asked for.

mod tls;

use std::path::{Path, PathBuf};
use std::time::Duration;

use dcbuild_model::{Daemon, Fault};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

pub use tls::DaemonTlsError;

const HEAD_BYTES_MAX: usize = 64 << 10;
const BODY_BYTES_MAX: usize = 1 << 20;
const PIECE_BYTES: usize = 256 << 10;
/// The daemon unpacks layers before it answers; large images take it minutes.
const SILENCE_MAX: Duration = Duration::from_mins(10);

/// Says why an image could not be loaded into docker.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The address is of a kind that is not spoken.
    #[error("docker's address '{address}' is neither unix:///PATH nor tcp://HOST:PORT")]
    Address {
        /// The address.
        address: String,
    },
    /// There is no daemon.
    #[error("could not reach the docker daemon at '{}'", socket.display())]
    NoDaemon {
        /// Where it listens.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The daemon could not be spoken to over TLS.
    #[error("could not speak TLS to the docker daemon at '{}'", socket.display())]
    Tls {
        /// Where it listens.
        socket: PathBuf,
        /// Why not.
        source: DaemonTlsError,
    },
    /// The archive could not be made or read.
    #[error("could not read the archive for docker")]
    Archive(#[source] std::io::Error),
    /// The connection broke.
    #[error("the docker daemon at '{}' broke off", socket.display())]
    Broken {
        /// Where it listens.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection broke after the two ends had agreed to speak TLS.
    #[error("the docker daemon at '{}' broke off", socket.display())]
    Cut {
        /// Where it listens.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The daemon took too long.
    #[error("the docker daemon at '{}' was silent for {seconds} seconds", socket.display())]
    Stalled {
        /// Where it listens.
        socket: PathBuf,
        /// For how long.
        seconds: u64,
    },
    /// The daemon answered something that is no HTTP.
    #[error("the docker daemon at '{}' gave an answer that makes no sense", socket.display())]
    Answer {
        /// Where it listens.
        socket: PathBuf,
    },
    /// The daemon refused the image.
    #[error("docker refused the image: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The daemon's words, cut at 1,000 characters.
        message: String,
    },
}

impl LoadError {
    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        match self {
            // One at a port may be about to start, as a service of a CI job does; a socket is there or not.
            LoadError::NoDaemon { socket, source } if is_port(socket) => Fault::of_lookup(source),
            LoadError::Address { .. }
            | LoadError::NoDaemon { .. }
            | LoadError::Tls { .. }
            | LoadError::Refused { .. } => Fault::Request,
            LoadError::Archive(_)
            | LoadError::Broken { .. }
            | LoadError::Cut { .. }
            | LoadError::Stalled { .. }
            | LoadError::Answer { .. } => Fault::Cluster,
        }
    }

    /// What the user could do.
    pub fn hint(&self) -> Option<String> {
        match self {
            LoadError::Address { .. } => {
                Some("set DOCKER_HOST to unix:///PATH, or write the image with -o type=docker,dest=FILE".into())
            }
            LoadError::NoDaemon { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Some("join the group that owns the socket, or write the image with -o type=docker,dest=FILE".into())
            }
            LoadError::Broken { socket, .. } if is_port(socket) => Some(FOR_TLS.into()),
            LoadError::Cut { .. } => Some(FOR_DAEMON.into()),
            LoadError::Refused { message, .. } if message.contains(WANTS_TLS) => {
                Some(FOR_TLS.into())
            }
            LoadError::NoDaemon { .. } => {
                Some("start docker, set DOCKER_HOST, or write the image with -o type=docker,dest=FILE".into())
            }
            _ => None,
        }
    }
}

/// What a daemon behind TLS says to who does not speak it, if it says anything.
const WANTS_TLS: &str = "HTTP request to an HTTPS server";
const FOR_TLS: &str = "if the daemon is behind TLS, set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to the folder that has ca.pem, \
                       cert.pem and key.pem";

/// A daemon that does not take what it is shown says so, or goes without a word.
const FOR_DAEMON: &str = "if the daemon asks who we are: DOCKER_CERT_PATH names the folder with cert.pem and key.pem, which the \
                          daemon's authority must have signed";

fn is_port(socket: &Path) -> bool {
    !socket.is_absolute()
}

/// Streams a docker archive into a daemon and returns what it says.
pub async fn docker_load<R>(daemon: &Daemon, archive: R) -> Result<String, LoadError>
where
    R: AsyncRead + Unpin + Send,
{
    let (socket, stream) = Box::pin(connect(daemon)).await?;
    let (read, write) = tokio::io::split(stream);
    let mut answer = Answer { read, socket: &socket, buffer: Vec::new() };
    // A daemon that refuses answers before it has all; its answer then tells more than the broken pipe.
    let sent = send(&socket, archive, write).await;
    let (status, body) = match (sent, answer.receive().await) {
        (Err(LoadError::Archive(source)), _) => return Err(LoadError::Archive(source)),
        (_, Ok(answer)) => answer,
        (Err(error), Err(_)) | (Ok(()), Err(error)) => {
            return Err(match error {
                LoadError::Broken { socket, source } if daemon.tls.is_some() => {
                    LoadError::Cut { socket, source }
                }
                error => error,
            });
        }
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
        Ok((status, if chunked { unchunk(body) } else { body.to_vec() }))
    }
}

/// Joins the chunks of a body, as far as they are whole.
fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let (line, after) = rest.split_at(end);
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let text = String::from_utf8_lossy(digits);
        let Ok(length) = usize::from_str_radix(text.trim(), 16) else { break };
        let after = after.get(2..).unwrap_or_default();
        if length == 0 {
            break;
        }
        body.extend_from_slice(after.get(..length.min(after.len())).unwrap_or_default());
        rest = length.checked_add(2).and_then(|next| after.get(next..)).unwrap_or_default();
    }
    body
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
