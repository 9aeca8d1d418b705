//! Cache mounts: folders that later builds see again.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use dcbuild_model::Digest;
use dcbuild_plan::op::CacheSharing;
use dcbuild_sandbox::Mount;
use dcbuild_store::{KeyLock, LockMode};

use super::{Inputs, Place};
use crate::attempt::{Attempt, state_of};
use crate::caches::{Caches, lock_name};
use crate::error::Failed;

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
}

impl Cache<'_> {
    /// Finds the cache's folder and waits until it may be used.
    pub(crate) async fn take(&self, attempt: &Attempt, inputs: &Inputs) -> Result<Taken, Failed> {
        let mut name = format!("{}\0{}", attempt.scope, self.id);
        if let Some(input) = self.input
            && let Place::Chain(chain) = &inputs.get(input)?.place
        {
            name.push_str(&format!("\0{}", state_of(chain)));
        }
        let name = Digest::of(name.as_bytes()).hex();
        let (name, lock) = self.lock(attempt, name).await?;
        Ok(Taken { name, lock })
    }

    async fn lock(&self, attempt: &Attempt, name: String) -> Result<(String, KeyLock), Failed> {
        let (locks, stop) = (&attempt.shared.locks, &attempt.run.stop);
        let mode = match self.sharing {
            // Two mounts cannot write through one overlay folder.
            CacheSharing::Shared if self.input.is_none() => LockMode::Shared,
            CacheSharing::Shared | CacheSharing::Locked => LockMode::Exclusive,
            CacheSharing::Private => {
                for number in 0..COPIES_MAX {
                    let copy = if number == 0 { name.clone() } else { format!("{name}.{number}") };
                    if let Some(lock) = locks.try_lock(&lock_name(&copy), LockMode::Exclusive)? {
                        return Ok((copy, lock));
                    }
                }
                LockMode::Exclusive
            }
        };
        let lock = locks.lock(&lock_name(&name), mode, stop).await?;
        Ok((name, lock))
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
        self.make_folder(&fs).map_err(failed)?;
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
            Ok(()) | Err(_) => self.make_folder(&work).map_err(failed)?,
        }
        let (lowers, scratch) = if self.readonly {
            ([lowers, vec![fs]].concat(), None)
        } else {
            (lowers, Some((fs, work)))
        };
        Ok(Mount::Overlay { lowers, scratch, subpath, target })
    }

    fn make_folder(&self, path: &Path) -> std::io::Result<()> {
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {
                chown(path, Some(self.owner.0), Some(self.owner.1))?;
                std::fs::set_permissions(path, PermissionsExt::from_mode(self.mode))
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }
}
