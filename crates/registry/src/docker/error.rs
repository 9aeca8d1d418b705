//! Why an image is not loaded into docker, and what to do about it.

use std::path::{Path, PathBuf};

use dcbuild_model::Fault;

use super::{DaemonTlsError, SshAddressError};

/// Says why an image could not be loaded into docker.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The address is of a kind that is not spoken.
    #[error(
        "docker's address '{address}' is neither unix:///PATH nor tcp://HOST:PORT nor ssh://HOST"
    )]
    Address {
        /// The address.
        address: String,
    },
    /// The address of a machine behind ssh is none.
    #[error("docker's address '{address}' is no ssh://[USER@]HOST[:PORT][/SOCKET]")]
    SshAddress {
        /// The address.
        address: String,
        /// Why not.
        source: SshAddressError,
    },
    /// There is no ssh.
    #[error("could not run ssh, which goes to the docker daemon at '{address}'")]
    NoSsh {
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Ssh did not come through, or the docker behind it not to its daemon.
    #[error("ssh to the docker daemon at '{address}' {ended}: {words}")]
    Ssh {
        /// The address.
        address: String,
        /// How it ended.
        ended: String,
        /// Its last words.
        words: String,
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
            LoadError::Ssh { words, .. }
                if OF_NETWORK.iter().any(|known| words.contains(known)) =>
            {
                Fault::Cluster
            }
            LoadError::Address { .. }
            | LoadError::SshAddress { .. }
            | LoadError::NoSsh { .. }
            | LoadError::Ssh { .. }
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
            LoadError::SshAddress { source: SshAddressError::Password, .. } => Some(
                "leave the password out: ssh is let in by a key, of an agent or named in ~/.ssh/config"
                    .into(),
            ),
            LoadError::NoSsh { .. } => Some(
                "install an ssh client (openssh-client), or write the image with -o type=docker,dest=FILE"
                    .into(),
            ),
            LoadError::Ssh { address, words, .. } => Some(of_ssh(address, words)),
            LoadError::Address { .. } | LoadError::SshAddress { .. } => {
                Some("set DOCKER_HOST to unix:///PATH or ssh://USER@HOST, or write the image with -o type=docker,dest=FILE".into())
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

/// What ssh says of a machine that is not to be had now.
const OF_NETWORK: [&str; 11] = [
    "Could not resolve hostname",
    "Connection refused",
    "Connection timed out",
    "Connection reset",
    "Connection closed by",
    "No route to host",
    "Network is unreachable",
    "closed by remote host",
    "Broken pipe",
    "not responding",
    "Operation timed out",
];

/// What to do about an ssh that does not come through.
fn of_ssh(address: &str, words: &str) -> String {
    let says = |known: &[&str]| known.iter().any(|known| words.contains(known));
    if says(&["Host key verification failed"]) {
        "log in to that host once by ssh, and say yes to its key where it is the right one; nobody is asked during a build".into()
    } else if says(&["Could not resolve hostname"]) {
        "see whether the host is spelt right in DOCKER_HOST or the context, or give it a HostName in ~/.ssh/config".into()
    } else if says(&["Permission denied (", "Too many authentication failures"]) {
        "ssh must be let in by a key: add it to an agent with ssh-add, or name it in ~/.ssh/config; nobody is asked for a password during a build".into()
    } else if says(&["docker: command not found", "docker: not found", "'dial-stdio'"]) {
        "the other machine needs docker's client, 18.09 or newer, on the PATH that ssh commands have there".into()
    } else if says(&["connect to the Docker daemon", "docker API", "raw stream connection"]) {
        "the user there must reach the daemon: let docker run there, join its group, or name its socket, as in ssh://HOST/run/user/1000/docker.sock".into()
    } else {
        format!("`docker --host {address} version` says whether docker's own client comes through")
    }
}

fn is_port(socket: &Path) -> bool {
    !socket.is_absolute()
}
