//! What CI and a laptop check alike.

use crate::step::{step, works};

/// Checks form, lints, dependencies and tests, the quick ones first.
pub(crate) fn run() -> anyhow::Result<()> {
    step("cargo", &["fmt", "--all", "--check"])?;
    step("cargo", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    if works("cargo", &["deny", "--version"]) {
        step("cargo", &["deny", "check", "bans", "licenses", "sources"])?;
    } else {
        println!("cargo-deny is not installed: licences and sources are not checked");
    }
    // The end-to-end tests run the binary, which cargo does not build for the tests of another package. It is built
    // with all others: alone, it would have other features of the crates that it shares with them, and those crates
    // would be built twice.
    step("cargo", &["build", "--workspace", "--all-targets", "--locked"])?;
    if works("cargo", &["nextest", "--version"]) {
        step("cargo", &["nextest", "run", "--workspace", "--locked", "--no-fail-fast"])
    } else {
        step("cargo", &["test", "--workspace", "--locked", "--no-fail-fast"])
    }
}
