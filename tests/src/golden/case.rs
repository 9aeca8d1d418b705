//! One recorded case, and the files and arguments it stands for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::files::{ContextEntry, write_context};

/// A line of `golden/cases/FAMILY.jsonl`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// `FAMILY-WHAT`.
    pub name: String,
    /// The text; where there is none, the context has another or none at all.
    pub dockerfile: Option<String>,
    /// What is around it.
    #[serde(default)]
    pub context: Vec<ContextEntry>,
    /// The text of `.dockerignore`.
    pub dockerignore: Option<String>,
    /// `--target`
    pub target: Option<String>,
    /// `--build-arg`
    #[serde(default)]
    pub build_args: BTreeMap<String, String>,
    /// `-f`
    pub filename: Option<String>,
    /// Where the Dockerfile lies, if not where `filename` says.
    pub dockerfile_path: Option<String>,
    /// `--platform`
    pub platform: Option<String>,
    /// `--secret`
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// `--no-cache`
    #[serde(default)]
    pub no_cache: bool,
    /// Options of the frontend that flags stand for.
    #[serde(default)]
    pub opts: BTreeMap<String, String>,
    /// Named contexts in folders.
    #[serde(default)]
    pub contexts: BTreeMap<String, Vec<ContextEntry>>,
    /// The times that `expect` shows wherever they are found.
    #[serde(default)]
    pub mtimes: Vec<i64>,
    /// What BuildKit made of it.
    pub expect: Value,
}

/// The folder of the cases.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/cases")
}

/// The names of all families.
pub fn families() -> Vec<String> {
    let files = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    let name = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let mut names: Vec<String> = files.map(name).collect();
    names.sort();
    names
}

/// The cases of a family.
pub fn read(family: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(folder().join(format!("{family}.jsonl"))).unwrap();
    let case = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    text.lines().map(case).collect()
}

impl Case {
    /// Writes context, named contexts and secrets below the folder.
    pub fn write(&self, folder: &Path) {
        let mut entries = Vec::new();
        if let Some(text) = &self.dockerfile {
            let path = self.dockerfile_path.as_deref().or(self.filename.as_deref());
            entries.push(ContextEntry::file(path.unwrap_or("Dockerfile"), text));
        }
        if let Some(text) = &self.dockerignore {
            entries.push(ContextEntry::file(".dockerignore", text));
        }
        entries.extend(self.context.iter().cloned());
        write_context(&folder.join("context"), &entries);
        for (name, entries) in &self.contexts {
            write_context(&folder.join("named").join(name), entries);
        }
        for (id, text) in &self.secrets {
            std::fs::write(folder.join(format!("secret-{id}")), text).unwrap();
        }
    }

    /// The arguments of `dcbuild build` after [`Case::write`], but for the output and the base image.
    pub fn arguments(&self, folder: &Path) -> Vec<String> {
        let path = |name: &str| folder.join(name).into_os_string().into_string().unwrap();
        let mut arguments = Vec::new();
        if let Some(name) = &self.filename {
            arguments.extend(["--file".to_owned(), path(&format!("context/{name}"))]);
        }
        if let Some(target) = &self.target {
            // As one word, since a target may begin with a dash.
            arguments.push(format!("--target={target}"));
        }
        for (name, value) in &self.build_args {
            arguments.extend(["--build-arg".to_owned(), format!("{name}={value}")]);
        }
        if let Some(platform) = &self.platform {
            arguments.extend(["--platform".to_owned(), platform.clone()]);
        }
        for id in self.secrets.keys() {
            let source = path(&format!("secret-{id}"));
            arguments.extend(["--secret".to_owned(), format!("id={id},src={source}")]);
        }
        for name in self.contexts.keys() {
            let source = path(&format!("named/{name}"));
            arguments.extend(["--build-context".to_owned(), format!("{name}={source}")]);
        }
        for (name, value) in &self.opts {
            arguments.extend(option(name, value));
        }
        if self.no_cache {
            arguments.push("--no-cache".to_owned());
        }
        arguments.push(path("context"));
        arguments
    }
}

fn option(name: &str, value: &str) -> [String; 2] {
    let (flag, value) = match name.split_once(':') {
        Some(("label", name)) => ("--label", format!("{name}={value}")),
        Some(("context", name)) => ("--build-context", format!("{name}={value}")),
        _ if name == "add-hosts" => ("--add-host", value.to_owned()),
        _ => panic!("no flag is known for the option {name}"),
    };
    [flag.to_owned(), value]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_read() {
        let cases: Vec<Case> = families().iter().flat_map(|family| read(family)).collect();
        assert_eq!(cases.len(), 1222);
    }

    #[test]
    fn flags_stand_for_the_inputs() {
        let cases = read("multistage");
        let case = cases.iter().find(|it| it.name == "multistage-named-context-image-name");
        let arguments = case.unwrap().arguments(Path::new("/t"));
        let name = "nosuch:img=docker-image://busybox:golden";
        assert_eq!(arguments, ["--build-context", name, "/t/context"]);
    }
}
