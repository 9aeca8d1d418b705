//! The index itself: what is asked of it, as calls of scripts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dcbuild_model::UnixTime;
use dcbuild_store::{
    ENTRY_BYTES_MAX, Fill, IndexEntry, IndexKey, KeyIndex, KeyUse, Looked, StoreError,
};
use redis::{Cmd, ErrorKind, RedisError, Script, Value};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::RedisConfig;
use crate::fault::{Aftermath, RedisFault};
use crate::link::{Call, Link};
use crate::room::Room;
use crate::script::Scripts;

/// More keys in one question, and more entries in one telling, are sent in pieces: Redis does nothing else meanwhile.
const KEYS_MAX: usize = 2_000;
const PUT_BYTES_MAX: usize = 4 << 20;
/// A key with more fields, or larger, is not ours, and is not loaded.
const FIELDS_MAX: usize = 4_096;
const KEY_BYTES_MAX: usize = 8 << 20;
/// What one question may load.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How many keys a script that walks over them looks at.
const LOOKS_MAX: usize = 5_000;
/// Of how many keys values are emptied at a time.
const SHED_AT_ONCE: usize = 1_000;
/// A value that is no larger takes less than what is around it.
const SMALL_BYTES: usize = 32;

/// An index in Redis.
pub struct RedisIndex {
    link: Link,
    prefix: String,
    scripts: Scripts,
    /// The server as errors name it.
    pub(crate) name: String,
    /// How often something could not be told, and how many of those times have been made good by taking the mark away.
    owed: AtomicU64,
    paid: AtomicU64,
    room: Room,
}

impl RedisIndex {
    /// Begins to connect in the background, on `tasks` until `stop`; nothing waits for it but what is asked of the index.
    pub fn start(config: RedisConfig, tasks: &TaskTracker, stop: &CancellationToken) -> RedisIndex {
        let (prefix, name) = (config.prefix.clone(), config.to_string());
        let link = Link::start(config, tasks, stop);
        let (owed, paid) = (AtomicU64::new(0), AtomicU64::new(0));
        let (scripts, room) = (Scripts::new(), Room::default());
        RedisIndex { link, prefix, scripts, name, owed, paid, room }
    }

    fn used(&self) -> String {
        format!("{}used", self.prefix)
    }

    fn leases(&self) -> String {
        format!("{}leases", self.prefix)
    }

    /// Where keys of the index are hashes of Redis.
    fn hashes(&self) -> String {
        format!("{}k:", self.prefix)
    }

    pub(crate) fn a_name_of_ours(&self) -> String {
        format!("{}check", self.prefix)
    }

    pub(crate) fn config(&self) -> &RedisConfig {
        self.link.config()
    }

    pub(crate) async fn command(&self, command: &Cmd) -> Result<Value, RedisFault> {
        self.link.run(&Call::Command(command)).await
    }

    /// Runs a script, after what is owed.
    async fn script(
        &self,
        script: &Script,
        keys: &[String],
        args: &[Vec<u8>],
    ) -> Result<Value, RedisFault> {
        self.pay().await?;
        self.send(script, keys, args).await
    }

    async fn pay(&self) -> Result<(), RedisFault> {
        let owed = self.owed.load(Ordering::SeqCst);
        if owed > self.paid.load(Ordering::SeqCst) {
            self.send(&self.scripts.mark_incomplete, &[], &[]).await?;
            self.paid.fetch_max(owed, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Empties values behind a rank until so many bytes went, or some were looked at; says how many went, and where to go on.
    pub(crate) async fn shed(
        &self,
        rank: i64,
        wanted: u64,
    ) -> Result<(u64, Option<i64>), RedisFault> {
        let limits = [text(&SHED_AT_ONCE), text(&SMALL_BYTES), text(&wanted)];
        let args = [vec![self.hashes().into_bytes(), text(&rank)], limits.to_vec()].concat();
        match self.script(&self.scripts.shed, &[], &args).await? {
            Value::Array(told) => match &told[..] {
                [Value::Int(freed)] => Ok((freed.unsigned_abs(), None)),
                [Value::Int(freed), Value::Int(next)] => Ok((freed.unsigned_abs(), Some(*next))),
                _ => Err(nonsense()),
            },
            _ => Err(nonsense()),
        }
    }

    async fn send(
        &self,
        script: &Script,
        keys: &[String],
        args: &[Vec<u8>],
    ) -> Result<Value, RedisFault> {
        let mut invocation = script.prepare_invoke();
        invocation.key(self.used());
        for key in keys {
            invocation.key(key);
        }
        for arg in args {
            invocation.arg(arg.as_slice());
        }
        self.link.run(&Call::Script(&invocation)).await
    }

    fn hashes_of(&self, keys: &[IndexKey]) -> Vec<String> {
        let hashes = self.hashes();
        keys.iter().map(|key| format!("{hashes}{}", key.0)).collect()
    }

    async fn find_some(&self, keys: &[IndexKey]) -> Result<Looked, RedisFault> {
        let limits = [ENTRY_BYTES_MAX, FIELDS_MAX, KEY_BYTES_MAX, ANSWER_BYTES_MAX];
        let mut args: Vec<Vec<u8>> = limits.iter().map(text).collect();
        args.extend(keys.iter().map(member));
        let answer = self.script(&self.scripts.find, &self.hashes_of(keys), &args).await?;
        looked(answer, keys.len()).ok_or_else(nonsense)
    }

    async fn put_some(&self, entries: &[IndexEntry]) -> Result<(), RedisFault> {
        let mut keys: BTreeMap<&IndexKey, UnixTime> = BTreeMap::new();
        for entry in entries {
            let used = keys.entry(&entry.key).or_insert(entry.used);
            *used = (*used).max(entry.used);
        }
        let mut args = Vec::new();
        for (key, used) in &keys {
            args.extend([member(key), text(&millis(*used))]);
        }
        let numbers: BTreeMap<&IndexKey, usize> = keys.keys().copied().zip(1..).collect();
        for entry in entries {
            let fits = entry.value.len() <= ENTRY_BYTES_MAX;
            let value = if fits { entry.value.to_vec() } else { Vec::new() };
            // What comes without a value may be known with one by now.
            let set = if entry.value.is_empty() { "HSETNX" } else { "HSET" };
            let (key, field) = (text(&numbers[&entry.key]), entry.field.clone().into_bytes());
            args.extend([text(&set), key, field, value]);
        }
        let owned: Vec<IndexKey> = keys.into_keys().cloned().collect();
        let hashes = self.hashes_of(&owned);
        loop {
            match self.script(&self.scripts.put, &hashes, &args).await {
                Err(RedisFault::Full { .. }) if self.room.make(self).await? => {}
                put => return put.map(drop),
            }
        }
    }

    async fn put_all(&self, entries: &[IndexEntry]) -> Result<(), RedisFault> {
        let mut rest = entries;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(KEYS_MAX).take_while(|entry| {
                bytes += entry.value.len().min(ENTRY_BYTES_MAX);
                bytes <= PUT_BYTES_MAX
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            self.put_some(now).await?;
            rest = later;
        }
        Ok(())
    }

    async fn forget_lost(&self) -> Result<(), RedisFault> {
        let mut rank = 0;
        loop {
            let args = [self.hashes().into_bytes(), text(&rank), text(&LOOKS_MAX)];
            match self.script(&self.scripts.forget_lost, &[], &args).await? {
                Value::Int(next) => rank = next,
                _ => return Ok(()),
            }
        }
    }

    async fn unused_behind(
        &self,
        prefix: &str,
        after: Option<&KeyUse>,
        limit: usize,
    ) -> Result<Vec<KeyUse>, RedisFault> {
        let prefix = member(&IndexKey(prefix.into()));
        let (time, behind) = match after {
            Some(after) => (text(&millis(after.used)), member(&after.key)),
            None => (text(&0), Vec::new()),
        };
        let (mut found, mut skip): (Vec<KeyUse>, i64) = (Vec::new(), 0);
        while found.len() < limit {
            let (wanted, looks) = (text(&(limit - found.len())), text(&LOOKS_MAX));
            let args = [prefix.clone(), time.clone(), behind.clone(), text(&skip), wanted, looks];
            let answer = self.script(&self.scripts.unused, &[], &args).await?;
            let page = uses(answer).ok_or_else(nonsense)?;
            found.extend(page.keys.into_iter().filter(|key| after.is_none_or(|it| key > it)));
            skip += page.looked_at;
            if page.last {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Does what comes back as done, not done, or nonsense.
    async fn whether(
        &self,
        script: &Script,
        keys: &[String],
        args: &[Vec<u8>],
    ) -> Result<bool, StoreError> {
        match self.script(script, keys, args).await {
            Ok(Value::Int(done)) => Ok(done == 1),
            Ok(_) => Err(nonsense().of_store(&self.name)),
            Err(fault) => Err(fault.of_store(&self.name)),
        }
    }

    fn owing(&self, fault: RedisFault) -> StoreError {
        self.owed.fetch_add(1, Ordering::SeqCst);
        fault.of_store(&self.name)
    }
}

#[async_trait::async_trait]
impl KeyIndex for RedisIndex {
    async fn find(&self, keys: &[IndexKey]) -> Result<Looked, StoreError> {
        let mut all = self.find_some(&keys[..keys.len().min(KEYS_MAX)]).await;
        for some in keys.chunks(KEYS_MAX).skip(1) {
            let Ok(whole) = &mut all else { break };
            match self.find_some(some).await {
                Ok(more) => {
                    whole.complete &= more.complete;
                    whole.found.extend(more.found);
                }
                Err(fault) => all = Err(fault),
            }
        }
        all.map_err(|fault| fault.of_store(&self.name))
    }

    async fn put(&self, entries: &[IndexEntry]) -> Result<(), StoreError> {
        let Err(fault) = self.put_all(entries).await else { return Ok(()) };
        if let RedisFault::Full { .. } = fault {
            self.link.is_full(&fault);
        }
        let is_there = fault.aftermath() == Aftermath::Keep;
        let error = self.owing(fault);
        // Until the mark is away, others take what could not be told for absent.
        if is_there && let Err(fault) = self.pay().await {
            tracing::debug!(%fault, "the mark of completeness stays for now");
        }
        Err(error)
    }

    async fn remove(&self, keys: &[IndexKey]) -> Result<(), StoreError> {
        for some in keys.chunks(KEYS_MAX) {
            let members: Vec<Vec<u8>> = some.iter().map(member).collect();
            self.whether(&self.scripts.remove, &self.hashes_of(some), &members).await?;
        }
        Ok(())
    }

    async fn remove_fields(&self, fields: &[(IndexKey, String)]) -> Result<(), StoreError> {
        for some in fields.chunks(KEYS_MAX) {
            let keys: Vec<IndexKey> = some.iter().map(|(key, _)| key.clone()).collect();
            let args = some.iter().flat_map(|(key, field)| [member(key), text(field)]);
            let args: Vec<Vec<u8>> = args.collect();
            self.whether(&self.scripts.remove_fields, &self.hashes_of(&keys), &args).await?;
        }
        Ok(())
    }

    async fn touch(&self, keys: &[IndexKey], now: UnixTime) -> Result<(), StoreError> {
        for some in keys.chunks(KEYS_MAX) {
            let args = std::iter::once(text(&millis(now))).chain(some.iter().map(member));
            let touched = self.script(&self.scripts.touch, &[], &args.collect::<Vec<_>>()).await;
            // What is not known to be used may be swept: then the index does not know all.
            touched.map_err(|fault| self.owing(fault))?;
        }
        Ok(())
    }

    async fn last_used(&self, keys: &[IndexKey]) -> Result<Vec<Option<UnixTime>>, StoreError> {
        let mut times = Vec::new();
        for some in keys.chunks(KEYS_MAX) {
            let members: Vec<Vec<u8>> = some.iter().map(member).collect();
            let answer = self.script(&self.scripts.last_used, &[], &members).await;
            match answer.map_err(|fault| fault.of_store(&self.name))? {
                Value::Array(found) if found.len() == some.len() => {
                    times.extend(found.iter().map(time));
                }
                _ => return Err(nonsense().of_store(&self.name)),
            }
        }
        Ok(times)
    }

    async fn unused(
        &self,
        prefix: &str,
        after: Option<&KeyUse>,
        limit: usize,
    ) -> Result<Vec<KeyUse>, StoreError> {
        let found = self.unused_behind(prefix, after, limit).await;
        found.map_err(|fault| fault.of_store(&self.name))
    }

    async fn begin_fill(&self, now: UnixTime, until: UnixTime) -> Result<Option<Fill>, StoreError> {
        let args = [text(&millis(now)), text(&millis(until))];
        let begun = self.script(&self.scripts.begin_fill, &[], &args).await;
        let fill = match begun.map_err(|fault| fault.of_store(&self.name))? {
            Value::BulkString(fill) => String::from_utf8_lossy(&fill).into_owned(),
            _ => return Ok(None),
        };
        self.forget_lost().await.map_err(|fault| fault.of_store(&self.name))?;
        Ok(Some(Fill(fill)))
    }

    async fn end_fill(&self, fill: &Fill) -> Result<bool, StoreError> {
        self.whether(&self.scripts.end_fill, &[], &[fill.0.clone().into_bytes()]).await
    }

    async fn mark_incomplete(&self) -> Result<(), StoreError> {
        let marked = self.script(&self.scripts.mark_incomplete, &[], &[]).await;
        marked.map(drop).map_err(|fault| self.owing(fault))
    }

    async fn hold(
        &self,
        name: &str,
        holder: &str,
        now: UnixTime,
        until: UnixTime,
    ) -> Result<bool, StoreError> {
        let args = [name.into(), holder.into(), text(&millis(now)), text(&millis(until))];
        self.whether(&self.scripts.hold, &[self.leases()], &args).await
    }

    async fn release(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        let args = [name.into(), holder.into()];
        self.whether(&self.scripts.release, &[self.leases()], &args).await.map(drop)
    }
}

/// What a key is called among the keys by last use; marks begin with something else.
fn member(key: &IndexKey) -> Vec<u8> {
    format!("k{}", key.0).into_bytes()
}

fn text(value: &impl ToString) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn millis(time: UnixTime) -> i64 {
    time.secs.saturating_mul(1_000).saturating_add(i64::from(time.nanos / 1_000_000))
}

fn time(value: &Value) -> Option<UnixTime> {
    let Value::BulkString(text) = value else { return None };
    let millis: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let nanos = u32::try_from(millis.rem_euclid(1_000)).ok()? * 1_000_000;
    Some(UnixTime { secs: millis.div_euclid(1_000), nanos })
}

fn nonsense() -> RedisFault {
    let source = RedisError::from((ErrorKind::UnexpectedReturnType, "a script's answer is odd"));
    RedisFault::Answer { source }
}

/// Fields whose names are not text were planted; without them the key cannot be called known.
fn looked(answer: Value, asked: usize) -> Option<Looked> {
    let Value::Array(parts) = answer else { return None };
    let mut parts = parts.into_iter();
    let mut complete = matches!(parts.next()?, Value::Int(1));
    let mut found = Vec::with_capacity(asked);
    for part in parts {
        let Value::Array(flat) = part else { return None };
        let mut fields = Vec::with_capacity(flat.len() / 2);
        let mut flat = flat.into_iter();
        while let (Some(field), Some(value)) = (flat.next(), flat.next()) {
            let (Value::BulkString(field), Value::BulkString(value)) = (field, value) else {
                return None;
            };
            match String::from_utf8(field) {
                Ok(field) => fields.push((field, Bytes::from(value))),
                Err(_) => complete = false,
            }
        }
        fields.sort();
        found.push(fields);
    }
    (found.len() == asked).then_some(Looked { complete, found })
}

struct UsePage {
    looked_at: i64,
    last: bool,
    keys: Vec<KeyUse>,
}

fn uses(answer: Value) -> Option<UsePage> {
    let Value::Array(parts) = answer else { return None };
    let [Value::Int(looked_at), Value::Int(last), rest @ ..] = &parts[..] else { return None };
    let key_use = |pair: &[Value]| {
        let Value::BulkString(member) = &pair[0] else { return None };
        let key = std::str::from_utf8(member).ok()?.strip_prefix('k')?;
        Some(KeyUse { used: time(&pair[1])?, key: IndexKey(key.into()) })
    };
    let keys = rest.chunks_exact(2).filter_map(key_use).collect();
    Some(UsePage { looked_at: *looked_at, last: *last == 1, keys })
}
