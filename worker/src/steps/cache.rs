//! Cache mounts: folders that later builds see again.

use std::path::PathBuf;
use std::sync::Arc;

use dcbuild_model::Digest;
use dcbuild_plan::op::CacheSharing;
use dcbuild_sandbox::Mount;
use dcbuild_store::{KeyLock, LockMode};

use super::{Inputs, Place};
use crate::attempt::{Attempt, state_of};
use crate::caches::{Caches, lock_name};
use crate::error::Failed;
use crate::portable::{Portable, Root};
use crate::report::Progress;

/// How many copies of a private cache there may be.
const COPIES_MAX: u32 = 64;

/// A cache mount, as a RUN asks for it.
pub(crate) struct Cache<'a> {
    pub(crate) id: &'a str,
    pub(crate) sharing: CacheSharing,
    pub(crate) input: Option<usize>,
    pub(crate) source: &'a str,
    pub(crate) readonly: bool,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) target: &'a str,
}

/// A cache's name, and the lock that is held while it is mounted.
pub(crate) struct Taken {
    name: String,
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
        let mut name = format!("{}\0{}", attempt.scope, self.id);
        if let Some(input) = self.input
            && let Place::Chain(chain) = &inputs.get(input)?.place
        {
            name.push_str(&format!("\0{}", state_of(chain)));
        }
        let name = Digest::of(name.as_bytes()).hex();
        let (name, lock) = self.lock(attempt, progress, name).await?;
        let portable = self.portable(attempt, &name);
        if !self.readonly
            && let Some(portable) = &portable
        {
            let by = attempt.fence.attempt.to_string();
            portable.will_change(&by).map_err(|error| Failed::sandbox(&error))?;
        }
        Ok(Taken { name, lock, portable })
    }

    fn root(&self) -> Root {
        Root { mode: self.mode, owner: self.owner }
    }

    /// A cache that starts from another stage is the changes to it, which stand on that stage alone: it stays.
    fn portable(&self, attempt: &Attempt, name: &str) -> Option<Portable> {
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
        })
    }

    fn lock_mode(&self) -> LockMode {
        match self.sharing {
            // Two mounts cannot write through one overlay folder.
            CacheSharing::Shared if self.input.is_none() => LockMode::Shared,
            CacheSharing::Shared | CacheSharing::Locked | CacheSharing::Private => {
                LockMode::Exclusive
            }
        }
    }

    async fn lock(
        &self,
        attempt: &Arc<Attempt>,
        progress: &Progress,
        name: String,
    ) -> Result<(String, KeyLock), Failed> {
        let shared = &attempt.shared;
        if self.sharing == CacheSharing::Private {
            for number in 0..COPIES_MAX {
                let copy = if number == 0 { name.clone() } else { format!("{name}.{number}") };
                let lock = shared.locks.try_lock(&lock_name(&copy), LockMode::Exclusive)?;
                if let Some(lock) = lock {
                    let lock = self.refresh(attempt, progress, &copy, lock).await?;
                    return Ok((copy, lock));
                }
            }
        }
        let mode = self.lock_mode();
        if mode == LockMode::Shared {
            // Who comes first brings it for all who join; what others have mounted stays as it is.
            if let Some(lock) = shared.locks.try_lock(&lock_name(&name), LockMode::Exclusive)? {
                drop(self.refresh(attempt, progress, &name, lock).await?);
            }
        }
        let lock = self.wait(attempt, &name, mode).await?;
        if mode == LockMode::Shared {
            return Ok((name, lock));
        }
        let lock = self.refresh(attempt, progress, &name, lock).await?;
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
        name: &str,
        lock: KeyLock,
    ) -> Result<KeyLock, Failed> {
        match self.portable(attempt, name) {
            Some(portable) => portable.refresh(&attempt.shared, progress, lock).await,
            None => Ok(lock),
        }
    }

    /// The mount; blocks. Layers of the input that it starts from lie below it.
    pub(crate) fn mount(
        &self,
        caches: &Caches,
        taken: &Taken,
        lowers: Vec<PathBuf>,
    ) -> Result<Mount, Failed> {
        let failed = |error: std::io::Error| Failed::sandbox(&error);
        let folder = caches.folders().path_of(&taken.name);
        let fs = folder.join("fs");
        std::fs::create_dir_all(&folder).map_err(failed)?;
        caches.mark(&taken.name, self.id)?;
        self.root().make(&fs).map_err(failed)?;
        let subpath = self.source.trim_matches('/').to_owned();
        let target = self.target.to_owned();
        if self.input.is_none() {
            return Ok(Mount::Bind { source: fs, subpath, target, readonly: self.readonly });
        }
        // The kernel refuses a work folder that a volatile mount has used; nobody else has this one while it is locked.
        let work = folder.join("work");
        match std::fs::remove_dir_all(&work) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            Ok(()) | Err(_) => self.root().make(&work).map_err(failed)?,
        }
        let (lowers, scratch) = if self.readonly {
            ([lowers, vec![fs]].concat(), None)
        } else {
            (lowers, Some((fs, work)))
        };
        Ok(Mount::Overlay { lowers, scratch, subpath, target })
    }
}

fn folder_of(attempt: &Attempt, name: &str) -> PathBuf {
    attempt.shared.config.data_dir.join("cache").join(name)
}
