//! Why a policy cannot be asked.

use std::path::PathBuf;

use dcbuild_model::limits;

/// Says why a policy cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum RegoError {
    /// Its file could not be read.
    #[error("could not read the policy '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that a policy reads is not there.
    #[error("could not read '{name}' for a policy")]
    Part {
        /// The file, as the policy names it.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that a policy reads lies outside of all folders that it may read.
    #[error("'{name}' is outside of the folders that a policy may read")]
    Outside {
        /// The file, as the policy names it.
        name: String,
    },
    /// A file is too large.
    #[error("'{name}' is larger than {max} bytes")]
    Large {
        /// The file.
        name: String,
        /// How large it may be.
        max: u64,
    },
    /// It is no Rego, or stops at an error.
    #[error("{at}: {problem}")]
    Invalid {
        /// File, line and column.
        at: String,
        /// What is wrong.
        problem: String,
    },
    /// It is not in the package that is asked.
    #[error("{name} is in the package '{package}', and not in 'docker'")]
    Package {
        /// The file.
        name: String,
        /// Its package.
        package: String,
    },
    /// It asks for something that nobody can tell it.
    #[error("{name}:{line}: a policy cannot have '{what}' here: {why}")]
    Unsupported {
        /// The file.
        name: String,
        /// The line.
        line: usize,
        /// What it asks for.
        what: String,
        /// Why that is not to be had.
        why: &'static str,
    },
    /// It has no decision.
    #[error("{name} decides nothing: {problem}")]
    Decision {
        /// The file.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

impl RegoError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            RegoError::Part { .. } | RegoError::Outside { .. } => Some(
                "names are looked for in the context's folder and in that of the policy; 'cwd://NAME' is in the working folder",
            ),
            RegoError::Invalid { problem, .. } if problem.contains("could not find function") => {
                Some(
                    "functions of clocks, chance, YAML and the network are not there, and one of an import is called by its whole name, data.lib.name(...): see docs/policy.md",
                )
            }
            RegoError::Invalid { problem, .. } if problem.contains("`if` keyword") => {
                Some("policies are written in Rego v1: 'allow if { ... }'")
            }
            RegoError::Read { .. } | RegoError::Large { .. } | RegoError::Invalid { .. } => None,
            RegoError::Package { .. } => Some("begin it with 'package docker'"),
            RegoError::Unsupported { .. } => Some(
                "leave it out of the policy, or build with docker; 'dcbuild build --policy disabled=true' builds without any policy",
            ),
            RegoError::Decision { .. } => {
                Some("end it with 'decision := {\"allow\": allow}', and 'default allow := false'")
            }
        }
    }

    /// What the engine says, as one line with its place.
    pub(crate) fn of_engine(name: &str, error: &anyhow::Error) -> RegoError {
        let text = format!("{error:#}");
        let place = text.lines().find_map(|line| line.trim().strip_prefix("--> "));
        let at = place.unwrap_or(name).to_owned();
        let problem = text.lines().filter_map(|line| line.strip_prefix("error: ")).next_back();
        let problem = match problem {
            Some(problem) => problem.to_owned(),
            None => text.split_whitespace().collect::<Vec<_>>().join(" "),
        };
        let problem = if problem.contains("time limit") {
            format!("it takes longer than {} seconds", limits::POLICY_TIME_MAX.as_secs())
        } else {
            problem
        };
        RegoError::Invalid { at, problem }
    }
}
