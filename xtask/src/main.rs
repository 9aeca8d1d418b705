//! Chores: everything that is done to this source and not by it.
#![expect(clippy::print_stdout, reason = "its user is a person at a terminal, or the log of CI")]

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
    #[command(disable_help_flag = true)]
    Bench {
        /// What the benchmark is to do: `--help` says it
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// Install what tests, examples and measurements need, with apt
    Setup(setup::Flags),
}

fn main() -> anyhow::Result<()> {
    match Chore::parse() {
        Chore::Ci => ci::run(),
        // A program of its own: the other chores come without the servers that it measures against.
        Chore::Bench { flags } => {
            let cargo = ["run", "--quiet", "--package", "dcbuild-bench", "--"];
            let flags = flags.iter().map(String::as_str);
            step::step("cargo", &cargo.into_iter().chain(flags).collect::<Vec<_>>())
        }
        Chore::Setup(flags) => setup::run(&flags),
    }
}
