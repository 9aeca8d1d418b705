//! What a command line asks, understood: the flags and the environment become one value, and that a submission.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use dcbuild_model::remote::GitTime;
use dcbuild_model::{GitSource, Remote};
use dcbuild_plan::{NoCache, PullPolicy, Request, RunNetwork};
use dcbuild_process::Env;
use dcbuild_progress::Mode;
use dcbuild_proto::document::{Aim, Origin, OutputKind, Submission, Upload};

use crate::FlagError;
use crate::args::BuildFlags;
use crate::attest::{self, Attesting};
use crate::caches::CacheFlags;
use crate::call::{self, Method};
use crate::output::{self, ClientOutput, Naming, Output, Shorthands};
use crate::parse::{self, AgentSource, NamedContext, SecretSource};
use crate::policy::{self, PolicyFlags};
use crate::prepare::Found;
use crate::variables::{self, GitAsked};

/// What a build reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MainContext {
    /// A folder of this machine.
    Folder(PathBuf),
    /// Standard input: an archive, or the Dockerfile and nothing else.
    Stdin,
    /// Something that is fetched.
    Remote(Remote),
}

/// Where the Dockerfile is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DockerfilePlace {
    /// In the context, under its usual name.
    Usual,
    /// Here.
    File(PathBuf),
    /// On standard input.
    Stdin,
    /// Behind a URL.
    Url(String),
}

/// What a build is to be, with all that its flags say.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The folder that it reads.
    pub context: MainContext,
    /// Where the Dockerfile is.
    pub dockerfile: DockerfilePlace,
    /// Named contexts.
    pub contexts: BTreeMap<String, NamedContext>,
    /// Where source policies are.
    pub policies: PolicyFlags,
    /// Secrets, by id.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Ssh agents, by id.
    pub agents: BTreeMap<String, AgentSource>,
    /// What becomes of the result.
    pub outputs: Vec<Output>,
    /// Caches at other places.
    pub caches: CacheFlags,
    /// Where the image's id is written.
    pub iidfile: Option<PathBuf>,
    /// Where what was made is written.
    pub metadata_file: Option<PathBuf>,
    /// How progress is shown.
    pub mode: Mode,
    /// Whether the metadata file tells warnings.
    pub tells_warnings: bool,
    /// A build, or what is asked of the Dockerfile instead.
    pub method: Method,
    /// The request, all but the Dockerfile and the proxies.
    pub(crate) request: Request,
    /// What was asked for and goes nowhere.
    idle: Vec<String>,
    title: String,
    /// How much provenance the metadata file is to have.
    told: Option<dcbuild_attest::Mode>,
    git: GitAsked,
}

/// What a build is handed over for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Purpose {
    /// To be built while the client stays.
    #[default]
    Build,
    /// To be built though the client leaves when its bytes are safe.
    Detached,
    /// To be planned.
    Plan,
}

/// How the build is handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Handover {
    /// What for.
    pub purpose: Purpose,
    /// Whether the worker lives in this process, and reads folders where they lie.
    pub in_place: bool,
    /// Which results a cluster keeps for later builds.
    pub upload: Upload,
}

impl Wanted {
    /// Reads flags; values that they take from the environment are taken from `env`.
    pub fn new(flags: &BuildFlags, env: &Env) -> Result<Wanted, FlagError> {
        let flags = &flags.given();
        flags.legacy.refuse()?;
        let (context, dockerfile) = places(flags)?;
        let names = flags.tags.iter().map(|tag| output::image_name("tag", tag));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        let annotations = parse::annotations(&flags.annotations)?;
        let contexts = parse::build_contexts(&flags.build_contexts)?;
        let mode = mode(flags, env)?;
        let shorthands = Shorthands {
            push: flags.push,
            load: flags.load,
            digest_wanted: mode == Mode::Quiet
                || flags.iidfile.is_some()
                || flags.metadata_file.is_some(),
        };
        let title = match (names.first(), &context) {
            (Some(name), _) => name.familiar(),
            (None, MainContext::Folder(folder)) => title_of(folder),
            (None, MainContext::Remote(remote)) => remote.to_string(),
            (None, MainContext::Stdin) => "Dockerfile".to_owned(),
        };
        let request = request(flags, env, &contexts)?;
        let context = with_git_dir(context, parse::keeps_git_dir(&request.build_args)?);
        let context = dated(context, &request.build_args);
        let attesting = Attesting::new(flags, env)?;
        let scanner = attesting.sbom.as_ref().map(|(scan, _)| scan.generator.as_str());
        variables::refuse_unchecked(env, scanner)?;
        let request =
            Request { scan: attesting.sbom.as_ref().map(|(scan, _)| scan.clone()), ..request };
        let annotated = !annotations.is_empty();
        let naming = Naming { names, annotations, index: request.is_index(), attesting };
        let output::Outputs { each: mut outputs, mut idle } =
            output::outputs(&flags.outputs, shorthands, &naming)?;
        let caches = CacheFlags::read(&flags.cache_from, &flags.cache_to, env)?;
        let inline = caches.inline || is_inline(&request.build_args);
        for output in &mut outputs {
            output.spec.inline_cache = inline;
        }
        let method = call::method(flags.call.as_deref().or(flags.print.as_deref()), flags.check)?;
        agree(flags, method, &outputs)?;
        if annotated && method == Method::Build && !outputs.iter().any(is_image) {
            idle.push(NO_ANNOTATIONS.to_owned());
        }
        Ok(Wanted {
            idle,
            request,
            policies: policy::flags(&flags.policies, env)?,
            caches,
            secrets: parse::secrets(&flags.secrets, env)?,
            agents: parse::agents(&flags.ssh, env)?,
            iidfile: flags.iidfile.clone(),
            metadata_file: flags.metadata_file.clone(),
            context,
            dockerfile,
            contexts,
            outputs,
            mode,
            method,
            tells_warnings: variables::tells_warnings(env)?,
            git: GitAsked::read(env)?,
            told: attest::told(env)?.filter(|_| flags.metadata_file.is_some()),
            title,
        })
    }

    /// What the user should know of the flags.
    pub fn warnings(&self) -> impl Iterator<Item = &String> {
        self.caches.warnings.iter().chain(&self.idle)
    }

    /// Refuses what a client would have to do at the end of a build that it does not stay for.
    pub fn refuse_to_stay(&self) -> Result<(), FlagError> {
        let output = self.outputs.iter().any(|output| output.client != ClientOutput::Image);
        let stays = [
            ("an output that is written here", output),
            ("--iidfile", self.iidfile.is_some()),
            ("--metadata-file", self.metadata_file.is_some()),
            ("--ssh, whose keys stay with the client,", !self.agents.is_empty()),
            (
                "--cache-from and --cache-to, which the client reads and writes,",
                !self.caches.is_empty(),
            ),
            ("--check or --call", self.method != Method::Build),
        ];
        match stays.into_iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((second, _)) => Err(FlagError::Conflict {
                first: "--detach".into(),
                second: second.into(),
                instead: "name the image with -t and --push it, or leave --detach out",
            }),
        }
    }

    /// Whether anybody will be told how the build came about.
    pub(crate) fn tells_provenance(&self) -> bool {
        let asks = |output: &Output| output.spec.attest.provenance.is_some();
        self.told.is_some() || self.outputs.iter().any(asks)
    }

    /// Whether the Dockerfile is this machine's, and was not fetched.
    pub(crate) fn reads_dockerfile_here(&self) -> bool {
        !matches!(self.context, MainContext::Remote(_))
            && !matches!(self.dockerfile, DockerfilePlace::Url(_))
    }

    /// What is to be asked of the repository that the context's folder belongs to.
    pub(crate) fn asks_git(&self) -> GitAsked {
        GitAsked { info: self.git.info && self.tells_provenance(), ..self.git }
    }

    /// What the client does with each output, in the order of the submission.
    pub fn client_outputs(&self) -> Vec<ClientOutput> {
        self.outputs.iter().map(|output| output.client.clone()).collect()
    }

    /// The submission of this build, now that its Dockerfile was read.
    pub fn submission(&self, found: Found, handover: Handover) -> Submission {
        let Found { dockerfile, filename, proxies, policies, asks, ignore, labels, times } = found;
        let request = Request {
            // What a flag says goes before what the repository says.
            labels: labels.into_iter().chain(self.request.labels.clone()).collect(),
            dockerfile,
            filename,
            proxies: proxies.build_args().into_iter().collect(),
            policies,
            asks,
            ignore,
            fetched: self.fetched(),
            times,
            ..self.request.clone()
        };
        Submission {
            request,
            outputs: self.outputs.iter().map(|output| output.spec.clone()).collect(),
            detached: handover.purpose == Purpose::Detached,
            aim: match (self.method.question(), handover.purpose) {
                (Some(wanted), _) => Aim::Call { call: wanted.call },
                (None, Purpose::Plan) => Aim::Plan {},
                (None, Purpose::Build | Purpose::Detached) => Aim::Build {},
            },
            in_place: handover.in_place,
            title: self.title.clone(),
            agents: self.agents.keys().cloned().collect(),
            caches: self.caches.submitted(),
            origin: Origin { told: self.told, ..Origin::default() },
            upload: handover.upload,
            scope: None,
        }
    }

    /// The names of contexts that are no folders of this machine.
    fn fetched(&self) -> BTreeSet<String> {
        let main = matches!(self.context, MainContext::Remote(_)).then(|| "context".to_owned());
        let named = self.contexts.iter().filter(|(_, it)| matches!(it, NamedContext::Remote(_)));
        main.into_iter().chain(named.map(|(name, _)| name.clone())).collect()
    }
}

fn mode(flags: &BuildFlags, env: &Env) -> Result<Mode, FlagError> {
    match (flags.progress.as_deref(), env.progress()) {
        _ if flags.quiet => Ok(Mode::Quiet),
        (Some(""), _) | (None, None) => Ok(Mode::Auto),
        (Some(mode), _) => mode.parse().map_err(FlagError::Progress),
        (None, Some(mode)) => mode.parse().map_err(|_| FlagError::Variable {
            variable: "BUILDKIT_PROGRESS",
            value: mode.to_owned(),
            instead: "set it to auto, tty, plain, quiet, rawjson or none, or unset it",
        }),
    }
}

const NO_ANNOTATIONS: &str = "--annotation has no effect: no image is made that could have it (add -t NAME, --push or -o type=image)";

fn is_image(output: &Output) -> bool {
    matches!(output.spec.kind, OutputKind::Image { .. })
}

/// Refuses outputs that cannot be had together, and the id of an image that nobody makes.
fn agree(flags: &BuildFlags, method: Method, outputs: &[Output]) -> Result<(), FlagError> {
    let conflict = |first: &str, second: &str, instead| {
        Err(FlagError::Conflict { first: first.into(), second: second.into(), instead })
    };
    if outputs.iter().filter(|output| output.client.is_stdout()).count() > 1 {
        let instead = "give all but one of them a dest=";
        return conflict("an output to standard output", "another one", instead);
    }
    if method == Method::Build && flags.iidfile.is_some() && !outputs.iter().any(is_image) {
        let instead = "leave it out, or make an image too: -o type=image";
        return conflict("--iidfile", "outputs of which none is an image", instead);
    }
    Ok(())
}

/// Whether the argument asks for inline records that BuildKit has for it.
fn is_inline(build_args: &BTreeMap<String, String>) -> bool {
    build_args
        .get("BUILDKIT_INLINE_CACHE")
        .is_some_and(|text| variables::switch(text) == Some(true))
}

fn title_of(folder: &std::path::Path) -> String {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| folder.display().to_string())
}

fn places(flags: &BuildFlags) -> Result<(MainContext, DockerfilePlace), FlagError> {
    let stdin = flags.file.as_ref().is_some_and(|file| file.as_os_str() == "-");
    let dockerfile = match &flags.file {
        Some(_) if stdin => DockerfilePlace::Stdin,
        Some(file) => match file.to_str().filter(|text| parse::is_web(text)) {
            Some(url) => DockerfilePlace::Url(url.to_owned()),
            None => DockerfilePlace::File(file.clone()),
        },
        None => DockerfilePlace::Usual,
    };
    let folder = parse::frontend_options(&flags.opts)?.folder;
    let context = match flags.context.as_str() {
        "-" if stdin => {
            return Err(FlagError::Conflict {
                first: "the context '-'".into(),
                second: "--file=-".into(),
                instead: "standard input is one thing: send an archive with the Dockerfile in it",
            });
        }
        "-" => MainContext::Stdin,
        text if folder.is_some() => match parse::remote("the context", text)? {
            None => MainContext::Folder(Path::new(text).join(folder.unwrap_or_default())),
            Some(_) => {
                return Err(FlagError::Conflict {
                    first: "--opt contextsubdir".into(),
                    second: format!("the context '{text}'"),
                    instead: "name the folder in the address: URL#REF:FOLDER",
                });
            }
        },
        "" => {
            return Err(FlagError::Needs {
                what: "a build".into(),
                needs: "a context, such as '.'",
            });
        }
        // A folder may have a repository's name, as those of Go once had to.
        text if Path::new(text).is_dir() => MainContext::Folder(text.into()),
        text => match parse::remote("the context", text)? {
            Some(remote) => MainContext::Remote(remote),
            None => MainContext::Folder(text.into()),
        },
    };
    Ok((context, dockerfile))
}

/// A repository keeps its `.git` if that is `kept` and its address says nothing else.
fn with_git_dir(context: MainContext, kept: Option<bool>) -> MainContext {
    match context {
        MainContext::Remote(Remote::Git(source)) => {
            let keep_git_dir = source.keep_git_dir.or(kept);
            MainContext::Remote(Remote::Git(GitSource { keep_git_dir, ..source }))
        }
        other => other,
    }
}

/// The files of a repository are of the commit's time where the image has a time at all, if its address says nothing else.
fn dated(context: MainContext, build_args: &BTreeMap<String, String>) -> MainContext {
    let is_asked = build_args.get(EPOCH).is_some_and(|value| !value.is_empty());
    match context {
        MainContext::Remote(Remote::Git(source)) if is_asked && source.mtime == GitTime::Usual => {
            MainContext::Remote(Remote::Git(GitSource { mtime: GitTime::Commit, ..source }))
        }
        other => other,
    }
}

const EPOCH: &str = "SOURCE_DATE_EPOCH";

fn request(
    flags: &BuildFlags,
    env: &Env,
    contexts: &BTreeMap<String, NamedContext>,
) -> Result<Request, FlagError> {
    let mut build_args = parse::build_args(&flags.build_args, env)?;
    if let Some(epoch) = env.source_date_epoch() {
        build_args.entry(EPOCH.into()).or_insert_with(|| epoch.to_owned());
    }
    let platforms = match (flags.platform.as_slice(), env.default_platform()) {
        ([], Some(default)) => {
            let wrong = |_| FlagError::Variable {
                variable: "DOCKER_DEFAULT_PLATFORM",
                value: default.to_owned(),
                instead: "set it to a platform, OS/ARCH, or unset it",
            };
            parse::platforms(&[default.to_owned()]).map_err(wrong)?
        }
        (given, _) => parse::platforms(given)?,
    };
    let network = parse::network(flags.network.as_deref())?;
    let mut allow = parse::allow(&flags.allow)?;
    let hostname = parse::frontend_options(&flags.opts)?.hostname;
    let hostname = hostname.or_else(|| build_args.get("BUILDKIT_SANDBOX_HOSTNAME").cloned());
    let cgroup_parent = parse::cgroup_parent(flags.cgroup_parent.as_deref().unwrap_or_default())?;
    if !cgroup_parent.is_empty() {
        allow.insert("cgroup-parent".into());
    }
    if network == RunNetwork::Host {
        allow.insert("network.host".into());
    }
    let no_cache = match flags.no_cache_filter.as_slice() {
        _ if flags.no_cache => NoCache::All,
        [] => NoCache::Nothing,
        stages => {
            NoCache::Stages { names: stages.iter().map(|name| name.to_lowercase()).collect() }
        }
    };
    Ok(Request {
        target: flags.target.clone().filter(|target| !target.is_empty()),
        hostname: hostname.unwrap_or_default(),
        cgroup_parent,
        labels: parse::labels(&flags.labels)?,
        index: parse::is_index(&platforms, &build_args)?,
        platforms,
        contexts: contexts.iter().map(|(name, it)| (name.clone(), it.source())).collect(),
        no_cache,
        keep_cache_mounts: flags.keep_cache_mounts,
        pull: if flags.pull { PullPolicy::Always } else { PullPolicy::IfMissing },
        network,
        allow,
        hosts: parse::add_hosts(&flags.add_hosts)?,
        ulimits: parse::ulimits(&flags.ulimits)?,
        resources: parse::resources(&flags.resources)?,
        shm_bytes: flags.shm_size.as_deref().map(parse::shm_size).transpose()?.unwrap_or(0),
        build_args,
        ..Request::new("")
    })
}
