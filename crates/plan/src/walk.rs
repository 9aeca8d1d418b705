//! Carries out the instructions of the needed stages, one after the other, as far as no file is touched: what comes out
//! is a plan.

mod config;
mod copy;
mod name;
mod run;
mod scan;

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_dockerfile::expand::expand_word;
use dcbuild_dockerfile::{ArgInstruction, Instruction, InstructionKind};
use dcbuild_model::limits::PLAN_BYTES_MAX;
use dcbuild_model::{Added, Platform, Selection, SelectionForm, StageIndex, StepIndex, StepKey};
use dcbuild_oci::ImageConfig;

use crate::env::Env;
use crate::hint;
use crate::key::{Parent, Seen, sees_parent, state_key, step_key};
use crate::op::{CopyOp, CopySource, ImageOp, Input, InputSource, Op, WorkdirOp};
use crate::plan::{HistoryLine, ImageTemplate, Part, PlanError, PlannedImage, PlannedStage, Step};
use crate::policy::{Judged, Known};
use crate::sources::{Need, ResolvedImage};
use crate::stage::{
    Base, Command, Draft, Ground, StageDraft, expansion, lines, refuse_large, refused,
};
use crate::{epoch, globals};

pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A stage as far as it is carried out.
#[expect(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
#[derive(Clone)]
struct Stage {
    index: usize,
    title: String,
    at: (u32, u32),
    env: Env,
    image: ImageConfig,
    history: Vec<HistoryLine>,
    args: Vec<(String, Option<String>)>,
    platform: Platform,
    state: Option<StepIndex>,
    base: String,
    fresh: bool,
    cmd_set: bool,
    counted: usize,
    total: usize,
    onbuild: bool,
    /// What its lines have said, which stages upon it say again.
    bytes: usize,
}

/// The steps of a plan: those that two platforms have in common are there once.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    all: Vec<Step>,
    /// The name of the state that each step leaves behind.
    states: Vec<StepKey>,
    by_key: BTreeMap<StepKey, StepIndex>,
    /// The states of the stages that platforms before this one came to.
    ends: BTreeSet<(usize, Option<StepIndex>)>,
    /// What all steps and stages carry.
    bytes: usize,
}

impl Steps {
    /// All of them; each stands behind those that it waits for.
    pub(crate) fn all(self) -> Vec<Step> {
        self.all
    }

    /// Adds a step, unless the very same is there already.
    fn add(&mut self, step: Step) -> StepIndex {
        let (recipe, fresh) = (step.recipe, step.fresh);
        let empty_caches = matches!(&step.op, Op::Run(run) if run.empty_caches);
        let known = self.by_key.get(&recipe).copied();
        let known = known.filter(|known| self.all[known.index()].parent == step.parent);
        let index = known.unwrap_or_else(|| {
            let index = index(self.all.len());
            let below = step.parent.map(|parent| self.state(parent));
            self.states.push(state_key(&step.op, recipe, below));
            self.bytes += bytes_of(&step.op);
            self.all.push(step);
            self.by_key.insert(recipe, StepIndex(index));
            StepIndex(index)
        });
        let known = &mut self.all[index.index()];
        known.fresh |= fresh;
        if let Op::Run(run) = &mut known.op {
            run.empty_caches |= empty_caches;
        }
        index
    }

    /// What names the state that a step leaves behind.
    fn state(&self, step: StepIndex) -> StepKey {
        self.states[step.index()]
    }
}

/// What a step carries: its stage's variables, which each RUN has all of, its command, and files of the Dockerfile.
fn bytes_of(op: &Op) -> usize {
    match op {
        Op::Run(run) => {
            let env = run.env.iter().map(|(name, value)| name.len() + value.len());
            env.chain(run.argv.iter().map(String::len)).sum()
        }
        Op::Copy(copy) => copy.sources.iter().map(CopySource::inline_bytes).sum(),
        Op::Image(_) | Op::Workdir(_) => 0,
    }
}

fn index(place: usize) -> u32 {
    u32::try_from(place).expect("limits keep stages and steps far below 2^32")
}

/// What a walk comes to.
pub(crate) enum Walked {
    /// What is planned.
    Ready(Box<Part>),
    /// The sources that are still lacking.
    Lacks(Vec<Need>),
}

struct Walk<'a> {
    draft: &'a Draft<'a>,
    steps: &'a mut Steps,
    done: BTreeMap<usize, Stage>,
    needs: BTreeSet<Need>,
    epoch: Option<i64>,
}

pub(crate) fn walk(
    draft: &Draft<'_>,
    (target, needed): (usize, &BTreeSet<usize>),
    steps: &mut Steps,
) -> Result<Walked, PlanError> {
    let mut walk = Walk {
        draft,
        steps,
        done: BTreeMap::new(),
        needs: BTreeSet::new(),
        epoch: epoch::seconds(draft)?,
    };
    // Images that `--from` names have no place in the Dockerfile: they come first, where every stage can read them.
    let written = |stage: &&usize| draft.stages[**stage].written;
    let unwritten = |stage: &&usize| !draft.stages[**stage].written;
    for stage in needed.iter().filter(unwritten).chain(needed.iter().filter(written)) {
        walk.stage(*stage)?;
    }
    let sbom = walk.scan(target)?;
    if !walk.needs.is_empty() {
        return Ok(Walked::Lacks(walk.needs.into_iter().collect()));
    }
    Ok(Walked::Ready(Box::new(walk.finish(target, sbom))))
}

impl Walk<'_> {
    fn stage(&mut self, index: usize) -> Result<(), PlanError> {
        let draft = &self.draft.stages[index];
        let mut stage = self.begin(index, draft)?;
        for command in &draft.commands {
            stage.at = lines(command.instruction.span);
            stage.onbuild = command.onbuild;
            self.command(&mut stage, command)?;
        }
        self.done.insert(index, stage);
        Ok(())
    }

    fn begin(&mut self, index: usize, draft: &StageDraft) -> Result<Stage, PlanError> {
        if let Base::Stage(base) = draft.base {
            let below = self.done.get(&base);
            let below = below.ok_or_else(|| {
                PlanError::at(draft.lines, "a stage can only stand on an earlier one")
            })?;
            let mut stage = below.clone();
            self.steps.bytes += stage.bytes;
            stage.image.config.on_build.clear();
            (stage.index, stage.title, stage.at) = (index, draft.title.clone(), draft.lines);
            (stage.counted, stage.total, stage.cmd_set) = (0, draft.total, false);
            stage.fresh = draft.fresh || stage.fresh;
            self.refuse_large(&stage)?;
            return Ok(stage);
        }
        let platform = draft.platform.as_ref().unwrap_or(self.draft.one.target()).clone();
        let mut stage = Stage {
            index,
            title: draft.title.clone(),
            at: draft.lines,
            env: Env::default(),
            image: ImageConfig::for_platform(&platform),
            history: Vec::new(),
            args: Vec::new(),
            platform,
            state: None,
            base: "scratch".into(),
            fresh: draft.fresh,
            cmd_set: false,
            counted: 0,
            total: draft.total,
            onbuild: false,
            bytes: 0,
        };
        match self.draft.resolve(index)? {
            Ok(Ground::Image(name, image)) => self.stand_on_image(&mut stage, name, image),
            Ok(Ground::Folder(context)) => self.stand_on_folder(&mut stage, &context)?,
            Ok(Ground::Scratch) => stage.image.config.working_dir = "/".into(),
            Err(need) => {
                self.needs.insert(need);
            }
        }
        for variable in stage.image.config.env.clone() {
            let (name, value) = variable.split_once('=').unwrap_or((&variable, ""));
            stage.env.set(name, value);
        }
        if stage.env.get("PATH").is_none() {
            stage.image.config.env.push(format!("PATH={DEFAULT_PATH}"));
            stage.env.set("PATH", DEFAULT_PATH);
        }
        Ok(stage)
    }

    fn stand_on_image(&mut self, stage: &mut Stage, name: String, image: &ResolvedImage) {
        stage.image = image.config.clone().inherited();
        stage.image.created = None;
        stage.image.diff_ids.clear();
        stage.image.config.on_build.clear();
        if !stage.image.config.working_dir.is_empty() {
            stage.image.config.working_dir = join("/", &stage.image.config.working_dir);
        }
        let label = self.named(stage, &format!("FROM {name}"));
        stage.base.clone_from(&name);
        if image.layers.is_empty() {
            return;
        }
        let op = Op::Image(ImageOp {
            name,
            manifest: image.manifest,
            config: image.config_digest,
            layers: image.layers.clone(),
            source: image.source.clone(),
        });
        self.step(stage, label, op, Vec::new());
    }

    /// A folder as a base is copied whole onto nothing.
    fn stand_on_folder(&mut self, stage: &mut Stage, context: &str) -> Result<(), PlanError> {
        stage.base = format!("context {context}");
        stage.image.config.working_dir = "/".into();
        let label = self.named(stage, &format!("FROM {context}"));
        let selection = Selection {
            form: SelectionForm::Copy,
            sources: vec!["/".into()],
            exclude: Vec::new(),
            parents: false,
        };
        let Some(input) = self.context_input(stage, context, selection)? else { return Ok(()) };
        let op = Op::Copy(CopyOp {
            sources: vec![CopySource::Paths {
                input: 0,
                patterns: vec!["/".into()],
                unpack: false,
            }],
            dest: "/".into(),
            chown: None,
            chmod: None,
            exclude: Vec::new(),
            parents: false,
            link: false,
            keep_owners: false,
        });
        self.step(stage, label, op, vec![input]);
        Ok(())
    }

    /// A selection of a client's folder; none if its digest is not known yet.
    fn context_input(
        &mut self,
        stage: &Stage,
        context: &str,
        selection: Selection,
    ) -> Result<Option<Input>, PlanError> {
        if !Added::is_context(context) && !self.draft.request.fetched.contains(context) {
            let known = Known { platform: None, sources: self.draft.sources };
            let judged = self.draft.policy.local(context, known).map_err(refused(stage.at))?;
            if let Judged::Lacks(need) = judged {
                self.needs.insert(need);
                return Ok(None);
            }
        }
        match self.draft.sources.selections.get(&(context.to_owned(), selection.clone())) {
            None => {
                self.needs.insert(Need::Selection { context: context.to_owned(), selection });
                Ok(None)
            }
            Some(Err(found)) => {
                let hint = found.hint.clone();
                let hint = hint.or_else(|| hint::of_selection(&selection, &found.reason));
                let (message, found) =
                    (found.reason.clone(), crate::Unresolved { hint, ..found.clone() });
                Err(PlanError::unresolved(stage.at, message, &found))
            }
            Some(Ok(digest)) => {
                let source = InputSource::Context { name: context.to_owned(), digest: *digest };
                Ok(Some(Input { source, selection }))
            }
        }
    }

    /// A selection of another stage.
    fn stage_input(
        &self,
        stage: &Stage,
        other: usize,
        from: &str,
        selection: Selection,
    ) -> Result<Input, PlanError> {
        let other = self.done.get(&other).ok_or_else(|| {
            let message = format!(
                "cannot copy from stage \"{from}\", it needs to be defined before current stage \"{}\"",
                stage.title
            );
            PlanError::at(stage.at, message)
        })?;
        let source = other.state.map_or(InputSource::Scratch {}, |step| InputSource::Step { step });
        Ok(Input { source, selection })
    }

    /// Adds a step upon the stage's state, unless the plan has the very same already.
    fn step(&mut self, stage: &mut Stage, name: String, op: Op, inputs: Vec<Input>) -> StepIndex {
        let parent = match stage.state {
            Some(step) if sees_parent(&op) => Parent::Recipe(self.steps.state(step)),
            Some(_) | None => Parent::None,
        };
        let seen: Vec<(&Input, Seen)> = inputs
            .iter()
            .map(|input| match &input.source {
                InputSource::Step { step } => (input, Seen::Recipe(self.steps.state(*step))),
                InputSource::Scratch {} => (input, Seen::Nothing),
                InputSource::Context { name: _, digest } => (input, Seen::Content(*digest)),
            })
            .collect();
        let (recipe, components) = step_key(&op, &stage.platform, parent, &seen);
        let index = self.steps.add(Step {
            stage: self.stage_index(stage),
            name,
            lines: stage.at,
            platform: stage.platform.clone(),
            parent: stage.state,
            inputs,
            op,
            recipe,
            components,
            fresh: stage.fresh,
        });
        stage.state = Some(index);
        index
    }

    fn command(&mut self, stage: &mut Stage, command: &Command) -> Result<(), PlanError> {
        self.instruction(stage, command)?;
        self.refuse_large(stage)
    }

    /// Refuses a plan that a few lines make large, at the line where it becomes so.
    fn refuse_large(&self, stage: &Stage) -> Result<(), PlanError> {
        if self.steps.bytes.saturating_add(stage.bytes) > PLAN_BYTES_MAX {
            let mib = PLAN_BYTES_MAX >> 20;
            let message = format!(
                "the plan up to here has {mib} MiB of variables, commands and texts, which each RUN and each stage upon another has again"
            );
            return Err(PlanError::at(stage.at, message));
        }
        Ok(())
    }

    fn instruction(&mut self, stage: &mut Stage, command: &Command) -> Result<(), PlanError> {
        let instruction = &command.instruction;
        match &instruction.kind {
            InstructionKind::Add(add) => self.add(stage, add, instruction),
            InstructionKind::Copy(copy) => self.copy(stage, copy, command),
            InstructionKind::Run(run) => self.run(stage, run, command),
            InstructionKind::Workdir(path) => self.workdir(stage, path.as_str(), instruction),
            InstructionKind::Arg(arg) => self.arg(stage, arg),
            InstructionKind::Cmd(_)
            | InstructionKind::Entrypoint(_)
            | InstructionKind::Env(_)
            | InstructionKind::Expose(_)
            | InstructionKind::Healthcheck(_)
            | InstructionKind::Label(_)
            | InstructionKind::Maintainer(_)
            | InstructionKind::Onbuild(_)
            | InstructionKind::Shell(_)
            | InstructionKind::Stopsignal(_)
            | InstructionKind::User(_)
            | InstructionKind::Volume(_) => self.configure(stage, &instruction.kind),
        }
    }

    fn word(&self, stage: &Stage, word: &str) -> Result<String, PlanError> {
        let lookup = |name: &str| stage.env.get(name).map(str::to_owned);
        expand_word(word, &lookup, self.draft.dockerfile.escape()).map_err(expansion(stage.at))
    }

    fn arg(&mut self, stage: &mut Stage, arg: &ArgInstruction) -> Result<(), PlanError> {
        let mut texts = Vec::new();
        for declaration in &arg.declarations {
            let name = declaration.name.as_str();
            let given = self.draft.request.build_args.get(name);
            let value = match (given, &declaration.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.word(stage, default.as_str())?),
                (None, None) => self.draft.globals.get(name).map(str::to_owned),
            };
            // What only steers a scan is no variable of a process.
            if let Some(value) = value.as_ref().filter(|_| !scan::SWITCHES.contains(&name)) {
                stage.env.set(name, value);
            }
            texts.push(value.as_ref().map_or(name.to_owned(), |value| format!("{name}={value}")));
            stage.args.push((name.to_owned(), value));
        }
        refuse_large(&stage.env, stage.at)?;
        stage.line(format!("ARG {}", texts.join(" ")));
        Ok(())
    }

    fn workdir(
        &mut self,
        stage: &mut Stage,
        path: &str,
        instruction: &Instruction,
    ) -> Result<(), PlanError> {
        // An absolute path stands in the config as written, a relative one cleaned: so BuildKit does.
        let word = self.word(stage, path)?;
        let path = if word.starts_with('/') { word } else { join(stage.cwd(), &word) };
        stage.image.config.working_dir.clone_from(&path);
        let label = self.title(stage, &instruction.source);
        if path == "/" {
            stage.line("WORKDIR /".into());
            return Ok(());
        }
        let op = Op::Workdir(WorkdirOp {
            path: join("/", &path),
            user: stage.image.config.user.clone(),
        });
        let step = self.step(stage, label, op, Vec::new());
        stage.history.push(HistoryLine { created_by: format!("WORKDIR {path}"), step: Some(step) });
        Ok(())
    }

    /// A stage's place in the plan; the stages of each platform follow those of the one before.
    fn stage_index(&self, stage: &Stage) -> StageIndex {
        StageIndex(index(self.draft.one.number * self.draft.stages.len() + stage.index))
    }

    fn finish(self, target: usize, sbom: Option<StepIndex>) -> Part {
        let mut stage = self.done.get(&target).expect("the target was carried out").clone();
        let Draft { one, dockerfile, .. } = *self.draft;
        for (name, value) in &one.whole.labels {
            stage.image.config.labels.insert(name.clone(), value.clone());
        }
        let platform = one.asked.unwrap_or(&stage.platform).clone();
        if one.asked.is_some() {
            stage.image.os.clone_from(&platform.os);
            stage.image.architecture.clone_from(&platform.arch);
            stage.image.variant.clone_from(&platform.variant);
        }
        let declared =
            self.done.values().flat_map(|stage| &stage.args).map(|(name, _)| name.as_str());
        let notes = globals::unconsumed(one, dockerfile, declared).into_iter().collect();
        let config = String::from_utf8(stage.image.to_json()).expect("JSON is UTF-8");
        let (history, epoch) = (stage.history, self.epoch);
        let template = ImageTemplate { config, history, epoch, platform };
        let bases = self.bases();
        let image = PlannedImage { state: stage.state, template, bases, sbom };
        Part { stages: self.stages(), image, notes }
    }

    /// The stages, but for those that came to the same for an earlier platform.
    fn stages(self) -> Vec<PlannedStage> {
        let new = |stage: &&Stage| !self.steps.ends.contains(&(stage.index, stage.state));
        let planned = |stage: &Stage| PlannedStage {
            index: self.stage_index(stage),
            name: if stage.title.is_empty() {
                format!("stage-{}", stage.index)
            } else {
                stage.title.clone()
            },
            base: stage.base.clone(),
            platform: stage.platform.clone(),
            state: stage.state,
        };
        let stages = self.done.values().filter(new).map(planned).collect();
        self.steps.ends.extend(self.done.values().map(|stage| (stage.index, stage.state)));
        stages
    }
}

impl Stage {
    fn cwd(&self) -> &str {
        if self.image.config.working_dir.is_empty() { "/" } else { &self.image.config.working_dir }
    }

    /// Adds a line of history that made no layer.
    fn line(&mut self, created_by: String) {
        self.bytes += created_by.len();
        self.history.push(HistoryLine { created_by, step: None });
    }
}

/// Joins a path to a folder as `filepath.Join` does: cleaned, absolute.
fn join(folder: &str, path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') { "" } else { folder };
    for name in base.split('/').chain(path.split('/')) {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}
