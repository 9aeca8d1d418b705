//! Which files policies read, and where they lie: nothing outside of the folders of the build.

use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use crate::RegoError;

/// A file in the working folder.
const WORKING: &str = "cwd://";

/// Where policies find their files.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Folders {
    /// The folder of the context; none if it has none on this machine.
    pub context: Option<PathBuf>,
    /// The working folder.
    pub working: PathBuf,
}

impl Folders {
    /// Reads a file that a policy names; `beside` is the policy's own folder.
    pub(crate) fn read(&self, name: &str, beside: &Path, max: u64) -> Result<Vec<u8>, RegoError> {
        let (roots, inside) = match name.strip_prefix(WORKING) {
            Some(inside) => (vec![self.working.as_path()], inside),
            None => (self.context.iter().map(PathBuf::as_path).chain([beside]).collect(), name),
        };
        let inside = Path::new(inside);
        let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if inside.as_os_str().is_empty() || !inside.components().all(plain) {
            return Err(RegoError::Outside { name: name.to_owned() });
        }
        let mut missing = io::Error::from(io::ErrorKind::NotFound);
        for root in roots {
            match found(root, inside) {
                Ok(Some(path)) => return bytes(&path, max, name),
                Ok(None) => return Err(RegoError::Outside { name: name.to_owned() }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing = error,
                Err(source) => return Err(RegoError::Part { name: name.to_owned(), source }),
            }
        }
        Err(RegoError::Part { name: name.to_owned(), source: missing })
    }
}

/// The file below a folder; none if a link leads out of it.
fn found(root: &Path, inside: &Path) -> io::Result<Option<PathBuf>> {
    let root = root.canonicalize()?;
    let path = root.join(inside).canonicalize()?;
    Ok(path.starts_with(&root).then_some(path))
}

fn bytes(path: &Path, max: u64, name: &str) -> Result<Vec<u8>, RegoError> {
    let failed = |source| RegoError::Part { name: name.to_owned(), source };
    if !path.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is no file")));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
        return Err(RegoError::Large { name: name.to_owned(), max });
    }
    Ok(bytes)
}
