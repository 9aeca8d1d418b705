//! What articles about small and sound images teach: bases that are pinned, layers without left-overs, a final stage
//! without compilers. It speaks only where advice is asked for, and what it costs in bytes where that is known.

use dcbuild_dockerfile::{CommandForm, Instruction, InstructionKind, RunInstruction};

use super::leftover::megabytes;
use super::{Findings, Leftover, Rule};
use crate::stage::{Base, Draft, Ground, StageDraft, lines};

/// Images whose purpose is to build.
const BUILDERS: [&str; 8] =
    ["golang", "rust", "maven", "gradle", "gcc", "sdk", "buildpack-deps", "haskell"];
/// Packages that only builds need.
const TOOLS: [&str; 16] = [
    "build-base",
    "build-essential",
    "cargo",
    "clang",
    "cmake",
    "default-jdk",
    "g++",
    "gcc",
    "go",
    "golang",
    "golang-go",
    "gradle",
    "make",
    "maven",
    "rustc",
    "ninja-build",
];
/// Beginnings of values that only secrets have.
const SECRETS: [&str; 9] =
    ["AKIA", "ghp_", "gho_", "github_pat_", "glpat-", "sk_live_", "xoxb-", "xoxp-", "-----BEGIN"];
/// Words in a name that speak of a secret, beyond those of `SecretsUsedInArgOrEnv`.
const SECRET_NAMES: [&str; 5] = ["dsn", "pass", "passphrase", "pat", "pwd"];

/// A manager of packages that leaves behind what nobody needs.
struct Manager {
    names: &'static [&'static str],
    /// The words of it that leave something.
    verbs: &'static [&'static str],
    /// What is in a RUN that leaves nothing.
    remedies: &'static [&'static str],
    leaves: Leftover,
}

const MANAGERS: [Manager; 4] = [
    Manager {
        names: &["apt-get", "apt"],
        verbs: &["update"],
        remedies: &["/var/lib/apt"],
        leaves: Leftover::AptLists,
    },
    Manager {
        names: &["apk"],
        verbs: &["add", "update"],
        remedies: &["--no-cache", "/var/cache/apk", "/etc/apk/cache"],
        leaves: Leftover::ApkIndex,
    },
    Manager {
        names: &["yum", "dnf", "microdnf"],
        verbs: &["install", "update", "upgrade"],
        remedies: &["clean all", "/var/cache/yum", "/var/cache/dnf"],
        leaves: Leftover::YumCache,
    },
    Manager {
        names: &["pip", "pip3"],
        verbs: &["install", "download"],
        remedies: &["--no-cache-dir", "/.cache", "PIP_NO_CACHE_DIR"],
        leaves: Leftover::PipCache,
    },
];

/// Advises on the image that a target is.
pub(crate) fn of_target(draft: &Draft<'_>, target: usize, findings: &mut Findings) {
    for stage in draft.stages.iter().filter(|stage| stage.written) {
        of_base(stage, findings);
        for command in &stage.commands {
            of_values(&command.instruction, findings);
        }
    }
    // What the image is made of: the target and the stages below it, lowest first.
    let mut chain = vec![target];
    while let Some(Base::Stage(below)) = chain.last().map(|at| &draft.stages[*at].base) {
        chain.push(*below);
    }
    chain.reverse();
    if let Some(lowest) = chain.first() {
        of_builder(draft, *lowest, findings);
    }
    let mut quiet_pip = false;
    for stage in &chain {
        for command in &draft.stages[*stage].commands {
            let instruction = &command.instruction;
            if let InstructionKind::Env(pairs) = &instruction.kind {
                quiet_pip |= pairs.iter().any(|pair| pair.key.as_str() == "PIP_NO_CACHE_DIR");
            } else if let InstructionKind::Run(run) = &instruction.kind {
                of_run(instruction, run, quiet_pip, findings);
            }
        }
    }
    if let [only] = chain.as_slice() {
        of_final(draft, *only, findings);
    }
}

fn of_base(stage: &StageDraft, findings: &mut Findings) {
    let Base::Image(name) = &stage.base else { return };
    let last = name.rsplit('/').next().unwrap_or(name);
    let tag = last.split_once(':').map(|(_, tag)| tag);
    if !name.contains('@') && matches!(tag, None | Some("latest")) {
        let detail = format!(
            "'{name}' is another image each time that somebody pushes it: name a version, or a digest"
        );
        findings.add(Rule::UnpinnedBaseImage, stage.lines, detail);
    }
}

fn of_values(instruction: &Instruction, findings: &mut Findings) {
    let pairs: Vec<(&str, &str)> = if let InstructionKind::Env(pairs) = &instruction.kind {
        pairs.iter().map(|pair| (pair.key.as_str(), pair.value.as_str())).collect()
    } else if let InstructionKind::Arg(arg) = &instruction.kind {
        let declared = arg
            .declarations
            .iter()
            .map(|one| (one.name.as_str(), one.default.as_ref().map_or("", |word| word.as_str())));
        declared.collect()
    } else {
        return;
    };
    for (name, value) in pairs {
        let value = value.trim_matches(['"', '\'']);
        let lower = name.to_lowercase();
        let named = lower.split('_').any(|part| SECRET_NAMES.contains(&part));
        let known = SECRETS.iter().any(|begin| value.starts_with(begin));
        let login = value.split_once("://").and_then(|(_, rest)| rest.split_once('@'));
        let login =
            login.is_some_and(|(login, _)| login.contains(':') && !login.contains(['/', '$']));
        if known || login || named {
            let detail = format!(
                "{name} looks like a secret, and stays in the image or its history: use RUN --mount=type=secret"
            );
            findings.add(Rule::SecretsInValues, lines(instruction.span), detail);
        }
    }
}

/// A target that stands on an image for builds carries all of it.
fn of_builder(draft: &Draft<'_>, lowest: usize, findings: &mut Findings) {
    let stage = &draft.stages[lowest];
    let Base::Image(name) = &stage.base else { return };
    let repository = name.split('@').next().unwrap_or(name);
    let last = repository.rsplit('/').next().unwrap_or(repository);
    let last = last.split(':').next().unwrap_or(last);
    if BUILDERS.contains(&last) {
        let detail = format!(
            "the image stands on {name}, which is for building{}: build there, and COPY --from it into a stage that only runs",
            weight(draft, lowest)
        );
        findings.add(Rule::BuildToolsInFinalStage, stage.lines, detail);
    }
}

/// What a base weighs, in words; nothing where that is not known.
fn weight(draft: &Draft<'_>, stage: usize) -> String {
    match draft.resolve(stage) {
        Ok(Ok(Ground::Image(_, image))) => {
            let bytes: u64 = image.layers.iter().map(|layer| layer.size).sum();
            format!(" and has {} of compressed layers", megabytes(bytes))
        }
        Ok(_) | Err(_) => String::new(),
    }
}

fn of_run(
    instruction: &Instruction,
    run: &RunInstruction,
    quiet_pip: bool,
    findings: &mut Findings,
) {
    let form = match &run.form {
        CommandForm::Shell(text) => text.clone(),
        CommandForm::Exec(argv) => argv.join(" "),
    };
    let text = run.heredocs.iter().fold(form, |text, heredoc| text + "\n" + &heredoc.content);
    let at = lines(instruction.span);
    // Flags count too: a cache that is mounted is in no layer.
    let whole = format!("{}\n{text}", instruction.source);
    let commands: Vec<Vec<&str>> =
        text.split(['\n', ';', '&', '|']).map(|one| one.split_whitespace().collect()).collect();
    for manager in &MANAGERS {
        let leaves = commands.iter().any(|words| calls(words, manager.names, manager.verbs));
        let quiet = quiet_pip && manager.names.contains(&"pip");
        if leaves && !quiet && !manager.remedies.iter().any(|remedy| whole.contains(remedy)) {
            findings.put(manager.leaves.finding(at));
        }
    }
    let installs = ["apt-get", "apt", "apk", "yum", "dnf", "microdnf"];
    let installed: Vec<&str> = commands
        .iter()
        .filter(|words| calls(words, &installs, &["install", "add"]))
        .flat_map(|words| words.iter().copied().filter(|word| is_tool(word)))
        .collect();
    let removed = ["purge", "apk del", "remove"].iter().any(|word| text.contains(word));
    if !installed.is_empty() && !removed {
        let detail = format!(
            "{} stay in the image: build in a stage of its own, and COPY --from it",
            installed.join(", ")
        );
        findings.add(Rule::BuildToolsInFinalStage, at, detail);
    }
}

/// Whether a command is one of these programs with one of these words behind it.
fn calls(words: &[&str], programs: &[&str], verbs: &[&str]) -> bool {
    let name = |word: &str| word.rsplit('/').next().unwrap_or(word).to_owned();
    let program = words.iter().position(|word| programs.contains(&name(word).as_str()));
    program.is_some_and(|at| words.iter().skip(at + 1).any(|word| verbs.contains(word)))
}

fn is_tool(word: &str) -> bool {
    let package = word.split(['=', ':']).next().unwrap_or(word);
    TOOLS.contains(&package)
        || (package.starts_with("openjdk") && package.contains("jdk-headless"))
        || (package.starts_with("openjdk-") && package.ends_with("-jdk"))
}

/// A final stage that only receives files and starts one of them needs little below it.
fn of_final(draft: &Draft<'_>, target: usize, findings: &mut Findings) {
    let stage = &draft.stages[target];
    let Base::Image(base) = &stage.base else { return };
    if base.contains("distroless") || base.ends_with("static") || base.contains("chiselled") {
        return;
    }
    let mut brought = Vec::new();
    let mut starts = None;
    for command in &stage.commands {
        let kind = &command.instruction.kind;
        if matches!(kind, InstructionKind::Run(_)) {
            return;
        }
        if let InstructionKind::Copy(copy) = kind
            && copy.from.is_some()
        {
            brought.push(copy.paths.dest.as_str());
        }
        if let InstructionKind::Entrypoint(CommandForm::Exec(argv)) = kind {
            starts = argv.first().cloned();
        } else if let InstructionKind::Cmd(CommandForm::Exec(argv)) = kind
            && starts.is_none()
        {
            starts = argv.first().cloned();
        }
    }
    let Some(program) = starts.filter(|program| program.starts_with('/')) else { return };
    let brings = |dest: &&str| {
        let folder = dest.trim_end_matches('/');
        program == folder || (dest.ends_with('/') && program.starts_with(&format!("{folder}/")))
    };
    if brought.iter().any(brings) {
        let detail = format!(
            "the final stage only copies files and starts {program}: FROM scratch would do for a static binary, a distroless image for others; {base} is the base now{}",
            weight(draft, target)
        );
        findings.add(Rule::FinalStageCouldBeSmaller, stage.lines, detail);
    }
}
