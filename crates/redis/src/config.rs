//! Where Redis is, and who we are to it.

use std::fmt;
use std::path::PathBuf;

/// Where one server or sentinel listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisAddress {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RedisAddress { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// How the server is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Servers {
    /// It is this one.
    One(RedisAddress),
    /// Sentinels know which one it is now.
    Sentinels {
        /// Where they listen.
        sentinels: Vec<RedisAddress>,
        /// The name that they know the server by.
        service: String,
    },
}

/// Whether bytes travel encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// They do not.
    Plain,
    /// They do, and the server proves its name.
    Tls,
}

/// A user and a password, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user; the server's default user if none.
    pub user: Option<String>,
    /// The password.
    pub password: String,
}

impl Credentials {
    /// Reads `PASSWORD` or `USER:PASSWORD`.
    pub fn from_text(text: &str) -> Credentials {
        let (user, password) = match text.split_once(':') {
            Some((user, password)) => (Some(user.to_owned()), password),
            None => (None, text),
        };
        Credentials { user: user.filter(|user| !user.is_empty()), password: password.to_owned() }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What an index in Redis is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisConfig {
    /// How the server is found.
    pub servers: Servers,
    /// Whether bytes travel encrypted, to sentinels too.
    pub transport: Transport,
    /// The database's number.
    pub database: u32,
    /// Who we are to the server.
    pub credentials: Option<Credentials>,
    /// Who we are to the sentinels.
    pub sentinel_credentials: Option<Credentials>,
    /// A file of certificates in PEM that are trusted instead of the system's; read at each connect.
    pub ca_file: Option<PathBuf>,
    /// The files of the certificate that the server is shown, and of its key, in PEM; read at each connect.
    pub identity_files: Option<(PathBuf, PathBuf)>,
    /// What all names in Redis begin with; indexes of different prefixes do not see each other.
    pub prefix: String,
}

/// Says why a text is not the URL of a Redis; it never holds the password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidRedisUrl {
    /// It begins with something else.
    #[error("'{found}' is none of redis://, rediss://, redis+sentinel:// and rediss+sentinel://")]
    Scheme {
        /// What it begins with.
        found: String,
    },
    /// There is no host.
    #[error("no host is named: write redis://HOST:PORT")]
    Host,
    /// A host has a port that is none.
    #[error("'{text}' is not a port: it is a number from 1 to 65535")]
    Port {
        /// What stands there.
        text: String,
    },
    /// The database is not a number.
    #[error("'{text}' is not the number of a database: write redis://HOST:PORT/0")]
    Database {
        /// What stands there.
        text: String,
    },
    /// Several hosts, and no sentinel to say which of them counts.
    #[error("several hosts are named: only sentinels may be several, in redis+sentinel://")]
    ManyHosts,
    /// Sentinels were not told what they are asked for.
    #[error("no service is named: write redis+sentinel://HOST:PORT,HOST:PORT/SERVICE")]
    Service,
    /// User or password has a `%` that is not followed by two hexadecimal digits.
    #[error(
        "a '%' in the user or password is not followed by two hexadecimal digits: write it as %25"
    )]
    Escape,
    /// Options in the URL are not taken.
    #[error("'?{text}' is not understood: options are set in the configuration")]
    Options {
        /// What stands there.
        text: String,
    },
}

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

impl RedisConfig {
    /// Reads `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, `rediss://` for TLS, or
    /// `redis+sentinel://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]/SERVICE[/DATABASE]`.
    pub fn from_url(url: &str) -> Result<RedisConfig, InvalidRedisUrl> {
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        let (transport, sentinel) = match scheme {
            "redis" => (Transport::Plain, false),
            "rediss" => (Transport::Tls, false),
            "redis+sentinel" => (Transport::Plain, true),
            "rediss+sentinel" => (Transport::Tls, true),
            // Whatever stands before an '@' may be a password.
            _ if url.contains('@') => return Err(InvalidRedisUrl::Scheme { found: "...@".into() }),
            other => return Err(InvalidRedisUrl::Scheme { found: other.into() }),
        };
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        if let Some((_, text)) = rest.split_once(['?', '#']) {
            return Err(InvalidRedisUrl::Options { text: text.into() });
        }
        let credentials = user.map(credentials).transpose()?;
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let port = if sentinel { SENTINEL_PORT } else { REDIS_PORT };
        let addresses = hosts.split(',').map(|host| address(host, port));
        let mut addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        let (servers, database) = if sentinel {
            let (service, database) = path.split_once('/').unwrap_or((path, ""));
            if service.is_empty() {
                return Err(InvalidRedisUrl::Service);
            }
            (Servers::Sentinels { sentinels: addresses, service: service.into() }, database)
        } else {
            let one = addresses.pop().ok_or(InvalidRedisUrl::Host)?;
            if !addresses.is_empty() {
                return Err(InvalidRedisUrl::ManyHosts);
            }
            (Servers::One(one), path)
        };
        Ok(RedisConfig {
            servers,
            transport,
            database: number(database)?,
            credentials,
            sentinel_credentials: None,
            ca_file: None,
            identity_files: None,
            prefix: "dcbuild:".into(),
        })
    }
}

/// As a URL, without credentials.
impl fmt::Display for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if self.transport == Transport::Tls { "s" } else { "" };
        match &self.servers {
            Servers::One(address) => write!(f, "redis{tls}://{address}")?,
            Servers::Sentinels { sentinels, service } => {
                let hosts: Vec<String> = sentinels.iter().map(RedisAddress::to_string).collect();
                write!(f, "redis{tls}+sentinel://{}/{service}", hosts.join(","))?;
            }
        }
        if self.database == 0 { Ok(()) } else { write!(f, "/{}", self.database) }
    }
}

fn number(text: &str) -> Result<u32, InvalidRedisUrl> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| InvalidRedisUrl::Database { text: text.into() })
}

fn address(text: &str, default_port: u16) -> Result<RedisAddress, InvalidRedisUrl> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').unwrap_or(rest))),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err(InvalidRedisUrl::Host);
    }
    let wrong = |text: &str| InvalidRedisUrl::Port { text: text.into() };
    let port = match port {
        None => default_port,
        Some(text) => text.parse().ok().filter(|port| *port != 0).ok_or_else(|| wrong(text))?,
    };
    Ok(RedisAddress { host: host.into(), port })
}

fn credentials(text: &str) -> Result<Credentials, InvalidRedisUrl> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let user = Some(unescaped(user)?).filter(|user| !user.is_empty());
    Ok(Credentials { user, password: unescaped(password)? })
}

fn unescaped(text: &str) -> Result<String, InvalidRedisUrl> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit(), digit());
        let value = high.zip(low).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        bytes.push(value.ok_or(InvalidRedisUrl::Escape)?);
    }
    String::from_utf8(bytes).map_err(|_| InvalidRedisUrl::Escape)
}

#[cfg(test)]
mod tests;
