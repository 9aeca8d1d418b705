//! The variables that FROM sees: those of the platform, and the ARGs before the first FROM.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_dockerfile::expand::expand_word;
use dcbuild_dockerfile::{Dockerfile, InstructionKind};
use dcbuild_model::Platform;

use crate::env::Env;
use crate::plan::PlanError;
use crate::request::OnePlatform;
use crate::stage::{expansion, lines, refuse_large};

pub(crate) fn globals(one: OnePlatform<'_>, dockerfile: &Dockerfile) -> Result<Env, PlanError> {
    declared(platform_args(one, dockerfile), &one.whole.build_args, dockerfile)
}

/// The same where the command line gives no argument.
pub(crate) fn defaults(one: OnePlatform<'_>, dockerfile: &Dockerfile) -> Result<Env, PlanError> {
    declared(platform_args(one, dockerfile), &BTreeMap::new(), dockerfile)
}

fn declared(
    mut env: Env,
    build_args: &BTreeMap<String, String>,
    dockerfile: &Dockerfile,
) -> Result<Env, PlanError> {
    for instruction in &dockerfile.global_args {
        let at = lines(instruction.span);
        for declaration in &instruction.declarations {
            let name = declaration.name.as_str();
            let value = match (build_args.get(name), &declaration.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => {
                    let lookup = |name: &str| env.get(name).map(str::to_owned);
                    let escape = dockerfile.escape();
                    Some(expand_word(default.as_str(), &lookup, escape).map_err(expansion(at))?)
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                env.set(name, &value);
            }
        }
        refuse_large(&env, at)?;
    }
    Ok(env)
}

fn platform_args(one: OnePlatform<'_>, dockerfile: &Dockerfile) -> Env {
    let (request, mut env) = (one.whole, Env::default());
    let last = dockerfile.stages.last().and_then(|stage| stage.name.clone());
    let target = request.target.clone().or(last).unwrap_or_else(|| "default".into());
    for (prefix, platform) in [("BUILD", &request.build_platform), ("TARGET", one.target())] {
        let Platform { os, arch, variant } = platform;
        env.set(&format!("{prefix}PLATFORM"), &platform.to_string());
        env.set(&format!("{prefix}OS"), os);
        env.set(&format!("{prefix}OSVERSION"), "");
        env.set(&format!("{prefix}ARCH"), arch);
        env.set(&format!("{prefix}VARIANT"), variant);
    }
    env.set("TARGETSTAGE", &target);
    for (name, value) in &request.build_args {
        if env.get(name).is_some() {
            env.set(name, value);
        }
    }
    env
}

/// Build arguments that mean something though no ARG declares them, in any case of letters.
const PREDEFINED: [&str; 6] =
    ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy", "source_date_epoch"];

/// A warning that names the build arguments which nothing reads, in docker's words; `declared` are the ARGs of stages
/// that were planned, those of ONBUILD among them.
pub(crate) fn unconsumed<'a>(
    one: OnePlatform<'_>,
    dockerfile: &'a Dockerfile,
    declared: impl Iterator<Item = &'a str>,
) -> Option<String> {
    let platform = platform_args(one, dockerfile);
    let in_stages = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    let in_stages = in_stages.filter_map(|instruction| {
        if let InstructionKind::Arg(arg) = &instruction.kind { Some(arg) } else { None }
    });
    let written = dockerfile.global_args.iter().chain(in_stages);
    let written = written.flat_map(|arg| &arg.declarations).map(|it| it.name.as_str());
    let known: BTreeSet<&str> = written.chain(declared).collect();
    let predefined = |name: &str| {
        PREDEFINED.contains(&name.to_ascii_lowercase().as_str())
            || name.starts_with("BUILDKIT_")
            || platform.get(name).is_some()
    };
    let names: Vec<&str> = one
        .whole
        .build_args
        .keys()
        .map(String::as_str)
        .filter(|name| !known.contains(name) && !predefined(name))
        .collect();
    let listed = names.join(" ");
    (!names.is_empty())
        .then(|| format!("[Warning] One or more build-args [{listed}] were not consumed"))
}

#[cfg(test)]
mod tests {
    use dcbuild_dockerfile::parse;

    use super::*;
    use crate::request::Request;

    #[test]
    fn arguments_that_nothing_reads_are_named() {
        let text =
            "ARG GLOBAL\nFROM scratch AS other\nARG ELSEWHERE=1 BESIDE\nFROM scratch\nARG HERE\n";
        let dockerfile = parse(text.as_bytes()).unwrap();
        let warning = |names: &[&str], declared: &[&str]| {
            let args = names.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect();
            let request = Request { build_args: args, ..Request::new(text) };
            unconsumed(request.first(), &dockerfile, declared.iter().copied())
        };
        let read = ["GLOBAL", "ELSEWHERE", "BESIDE", "HERE"];
        assert_eq!(warning(&read, &[]), None);
        let predefined =
            ["HTTP_PROXY", "no_proxy", "SOURCE_DATE_EPOCH", "BUILDKIT_SYNTAX", "TARGETARCH"];
        assert_eq!(warning(&predefined, &[]), None);
        assert_eq!(
            warning(&["NONE", "HERE", "ALSO", "ONBUILD_ARG"], &["ONBUILD_ARG"]).unwrap(),
            "[Warning] One or more build-args [ALSO NONE] were not consumed"
        );
    }
}
