//! One command of a chore, shown before it runs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};

const OF_PACKAGE: [&str; 2] = ["CARGO_PKG_", "CARGO_MANIFEST_"];

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map(PathBuf::from).unwrap_or(own)
}

/// Runs the command in the workspace's folder; an exit code that is not 0 is an error.
pub(crate) fn step(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    run(Command::new(program).args(arguments))
}

/// The same of a command whose environment is more than this program's own.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let variables =
        variables.map(|(name, value)| format!("{}={}", name.display(), value.display()));
    let arguments = command.get_args().map(|argument| argument.display().to_string());
    let words: Vec<String> = variables.chain([program.clone()]).chain(arguments).collect();
    let shown = words.join(" ");
    println!("$ {shown}");
    // What cargo tells this program of its own package: build scripts that read it would run again for it.
    for (name, _) in std::env::vars_os() {
        if OF_PACKAGE.iter().any(|begin| name.to_string_lossy().starts_with(begin)) {
            command.env_remove(name);
        }
    }
    let status = command
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
