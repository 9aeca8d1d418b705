//! What a build needs of this machine's disk before it is handed over: its Dockerfile, its folders, its secrets.
//! What had to be fetched first was [gathered](mod@crate::gather).

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dcbuild_agent::Agent;
use dcbuild_attest::Material;
use dcbuild_context::{Context, FindError, LocalContext, OpenError, Origins, find};
use dcbuild_model::{Fault, TreePath, UnixTime, limits};
use dcbuild_oci::LayoutRef;
use dcbuild_plan::SourcePolicy;
use dcbuild_process::{Env, Hint, Proxies};
use dcbuild_rego::Policies;
use dcbuild_tree::{Ignore, IgnoreError};

use crate::answer::chain;
use crate::dated;
use crate::gather::{CONTEXT, Gathered};
use crate::parse::{NamedContext, SecretSource};
use crate::policy::{self, PolicyRefusal};
use crate::vcs;
use crate::wanted::{DockerfilePlace, MainContext, Wanted};

/// A secret is refused above this, as docker does.
const SECRET_BYTES_MAX: u64 = 500 << 10;
/// All secrets of a build travel in one message, together with what else stands in it.
const SECRETS_BYTES_MAX: usize = limits::MESSAGE_BYTES_MAX - (64 << 10);
/// What stands beside the id and the value of a secret in that message.
const AROUND_SECRET_BYTES: usize = 16;
const IGNORE_BYTES_MAX: usize = 1 << 20;

/// Says why a build could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// There is no Dockerfile.
    #[error(transparent)]
    Find(#[from] FindError),
    /// There is none in what was fetched or unpacked.
    #[error("could not find the Dockerfile '{name}' in {place}")]
    NotIn {
        /// The Dockerfile's name.
        name: String,
        /// What it was looked for in.
        place: String,
    },
    /// A folder is none.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The patterns of an ignore file are malformed.
    #[error("could not understand '{}'", path.display())]
    Ignore {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: IgnoreError,
    },
    /// A file that a flag names could not be read.
    #[error("could not read '{}' for --{flag}", path.display())]
    Read {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A secret is too large.
    #[error("the secret '{id}' is larger than {SECRET_BYTES_MAX} bytes")]
    LargeSecret {
        /// Its id.
        id: String,
    },
    /// All secrets together are too large.
    #[error(
        "the {count} secrets of the build have {bytes} bytes together, more than {SECRETS_BYTES_MAX}; the largest is \
         '{largest}'"
    )]
    LargeSecrets {
        /// How many there are.
        count: usize,
        /// How large they are.
        bytes: usize,
        /// The id of the largest.
        largest: String,
    },
    /// A policy cannot be asked, or refuses something.
    #[error(transparent)]
    Policy(#[from] PolicyRefusal),
    /// The time of the context could not be found.
    #[error("could not look for the newest file below '{}'", path.display())]
    Newest {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No folder could be made.
    #[error("could not make a temporary folder in '{}'", std::env::temp_dir().display())]
    Temporary(#[source] std::io::Error),
}

impl PrepareError {
    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        match self {
            PrepareError::Temporary(source) if source.kind() == ErrorKind::StorageFull => {
                Fault::Cluster
            }
            _ => Fault::Request,
        }
    }
}

impl Hint for PrepareError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            PrepareError::Find(error) => error.hint()?,
            PrepareError::NotIn { .. } => {
                "name it with -f PATH, as it lies there; without -f it is the file Dockerfile at the top"
            }
            PrepareError::Open(error) => error.hint()?,
            PrepareError::Policy(error) => return error.hint(),
            PrepareError::Temporary(_) => {
                "TMPDIR names the folder, which must be there and be writable"
            }
            PrepareError::LargeSecrets { .. } => "leave out those that no RUN mounts",
            PrepareError::LargeSecret { .. } => "give the secret itself, not a file that holds it",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// Where a build is prepared.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The folder that relative paths start from.
    pub working: &'a Path,
    /// Where hashes of context files are remembered.
    pub stat_cache: &'a Path,
    /// The time of the build's start.
    pub now: UnixTime,
    /// The environment.
    pub env: &'a Env,
}

/// What was read that is part of the submission.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// The Dockerfile's text.
    pub dockerfile: String,
    /// Its name, for messages.
    pub filename: String,
    /// The proxies of docker's configuration.
    pub proxies: Proxies,
    /// Source policies.
    pub policies: Vec<SourcePolicy>,
    /// Whether there are policies that this client is asked about.
    pub asks: bool,
    /// The ignore file of the build's own context, as far as it counts.
    pub ignore: String,
    /// Labels of the image that come of the repository that the context's folder belongs to.
    pub labels: BTreeMap<String, String>,
    /// When what was fetched was made, by the names of contexts.
    pub times: BTreeMap<String, i64>,
}

/// A build that can be handed over.
#[derive(Debug)]
pub struct Prepared {
    /// What is part of the submission.
    pub found: Found,
    /// The folders, by name; `context` is the build's own.
    pub contexts: Vec<(String, Arc<LocalContext>)>,
    /// The layouts, by name.
    pub layouts: BTreeMap<String, LayoutRef>,
    /// The values of secrets, by id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// The ssh agents, by id.
    pub agents: BTreeMap<String, Agent>,
    /// Policies that nobody but this client can ask.
    pub rego: Option<Arc<Policies>>,
    /// What was fetched, by the name of the context that it became.
    pub fetched: BTreeMap<String, Material>,
    /// The repository that the context's folder belongs to, where provenance is to say it.
    pub vcs: BTreeMap<String, String>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Live as long as the build.
    pub(crate) kept: Vec<tempfile::TempDir>,
}

/// Opens what a build reads. Blocks.
pub fn prepare(
    wanted: &Wanted,
    gathered: Gathered,
    place: Place<'_>,
) -> Result<Prepared, PrepareError> {
    let Gathered { root, dockerfile, named, agents, policies, fetched: materials, .. } = gathered;
    let Gathered { secrets, taken, mut times, is_archive, said: attributes, mut kept, .. } =
        gathered;
    let fetched = root.is_some();
    // The hashes of a folder that is gone with the build are of no use to the next one.
    let passing = tempfile::tempdir().map_err(PrepareError::Temporary)?;
    let cache = |fetched: bool| if fetched { passing.path() } else { place.stat_cache };
    let root = root_of(wanted, root, place);
    let main = Context::open(&root, 0)?.with(attributes);
    let said = asked_of_git(wanted, &root, place);
    let Text { dockerfile, filename, path, ignore } = if let Some(loose) = dockerfile {
        let ignore = ignore_of(&main)?;
        Text { dockerfile: loose.text, filename: loose.name, path: None, ignore }
    } else {
        // A file in a context that was fetched is named from its top.
        let working = if fetched { main.root() } else { place.working };
        read_dockerfile(wanted, &main, working).map_err(|error| in_place(wanted, error))?
    };
    date(&mut times, is_archive.then(|| main.root()), wanted, &dockerfile)?;
    let beside =
        policy::Beside { context: main.root(), dockerfile: path.as_deref(), filename: &filename };
    let rego = policy::rego(wanted, place, beside, &taken)?;
    // As BuildKit: an ignore file says what is not sent, and of what was fetched everything is there already.
    let ignore = if fetched { IgnoreFile::default() } else { ignore };
    let local = LocalContext::new(main, ignore.rules, cache(fetched), place.now);
    let mut contexts = vec![("context".to_owned(), Arc::new(local))];
    let mut layouts = BTreeMap::new();
    for (name, context) in &wanted.contexts {
        let index = u32::try_from(contexts.len()).unwrap_or(u32::MAX);
        match context {
            NamedContext::Folder(folder) => {
                let context = Context::open(&place.working.join(folder), index)?;
                let ignore = ignore_of(&context)?.rules;
                let local = LocalContext::new(context, ignore, cache(false), place.now);
                contexts.push((name.clone(), Arc::new(local)));
            }
            NamedContext::Remote(_) => {
                let context = Context::open(&named.get(name).cloned().unwrap_or_default(), index)?;
                let local = LocalContext::new(context, Ignore::default(), cache(true), place.now);
                contexts.push((name.clone(), Arc::new(local)));
            }
            NamedContext::Layout(layout) => {
                let folder = place.working.join(&layout.folder);
                let folder = folder.to_string_lossy().into_owned();
                layouts.insert(name.clone(), LayoutRef { folder, ..layout.clone() });
            }
            NamedContext::Image(_) | NamedContext::Target(_) => {}
        }
    }
    kept.push(passing);
    let (proxies, warning) = proxies_of(place.env);
    Ok(Prepared {
        found: Found {
            dockerfile,
            filename,
            proxies,
            policies,
            asks: rego.is_some(),
            ignore: ignore.text,
            labels: said.labels,
            times,
        },
        contexts,
        layouts,
        secrets,
        agents,
        rego: rego.map(Arc::new),
        fetched: materials,
        vcs: said.info,
        warnings: [said.warning, warning].into_iter().flatten().collect(),
        kept,
    })
}

/// Where the main context lies.
fn root_of(wanted: &Wanted, gathered: Option<PathBuf>, place: Place<'_>) -> PathBuf {
    match &wanted.context {
        MainContext::Folder(folder) => place.working.join(folder),
        MainContext::Stdin | MainContext::Remote(_) => gathered.unwrap_or_default(),
    }
}

/// The proxies of docker's configuration; as docker has it, one that cannot be read ends no build, for most need nothing
/// of it.
fn proxies_of(env: &Env) -> (Proxies, Option<String>) {
    Proxies::load(env).map_or_else(
        |error| {
            let warning = format!("{}: its credentials and proxies are not used", chain(&error));
            (Proxies::default(), Some(warning))
        },
        |proxies| (proxies, None),
    )
}

/// Finds out when an archive was made, where it may be asked for and its server says nothing of it.
fn date(
    times: &mut BTreeMap<String, i64>,
    archive: Option<&Path>,
    wanted: &Wanted,
    dockerfile: &str,
) -> Result<(), PrepareError> {
    let Some(root) = archive.filter(|_| !times.contains_key(CONTEXT)) else { return Ok(()) };
    if dated::asks(&wanted.request.build_args, dockerfile) {
        let failed = |source| PrepareError::Newest { path: root.to_owned(), source };
        let newest = dated::newest(root).map_err(failed)?;
        times.extend(newest.map(|time| (CONTEXT.to_owned(), time)));
    }
    Ok(())
}

/// What the repository says that the context's folder belongs to.
fn asked_of_git(wanted: &Wanted, root: &Path, place: Place<'_>) -> vcs::Said {
    let MainContext::Folder(_) = &wanted.context else { return vcs::Said::default() };
    let dockerfile = match &wanted.dockerfile {
        DockerfilePlace::Usual => Some(root.join("Dockerfile")),
        DockerfilePlace::File(file) => Some(place.working.join(file)),
        DockerfilePlace::Stdin | DockerfilePlace::Url(_) => None,
    };
    let built = vcs::Built { folder: root, dockerfile: dockerfile.as_deref() };
    vcs::of(built, wanted.asks_git(), place.env)
}

/// A Dockerfile's text, and what goes with it.
struct Text {
    dockerfile: String,
    /// Its name, for messages.
    filename: String,
    /// Where it lies; none if it is no file of a folder.
    path: Option<PathBuf>,
    ignore: IgnoreFile,
}

/// An ignore file, and what it says.
#[derive(Debug, Default)]
struct IgnoreFile {
    text: String,
    rules: Ignore,
}

impl IgnoreFile {
    fn parse(path: &Path, bytes: &[u8]) -> Result<IgnoreFile, PrepareError> {
        let rules = Ignore::parse(bytes)
            .map_err(|source| PrepareError::Ignore { path: path.into(), source })?;
        Ok(IgnoreFile { text: String::from_utf8_lossy(bytes).into_owned(), rules })
    }
}

/// What is said of a Dockerfile that is not there: by what the user named, for the folder is ours that it was put into.
fn in_place(wanted: &Wanted, error: PrepareError) -> PrepareError {
    let place = match (&wanted.context, &error) {
        (MainContext::Stdin, PrepareError::Find(FindError::NotFound { .. })) => {
            "the archive on standard input".to_owned()
        }
        (MainContext::Remote(remote), PrepareError::Find(FindError::NotFound { .. })) => {
            remote.to_string()
        }
        _ => return error,
    };
    let name = match &wanted.dockerfile {
        DockerfilePlace::File(file) => file.display().to_string(),
        DockerfilePlace::Usual | DockerfilePlace::Stdin | DockerfilePlace::Url(_) => {
            "Dockerfile".to_owned()
        }
    };
    PrepareError::NotIn { name, place }
}

fn read_dockerfile(
    wanted: &Wanted,
    context: &Context,
    working: &Path,
) -> Result<Text, PrepareError> {
    let file = match &wanted.dockerfile {
        DockerfilePlace::File(file) => Some(file.as_path()),
        DockerfilePlace::Usual | DockerfilePlace::Stdin | DockerfilePlace::Url(_) => None,
    };
    let found = find(Origins { context, file, working })?;
    let ignore = match found.ignore {
        Some(source) => IgnoreFile::parse(&source.path, &source.bytes)?,
        None => IgnoreFile::default(),
    };
    let usual = found.dockerfile.path.file_name().unwrap_or_default().to_string_lossy();
    let filename =
        file.map_or_else(|| usual.clone().into_owned(), |file| file.display().to_string());
    let dockerfile = String::from_utf8_lossy(&found.dockerfile.bytes).into_owned();
    let path = Some(working.join(&found.dockerfile.path));
    Ok(Text { dockerfile, filename, path, ignore })
}

/// The ignore file of a folder that has no Dockerfile of this build.
fn ignore_of(context: &Context) -> Result<IgnoreFile, PrepareError> {
    const NAME: &str = ".dockerignore";
    let path = context.root().join(NAME);
    let failed = |source| PrepareError::Read { flag: "build-context", path: path.clone(), source };
    let file = match context.reader().open(&TreePath::root().join(NAME.as_bytes())) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(IgnoreFile::default());
        }
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    let limit = u64::try_from(IGNORE_BYTES_MAX).unwrap_or(u64::MAX);
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > IGNORE_BYTES_MAX {
        return Err(FindError::TooLarge { path, bytes_max: IGNORE_BYTES_MAX }.into());
    }
    IgnoreFile::parse(&path, &bytes)
}

/// Reads secrets, each once: some come through a pipe. Blocks.
pub(crate) fn read_secrets(
    secrets: &BTreeMap<String, SecretSource>,
    working: &Path,
    env: &Env,
) -> Result<BTreeMap<String, Vec<u8>>, PrepareError> {
    let read = |(id, source): (&String, &SecretSource)| {
        let value = match source {
            SecretSource::Env(name) => {
                let value = env.get_os(name).unwrap_or_default();
                value.as_encoded_bytes().to_vec()
            }
            SecretSource::File(file) => {
                let failed =
                    |source| PrepareError::Read { flag: "secret", path: file.clone(), source };
                let open = std::fs::File::open(working.join(file)).map_err(failed)?;
                let mut value = Vec::new();
                open.take(SECRET_BYTES_MAX + 1).read_to_end(&mut value).map_err(failed)?;
                value
            }
        };
        if u64::try_from(value.len()).unwrap_or(u64::MAX) > SECRET_BYTES_MAX {
            return Err(PrepareError::LargeSecret { id: id.clone() });
        }
        Ok((id.clone(), value))
    };
    let secrets = secrets.iter().map(read).collect::<Result<BTreeMap<_, _>, _>>()?;
    let size = |(id, value): (&String, &Vec<u8>)| id.len() + value.len() + AROUND_SECRET_BYTES;
    let bytes: usize = secrets.iter().map(size).sum();
    if bytes > SECRETS_BYTES_MAX {
        let largest = secrets.iter().max_by_key(|(_, value)| value.len());
        let largest = largest.map(|(id, _)| id.clone()).unwrap_or_default();
        return Err(PrepareError::LargeSecrets { count: secrets.len(), bytes, largest });
    }
    Ok(secrets)
}
