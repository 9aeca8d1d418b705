//! The variables that FROM sees: those of the platform, and the ARGs before the first FROM.

use dcbuild_dockerfile::Dockerfile;
use dcbuild_dockerfile::expand::expand_word;
use dcbuild_model::Platform;

use crate::env::Env;
use crate::plan::PlanError;
use crate::request::Request;
use crate::stage::{expansion, lines};

pub(crate) fn globals(request: &Request, dockerfile: &Dockerfile) -> Result<Env, PlanError> {
    let mut env = platform_args(request, dockerfile);
    for instruction in &dockerfile.global_args {
        let at = lines(instruction.span);
        for declaration in &instruction.declarations {
            let name = declaration.name.as_str();
            let value = match (request.build_args.get(name), &declaration.default) {
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
    }
    Ok(env)
}

fn platform_args(request: &Request, dockerfile: &Dockerfile) -> Env {
    let mut env = Env::default();
    let last = dockerfile.stages.last().and_then(|stage| stage.name.clone());
    let target = request.target.clone().or(last).unwrap_or_else(|| "default".into());
    for (prefix, platform) in
        [("BUILD", &request.build_platform), ("TARGET", request.target_platform())]
    {
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
