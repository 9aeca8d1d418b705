//! The steps of a plan in the words of BuildKit's LLB, which readers of provenance know.

use std::collections::BTreeMap;

use base64::Engine as _;
use dcbuild_attest::Step as Told;
use dcbuild_model::{Added, Platform, StepIndex};
use dcbuild_plan::{
    CopyOp, CopySource, ImageSource, Input, InputSource, MountKind, Op, Plan, RunNetwork, RunOp,
    RunSecurity, Step,
};
use serde_json::{Map, Value, json};

/// LLB's numbers.
const NET_HOST: u8 = 1;
const NET_NONE: u8 = 2;
const SECURITY_INSECURE: u8 = 1;
const MOUNT_SECRET: u8 = 1;
const MOUNT_SSH: u8 = 2;
const MOUNT_CACHE: u8 = 3;
const MOUNT_TMPFS: u8 = 4;
/// The input of a mount that reads nothing.
const NOTHING: i8 = -1;

/// The steps that a state was made by, each behind those that it reads; the last one says what the image is.
pub(super) fn of(plan: &Plan, state: Option<StepIndex>) -> Vec<Told> {
    let mut teller = Teller { told: Vec::new(), steps: BTreeMap::new(), sources: BTreeMap::new() };
    for at in plan.needed(state) {
        teller.step(at, plan.step(at));
    }
    let inputs = state.and_then(|state| teller.steps.get(&state).copied()).into_iter().collect();
    teller.told.push(Told { op: json!({ "Op": {} }), inputs, lines: None, key: None });
    teller.told
}

struct Teller<'a> {
    told: Vec<Told>,
    /// Where the plan's steps stand among those that are told.
    steps: BTreeMap<StepIndex, usize>,
    /// Where contexts stand.
    sources: BTreeMap<&'a str, usize>,
}

impl<'a> Teller<'a> {
    fn step(&mut self, at: StepIndex, step: &'a Step) {
        let parent = step.parent.and_then(|parent| self.steps.get(&parent).copied());
        let mut inputs: Vec<usize> = parent.into_iter().collect();
        // The places of what is read besides, among the inputs.
        let places: Vec<Option<usize>> = step
            .inputs
            .iter()
            .map(|input| {
                let source = self.input(input)?;
                inputs.push(source);
                Some(inputs.len() - 1)
            })
            .collect();
        let below = if parent.is_some() { json!(0) } else { json!(NOTHING) };
        let op = match &step.op {
            Op::Image(image) => source(&match &image.source {
                ImageSource::Registry { .. } | ImageSource::Store {} => {
                    format!("docker-image://{}", image.name)
                }
                ImageSource::Layout { .. } => format!("oci-layout://{}", image.name),
            }),
            Op::Run(run) => json!({ "exec": exec(run, &below, &places) }),
            Op::Copy(copy) => json!({
                "file": { "actions": copies(copy, &below, (&places, inputs.len())) },
            }),
            Op::Workdir(folder) => {
                let mkdir = json!({ "path": folder.path, "mode": 0o755, "makeParents": true });
                let action = json!({ "mkdir": mkdir });
                json!({ "file": { "actions": [{ "input": below, "output": 0, "Action": action }] } })
            }
        };
        let op = json!({ "Op": op, "platform": platform(&step.platform), "constraints": {} });
        let key = Some(step.recipe.0.to_string());
        self.steps.insert(at, self.told.len());
        self.told.push(Told { op, inputs, lines: Some(step.lines), key });
    }

    /// Where something that a step reads stands among the steps; nothing where it is empty.
    fn input(&mut self, input: &'a Input) -> Option<usize> {
        match &input.source {
            InputSource::Step { step } => self.steps.get(step).copied(),
            InputSource::Scratch {} => None,
            InputSource::Context { name, .. } => {
                if let Some(known) = self.sources.get(name.as_str()) {
                    return Some(*known);
                }
                let address = match Added::of_context(name) {
                    Some(added) => added.remote.to_string(),
                    None => format!("local://{name}"),
                };
                let op = json!({ "Op": source(&address), "constraints": {} });
                self.told.push(Told { op, inputs: Vec::new(), lines: None, key: None });
                self.sources.insert(name, self.told.len() - 1);
                Some(self.told.len() - 1)
            }
        }
    }
}

fn source(identifier: &str) -> Value {
    json!({ "source": { "identifier": identifier } })
}

fn platform(platform: &Platform) -> Value {
    let mut fields = Map::new();
    fields.insert("Architecture".into(), json!(platform.arch));
    fields.insert("OS".into(), json!(platform.os));
    if !platform.variant.is_empty() {
        fields.insert("Variant".into(), json!(platform.variant));
    }
    Value::Object(fields)
}

fn exec(run: &RunOp, below: &Value, places: &[Option<usize>]) -> Value {
    let env = run.env.iter().map(|(name, value)| format!("{name}={value}"));
    let mut meta = Map::new();
    meta.insert("args".into(), json!(run.argv));
    meta.insert("env".into(), json!(env.collect::<Vec<_>>()));
    meta.insert("cwd".into(), json!(run.cwd));
    if !run.user.is_empty() {
        meta.insert("user".into(), json!(run.user));
    }
    let of_input = |input: usize| match places.get(input).copied().flatten() {
        Some(place) => json!(place),
        None => json!(NOTHING),
    };
    let mut mounts = vec![json!({ "input": below, "dest": "/", "output": 0 })];
    let mut variables = Vec::new();
    for mount in &run.mounts {
        match mount {
            MountKind::Secret(secret) => {
                let id = json!({ "ID": secret.id, "optional": !secret.required });
                if let Some(target) = &secret.target {
                    let mount = json!({
                        "input": NOTHING, "dest": target, "output": NOTHING,
                        "mountType": MOUNT_SECRET, "secretOpt": id,
                    });
                    mounts.push(mount);
                }
                if let Some(name) = &secret.env {
                    variables.push(json!({
                        "ID": secret.id, "name": name, "optional": !secret.required,
                    }));
                }
            }
            other => mounts.push(mounted(other, &of_input)),
        }
    }
    let mut exec = Map::new();
    exec.insert("meta".into(), Value::Object(meta));
    exec.insert("mounts".into(), json!(mounts));
    match run.network {
        RunNetwork::Default => {}
        RunNetwork::Host => drop(exec.insert("network".into(), json!(NET_HOST))),
        RunNetwork::None => drop(exec.insert("network".into(), json!(NET_NONE))),
    }
    if run.security == RunSecurity::Insecure {
        exec.insert("security".into(), json!(SECURITY_INSECURE));
    }
    if !variables.is_empty() {
        exec.insert("secretenv".into(), json!(variables));
    }
    Value::Object(exec)
}

fn mounted(mount: &MountKind, of_input: &dyn Fn(usize) -> Value) -> Value {
    match mount {
        MountKind::Bind { input, source, writable, target } => json!({
            "input": of_input(*input), "selector": source, "dest": target, "output": NOTHING,
            "readonly": !writable,
        }),
        MountKind::Cache { id, input, source, target, .. } => json!({
            "input": input.map_or_else(|| json!(NOTHING), of_input), "selector": source,
            "dest": target, "output": NOTHING, "mountType": MOUNT_CACHE, "cacheOpt": { "ID": id },
        }),
        MountKind::Tmpfs { size, readonly, target } => {
            let mut mount = json!({
                "input": NOTHING, "dest": target, "output": NOTHING, "mountType": MOUNT_TMPFS,
                "TmpfsOpt": { "size": size },
            });
            if *readonly && let Some(mount) = mount.as_object_mut() {
                mount.insert("readonly".into(), json!(true));
            }
            mount
        }
        MountKind::Ssh { id, target, required, .. } => json!({
            "input": NOTHING, "dest": target, "output": NOTHING, "mountType": MOUNT_SSH,
            "SSHOpt": { "ID": id, "optional": !required },
        }),
        MountKind::Secret(_) => Value::Null,
    }
}

/// The actions of a COPY, each upon what the one before it made; what they make is counted behind the inputs.
fn copies(copy: &CopyOp, below: &Value, (places, inputs): (&[Option<usize>], usize)) -> Vec<Value> {
    let mut actions = Vec::new();
    for from in &copy.sources {
        let (second, action) = match from {
            CopySource::Paths { input, patterns, unpack } => {
                let place = places.get(*input).copied().flatten();
                let mut copied = Map::new();
                copied.insert("src".into(), json!(patterns));
                copied.insert("dest".into(), json!(copy.dest));
                copied.insert("createDestPath".into(), json!(true));
                let asked = [("owner", &copy.chown), ("modeStr", &copy.chmod)];
                for (field, value) in asked {
                    copied.extend(value.as_ref().map(|value| (field.into(), json!(value))));
                }
                if !copy.exclude.is_empty() {
                    copied.insert("exclude_patterns".into(), json!(copy.exclude));
                }
                if *unpack {
                    copied.insert("attemptUnpackDockerCompatibility".into(), json!(true));
                }
                (
                    place.map_or_else(|| json!(NOTHING), |place| json!(place)),
                    json!({ "copy": copied }),
                )
            }
            CopySource::Inline(file) => {
                let data = base64::engine::general_purpose::STANDARD.encode(&file.content.0);
                let written = json!({ "path": copy.dest, "name": file.name, "data": data });
                (json!(NOTHING), json!({ "mkfile": written }))
            }
        };
        let input = match actions.len() {
            0 => below.clone(),
            before => json!(inputs + before - 1),
        };
        let output =
            if actions.len() + 1 == copy.sources.len() { json!(0) } else { json!(NOTHING) };
        actions.push(json!({
            "input": input, "secondaryInput": second, "output": output, "Action": action,
        }));
    }
    actions
}
