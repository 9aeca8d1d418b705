//! The documents that workers are given: a job with all that it stands on.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_model::{
    Added, AttemptId, BlobDigest, LayerId, LayerRef, Scope, Selection, StepIndex, UnixTime,
};
use dcbuild_plan::{ImageSource, Op, Plan, PlannedImage, Step};
use dcbuild_proto::document::{
    Chain, ContextPlace, LayerCompression, Lease, LeasedContext, LeasedImage, LeasedLayer,
    LeasedStep, OutputKind, OutputSpec, RegistryCredentials, Work, to_hex,
};
use dcbuild_scheduler as scheduler;

use crate::book::Active;
use crate::build::Known;
use crate::driver::host_of;
use crate::planned::{PlannedBuild, contexts_of, inputs_of, secrets_of};
use crate::provenance;

/// What keeps a lease from being handed out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Lacking {
    /// The build is not planned, or a step that should be there is not: a fault of ours.
    Result(Option<StepIndex>),
    /// What only the client has.
    Client(Wanted),
}

/// What is wanted of the client before a lease can be handed out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Wanted {
    /// Values of secrets.
    pub(crate) secrets: BTreeSet<String>,
    /// Credentials for these registries.
    pub(crate) hosts: BTreeSet<String>,
    /// Selections that are to be packed.
    pub(crate) packs: Vec<(String, Selection)>,
}

/// Says of a layer that an attempt made whether it is still on its way to the store.
pub(crate) type IsUnsent<'a> = &'a dyn Fn(AttemptId, &LayerId) -> bool;

/// Writes the document of a lease.
pub(crate) fn document(
    active: &Active,
    (scope, is_unsent): (&Scope, IsUnsent<'_>),
    lease: &scheduler::Lease,
) -> Result<Lease, Lacking> {
    let planned = active.planned.as_deref().ok_or(Lacking::Result(None))?;
    let (wanted, layers) = (Wanted::default(), BTreeMap::new());
    let mut writer = Writer { active, planned, is_unsent, wanted, layers };
    let mut hosts = BTreeSet::new();
    let mut secrets = BTreeMap::new();
    let work = match &lease.work {
        scheduler::Work::Steps(steps) => {
            for step in steps {
                writer.secrets(planned.plan.step(*step), &mut secrets);
            }
            writer.steps(steps, &mut hosts)?
        }
        scheduler::Work::Output(output) => writer.output(output.0, &mut hosts)?,
    };
    let credentials = writer.credentials(&hosts);
    if writer.wanted != Wanted::default() {
        return Err(Lacking::Client(writer.wanted));
    }
    Ok(Lease {
        attempt: lease.attempt,
        epoch: lease.epoch,
        build: lease.build,
        job: lease.job,
        scope: scope.clone(),
        work,
        layers: writer.layers.into_values().collect(),
        secrets,
        credentials,
        agents: active.desk.submission.agents.clone(),
        upload: active.desk.submission.upload,
    })
}

struct Writer<'a> {
    active: &'a Active,
    planned: &'a PlannedBuild,
    is_unsent: IsUnsent<'a>,
    wanted: Wanted,
    /// All layers of the states that were written so far.
    layers: BTreeMap<LayerId, LeasedLayer>,
}

impl Writer<'_> {
    fn plan(&self) -> &Plan {
        &self.planned.plan
    }

    fn chain(&mut self, state: Option<StepIndex>) -> Result<Chain, Lacking> {
        let mut chain = Vec::new();
        for step in self.plan().chain(state) {
            let settled = self.active.results.get(&step).ok_or(Lacking::Result(Some(step)))?;
            let made = settled.record.attempt;
            for layer in &settled.record.result.layers {
                let coming = (self.is_unsent)(made, &layer.layer);
                let leased = LeasedLayer { layer: layer.layer, step, coming };
                // The lowest step that has it made it: nobody above can do so without it.
                self.layers.entry(layer.layer).or_insert(leased);
                chain.push(layer.clone());
            }
        }
        Ok(chain)
    }

    fn steps(
        &mut self,
        steps: &[StepIndex],
        hosts: &mut BTreeSet<String>,
    ) -> Result<Work, Lacking> {
        let first = steps.first().ok_or(Lacking::Result(None))?;
        let parent = self.chain(self.plan().step(*first).parent)?;
        hosts_of(&parent, hosts);
        let states = self.plan().states();
        let in_output: BTreeSet<StepIndex> =
            states.into_iter().flat_map(|state| self.plan().chain(Some(state))).collect();
        let shipped = self.shipped();
        let (mut leased, mut inputs, mut contexts) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for at in steps {
            let step = self.planned.plan.step(*at);
            for input in inputs_of(step).filter(|input| !steps.contains(input)) {
                let chain = self.chain(Some(input))?;
                hosts_of(&chain, hosts);
                inputs.insert(input, chain);
            }
            if let Op::Image(image) = &step.op
                && let ImageSource::Registry { repository } = &image.source
            {
                hosts.insert(host_of(repository).to_owned());
            }
            for (name, selection) in contexts_of(step) {
                if let Some(place) = self.place(name, selection) {
                    contexts.insert((name.clone(), selection.clone()), place);
                }
            }
            let ships = shipped.filter(|_| in_output.contains(at));
            leased.push(LeasedStep {
                index: *at,
                step: step.clone(),
                ask: self.asks(step),
                ships,
                tainted: self.tainted(step),
                sending: self.active.sending(*at),
            });
        }
        let contexts = contexts
            .into_iter()
            .map(|((name, selection), place)| LeasedContext { name, selection, place })
            .collect();
        Ok(Work::Steps { steps: leased, parent, inputs: inputs.into_iter().collect(), contexts })
    }

    /// How the first output that is an image compresses its layers.
    fn shipped(&self) -> Option<LayerCompression> {
        let outputs = &self.active.desk.submission.outputs;
        // One whose times are rewritten has layers of its own.
        let image = |output: &&OutputSpec| {
            matches!(output.kind, OutputKind::Image { .. }) && !output.rewrite_timestamp
        };
        outputs.iter().find(image).map(|output| output.layers)
    }

    /// Whether something that the step stands on or reads was made after the probe, which asked by recipe alone. A RUN is
    /// asked for in any case: another build may have made it while this one sent its context.
    fn asks(&self, step: &Step) -> bool {
        let taken = |at: StepIndex| self.planned.taken.iter().any(|(taken, _)| *taken == at);
        let later = || step.parent.into_iter().chain(inputs_of(step)).any(|on| !taken(on));
        !step.fresh && (matches!(step.op, Op::Run(_)) || later())
    }

    /// Whether it stands on or reads a result that is not kept for later builds.
    fn tainted(&self, step: &Step) -> bool {
        let tainted = |at| self.active.results.get(&at).is_some_and(|settled| settled.tainted);
        step.parent.into_iter().chain(inputs_of(step)).any(tainted)
    }

    fn place(&mut self, name: &str, selection: &Selection) -> Option<ContextPlace> {
        if self.active.desk.submission.in_place && !Added::is_context(name) {
            return Some(ContextPlace::InPlace {});
        }
        let planned = if self.active.packs_lost { &[][..] } else { &self.planned.packs[..] };
        let packs = planned.iter().chain(&self.active.packs);
        let packed: Option<BlobDigest> = packs
            .filter(|(context, packed, _)| context == name && packed == selection)
            .map(|(_, _, parcel)| *parcel)
            .next_back();
        if packed.is_none() {
            self.wanted.packs.push((name.to_owned(), selection.clone()));
        }
        packed.map(|parcel| ContextPlace::Packed { parcel })
    }

    fn secrets(&mut self, step: &Step, secrets: &mut BTreeMap<String, String>) {
        for (id, _) in secrets_of(step) {
            match self.active.desk.secret(id) {
                Some(value) => {
                    secrets.insert(id.to_owned(), to_hex(&value));
                }
                // The client gave it to an earlier life of this coordinator.
                None if self.planned.secrets.contains(id) => {
                    self.wanted.secrets.insert(id.to_owned());
                }
                None => {}
            }
        }
    }

    fn credentials(&mut self, hosts: &BTreeSet<String>) -> BTreeMap<String, RegistryCredentials> {
        let mut credentials = BTreeMap::new();
        let mirrors = hosts.iter().filter_map(|host| self.planned.mirrors.get(host)).flatten();
        let hosts: BTreeSet<String> = hosts.iter().chain(mirrors).cloned().collect();
        for host in hosts {
            match self.active.desk.known_credentials(&host) {
                // Tokens of clouds last for minutes, and builds for longer.
                Known::Old(_) if self.active.desk.company.has_client() => {
                    self.wanted.hosts.insert(host);
                }
                Known::These(found) | Known::Old(found) => {
                    credentials.insert(host, found);
                }
                Known::Unasked if self.planned.hosts.contains(&host) => {
                    self.wanted.hosts.insert(host);
                }
                Known::Nothing | Known::Unasked => {}
            }
        }
        credentials
    }

    fn output(&mut self, output: u32, hosts: &mut BTreeSet<String>) -> Result<Work, Lacking> {
        let at = usize::try_from(output).unwrap_or(usize::MAX);
        let spec: &OutputSpec =
            self.active.desk.submission.outputs.get(at).ok_or(Lacking::Result(None))?;
        let spec = spec.clone();
        if let OutputKind::Image { names, push: true, .. } = &spec.kind {
            hosts.extend(names.iter().map(|name| host_of(name).to_owned()));
        }
        let planned = self.planned;
        let images = (0..).zip(&planned.plan.images);
        let images = images.map(|(number, image)| self.image((number, image), &spec, hosts));
        let images = images.collect::<Result<_, _>>()?;
        let index = planned.plan.index || spec.needs_index();
        Ok(Work::Output { output, spec, images, index })
    }

    fn image(
        &mut self,
        (number, image): (usize, &PlannedImage),
        spec: &OutputSpec,
        hosts: &mut BTreeSet<String>,
    ) -> Result<LeasedImage, Lacking> {
        let PlannedImage { state, template, bases: _, sbom } = image;
        let layers = self.chain(*state)?;
        hosts_of(&layers, hosts);
        let sbom = match sbom.filter(|_| spec.attest.sbom) {
            Some(scan) => Some(self.chain(Some(scan))?),
            None => None,
        };
        let provenance = spec.attest.provenance.as_ref().map(|spec| {
            let mut provenance = provenance::of(&self.active.desk, self.planned, number, spec);
            if let Some(detail) = &mut provenance.detail {
                provenance::count_layers(detail, self.plan(), *state, &|step| {
                    let settled = self.active.results.get(&step);
                    settled.map_or(0, |settled| settled.record.result.layers.len())
                });
            }
            Box::new(provenance)
        });
        let created = |step: StepIndex| -> Option<(StepIndex, UnixTime)> {
            Some((step, self.active.results.get(&step)?.record.result.created))
        };
        let named = template.history.iter().filter_map(|line| line.step);
        let steps: BTreeSet<StepIndex> = named.chain(self.plan().chain(*state)).collect();
        let created = steps.into_iter().filter_map(created).collect();
        let template = template.clone();
        Ok(LeasedImage { template, state: layers, created, provenance, sbom })
    }
}

fn hosts_of(chain: &[LayerRef], hosts: &mut BTreeSet<String>) {
    let repositories = chain.iter().filter_map(|layer| layer.base.as_ref());
    let repositories = repositories.map(|base| base.repository.as_str());
    hosts.extend(repositories.filter(|it| !it.is_empty()).map(|it| host_of(it).to_owned()));
}
