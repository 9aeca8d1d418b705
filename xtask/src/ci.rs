//! What CI and a laptop check alike.

use std::process::Command;

use anyhow::ensure;

use crate::step::{root, step, works};

/// Checks form, lints, dependencies and tests, the quick ones first.
pub(crate) fn run() -> anyhow::Result<()> {
    step("cargo", &["fmt", "--all", "--check"])?;
    if works("cargo", &["deny", "--version"]) {
        step("cargo", &["deny", "check", "bans", "licenses", "sources"])?;
    } else {
        println!("cargo-deny is not installed: licences and sources are not checked");
    }
    ensure!(
        works("clippy-driver", &["--version"]),
        "no clippy-driver: `rustup component add clippy` brings it"
    );
    // The end-to-end tests run the binary, which cargo does not build for the tests of another package. It is built
    // with all others: alone, it would have other features of the crates that it shares with them, and those crates
    // would be built twice.
    linted(&["build", "--workspace", "--all-targets", "--locked"])?;
    if works("cargo", &["nextest", "--version"]) {
        linted(&["nextest", "run", "--workspace", "--locked", "--no-fail-fast"])
    } else {
        linted(&["test", "--workspace", "--locked", "--no-fail-fast"])
    }
}

/// A step of cargo that lints each crate of the workspace as it compiles it. `cargo clippy` would read all crates of
/// others a second time: minutes on a cold machine.
fn linted(arguments: &[&str]) -> anyhow::Result<()> {
    let wrapper = root().join("xtask/clippy.sh");
    crate::step::run(Command::new("cargo").args(arguments).env("RUSTC_WORKSPACE_WRAPPER", wrapper))
}
