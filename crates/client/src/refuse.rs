//! Flags that docker has and this version does not do, each with what to do instead.

use crate::FlagError;
use crate::args::BuildFlags;

/// Refuses a command line that asks for what is not there yet.
pub(crate) fn refuse(flags: &BuildFlags) -> Result<(), FlagError> {
    let builder = flags.builder.as_deref().filter(|name| !matches!(*name, "default" | ""));
    let no_builder =
        "leave it out: `build` builds on this machine, `submit --coordinator URL` on a cluster";
    for (flag, value, instead) in [
        (
            "resource",
            flags.resources.first().map(String::as_str),
            "set build.step_memory (worker.step_memory on a cluster) in the configuration",
        ),
        ("builder", builder, no_builder),
    ] {
        if let Some(value) = value {
            return Err(FlagError::Unsupported { flag, value: value.to_owned(), instead });
        }
    }
    Ok(())
}
