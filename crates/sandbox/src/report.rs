//! What a cell tells its caller, one JSON document a line.

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};

use crate::cgroup::CgroupPaths;
use crate::spec::CellSpec;

/// What the caller writes first: all that a cell knows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) spec: CellSpec,
    pub(crate) cgroup: CgroupPaths,
    /// Whether device nodes in the step's root open what they stand for.
    pub(crate) devices: bool,
    pub(crate) places: Places,
    /// The step's network namespace; none for the host's.
    pub(crate) network: Option<std::path::PathBuf>,
    /// How many files the step may have open, where that is not what the helper may.
    pub(crate) open_files: Option<u64>,
}

impl Order {
    /// The attributes of a mount in which the step may make device nodes: where nothing else says which of them open
    /// something, none does.
    pub(crate) fn node_attributes(&self) -> MountAttrFlags {
        if self.devices { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_NODEV }
    }
}

/// Empty folders of the host; each cell mounts over them in its own mount namespace, so all cells share them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Places {
    pub(crate) root: std::path::PathBuf,
    pub(crate) stage: std::path::PathBuf,
    pub(crate) empty: std::path::PathBuf,
    pub(crate) files: std::path::PathBuf,
}

/// What a cell writes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The root stands, and these paths were made in it, relative to it.
    Made { stubs: Vec<Vec<u8>> },
    /// The step could not start.
    Failed(Failure),
    /// The program ended by itself.
    Exited { code: i32 },
    /// The program was ended by a signal.
    Signaled { signal: i32 },
}

/// Why a step could not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Failure {
    /// The step asks for what cannot be.
    #[error("{0}")]
    Refused(String),
    /// The machine gives no process of the step a limit that it asks for.
    #[error("--ulimit {ulimit} is more than can be had here: {reason}")]
    Limit { ulimit: String, reason: String, of_kernel: bool },
    /// USER names nobody.
    #[error("{0}")]
    Stranger(String),
    /// The machine did not do as it was told.
    #[error("could not {action}: {reason}")]
    Machine { action: String, reason: String, lasting: bool },
}

/// Whether a machine that answers so once answers so always: what is asked for is not allowed, or not there.
pub(crate) fn lasts(errno: i32) -> bool {
    matches!(
        Errno::from_raw_os_error(errno),
        Errno::PERM
            | Errno::ACCESS
            | Errno::INVAL
            | Errno::NODEV
            | Errno::NOSYS
            | Errno::NOTSUP
            | Errno::ROFS
    )
}

impl Failure {
    /// Makes the failure of an action on the machine.
    pub(crate) fn machine(action: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Failure {
        let action = action.into();
        move |errno| Failure::Machine {
            action,
            reason: errno.to_string(),
            lasting: lasts(errno.raw_os_error()),
        }
    }

    /// The same for the standard library's errors.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Failure {
        let action = action.into();
        move |error| {
            let lasting = error.raw_os_error().is_some_and(lasts);
            Failure::Machine { action, reason: error.to_string(), lasting }
        }
    }
}
