//! Whether a Redis will do, said before anybody depends on it.

use dcbuild_model::UnixTime;
use dcbuild_store::{IndexEntry, IndexKey, KeyIndex as _, StoreError};
use redis::Value;

use crate::fault::RedisFault;
use crate::index::RedisIndex;
use crate::open::without_tls;

/// Something about a Redis that its owner should know.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RedisFinding {
    /// It does not know commands that are needed.
    #[error("Redis {version} is too old: use 6.2 or later")]
    TooOld {
        /// Its version.
        version: String,
    },
    /// Keys may be on other servers.
    #[error("this is a node of a Redis Cluster: use a single server, or sentinels")]
    Cluster,
    /// It evicts what it was told when its memory is full.
    #[error(
        "maxmemory-policy is {policy}: the index forgets, and is filled from the store again and again; \
         set noeviction or volatile-lru"
    )]
    Evicts {
        /// The policy.
        policy: String,
    },
    /// It may take all memory of its machine.
    #[error("maxmemory is not set: Redis may take all memory of its machine; set maxmemory")]
    Unbounded,
    /// There is hardly any memory left.
    #[error("{used_bytes} of {max_bytes} bytes of maxmemory are taken: raise maxmemory")]
    NearlyFull {
        /// What is taken.
        used_bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
}

impl RedisFinding {
    /// Whether an index there would not work at all.
    pub fn is_fatal(&self) -> bool {
        matches!(self, RedisFinding::TooOld { .. } | RedisFinding::Cluster)
    }
}

/// What was seen of a Redis that answers, takes writes and gives them back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisHealth {
    /// Its version.
    pub version: String,
    /// What it does when its memory is full.
    pub policy: String,
    /// What should be changed; nothing if all is well.
    pub findings: Vec<RedisFinding>,
}

impl RedisIndex {
    /// Connects, writes, reads, runs a script, and looks at how the server is set up; errors and findings say what to do.
    pub async fn check(&self) -> Result<RedisHealth, StoreError> {
        if let Some(address) = without_tls(self.config()).await {
            let fault = RedisFault::NoTls { address: address.to_string() };
            return Err(fault.of_store(&self.name));
        }
        let mut info = String::new();
        for section in ["server", "memory", "cluster"] {
            let answer = self.ask(redis::cmd("INFO").arg(section)).await?;
            if let Value::BulkString(text) = answer {
                info += &String::from_utf8_lossy(&text);
            }
        }
        let key = self.a_name_of_ours();
        self.ask(redis::cmd("SET").arg(&key).arg("1").arg("PX").arg(60_000)).await?;
        self.ask(redis::cmd("GET").arg(&key)).await?;
        self.ask(redis::cmd("DEL").arg(&key)).await?;
        // It is told of something, finds it and forgets it; all scripts together need every right that there must be.
        let key = IndexKey("check".into());
        let (field, value, used) = ("check".to_owned(), "check".into(), UnixTime::default());
        self.put(&[IndexEntry { key: key.clone(), field: field.clone(), value, used }]).await?;
        self.touch(std::slice::from_ref(&key), used).await?;
        self.find(std::slice::from_ref(&key)).await?;
        self.last_used(std::slice::from_ref(&key)).await?;
        self.unused("check", None, 1).await?;
        self.remove_fields(&[(key.clone(), field)]).await?;
        self.remove(&[key]).await?;
        self.hold("check", "check", used, used).await?;
        self.release("check", "check").await?;
        // A fill needs the time besides.
        self.ask(&redis::cmd("TIME")).await?;
        Ok(judged(&info))
    }

    async fn ask(&self, command: &redis::Cmd) -> Result<Value, StoreError> {
        self.command(command).await.map_err(|fault| fault.of_store(&self.name))
    }
}

fn judged(info: &str) -> RedisHealth {
    let field = |name: &str| {
        let values = info.lines().filter_map(|line| line.split_once(':'));
        let mut values = values.filter(|(key, _)| *key == name).map(|(_, value)| value.trim());
        values.next().unwrap_or_default().to_owned()
    };
    let number = |name: &str| field(name).parse::<u64>().unwrap_or_default();
    let (version, policy) = (field("redis_version"), field("maxmemory_policy"));
    let mut findings = Vec::new();
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
    if (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) < (6, 2) {
        findings.push(RedisFinding::TooOld { version: version.clone() });
    }
    if field("cluster_enabled") == "1" {
        findings.push(RedisFinding::Cluster);
    }
    let (used_bytes, max_bytes) = (number("used_memory"), number("maxmemory"));
    if max_bytes == 0 {
        findings.push(RedisFinding::Unbounded);
    } else if policy.starts_with("allkeys") {
        findings.push(RedisFinding::Evicts { policy: policy.clone() });
    } else if used_bytes > max_bytes / 10 * 9 {
        findings.push(RedisFinding::NearlyFull { used_bytes, max_bytes });
    }
    RedisHealth { version, policy, findings }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_found() {
        let health = judged(
            "redis_version:6.0.16\r\nused_memory:95\r\nmaxmemory:100\r\n\
             maxmemory_policy:noeviction\r\ncluster_enabled:1\r\n",
        );
        let version = "6.0.16".to_owned();
        let full = RedisFinding::NearlyFull { used_bytes: 95, max_bytes: 100 };
        let wanted = [RedisFinding::TooOld { version }, RedisFinding::Cluster, full];
        assert_eq!(health.findings, wanted);
        assert_eq!(
            health.findings.iter().map(RedisFinding::is_fatal).collect::<Vec<_>>(),
            [true, true, false]
        );
        let evicts = judged("redis_version:7.2.4\nmaxmemory:100\nmaxmemory_policy:allkeys-lru\n");
        assert_eq!(evicts.findings, [RedisFinding::Evicts { policy: "allkeys-lru".into() }]);
        let fine = judged("redis_version:10.0.0\nused_memory:5\nmaxmemory:100\n");
        assert_eq!(fine.findings, []);
    }
}
