//! One command of a chore, shown before it runs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map(PathBuf::from).unwrap_or(own)
}

/// Runs the command in the workspace's folder; an exit code that is not 0 is an error.
pub(crate) fn step(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let shown = format!("{program} {}", arguments.join(" "));
    println!("$ {shown}");
    let mut command = Command::new(program);
    let status = command
        .args(arguments)
        .current_dir(root())
        .status()
        .with_context(|| format!("could not start {program}"))?;
    ensure!(status.success(), "{shown}: {status}");
    Ok(())
}

/// Whether the command runs and says that all is well.
pub(crate) fn works(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|done| done.status.success())
}
