//! RUN.

use crate::ast::{NetworkMode, RunInstruction, SecurityMode};
use crate::error::ParseErrorKind;
use crate::flags::{FlagKind, Known};
use crate::instruction::{Parsed, form};
use crate::mount::MountFlag;
use crate::node::Node;
use crate::words::to_words;

const FLAGS: Known = &[
    ("mount", FlagKind::Texts),
    ("network", FlagKind::Text),
    ("security", FlagKind::Text),
    ("device", FlagKind::Texts),
];

pub(super) fn parse(node: &Node) -> Parsed<RunInstruction> {
    let flags = node.checked_flags(FLAGS)?;
    let mounts = flags.texts("mount").iter().map(|text| MountFlag::parse(text)).collect();
    let mounts: Result<Vec<MountFlag>, _> = mounts;
    let network = network(flags.text("network")).map_err(|kind| node.refuse(kind))?;
    let security = security(flags.text("security")).map_err(|kind| node.refuse(kind))?;
    Ok(RunInstruction {
        form: form(&node.args),
        heredocs: node.heredocs.clone(),
        mounts: mounts.map_err(|reason| node.refuse(reason.into()))?,
        network,
        security,
        devices: to_words(flags.texts("device")),
    })
}

fn network(text: Option<String>) -> Result<NetworkMode, ParseErrorKind> {
    match text.as_deref() {
        None | Some("default") => Ok(NetworkMode::Default),
        Some("none") => Ok(NetworkMode::None),
        Some("host") => Ok(NetworkMode::Host),
        Some(other) => Err(ParseErrorKind::Network(other.to_owned())),
    }
}

fn security(text: Option<String>) -> Result<SecurityMode, ParseErrorKind> {
    match text.as_deref() {
        None | Some("sandbox") => Ok(SecurityMode::Sandbox),
        Some("insecure") => Ok(SecurityMode::Insecure),
        Some(other) => Err(ParseErrorKind::Security(other.to_owned())),
    }
}
