//! Source policies on the client's side: which files hold them, and what they say of what the client itself reads and
//! fetches. Of everything else the plan asks them; those in Rego by way of the client.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use dcbuild_model::{Added, Remote, limits};
use dcbuild_plan::policy::{Engine, Facts, InvalidPolicy, PolicyAsk, Verdict, ask_of};
use dcbuild_plan::{PolicyError, SourcePolicy};
use dcbuild_process::{Env, Hint};
use dcbuild_rego::{Detail, Environment, Folders, Policies, PolicyFile, RegoError};

use crate::prepare::Place;
use crate::wanted::Wanted;
use crate::{FlagError, csv};

/// The variable that docker reads a policy's file from.
const VARIABLE: &str = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";
/// Files of policies in one build.
const FILES_MAX: usize = 8;

/// What the command line and the environment say of policies.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PolicyFlags {
    /// The files of `BuildKit`'s format.
    pub files: Vec<PathBuf>,
    /// The files in Rego, as written.
    pub rego: Vec<PathBuf>,
    /// Which policies in Rego are asked.
    pub reach: RegoReach,
    /// Whether a build without any policy is refused.
    pub strict: bool,
    /// What is shown of those in Rego.
    pub detail: Detail,
}

/// Which policies in Rego are asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RegoReach {
    /// Those that are named, and one that lies beside the Dockerfile.
    #[default]
    All,
    /// Those that are named.
    Named,
    /// None.
    None,
}

/// Says why a policy lets a build not begin.
#[derive(Debug, thiserror::Error)]
pub enum PolicyRefusal {
    /// Its file could not be read.
    #[error("could not read the source policy '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its file is too large.
    #[error("the source policy '{}' is larger than {} bytes", path.display(), limits::POLICY_BYTES_MAX)]
    Large {
        /// The file.
        path: PathBuf,
    },
    /// Its file is none.
    #[error(transparent)]
    Invalid(#[from] InvalidPolicy),
    /// One in Rego cannot be asked.
    #[error("could not load a policy")]
    Rego(#[from] RegoError),
    /// There is none where there must be one.
    #[error("there is no policy, and --policy strict=true wants one")]
    Strict {
        /// Where one was looked for.
        beside: Option<PathBuf>,
    },
    /// It refuses something.
    #[error("error evaluating the source policy")]
    Refused(#[from] PolicyError),
}

impl Hint for PolicyRefusal {
    fn hint(&self) -> Option<String> {
        match self {
            PolicyRefusal::Refused(error) => error.hint(),
            PolicyRefusal::Invalid(_) => Some(
                "such as {\"rules\": [{\"action\": \"DENY\", \"selector\": {\"identifier\": \"docker-image://*\"}}]}".into(),
            ),
            PolicyRefusal::Read { .. } => {
                Some(format!("--policy or {VARIABLE} of the environment names it"))
            }
            PolicyRefusal::Rego(error) => error.hint().map(str::to_owned),
            PolicyRefusal::Strict { beside: Some(path) } => {
                Some(format!("write '{}', or name a file with --policy", path.display()))
            }
            PolicyRefusal::Strict { beside: None } => Some("name a file with --policy".into()),
            PolicyRefusal::Large { .. } => None,
        }
    }
}

/// Reads `--policy` and the variable that docker knows.
pub(crate) fn flags(given: &[String], env: &Env) -> Result<PolicyFlags, FlagError> {
    let mut flags = PolicyFlags::default();
    let variable = env.get(VARIABLE).filter(|file| !file.is_empty());
    flags.files.extend(variable.map(PathBuf::from));
    for text in given {
        flag(&mut flags, text)?;
    }
    let count = flags.files.len() + flags.rego.len();
    let last = || given.last().map_or("", String::as_str);
    if count > FILES_MAX {
        let problem = format!("it is one of {count} files, more than {FILES_MAX}");
        return Err(malformed(last(), problem));
    }
    if flags.reach == RegoReach::None && (flags.strict || !flags.rego.is_empty()) {
        let problem = "disabled=true goes with no other policy and not with strict=true".into();
        return Err(malformed(last(), problem));
    }
    Ok(flags)
}

fn flag(flags: &mut PolicyFlags, text: &str) -> Result<(), FlagError> {
    let bad = |problem: String| malformed(text, problem);
    let pairs = csv::pairs(text).ok_or_else(|| bad("a quote is not closed".into()))?;
    let one = pairs.len() == 1;
    for (key, value) in pairs {
        let file = match (key.as_str(), value.as_deref()) {
            (_, None) if one && !text.is_empty() => text,
            ("filename", Some(file)) if !file.is_empty() => file,
            ("disabled", Some("true" | "1")) => {
                flags.reach = RegoReach::None;
                continue;
            }
            ("reset", Some("true" | "1")) => {
                flags.reach = flags.reach.max_of(RegoReach::Named);
                continue;
            }
            ("strict", Some("true" | "1")) => {
                flags.strict = true;
                continue;
            }
            ("disabled" | "reset" | "strict", Some("false" | "0")) => continue,
            ("log-level", Some(level)) => {
                flags.detail = detail(level).ok_or_else(|| {
                    bad(format!("'{level}' is none of error, warn, info, debug and none"))
                })?;
                continue;
            }
            (key @ ("disabled" | "reset" | "strict"), value) => {
                let value = value.unwrap_or_default();
                return Err(bad(format!("'{value}' is no value of {key} (true or false)")));
            }
            (key, _) => {
                return Err(bad(format!(
                    "'{key}' is none of filename=, disabled=, reset=, strict= and log-level="
                )));
            }
        };
        let is_rego = std::path::Path::new(file)
            .extension()
            .is_some_and(|it| it.eq_ignore_ascii_case("rego"));
        if is_rego {
            flags.rego.push(file.into());
        } else {
            flags.files.push(file.into());
        }
    }
    Ok(())
}

fn detail(level: &str) -> Option<Detail> {
    match level {
        "none" | "error" | "warn" | "warning" => Some(Detail::None),
        "info" => Some(Detail::Decisions),
        "debug" | "trace" => Some(Detail::Inputs),
        _ => None,
    }
}

impl RegoReach {
    /// The narrower of two.
    fn max_of(self, other: RegoReach) -> RegoReach {
        if self == RegoReach::None { self } else { other }
    }
}

fn malformed(value: &str, problem: String) -> FlagError {
    let example = "--policy filename=policy.rego,strict=true, or --policy disabled=true";
    FlagError::Malformed { flag: "policy", value: value.to_owned(), problem, example }
}

/// Reads the policies of a build. Blocks; a pipe does so until somebody writes into it.
pub(crate) fn read_all(
    files: &[PathBuf],
    working: &Path,
) -> Result<Vec<SourcePolicy>, PolicyRefusal> {
    files.iter().map(|file| read(working.join(file))).collect()
}

/// What the policies of a build say, which is to let it read what it starts from.
pub(crate) fn engine(wanted: &Wanted, policies: &[SourcePolicy]) -> Result<Engine, PolicyRefusal> {
    let engine = Engine::new(policies)?;
    if wanted.reads_dockerfile_here() {
        engine.local_by_files("dockerfile")?;
    }
    Ok(engine)
}

fn read(path: PathBuf) -> Result<SourcePolicy, PolicyRefusal> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let failed = |source| PolicyRefusal::Read { path: path.clone(), source };
    let file = std::fs::File::open(&path).map_err(failed)?;
    let mut text = Vec::new();
    file.take(limits::POLICY_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > limits::POLICY_BYTES_MAX {
        return Err(PolicyRefusal::Large { path });
    }
    Ok(SourcePolicy::parse(&name, &text)?)
}

/// What the client fetches for something that a flag names.
pub(crate) fn permitted(engine: &Engine, remote: &Remote) -> Result<Added, PolicyRefusal> {
    let named = Added { remote: remote.clone(), checksum: None };
    Ok(engine.added_by_files(&named)?)
}

/// What lies around a policy in Rego.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beside<'a> {
    /// The folder of the context.
    pub(crate) context: &'a Path,
    /// The Dockerfile, where it is a file.
    pub(crate) dockerfile: Option<&'a Path>,
    /// The Dockerfile's name.
    pub(crate) filename: &'a str,
}

/// The policies in Rego of a build, where there are some; they let everything through that was read and fetched already.
/// Blocks.
pub(crate) fn rego(
    wanted: &Wanted,
    place: Place<'_>,
    beside: Beside<'_>,
    taken: &[(Added, Facts)],
) -> Result<Option<Policies>, PolicyRefusal> {
    let own = beside.dockerfile.map(|dockerfile| {
        let mut path = dockerfile.as_os_str().to_owned();
        path.push(".rego");
        PathBuf::from(path)
    });
    let flags = &wanted.policies;
    let found = own.clone().filter(|path| flags.reach == RegoReach::All && path.exists());
    let named = flags.rego.iter().map(|file| located(file, place.working, beside.context));
    let files: Vec<PolicyFile> = found.into_iter().chain(named).map(named_file).collect();
    if files.is_empty() || flags.reach == RegoReach::None {
        let none = flags.strict && flags.files.is_empty();
        return if none { Err(PolicyRefusal::Strict { beside: own }) } else { Ok(None) };
    }
    let folders =
        Folders { context: Some(beside.context.to_owned()), working: place.working.to_owned() };
    let filename = Path::new(beside.filename).file_name().unwrap_or_default();
    let env = Environment {
        args: wanted.request.build_args.clone(),
        labels: wanted.request.labels.clone(),
        filename: filename.to_string_lossy().into_owned(),
        target: wanted.request.target.clone().unwrap_or_default(),
    };
    let policies = Policies::load(&files, folders, env, flags.detail)?;
    if wanted.reads_dockerfile_here() {
        let identifier = "local://dockerfile".to_owned();
        let none = PolicyAsk { identifier, ..ask_of_nothing() };
        passed(&policies, &none)?;
    }
    taken
        .iter()
        .try_for_each(|(added, facts)| passed(&policies, &ask_of(added, Some(facts.clone()))))?;
    Ok(Some(policies))
}

fn ask_of_nothing() -> PolicyAsk {
    PolicyAsk {
        identifier: String::new(),
        attrs: std::collections::BTreeMap::new(),
        platform: None,
        pinned_by: std::collections::BTreeSet::new(),
        facts: None,
    }
}

fn named_file(path: PathBuf) -> PolicyFile {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    PolicyFile { name, path }
}

/// Where a file lies that a flag names: in the context, as with buildx, else in the working folder.
fn located(file: &Path, working: &Path, context: &Path) -> PathBuf {
    if let Some(inside) = file.to_str().and_then(|file| file.strip_prefix("cwd://")) {
        return working.join(inside);
    }
    let in_context = context.join(file);
    if in_context.exists() { in_context } else { working.join(file) }
}

/// Whether policies let something through that this client has read itself.
fn passed(policies: &Policies, ask: &PolicyAsk) -> Result<(), PolicyRefusal> {
    let identifier = ask.identifier.clone();
    let refused = match policies.judge(ask).verdict {
        Verdict::Allowed {} | Verdict::Pinned { .. } => return Ok(()),
        Verdict::Denied { policy, messages } => {
            PolicyError::NotAllowed { identifier, policy, messages }
        }
        Verdict::Open {} => {
            let problem = "it wants to know more than there is".to_owned();
            PolicyError::Unevaluated { identifier, problem, hint: None }
        }
        Verdict::Failed { message: problem, hint } => {
            PolicyError::Unevaluated { identifier, problem, hint }
        }
    };
    Err(refused.into())
}
