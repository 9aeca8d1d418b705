//! Checks of what stands behind FROM.

use std::collections::BTreeSet;

use dcbuild_dockerfile::suggest::nearest;
use dcbuild_dockerfile::{Dockerfile, ExpandOptions, Expanded, Stage, expand};
use dcbuild_model::Platform;
use dcbuild_oci::ImageRef;

use super::{Findings, Rule};
use crate::env::Env;
use crate::globals;
use crate::request::OnePlatform;
use crate::stage::lines;

/// Checks every FROM of a file; `globals` are the variables that they see in this build.
pub(crate) fn of_bases(
    one: OnePlatform<'_>,
    dockerfile: &Dockerfile,
    globals: &Env,
    findings: &mut Findings,
) {
    of_defaults(one, dockerfile, findings);
    let declared = dockerfile.global_args.iter().flat_map(|arg| &arg.declarations);
    let known: BTreeSet<&str> = declared
        .map(|declaration| declaration.name.as_str())
        .chain(globals.pairs().iter().map(|(name, _)| name.as_str()))
        .collect();
    for stage in &dockerfile.stages {
        let expanded = |word: &str| expanded(dockerfile, globals, word);
        if let Some(base) = expanded(stage.base.as_str()) {
            of_undeclared(stage, &base, &known, findings);
        }
        if let Some(word) = &stage.platform
            && let Some(platform) = expanded(word.as_str())
        {
            of_undeclared(stage, &platform, &known, findings);
            of_platform(stage, word.as_str(), &platform, globals, findings);
        }
    }
}

fn expanded(dockerfile: &Dockerfile, env: &Env, word: &str) -> Option<Expanded> {
    let lookup = |name: &str| env.get(name).map(str::to_owned);
    expand(word, &lookup, ExpandOptions::with_escape(dockerfile.escape())).ok()
}

/// The variables that a word reads.
pub(crate) fn names_in(dockerfile: &Dockerfile, env: &Env, word: &str) -> BTreeSet<String> {
    expanded(dockerfile, env, word).map(|expanded| expanded.matched).unwrap_or_default()
}

/// The variables that the FROM of a stage reads.
pub(crate) fn names_of(dockerfile: &Dockerfile, env: &Env, stage: usize) -> BTreeSet<String> {
    let Some(stage) = dockerfile.stages.get(stage) else { return BTreeSet::new() };
    let words = std::iter::once(&stage.base).chain(&stage.platform);
    words.flat_map(|word| names_in(dockerfile, env, word.as_str())).collect()
}

/// A base should have a valid name also where no build argument is given.
fn of_defaults(one: OnePlatform<'_>, dockerfile: &Dockerfile, findings: &mut Findings) {
    let Ok(defaults) = globals::defaults(one, dockerfile) else { return };
    for stage in &dockerfile.stages {
        let Some(base) = expanded(dockerfile, &defaults, stage.base.as_str()) else { return };
        if base.text.parse::<ImageRef>().is_err() {
            let detail = format!(
                "Default value for ARG {} results in empty or invalid base image name",
                stage.base
            );
            findings.add(Rule::InvalidDefaultArgInFrom, lines(stage.span), detail);
        }
    }
}

fn of_undeclared(
    stage: &Stage,
    expanded: &Expanded,
    known: &BTreeSet<&str>,
    findings: &mut Findings,
) {
    let options: Vec<&str> = known.iter().copied().collect();
    for name in expanded.unmatched.iter().filter(|name| !known.contains(name.as_str())) {
        let mut detail = format!("FROM argument '{name}' is not declared");
        if let Some(meant) = nearest(name, &options) {
            detail.push_str(&format!(" (did you mean {meant}?)"));
        }
        findings.add(Rule::UndefinedArgInFrom, lines(stage.span), detail);
    }
}

fn of_platform(
    stage: &Stage,
    written: &str,
    expanded: &Expanded,
    globals: &Env,
    findings: &mut Findings,
) {
    const TARGET: &str = "TARGETPLATFORM";
    let at = lines(stage.span);
    let only = expanded.unmatched.is_empty()
        && expanded.matched.len() == 1
        && expanded.matched.contains(TARGET);
    if only && globals.get(TARGET) == Some(&expanded.text) {
        let detail = format!(
            "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
        );
        findings.add(Rule::RedundantTargetPlatform, at, detail);
    }
    if !expanded.matched.is_empty() || !expanded.unmatched.is_empty() {
        return;
    }
    let Ok(platform) = expanded.text.parse::<Platform>() else { return };
    let name = stage.name.as_deref().unwrap_or_default();
    if !name.contains(&platform.os) && !name.contains(&platform.arch) {
        let detail =
            format!("FROM --platform flag should not use constant value \"{}\"", expanded.text);
        findings.add(Rule::FromPlatformFlagConstDisallowed, at, detail);
    }
}
