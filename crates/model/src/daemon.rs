//! Where a docker daemon is, and how both ends know each other.

use std::path::PathBuf;

/// A docker daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Daemon {
    /// Where it listens: `unix:///PATH` or `tcp://HOST:PORT`.
    pub address: String,
    /// How it is spoken to over TLS, where it is.
    pub tls: Option<DaemonTls>,
}

/// How a daemon is spoken to over TLS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DaemonTls {
    /// Whose daemon is believed.
    pub trust: DaemonTrust,
    /// The files of the certificate that it is shown, and of that certificate's key, in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Whose daemon is believed to be the one that is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DaemonTrust {
    /// Anybody's.
    Anybody,
    /// One whose certificate the system trusts.
    System,
    /// One whose certificate comes from those of a file, in PEM.
    Authority(PathBuf),
}

impl Daemon {
    /// A daemon that is spoken to in the clear.
    pub fn plain(address: impl Into<String>) -> Daemon {
        Daemon { address: address.into(), tls: None }
    }
}
