//! The values of single flags.

mod resources;
mod ssh;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use dcbuild_model::{Named, Platform, Remote, limits};
use dcbuild_oci::LayoutRef;
use dcbuild_plan::{ContextSource, HOST_GATEWAY, RunNetwork, Ulimit};
use dcbuild_process::{Env, docker_size};
use dcbuild_proto::document::{Annotation, AnnotationPlace};

use crate::FlagError;
use crate::csv;
use crate::variables;

pub(crate) use resources::resources;
pub use ssh::AgentSource;
pub(crate) use ssh::agents;

pub(crate) fn malformed(
    flag: &'static str,
    value: &str,
    problem: impl Into<String>,
    example: &'static str,
) -> FlagError {
    FlagError::Malformed { flag, value: value.to_owned(), problem: problem.into(), example }
}

/// Reads `NAME=VALUE` pairs; a name alone has the environment's value, or is left out where there is none.
pub(crate) fn build_args(
    given: &[String],
    env: &Env,
) -> Result<BTreeMap<String, String>, FlagError> {
    let mut args = BTreeMap::new();
    for text in given {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text.as_str(), env.get(text)),
        };
        if name.is_empty() {
            return Err(malformed("build-arg", text, "it has no name", "--build-arg VERSION=1.2"));
        }
        if let Some(value) = value {
            args.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(args)
}

/// Reads labels; one without a value has an empty one.
pub(crate) fn labels(given: &[String]) -> Result<BTreeMap<String, String>, FlagError> {
    let label = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        if name.is_empty() {
            return Err(malformed("label", text, "it has no name", "--label version=1.2"));
        }
        Ok((name.to_owned(), value.to_owned()))
    };
    given.iter().map(label).collect()
}

/// Reads annotations: `[PLACE[[PLATFORM]][,PLACE]:]NAME=VALUE`; without a place the manifests are meant.
pub(crate) fn annotations(given: &[String]) -> Result<Vec<Annotation>, FlagError> {
    const FLAG: &str = "annotation";
    const PLACED: &str = "--annotation manifest[linux/amd64]:NAME=VALUE or index:NAME=VALUE";
    let mut annotations = Vec::new();
    for text in given {
        let (places, pair) = match text.split_once(':') {
            Some((places, rest)) if places.split(',').all(is_place) => (places, rest),
            _ => ("manifest", text.as_str()),
        };
        let Some((name, value)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            let example = "--annotation org.opencontainers.image.title=app";
            return Err(malformed(FLAG, text, "it is no NAME=VALUE", example));
        };
        for place in places.split(',') {
            let (place, platform) = annotation_place((FLAG, PLACED), text, place)?;
            let (name, value) = (name.to_owned(), value.to_owned());
            annotations.push(Annotation { place, platform, name, value });
        }
    }
    Ok(annotations)
}

fn is_place(text: &str) -> bool {
    let word = text.split_once('[').map_or(text, |(word, _)| word);
    matches!(word, "manifest" | "index" | "manifest-descriptor" | "index-descriptor")
}

/// Reads where an annotation stands: `manifest`, `manifest[linux/amd64]`, `index` and their like.
pub(crate) fn annotation_place(
    (flag, example): (&'static str, &'static str),
    written: &str,
    place: &str,
) -> Result<(AnnotationPlace, Option<Platform>), FlagError> {
    let bad = |problem: &str| malformed(flag, written, problem, example);
    let (word, platform) = match place.split_once('[') {
        None => (place, None),
        Some((word, rest)) => {
            let text = rest.strip_suffix(']').ok_or_else(|| bad("a bracket is not closed"))?;
            (word, Some(text.parse().map_err(FlagError::Platform)?))
        }
    };
    let place = match word {
        "manifest" => AnnotationPlace::Manifest,
        "manifest-descriptor" => AnnotationPlace::ManifestDescriptor,
        "index" if platform.is_some() => return Err(bad("an index is of no platform")),
        "index" => AnnotationPlace::Index,
        "index-descriptor" if platform.is_some() => {
            return Err(bad("an index is of no platform"));
        }
        "index-descriptor" => AnnotationPlace::IndexDescriptor,
        _ => return Err(bad("it names no place of an annotation")),
    };
    Ok((place, platform))
}

/// What a named context stands for here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NamedContext {
    /// A folder.
    Folder(PathBuf),
    /// An image of a registry, as written.
    Image(String),
    /// An image of a layout on this machine.
    Layout(LayoutRef),
    /// A stage.
    Target(String),
    /// Something that is fetched.
    Remote(Remote),
}

impl NamedContext {
    /// What the plan is told of it.
    pub fn source(&self) -> ContextSource {
        match self {
            NamedContext::Folder(_) | NamedContext::Remote(_) => ContextSource::Folder {},
            NamedContext::Image(reference) => {
                ContextSource::DockerImage { reference: reference.clone() }
            }
            NamedContext::Layout(layout) => {
                let digest = layout.digest.map(|digest| digest.to_string());
                let reference = digest.or_else(|| layout.tag.clone()).unwrap_or_default();
                ContextSource::OciLayout { reference }
            }
            NamedContext::Target(name) => ContextSource::Target { name: name.clone() },
        }
    }
}

/// Reads named contexts; of two with one name the later counts.
pub(crate) fn build_contexts(
    given: &[String],
) -> Result<BTreeMap<String, NamedContext>, FlagError> {
    const FLAG: &str = "build-context";
    let mut contexts = BTreeMap::new();
    for text in given {
        let bad = |problem| malformed(FLAG, text, problem, "--build-context assets=../assets");
        let (name, value) = text.split_once('=').ok_or_else(|| bad("it is no NAME=VALUE"))?;
        if name.is_empty() || value.is_empty() {
            return Err(bad("name or value is empty"));
        }
        if name.eq_ignore_ascii_case("context") || name.eq_ignore_ascii_case("scratch") {
            return Err(bad("this name is taken"));
        }
        let context = if let Some(reference) = value.strip_prefix("docker-image://") {
            crate::output::image_reference(FLAG, reference)?;
            NamedContext::Image(reference.to_owned())
        } else if value.starts_with("oci-layout://") {
            let layout = value.parse();
            let failed = |source| FlagError::Layout { value: value.to_owned(), source };
            NamedContext::Layout(layout.map_err(failed)?)
        } else if let Some(stage) = value.strip_prefix("target:") {
            NamedContext::Target(stage.to_owned())
        } else if let Some(remote) = remote("--build-context", value)? {
            NamedContext::Remote(remote)
        } else {
            NamedContext::Folder(value.into())
        };
        contexts.insert(name.to_owned(), context);
    }
    Ok(contexts)
}

/// Reads an address; nothing where the text is a folder.
pub(crate) fn remote(what: &'static str, text: &str) -> Result<Option<Remote>, FlagError> {
    let failed = |source| FlagError::Remote { what, value: text.to_owned(), source };
    Remote::parse(text, Named::ByFlag).map_err(failed)
}

/// Whether a Dockerfile lies behind a URL.
pub(crate) fn is_web(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// Where the value of a secret lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// In a variable of the environment; an absent one is empty.
    Env(String),
}

/// Reads secrets: `id=ID[,src=FILE][,env=NAME][,type=file|env]`.
pub(crate) fn secrets(
    given: &[String],
    env: &Env,
) -> Result<BTreeMap<String, SecretSource>, FlagError> {
    given.iter().map(|text| secret(text, env)).collect()
}

fn secret(text: &str, env: &Env) -> Result<(String, SecretSource), FlagError> {
    let bad = |problem: String| {
        malformed("secret", text, problem, "--secret id=token,src=token.txt or id=token,env=TOKEN")
    };
    let pairs = csv::pairs(text).ok_or_else(|| bad("a quote is not closed".into()))?;
    let (mut id, mut file, mut variable, mut kind) = (None, None, None, None);
    for (key, value) in pairs {
        let value = value.ok_or_else(|| bad(format!("'{key}' has no value")))?;
        match key.as_str() {
            "id" => id = Some(value),
            "src" | "source" => file = Some(value),
            "env" => variable = Some(value),
            "type" if matches!(value.as_str(), "file" | "env") => kind = Some(value),
            "type" => return Err(bad(format!("'{value}' is no type of secret (file or env)"))),
            _ => return Err(bad(format!("'{key}' is no known attribute"))),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| bad("it has no id=".into()))?;
    // As a script writes them whose variable is not set.
    for given in [&mut file, &mut variable] {
        given.take_if(|given| given.is_empty());
    }
    if kind.as_deref() == Some("env") && variable.is_none() {
        variable = file.take();
    }
    let source = match (variable, file) {
        (Some(_), Some(_)) => return Err(bad("it has both src= and env=".into())),
        (Some(variable), None) => SecretSource::Env(variable),
        (None, Some(file)) => SecretSource::File(file.into()),
        // Neither is given: the id itself names the one or the other.
        (None, None) if kind.as_deref() == Some("env") => SecretSource::Env(id.clone()),
        (None, None) if kind.is_none() && env.get_os(&id).is_some() => {
            SecretSource::Env(id.clone())
        }
        (None, None) => SecretSource::File(id.clone().into()),
    };
    Ok((id, source))
}

/// Reads lines of `/etc/hosts`, several in one value separated by commas.
pub(crate) fn add_hosts(given: &[String]) -> Result<Vec<(String, String)>, FlagError> {
    let mut hosts = Vec::new();
    for text in given {
        let lines = csv::fields(text).ok_or_else(|| {
            malformed("add-host", text, "a quote is not closed", "--add-host db:10.0.0.7")
        })?;
        for line in lines {
            hosts.push(add_host(&line)?);
        }
    }
    Ok(hosts)
}

/// Reads a line of `/etc/hosts`: `HOST:IP` or `HOST=IP`, an address of version 6 perhaps in brackets.
pub(crate) fn add_host(text: &str) -> Result<(String, String), FlagError> {
    const FLAG: &str = "add-host";
    let bad = |problem: &str| malformed(FLAG, text, problem, "--add-host db:10.0.0.7");
    let (host, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or_else(|| bad("it is no HOST:IP"))?;
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(bad("it names no host"));
    }
    // Whoever runs the step knows where its host is.
    if address == HOST_GATEWAY {
        return Ok((host.to_owned(), address.to_owned()));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let address: IpAddr = bare.parse().map_err(|_| bad("the address is no IP address"))?;
    Ok((host.to_owned(), address.to_string()))
}

/// Reads limits; the last of a name counts.
pub(crate) fn ulimits(given: &[String]) -> Result<Vec<Ulimit>, FlagError> {
    let mut limits: Vec<Ulimit> = Vec::new();
    for text in given {
        let limit = ulimit(text)?;
        limits.retain(|known| known.name != limit.name);
        limits.push(limit);
    }
    Ok(limits)
}

/// Reads a limit: `NAME=SOFT[:HARD]`.
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, FlagError> {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let bad = |problem: &str| malformed("ulimit", text, problem, "--ulimit nofile=1024:2048");
    let (name, limits) = text.split_once('=').ok_or_else(|| bad("it is no NAME=SOFT[:HARD]"))?;
    if !NAMES.contains(&name) {
        return Err(bad(&format!("'{name}' is no limit ({})", NAMES.join(", "))));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| {
        let number = text.parse::<i64>().ok().filter(|number| *number >= -1);
        number.ok_or_else(|| bad("a limit is a number, or -1 for none"))
    };
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 && (soft > hard || soft == -1) {
        return Err(bad("the soft limit is above the hard one"));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// Reads `--shm-size`.
pub(crate) fn shm_size(text: &str) -> Result<u64, FlagError> {
    docker_size(text).ok_or_else(|| malformed("shm-size", text, "it is no size", "--shm-size 128m"))
}

/// Reads `--network`.
pub(crate) fn network(text: Option<&str>) -> Result<RunNetwork, FlagError> {
    match text {
        None | Some("" | "default") => Ok(RunNetwork::Default),
        Some("none") => Ok(RunNetwork::None),
        Some("host") => Ok(RunNetwork::Host),
        Some(other) => {
            let problem = "it is none of default, none and host";
            Err(malformed("network", other, problem, "--network none"))
        }
    }
}

/// Reads `--allow`, several in one value separated by commas; what is never asked for here is left out.
pub(crate) fn allow(given: &[String]) -> Result<BTreeSet<String>, FlagError> {
    let mut allowed = BTreeSet::new();
    // The commas of a device are its own.
    let is_device = |text: &str| text == "device" || text.starts_with("device=");
    for text in given.iter().filter(|text| !is_device(text)) {
        for what in text.split(',').map(str::trim) {
            match what {
                "network.host" | "security.insecure" => {
                    allowed.insert(what.to_owned());
                }
                "device" => {}
                device if device.starts_with("device=") => {}
                other => {
                    let problem = "it is none of network.host, security.insecure and device";
                    return Err(malformed("allow", other, problem, "--allow network.host"));
                }
            }
        }
    }
    Ok(allowed)
}

/// Reads `--cgroup-parent`: a path of control groups, or a slice.
pub(crate) fn cgroup_parent(text: &str) -> Result<String, FlagError> {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\0', '\n', ':']);
    let path = text.trim_matches('/');
    if text.is_empty() || path.split('/').all(plain) {
        return Ok(path.to_owned());
    }
    let problem = "it is no path of control groups";
    Err(malformed("cgroup-parent", text, problem, "--cgroup-parent /ci/builds"))
}

/// Options of the frontend that have no flag of their own.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct FrontendOptions {
    pub(crate) hostname: Option<String>,
    /// The folder of the context that stands for it.
    pub(crate) folder: Option<String>,
}

/// Reads `--opt NAME=VALUE`.
pub(crate) fn frontend_options(given: &[String]) -> Result<FrontendOptions, FlagError> {
    const FLAG: &str = "opt";
    let mut options = FrontendOptions::default();
    for text in given {
        let bad = |problem: &str| malformed(FLAG, text, problem, "--opt hostname=builder");
        let (name, value) = text.split_once('=').ok_or_else(|| bad("it is no NAME=VALUE"))?;
        match name {
            "hostname" => options.hostname = Some(value.to_owned()),
            "contextsubdir" => {
                let parts: Vec<&str> = value.split('/').filter(|part| !part.is_empty()).collect();
                if parts.contains(&"..") {
                    return Err(bad("the folder leads out of the context"));
                }
                options.folder = Some(parts.join("/")).filter(|folder| !folder.is_empty());
            }
            other => {
                let flag = flag_of(other).ok_or_else(|| bad("the frontend has no such option"))?;
                let instead = flag;
                return Err(FlagError::Unsupported { flag: FLAG, value: text.clone(), instead });
            }
        }
    }
    Ok(options)
}

/// What to write instead of an option that has a flag.
fn flag_of(option: &str) -> Option<&'static str> {
    let word = option.split_once(':').map_or(option, |(word, _)| word);
    let (_, instead) = [
        ("build-arg", "write --build-arg"),
        ("context", "write --build-context"),
        ("label", "write --label"),
        ("target", "write --target"),
        ("platform", "write --platform"),
        ("filename", "write --file"),
        ("no-cache", "write --no-cache or --no-cache-filter"),
        ("force-network-mode", "write --network"),
        ("add-hosts", "write --add-host"),
        ("ulimit", "write --ulimit"),
        ("shm-size", "write --shm-size"),
        ("image-resolve-mode", "write --pull"),
        ("attest", "write --attest"),
        ("cgroup-parent", "write --cgroup-parent"),
        ("source", "leave it out: dcbuild is its own frontend"),
        ("cmdline", "leave it out: dcbuild is its own frontend"),
    ]
    .into_iter()
    .find(|(known, _)| *known == word)?;
    Some(instead)
}

/// Reads `--platform`: any number, separated by commas or given again, each kept once; `local` is this machine's.
pub(crate) fn platforms(given: &[String]) -> Result<Vec<Platform>, FlagError> {
    let mut platforms: Vec<Platform> = Vec::new();
    for text in given.iter().flat_map(|text| text.split(',')).map(str::trim) {
        let platform = if text.eq_ignore_ascii_case("local") {
            Platform { os: "linux".into(), ..Platform::host() }
        } else {
            text.parse().map_err(FlagError::Platform)?
        };
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    if platforms.len() > limits::PLATFORMS_MAX {
        let max = limits::PLATFORMS_MAX;
        let problem = format!("it names {} platforms, more than {max}", platforms.len());
        return Err(malformed("platform", &given.join(","), problem, "--platform linux/amd64"));
    }
    Ok(platforms)
}

/// Whether the result is an index: of several platforms, or of one where the build argument of `BuildKit` says so.
pub(crate) fn is_index(
    platforms: &[Platform],
    build_args: &BTreeMap<String, String>,
) -> Result<bool, FlagError> {
    const ARGUMENT: &str = "BUILDKIT_MULTI_PLATFORM";
    const EXAMPLE: &str = "--build-arg BUILDKIT_MULTI_PLATFORM=1";
    let several = platforms.len() > 1;
    match truth(build_args, ARGUMENT, EXAMPLE)? {
        Some(false) if several => {
            let value = format!("{ARGUMENT}={}", build_args[ARGUMENT]);
            Err(malformed("build-arg", &value, "several platforms are one index", EXAMPLE))
        }
        given => Ok(given.unwrap_or(several)),
    }
}

/// Whether a context that is a git repository keeps its `.git`, where the build argument of `BuildKit` says so.
pub(crate) fn keeps_git_dir(
    build_args: &BTreeMap<String, String>,
) -> Result<Option<bool>, FlagError> {
    const EXAMPLE: &str = "--build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR=1";
    truth(build_args, "BUILDKIT_CONTEXT_KEEP_GIT_DIR", EXAMPLE)
}

/// A build argument that is true or false; none where it is absent or empty.
fn truth(
    build_args: &BTreeMap<String, String>,
    name: &str,
    example: &'static str,
) -> Result<Option<bool>, FlagError> {
    let Some(given) = build_args.get(name).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let wrong = || {
        let value = format!("{name}={given}");
        malformed("build-arg", &value, "it is neither true nor false", example)
    };
    variables::switch(given).map(Some).ok_or_else(wrong)
}
