//! Step keys: a hash over all that an operation can see, and no more.
//!
//! Each operation is taken apart by a pattern without `..`, so that a new field does not compile until somebody has
//! decided whether it is part of the key.

use dcbuild_model::{
    Component, Digest, Encoder, Platform, Selection, SelectionDigest, SelectionForm, StateDigest,
    StepKey,
};

use crate::op::{
    CopyOp, CopySource, ImageLayer, ImageOp, InlineFile, Input, InputSource, MountKind, Op, RunOp,
    SecretMount, Ulimit, WorkdirOp,
};

/// The version of dcbuild's own semantics of an operation; raised when the same comes to mean something else.
fn semantics(op: &Op) -> u64 {
    match op {
        // Folders that a base's layers imply, owners in mounts of archives, and sockets of earlier RUNs are seen since.
        Op::Run(_) => 2,
        Op::Copy(_) | Op::Image(_) | Op::Workdir(_) => 1,
    }
}

/// The parent's state, in the form of the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parent {
    /// The step knows nothing of a parent (`--link`, an image), or there is none (`FROM scratch`).
    None,
    /// The name of the state by the steps that make it, see [`state_key`].
    Recipe(StepKey),
    /// What that step made.
    Outcome(StateDigest),
}

/// What a step sees of one input, in the form of the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// An empty tree.
    Nothing,
    /// The name of the state by the steps that make it, see [`state_key`].
    Recipe(StepKey),
    /// The content that the selection sees.
    Content(SelectionDigest),
}

/// Computes the key of an operation, in recipe or result form as parent and inputs are given, and its components.
pub fn step_key(
    op: &Op,
    platform: &Platform,
    parent: Parent,
    inputs: &[(&Input, Seen)],
) -> (StepKey, Vec<Component>) {
    let mut key = Key { encoder: Encoder::new("step/1"), components: Vec::new() };
    let semantics = semantics(op);
    key.part("semantics", semantics.to_string(), |encoder| encoder.number(semantics));
    key.part("platform", platform.to_string(), |encoder| platform_of(encoder, platform));
    key.part("parent", parent_text(parent), |encoder| parent_of(encoder, parent));
    for (place, (input, seen)) in inputs.iter().enumerate() {
        let Input { source, selection } = *input;
        let name = format!("input {place}: {}", input_text(source, selection));
        key.part(&name, seen_text(*seen), |encoder| {
            selection_of(encoder, selection);
            seen_of(encoder, *seen);
        });
    }
    match op {
        Op::Image(op) => key.image(op),
        Op::Run(op) => key.run(op),
        Op::Copy(op) => key.copy(op),
        Op::Workdir(op) => key.workdir(op),
    }
    (StepKey(key.encoder.finish()), key.components)
}

/// Names the state that a step leaves behind by all the steps that make it: for whoever stands upon it or reads it. The
/// key of a step that sees its parent covers what lies below, and is that name; the key of one that does not (`--link`)
/// names its layer only, so the state below is named beside it.
pub fn state_key(op: &Op, recipe: StepKey, below: Option<StepKey>) -> StepKey {
    match below {
        Some(below) if !sees_parent(op) => {
            let mut encoder = Encoder::new("linked-state/1");
            encoder.digest(&below.0);
            encoder.digest(&recipe.0);
            StepKey(encoder.finish())
        }
        Some(_) | None => recipe,
    }
}

/// Whether what a step makes depends on the state that it stands upon.
pub fn sees_parent(op: &Op) -> bool {
    match op {
        Op::Copy(copy) => !copy.link,
        Op::Image(_) => false,
        Op::Run(_) | Op::Workdir(_) => true,
    }
}

struct Key {
    encoder: Encoder,
    components: Vec<Component>,
}

impl Key {
    fn part(&mut self, name: &str, value: String, encode: impl FnOnce(&mut Encoder)) {
        self.encoder.text(name);
        encode(&mut self.encoder);
        self.components.push(Component { name: name.into(), value: short(value) });
    }

    fn text(&mut self, name: &str, value: &str) {
        self.part(name, value.into(), |encoder| encoder.text(value));
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.part(name, value.to_string(), |encoder| encoder.flag(value));
    }

    fn texts(&mut self, name: &str, values: &[String]) {
        self.part(name, format!("{values:?}"), |encoder| {
            encoder.list(values.iter(), |encoder, value| encoder.text(value));
        });
    }

    fn pairs(&mut self, name: &str, values: &[(String, String)]) {
        self.part(name, format!("{values:?}"), |encoder| {
            encoder.list(values.iter(), |encoder, (left, right)| {
                encoder.text(left);
                encoder.text(right);
            });
        });
    }

    fn image(&mut self, op: &ImageOp) {
        // The blobs and what they claim to hold are the image; where they are fetched from, and by which name, is not.
        let ImageOp { name: _, manifest: _, config: _, layers, source: _ } = op;
        self.text("operation", "image");
        self.part("layers", format!("{} layers", layers.len()), |encoder| {
            encoder.list(layers.iter(), |encoder, layer| {
                let ImageLayer { digest, diff_id, size: _, media_type: _ } = layer;
                encoder.digest(&digest.0);
                encoder.digest(&diff_id.0);
            });
        });
    }

    fn run(&mut self, op: &RunOp) {
        // Proxies that no ARG declares are left out, as the Dockerfile reference promises ("Predefined ARGs"), and so are
        // limits of memory and processors, which is what a control group has.
        let RunOp { argv, env, cwd, user, network, security, mounts, scripts, .. } = op;
        let RunOp { hosts, hostname, shm_bytes, ulimits, proxies: _, cgroup_parent: _, .. } = op;
        let RunOp { empty_caches: _, resources: _, .. } = op;
        self.text("operation", "run");
        self.texts("command", argv);
        for (name, value) in env {
            self.text(&format!("env {name}"), value);
        }
        self.text("folder", cwd);
        self.text("user", user);
        self.text("network", &format!("{network:?}"));
        self.text("security", &format!("{security:?}"));
        for mount in mounts {
            self.part(&format!("mount {}", mount_target(mount)), format!("{mount:?}"), |encoder| {
                mount_of(encoder, mount);
            });
        }
        for script in scripts {
            self.inline("script", script);
        }
        self.pairs("hosts", hosts);
        self.text("hostname", hostname);
        self.part("shm size", shm_bytes.to_string(), |encoder| encoder.number(*shm_bytes));
        self.part("ulimits", format!("{ulimits:?}"), |encoder| {
            encoder.list(ulimits.iter(), |encoder, Ulimit { name, soft, hard }| {
                encoder.text(name);
                encoder.text(&soft.to_string());
                encoder.text(&hard.to_string());
            });
        });
    }

    fn copy(&mut self, op: &CopyOp) {
        let CopyOp { sources, dest, chown, chmod, exclude, parents, link, keep_owners } = op;
        self.text("operation", "copy");
        for source in sources {
            match source {
                CopySource::Paths { input, patterns, unpack } => {
                    self.texts(&format!("sources of input {input}"), patterns);
                    self.flag(&format!("unpack input {input}"), *unpack);
                }
                CopySource::Inline(file) => self.inline("inline", file),
            }
        }
        self.text("destination", dest);
        self.part("chown", format!("{chown:?}"), |encoder| {
            encoder.option(chown.as_ref(), |e, chown| e.text(chown));
        });
        self.part("chmod", format!("{chmod:?}"), |encoder| {
            encoder.option(chmod.as_ref(), |e, chmod| e.text(chmod));
        });
        self.texts("exclude", exclude);
        self.flag("parents", *parents);
        self.flag("link", *link);
        self.flag("keep owners", *keep_owners);
    }

    fn workdir(&mut self, op: &WorkdirOp) {
        let WorkdirOp { path, user } = op;
        self.text("operation", "workdir");
        self.text("path", path);
        self.text("user", user);
    }

    fn inline(&mut self, what: &str, file: &InlineFile) {
        let InlineFile { name, content } = file;
        self.part(&format!("{what} {name}"), Digest::of(&content.0).to_string(), |encoder| {
            encoder.text(name);
            encoder.bytes(&content.0);
        });
    }
}

fn short(value: String) -> String {
    if value.len() <= 200 { value } else { Digest::of(value.as_bytes()).to_string() }
}

fn platform_of(encoder: &mut Encoder, platform: &Platform) {
    let Platform { os, arch, variant } = platform;
    encoder.text(os);
    encoder.text(arch);
    encoder.text(variant);
}

fn parent_of(encoder: &mut Encoder, parent: Parent) {
    match parent {
        Parent::None => encoder.variant("none"),
        Parent::Recipe(key) => {
            encoder.variant("recipe");
            encoder.digest(&key.0);
        }
        Parent::Outcome(state) => {
            encoder.variant("outcome");
            encoder.digest(&state.0);
        }
    }
}

fn parent_text(parent: Parent) -> String {
    match parent {
        Parent::None => "none".into(),
        Parent::Recipe(key) => format!("recipe {key}"),
        Parent::Outcome(state) => format!("state {state}"),
    }
}

fn seen_of(encoder: &mut Encoder, seen: Seen) {
    match seen {
        Seen::Nothing => encoder.variant("nothing"),
        Seen::Recipe(key) => {
            encoder.variant("recipe");
            encoder.digest(&key.0);
        }
        Seen::Content(content) => {
            encoder.variant("content");
            encoder.digest(&content.0);
        }
    }
}

fn seen_text(seen: Seen) -> String {
    match seen {
        Seen::Nothing => "nothing".into(),
        Seen::Recipe(key) => format!("recipe {key}"),
        Seen::Content(content) => format!("content {content}"),
    }
}

fn selection_of(encoder: &mut Encoder, selection: &Selection) {
    let Selection { form, sources, exclude, parents } = selection;
    encoder.variant(match form {
        SelectionForm::Copy => "copy",
        SelectionForm::Mount => "mount",
    });
    encoder.list(sources.iter(), |encoder, source| encoder.text(source));
    encoder.list(exclude.iter(), |encoder, pattern| encoder.text(pattern));
    encoder.flag(*parents);
}

fn input_text(source: &InputSource, selection: &Selection) -> String {
    let what = selection.sources.join(" ");
    match source {
        // A step's place in the plan is no part of what it means: the same stage may stand elsewhere tomorrow.
        InputSource::Step { step: _ } => format!("stage {what}"),
        InputSource::Scratch {} => format!("scratch {what}"),
        InputSource::Context { name: _, digest: _ } => format!("context {what}"),
    }
}

fn mount_target(mount: &MountKind) -> &str {
    match mount {
        MountKind::Bind { target, .. }
        | MountKind::Cache { target, .. }
        | MountKind::Tmpfs { target, .. }
        | MountKind::Ssh { target, .. } => target,
        MountKind::Secret(secret) => {
            secret.target.as_deref().or(secret.env.as_deref()).unwrap_or(&secret.id)
        }
    }
}

fn mount_of(encoder: &mut Encoder, mount: &MountKind) {
    match mount {
        MountKind::Bind { input, source, writable, target } => {
            encoder.variant("bind");
            encoder.number(number(*input));
            encoder.text(source);
            encoder.flag(*writable);
            encoder.text(target);
        }
        MountKind::Cache { id, sharing, input, source, readonly, mode, uid, gid, target } => {
            encoder.variant("cache");
            encoder.text(id);
            encoder.text(&format!("{sharing:?}"));
            encoder.option(*input, |encoder, input| encoder.number(number(input)));
            encoder.text(source);
            encoder.flag(*readonly);
            owned(encoder, *mode, *uid, *gid);
            encoder.text(target);
        }
        MountKind::Tmpfs { size, readonly, target } => {
            encoder.variant(if *readonly { "tmpfs read-only" } else { "tmpfs" });
            encoder.number(*size);
            encoder.text(target);
        }
        MountKind::Secret(SecretMount { id, target, env, required, mode, uid, gid }) => {
            encoder.variant("secret");
            encoder.text(id);
            encoder.option(target.as_ref(), |encoder, target| encoder.text(target));
            encoder.option(env.as_ref(), |encoder, env| encoder.text(env));
            encoder.flag(*required);
            owned(encoder, *mode, *uid, *gid);
        }
        MountKind::Ssh { id, target, required, mode, uid, gid } => {
            encoder.variant("ssh");
            encoder.text(id);
            encoder.text(target);
            encoder.flag(*required);
            owned(encoder, *mode, *uid, *gid);
        }
    }
}

fn owned(encoder: &mut Encoder, mode: u32, uid: u32, gid: u32) {
    encoder.number(mode.into());
    encoder.number(uid.into());
    encoder.number(gid.into());
}

fn number(place: usize) -> u64 {
    u64::try_from(place).unwrap_or(u64::MAX)
}
