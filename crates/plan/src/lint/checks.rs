//! Which checks are wanted: what the Dockerfile says, or the build argument that goes before it.

use dcbuild_dockerfile::{CheckDirective, Dockerfile};

use super::Rule;
use crate::plan::PlanError;
use crate::request::Request;

/// The build argument that takes the place of `# check=`.
const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// Which checks are wanted, and whether what they find is an error.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checks {
    written: CheckDirective,
    advice: bool,
}

impl Checks {
    /// Those of a build.
    pub fn of(request: &Request, dockerfile: &Dockerfile) -> Result<Checks, PlanError> {
        let Some(given) = request.build_args.get(ARGUMENT) else {
            let written = dockerfile.directives.check.clone().unwrap_or_default();
            return Ok(Checks { written, advice: false });
        };
        let written = CheckDirective::parse(given);
        written.map(|written| Checks { written, advice: false }).map_err(|problem| {
            PlanError::Request {
                message: problem.to_string(),
                hint: Some(format!("such as --build-arg {ARGUMENT}=skip=all;error=true")),
            }
        })
    }

    /// The same, with advice.
    pub(crate) fn with_advice(self) -> Checks {
        Checks { advice: true, ..self }
    }

    pub(crate) fn wants(&self, rule: Rule) -> bool {
        if rule.is_experimental() {
            self.written.experimental.holds(rule.name())
        } else {
            !self.written.skip.holds(rule.name()) && (self.advice || !rule.is_advice())
        }
    }

    pub(crate) fn are_errors(&self) -> bool {
        self.written.error
    }
}
