//! A socket that takes an agent's messages and asks somebody else.

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::message::{FAILURE, MESSAGE_BYTES_MAX, Request};

/// Who talks at once; others wait to be let in.
const CONNECTIONS_MAX: usize = 32;

/// Somebody who can ask the agent itself.
#[async_trait::async_trait]
pub trait Ask: Send + Sync {
    /// The agent's answer to a message that passes; none if it cannot be asked.
    async fn ask(&self, message: &[u8]) -> Option<Vec<u8>>;
}

#[async_trait::async_trait]
impl Ask for crate::Agent {
    async fn ask(&self, message: &[u8]) -> Option<Vec<u8>> {
        match crate::Agent::ask(self, message).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                tracing::warn!(%error, "an ssh agent does not answer");
                None
            }
        }
    }
}

/// Makes a socket in a folder, however long the folder's path is.
pub fn bind(folder: &Path, name: &str) -> io::Result<UnixListener> {
    let open = std::fs::File::open(folder)?;
    // A socket's path has a hundred bytes at most; that of a descriptor is shorter than any folder's.
    UnixListener::bind(Path::new("/proc/self/fd").join(open.as_raw_fd().to_string()).join(name))
}

/// Somebody who can be asked behind a socket of its own, for what runs on this machine; it goes with this value.
#[derive(Debug)]
pub struct Served {
    folder: TempDir,
    _stop: DropGuard,
}

impl Served {
    /// Makes the socket.
    pub fn start(asks: Arc<dyn Ask>) -> io::Result<Served> {
        let folder = tempfile::Builder::new().prefix("dcbuild-").tempdir()?;
        let listener = bind(folder.path(), "agent")?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(serve(listener, asks, tasks.clone(), stop.clone()));
        Ok(Served { folder, _stop: stop.drop_guard() })
    }

    /// Where the socket is.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("agent")
    }
}

/// Answers on a socket until it is told to stop.
pub async fn serve(
    listener: UnixListener,
    asks: Arc<dyn Ask>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = async {
            let place = room.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, stream) = tokio::select! {
            () = stop.cancelled() => return,
            (place, accepted) = accepted => match accepted {
                Ok((stream, _)) => (place, stream),
                Err(error) => {
                    tracing::warn!(%error, "the socket of an ssh agent failed");
                    return;
                }
            },
        };
        let (asks, stop) = (asks.clone(), stop.clone());
        tasks.spawn(async move {
            let _place = place;
            tokio::select! {
                () = stop.cancelled() => {}
                // Whoever breaks off has no more to ask.
                talked = talk(stream, &*asks) => drop(talked),
            }
        });
    }
}

async fn talk(mut stream: UnixStream, asks: &dyn Ask) -> io::Result<()> {
    loop {
        let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
        if length > MESSAGE_BYTES_MAX {
            return Ok(());
        }
        let mut message = vec![0; length];
        stream.read_exact(&mut message).await?;
        let answer = match Request::parse(&message) {
            Some(_) => asks.ask(&message).await,
            None => None,
        };
        let answer = answer.unwrap_or_else(|| FAILURE.to_vec());
        let length = u32::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat()).await?;
    }
}
