//! Flags that docker has and this version does not do, each with what to do instead.

use crate::FlagError;
use crate::args::BuildFlags;

/// Refuses a command line that asks for what is not there yet.
pub(crate) fn refuse(flags: &BuildFlags) -> Result<(), FlagError> {
    flags.legacy.refuse()?;
    let Some(value) = flags.resources.first() else { return Ok(()) };
    Err(FlagError::Unsupported {
        flag: "resource",
        value: value.clone(),
        instead: "set build.step_memory (worker.step_memory on a cluster) in the configuration",
    })
}
