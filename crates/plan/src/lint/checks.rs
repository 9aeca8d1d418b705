//! Which checks are wanted: what the Dockerfile says, or the build argument that goes before it.

use dcbuild_dockerfile::{CheckDirective, Dockerfile};

use super::Rule;
use crate::plan::PlanError;
use crate::request::Request;

/// The build argument that takes the place of `# check=`.
const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// Which checks are wanted, and whether what they find is an error.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checks(CheckDirective);

impl Checks {
    /// Those of a build.
    pub fn of(request: &Request, dockerfile: &Dockerfile) -> Result<Checks, PlanError> {
        let Some(given) = request.build_args.get(ARGUMENT) else {
            return Ok(Checks(dockerfile.directives.check.clone().unwrap_or_default()));
        };
        CheckDirective::parse(given).map(Checks).map_err(|problem| PlanError::Request {
            message: problem.to_string(),
            hint: Some(format!("such as --build-arg {ARGUMENT}=skip=all;error=true")),
        })
    }

    pub(crate) fn wants(&self, rule: Rule) -> bool {
        if rule.is_experimental() {
            self.0.experimental.holds(rule.name())
        } else {
            !self.0.skip.holds(rule.name())
        }
    }

    pub(crate) fn are_errors(&self) -> bool {
        self.0.error
    }
}
