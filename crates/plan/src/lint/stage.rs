//! Checks of the instructions of stages, with the variables that each of them sees.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_dockerfile::suggest::nearest;
use dcbuild_dockerfile::{
    AddInstruction, ArgInstruction, CommandForm, CopyInstruction, Escape, ExpandError,
    ExpandOptions, Expanded, Expansion, Instruction, InstructionKind, Mount, MountFlag, Pair,
    PairSeparator, Paths, Word, expand,
};

use super::ignored::Ignored;
use super::{Findings, Rule, from};
use crate::env::Env;
use crate::report::{OutlineArg, OutlineMount};
use crate::stage::{Base, Command, Draft, Ground, lines};
use crate::walk::DEFAULT_PATH;

/// Words in a name that speak of a secret, and words that say that it is none.
const SECRET: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];
const NO_SECRET: [&str; 3] = ["public", "file", "version"];

/// Arguments that are read though no variable comes of them.
const NO_VARIABLES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// What a stage takes from outside, for an outline.
#[derive(Clone, Default)]
pub(crate) struct Own {
    /// ARGs with a value of their own.
    pub(crate) args: Vec<OutlineArg>,
    /// ARGs before the first FROM that it reads.
    pub(crate) globals: BTreeSet<String>,
    pub(crate) secrets: Vec<OutlineMount>,
    pub(crate) ssh: Vec<OutlineMount>,
}

/// What an instruction of a stage finds.
#[derive(Clone, Default)]
struct Scope {
    env: Env,
    /// Names of ARGs, with or without a value.
    declared: BTreeSet<String>,
    has_workdir: bool,
    has_shell: bool,
    /// Where the instructions stand that only count once.
    once: BTreeMap<&'static str, (u32, u32)>,
}

/// Checks the stages that a build needs, in the order of the Dockerfile, and says what each takes from outside.
pub(crate) fn of_stages(
    draft: &Draft<'_>,
    needed: &BTreeSet<usize>,
    findings: &mut Findings,
) -> BTreeMap<usize, Own> {
    let written = needed.iter().filter(|stage| draft.stages[**stage].written);
    for stage in written.clone() {
        of_base_platform(draft, *stage, findings);
    }
    let ignored = Ignored::of(draft.request);
    let mut scopes: BTreeMap<usize, Scope> = BTreeMap::new();
    let mut all = BTreeMap::new();
    for stage in written {
        let globals = from::names_of(draft.dockerfile, &draft.globals, *stage);
        let own = Own { globals, ..Own::default() };
        let scope = begin(draft, *stage, &scopes);
        let mut check = Check { draft, scope, own, ignored: &ignored, findings };
        for command in &draft.stages[*stage].commands {
            check.command(command);
        }
        let Check { scope, own, .. } = check;
        scopes.insert(*stage, scope);
        all.insert(*stage, own);
    }
    all
}

/// An image without an index has one platform, which need not be the one that is built for.
fn of_base_platform(draft: &Draft<'_>, stage: usize, findings: &mut Findings) {
    let stands = &draft.stages[stage];
    let (Base::Image(name), Ok(Ok(Ground::Image(_, image)))) = (&stands.base, draft.resolve(stage))
    else {
        return;
    };
    let wanted = stands.platform.as_ref().unwrap_or(draft.one.target());
    let config = &image.config;
    if image.layers.is_empty() || (config.os == wanted.os && config.architecture == wanted.arch) {
        return;
    }
    let slash = if config.variant.is_empty() { "" } else { "/" };
    let detail = format!(
        "Base image {name} was pulled with platform \"{}/{}{slash}{}\", expected \"{wanted}\" for current build",
        config.os, config.architecture, config.variant
    );
    findings.add(Rule::InvalidBaseImagePlatform, stands.lines, detail);
}

fn begin(draft: &Draft<'_>, stage: usize, scopes: &BTreeMap<usize, Scope>) -> Scope {
    if let Base::Stage(base) = draft.stages[stage].base {
        let below = scopes.get(&base).cloned().unwrap_or_default();
        return Scope { once: BTreeMap::new(), ..below };
    }
    let mut scope = Scope::default();
    if let Ok(Ok(Ground::Image(_, image))) = draft.resolve(stage) {
        for variable in &image.config.config.env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            scope.env.set(name, value);
        }
        scope.has_shell = !image.config.config.shell.is_empty();
    }
    if scope.env.get("PATH").is_none() {
        scope.env.set("PATH", DEFAULT_PATH);
    }
    scope
}

struct Check<'a> {
    draft: &'a Draft<'a>,
    scope: Scope,
    own: Own,
    ignored: &'a Ignored,
    findings: &'a mut Findings,
}

impl Check<'_> {
    fn command(&mut self, command: &Command) {
        let instruction = &command.instruction;
        let at = lines(instruction.span);
        match &instruction.kind {
            InstructionKind::Add(AddInstruction { paths, chown, chmod, checksum, .. }) => {
                self.words([chown, chmod, checksum], at);
                self.paths(paths, at);
                self.ignored("Add", paths, at);
            }
            InstructionKind::Copy(CopyInstruction { paths, chown, chmod, from, .. }) => {
                self.words([chown, chmod, &None], at);
                self.paths(paths, at);
                if from.as_ref().is_none_or(String::is_empty) {
                    self.ignored("Copy", paths, at);
                }
            }
            InstructionKind::Arg(arg) => self.arg(arg, at),
            InstructionKind::Env(pairs) => self.env(instruction, pairs, at),
            InstructionKind::Label(pairs) => {
                self.pairs(pairs, at);
                self.legacy(instruction, pairs, at);
            }
            InstructionKind::Cmd(form) => self.process("CMD", form, instruction),
            InstructionKind::Entrypoint(form) => self.process("ENTRYPOINT", form, instruction),
            InstructionKind::Healthcheck(_) => self.once("HEALTHCHECK", instruction),
            InstructionKind::Expose(words) => self.expose(words, at),
            InstructionKind::Run(run) => {
                for mount in &run.mounts {
                    self.mount(mount, at);
                }
            }
            InstructionKind::Shell(_) => self.scope.has_shell = true,
            InstructionKind::Stopsignal(word) | InstructionKind::User(word) => {
                let _expanded = self.word(word.as_str(), at);
            }
            InstructionKind::Volume(words) => {
                for word in words {
                    let _expanded = self.word(word.as_str(), at);
                }
            }
            InstructionKind::Workdir(word) => self.workdir(word, at),
            InstructionKind::Maintainer(_) | InstructionKind::Onbuild(_) => {}
        }
    }

    fn expand(&self, word: &str, options: ExpandOptions) -> Result<Expanded, ExpandError> {
        let lookup = |name: &str| self.scope.env.get(name).map(str::to_owned);
        expand(word, &lookup, options)
    }

    /// Expands a word and speaks of the names in it that nothing has set.
    fn word(&mut self, word: &str, at: (u32, u32)) -> Result<String, ExpandError> {
        let options = ExpandOptions::with_escape(self.draft.dockerfile.escape());
        let expanded = self.expand(word, options)?;
        self.undefined(&expanded, at);
        Ok(expanded.text)
    }

    fn undefined(&mut self, expanded: &Expanded, at: (u32, u32)) {
        let scope = &self.scope;
        let options: Vec<&str> = scope.env.pairs().iter().map(|(name, _)| name.as_str()).collect();
        for name in &expanded.unmatched {
            if scope.declared.contains(name) || NO_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            let mut detail = format!("Usage of undefined variable '${name}'");
            if let Some(meant) = nearest(name, &options) {
                detail.push_str(&format!(" (did you mean ${meant}?)"));
            }
            self.findings.add(Rule::UndefinedVar, at, detail);
        }
    }

    fn words(&mut self, words: [&Option<Word>; 3], at: (u32, u32)) {
        for word in words.into_iter().flatten() {
            let _expanded = self.word(word.as_str(), at);
        }
    }

    fn paths(&mut self, paths: &Paths, at: (u32, u32)) {
        for word in paths.sources.iter().chain([&paths.dest]) {
            let _expanded = self.word(word.as_str(), at);
        }
        for file in paths.inline.iter().filter(|file| file.expansion == Expansion::Expand) {
            let options = ExpandOptions::heredoc_body(Escape::Backslash);
            if let Ok(expanded) = self.expand(&file.content, options) {
                self.undefined(&expanded, at);
            }
        }
    }

    /// Speaks of sources of which the ignore file leaves nothing.
    fn ignored(&mut self, verb: &str, paths: &Paths, at: (u32, u32)) {
        for word in &paths.sources {
            let options = ExpandOptions::with_escape(self.draft.dockerfile.escape());
            let Ok(source) = self.expand(word.as_str(), options) else { continue };
            if let Some(path) = self.ignored.holds(&source.text) {
                let detail =
                    format!("Attempting to {verb} file {path:?} that is excluded by .dockerignore");
                self.findings.add(Rule::CopyIgnoredFile, at, detail);
            }
        }
    }

    fn mount(&mut self, mount: &MountFlag, at: (u32, u32)) {
        let entry = |name, required| OutlineMount { name, required, lines: at };
        match mount.resolve(&mut |word| self.word(word, at)) {
            Ok(Mount::Secret(it)) => self.own.secrets.push(entry(it.id, it.required)),
            Ok(Mount::Ssh(it)) => {
                let id = it.id.unwrap_or_else(|| "default".into());
                self.own.ssh.push(entry(id, it.required));
            }
            // A mount that cannot be is an error elsewhere.
            Ok(Mount::Bind(_) | Mount::Cache(_) | Mount::Tmpfs(_)) | Err(_) => {}
        }
    }

    fn arg(&mut self, arg: &ArgInstruction, at: (u32, u32)) {
        for declaration in &arg.declarations {
            let name = declaration.name.as_str();
            self.secret("ARG", name, at);
            let given = self.draft.request.build_args.get(name).cloned();
            let global = self.draft.globals.get(name).map(str::to_owned);
            let inherits = given.is_none() && declaration.default.is_none() && global.is_some();
            let value = match (given, &declaration.default) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => self.word(default.as_str(), at).ok(),
                (None, None) => global,
            };
            if inherits {
                self.own.globals.insert(name.to_owned());
            } else {
                self.own.args.push(OutlineArg {
                    name: name.to_owned(),
                    value: value.clone().unwrap_or_default(),
                    description: arg.description(name).unwrap_or_default().to_owned(),
                    lines: at,
                });
            }
            if let Some(value) = value {
                self.scope.env.set(name, &value);
            }
            self.scope.declared.insert(name.to_owned());
        }
    }

    fn env(&mut self, instruction: &Instruction, pairs: &[Pair], at: (u32, u32)) {
        let expanded = self.pairs(pairs, at);
        self.legacy(instruction, pairs, at);
        for (name, value) in expanded {
            self.secret("ENV", &name, at);
            self.scope.env.set(&name, &value);
        }
    }

    fn pairs(&mut self, pairs: &[Pair], at: (u32, u32)) -> Vec<(String, String)> {
        let mut expanded = Vec::new();
        for Pair { key, value, separator: _ } in pairs {
            if let (Ok(key), Ok(value)) =
                (self.word(key.as_str(), at), self.word(value.as_str(), at))
            {
                expanded.push((key, value));
            }
        }
        expanded
    }

    fn legacy(&mut self, instruction: &Instruction, pairs: &[Pair], at: (u32, u32)) {
        let word = &instruction.keyword;
        for _ in pairs.iter().filter(|pair| pair.separator == PairSeparator::Space) {
            let detail = format!(
                "\"{word} key=value\" should be used instead of legacy \"{word} key value\" format"
            );
            self.findings.add(Rule::LegacyKeyValueFormat, at, detail);
        }
    }

    fn secret(&mut self, keyword: &str, name: &str, at: (u32, u32)) {
        let lower = name.to_lowercase();
        let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
        if has(&SECRET) && !has(&NO_SECRET) {
            let detail = format!(
                "Do not use ARG or ENV instructions for sensitive data ({keyword} \"{name}\")"
            );
            self.findings.add(Rule::SecretsUsedInArgOrEnv, at, detail);
        }
    }

    fn process(&mut self, keyword: &'static str, form: &CommandForm, instruction: &Instruction) {
        self.once(keyword, instruction);
        if matches!(form, CommandForm::Shell(_)) && !self.scope.has_shell {
            let detail = format!(
                "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                instruction.keyword
            );
            self.findings.add(Rule::JSONArgsRecommended, lines(instruction.span), detail);
        }
    }

    /// Speaks of the earlier of two instructions of which only the later counts.
    fn once(&mut self, keyword: &'static str, instruction: &Instruction) {
        let earlier = self.scope.once.insert(keyword, lines(instruction.span));
        if let Some(earlier) = earlier {
            let detail = format!(
                "Multiple {} instructions should not be used in the same stage because only the last one will be used",
                instruction.keyword
            );
            self.findings.add(Rule::MultipleInstructionsDisallowed, earlier, detail);
        }
    }

    fn expose(&mut self, words: &[Word], at: (u32, u32)) {
        for word in words {
            let options = ExpandOptions::with_escape(self.draft.dockerfile.escape());
            let Ok(expanded) = self.expand(word.as_str(), options) else { continue };
            for port in expanded.words {
                let (mapping, protocol) = port.split_once('/').unwrap_or((&port, ""));
                if protocol != protocol.to_lowercase() {
                    let detail = format!(
                        "Defined protocol '{port}' in EXPOSE instruction should be lowercase"
                    );
                    self.findings.add(Rule::ExposeProtoCasing, at, detail);
                }
                if mapping.rsplit_once(':').is_some_and(|(host, _)| !host.is_empty()) {
                    let detail = format!(
                        "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                    );
                    self.findings.add(Rule::ExposeInvalidFormat, at, detail);
                }
            }
        }
    }

    fn workdir(&mut self, word: &Word, at: (u32, u32)) {
        let Ok(path) = self.word(word.as_str(), at) else { return };
        if !self.scope.has_workdir && !path.starts_with('/') {
            let detail = format!(
                "Relative workdir \"{path}\" can have unexpected results if the base image changes"
            );
            self.findings.add(Rule::WorkdirRelativePath, at, detail);
        }
        self.scope.has_workdir = true;
    }
}
