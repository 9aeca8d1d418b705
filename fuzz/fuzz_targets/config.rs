//! Any configuration file is understood, or its mistakes are listed.
#![no_main]

use std::path::Path;

use dcbuild_process::{Config, Env, Proxies};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let env: Env = [("HOME", "/home/u")].into_iter().collect();
    if let Err(error) = Config::parse(Path::new("config.toml"), text, &env) {
        assert!(!error.to_string().is_empty());
    }
    let _proxies = Proxies::parse(text, "unix:///var/run/docker.sock");
});
