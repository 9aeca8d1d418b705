//! Marks of processes whose builds use a store: what was used since the oldest of these builds began does not go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dcbuild_model::{BuildId, UnixTime};
use tokio::sync::Mutex;

use crate::{FolderStore, InUse, StoreError};

/// A mark that was not renewed for so long is a dead process's.
pub const USE_LIFETIME: Duration = Duration::from_mins(15);
/// How often a mark is renewed, in seconds.
const RENEW_SECS: i64 = 300;
/// How long a store that failed is not asked again, in seconds: marks last much longer.
const FAILED_SECS: i64 = 30;
/// How long it may take to take the mark away.
const CLEAR_MAX: Duration = Duration::from_secs(2);

/// Sets and takes away the mark of this process.
#[async_trait::async_trait]
pub trait UseMark: Send + Sync {
    /// What tells whether later uses will be known to whoever sweeps; asked when a build begins.
    async fn epoch(&self) -> String;

    /// Sets the mark: since when there are uses, and the epochs in which they began.
    async fn set(&self, since: UnixTime, epochs: BTreeSet<String>) -> Result<(), StoreError>;

    /// Takes it away.
    async fn clear(&self) -> Result<(), StoreError>;
}

/// The mark of a folder store: a lock that dies with its process.
pub struct FolderMark {
    store: FolderStore,
    held: Mutex<Option<InUse>>,
}

impl FolderMark {
    /// A mark that is not set yet.
    pub fn new(store: FolderStore) -> FolderMark {
        FolderMark { store, held: Mutex::new(None) }
    }
}

#[async_trait::async_trait]
impl UseMark for FolderMark {
    async fn epoch(&self) -> String {
        // Files carry their own times.
        String::new()
    }

    async fn set(&self, since: UnixTime, _: BTreeSet<String>) -> Result<(), StoreError> {
        // The older lock is let go of when the newer one stands.
        let lock = self.store.begin_use_since(since)?;
        drop(self.held.lock().await.replace(lock));
        Ok(())
    }

    async fn clear(&self) -> Result<(), StoreError> {
        drop(self.held.lock().await.take());
        Ok(())
    }
}

/// A build that uses the store.
struct User {
    /// Among those that have begun here; none for one that another process began.
    number: Option<u64>,
    since: UnixTime,
    epoch: String,
}

/// What a mark says that stands.
struct Standing {
    set: UnixTime,
    epochs: BTreeSet<String>,
}

#[derive(Default)]
struct Users {
    by_build: BTreeMap<BuildId, User>,
    mark: Option<Standing>,
    /// Whether a mark may stand of which nothing is known: that of an earlier process of the same name, or one whose
    /// setting was given up on.
    left: bool,
    /// When the mark could last not be moved.
    failed: Option<UnixTime>,
}

/// Keeps the mark while builds go on: it stands before a build looks for records, and goes when none is left.
pub struct Using {
    mark: Box<dyn UseMark>,
    begun: AtomicU64,
    users: Mutex<Users>,
}

impl Using {
    /// Keeps this mark.
    pub fn new(mark: Box<dyn UseMark>) -> Using {
        Using { mark, begun: AtomicU64::new(0), users: Mutex::default() }
    }

    /// The same where an earlier process may have left the mark, as one does that is killed: it goes, or is moved on, the
    /// next time that it is said which builds go on.
    pub fn resuming(mark: Box<dyn UseMark>) -> Using {
        let users = Mutex::new(Users { left: true, ..Users::default() });
        Using { users, ..Using::new(mark) }
    }

    /// A build is about to look for what there is; returns once the mark stands.
    pub async fn begin(&self, build: BuildId, now: UnixTime) -> Result<(), StoreError> {
        let mut users = self.users.lock().await;
        let number = self.begun.fetch_add(1, Ordering::SeqCst);
        let epoch = self.mark.epoch().await;
        users.by_build.insert(build, User { number: Some(number), since: now, epoch });
        if users.mark.is_none() {
            self.set(&mut users, now).await?;
        }
        Ok(())
    }

    /// How many builds have begun; to be asked before those are listed that go on.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// Of the first `begun` builds these go on, each since it was submitted: moves the mark on, renews it, or takes it
    /// away. Of one that another process began it is not known what it has used.
    pub async fn keep(
        &self,
        begun: u64,
        running: &BTreeMap<BuildId, UnixTime>,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let mut users = self.users.lock().await;
        users.by_build.retain(|build, user| {
            user.number.is_some_and(|number| number >= begun) || running.contains_key(build)
        });
        for (build, since) in running {
            let unknown = || User { number: None, since: *since, epoch: String::new() };
            users.by_build.entry(*build).or_insert_with(unknown);
        }
        // One that is asked at the very end has no time, and waits for nothing.
        let rests = |failed: UnixTime| (0..FAILED_SECS).contains(&(now.secs - failed.secs));
        if users.failed.is_some_and(rests) {
            return Ok(());
        }
        let moved = match &users.mark {
            None if users.by_build.is_empty() && !users.left => Ok(()),
            _ if users.by_build.is_empty() => {
                // A build that begins now waits for this.
                let cleared = tokio::time::timeout(CLEAR_MAX, self.mark.clear()).await;
                match cleared {
                    Ok(Ok(())) => {
                        (users.mark, users.left) = (None, false);
                        Ok(())
                    }
                    Ok(Err(error)) => Err(error),
                    // It may be gone, and it may be there.
                    Err(_late) => {
                        (users.mark, users.left) = (None, true);
                        let source = format!("nothing came within {CLEAR_MAX:?}").into();
                        Err(StoreError::Unavailable { store: "of the mark".to_owned(), source })
                    }
                }
            }
            // Once the last build has ended of those that began before the index was flushed, a sweeper may go on.
            Some(Standing { set, epochs })
                if now.secs.saturating_sub(set.secs) < RENEW_SECS && *epochs == users.epochs() =>
            {
                Ok(())
            }
            None | Some(_) => self.set(&mut users, now).await,
        };
        users.failed = moved.is_err().then_some(now);
        moved
    }

    async fn set(&self, users: &mut Users, now: UnixTime) -> Result<(), StoreError> {
        let since = users.by_build.values().map(|user| user.since).min().unwrap_or(now);
        let epochs = users.epochs();
        // Of one whose setting is given up on nobody knows whether it stands.
        let left = std::mem::replace(&mut users.left, true);
        let set = self.mark.set(since, epochs.clone()).await;
        users.left = left && set.is_err();
        set?;
        users.mark = Some(Standing { set: now, epochs });
        Ok(())
    }
}

impl Users {
    /// Those in which the builds that go on have begun.
    fn epochs(&self) -> BTreeSet<String> {
        self.by_build.values().map(|user| user.epoch.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex as StdMutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Told(Arc<StdMutex<Vec<String>>>);

    #[async_trait::async_trait]
    impl UseMark for Told {
        async fn epoch(&self) -> String {
            "one".into()
        }

        async fn set(&self, since: UnixTime, epochs: BTreeSet<String>) -> Result<(), StoreError> {
            self.0.lock().unwrap().push(format!("since {} {epochs:?}", since.secs));
            Ok(())
        }

        async fn clear(&self) -> Result<(), StoreError> {
            self.0.lock().unwrap().push("cleared".into());
            Ok(())
        }
    }

    #[tokio::test]
    async fn the_mark_stands_while_a_build_goes_on_and_follows_the_oldest() {
        let told = Told::default();
        let using = Using::new(Box::new(told.clone()));
        let at = |secs| UnixTime { secs, nanos: 0 };
        let [one, two, three] = [1, 2, 3].map(BuildId::from_bits);
        using.begin(one, at(1)).await.unwrap();
        using.begin(two, at(20)).await.unwrap();
        let keep = async |begun, running: &[(BuildId, UnixTime)], now| {
            let running = running.iter().copied().collect();
            using.keep(begun, &running, at(now)).await.unwrap();
        };
        keep(using.begun(), &[(one, at(1)), (two, at(19))], 200).await;
        keep(using.begun(), &[(two, at(19))], 301).await;
        let seen = using.begun();
        using.begin(three, at(302)).await.unwrap();
        keep(seen, &[], 303).await;
        keep(using.begun(), &[], 304).await;
        keep(using.begun(), &[], 900).await;
        using.begin(one, at(901)).await.unwrap();
        keep(using.begun(), &[], 902).await;
        // A build that another process began.
        keep(using.begun(), &[(two, at(700))], 903).await;
        let want = [
            "since 1 {\"one\"}",
            "since 20 {\"one\"}",
            "cleared",
            "since 901 {\"one\"}",
            "cleared",
            "since 700 {\"\"}",
        ];
        assert_eq!(*told.0.lock().unwrap(), want);
    }

    /// Sets no mark for as long as anybody waits, and takes it away.
    #[derive(Clone, Default)]
    struct Slow(Told);

    #[async_trait::async_trait]
    impl UseMark for Slow {
        async fn epoch(&self) -> String {
            String::new()
        }

        async fn set(&self, _: UnixTime, _: BTreeSet<String>) -> Result<(), StoreError> {
            std::future::pending().await
        }

        async fn clear(&self) -> Result<(), StoreError> {
            self.0.clear().await
        }
    }

    #[tokio::test]
    async fn a_mark_that_was_given_up_on_while_it_was_set_is_taken_away() {
        let told = Told::default();
        let using = Using::new(Box::new(Slow(told.clone())));
        let at = UnixTime { secs: 1, nanos: 0 };
        // The plan of a build failed meanwhile.
        assert!(futures::FutureExt::now_or_never(using.begin(BuildId::from_bits(1), at)).is_none());
        using.keep(using.begun(), &BTreeMap::new(), at).await.unwrap();
        assert_eq!(*told.0.lock().unwrap(), ["cleared"]);
    }

    /// A mark of an index that is flushed between two builds.
    #[derive(Clone, Default)]
    struct Flushed(Told, Arc<StdMutex<u32>>);

    #[async_trait::async_trait]
    impl UseMark for Flushed {
        async fn epoch(&self) -> String {
            let mut number = self.1.lock().unwrap();
            *number += 1;
            number.to_string()
        }

        async fn set(&self, since: UnixTime, epochs: BTreeSet<String>) -> Result<(), StoreError> {
            self.0.set(since, epochs).await
        }

        async fn clear(&self) -> Result<(), StoreError> {
            self.0.clear().await
        }
    }

    /// Takes no mark away, and says nothing.
    #[derive(Clone, Default)]
    struct Silent(Arc<AtomicU64>);

    #[async_trait::async_trait]
    impl UseMark for Silent {
        async fn epoch(&self) -> String {
            String::new()
        }

        async fn set(&self, _: UnixTime, _: BTreeSet<String>) -> Result<(), StoreError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }

        async fn clear(&self) -> Result<(), StoreError> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_build_begins_though_the_mark_of_others_cannot_be_taken_away() {
        let silent = Silent::default();
        let using = Using::new(Box::new(silent.clone()));
        let at = |secs| UnixTime { secs, nanos: 0 };
        let [one, two] = [1, 2].map(BuildId::from_bits);
        using.begin(one, at(1)).await.unwrap();
        let none = BTreeMap::new();
        let (kept, begun) = tokio::join!(
            using.keep(using.begun(), &none, at(2)),
            tokio::time::timeout(Duration::from_secs(10), using.begin(two, at(3))),
        );
        assert!(matches!(kept, Err(StoreError::Unavailable { .. })), "{kept:?}");
        begun.expect("it waits for the end of others").unwrap();
        assert_eq!(silent.0.load(Ordering::SeqCst), 2, "what may be gone is set again");
    }

    #[tokio::test]
    async fn the_mark_says_at_once_that_no_build_of_a_lost_index_is_left() {
        let flushed = Flushed::default();
        let using = Using::new(Box::new(flushed.clone()));
        let at = |secs| UnixTime { secs, nanos: 0 };
        let [one, two] = [1, 2].map(BuildId::from_bits);
        using.begin(one, at(1)).await.unwrap();
        using.begin(two, at(20)).await.unwrap();
        let both = BTreeMap::from([(one, at(1)), (two, at(20))]);
        using.keep(using.begun(), &both, at(21)).await.unwrap();
        let last = BTreeMap::from([(two, at(20))]);
        using.keep(using.begun(), &last, at(22)).await.unwrap();
        using.keep(using.begun(), &last, at(23)).await.unwrap();
        let want = ["since 1 {\"1\"}", "since 1 {\"1\", \"2\"}", "since 20 {\"2\"}"];
        assert_eq!(*flushed.0.0.lock().unwrap(), want);
    }

    #[tokio::test]
    async fn the_mark_of_a_process_that_was_killed_goes_with_the_next_of_its_name() {
        let told = Told::default();
        let using = Using::resuming(Box::new(told.clone()));
        let at = |secs| UnixTime { secs, nanos: 0 };
        let running = BTreeMap::from([(BuildId::from_bits(1), at(1))]);
        using.keep(using.begun(), &running, at(10)).await.unwrap();
        using.keep(using.begun(), &BTreeMap::new(), at(11)).await.unwrap();
        using.keep(using.begun(), &BTreeMap::new(), at(12)).await.unwrap();
        assert_eq!(*told.0.lock().unwrap(), ["since 1 {\"\"}", "cleared"]);
        let told = Told::default();
        let using = Using::resuming(Box::new(told.clone()));
        using.keep(using.begun(), &BTreeMap::new(), at(10)).await.unwrap();
        using.keep(using.begun(), &BTreeMap::new(), at(11)).await.unwrap();
        assert_eq!(*told.0.lock().unwrap(), ["cleared"], "none goes on");
    }

    /// A store that takes no mark.
    #[derive(Clone, Default)]
    struct Failing(Arc<StdMutex<u32>>);

    #[async_trait::async_trait]
    impl UseMark for Failing {
        async fn epoch(&self) -> String {
            String::new()
        }

        async fn set(&self, _: UnixTime, _: BTreeSet<String>) -> Result<(), StoreError> {
            *self.0.lock().unwrap() += 1;
            Err(StoreError::Stopped)
        }

        async fn clear(&self) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_store_that_fails_is_asked_again_and_not_each_second() {
        let failing = Failing::default();
        let using = Using::new(Box::new(failing.clone()));
        let at = |secs| UnixTime { secs, nanos: 0 };
        let build = BuildId::from_bits(1);
        assert!(using.begin(build, at(1_000)).await.is_err());
        let running = BTreeMap::from([(build, at(1_000))]);
        let mut failed = 0;
        for second in 1_001..1_100 {
            failed += u32::from(using.keep(using.begun(), &running, at(second)).await.is_err());
        }
        assert_eq!((failed, *failing.0.lock().unwrap()), (4, 5));
        assert!(using.keep(using.begun(), &running, at(0)).await.is_err(), "the last time");
    }
}
