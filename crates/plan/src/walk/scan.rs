//! Listing what an image holds: one more step behind the target, which runs a scanner by BuildKit's protocol.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_model::{Platform, Selection, SelectionForm, StepIndex};
use dcbuild_oci::{ImageConfig, ImageRef};

use super::{DEFAULT_PATH, Stage, Walk, join};
use crate::env::Env;
use crate::op::{
    HOST_GATEWAY, Input, InputSource, MountKind, Op, RunNetwork, RunOp, RunSecurity, WorkdirOp,
};
use crate::plan::{BaseImage, PlanError};
use crate::policy::{Judged, Known};
use crate::request::{ContextSource, Scan};
use crate::sources::{Need, ResolvedImage, Unresolved};
use crate::stage::{Base, Ground};

/// ARGs that say what is scanned besides the target, and are nothing else.
pub(super) const SWITCHES: [&str; 2] = [SCAN_STAGE, SCAN_CONTEXT];
const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";
const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";

/// Where the scanner finds the trees, and where it writes.
const CORE: &str = "/run/src/core/sbom";
const EXTRAS: &str = "/run/src/extras/";
const OUT: &str = "/run/out";

/// The trees that a scanner reads.
struct Scanned {
    inputs: Vec<Input>,
    mounts: Vec<MountKind>,
}

impl Walk<'_> {
    /// The step that scans the target, and with it what asks to be scanned; none where no list is wanted.
    pub(super) fn scan(&mut self, target: usize) -> Result<Option<StepIndex>, PlanError> {
        let Some(scan) = &self.draft.request.scan else { return Ok(None) };
        let Some((name, image)) = self.scanner(scan)? else { return Ok(None) };
        let mut argv = image.config.config.entrypoint.clone();
        argv.extend(image.config.config.cmd.iter().cloned());
        if argv.is_empty() {
            let message = format!("the scanner {} has no command", scan.generator);
            let hint = "name an image with an ENTRYPOINT or CMD that scans: --sbom=generator=IMAGE";
            return Err(PlanError::Request { message, hint: Some(hint.into()) });
        }
        let Some(Scanned { inputs, mounts }) = self.scanned(target)? else { return Ok(None) };
        let env = environment(&image.config, scan, inputs.len() > 1);
        let mut stage = self.scan_stage(target);
        let cwd = join("/", &image.config.config.working_dir);
        self.stand_on_image(&mut stage, name, &image);
        let label = self.scan_title("preparing the list of what it holds");
        let folder = Op::Workdir(WorkdirOp { path: OUT.into(), user: String::new() });
        self.step(&mut stage, label, folder, Vec::new());
        let label = self.scan_title(&format!("generating sbom using {}", scan.generator));
        let request = self.draft.request;
        let allowed = |group: &String| !group.is_empty() && request.allow.contains("cgroup-parent");
        let op = Op::Run(Box::new(RunOp {
            argv,
            env,
            cwd,
            user: String::new(),
            network: RunNetwork::Default,
            security: RunSecurity::Sandbox,
            mounts,
            scripts: Vec::new(),
            // A scanner has no business with the machine that runs it.
            hosts: request.hosts.iter().filter(|(_, at)| at != HOST_GATEWAY).cloned().collect(),
            hostname: request.hostname.clone(),
            shm_bytes: 0,
            ulimits: Vec::new(),
            proxies: Vec::new(),
            cgroup_parent: Some(request.cgroup_parent.clone()).filter(allowed),
            empty_caches: false,
            resources: request.resources.clone(),
        }));
        Ok(Some(self.step(&mut stage, label, op, inputs)))
    }

    fn scan_title(&self, what: &str) -> String {
        format!("[{}] {what}", self.draft.one.target())
    }

    /// The scanner's image and its full name; none if it is not known yet.
    fn scanner(&mut self, scan: &Scan) -> Result<Option<(String, ResolvedImage)>, PlanError> {
        let bad = |message: String| {
            let hint = "name another scanner with --sbom=generator=IMAGE, or leave --sbom out";
            PlanError::Request { message, hint: Some(hint.into()) }
        };
        let reference: ImageRef = scan.generator.parse().map_err(|error| {
            bad(format!("the scanner '{}' is no name of an image: {error}", scan.generator))
        })?;
        let platform = self.draft.request.build_platform.clone();
        let known = Known { platform: Some(&platform), sources: self.draft.sources };
        let judged = self.draft.policy.image(&reference, known).map_err(|error| {
            let message = format!("could not take the scanner {reference} due to policy: {error}");
            PlanError::Request { message, hint: error.hint() }
        })?;
        let reference = match judged {
            Judged::Taken(permitted) => permitted.to_string(),
            Judged::Lacks(need) => {
                self.needs.insert(need);
                return Ok(None);
            }
        };
        match self.draft.sources.images.get(&(reference.clone(), platform.clone())) {
            None => {
                self.needs.insert(Need::Image { reference, platform });
                Ok(None)
            }
            Some(Err(Unresolved { reason, .. })) => {
                Err(bad(format!("could not find the scanner {reference}: {reason}")))
            }
            Some(Ok(image)) => {
                let digest = image.named;
                let name = if reference.contains('@') {
                    reference
                } else {
                    format!("{reference}@{digest}")
                };
                Ok(Some((name, image.clone())))
            }
        }
    }

    /// What the scanner reads, and where; none if the digest of the context is not known yet.
    fn scanned(&mut self, target: usize) -> Result<Option<Scanned>, PlanError> {
        let all = Selection {
            form: SelectionForm::Mount,
            sources: vec!["/".into()],
            exclude: Vec::new(),
            parents: false,
        };
        let bind = |input: usize, target: String| MountKind::Bind {
            input,
            source: "/".into(),
            writable: false,
            target,
        };
        let of_stage = |stage: &Stage| {
            let source =
                stage.state.map_or(InputSource::Scratch {}, |step| InputSource::Step { step });
            Input { source, selection: all.clone() }
        };
        let Some(core) = self.done.get(&target) else { return Ok(None) };
        let mut inputs = vec![of_stage(core)];
        let tmp = MountKind::Tmpfs { size: 0, readonly: false, target: "/tmp".into() };
        let mut mounts = vec![tmp, bind(0, CORE.to_owned())];
        let mut extras: BTreeMap<String, Input> = BTreeMap::new();
        for (index, stage) in &self.done {
            let name = stage_name(stage);
            if *index != target && self.is_on(stage, SCAN_STAGE, &name) {
                extras.insert(name, of_stage(stage));
            }
        }
        let context = self.done.values().any(|it| self.is_on(it, SCAN_CONTEXT, &stage_name(it)));
        if context {
            let stage = core.clone();
            let Some(input) = self.context_input(&stage, "context", all.clone())? else {
                return Ok(None);
            };
            extras.insert("context".into(), input);
        }
        for (name, input) in extras {
            mounts.push(bind(inputs.len(), format!("{EXTRAS}sbom-{name}")));
            inputs.push(input);
        }
        Ok(Some(Scanned { inputs, mounts }))
    }

    /// Whether a stage has a switch on: by its own ARG, or by one above the first FROM.
    fn is_on(&self, stage: &Stage, switch: &str, name: &str) -> bool {
        let own = stage.args.iter().rev().find(|(known, _)| known == switch);
        let own = own.and_then(|(_, value)| value.as_deref());
        match own.or_else(|| self.draft.globals.get(switch)).unwrap_or_default() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            names => names.split(',').any(|named| named.trim().eq_ignore_ascii_case(name)),
        }
    }

    /// A stage that is no stage of the Dockerfile; its place is behind those of all platforms.
    fn scan_stage(&self, target: usize) -> Stage {
        let (one, request) = (self.draft.one, self.draft.request);
        let platforms = request.platforms.len().max(1);
        let place = (platforms - one.number) * self.draft.stages.len() + one.number;
        Stage {
            index: place,
            title: "sbom".into(),
            at: self.draft.stages[target].lines,
            env: Env::default(),
            image: ImageConfig::for_platform(&request.build_platform),
            history: Vec::new(),
            args: Vec::new(),
            platform: request.build_platform.clone(),
            state: None,
            base: "scratch".into(),
            fresh: false,
            cmd_set: false,
            counted: 0,
            total: 3,
            onbuild: false,
            bytes: 0,
        }
    }

    /// The images that the stages of this platform stand on or read.
    pub(super) fn bases(&self) -> Vec<BaseImage> {
        let mut bases = BTreeSet::new();
        for index in self.done.keys() {
            let draft = &self.draft.stages[*index];
            let (reference, layout) = match &draft.base {
                Base::Scratch | Base::Stage(_) => continue,
                Base::Image(name) => (name, false),
                Base::Context(name) => match self.draft.request.contexts.get(name) {
                    Some(ContextSource::DockerImage { reference }) => (reference, false),
                    Some(ContextSource::OciLayout { .. }) => (name, true),
                    Some(ContextSource::Folder {} | ContextSource::Target { .. }) | None => {
                        continue;
                    }
                },
            };
            let Ok(Ok(Ground::Image(_, image))) = self.draft.resolve(*index) else { continue };
            let platform = draft.platform.as_ref().unwrap_or(self.draft.one.target());
            bases.insert(BaseImage {
                name: self.taken(reference, platform),
                digest: image.named,
                platform: Some(platform.clone()),
                layout,
            });
        }
        if let Some(scan) = &self.draft.request.scan
            && let name = self.taken(&scan.generator, &self.draft.request.build_platform)
            && let key = (name.clone(), self.draft.request.build_platform.clone())
            && let Some(Ok(image)) = self.draft.sources.images.get(&key)
        {
            bases.insert(BaseImage { name, digest: image.named, platform: None, layout: false });
        }
        bases.into_iter().collect()
    }
}

impl Walk<'_> {
    /// The canonical name of what was taken for an image: what a policy says, where one speaks of it.
    fn taken(&self, written: &str, platform: &Platform) -> String {
        let Ok(reference) = written.parse::<ImageRef>() else { return written.to_owned() };
        let known = Known { platform: Some(platform), sources: self.draft.sources };
        match self.draft.policy.image(&reference, known) {
            Ok(Judged::Taken(permitted)) => permitted.to_string(),
            Ok(Judged::Lacks(_)) | Err(_) => reference.to_string(),
        }
    }
}

fn stage_name(stage: &Stage) -> String {
    if stage.title.is_empty() { format!("stage-{}", stage.index) } else { stage.title.clone() }
}

/// The variables of the scanner: its image's, and what the protocol tells it.
fn environment(config: &ImageConfig, scan: &Scan, extras: bool) -> Vec<(String, String)> {
    let mut env = Env::default();
    for variable in &config.config.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        env.set(name, value);
    }
    if env.get("PATH").is_none() {
        env.set("PATH", DEFAULT_PATH);
    }
    env.set("BUILDKIT_SCAN_DESTINATION", &format!("{OUT}/"));
    env.set("BUILDKIT_SCAN_SOURCE", CORE);
    if extras {
        env.set("BUILDKIT_SCAN_SOURCE_EXTRAS", EXTRAS);
    }
    for (name, value) in &scan.parameters {
        env.set(&format!("BUILDKIT_SCAN_{name}"), value);
    }
    env.pairs().to_vec()
}
