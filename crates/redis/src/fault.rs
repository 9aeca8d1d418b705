//! What may be wrong with a Redis, told apart, each with the way out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dcbuild_process::TlsFault;
use dcbuild_store::StoreError;
use redis::{ErrorKind, RedisError};

/// Says why Redis did not do as told.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RedisFault {
    /// No answer came.
    #[error(
        "it did not answer within {within:?}: is it overloaded, is a firewall in between, or is TLS set on one side only?"
    )]
    Silent {
        /// How long was waited.
        within: Duration,
    },
    /// The connection could not be made, or broke.
    #[error(
        "could not keep a connection to {address}: is it running there, and is TLS set on both sides or on neither?"
    )]
    Connection {
        /// The server.
        address: String,
        /// What the connection says.
        source: RedisError,
    },
    /// We do not trust each other.
    #[error("{fault} ({address}): {}", way_out(*fault))]
    Untrusted {
        /// The server.
        address: String,
        /// Why not.
        fault: TlsFault,
        /// What the connection says.
        source: RedisError,
    },
    /// It was spoken to with TLS, and has none.
    #[error(
        "{address} speaks no TLS: write redis:// instead of rediss://, or have it listen with tls-port, tls-cert-file and \
         tls-key-file"
    )]
    NoTls {
        /// The server.
        address: String,
    },
    /// It does not take us for who we say, or does not let us do what we must.
    #[error("{why}")]
    Denied {
        /// What of it.
        why: Denial,
        /// What it answered.
        source: RedisError,
    },
    /// It has begun and is not ready.
    #[error("it is still loading its data: it will be there when that is done")]
    Loading {
        /// What it answered.
        source: RedisError,
    },
    /// It only reads.
    #[error(
        "it is a replica and takes no writes: name the primary, or let redis+sentinel:// find it"
    )]
    ReadOnly {
        /// What it answered.
        source: RedisError,
    },
    /// It is one of many that share the keys.
    #[error(
        "it is a Redis Cluster, where keys may be elsewhere: use a single server, or sentinels"
    )]
    Cluster {
        /// What it answered.
        source: RedisError,
    },
    /// There is no memory left, and nothing is evicted.
    #[error("maxmemory is reached: raise it, or let another prefix or database be cleared")]
    Full {
        /// What it answered.
        source: RedisError,
    },
    /// It has fewer databases.
    #[error(
        "it has no database of this number: see `databases` in its configuration (16 of them, usually)"
    )]
    NoDatabase {
        /// What it answered.
        source: RedisError,
    },
    /// It cannot write its dump, and takes no writes until it can.
    #[error(
        "it cannot save to its disk and takes no writes: mend the disk, or set stop-writes-on-bgsave-error to no"
    )]
    NotSaving {
        /// What it answered.
        source: RedisError,
    },
    /// No sentinel knows a living primary.
    #[error(
        "no sentinel names a primary for {service}: is that its name, and are the sentinels running?"
    )]
    NoPrimary {
        /// The service.
        service: String,
        /// What went wrong with the last sentinel, if anything did.
        source: Option<RedisError>,
    },
    /// The file of certificates cannot be read.
    #[error("could not read the certificates in {path}", path = path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: Arc<std::io::Error>,
    },
    /// It answered something that makes no sense.
    #[error("it answered what was not expected: is it a Redis of version 6.2 or later?")]
    Answer {
        /// What it answered.
        source: RedisError,
    },
    /// Whoever kept the connection has stopped.
    #[error("the connection was closed, since this process is stopping")]
    Stopped,
}

/// What a server does not let us do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denial {
    /// It wants to know who we are.
    #[error("it wants a user and password: write redis://USER:PASSWORD@HOST:PORT")]
    NoPassword,
    /// The same of a sentinel.
    #[error(
        "a sentinel wants a user and password: give them with DCBUILD_SENTINEL_AUTH or the index's sentinel_auth_file"
    )]
    NoSentinelPassword,
    /// It knows no such user, or another password.
    #[error(
        "it knows no such user with this password, or the user is off: check both, a '%' in them is written %25"
    )]
    WrongPassword,
    /// The user may not do this, or not with these keys.
    #[error(
        "the user's rights do not reach: give it `~dcbuild:* +@read +@write +@scripting +@connection +info +role +time` with ACL SETUSER"
    )]
    NoRight,
}

/// What a fault means for the connection that it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Aftermath {
    /// It is as good as before.
    Keep,
    /// Another one may be made at once.
    Replace,
    /// There will be no good one for a while.
    Down,
}

/// What to do about a server and a client that do not trust each other.
fn way_out(fault: TlsFault) -> &'static str {
    match fault {
        TlsFault::Authority => dcbuild_process::NOT_AN_AUTHORITY,
        _ => {
            "set the index's ca to the file of its CA, and cert and key if it asks for a certificate"
        }
    }
}

impl RedisFault {
    /// Tells an error apart; `address` is the server that it came from.
    pub(crate) fn of(source: RedisError, address: &str) -> RedisFault {
        match source.code() {
            Some("LOADING" | "MASTERDOWN") => return RedisFault::Loading { source },
            Some("READONLY") => return RedisFault::ReadOnly { source },
            Some("MOVED" | "ASK" | "CLUSTERDOWN" | "CROSSSLOT") => {
                return RedisFault::Cluster { source };
            }
            Some("NOAUTH") => return RedisFault::Denied { why: Denial::NoPassword, source },
            Some("WRONGPASS") => return RedisFault::Denied { why: Denial::WrongPassword, source },
            Some("NOPERM") => return RedisFault::Denied { why: Denial::NoRight, source },
            Some("OOM") => return RedisFault::Full { source },
            Some("MISCONF") => return RedisFault::NotSaving { source },
            _ => {}
        }
        // What a script is refused has no code of its own.
        let detail = source.detail().unwrap_or_default();
        if ["can't run this command", "can't access"].iter().any(|it| detail.contains(it)) {
            return RedisFault::Denied { why: Denial::NoRight, source };
        }
        if detail.contains("DB index is out of range") {
            return RedisFault::NoDatabase { source };
        }
        if let Some(fault) = TlsFault::find(&source) {
            return RedisFault::Untrusted { address: address.into(), fault, source };
        }
        match source.kind() {
            ErrorKind::AuthenticationFailed => {
                RedisFault::Denied { why: Denial::WrongPassword, source }
            }
            ErrorKind::Io => RedisFault::Connection { address: address.into(), source },
            _ => RedisFault::Answer { source },
        }
    }

    pub(crate) fn aftermath(&self) -> Aftermath {
        match self {
            RedisFault::Connection { .. } => Aftermath::Replace,
            RedisFault::Silent { .. }
            | RedisFault::Loading { .. }
            | RedisFault::ReadOnly { .. }
            | RedisFault::Cluster { .. }
            | RedisFault::NoPrimary { .. }
            | RedisFault::CaFile { .. }
            | RedisFault::Untrusted { .. }
            | RedisFault::NoTls { .. }
            | RedisFault::Stopped => Aftermath::Down,
            RedisFault::Denied { .. }
            | RedisFault::Full { .. }
            | RedisFault::NoDatabase { .. }
            | RedisFault::NotSaving { .. }
            | RedisFault::Answer { .. } => Aftermath::Keep,
        }
    }

    /// The same, as any store says it.
    pub(crate) fn of_store(self, store: &str) -> StoreError {
        let store = store.to_owned();
        match self {
            RedisFault::Denied { .. } => StoreError::Denied { store, source: self.into() },
            RedisFault::Full { .. } => StoreError::Full { store, source: self.into() },
            RedisFault::Stopped => StoreError::Stopped,
            _ => StoreError::Unavailable { store, source: self.into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(code: &str) -> RedisFault {
        let source = redis::make_extension_error(code.into(), Some("told so".into()));
        RedisFault::of(source, "cache:6379")
    }

    #[test]
    fn answers_are_told_apart() {
        use Aftermath::{Down, Keep};
        for (code, wanted, aftermath) in [
            ("LOADING", "Loading", Down),
            ("READONLY", "ReadOnly", Down),
            ("MOVED", "Cluster", Down),
            ("CROSSSLOT", "Cluster", Down),
            ("OOM", "Full", Keep),
            ("NOPERM", "Denied", Keep),
            ("NOAUTH", "Denied", Keep),
            ("MISCONF", "NotSaving", Keep),
            ("ERR", "Answer", Keep),
        ] {
            let fault = fault(code);
            assert!(format!("{fault:?}").starts_with(wanted), "{code}: {fault:?}");
            assert_eq!(fault.aftermath(), aftermath, "{code}");
        }
    }
}
