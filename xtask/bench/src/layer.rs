//! The writing of a layer beside its parts alone: a program of its own, since it is measured as it is released.

use std::process::Command;

use anyhow::{Context, ensure};

/// The cases of that program, so that `--only` finds them.
pub(super) const NAMES: &[&str] = &["layer, 1 GiB in 4 files", "layer, 100,000 small files"];

/// Builds and runs it; it prints its own table.
pub(super) fn run(only: Option<&str>, rounds: usize) -> anyhow::Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["bench", "--locked", "--package", "dcbuild-snapshot", "--bench", "layer", "--"]);
    cargo.arg("--rounds").arg(rounds.to_string());
    if let Some(only) = only {
        cargo.arg("--only").arg(only);
    }
    let status = cargo.status().context("could not start cargo")?;
    ensure!(status.success(), "the benchmark of layers: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_program() {
        let program =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/snapshot/benches/layer.rs");
        let text = std::fs::read_to_string(program).unwrap();
        assert_eq!(text.matches("Case { name: ").count(), NAMES.len());
        for name in NAMES {
            assert!(text.contains(&format!("{name:?}")), "{name}");
        }
    }
}
