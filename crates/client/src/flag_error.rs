//! What is wrong with a flag.

use dcbuild_model::{Fault, InvalidRemote, ParsePlatformError};
use dcbuild_oci::{InvalidLayout, ParseReferenceError};
use dcbuild_process::Hint;
use dcbuild_progress::mode::ParseModeError;

/// Says which flag of a build cannot be meant, and why.
#[derive(Debug, thiserror::Error)]
pub enum FlagError {
    /// The value is not of the form that the flag has.
    #[error("--{flag} '{value}' is malformed: {problem}")]
    Malformed {
        /// The flag, without its dashes.
        flag: &'static str,
        /// The value, as given.
        value: String,
        /// What is wrong.
        problem: String,
        /// What a right one looks like.
        example: &'static str,
    },
    /// This version cannot do it.
    #[error("--{flag} '{value}' is not supported")]
    Unsupported {
        /// The flag, without its dashes.
        flag: &'static str,
        /// The value, as given.
        value: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// A variable of the environment has a value that it cannot have.
    #[error("{variable} cannot be '{value}'")]
    Variable {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// An address is none.
    #[error("{what} '{value}' is no address that can be fetched from")]
    Remote {
        /// What it is an address of: the context, or a flag.
        what: &'static str,
        /// The value, as given.
        value: String,
        /// What is wrong.
        source: InvalidRemote,
    },
    /// Two flags that cannot stand together.
    #[error("{first} and {second} do not go together")]
    Conflict {
        /// One.
        first: String,
        /// The other.
        second: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// A flag that needs another one.
    #[error("{what} needs {needs}")]
    Needs {
        /// What was asked.
        what: String,
        /// What is lacking.
        needs: &'static str,
    },
    /// The name of an image is none.
    #[error("--{flag} '{value}' is no name of an image")]
    Name {
        /// The flag, without its dashes.
        flag: &'static str,
        /// The value, as given.
        value: String,
        /// What is wrong.
        source: ParseReferenceError,
    },
    /// The platform is none.
    #[error("--platform is malformed")]
    Platform(#[source] ParsePlatformError),
    /// The layout is none.
    #[error("--build-context '{value}' names no layout")]
    Layout {
        /// The value, as given.
        value: String,
        /// What is wrong.
        source: InvalidLayout,
    },
    /// There is no agent to forward.
    #[error("--ssh '{id}' forwards an ssh agent, and SSH_AUTH_SOCK names none")]
    NoAgent {
        /// The id.
        id: String,
    },
    /// The mode is none.
    #[error("--progress is malformed")]
    Progress(#[source] ParseModeError),
}

impl FlagError {
    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        Fault::Request
    }
}

impl Hint for FlagError {
    fn hint(&self) -> Option<String> {
        match self {
            FlagError::Malformed { example, .. } => Some(format!("such as {example}")),
            FlagError::Unsupported { instead, .. }
            | FlagError::Variable { instead, .. }
            | FlagError::Conflict { instead, .. } => Some((*instead).to_owned()),
            FlagError::Needs { .. } => None,
            FlagError::Remote { .. } => Some(
                "such as https://host/team/app.git#main:folder, or the URL of an archive".into(),
            ),
            FlagError::Name { flag: "tag", value, .. } if value.contains(',') => Some(format!(
                "give -t once for each name: -t {}",
                value.split(',').map(str::trim).collect::<Vec<_>>().join(" -t ")
            )),
            FlagError::Name { .. } => Some("such as -t registry.example.com/team/app:1.2".into()),
            FlagError::Platform(_) => Some("such as --platform linux/amd64".into()),
            FlagError::Layout { .. } => {
                Some("such as --build-context base=oci-layout://DIR:TAG".into())
            }
            FlagError::NoAgent { id } => Some(format!(
                "start one with `eval $(ssh-agent)` and give it keys with ssh-add, or name a key file: --ssh {id}=KEYFILE"
            )),
            FlagError::Progress(_) => Some("such as --progress=plain".into()),
        }
    }
}
