//! Flags that docker has and this version does not do, each with what to do instead.

use crate::FlagError;
use crate::args::BuildFlags;
use crate::csv;

/// Refuses a command line that asks for what is not there yet.
pub(crate) fn refuse(flags: &BuildFlags) -> Result<(), FlagError> {
    let attest = "leave it out, or say false: attestations are not made yet";
    for (flag, value, instead) in [
        ("attest", flags.attests.iter().map(String::as_str).find(|it| !may_pass(it)), attest),
        ("provenance", flags.provenance.as_deref().filter(|it| !is_disabled(it)), attest),
        ("sbom", flags.sbom.as_deref().filter(|it| !is_disabled(it)), attest),
        (
            "resource",
            flags.resources.first().map(String::as_str),
            "set build.step_memory (worker.step_memory on a cluster) in the configuration",
        ),
    ] {
        if let Some(value) = value {
            return Err(FlagError::Unsupported { flag, value: value.to_owned(), instead });
        }
    }
    Ok(())
}

fn may_pass(written: &str) -> bool {
    is_disabled(written) || may_be_left_out(written)
}

/// Whether an attestation is wanted only where it costs nothing, as CI actions ask by themselves.
pub(crate) fn may_be_left_out(written: &str) -> bool {
    let pairs = csv::pairs(written).unwrap_or_default();
    let on = |value: Option<&str>| matches!(value, Some("true" | "1"));
    !is_disabled(written)
        && pairs.iter().any(|(key, value)| key == "inline-only" && on(value.as_deref()))
}

/// Whether an attestation is said to be unwanted, which it is anyway: `false`, or `type=sbom,disabled=true`.
fn is_disabled(written: &str) -> bool {
    let off = |value: Option<&str>| matches!(value, Some("true" | "1"));
    let pairs = csv::pairs(written).unwrap_or_default();
    matches!(written, "false" | "0" | "")
        || pairs.iter().any(|(key, value)| key == "disabled" && off(value.as_deref()))
}
