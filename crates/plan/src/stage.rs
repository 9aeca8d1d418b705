//! The stages of a Dockerfile before any instruction is carried out: bases, names, who needs whom.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_dockerfile::expand::{ExpandError, expand_word};
use dcbuild_dockerfile::suggest::nearest;
use dcbuild_dockerfile::{Dockerfile, Instruction, InstructionKind, Span, parse, parse_trigger};
use dcbuild_model::Platform;
use dcbuild_model::limits::CONFIG_BYTES_MAX;
use dcbuild_oci::ImageRef;

use crate::env::Env;
use crate::hint;
use crate::lint::{self, Checks, Findings};
use crate::plan::{ImageTemplate, Plan, PlanError, Planned};
use crate::policy::{Engine, Judged, Known, PolicyError};
use crate::request::{ContextSource, NoCache, OnePlatform, Request};
use crate::sources::{ImageAnswer, Need, ResolvedImage, Sources, Unresolved};
use crate::walk::{self, Walked};
use crate::{epoch, globals};

/// What a stage stands on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Base {
    /// Nothing.
    Scratch,
    /// Another stage.
    Stage(usize),
    /// An image, by its name as expanded.
    Image(String),
    /// A named context; the stage's own instructions do not run if it has the stage's name.
    Context(String),
}

/// An instruction and the stages that it reads.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) instruction: Instruction,
    pub(crate) onbuild: bool,
    /// For a COPY its `--from`; for a RUN one entry for each mount.
    pub(crate) reads: Vec<Option<usize>>,
}

/// A stage, or an image that only `--from` names.
#[expect(clippy::struct_excessive_bools, reason = "four facts that do not depend on each other")]
#[derive(Clone, Debug)]
pub(crate) struct StageDraft {
    pub(crate) name: Option<String>,
    /// What messages call it; empty where there is only one.
    pub(crate) title: String,
    pub(crate) base: Base,
    pub(crate) platform: Option<Platform>,
    pub(crate) lines: (u32, u32),
    pub(crate) commands: Vec<Command>,
    /// How many steps its names count.
    pub(crate) total: usize,
    pub(crate) fresh: bool,
    /// Whether it stands in the Dockerfile.
    pub(crate) written: bool,
    triggered: bool,
}

/// All stages, and what is known of the world.
pub(crate) struct Draft<'a> {
    pub(crate) request: &'a Request,
    pub(crate) one: OnePlatform<'a>,
    pub(crate) sources: &'a Sources,
    pub(crate) dockerfile: &'a Dockerfile,
    pub(crate) globals: Env,
    pub(crate) policy: Engine,
    pub(crate) stages: Vec<StageDraft>,
    by_name: BTreeMap<String, usize>,
    contexts: BTreeMap<String, &'a str>,
}

/// An image or folder that a stage stands on, resolved.
pub(crate) enum Ground<'a> {
    /// An image, by its canonical name with digest.
    Image(String, &'a ResolvedImage),
    /// A folder of the client, by the context's name.
    Folder(String),
    /// Nothing.
    Scratch,
}

/// Which stages of a Dockerfile are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    /// Those that the target needs.
    Target,
    /// All of them, where no target is named.
    All,
}

/// A file whose stages are known and stand on ground that is resolved.
pub(crate) struct Surveyed<'a> {
    pub(crate) draft: Draft<'a>,
    pub(crate) target: usize,
    pub(crate) needed: BTreeSet<usize>,
}

pub(crate) fn plan(request: &Request, sources: &Sources) -> Result<Planned, PlanError> {
    let dockerfile = parse(request.dockerfile.as_bytes())?;
    let dated = epoch::dated(request, &dockerfile)?;
    let request: &Request = &dated;
    let checks = Checks::of(request, &dockerfile)?;
    let mut findings = Findings::new(checks.clone());
    lint::file::of_lines(&dockerfile, &mut findings);
    let mut plan = Plan { index: request.is_index(), ..Plan::default() };
    let (mut steps, mut lacks) = (walk::Steps::default(), BTreeSet::new());
    for one in request.each() {
        let mut found = Findings::new(checks.clone());
        match survey((one, sources), &dockerfile, Reach::Target, &mut found)? {
            Err(needs) => lacks.extend(needs),
            Ok(Surveyed { draft, target, needed }) => {
                lint::stage::of_stages(&draft, &needed, &mut found);
                match walk::walk(&draft, (target, &needed), &mut steps)? {
                    Walked::Lacks(needs) => lacks.extend(needs),
                    Walked::Ready(part) => plan.add(*part),
                }
            }
        }
        findings.join(found);
    }
    if !lacks.is_empty() {
        return Ok(Planned::Lacks(lacks.into_iter().collect()));
    }
    if let Some(message) = findings.violation() {
        return Err(PlanError::violation(message));
    }
    plan.images.iter().try_for_each(|image| refuse_large_config(&image.template))?;
    plan.findings = findings.take();
    plan.steps = steps.all();
    Ok(Planned::Ready(Box::new(plan)))
}

/// Refuses variables that no image may have, at the instruction that makes them so.
pub(crate) fn refuse_large(env: &Env, at: (u32, u32)) -> Result<(), PlanError> {
    if env.is_large() {
        let mib = CONFIG_BYTES_MAX >> 20;
        return Err(PlanError::at(at, format!("the variables here have more than {mib} MiB")));
    }
    Ok(())
}

/// A config that nobody would take is refused before anything runs; its history says each instruction again.
fn refuse_large_config(image: &ImageTemplate) -> Result<(), PlanError> {
    let history: usize = image.history.iter().map(|line| line.created_by.len()).sum();
    let bytes = image.config.len() + history;
    if bytes <= CONFIG_BYTES_MAX {
        return Ok(());
    }
    let message =
        format!("the image's config would have {bytes} bytes; it may have {CONFIG_BYTES_MAX}");
    let hint = "variables, labels and the text of each instruction count: keep long texts in files";
    Err(PlanError::Request { message, hint: Some(hint.into()) })
}

/// Refuses a Dockerfile that is written for another frontend than docker's: nobody runs it here.
fn refuse_frontend(request: &Request, dockerfile: &Dockerfile) -> Result<(), PlanError> {
    let given = request.build_args.get("BUILDKIT_SYNTAX");
    let Some(written) = given.or(dockerfile.directives.syntax.as_ref()) else { return Ok(()) };
    let image = written.split_whitespace().next().unwrap_or_default();
    let name = image.split('@').next().unwrap_or(image);
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    let own = ["docker/dockerfile", "docker/dockerfile-upstream"];
    // BuildKit's name for the frontend that it has itself.
    let is_built_in = image.is_empty() || image == "dockerfile.v0";
    if is_built_in || own.iter().any(|own| name == *own || name.ends_with(&format!("/{own}"))) {
        return Ok(());
    }
    let message = format!("the frontend {image} is not run: dcbuild reads Dockerfiles itself");
    let hint = "leave the line `# syntax=` (or BUILDKIT_SYNTAX) out, or name docker/dockerfile:1";
    let hint = Some(hint.to_owned());
    let at = request.dockerfile.lines().position(|line| line.contains("syntax"));
    match at.and_then(|at| u32::try_from(at + 1).ok()).filter(|_| given.is_none()) {
        Some(line) => Err(PlanError::Instruction { message, lines: (line, line), hint }),
        None => Err(PlanError::Request { message, hint }),
    }
}

/// Finds the stages of a file and what they stand on, or says what must be known first.
pub(crate) fn survey<'a>(
    (one, sources): (OnePlatform<'a>, &'a Sources),
    dockerfile: &'a Dockerfile,
    reach: Reach,
    findings: &mut Findings,
) -> Result<Result<Surveyed<'a>, Vec<Need>>, PlanError> {
    let request = one.whole;
    refuse_frontend(request, dockerfile)?;
    lint::file::of_whole(dockerfile, findings);
    let globals = globals::globals(one, dockerfile)?;
    lint::from::of_bases(one, dockerfile, &globals, findings);
    let mut draft = Draft {
        request,
        one,
        sources,
        dockerfile,
        globals,
        policy: policy(request)?,
        stages: Vec::new(),
        by_name: BTreeMap::new(),
        contexts: request.contexts.keys().map(|name| (context_name(name), name.as_str())).collect(),
    };
    draft.add_stages()?;
    let target = draft.target()?;
    draft.link()?;
    draft.refuse_cycles()?;
    let wanted = match (reach, &request.target) {
        (Reach::All, None) => (0..dockerfile.stages.len()).collect(),
        (Reach::All | Reach::Target, _) => vec![target],
    };
    Ok(draft.ground(&wanted)?.map(|needed| Surveyed { draft, target, needed }))
}

fn policy(request: &Request) -> Result<Engine, PlanError> {
    let engine = Engine::new(&request.policies);
    Ok(engine.map_err(|error| PlanError::request(error.to_string()))?.asking(request.asks))
}

/// What a source policy refuses is refused where the Dockerfile asks for it.
pub(crate) fn refused(lines: (u32, u32)) -> impl Fn(PolicyError) -> PlanError {
    move |error| PlanError::Instruction {
        message: format!("error evaluating the source policy: {error}"),
        lines,
        hint: error.hint(),
    }
}

/// The form in which names of contexts are compared: a reference without its default parts.
fn context_name(name: &str) -> String {
    let familiar =
        |reference: ImageRef| reference.familiar().trim_end_matches(":latest").to_owned();
    name.parse().map_or_else(|_| name.to_owned(), familiar)
}

pub(crate) fn lines(span: Span) -> (u32, u32) {
    (span.start_line, span.end_line)
}

pub(crate) fn expansion(span: (u32, u32)) -> impl Fn(ExpandError) -> PlanError {
    move |error| {
        let message = error.to_string();
        // How the end of the word is shown where a modifier was expected.
        let open = message.contains(&format!("({})", char::REPLACEMENT_CHARACTER));
        let hint = open.then(|| "a variable is not closed: write ${NAME}".to_owned());
        PlanError::Instruction { message, lines: span, hint }
    }
}

impl<'a> Draft<'a> {
    fn add_stages(&mut self) -> Result<(), PlanError> {
        let dockerfile = self.dockerfile;
        for (index, stage) in dockerfile.stages.iter().enumerate() {
            let at = lines(stage.span);
            let lookup = |name: &str| self.globals.get(name).map(str::to_owned);
            let base = expand_word(stage.base.as_str(), &lookup, dockerfile.escape())
                .map_err(expansion(at))?;
            if base.is_empty() {
                return Err(PlanError::Instruction {
                    message: format!("base name ({}) should not be blank", stage.base),
                    lines: at,
                    hint: Some(
                        "declare the ARG above the first FROM with a default, or give --build-arg"
                            .into(),
                    ),
                });
            }
            let platform =
                stage.platform.as_ref().map(|word| self.platform(word.as_str(), at)).transpose()?;
            let own_context = stage.name.as_ref().and_then(|name| self.context(name));
            let commands = stage.instructions.iter();
            let commands: Vec<Command> = commands
                .map(|instruction| Command {
                    instruction: instruction.clone(),
                    onbuild: false,
                    reads: Vec::new(),
                })
                .collect();
            let base = match own_context {
                Some(context) => self.of_context(context, at)?,
                None => self.base(base, at)?,
            };
            let from_image = usize::from(!matches!(base, Base::Scratch | Base::Stage(_)));
            let replaced = stage.name.as_ref().is_some_and(|name| self.context(name).is_some());
            self.stages.push(StageDraft {
                title: stage.name.clone().unwrap_or_else(|| format!("stage-{index}")),
                name: stage.name.clone(),
                base,
                platform,
                lines: at,
                total: from_image
                    + commands.iter().filter(|command| is_step(&command.instruction)).count(),
                commands: if replaced { Vec::new() } else { commands },
                fresh: self.is_fresh(stage.name.as_deref()),
                written: true,
                triggered: false,
            });
            if let Some(name) = &stage.name {
                self.by_name.insert(name.to_lowercase(), index);
            }
        }
        Ok(())
    }

    fn platform(&self, word: &str, at: (u32, u32)) -> Result<Platform, PlanError> {
        let lookup = |name: &str| self.globals.get(name).map(str::to_owned);
        let text = expand_word(word, &lookup, self.dockerfile.escape()).map_err(expansion(at))?;
        if text.is_empty() {
            return Err(PlanError::at(at, format!("empty platform value from expression {word}")));
        }
        text.parse()
            .map_err(|error| PlanError::at(at, format!("failed to parse platform {word}: {error}")))
    }

    fn base(&self, name: String, at: (u32, u32)) -> Result<Base, PlanError> {
        match self.by_name.get(&name) {
            Some(stage) => Ok(Base::Stage(*stage)),
            None if name == "scratch" => Ok(Base::Scratch),
            None => match self.context(&name) {
                Some(context) => self.of_context(context, at),
                None => Ok(Base::Image(name)),
            },
        }
    }

    /// What a context stands for where it is another stage, or nothing at all.
    fn of_context(&self, context: String, at: (u32, u32)) -> Result<Base, PlanError> {
        match self.request.contexts.get(&context) {
            Some(ContextSource::DockerImage { reference }) if reference == "scratch" => {
                Ok(Base::Scratch)
            }
            Some(ContextSource::Target { name }) => {
                let stage = self.by_name.get(&name.to_lowercase());
                stage.map(|stage| Base::Stage(*stage)).ok_or_else(|| PlanError::Instruction {
                    message: format!("the context \"{context}\" is target:{name}, and no stage before this one has that name"),
                    lines: at,
                    hint: Some("--build-context NAME=target:STAGE names an earlier stage of the same Dockerfile".into()),
                })
            }
            _ => Ok(Base::Context(context)),
        }
    }

    /// The context of this name, as the request writes it.
    fn context(&self, name: &str) -> Option<String> {
        if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
            return None;
        }
        self.contexts.get(&context_name(name)).map(|name| (*name).to_owned())
    }

    fn is_fresh(&self, name: Option<&str>) -> bool {
        match &self.request.no_cache {
            NoCache::Nothing => false,
            NoCache::All => true,
            NoCache::Stages { names } => {
                name.is_some_and(|name| names.contains(&name.to_lowercase()))
            }
        }
    }

    fn target(&self) -> Result<usize, PlanError> {
        let Some(name) = &self.request.target else { return Ok(self.stages.len() - 1) };
        if let Some(stage) = self.by_name.get(&name.to_lowercase()) {
            return Ok(*stage);
        }
        let names: Vec<&str> =
            self.stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
        let hint = match &names[..] {
            [] => {
                "no stage of the Dockerfile has a name; give one with FROM ... AS NAME".to_owned()
            }
            names => format!("the stages are: {}", names.join(", ")),
        };
        let message = format!("target stage \"{name}\" could not be found");
        Err(PlanError::Request { message, hint: Some(hint) })
    }

    /// Finds the stages that each instruction reads.
    fn link(&mut self) -> Result<(), PlanError> {
        for stage in 0..self.stages.len() {
            for command in 0..self.stages[stage].commands.len() {
                let instruction = self.stages[stage].commands[command].instruction.clone();
                self.stages[stage].commands[command].reads = self.reads(&instruction)?;
            }
        }
        if self.stages.len() == 1 {
            self.stages[0].title.clear();
        }
        Ok(())
    }

    fn reads(&mut self, instruction: &Instruction) -> Result<Vec<Option<usize>>, PlanError> {
        let at = lines(instruction.span);
        match &instruction.kind {
            InstructionKind::Copy(copy) => match &copy.from {
                Some(from) if !from.is_empty() => Ok(vec![Some(self.copy_from(from, at)?)]),
                Some(_) | None => Ok(vec![None]),
            },
            InstructionKind::Run(run) => {
                let from = run.mounts.iter().map(|mount| mount.from.clone()).collect::<Vec<_>>();
                from.into_iter()
                    .map(|from| match from {
                        Some(from) if !from.is_empty() => self.stage_or_image(&from, at).map(Some),
                        Some(_) | None => Ok(None),
                    })
                    .collect()
            }
            InstructionKind::Add(_)
            | InstructionKind::Arg(_)
            | InstructionKind::Cmd(_)
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
            | InstructionKind::Volume(_)
            | InstructionKind::Workdir(_) => Ok(Vec::new()),
        }
    }

    /// `--from` takes names, numbers from 0 and images; variables are not expanded in it.
    fn copy_from(&mut self, from: &str, at: (u32, u32)) -> Result<usize, PlanError> {
        let none = |_: &str| None;
        let plain = expand_word(from, &none, self.dockerfile.escape()).map_err(expansion(at))?;
        if plain != from {
            return Err(PlanError::Instruction {
                lines: at,
                message: "variable expansion is not supported for --from, define a new stage with FROM using ARG from \
                          global scope as a workaround"
                    .into(),
                hint: Some(format!("line {}: FROM ${{{}}} AS NAME, then --from=NAME", at.0, "ARG")),
            });
        }
        match from.parse::<i64>() {
            Ok(number) => usize::try_from(number)
                .ok()
                .filter(|number| *number < self.dockerfile.stages.len())
                .ok_or_else(|| PlanError::at(at, format!("invalid stage index {number}"))),
            Err(_) => self.stage_or_image(from, at),
        }
    }

    fn stage_or_image(&mut self, name: &str, at: (u32, u32)) -> Result<usize, PlanError> {
        if let Some(stage) = self.by_name.get(&name.to_lowercase()) {
            return Ok(*stage);
        }
        let base = if name == "scratch" { Base::Scratch } else { self.base(name.to_owned(), at)? };
        if let Base::Stage(stage) = base {
            return Ok(stage);
        }
        if let Some(known) =
            self.stages.iter().position(|stage| !stage.written && stage.base == base)
        {
            return Ok(known);
        }
        self.stages.push(StageDraft {
            name: None,
            title: String::new(),
            base,
            platform: None,
            lines: at,
            commands: Vec::new(),
            total: 0,
            fresh: self.is_fresh(None),
            written: false,
            triggered: true,
        });
        Ok(self.stages.len() - 1)
    }

    fn refuse_cycles(&self) -> Result<(), PlanError> {
        let mut state = vec![Visit::New; self.stages.len()];
        for start in 0..self.stages.len() {
            // Walks with a stack of its own: a chain of ten thousand stages must not end in a stack overflow.
            let mut path: Vec<Open> = Vec::new();
            if state[start] == Visit::New {
                state[start] = Visit::Open;
                path.push(Open {
                    stage: start,
                    through: self.stages[start].lines,
                    edges: self.edges(start),
                });
            }
            while let Some(open) = path.last_mut() {
                let Some((next, through)) = open.edges.pop() else {
                    state[open.stage] = Visit::Done;
                    path.pop();
                    continue;
                };
                match state[next] {
                    Visit::Done => {}
                    Visit::New => {
                        state[next] = Visit::Open;
                        path.push(Open { stage: next, through, edges: self.edges(next) });
                    }
                    Visit::Open => return Err(self.cycle(&path, next, through)),
                }
            }
        }
        Ok(())
    }

    /// A circle is reported where the stage that it comes back to leaves for the next.
    fn cycle(&self, path: &[Open], back_to: usize, last: (u32, u32)) -> PlanError {
        // The title of a stage that stands alone is empty.
        let title = |stage: usize| match &self.stages[stage].name {
            Some(name) => name.clone(),
            None => format!("stage-{stage}"),
        };
        let from = path.iter().position(|open| open.stage == back_to).unwrap_or(0);
        let mut names: Vec<String> = path[from..].iter().map(|open| title(open.stage)).collect();
        names.push(title(back_to));
        PlanError::Instruction {
            message: format!("circular dependency detected on stage: {}", title(back_to)),
            lines: path.get(from + 1).map_or(last, |open| open.through),
            hint: Some(format!("the circle is {}", names.join(" -> "))),
        }
    }

    /// The stages that a stage waits for, each with the lines that say so.
    fn edges(&self, stage: usize) -> Vec<(usize, (u32, u32))> {
        let draft = &self.stages[stage];
        let base = match draft.base {
            Base::Stage(base) => Some((base, draft.lines)),
            Base::Scratch | Base::Image(_) | Base::Context(_) => None,
        };
        let read = draft.commands.iter().flat_map(|command| {
            let at = lines(command.instruction.span);
            command.reads.iter().flatten().map(move |stage| (*stage, at))
        });
        base.into_iter().chain(read).collect()
    }

    /// The stages that some stages need, themselves included.
    pub(crate) fn reachable(&self, from: &[usize]) -> BTreeSet<usize> {
        let mut reachable: BTreeSet<usize> = from.iter().copied().collect();
        let mut open = from.to_vec();
        while let Some(stage) = open.pop() {
            for (next, _) in self.edges(stage) {
                if reachable.insert(next) {
                    open.push(next);
                }
            }
        }
        reachable
    }

    /// Resolves what all stages that are needed stand on and adds the triggers of bases, which may need further stages.
    fn ground(
        &mut self,
        wanted: &[usize],
    ) -> Result<Result<BTreeSet<usize>, Vec<Need>>, PlanError> {
        self.refuse_bad_names()?;
        loop {
            let needed = self.reachable(wanted);
            let mut lacks = BTreeSet::new();
            let mut grown = false;
            for stage in &needed {
                match self.resolve(*stage)? {
                    Err(need) => {
                        lacks.insert(need);
                    }
                    Ok(ground) => {
                        let triggers = self.triggers(*stage, &ground);
                        grown |= self.add_triggers(*stage, triggers)?;
                    }
                }
            }
            if !lacks.is_empty() {
                return Ok(Err(lacks.into_iter().collect()));
            }
            if !grown {
                return Ok(Ok(needed));
            }
            self.refuse_cycles()?;
        }
    }

    /// A name that cannot be an image's is refused even in a stage that nobody needs.
    fn refuse_bad_names(&self) -> Result<(), PlanError> {
        for draft in &self.stages {
            if let Base::Image(name) = &draft.base {
                self.reference(draft, name)?;
            }
        }
        Ok(())
    }

    fn triggers(&self, stage: usize, ground: &Ground<'_>) -> Vec<String> {
        if self.stages[stage].triggered {
            return Vec::new();
        }
        if let Base::Stage(base) = self.stages[stage].base {
            let commands = self.stages[base].commands.iter().filter(|command| !command.onbuild);
            return commands
                .filter_map(|command| {
                    let InstructionKind::Onbuild(onbuild) = &command.instruction.kind else {
                        return None;
                    };
                    Some(onbuild.expression.clone())
                })
                .collect();
        }
        match ground {
            Ground::Image(_, image) => image.config.config.on_build.clone(),
            Ground::Folder(_) | Ground::Scratch => Vec::new(),
        }
    }

    fn add_triggers(&mut self, stage: usize, triggers: Vec<String>) -> Result<bool, PlanError> {
        self.stages[stage].triggered = true;
        if triggers.is_empty() {
            return Ok(false);
        }
        let at = self.stages[stage].lines;
        let mut commands = Vec::new();
        for trigger in &triggers {
            let mut instruction = parse_trigger(trigger)
                .map_err(|error| PlanError::at(at, format!("ONBUILD {trigger}: {error}")))?;
            instruction.span = Span { start_line: at.0, end_line: at.1 };
            let reads = self.reads(&instruction)?;
            commands.push(Command { instruction, onbuild: true, reads });
        }
        let draft = &mut self.stages[stage];
        draft.total += commands.iter().filter(|command| is_step(&command.instruction)).count();
        commands.append(&mut draft.commands);
        draft.commands = commands;
        Ok(true)
    }

    /// What a stage stands on, unless another stage; or what must be known first.
    pub(crate) fn resolve(&self, stage: usize) -> Result<Result<Ground<'a>, Need>, PlanError> {
        let draft = &self.stages[stage];
        match &draft.base {
            Base::Scratch | Base::Stage(_) => Ok(Ok(Ground::Scratch)),
            Base::Image(name) => self.image(draft, name),
            Base::Context(name) => {
                let source = self.request.contexts.get(name);
                let source = source.ok_or_else(|| {
                    PlanError::request(format!("context \"{name}\" is not given"))
                })?;
                match source {
                    ContextSource::Folder {} => Ok(Ok(Ground::Folder(name.clone()))),
                    ContextSource::DockerImage { reference } => self.image(draft, reference),
                    ContextSource::OciLayout { .. } => {
                        let judged = self.policy.layout(name, self.known(draft));
                        if let Judged::Lacks(need) = judged.map_err(refused(draft.lines))? {
                            return Ok(Err(need));
                        }
                        self.answer(draft, format!("layout:{name}"), name)
                    }
                    // It is that stage.
                    ContextSource::Target { .. } => Ok(Ok(Ground::Scratch)),
                }
            }
        }
    }

    fn reference(&self, draft: &StageDraft, name: &str) -> Result<ImageRef, PlanError> {
        name.parse().map_err(|error| PlanError::Instruction {
            message: format!("failed to parse stage name \"{name}\": {error}"),
            lines: draft.lines,
            hint: hint::of_base(self, draft.lines),
        })
    }

    fn image(&self, draft: &StageDraft, name: &str) -> Result<Result<Ground<'a>, Need>, PlanError> {
        let reference = self.reference(draft, name)?;
        let judged = self.policy.image(&reference, self.known(draft));
        // What is not there is said as without a policy.
        let unseen = matches!(&judged, Err(PolicyError::Unseen { identifier, .. })
            if identifier.ends_with(&reference.to_string()));
        if unseen {
            return self.answer(draft, reference.to_string(), name);
        }
        let judged = judged.map_err(|error| PlanError::Instruction {
            message: format!("{name}: could not resolve image due to policy: {error}"),
            lines: draft.lines,
            hint: error.hint(),
        })?;
        match judged {
            Judged::Taken(permitted) => self.answer(draft, permitted.to_string(), name),
            Judged::Lacks(need) => Ok(Err(need)),
        }
    }

    /// By what a policy judges the images of a stage.
    fn known<'k>(&'k self, draft: &'k StageDraft) -> Known<'k> {
        let platform = Some(draft.platform.as_ref().unwrap_or(self.one.target()));
        Known { platform, sources: self.sources }
    }

    fn answer(
        &self,
        draft: &StageDraft,
        reference: String,
        name: &str,
    ) -> Result<Result<Ground<'a>, Need>, PlanError> {
        let platform = draft.platform.as_ref().unwrap_or(self.one.target()).clone();
        let answer: Option<&'a ImageAnswer> =
            self.sources.images.get(&(reference.clone(), platform.clone()));
        match answer {
            None => Ok(Err(Need::Image { reference, platform })),
            Some(Ok(image)) => {
                let digest = image.named;
                // A layout has no name of its own: the name that the Dockerfile uses says more.
                let reference =
                    if reference.starts_with("layout:") { name.to_owned() } else { reference };
                let full = if reference.contains('@') {
                    reference
                } else {
                    format!("{reference}@{digest}")
                };
                Ok(Ok(Ground::Image(full, image)))
            }
            Some(Err(found)) => {
                let (reference, reason) = (reference.trim_start_matches("layout:"), &found.reason);
                let message =
                    format!("{name}: failed to resolve source metadata for {reference}: {reason}");
                let found = match self.nearest_stage(draft, name) {
                    // Whoever meant a stage gains nothing by another try.
                    Some(hint) => &Unresolved { hint: Some(hint), ..message.clone().into() },
                    None => found,
                };
                Err(PlanError::unresolved(draft.lines, message, found))
            }
        }
    }

    /// What a name that is no image may have meant: a stage.
    fn nearest_stage(&self, draft: &StageDraft, name: &str) -> Option<String> {
        let mut below =
            self.stages.iter().filter(|stage| stage.written && stage.lines > draft.lines);
        if let Some(stage) = below.find(|stage| stage.name.as_deref() == Some(name)) {
            let line = stage.lines.0;
            return Some(format!(
                "the stage {name} is defined further down, at line {line}; FROM takes those above it"
            ));
        }
        // A stage may have the name of the image that it stands on.
        let others = self.stages.iter().filter(|stage| stage.lines != draft.lines);
        let names: Vec<&str> = others.filter_map(|stage| stage.name.as_deref()).collect();
        nearest(name, &names).map(|stage| format!("did you mean the stage {stage}?"))
    }
}

/// A stage on the path that is being looked at, the lines that led to it, and the edges not followed yet.
struct Open {
    stage: usize,
    through: (u32, u32),
    edges: Vec<(usize, (u32, u32))>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    New,
    Open,
    Done,
}

fn is_step(instruction: &Instruction) -> bool {
    match instruction.kind {
        InstructionKind::Add(_)
        | InstructionKind::Copy(_)
        | InstructionKind::Run(_)
        | InstructionKind::Workdir(_) => true,
        InstructionKind::Arg(_)
        | InstructionKind::Cmd(_)
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
        | InstructionKind::Volume(_) => false,
    }
}
