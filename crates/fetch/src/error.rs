//! Why something could not be fetched.

use std::io;
use std::path::PathBuf;

use dcbuild_model::Fault;

/// Says why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address is none, or of a kind that is not fetched.
    #[error("could not fetch {url}: {problem}")]
    Address {
        /// The address, without credentials.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// The address must not be reached from here.
    #[error("{host} may not be reached: {address} is not a public address")]
    Forbidden {
        /// The host.
        host: String,
        /// What it stands for.
        address: String,
    },
    /// The server did not answer as it should.
    #[error("could not fetch {url}: {problem}")]
    Answer {
        /// The address, without credentials.
        url: String,
        /// What it said.
        problem: String,
        /// Whether another try may do.
        transient: bool,
    },
    /// The exchange failed.
    #[error("could not fetch {url}")]
    Exchange {
        /// The address, without credentials.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// It took too long, or more than it may.
    #[error("could not fetch {url}: {limit}")]
    Limit {
        /// The address, without credentials.
        url: String,
        /// The limit that was met.
        limit: String,
    },
    /// git failed.
    #[error("could not {what} {url}: {words}")]
    Git {
        /// What it was to do.
        what: &'static str,
        /// The repository, without credentials.
        url: String,
        /// What it said last.
        words: String,
    },
    /// There is no git.
    #[error("could not start git")]
    NoGit(#[source] io::Error),
    /// The repository has no such branch, tag or commit.
    #[error("{url} has no '{reference}'")]
    NoReference {
        /// The repository, without credentials.
        url: String,
        /// What was asked for.
        reference: String,
    },
    /// The commit is another than the one that was named.
    #[error("expected checksum to match {wanted}, got {found}")]
    OtherCommit {
        /// What its name was to begin with.
        wanted: String,
        /// Its name.
        found: String,
    },
    /// The folder is not in the repository.
    #[error("{url} has no folder '{subdir}'")]
    NoSubdir {
        /// The repository, without credentials.
        url: String,
        /// The folder.
        subdir: String,
    },
    /// The disk failed.
    #[error("could not {what} '{}'", path.display())]
    Disk {
        /// What was to be done.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// TLS could not be set up.
    #[error("could not set up connections: {0}")]
    Setup(String),
}

impl FetchError {
    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        match self {
            FetchError::Exchange { .. } | FetchError::Disk { .. } | FetchError::Setup(_) => {
                Fault::Cluster
            }
            FetchError::Answer { transient: true, .. } => Fault::Cluster,
            _ => Fault::Request,
        }
    }

    /// What could help.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            FetchError::Forbidden { .. } => Some(
                "a cluster fetches from public addresses and from the hosts in fetch.allow of its configuration",
            ),
            FetchError::NoGit(_) => Some("install git, or put it on the PATH"),
            FetchError::Git { words, .. }
                if words.contains("could not read Username")
                    || words.contains("Authentication failed") =>
            {
                Some(
                    "give --secret id=GIT_AUTH_TOKEN,env=VARIABLE with a token that the server takes, or use an ssh address",
                )
            }
            FetchError::Git { words, .. } if words.contains("Host key verification failed") => {
                Some(
                    "ssh does not know the host: `ssh-keyscan HOST >> ~/.ssh/known_hosts` on the machine that fetches, and compare the key with what its owner says",
                )
            }
            FetchError::Git { words, .. } if words.contains("Permission denied (publickey") => {
                Some("give --ssh default for the keys of your agent, or --ssh default=KEYFILE")
            }
            FetchError::Git { words, .. }
                if words.contains("certificate verification failed")
                    || words.contains("SSL certificate problem") =>
            {
                Some(
                    "name the certificate of the server's authority in GIT_SSL_CAINFO of the environment of the machine that fetches",
                )
            }
            _ => None,
        }
    }

    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, FetchError::Exchange { .. } | FetchError::Answer { transient: true, .. })
    }
}
