//! What a Dockerfile can be asked besides being built: what is questionable in it, which parameters and which targets
//! it has.

pub mod show;

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_dockerfile::{Dockerfile, Partly, parse, parse_partly};
use serde::{Deserialize, Serialize};

use crate::lint::stage::{Own, of_stages};
use crate::lint::{self, Checks, Finding, Findings};
use crate::plan::PlanError;
use crate::request::{OnePlatform, Request};
use crate::sources::{Need, Sources};
use crate::stage::{Reach, Surveyed, lines, survey};
use crate::walk::{self, Walked};

/// What is asked of a Dockerfile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Call {
    /// What is questionable in it.
    Check,
    /// What is questionable in it, and what could be better.
    Advice,
    /// Which parameters the target has.
    Outline,
    /// Which targets there are.
    Targets,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "report")]
pub enum Report {
    /// What is questionable.
    Check(CheckReport),
    /// The parameters.
    Outline(Outline),
    /// The targets.
    Targets(Targets),
}

/// What is questionable in a Dockerfile, and why it could not be built, if that is known already.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckReport {
    /// What is questionable.
    pub findings: Vec<Finding>,
    /// Why it could not be built.
    pub error: Option<CheckError>,
}

/// Why a Dockerfile could not be built.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckError {
    /// What is wrong.
    pub message: String,
    /// The lines of the Dockerfile, first and last, from 1.
    pub lines: Option<(u32, u32)>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// The parameters of a target.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outline {
    /// The target's name; empty if it has none.
    pub name: String,
    /// What a comment says of it.
    pub description: String,
    /// The build arguments.
    pub args: Vec<OutlineArg>,
    /// The secrets.
    pub secrets: Vec<OutlineMount>,
    /// The SSH agents.
    pub ssh: Vec<OutlineMount>,
}

/// A build argument.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub value: String,
    /// What a comment says of it.
    pub description: String,
    /// The lines of its ARG, first and last, from 1.
    pub lines: (u32, u32),
}

/// A secret or an SSH agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutlineMount {
    /// Its id.
    pub name: String,
    /// Whether a build without it fails.
    pub required: bool,
    /// The lines of its RUN, first and last, from 1.
    pub lines: (u32, u32),
}

/// The stages of a Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// In the order of the Dockerfile; the last is built where none is named.
    pub targets: Vec<Target>,
}

/// A stage.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Its name; empty if it has none.
    pub name: String,
    /// What a comment says of it.
    pub description: String,
    /// What it stands on, as written.
    pub base: String,
    /// Its platform, as written.
    pub platform: String,
    /// The lines of its FROM, first and last, from 1.
    pub lines: (u32, u32),
}

/// What a call comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Called {
    /// The answer.
    Ready(Report),
    /// The sources that are still lacking; call again when they are there.
    Lacks(Vec<Need>),
}

/// Answers what is asked of a Dockerfile, or says which sources that needs; no file of a context is among them.
pub fn call(call: Call, request: &Request, sources: &Sources) -> Result<Called, PlanError> {
    match call {
        Call::Check => Ok(check(request, sources, &|checks| checks)),
        Call::Advice => Ok(check(request, sources, &Checks::with_advice)),
        Call::Outline => outline(request, sources),
        Call::Targets => {
            let dockerfile = parse(request.dockerfile.as_bytes())?;
            Ok(Called::Ready(Report::Targets(targets(&dockerfile))))
        }
    }
}

fn targets(dockerfile: &Dockerfile) -> Targets {
    let target = |stage: &dcbuild_dockerfile::Stage| Target {
        name: stage.name.clone().unwrap_or_default(),
        description: stage.description().unwrap_or_default().to_owned(),
        base: stage.base.to_string(),
        platform: stage.platform.as_ref().map(ToString::to_string).unwrap_or_default(),
        lines: lines(stage.span),
    };
    Targets { targets: dockerfile.stages.iter().map(target).collect() }
}

fn check(request: &Request, sources: &Sources, with: &dyn Fn(Checks) -> Checks) -> Called {
    let Partly { dockerfile, error } = parse_partly(request.dockerfile.as_bytes());
    let mut findings = Findings::default();
    let outcome = match Checks::of(request, &dockerfile) {
        Err(error) => Err(error),
        Ok(checks) => {
            let checks = with(checks);
            findings = Findings::new(checks.clone());
            lint::file::of_lines(&dockerfile, &mut findings);
            match error {
                Some(error) => Err(PlanError::from(error)),
                None => check_platforms((request, sources), &dockerfile, &checks, &mut findings),
            }
        }
    };
    let error = match outcome {
        Ok(lacks) if !lacks.is_empty() => return Called::Lacks(lacks),
        Ok(_) => findings.violation().map(PlanError::violation),
        Err(error) => Some(error),
    };
    let error = error.map(|error| CheckError {
        lines: error.lines(),
        hint: error.hint(),
        message: error.to_string(),
    });
    Called::Ready(Report::Check(CheckReport { findings: findings.take(), error }))
}

/// Checks the file for each platform; says what must be known first.
fn check_platforms(
    (request, sources): (&Request, &Sources),
    dockerfile: &Dockerfile,
    checks: &Checks,
    findings: &mut Findings,
) -> Result<Vec<Need>, PlanError> {
    let mut lacks = BTreeSet::new();
    for one in request.each() {
        let mut found = Findings::new(checks.clone());
        let checked = check_stages((one, sources), dockerfile, &mut found);
        findings.join(found);
        lacks.extend(checked?);
    }
    Ok(lacks.into_iter().collect())
}

/// Checks all stages, or those that the target needs; says what must be known first.
fn check_stages(
    (one, sources): (OnePlatform<'_>, &Sources),
    dockerfile: &Dockerfile,
    findings: &mut Findings,
) -> Result<Vec<Need>, PlanError> {
    let surveyed = match survey((one, sources), dockerfile, Reach::All, findings)? {
        Ok(surveyed) => surveyed,
        Err(lacks) => return Ok(lacks),
    };
    let Surveyed { draft, target, needed } = surveyed;
    of_stages(&draft, &needed, findings);
    lint::advice::of_target(&draft, target, findings);
    match walk::walk(&draft, (target, &needed), &mut walk::Steps::default())? {
        Walked::Ready(_) => Ok(Vec::new()),
        // What the files of a context look like changes nothing about the Dockerfile.
        Walked::Lacks(needs) => {
            Ok(needs.into_iter().filter(|need| !matches!(need, Need::Selection { .. })).collect())
        }
    }
}

fn outline(request: &Request, sources: &Sources) -> Result<Called, PlanError> {
    let dockerfile = parse(request.dockerfile.as_bytes())?;
    let mut findings = Findings::default();
    let one = (request.first(), sources);
    let surveyed = survey(one, &dockerfile, Reach::Target, &mut findings)?;
    let Surveyed { draft, target, needed } = match surveyed {
        Ok(surveyed) => surveyed,
        Err(lacks) => return Ok(Called::Lacks(lacks)),
    };
    let own = of_stages(&draft, &needed, &mut findings);
    let stage = &dockerfile.stages[target];
    let mut outline = Outline {
        name: stage.name.clone().unwrap_or_default(),
        description: stage.description().unwrap_or_default().to_owned(),
        ..Outline::default()
    };
    gather(&mut outline, &dockerfile, &draft.globals, own);
    Ok(Called::Ready(Report::Outline(outline)))
}

/// Puts together what the stages that are needed define or mount; of two with one name the first counts.
fn gather(
    outline: &mut Outline,
    dockerfile: &Dockerfile,
    globals: &crate::env::Env,
    own: BTreeMap<usize, Own>,
) {
    let mut used: BTreeSet<String> = own.values().flat_map(|own| own.globals.clone()).collect();
    let mut args = BTreeMap::new();
    let mut secrets = BTreeMap::new();
    let mut ssh = BTreeMap::new();
    for own in own.into_values() {
        for arg in own.args {
            args.entry(arg.name.clone()).or_insert(arg);
        }
        for (of, into) in [(own.secrets, &mut secrets), (own.ssh, &mut ssh)] {
            for mount in of {
                into.entry(mount.name.clone()).or_insert(mount);
            }
        }
    }
    // A default may name arguments that stand above it.
    for arg in dockerfile.global_args.iter().rev() {
        for declaration in arg.declarations.iter().rev() {
            let name = declaration.name.as_str();
            if !used.contains(name) {
                continue;
            }
            if let Some(default) = &declaration.default {
                used.extend(lint::from::names_in(dockerfile, globals, default.as_str()));
            }
            args.entry(name.to_owned()).or_insert_with(|| OutlineArg {
                name: name.to_owned(),
                value: globals.get(name).unwrap_or_default().to_owned(),
                description: arg.description(name).unwrap_or_default().to_owned(),
                lines: lines(arg.span),
            });
        }
    }
    outline.args = args.into_values().collect();
    outline.secrets = secrets.into_values().collect();
    outline.ssh = ssh.into_values().collect();
    outline.args.sort_by_key(|arg| arg.lines);
    outline.secrets.sort_by_key(|mount| mount.lines);
    outline.ssh.sort_by_key(|mount| mount.lines);
}
