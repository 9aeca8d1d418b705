//! Why something could not be fetched.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

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
    /// The host has no address that is known.
    #[error("could not fetch {url}: the name could not be looked up")]
    Lookup {
        /// The host, or the address without credentials.
        url: String,
        /// What the system said.
        source: Arc<io::Error>,
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
    /// The server redirects without end.
    #[error("could not fetch {url}: it redirects more than {max} times")]
    Redirects {
        /// The address, without credentials.
        url: String,
        /// How often it may.
        max: usize,
    },
    /// The exchange failed.
    #[error("could not fetch {url}")]
    Exchange {
        /// The address, without credentials.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The proxy on the way could not be reached.
    #[error("could not fetch {url}: the proxy {proxy} could not be reached")]
    Proxy {
        /// The address, without credentials.
        url: String,
        /// The proxy without its password, and the variable that names it.
        proxy: String,
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
    /// The server says nothing, or so little that it takes too long.
    #[error("could not fetch {url}: {limit}")]
    Slow {
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
        /// Who can mend it.
        fault: Fault,
    },
    /// The server does not take what we show it.
    #[error("could not {what} {url}: the server does not take {secret}")]
    Refused {
        /// What was to be done.
        what: &'static str,
        /// The repository, without credentials.
        url: String,
        /// The id of the secret that was shown.
        secret: String,
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
            FetchError::Exchange { source, .. } if is_of_certificate(source) => Fault::Request,
            FetchError::Exchange { .. }
            | FetchError::Proxy { .. }
            | FetchError::Disk { .. }
            | FetchError::Slow { .. }
            | FetchError::Redirects { .. }
            | FetchError::Setup(_)
            | FetchError::Answer { transient: true, .. } => Fault::Cluster,
            FetchError::Lookup { source, .. } => Fault::of_lookup(source),
            FetchError::Git { fault, .. } => *fault,
            _ => Fault::Request,
        }
    }

    /// What could help.
    pub fn hint(&self) -> Option<String> {
        if let FetchError::Refused { secret, .. } = self {
            return Some(format!(
                "see whether the token of --secret id={secret} is still valid, and may read the repository"
            ));
        }
        self.plain_hint().map(str::to_owned)
    }

    fn plain_hint(&self) -> Option<&'static str> {
        match self {
            FetchError::Forbidden { .. } => Some(
                "a cluster fetches from public addresses and from the hosts in fetch.allow of its configuration",
            ),
            FetchError::NoReference { reference, .. } if is_short_commit(reference) => {
                Some("a commit is named by all of its 40 digits, a branch or a tag by its name")
            }
            FetchError::Proxy { .. } => Some(
                "start the proxy, or mend the variable; hosts that are reached without it belong into no_proxy",
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
        match self {
            FetchError::Exchange { source, .. } => !is_of_certificate(source),
            FetchError::Proxy { .. } => true,
            FetchError::Answer { transient, .. } => *transient,
            _ => false,
        }
    }
}

/// Whether the server's certificate is at the bottom of it.
fn is_of_certificate(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(rustls::Error::InvalidCertificate(_)) = cause.downcast_ref() {
            return true;
        }
        // An error within an I/O error is not among its sources, which are those of the inner one.
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    false
}

/// Whether it looks like the beginning of a commit's name.
fn is_short_commit(reference: &str) -> bool {
    (7..40).contains(&reference.len()) && reference.chars().all(|ch| ch.is_ascii_hexdigit())
}

/// What git, curl and ssh say where it is the network that failed, or a server that is not well.
const OF_NETWORK: [&str; 26] = [
    "Failed to connect",
    "Couldn't connect",
    "Could not connect",
    "Connection refused",
    "Connection reset",
    "Connection timed out",
    "Connection closed",
    "Connection was reset",
    "Operation timed out",
    "Operation too slow",
    "No route to host",
    "Network is unreachable",
    "Empty reply from server",
    "The requested URL returned error: 429",
    "The requested URL returned error: 5",
    "RPC failed",
    "early EOF",
    "unexpected disconnect",
    "hung up unexpectedly",
    "transfer closed",
    "Temporary failure in name resolution",
    "Recv failure",
    // Something else than a git server answers, as what stands between does: so it is with registries and servers of ADD.
    "redirects followed",
    "Too many redirects",
    "HTTP/0.9",
    "Weird server reply",
];

/// Who can mend what git failed of: git itself tells it by its words alone.
pub(crate) fn fault_of_git(words: &str) -> Fault {
    // A server that refuses somebody may hang up as well.
    let refused = ["Permission denied", "Authentication failed", "not found", "error: 40"];
    if refused.iter().any(|known| words.contains(known)) {
        return Fault::Request;
    }
    if OF_NETWORK.iter().any(|known| words.contains(known)) {
        Fault::Cluster
    } else {
        Fault::Request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_s_words_say_who_can_mend_it() {
        for (words, fault) in [
            (
                "fatal: unable to access 'http://h/': Failed to connect to h port 9 after 0 ms: Couldn't connect to server",
                Fault::Cluster,
            ),
            (
                "fatal: unable to access 'http://h/': The requested URL returned error: 503",
                Fault::Cluster,
            ),
            (
                "fatal: unable to access 'http://h/': Operation too slow. Less than 1000 bytes/sec",
                Fault::Cluster,
            ),
            (
                "ssh: connect to host h port 22: Connection refused; fatal: Could not read from remote repository.",
                Fault::Cluster,
            ),
            (
                "fatal: unable to access 'http://h/': The requested URL returned error: 429",
                Fault::Cluster,
            ),
            (
                "fatal: unable to access 'http://h/': The requested URL returned error: 403",
                Fault::Request,
            ),
            (
                "git@h: Permission denied (publickey).; fatal: the remote end hung up unexpectedly",
                Fault::Request,
            ),
            (
                "fatal: unable to access 'http://h/': Maximum (20) redirects followed",
                Fault::Cluster,
            ),
            (
                "fatal: unable to access 'http://h/': Received HTTP/0.9 when not allowed",
                Fault::Cluster,
            ),
            ("fatal: repository 'http://h/' not found", Fault::Request),
        ] {
            assert_eq!(fault_of_git(words), fault, "{words}");
        }
    }

    #[test]
    fn a_short_commit_is_told_from_a_branch() {
        for (name, short) in [("e9372ac", true), ("main", false), ("deadbee/x", false)] {
            assert_eq!(is_short_commit(name), short, "{name}");
        }
    }
}
