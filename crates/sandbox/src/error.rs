//! Why there is no sandbox, or a step has no exit.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::network::IsolateError;
use crate::report::lasts;
use crate::spec::Network;

/// Says why there can be no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A folder of the state could not be made.
    #[error("could not make '{}'", .path.display())]
    State {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Groups of dead attempts could not be removed.
    #[error("could not sweep the control groups of earlier attempts")]
    Sweep(#[source] io::Error),
}

/// Says why a step has no exit.
#[derive(Debug, thiserror::Error)]
pub enum CellError {
    /// The step asks for what cannot be; trying again changes nothing.
    #[error("{reason}")]
    Refused {
        /// What is wrong, in words for the step's author.
        reason: String,
    },
    /// The user that the step is to run as is not there.
    #[error("{reason}")]
    Stranger {
        /// Who is not there.
        reason: String,
    },
    /// This machine does not allow a limit that the step asks for.
    #[error("--ulimit {ulimit} is more than can be had here: {reason}")]
    Limit {
        /// The limit, as the flag has it.
        ulimit: String,
        /// What there is.
        reason: String,
        /// Whether it is the kernel that has no more for anybody.
        of_kernel: bool,
    },
    /// This machine lacks what every step needs.
    #[error("this machine cannot run a step: {reason}")]
    Unable {
        /// What is lacking.
        reason: String,
    },
    /// This machine could not make the cell.
    #[error("could not {action}: {reason}")]
    Machine {
        /// What was tried.
        action: String,
        /// Why not.
        reason: String,
        /// Whether it would be so again.
        lasting: bool,
    },
    /// A network of this kind cannot be had here.
    #[error("this sandbox has no network of the kind {kind:?}")]
    NetworkUnavailable {
        /// The kind.
        kind: Network,
    },
    /// A network of the step's own could not be made.
    #[error("could not make a network for the step")]
    Network(#[source] IsolateError),
    /// The helper process could not be started or talked to.
    #[error("could not {action} the step's helper process")]
    Helper {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The control group could not be made.
    #[error("could not make the control group of attempt {attempt}")]
    Cgroup {
        /// The attempt.
        attempt: String,
        /// Why not.
        source: io::Error,
    },
    /// The helper ended without a word.
    #[error("the step's helper process died")]
    HelperDied,
    /// The step took longer than its limit and was killed.
    #[error("the step took longer than {limit:?}")]
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// The caller stopped the step.
    #[error("the step was stopped")]
    Stopped,
}

/// What a machine needs for steps to run in it, for whoever finds that they do not.
pub const NEEDS: &str = "in a container, dcbuild needs to be privileged, with a state folder that is no overlay itself; the \
                         kernel needs overlayfs and namespaces";

impl CellError {
    /// What could help.
    pub fn hint(&self) -> Option<String> {
        match self {
            CellError::Unable { .. }
            | CellError::Machine { .. }
            | CellError::Cgroup { .. }
            | CellError::Network(IsolateError::Kernel { .. }) => {
                Some(format!("{NEEDS}; `dcbuild doctor` looks at that"))
            }
            CellError::Limit { of_kernel: true, .. } => Some(
                "give a lower --ulimit, or have the machine's owner raise what its kernel allows (`sysctl -w fs.nr_open=N`)"
                    .to_owned(),
            ),
            CellError::Stranger { .. } => Some(
                "make it in a RUN before (adduser -D NAME in Alpine and busybox, useradd NAME elsewhere), or give its number, which needs no name"
                    .to_owned(),
            ),
            CellError::Limit { .. } => Some(
                "give a lower --ulimit, or start dcbuild with a higher hard limit (`ulimit -H` shows those of a shell)"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// Whether another try on this machine would end in the same way.
    pub fn is_lasting(&self) -> bool {
        let denied = |source: &io::Error| source.raw_os_error().is_some_and(lasts);
        match self {
            CellError::Refused { .. }
            | CellError::Limit { .. }
            | CellError::Stranger { .. }
            | CellError::Unable { .. }
            | CellError::NetworkUnavailable { .. } => true,
            CellError::Machine { lasting, .. } => *lasting,
            CellError::Network(IsolateError::Kernel { source, .. })
            | CellError::Cgroup { source, .. } => denied(source),
            CellError::Network(IsolateError::Firewall | IsolateError::PoolFull { .. })
            | CellError::Helper { .. }
            | CellError::HelperDied
            | CellError::TimedOut { .. }
            | CellError::Stopped => false,
        }
    }
}
