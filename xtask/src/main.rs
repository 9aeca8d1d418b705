//! Chores: everything that is done to this source and not by it.
#![expect(clippy::print_stdout, reason = "its user is a person at a terminal, or the log of CI")]

mod base_image;
mod bench;
mod ci;
mod setup;
mod step;

use clap::Parser;

/// Chores of dcbuild.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Chore {
    /// Check everything that CI checks
    Ci,
    /// Measure builds against Debian's docker.io
    Bench(bench::Flags),
    /// Install what tests, examples and measurements need, with apt
    Setup(setup::Flags),
    /// Make a Debian base image with a C compiler, as an OCI layout
    BaseImage(base_image::Flags),
}

fn main() -> anyhow::Result<()> {
    match Chore::parse() {
        Chore::Ci => ci::run(),
        Chore::Bench(flags) => bench::run(&flags),
        Chore::Setup(flags) => setup::run(&flags),
        Chore::BaseImage(flags) => base_image::run(&flags),
    }
}
