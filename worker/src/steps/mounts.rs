//! The mounts of a RUN: inputs, caches, secrets, ssh agents, scripts.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use dcbuild_plan::op::{InlineFile, MountKind, RunOp, SecretMount};
use dcbuild_sandbox::{Mount, SecretBytes};
use dcbuild_snapshot::Lowers;
use dcbuild_store::KeyLock;
use tokio_util::sync::DropGuard;

use super::agent::{self, AgentMount};
use super::cache::{Begins, Cache};
use crate::attempt::{Attempt, Task};
use crate::error::{Failed, blocking};
use crate::part::{self, Shown};
use crate::portable::Portable;

/// What a RUN's cell is given, and what must be held while it runs.
#[derive(Default)]
pub(crate) struct Mounts {
    pub(crate) all: Vec<Mount>,
    /// Variables that hold secrets.
    pub(crate) env: Vec<(String, String)>,
    lowers: Vec<Lowers>,
    locks: Vec<KeyLock>,
    folders: Vec<tempfile::TempDir>,
    /// Caches that are to be written back.
    pub(crate) write_back: Vec<Portable>,
    /// Their sockets are closed with the step.
    agents: Vec<DropGuard>,
}

/// Makes all mounts ready.
pub(crate) async fn prepare(
    attempt: &Arc<Attempt>,
    task: &Arc<Task>,
    op: &RunOp,
) -> Result<Mounts, Failed> {
    let mut mounts = Mounts::default();
    mounts.env.extend(agent_variable(op));
    let mut caches = mounts.caches(attempt, task, op).await?.into_iter();
    for mount in &op.mounts {
        match mount {
            MountKind::Bind { input, source, writable, target } => {
                let shown = show(attempt, task, *input, source).await?;
                let scratch = if *writable {
                    let mode = root_mode(&task.inputs.get(*input)?.tree);
                    let scratch = mounts.scratch(attempt, mode);
                    Some(scratch.map_err(|error| Failed::sandbox(&error))?)
                } else {
                    None
                };
                let (lowers, subpath, target) =
                    (shown.paths(), shown.subpath.clone(), target.clone());
                mounts.all.push(Mount::Overlay { lowers, scratch, subpath, target });
                mounts.lowers.push(shown.lowers);
            }
            MountKind::Cache { .. } => mounts.all.extend(caches.next()),
            MountKind::Tmpfs { size, readonly, target } => {
                let bytes_max = (*size > 0).then_some(*size);
                let (target, readonly) = (target.clone(), *readonly);
                mounts.all.push(Mount::Tmpfs { target, bytes_max, readonly });
            }
            MountKind::Secret(secret) => mounts.secret(attempt, secret)?,
            MountKind::Ssh { id, required, target, mode, uid, gid } => {
                let agent = AgentMount {
                    id,
                    required: *required,
                    target,
                    mode: *mode,
                    owner: (*uid, *gid),
                };
                mounts.agent(attempt, task, &agent)?;
            }
        }
    }
    mounts.scripts(attempt, &op.scripts).map_err(|error| Failed::sandbox(&error))?;
    Ok(mounts)
}

/// The cache that a mount asks for, if it is one.
fn asked<'a>(op: &RunOp, mount: &'a MountKind) -> Option<Cache<'a>> {
    let MountKind::Cache { id, sharing, input, source, readonly, mode, uid, gid, target } = mount
    else {
        return None;
    };
    Some(Cache {
        id,
        sharing: *sharing,
        input: *input,
        source,
        readonly: *readonly,
        mode: *mode,
        owner: (*uid, *gid),
        target,
        begins: if op.empty_caches { Begins::Empty } else { Begins::AsItWasLeft },
    })
}

/// What tells programs of the first agent's socket, unless the Dockerfile tells them of another. Without an agent it names
/// a socket that is not there, as docker has it.
fn agent_variable(op: &RunOp) -> Option<(String, String)> {
    const NAME: &str = "SSH_AUTH_SOCK";
    let target = |mount: &MountKind| match mount {
        MountKind::Ssh { target, .. } => Some(target.clone()),
        _ => None,
    };
    let is_set = op.env.iter().any(|(name, _)| name == NAME);
    let first = op.mounts.iter().find_map(target).filter(|_| !is_set)?;
    Some((NAME.to_owned(), first))
}

impl Mounts {
    fn scratch(&mut self, attempt: &Attempt, mode: u32) -> std::io::Result<(PathBuf, PathBuf)> {
        let folder = tempfile::tempdir_in(attempt.shared.tmp())?;
        let (upper, work) = (folder.path().join("upper"), folder.path().join("work"));
        std::fs::create_dir(&upper)?;
        std::fs::create_dir(&work)?;
        std::fs::set_permissions(&upper, PermissionsExt::from_mode(mode))?;
        self.folders.push(folder);
        Ok((upper, work))
    }

    /// Scripts stand under `/dev/pipes` as files that can be run and not be written.
    fn scripts(&mut self, attempt: &Attempt, scripts: &[InlineFile]) -> std::io::Result<()> {
        if scripts.is_empty() {
            return Ok(());
        }
        let folder = tempfile::tempdir_in(attempt.shared.tmp())?;
        for (number, script) in scripts.iter().enumerate() {
            let source = folder.path().join(number.to_string());
            std::fs::write(&source, &script.content.0)?;
            std::fs::set_permissions(&source, PermissionsExt::from_mode(0o755))?;
            let target = format!("/dev/pipes/{}", script.name);
            self.all.push(Mount::Bind { source, subpath: String::new(), target, readonly: true });
        }
        self.folders.push(folder);
        Ok(())
    }

    /// Takes each cache of a RUN, once however many mounts show it, and makes its mounts. All RUNs take them in the order
    /// of their names, so that no two ever wait for each other.
    async fn caches(
        &mut self,
        attempt: &Arc<Attempt>,
        task: &Arc<Task>,
        op: &RunOp,
    ) -> Result<Vec<Mount>, Failed> {
        let mut asked = Vec::new();
        for cache in op.mounts.iter().filter_map(|mount| self::asked(op, mount)) {
            asked.push((cache.first_name(attempt, &task.inputs)?, cache));
        }
        let mut wanted: BTreeMap<&str, Cache<'_>> = BTreeMap::new();
        for (name, cache) in &asked {
            wanted.entry(name).and_modify(|first| first.join(cache)).or_insert(*cache);
        }
        let mut folders = BTreeMap::new();
        for (name, cache) in wanted {
            let taken = cache.take(attempt, &task.inputs, &task.progress).await?;
            folders.insert(name, taken.name);
            self.locks.push(taken.lock);
            self.write_back.extend(taken.portable.filter(|_| !cache.readonly));
        }
        let mut mounts = Vec::new();
        for (name, cache) in &asked {
            let Some(folder) = folders.get(name.as_str()) else { continue };
            mounts.push(cache.mount(attempt, task, folder).await?);
        }
        Ok(mounts)
    }

    fn agent(
        &mut self,
        attempt: &Arc<Attempt>,
        task: &Task,
        mount: &AgentMount<'_>,
    ) -> Result<(), Failed> {
        if !attempt.agents.contains(mount.id) {
            return if mount.required { Err(mount.lacking()) } else { Ok(()) };
        }
        let folder = tempfile::tempdir_in(attempt.shared.tmp());
        let folder = folder.map_err(|error| Failed::sandbox(&error))?;
        let served = agent::serve(attempt, task.leased.index, mount, folder.path());
        let (source, guard) = served.map_err(|error| Failed::sandbox(&error))?;
        let target = mount.target.to_owned();
        self.all.push(Mount::Bind { source, subpath: String::new(), target, readonly: false });
        self.folders.push(folder);
        self.agents.push(guard);
        Ok(())
    }

    fn secret(&mut self, attempt: &Attempt, secret: &SecretMount) -> Result<(), Failed> {
        let SecretMount { id, target, env, required, mode, uid, gid } = secret;
        let Some(bytes) = attempt.secret(id)? else {
            if *required {
                let hint = format!("give it with --secret id={id}");
                return Err(
                    Failed::rejected(format!("secret {id}: not found")).with_hint(Some(hint))
                );
            }
            // Whoever asks for a variable gets one, empty if there is nothing to put into it.
            self.env.extend(env.iter().map(|name| (name.clone(), String::new())));
            return Ok(());
        };
        if let Some(name) = env {
            let value = String::from_utf8(bytes.clone()).map_err(|_| {
                Failed::rejected(format!(
                    "secret {id} is no text, and cannot be in variable {name}"
                ))
            })?;
            self.env.push((name.clone(), value));
        }
        let target = match (target, env) {
            (Some(target), _) => target.clone(),
            (None, Some(_)) => return Ok(()),
            (None, None) => format!("/run/secrets/{id}"),
        };
        let bytes = SecretBytes(bytes);
        self.all.push(Mount::Secret { target, bytes, mode: *mode, uid: *uid, gid: *gid });
        Ok(())
    }
}

fn root_mode(tree: &dcbuild_tree::Tree) -> u32 {
    tree.get(&dcbuild_model::TreePath::root()).map_or(0o755, |root| root.meta.mode)
}

async fn show(
    attempt: &Attempt,
    task: &Arc<Task>,
    input: usize,
    source: &str,
) -> Result<Shown, Failed> {
    let (layers, task, source) = (attempt.shared.layers.clone(), task.clone(), source.to_owned());
    blocking(move || part::show(&layers, task.inputs.get(input)?, &source)).await
}
