//! Makes one connection: to the server, or to the one that sentinels name.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo as _,
    RedisConnectionInfo, TlsCertificates, Value,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::{Credentials, RedisAddress, RedisConfig, Servers, Transport};
use crate::fault::{Denial, RedisFault};

/// How long one server may take for anything.
pub(crate) const DEADLINE: Duration = Duration::from_millis(500);

/// A connection, and whom it leads to.
#[derive(Clone)]
pub(crate) struct Opened {
    pub(crate) connection: MultiplexedConnection,
    pub(crate) address: RedisAddress,
}

/// Connects, says who we are, and hears that the server is ready.
pub(crate) async fn open(config: &RedisConfig) -> Result<Opened, RedisFault> {
    let address = match &config.servers {
        Servers::One(address) => address.clone(),
        Servers::Sentinels { .. } => primary(config).await?,
    };
    let trust = trust(config).await?;
    let who = identity(config.credentials.as_ref()).set_db(config.database.into());
    let dialled = within(dial(&address, who, trust.as_ref()), &address);
    let mut connection = dialled.await?;
    let named = matches!(config.servers, Servers::Sentinels { .. });
    let asked = redis::cmd(if named { "ROLE" } else { "PING" });
    let answer: Value = within(
        async {
            let asked = asked.query_async(&mut connection).await;
            asked.map_err(|source| RedisFault::of(source, &address.to_string()))
        },
        &address,
    )
    .await?;
    match &config.servers {
        Servers::Sentinels { service, .. } if !is_primary(&answer) => {
            Err(RedisFault::NoPrimary { service: service.clone(), source: None })
        }
        _ => Ok(Opened { connection, address }),
    }
}

/// Asks the sentinels, one after the other, which server is the primary.
pub(crate) async fn primary(config: &RedisConfig) -> Result<RedisAddress, RedisFault> {
    let (sentinels, service) = match &config.servers {
        Servers::One(address) => return Ok(address.clone()),
        Servers::Sentinels { sentinels, service } => (sentinels, service),
    };
    let trust = trust(config).await?;
    let mut last = None;
    for sentinel in sentinels {
        let who = identity(config.sentinel_credentials.as_ref());
        let asked = async {
            let mut connection = dial(sentinel, who, trust.as_ref()).await?;
            let mut question = redis::cmd("SENTINEL");
            question.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
            let answer = question.query_async::<Option<(String, u16)>>(&mut connection).await;
            answer.map_err(|source| RedisFault::of(source, &sentinel.to_string()))
        };
        match within(asked, sentinel).await {
            Ok(Some((host, port))) => return Ok(RedisAddress { host, port }),
            Err(RedisFault::Denied { why, source }) => {
                let why = if why == Denial::NoPassword { Denial::NoSentinelPassword } else { why };
                return Err(RedisFault::Denied { why, source });
            }
            Err(fault @ RedisFault::Untrusted { .. }) => return Err(fault),
            Err(
                RedisFault::Connection { source, .. }
                | RedisFault::Answer { source }
                | RedisFault::Loading { source },
            ) => last = Some(source),
            Ok(None) | Err(_) => {}
        }
    }
    Err(RedisFault::NoPrimary { service: service.clone(), source: last })
}

/// The server, or the first of the sentinels, that answers in the clear though TLS is meant: it never answers what is
/// encrypted, and would be taken for one that is silent.
pub(crate) async fn without_tls(config: &RedisConfig) -> Option<RedisAddress> {
    if config.transport == Transport::Plain {
        return None;
    }
    let addresses = match &config.servers {
        Servers::One(address) => std::slice::from_ref(address),
        Servers::Sentinels { sentinels, .. } => sentinels.as_slice(),
    };
    for address in addresses {
        if let Ok(Ok(true)) = timeout(DEADLINE, answers_plainly(address)).await {
            return Some(address.clone());
        }
    }
    None
}

/// Whether the first words to a ping are those of a Redis; whoever speaks TLS sends an alert, or hangs up.
async fn answers_plainly(address: &RedisAddress) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut answer = [0; 16];
    let length = stream.read(&mut answer).await?;
    let answer = answer.get(..length).unwrap_or_default();
    Ok(answer.starts_with(b"+PONG") || answer.starts_with(b"-"))
}

fn is_primary(role: &Value) -> bool {
    let Value::Array(parts) = role else { return false };
    matches!(parts.first(), Some(Value::BulkString(name)) if name == b"master")
}

async fn within<T>(
    work: impl Future<Output = Result<T, RedisFault>>,
    address: &RedisAddress,
) -> Result<T, RedisFault> {
    if let Ok(done) = timeout(DEADLINE, work).await {
        return done;
    }
    tracing::debug!(%address, "no answer from redis");
    Err(RedisFault::Silent { within: DEADLINE })
}

fn identity(credentials: Option<&Credentials>) -> RedisConnectionInfo {
    let who = RedisConnectionInfo::default().set_skip_set_lib_name();
    let Some(Credentials { user, password }) = credentials else { return who };
    let who = who.set_password(password);
    match user {
        Some(user) => who.set_username(user),
        None => who,
    }
}

async fn trust(config: &RedisConfig) -> Result<Option<TlsCertificates>, RedisFault> {
    if config.transport == Transport::Plain {
        return Ok(None);
    }
    // Whoever came first has chosen; there is no other in this program.
    rustls::crypto::ring::default_provider().install_default().ok();
    let root_cert = match &config.ca_file {
        Some(path) => Some(read(path).await?),
        None => None,
    };
    let client_tls = match &config.identity_files {
        Some((cert, key)) => {
            Some(ClientTlsConfig { client_cert: read(cert).await?, client_key: read(key).await? })
        }
        None => None,
    };
    Ok(Some(TlsCertificates { client_tls, root_cert }))
}

async fn read(path: &Path) -> Result<Vec<u8>, RedisFault> {
    tokio::fs::read(path).await.map_err(|error| {
        let source = Arc::new(error);
        RedisFault::CaFile { path: path.into(), source }
    })
}

async fn dial(
    address: &RedisAddress,
    who: RedisConnectionInfo,
    trust: Option<&TlsCertificates>,
) -> Result<MultiplexedConnection, RedisFault> {
    let (host, port) = (address.host.clone(), address.port);
    let place = match trust {
        None => ConnectionAddr::Tcp(host, port),
        Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
    };
    let dialled = async {
        let whole = place.into_connection_info()?.set_redis_settings(who);
        let client = match trust {
            None => Client::open(whole)?,
            Some(trust) => Client::build_with_tls(whole, trust.clone())?,
        };
        // Time is kept outside, for the whole of an operation.
        let times = AsyncConnectionConfig::new();
        let times = times.set_connection_timeout(None).set_response_timeout(None);
        client.get_multiplexed_async_connection_with_config(&times).await
    };
    dialled.await.map_err(|source| RedisFault::of(source, &address.to_string()))
}
