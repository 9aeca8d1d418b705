//! Finds the Dockerfile of a build and the ignore file that goes with it.

#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dcbuild_model::{Fault, limits};
use rustix::fs::{Mode, OFlags};

use crate::{Context, beneath};

/// An ignore file is refused above this.
const IGNORE_BYTES_MAX: usize = 1 << 20;
/// The names of a Dockerfile that nobody named, in the order in which they are tried.
const DEFAULT_NAMES: [&str; 2] = ["Dockerfile", "dockerfile"];

/// Where to look.
#[derive(Clone, Copy, Debug)]
pub struct Origins<'a> {
    /// The context.
    pub context: &'a Context,
    /// `-f`, as the user wrote it.
    pub file: Option<&'a Path>,
    /// What `-f` is relative to.
    pub working: &'a Path,
}

/// A file that was read whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Its path for messages.
    pub path: PathBuf,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The Dockerfile.
    pub dockerfile: Source,
    /// The ignore file: the Dockerfile's own, else the context's.
    pub ignore: Option<Source>,
}

/// Says why there is no Dockerfile to build.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// There is none, or a link leads out of the folder.
    #[error("could not find the Dockerfile '{path}'")]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is a pipe, a device, a folder.
    #[error("'{path}' is not a regular file")]
    Special {
        /// The path.
        path: PathBuf,
    },
    /// It could not be read.
    #[error("could not read '{path}'")]
    Read {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is larger than any such file should be.
    #[error("'{path}' is larger than {bytes_max} bytes")]
    TooLarge {
        /// The path.
        path: PathBuf,
        /// The limit.
        bytes_max: usize,
    },
}

impl FindError {
    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        Fault::Request
    }

    /// What could help.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            FindError::NotFound { source, .. } if leads_out(source) => {
                Some("it is a link that leads out of its folder; put the file itself there")
            }
            FindError::NotFound { .. } => {
                Some("name it with -f PATH; without -f it is the file Dockerfile in the context")
            }
            FindError::Special { .. } => {
                Some("to build from a pipe, give the Dockerfile as '-f -'")
            }
            FindError::Read { .. } | FindError::TooLarge { .. } => None,
        }
    }
}

/// Reads the Dockerfile that a build means and the ignore file that counts for it.
pub fn find(origins: Origins<'_>) -> Result<Found, FindError> {
    let context = origins.context;
    let (dockerfile, folder, name) = match origins.file {
        Some(file) => named(origins, file)?,
        None => default(context)?,
    };
    let mut own = name;
    own.push(".dockerignore");
    let mut ignore = optional(&folder, &own, folder.path.join(&own))?;
    if ignore.is_none() {
        let path = context.root().join(".dockerignore");
        ignore = optional(&Folder::of(context), OsStr::new(".dockerignore"), path)?;
    }
    Ok(Found { dockerfile, ignore })
}

/// A folder that links may not lead out of.
struct Folder {
    fd: Arc<OwnedFd>,
    path: PathBuf,
}

impl Folder {
    fn of(context: &Context) -> Folder {
        Folder { fd: context.folder.clone(), path: context.root.clone() }
    }
}

fn default(context: &Context) -> Result<(Source, Folder, OsString), FindError> {
    let folder = Folder::of(context);
    let mut first = None;
    for name in DEFAULT_NAMES {
        let path = context.root().join(name);
        match read(&folder, OsStr::new(name), path, limits::DOCKERFILE_BYTES_MAX) {
            Ok(source) => return Ok((source, folder, name.into())),
            Err(error @ FindError::NotFound { .. }) => drop(first.get_or_insert(error)),
            Err(error) => return Err(error),
        }
    }
    Err(first.unwrap_or_else(|| FindError::NotFound {
        path: context.root().into(),
        source: io::ErrorKind::NotFound.into(),
    }))
}

/// A file that was named lies in the context, where links may lead anywhere inside, or in a folder of its own.
fn named(origins: Origins<'_>, file: &Path) -> Result<(Source, Folder, OsString), FindError> {
    let not_found = |source| FindError::NotFound { path: file.into(), source };
    let whole = origins.working.join(file);
    let (Some(above), Some(name)) = (whole.parent(), whole.file_name()) else {
        return Err(FindError::Special { path: file.into() });
    };
    let above = std::fs::canonicalize(above).map_err(not_found)?;
    let folder = if above.starts_with(origins.context.root()) {
        Folder::of(origins.context)
    } else {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&above, flags, Mode::empty())
            .map_err(|errno| not_found(errno.into()))?;
        Folder { fd: Arc::new(fd), path: above.clone() }
    };
    let inside = above.strip_prefix(&folder.path).unwrap_or(Path::new("")).join(name);
    let source = read(&folder, inside.as_os_str(), file.into(), limits::DOCKERFILE_BYTES_MAX)?;
    Ok((source, folder, inside.into_os_string()))
}

fn optional(folder: &Folder, name: &OsStr, path: PathBuf) -> Result<Option<Source>, FindError> {
    match read(folder, name, path, IGNORE_BYTES_MAX) {
        Ok(source) => Ok(Some(source)),
        Err(FindError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn read(
    folder: &Folder,
    name: &OsStr,
    path: PathBuf,
    bytes_max: usize,
) -> Result<Source, FindError> {
    let file = match beneath::open_inside(&folder.fd, name) {
        Ok((file, _)) => file,
        Err(source) if leads_out(&source) || is_missing(&source) => {
            return Err(FindError::NotFound { path, source });
        }
        Err(source) if is_special(&source) => return Err(FindError::Special { path }),
        Err(source) => return Err(FindError::Read { path, source }),
    };
    let mut bytes = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    match file.take(limit).read_to_end(&mut bytes) {
        Ok(count) if count > bytes_max => Err(FindError::TooLarge { path, bytes_max }),
        Ok(_) => Ok(Source { path, bytes }),
        Err(source) => Err(FindError::Read { path, source }),
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn leads_out(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [rustix::io::Errno::XDEV, rustix::io::Errno::LOOP]
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

/// A socket cannot be opened at all; the others say so themselves.
fn is_special(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
        || error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
}
