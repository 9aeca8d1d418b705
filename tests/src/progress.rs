//! What `--progress rawjson` says of a build.

use std::collections::BTreeMap;

use serde_json::Value;

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It was seen, but did not end.
    Open,
    /// Its result was there.
    Cached,
    /// It ran.
    Ran,
    /// It failed.
    Failed,
}

/// The fate of each step, by its name.
pub fn fates(stderr: &str) -> BTreeMap<String, Fate> {
    let mut fates = BTreeMap::new();
    for line in stderr.lines().filter(|line| line.starts_with('{')) {
        let Ok(batch) = serde_json::from_str::<Value>(line) else { continue };
        for vertex in batch["vertexes"].as_array().into_iter().flatten() {
            let Some(name) = vertex["name"].as_str() else { continue };
            let fate = match vertex {
                it if it["cached"] == true => Fate::Cached,
                it if it["error"].as_str().is_some_and(|error| !error.is_empty()) => Fate::Failed,
                it if it["completed"].is_string() => Fate::Ran,
                _ => Fate::Open,
            };
            fates.insert(name.to_owned(), fate);
        }
    }
    fates
}

/// The names of the instructions that ran: neither cached, nor of the build itself.
pub fn ran(stderr: &str) -> Vec<String> {
    let instruction = |name: &str| name.starts_with('[') && !name.starts_with("[internal]");
    fates(stderr)
        .into_iter()
        .filter(|(name, fate)| instruction(name) && *fate == Fate::Ran && !is_base(name))
        .map(|(name, _)| name)
        .collect()
}

/// Base images are looked up in each build, which is no work.
fn is_base(name: &str) -> bool {
    name.contains("] FROM ")
}
