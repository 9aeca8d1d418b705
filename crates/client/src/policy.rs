//! Source policies on the client's side: which files hold them, and what they say of what the client itself reads and
//! fetches. Of everything else the plan asks them.

use std::io::Read as _;
use std::path::PathBuf;

use dcbuild_model::{Added, Remote, limits};
use dcbuild_plan::policy::{Engine, InvalidPolicy};
use dcbuild_plan::{PolicyError, SourcePolicy};
use dcbuild_process::{Env, Hint};

use crate::prepare::Place;
use crate::wanted::{DockerfilePlace, MainContext, Wanted};
use crate::{FlagError, csv};

/// The variable that docker reads a policy's file from.
const VARIABLE: &str = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";
/// Files of policies in one build.
const FILES_MAX: usize = 8;

/// What the command line and the environment say of policies.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PolicyFlags {
    /// The files.
    pub files: Vec<PathBuf>,
    /// Whether a policy in Rego beside the Dockerfile is to be left alone.
    pub rego_is_off: bool,
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
    if flags.files.len() > FILES_MAX {
        let problem = format!("it is one of {} files, more than {FILES_MAX}", flags.files.len());
        return Err(malformed(given.last().map_or("", String::as_str), problem));
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
                flags.rego_is_off = true;
                continue;
            }
            // They are about policies in Rego, of which there are none here.
            ("disabled" | "reset" | "strict", Some("true" | "1" | "false" | "0"))
            | ("log-level", Some(_)) => continue,
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
            let instead =
                "dcbuild runs no Rego: write the rules as a source policy of BuildKit, in JSON";
            return Err(FlagError::Unsupported { flag: "policy", value: text.to_owned(), instead });
        }
        flags.files.push(file.into());
    }
    Ok(())
}

fn malformed(value: &str, problem: String) -> FlagError {
    let example = "--policy filename=policy.json, or --policy disabled=true";
    FlagError::Malformed { flag: "policy", value: value.to_owned(), problem, example }
}

/// The policies of a build, and whether they let it read what it starts from. Blocks.
pub(crate) fn load(
    wanted: &Wanted,
    place: Place<'_>,
) -> Result<(Vec<SourcePolicy>, Engine), PolicyRefusal> {
    let files = wanted.policies.files.iter();
    let policies =
        files.map(|file| read(place.working.join(file))).collect::<Result<Vec<_>, _>>()?;
    let engine = Engine::new(&policies)?;
    let elsewhere = matches!(wanted.context, MainContext::Remote(_))
        || matches!(wanted.dockerfile, DockerfilePlace::Url(_));
    if !elsewhere {
        engine.local("dockerfile")?;
    }
    Ok((policies, engine))
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
    Ok(engine.added(&named)?)
}
