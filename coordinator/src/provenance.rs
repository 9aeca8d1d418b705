//! How a build came about, as its attestations and its client are told (pure).

mod steps;

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_attest::facts::Request as Asked;
use dcbuild_attest::{
    Detail, Finish, Material, Mode, Named, PackageKind, Provenance, ProvenanceSpec, Source,
    StepLayers, package_url,
};
use dcbuild_model::{Added, ManifestDigest, StepIndex, UnixTime};
use dcbuild_oci::ImageRef;
use dcbuild_plan::{
    BaseImage, ContextSource, InputSource, MountKind, NoCache, Op, Plan, PlannedImage, Request,
    RunNetwork,
};
use dcbuild_proto::document::{OutputSpec, Submission, ToldProvenance};

use crate::build::Build;
use crate::planned::PlannedBuild;

/// The client's names of what it sends: its folder, and the Dockerfile.
const CONTEXT: &str = "context";
const DOCKERFILE: &str = "dockerfile";

/// What is known of how one image of a build comes about.
pub(crate) fn of(
    build: &Build,
    planned: &PlannedBuild,
    number: usize,
    spec: &ProvenanceSpec,
) -> Provenance {
    let facts = Facts {
        submission: &build.submission,
        planned,
        needed: needed(&planned.plan, number),
        image: planned.plan.images.get(number),
    };
    let request = &build.submission.request;
    let builds_on = planned.builds_on.as_ref().unwrap_or(&request.build_platform);
    Provenance {
        spec: spec.clone(),
        source: facts.source(),
        request: facts.asked(),
        materials: facts.materials(),
        builder_platform: builds_on.to_string(),
        network: facts.reaches_network(),
        invocation: build.id.to_string(),
        started: build.submitted,
        vcs: build.submission.origin.vcs.clone(),
        detail: (spec.mode == Mode::Max).then(|| facts.detail()),
    }
}

/// What a client is told that asks for it: all that was asked, and no layers.
pub(crate) fn told(build: &Build, planned: &PlannedBuild, now: UnixTime) -> Vec<ToldProvenance> {
    let submission = &build.submission;
    let Some(mode) = submission.origin.told else { return Vec::new() };
    let asked = |output: &OutputSpec| output.attest.provenance.clone();
    let asked = submission.outputs.iter().find_map(asked).unwrap_or_default();
    let finish = Finish { at: now, layers: Vec::new() };
    let tell = |(number, image): (usize, &PlannedImage)| {
        // As with buildx, the request is whole in either mode: the file stays with who asked.
        let spec = ProvenanceSpec { mode: Mode::Max, ..asked.clone() };
        let mut provenance = of(build, planned, number, &spec);
        if mode == Mode::Min {
            provenance.detail = None;
        }
        let predicate = match mode {
            Mode::Max => provenance.predicate(&finish),
            Mode::Min => provenance.brief(&finish),
        };
        let platform = image.template.platform.clone();
        ToldProvenance { platform, predicate: predicate.to_string() }
    };
    (0..).zip(&planned.plan.images).map(tell).collect()
}

/// Says which layers are there after which step of the image itself.
pub(crate) fn count_layers(
    detail: &mut Detail,
    plan: &Plan,
    state: Option<StepIndex>,
    layers_of: &dyn Fn(StepIndex) -> usize,
) {
    let mut count = 0;
    for at in plan.chain(state) {
        count += layers_of(at);
        let key = plan.step(at).recipe.0.to_string();
        let step = detail.steps.iter().position(|step| step.key.as_deref() == Some(&key));
        detail.layers.extend(step.map(|step| StepLayers { step, count }));
    }
}

fn needed(plan: &Plan, number: usize) -> BTreeSet<StepIndex> {
    let image = plan.images.get(number);
    plan.needed(image.into_iter().flat_map(|image| image.state.into_iter().chain(image.sbom)))
}

struct Facts<'a> {
    submission: &'a Submission,
    planned: &'a PlannedBuild,
    /// The steps that the image or the list of what it holds was made by.
    needed: BTreeSet<StepIndex>,
    image: Option<&'a PlannedImage>,
}

impl Facts<'_> {
    fn request(&self) -> &Request {
        &self.submission.request
    }

    fn ops(&self) -> impl Iterator<Item = &Op> {
        self.needed.iter().map(|step| &self.planned.plan.step(*step).op)
    }

    fn mounts(&self) -> impl Iterator<Item = &MountKind> {
        self.ops().flat_map(|op| match op {
            Op::Run(run) => run.mounts.as_slice(),
            Op::Image(_) | Op::Copy(_) | Op::Workdir(_) => &[],
        })
    }

    /// The contexts that were read, by name.
    fn contexts(&self) -> BTreeSet<&str> {
        let inputs = self.needed.iter().flat_map(|step| &self.planned.plan.step(*step).inputs);
        let names = inputs.filter_map(|input| match &input.source {
            InputSource::Context { name, .. } => Some(name.as_str()),
            InputSource::Step { .. } | InputSource::Scratch {} => None,
        });
        names.collect()
    }

    fn source(&self) -> Source {
        let fetched = &self.submission.origin.fetched;
        Source {
            context: fetched.get(CONTEXT).or(fetched.get(DOCKERFILE)).cloned(),
            path: self.request().filename.clone(),
        }
    }

    fn locals(&self) -> Vec<String> {
        let fetched = &self.submission.origin.fetched;
        let local = |name: &&str| !fetched.contains_key(*name) && !Added::is_context(name);
        let mut locals: BTreeSet<String> =
            self.contexts().into_iter().filter(local).map(str::to_owned).collect();
        if !fetched.contains_key(CONTEXT) && !fetched.contains_key(DOCKERFILE) {
            locals.insert(DOCKERFILE.to_owned());
        }
        locals.into_iter().collect()
    }

    fn asked(&self) -> Asked {
        let (mut secrets, mut ssh) = (BTreeMap::new(), BTreeMap::new());
        let add = |to: &mut BTreeMap<String, bool>, id: &str, required: bool| {
            *to.entry(id.to_owned()).or_insert(false) |= required;
        };
        for mount in self.mounts() {
            match mount {
                MountKind::Secret(secret) => add(&mut secrets, &secret.id, secret.required),
                MountKind::Ssh { id, required, .. } => add(&mut ssh, id, *required),
                MountKind::Bind { .. } | MountKind::Cache { .. } | MountKind::Tmpfs { .. } => {}
            }
        }
        let named = |all: BTreeMap<String, bool>| {
            all.into_iter().map(|(id, required)| Named { id, optional: !required }).collect()
        };
        Asked {
            args: args(self.request()),
            secrets: named(secrets),
            ssh: named(ssh),
            locals: self.locals(),
        }
    }

    fn materials(&self) -> Vec<Material> {
        let bases = self.image.into_iter().flat_map(|image| &image.bases).map(of_base);
        let contexts = self.contexts();
        let read = |(name, _): &(&String, &Material)| contexts.contains(name.as_str());
        let added = self.planned.fetched.iter().filter(read);
        let own = |(name, _): &(&String, &Material)| {
            [CONTEXT, DOCKERFILE].contains(&name.as_str()) || contexts.contains(name.as_str())
        };
        let sent = self.submission.origin.fetched.iter().filter(own);
        let fetched: BTreeSet<&Material> = added.chain(sent).map(|(_, it)| it).collect();
        bases.chain(fetched.into_iter().cloned()).collect()
    }

    fn reaches_network(&self) -> bool {
        self.ops().any(|op| match op {
            Op::Run(run) => run.network != RunNetwork::None,
            Op::Image(_) | Op::Copy(_) | Op::Workdir(_) => false,
        })
    }

    fn detail(&self) -> Detail {
        // The list of what the image holds is no part of it.
        let state = self.image.and_then(|image| image.state);
        let steps = steps::of(&self.planned.plan, state);
        Detail { text: self.request().dockerfile.clone(), steps, layers: Vec::new() }
    }
}

fn of_base(base: &BaseImage) -> Material {
    let BaseImage { name, digest: ManifestDigest(digest), platform, layout } = base;
    let kind = if *layout { PackageKind::Oci } else { PackageKind::Docker };
    let uri = name.parse::<ImageRef>();
    let uri = uri.map(|name| package_url(kind, &name, platform.as_ref()));
    let digest = digest.to_string();
    let digits = digest.trim_start_matches("sha256:");
    Material::new(uri.unwrap_or_else(|_| name.clone()), "sha256", digits)
}

/// What was asked, by the names that BuildKit's frontend has for it.
fn args(request: &Request) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    for (name, value) in &request.build_args {
        args.insert(format!("build-arg:{name}"), value.clone());
    }
    for (name, value) in &request.labels {
        args.insert(format!("label:{name}"), value.clone());
    }
    for (name, source) in &request.contexts {
        let value = match source {
            ContextSource::Folder {} => format!("local:{name}"),
            ContextSource::DockerImage { reference } => format!("docker-image://{reference}"),
            ContextSource::OciLayout { reference } => format!("oci-layout://{name}@{reference}"),
            ContextSource::Target { name } => format!("target:{name}"),
        };
        args.insert(format!("context:{name}"), value);
    }
    let mut add = |name: &str, value: Option<String>| {
        args.extend(value.map(|value| (name.to_owned(), value)));
    };
    add("target", request.target.clone());
    add(
        "no-cache",
        match &request.no_cache {
            NoCache::Nothing => None,
            NoCache::All => Some(String::new()),
            NoCache::Stages { names } => Some(names.iter().cloned().collect::<Vec<_>>().join(",")),
        },
    );
    add(
        "force-network-mode",
        match request.network {
            RunNetwork::Default => None,
            RunNetwork::None => Some("none".into()),
            RunNetwork::Host => Some("host".into()),
        },
    );
    let hosts = request.hosts.iter().map(|(name, address)| format!("{name}={address}"));
    let hosts = hosts.collect::<Vec<_>>().join(",");
    add("add-hosts", Some(hosts).filter(|hosts| !hosts.is_empty()));
    let limits = request.ulimits.iter();
    let limits = limits.map(|limit| format!("{}={}:{}", limit.name, limit.soft, limit.hard));
    let limits = limits.collect::<Vec<_>>().join(",");
    add("ulimit", Some(limits).filter(|limits| !limits.is_empty()));
    add("shm-size", Some(request.shm_bytes.to_string()).filter(|_| request.shm_bytes > 0));
    add("hostname", Some(request.hostname.clone()).filter(|name| !name.is_empty()));
    args
}

#[cfg(test)]
mod tests;
