//! Any command line is understood or refused; each line of the input is an argument.
#![no_main]

use clap::Parser;
use dcbuild_client::{BuildFlags, Wanted};
use dcbuild_process::Env;
use libfuzzer_sys::fuzz_target;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: BuildFlags,
}

fuzz_target!(|text: &str| {
    let env: Env = [("X", "value")].into_iter().collect();
    if let Ok(line) = Line::try_parse_from(["build", "."].into_iter().chain(text.split('\n')))
        && let Err(error) = Wanted::new(&line.flags, &env)
    {
        assert!(!error.to_string().is_empty());
    }
});
