//! Reads a policy and what it imports.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use dcbuild_model::limits;
use regorus::utils::limits::ExecutionTimerConfig;

use crate::files::Folders;
use crate::scan::{self, Reads};
use crate::{Policy, PolicyFile, RegoError};

/// How many files one policy may import.
const IMPORTS_MAX: usize = 64;
/// How much work goes by between two looks at the clock.
const STEPS: std::num::NonZeroU32 = std::num::NonZeroU32::new(256).expect("it is no zero");

pub(crate) fn load(file: &PolicyFile, folders: &Folders) -> Result<Policy, RegoError> {
    let PolicyFile { name, path } = file;
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let bytes = read(path)?;
    let text = text_of(bytes, name)?;
    let mut loading = Loading { engine: engine(), reads: Reads::default(), folders, folder };
    let package = loading.add(name, &text)?;
    if package != "data.docker" {
        let package = package.trim_start_matches("data.").to_owned();
        return Err(RegoError::Package { name: name.clone(), package });
    }
    loading.imports(&text)?;
    let Loading { engine, reads, folder, .. } = loading;
    Ok(Policy { name: name.clone(), folder, engine, reads })
}

fn engine() -> regorus::Engine {
    let mut engine = regorus::Engine::new();
    engine.set_gather_prints(true);
    // As with docker: a built-in function that fails is undefined.
    engine.set_strict_builtin_errors(false);
    engine.set_execution_timer_config(ExecutionTimerConfig {
        limit: limits::POLICY_TIME_MAX,
        check_interval: STEPS,
    });
    engine
}

struct Loading<'a> {
    engine: regorus::Engine,
    reads: Reads,
    folders: &'a Folders,
    folder: PathBuf,
}

impl Loading<'_> {
    /// Checks one file and gives its package.
    fn add(&mut self, name: &str, text: &str) -> Result<String, RegoError> {
        let added = self.engine.add_policy(name.to_owned(), text.to_owned());
        let package = added.map_err(|error| RegoError::of_engine(name, &error))?;
        self.reads.add(scan::scan(name, text)?);
        Ok(package)
    }

    /// Adds what a text imports, and what that imports: `import data.lib.names` is the file `lib/names.rego`.
    fn imports(&mut self, text: &str) -> Result<(), RegoError> {
        let mut open = scan::imports(text);
        let mut done = BTreeSet::new();
        while let Some(package) = open.pop() {
            if !done.insert(package.clone()) {
                continue;
            }
            if done.len() > IMPORTS_MAX {
                let problem = format!("it imports more than {IMPORTS_MAX} files");
                return Err(RegoError::Invalid { at: package, problem });
            }
            let name = format!("{}.rego", package.replace('.', "/"));
            let bytes = self.folders.read(&name, &self.folder, limits::POLICY_BYTES_MAX)?;
            let text = text_of(bytes, &name)?;
            open.extend(scan::imports(&text));
            self.add(&name, &in_package(&text, &package))?;
        }
        Ok(())
    }
}

/// The text in the package that it was imported by, whatever it says itself.
fn in_package(text: &str, package: &str) -> String {
    let renamed = |line: &str| match line.trim_start().strip_prefix("package ") {
        Some(_) => format!("package {package}\n"),
        None => format!("{line}\n"),
    };
    text.lines().map(renamed).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, RegoError> {
    use std::io::Read as _;
    let failed = |source| RegoError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(limits::POLICY_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn text_of(bytes: Vec<u8>, name: &str) -> Result<String, RegoError> {
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limits::POLICY_BYTES_MAX {
        return Err(RegoError::Large { name: name.to_owned(), max: limits::POLICY_BYTES_MAX });
    }
    String::from_utf8(bytes).map_err(|_| RegoError::Invalid {
        at: name.to_owned(),
        problem: "it is no text in UTF-8".into(),
    })
}
