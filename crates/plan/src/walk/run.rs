//! RUN: the process that a step starts, and what it sees.

use dcbuild_dockerfile::mount::FileAccess;
use dcbuild_dockerfile::{
    CacheMount, CommandForm, Heredoc, Mount, MountFlag, NetworkMode, RunInstruction, SecurityMode,
    SshMount, expand_word, expand_words,
};
use dcbuild_model::{Selection, SelectionForm};

use super::config::{shell_command, with_shell};
use super::{Stage, Walk, join};
use crate::op::{
    Bytes, CacheSharing, InlineFile, Input, MountKind, Op, RunNetwork, RunOp, RunSecurity,
    SecretMount,
};
use crate::plan::{HistoryLine, PlanError};
use crate::stage::Command;

const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];
const SCRIPTS: &str = "/dev/pipes/";

/// The mounts of a RUN and the trees that they read.
#[derive(Default)]
struct Mounts {
    kinds: Vec<MountKind>,
    inputs: Vec<Input>,
}

impl Walk<'_> {
    pub(super) fn run(
        &mut self,
        stage: &mut Stage,
        run: &RunInstruction,
        command: &Command,
    ) -> Result<(), PlanError> {
        for device in &run.devices {
            Self::device(stage, &device.to_string())?;
        }
        let (argv, scripts) = Self::argv(stage, run);
        if argv.is_empty() {
            return Err(PlanError::at(stage.at, "RUN needs arguments: its JSON array is empty"));
        }
        let network = self.network(stage, run.network)?;
        let security = self.security(stage, run.security)?;
        let cgroup_parent = Some(&self.draft.request.cgroup_parent).filter(|it| !it.is_empty());
        if cgroup_parent.is_some() {
            self.allowed(stage, "cgroup-parent")?;
        }
        let Some(mounts) = self.mounts(stage, run, command)? else { return Ok(()) };
        let label = self.title(stage, &command.instruction.source);
        let created_by = format!("RUN {} # buildkit", command_text(stage, &argv));
        let request = self.draft.request;
        let has_cache = mounts.kinds.iter().any(|kind| matches!(kind, MountKind::Cache { .. }));
        let empty_caches = stage.fresh && has_cache && !request.keep_cache_mounts;
        let hostname = match request.build_args.get("BUILDKIT_SANDBOX_HOSTNAME") {
            Some(name) if request.hostname.is_empty() => name.clone(),
            Some(_) | None => request.hostname.clone(),
        };
        let op = Op::Run(Box::new(RunOp {
            argv,
            env: stage.env.pairs().to_vec(),
            cwd: stage.cwd().to_owned(),
            user: stage.image.config.user.clone(),
            network,
            security,
            mounts: mounts.kinds,
            scripts,
            hosts: request.hosts.clone(),
            hostname,
            shm_bytes: request.shm_bytes,
            ulimits: request.ulimits.clone(),
            proxies: self.proxies(stage),
            cgroup_parent: cgroup_parent.cloned(),
            empty_caches,
            resources: request.resources.clone(),
        }));
        refuse_nul(stage, &op)?;
        let step = self.step(stage, label, op, mounts.inputs);
        stage.history.push(HistoryLine { created_by, step: Some(step) });
        Ok(())
    }

    /// The arguments, and the scripts that they name: a heredoc alone is the command, or the file if it has a `#!`.
    fn argv(stage: &Stage, run: &RunInstruction) -> (Vec<String>, Vec<InlineFile>) {
        let text = match &run.form {
            CommandForm::Exec(_) => return (with_shell(stage, &run.form), Vec::new()),
            CommandForm::Shell(text) => text,
        };
        let [first, ..] = &run.heredocs[..] else {
            return (with_shell(stage, &run.form), Vec::new());
        };
        if !is_heredoc_alone(text, run) {
            let mut script = text.clone();
            for heredoc in &run.heredocs {
                script.push('\n');
                script.push_str(&heredoc.content);
                script.push_str(&heredoc.name);
            }
            return (shell_command(stage, script), Vec::new());
        }
        let body = first.chomped();
        if !body.starts_with("#!") {
            return (shell_command(stage, body), Vec::new());
        }
        let file = InlineFile { name: first.name.clone(), content: Bytes(body.into_bytes()) };
        (shell_command(stage, format!("{SCRIPTS}{}", first.name)), vec![file])
    }

    /// A device that is not required may be absent, and with dcbuild always is.
    fn device(stage: &Stage, written: &str) -> Result<(), PlanError> {
        let (mut name, mut required) = (None, false);
        for field in written.split(',') {
            match field.split_once('=') {
                Some(("required", "true" | "1")) => required = true,
                Some(("required", "false" | "0")) => required = false,
                None if field == "required" => required = true,
                Some(("name", value)) => name = Some(value),
                _ if name.is_none() => name = Some(field),
                _ => {
                    let message = format!("unexpected key '{field}' in '{written}'");
                    return Err(PlanError::at(stage.at, message));
                }
            }
        }
        let name = name.unwrap_or_default();
        if !required {
            return Ok(());
        }
        Err(PlanError::Instruction {
            message: format!("required device \"{name}\" is not registered"),
            lines: stage.at,
            hint: Some("no worker offers devices to builds: leave `required` out where the command does without, or use it when the image runs".into()),
        })
    }

    fn network(&self, stage: &Stage, mode: NetworkMode) -> Result<RunNetwork, PlanError> {
        let network = match mode {
            NetworkMode::Default => self.draft.request.network,
            NetworkMode::None => RunNetwork::None,
            NetworkMode::Host => RunNetwork::Host,
        };
        if network == RunNetwork::Host {
            self.allowed(stage, "network.host")?;
        }
        Ok(network)
    }

    fn security(&self, stage: &Stage, mode: SecurityMode) -> Result<RunSecurity, PlanError> {
        match mode {
            SecurityMode::Sandbox => Ok(RunSecurity::Sandbox),
            SecurityMode::Insecure => {
                self.allowed(stage, "security.insecure").map(|()| RunSecurity::Insecure)
            }
        }
    }

    fn allowed(&self, stage: &Stage, what: &str) -> Result<(), PlanError> {
        if self.draft.request.allow.contains(what) {
            return Ok(());
        }
        Err(PlanError::Instruction {
            message: format!("{what} is not allowed"),
            lines: stage.at,
            hint: Some(format!("grant it with --allow {what}, if you trust this Dockerfile")),
        })
    }

    /// Proxies that are given but not declared by an ARG: the process sees them, its key does not.
    fn proxies(&self, stage: &Stage) -> Vec<(String, String)> {
        let request = self.draft.request;
        let mut proxies = Vec::new();
        for name in PROXIES {
            let given = |(known, value): (&String, &String)| {
                known.eq_ignore_ascii_case(name).then(|| value.clone())
            };
            let value = request
                .build_args
                .iter()
                .find_map(given)
                .or_else(|| request.proxies.iter().find_map(given));
            let Some(value) = value else { continue };
            for name in [name.to_uppercase(), name.to_owned()] {
                if stage.env.get(&name).is_none() {
                    proxies.push((name, value.clone()));
                }
            }
        }
        proxies
    }

    /// The mounts; none if the digest of a context is not known yet.
    fn mounts(
        &mut self,
        stage: &Stage,
        run: &RunInstruction,
        command: &Command,
    ) -> Result<Option<Mounts>, PlanError> {
        let mut mounts = Mounts::default();
        let mut complete = true;
        for (flag, from) in run.mounts.iter().zip(&command.reads) {
            complete &= self.mount(stage, &mut mounts, flag, *from)?;
        }
        Ok(complete.then_some(mounts))
    }

    fn mount(
        &mut self,
        stage: &Stage,
        mounts: &mut Mounts,
        flag: &MountFlag,
        from: Option<usize>,
    ) -> Result<bool, PlanError> {
        let lookup = |name: &str| stage.env.get(name).map(str::to_owned);
        let escape = self.draft.dockerfile.escape();
        let resolved = flag.resolve(&mut |word| expand_word(word, &lookup, escape));
        let mount = resolved.map_err(|error| PlanError::at(stage.at, error.to_string()))?;
        let from = From { stage: from, name: flag.from.as_deref().unwrap_or("") };
        let kind = match mount {
            Mount::Bind(bind) => {
                let target = mount_target(stage, &bind.target)?;
                let source = join("/", &bind.source);
                let Some(input) = self.mount_input(stage, mounts, &from, &source)? else {
                    return Ok(false);
                };
                MountKind::Bind { input, source, writable: !bind.read_only, target }
            }
            Mount::Cache(cache) => match self.cache_mount(stage, mounts, &from, cache)? {
                Some(kind) => kind,
                None => return Ok(false),
            },
            Mount::Tmpfs(tmpfs) => {
                let target = mount_target(stage, &tmpfs.target)?;
                let (size, readonly) = (tmpfs.size_bytes.unwrap_or(0), tmpfs.read_only);
                MountKind::Tmpfs { size, readonly, target }
            }
            Mount::Secret(secret) => {
                let (mode, uid, gid) = owned(secret.access, 0o400);
                let target = secret.target.map(|target| join(stage.cwd(), &target));
                let (id, env, required) = (secret.id, secret.env, secret.required);
                MountKind::Secret(SecretMount { id, target, env, required, mode, uid, gid })
            }
            Mount::Ssh(ssh) => ssh_mount(stage, mounts, ssh),
        };
        mounts.kinds.push(kind);
        Ok(true)
    }

    fn cache_mount(
        &mut self,
        stage: &Stage,
        mounts: &mut Mounts,
        from: &From<'_>,
        cache: CacheMount,
    ) -> Result<Option<MountKind>, PlanError> {
        let (target, source) = (mount_target(stage, &cache.target)?, join("/", &cache.source));
        let input = match from.stage {
            None => None,
            Some(_) => match self.mount_input(stage, mounts, from, &source)? {
                Some(input) => Some(input),
                None => return Ok(None),
            },
        };
        let id = self.cache_id(cache.id.unwrap_or_else(|| default_id(&cache.target)));
        let (mode, uid, gid) = owned(cache.access, 0o755);
        let sharing = match cache.sharing {
            dcbuild_dockerfile::CacheSharing::Shared => CacheSharing::Shared,
            dcbuild_dockerfile::CacheSharing::Private => CacheSharing::Private,
            dcbuild_dockerfile::CacheSharing::Locked => CacheSharing::Locked,
        };
        let readonly = cache.read_only;
        Ok(Some(MountKind::Cache { id, sharing, input, source, readonly, mode, uid, gid, target }))
    }

    /// A cache's id within the namespace that the build names, if it does.
    fn cache_id(&self, id: String) -> String {
        match self.draft.request.build_args.get("BUILDKIT_CACHE_MOUNT_NS") {
            Some(namespace) if !namespace.is_empty() => format!("{namespace}/{id}"),
            Some(_) | None => id,
        }
    }

    fn mount_input(
        &mut self,
        stage: &Stage,
        mounts: &mut Mounts,
        from: &From<'_>,
        source: &str,
    ) -> Result<Option<usize>, PlanError> {
        let selection = Selection {
            form: SelectionForm::Mount,
            sources: vec![source.to_owned()],
            exclude: Vec::new(),
            parents: false,
        };
        let input = match from.stage {
            Some(other) => self.stage_input(stage, other, from.name, selection)?,
            None => match self.context_input(stage, "context", selection)? {
                Some(input) => input,
                None => return Ok(None),
            },
        };
        mounts.inputs.push(input);
        Ok(Some(mounts.inputs.len() - 1))
    }
}

/// No process can be given a NUL byte; where it stands is only known here.
fn refuse_nul(stage: &Stage, op: &Op) -> Result<(), PlanError> {
    let Op::Run(run) = op else { return Ok(()) };
    let what = if run.argv.iter().any(|text| text.contains('\0')) {
        "the command of this RUN".to_owned()
    } else if let Some((name, _)) = run.env.iter().find(|(_, value)| value.contains('\0')) {
        format!("the variable {name}, which this RUN sees,")
    } else {
        return Ok(());
    };
    Err(PlanError::Instruction {
        message: format!("{what} holds a NUL byte, which no process can be given"),
        lines: stage.at,
        hint: Some(
            "`tr -d '\\0' < Dockerfile` leaves them out; a file in UTF-16 is full of them".into(),
        ),
    })
}

/// Whence a mount reads: a stage with its name as written, or the context.
struct From<'a> {
    stage: Option<usize>,
    name: &'a str,
}

fn ssh_mount(stage: &Stage, mounts: &Mounts, ssh: SshMount) -> MountKind {
    let number = mounts.kinds.iter().filter(|kind| matches!(kind, MountKind::Ssh { .. })).count();
    let target = ssh.target.unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{number}"));
    let (mode, uid, gid) = owned(ssh.access, 0o600);
    let id = ssh.id.unwrap_or_else(|| "default".into());
    let target = join(stage.cwd(), &target);
    MountKind::Ssh { id, target, required: ssh.required, mode, uid, gid }
}

/// The id of a cache that names none: its target as it is written, in whatever folder the RUN works.
fn default_id(target: &str) -> String {
    let full = join("/", target);
    if target.starts_with('/') {
        return full;
    }
    match full.strip_prefix('/') {
        Some("") | None => ".".to_owned(),
        Some(relative) => relative.to_owned(),
    }
}

/// Where a mount goes; without a target it covers the folder in which the RUN works.
fn mount_target(stage: &Stage, target: &str) -> Result<String, PlanError> {
    let full = join(stage.cwd(), target);
    if full == "/" {
        return Err(PlanError::at(stage.at, "invalid mount target \"/\""));
    }
    Ok(full)
}

fn owned(access: FileAccess, mode: u32) -> (u32, u32, u32) {
    (access.mode.unwrap_or(mode), access.uid.unwrap_or(0), access.gid.unwrap_or(0))
}

/// Whether the whole command is the opening of one heredoc.
fn is_heredoc_alone(text: &str, run: &RunInstruction) -> bool {
    let [Heredoc { .. }] = &run.heredocs[..] else { return false };
    let marker = text.trim_start_matches(|char: char| char.is_ascii_digit());
    let Some(rest) = marker.strip_prefix("<<") else { return false };
    let rest = rest.strip_prefix('-').unwrap_or(rest).trim_start();
    let words = expand_words(rest, &|_| None, dcbuild_dockerfile::Escape::Backslash);
    words.is_ok_and(|words| words.len() == 1)
}

/// The command as a history shows it: the declared ARGs in front.
fn command_text(stage: &Stage, argv: &[String]) -> String {
    let mut declared: Vec<(String, String)> = Vec::new();
    for (name, value) in &stage.args {
        let value =
            stage.env.get(name).map_or_else(|| value.clone().unwrap_or_default(), str::to_owned);
        match declared.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => declared.push((name.clone(), value)),
        }
    }
    let mut words = Vec::new();
    if !declared.is_empty() {
        words.push(format!("|{}", declared.len()));
        words.extend(declared.into_iter().map(|(name, value)| format!("{name}={value}")));
    }
    words.extend(argv.iter().cloned());
    words.join(" ")
}
