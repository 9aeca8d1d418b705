//! Runs one RUN step in a container of its own: a helper process per step, an overlay mount, namespaces, limits.
//!
//! It does not decide what a step sees: the caller names folders, mounts, environment and limits, and gets back how the
//! process ended and which mount points were made in the tree. It never starts another program of the host, and it needs
//! to be root. Every path that an image or a Dockerfile wrote is resolved by file descriptor inside the step's root.
//! Start with [`Sandbox::run`]; the binary calls [`cell_main`] when its first argument is [`CELL_ARGUMENT`].
//!
//! Three processes make a cell. The *helper* is the re-executed binary and ends when its caller goes away. The *warden* is
//! the first process of an outer pid namespace, so that its death is the death of everything below. The *step* is the
//! first process of an inner pid namespace and becomes the program of the RUN.

mod cell;
mod cgroup;
mod compat;
mod devices;
mod error;
mod gate;
mod hierarchies;
mod inside;
mod launch;
mod mounts;
mod network;
mod open_files;
mod platforms;
mod privilege;
mod report;
mod resolvers;
mod run;
mod seccomp;
mod spec;
mod sys;
mod target;
mod user;

pub use cell::{CELL_ARGUMENT, cell_main};
pub use cgroup::remove_groups;
pub use error::{CellError, NEEDS, SandboxError};
pub use network::{IsolateError, IsolatedConfig, has_way_out};
pub use open_files::raise_open_files;
pub use platforms::{Foreign, Obstacle, emulated, foreign, native, platforms};
pub use privilege::able;
pub use run::{CellExit, CellTimings, Outcome, Sandbox, SandboxConfig, Stream};
pub use spec::{
    CellSpec, Limits, Mount, Network, Resources, Rootfs, SecretBytes, Security, Swap, Ulimit,
    UlimitResource,
};
pub use user::{Identity, ResolveUserError, resolve_user};
