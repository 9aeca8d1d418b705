//! Cache mounts: folders that later builds see again.
//!
//! A folder is named by scope and id, by what it starts from, and by the build that last had the id begin empty. So to
//! empty a cache is to go on in another folder: whoever has the old one mounted keeps it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dcbuild_model::{BuildId, Digest};
use dcbuild_plan::op::CacheSharing;
use dcbuild_sandbox::Mount;
use dcbuild_store::{KeyLock, LockMode};

use super::{Inputs, Place};
use crate::attempt::{Attempt, Task, state_of};
use crate::caches::lock_name;
use crate::error::{Failed, blocking};
use crate::part::{self, Part};
use crate::portable::{Emptied, Portable, Root};
use crate::report::Progress;

/// How many builds that had an id begin empty are remembered, the last first.
const EMPTIED_KEPT: usize = 8;
/// How long such a build may leave its folder unused and find it again, though another had the id begin empty meanwhile.
const BETWEEN_STEPS_MAX: Duration = Duration::from_hours(1);
/// How many copies of a private cache there may be.
const COPIES_MAX: u32 = 64;

/// A cache mount, as a RUN asks for it.
#[derive(Clone, Copy)]
pub(crate) struct Cache<'a> {
    pub(crate) id: &'a str,
    pub(crate) sharing: CacheSharing,
    pub(crate) input: Option<usize>,
    pub(crate) source: &'a str,
    pub(crate) readonly: bool,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) target: &'a str,
    pub(crate) begins: Begins,
}

/// What a RUN finds in its cache mounts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Begins {
    /// What the RUN before it left.
    AsItWasLeft,
    /// Nothing but what its own build has left there.
    Empty,
}

/// A cache's name, and the lock that is held while it is mounted.
pub(crate) struct Taken {
    /// The name of its folder.
    pub(crate) name: String,
    pub(crate) lock: KeyLock,
    /// Set where it follows its builds from worker to worker.
    pub(crate) portable: Option<Portable>,
}

impl Cache<'_> {
    /// Finds the cache's folder, waits until it may be used, and brings its latest version.
    pub(crate) async fn take(
        &self,
        attempt: &Arc<Attempt>,
        inputs: &Inputs,
        progress: &Progress,
    ) -> Result<Taken, Failed> {
        let emptied = self.emptied(attempt, inputs).await?;
        let name = self.name(attempt, inputs, emptied)?;
        let (name, lock) = self.lock(attempt, progress, (name, emptied)).await?;
        let portable = self.portable(attempt, &name, emptied);
        if !self.readonly
            && let Some(portable) = &portable
        {
            let by = attempt.fence.attempt.to_string();
            portable.will_change(&by).map_err(|error| Failed::sandbox(&error))?;
        }
        Ok(Taken { name, lock, portable })
    }

    /// What the mounts of one RUN are one cache by.
    pub(crate) fn first_name(&self, attempt: &Attempt, inputs: &Inputs) -> Result<String, Failed> {
        self.name(attempt, inputs, None)
    }

    /// Takes in another mount of the same cache: the first says how it is shared, unless one wants it locked.
    pub(crate) fn join(&mut self, other: &Cache<'_>) {
        if other.sharing == CacheSharing::Locked {
            self.sharing = other.sharing;
        }
        self.readonly &= other.readonly;
    }

    /// What this worker knows the id by.
    fn key(&self, attempt: &Attempt) -> String {
        Digest::of(format!("{}\0{}", attempt.scope, self.id).as_bytes()).hex()
    }

    /// The name of the folder, or of the first where there are copies.
    fn name(
        &self,
        attempt: &Attempt,
        inputs: &Inputs,
        emptied: Option<BuildId>,
    ) -> Result<String, Failed> {
        let mut name = format!("{}\0{}", attempt.scope, self.id);
        if let Some(input) = self.input {
            if let Place::Chain(chain) = &inputs.get(input)?.place {
                name.push_str(&format!("\0{}", state_of(chain)));
            }
            name.push_str(&format!("\0from {}", self.source));
        }
        if let Some(build) = emptied {
            name.push_str(&format!("\0emptied by {build}"));
        }
        Ok(Digest::of(name.as_bytes()).hex())
    }

    /// Which build had the id begin empty the last time: this one from now on, if it is to.
    async fn emptied(
        &self,
        attempt: &Arc<Attempt>,
        inputs: &Inputs,
    ) -> Result<Option<BuildId>, Failed> {
        let (caches, key) = (&attempt.shared.caches, self.key(attempt));
        if self.begins == Begins::AsItWasLeft {
            return Ok(caches.emptied(&key).first().copied());
        }
        let (name, stop) = (format!("emptied-{key}"), &attempt.run.stop);
        let held = attempt.shared.locks.lock(&name, LockMode::Exclusive, stop).await?;
        let mut builds = caches.emptied(&key);
        if !builds.contains(&attempt.build) {
            builds.insert(0, attempt.build);
            let forgotten = builds.split_off(builds.len().min(EMPTIED_KEPT));
            let noted = caches.note_emptied(&key, &builds);
            noted.map_err(|error| Failed::sandbox(&error))?;
            // Another such build may be between two steps; what is older, or of no such build, nobody goes on from.
            for build in builds.into_iter().skip(1) {
                self.drop_all(attempt, self.name(attempt, inputs, Some(build))?, BETWEEN_STEPS_MAX);
            }
            for build in forgotten.into_iter().map(Some).chain([None]) {
                self.drop_all(attempt, self.name(attempt, inputs, build)?, Duration::ZERO);
            }
        }
        drop(held);
        Ok(Some(attempt.build))
    }

    /// Removes a folder and its copies behind the build where they are unused for so long, and nobody has them mounted.
    fn drop_all(&self, attempt: &Arc<Attempt>, name: String, unused: Duration) {
        let shared = attempt.shared.clone();
        let id = self.id.to_owned();
        attempt.shared.tasks.spawn(async move {
            let dropped = blocking(move || {
                let now = shared.parts.clock.now();
                let folders = shared.caches.folders();
                for copy in copies(&name) {
                    let Some(used) = folders.last_used(&copy)? else { continue };
                    let age = u64::try_from(now.secs.saturating_sub(used.secs)).unwrap_or(0);
                    if age < unused.as_secs() {
                        continue;
                    }
                    let lock = lock_name(&copy);
                    if let Some(_held) = shared.locks.try_lock(&lock, LockMode::Exclusive)? {
                        folders.remove(&copy)?;
                    }
                }
                Ok(())
            });
            if let Err(error) = dropped.await {
                tracing::warn!(id, %error, "what was in a cache mount was not removed");
            }
        });
    }

    fn root(&self) -> Root {
        Root { mode: self.mode, owner: self.owner }
    }

    /// A cache that starts from a stage stays: it goes with that stage alone.
    fn portable(
        &self,
        attempt: &Attempt,
        name: &str,
        emptied: Option<BuildId>,
    ) -> Option<Portable> {
        if self.input.is_some() || attempt.shared.parts.caches.is_none() {
            return None;
        }
        Some(Portable {
            folder: folder_of(attempt, name),
            lock: lock_name(name),
            mode: self.lock_mode(),
            scope: attempt.scope.clone(),
            id: self.id.to_owned(),
            root: self.root(),
            key: self.key(attempt),
            emptied: emptied.map(|build| Emptied { build, begins: self.begins }),
        })
    }

    fn lock_mode(&self) -> LockMode {
        match self.sharing {
            CacheSharing::Shared => LockMode::Shared,
            CacheSharing::Locked | CacheSharing::Private => LockMode::Exclusive,
        }
    }

    async fn lock(
        &self,
        attempt: &Arc<Attempt>,
        progress: &Progress,
        (name, emptied): (String, Option<BuildId>),
    ) -> Result<(String, KeyLock), Failed> {
        let shared = &attempt.shared;
        if self.sharing == CacheSharing::Private {
            for copy in copies(&name) {
                let lock = shared.locks.try_lock(&lock_name(&copy), LockMode::Exclusive)?;
                if let Some(lock) = lock {
                    let lock = self.refresh(attempt, progress, (&copy, emptied), lock).await?;
                    return Ok((copy, lock));
                }
            }
        }
        let mode = self.lock_mode();
        if mode == LockMode::Shared {
            // Who comes first brings it for all who join; what others have mounted stays as it is.
            if let Some(lock) = shared.locks.try_lock(&lock_name(&name), LockMode::Exclusive)? {
                drop(self.refresh(attempt, progress, (&name, emptied), lock).await?);
            }
        }
        let lock = self.wait(attempt, &name, mode).await?;
        if mode == LockMode::Shared {
            return Ok((name, lock));
        }
        let lock = self.refresh(attempt, progress, (&name, emptied), lock).await?;
        Ok((name, lock))
    }

    /// Waits for the lock; a write-back that has it gives way after a while.
    async fn wait(&self, attempt: &Attempt, name: &str, mode: LockMode) -> Result<KeyLock, Failed> {
        let (shared, name) = (&attempt.shared, lock_name(name));
        let lock = shared.locks.lock(&name, mode, &attempt.run.stop);
        tokio::pin!(lock);
        loop {
            tokio::select! {
                lock = &mut lock => return Ok(lock?),
                () = shared.write_backs.hurry(&name) => {}
            }
        }
    }

    async fn refresh(
        &self,
        attempt: &Arc<Attempt>,
        progress: &Progress,
        (name, emptied): (&str, Option<BuildId>),
        lock: KeyLock,
    ) -> Result<KeyLock, Failed> {
        match self.portable(attempt, name, emptied) {
            Some(portable) => portable.refresh(&attempt.shared, progress, lock).await,
            None => Ok(lock),
        }
    }

    /// The mount; what it starts from is copied into a folder that is new.
    pub(crate) async fn mount(
        &self,
        attempt: &Attempt,
        task: &Arc<Task>,
        name: &str,
    ) -> Result<Mount, Failed> {
        let failed = |error: std::io::Error| Failed::sandbox(&error);
        let caches = &attempt.shared.caches;
        let folder = caches.folders().path_of(name);
        let source = folder.join("fs");
        std::fs::create_dir_all(&folder).map_err(failed)?;
        caches.mark(name, self.id)?;
        let mut subpath = self.source.trim_matches('/').to_owned();
        if let Some(input) = self.input {
            if !source.exists() {
                self.fill(attempt, task, (input, folder)).await?;
            }
            Part::PATH.clone_into(&mut subpath);
        } else {
            self.root().make(&source).map_err(failed)?;
        }
        let (target, readonly) = (self.target.to_owned(), self.readonly);
        Ok(Mount::Bind { source, subpath, target, readonly })
    }

    /// Fills a new folder with what the cache starts from.
    async fn fill(
        &self,
        attempt: &Attempt,
        task: &Arc<Task>,
        (input, folder): (usize, PathBuf),
    ) -> Result<(), Failed> {
        let (layers, task) = (attempt.shared.layers.clone(), task.clone());
        let (source, root) = (self.source.to_owned(), self.root());
        blocking(move || {
            let seeing = task.inputs.get(input)?;
            let failed = |error: std::io::Error| Failed::sandbox(&error);
            let new = tempfile::tempdir_in(&folder).map_err(failed)?;
            part::write(&layers, seeing, &source, new.path())?;
            let filled = new.path().join("fs");
            if source.trim_matches('/').is_empty() {
                root.dress(&filled.join(Part::PATH)).map_err(failed)?;
            }
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            let here = rustix::fs::CWD;
            match rustix::fs::renameat_with(here, &filled, here, folder.join("fs"), flags) {
                // Another step that shares the mount was quicker, and may have changed it already.
                Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
                Err(error) => Err(failed(error.into())),
            }
        })
        .await
    }
}

/// The names of a cache's copies: the first has its own.
fn copies(name: &str) -> impl Iterator<Item = String> {
    let first = name.to_owned();
    (0..COPIES_MAX).map(move |number| match number {
        0 => first.clone(),
        _ => format!("{first}.{number}"),
    })
}

fn folder_of(attempt: &Attempt, name: &str) -> PathBuf {
    attempt.shared.config.data_dir.join("cache").join(name)
}
