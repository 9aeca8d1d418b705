//! Who answers on the side that has the keys: an agent behind a socket, or keys from files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::key::{Key, KeyError};
use crate::message::{self, FAILURE, MESSAGE_BYTES_MAX, Request};

/// A key file is not larger than this.
const KEY_BYTES_MAX: u64 = 100 << 10;

/// Something that lists keys and signs with them.
#[derive(Clone, Debug)]
pub enum Agent {
    /// Another process, behind this socket.
    Socket(PathBuf),
    /// Keys of this process.
    Keys(Arc<Vec<Key>>),
}

/// Says why files or a socket are no agent.
#[derive(Debug, thiserror::Error)]
pub enum OpenAgentError {
    /// The file could not be read.
    #[error("could not read the ssh key or socket '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no key that can be used.
    #[error("could not use the ssh key '{}'", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: KeyError,
    },
    /// An agent's socket stands beside something else.
    #[error("'{}' is an agent's socket, and stands for all keys of its id", path.display())]
    Mixed {
        /// The socket.
        path: PathBuf,
    },
}

/// Says why an agent did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The conversation failed.
    #[error("could not talk to the ssh agent at '{}'", path.display())]
    Talk {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Agent {
    /// Opens one socket, or key files. Blocks.
    pub fn open(paths: &[PathBuf]) -> Result<Agent, OpenAgentError> {
        let mut keys = Vec::new();
        for path in paths {
            let failed = |source| OpenAgentError::Read { path: path.clone(), source };
            let meta = std::fs::metadata(path).map_err(failed)?;
            if std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()) {
                return match paths {
                    [path] => Ok(Agent::Socket(path.clone())),
                    _ => Err(OpenAgentError::Mixed { path: path.clone() }),
                };
            }
            let text = read(path).map_err(failed)?;
            let key = Key::parse(&text);
            keys.push(key.map_err(|source| OpenAgentError::Key { path: path.clone(), source })?);
        }
        Ok(Agent::Keys(Arc::new(keys)))
    }

    /// Answers a message; what is not done is answered with a failure.
    pub async fn ask(&self, message: &[u8]) -> Result<Vec<u8>, AgentError> {
        let Some(request) = Request::parse(message) else { return Ok(FAILURE.to_vec()) };
        match self {
            Agent::Socket(path) => {
                let failed = |source| AgentError::Talk { path: path.clone(), source };
                converse(path, message).await.map_err(failed)
            }
            Agent::Keys(keys) => Ok(answer(keys, request)),
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    io::Read::read_to_string(&mut io::Read::take(file, KEY_BYTES_MAX), &mut text)?;
    Ok(text)
}

async fn converse(path: &Path, message: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path).await?;
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await?;
    let length = usize::try_from(stream.read_u32().await?).map_err(io::Error::other)?;
    if length > MESSAGE_BYTES_MAX {
        return Err(io::Error::other(format!("its answer has {length} bytes")));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn answer(keys: &[Key], request: Request<'_>) -> Vec<u8> {
    match request {
        Request::Identities => message::identities(keys.iter().map(Key::public)),
        Request::Sign { key: public, data, flags } => {
            let key = keys.iter().find(|key| key.public() == public);
            let signature = key.and_then(|key| key.sign(data, flags));
            signature.map_or(FAILURE.to_vec(), |signature| message::signed(&signature))
        }
    }
}
