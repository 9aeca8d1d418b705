//! What a build asks, as the client sends it.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_model::Platform;
use serde::{Deserialize, Serialize};

use crate::op::{Resources, RunNetwork, Ulimit};
use crate::policy::SourcePolicy;

/// Which steps take no record from before the build.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "of")]
pub enum NoCache {
    /// None.
    #[default]
    Nothing,
    /// All.
    All,
    /// Those of the named stages.
    Stages {
        /// Lower-case names.
        names: BTreeSet<String>,
    },
}

/// Whether a name is looked up at its registry although the store knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullPolicy {
    /// The store's images come first.
    #[default]
    IfMissing,
    /// Always at the registry.
    Always,
}

/// What a named context stands for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "kind")]
pub enum ContextSource {
    /// A folder of the client.
    Folder {},
    /// An image of a registry.
    DockerImage {
        /// The reference, as written.
        reference: String,
    },
    /// An OCI layout of the client.
    OciLayout {
        /// The tag or digest to take; empty takes the only image.
        reference: String,
    },
    /// Another stage of this Dockerfile.
    Target {
        /// Its name.
        name: String,
    },
}

/// What lists what an image holds: an image that is run over it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    /// The image, as written.
    pub generator: String,
    /// What it is told, by the names that follow `BUILDKIT_SCAN_`.
    pub parameters: BTreeMap<String, String>,
}

/// What a build asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Request {
    /// The Dockerfile's text.
    pub dockerfile: String,
    /// Its name, for messages.
    pub filename: String,
    /// The stage to build; the last if none.
    pub target: Option<String>,
    /// `--build-arg`, with values taken from the environment already.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--platform`, each once; the worker's if none.
    pub platforms: Vec<Platform>,
    /// Whether the result is an index of images although only one platform is asked for.
    pub index: bool,
    /// The platform that builds.
    pub build_platform: Platform,
    /// `--build-context`, by name as written.
    pub contexts: BTreeMap<String, ContextSource>,
    /// `--no-cache`, `--no-cache-filter`.
    pub no_cache: NoCache,
    /// `--keep-cache-mounts`: a RUN that takes nothing from the cache has what was left in its cache mounts all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_cache_mounts: bool,
    /// `--pull`.
    pub pull: PullPolicy,
    /// `--network`.
    pub network: RunNetwork,
    /// `--allow`: `network.host`, `security.insecure`; `cgroup-parent` where a group is named.
    pub allow: BTreeSet<String>,
    /// `--add-host`: name and address, or [`HOST_GATEWAY`](crate::op::HOST_GATEWAY).
    pub hosts: Vec<(String, String)>,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--shm-size` in bytes; 0 is the usual.
    pub shm_bytes: u64,
    /// `--cgroup-parent`: the control group below which each RUN has its own; empty is the usual.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cgroup_parent: String,
    /// `--resource`: what each RUN may use of memory and processors.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// The host's name inside a RUN; empty is the usual.
    pub hostname: String,
    /// Proxies of the docker config file: seen by each RUN, in no key.
    pub proxies: BTreeMap<String, String>,
    /// What may be taken from outside, and what is taken instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<SourcePolicy>,
    /// Whether the client has policies of its own, and is asked about each source.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
    /// The ignore file of the build's own context, for checks; empty if there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ignore: String,
    /// The contexts that the client fetched from elsewhere: for them it has asked the policies itself.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub fetched: BTreeSet<String>,
    /// When what the client fetched was made, in seconds and by the names of contexts: a commit, what a server says of a
    /// file, the newest file of an archive.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub times: BTreeMap<String, i64>,
    /// `--sbom`.
    #[serde(default)]
    pub scan: Option<Scan>,
}

impl Request {
    /// A request with nothing but a Dockerfile.
    pub fn new(dockerfile: impl Into<String>) -> Request {
        Request {
            dockerfile: dockerfile.into(),
            filename: "Dockerfile".into(),
            target: None,
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            platforms: Vec::new(),
            index: false,
            build_platform: Platform { os: "linux".into(), ..Platform::host() },
            contexts: BTreeMap::new(),
            no_cache: NoCache::Nothing,
            keep_cache_mounts: false,
            pull: PullPolicy::IfMissing,
            network: RunNetwork::Default,
            allow: BTreeSet::new(),
            hosts: Vec::new(),
            ulimits: Vec::new(),
            shm_bytes: 0,
            cgroup_parent: String::new(),
            resources: Resources::default(),
            hostname: String::new(),
            proxies: BTreeMap::new(),
            policies: Vec::new(),
            asks: false,
            ignore: String::new(),
            fetched: BTreeSet::new(),
            times: BTreeMap::new(),
            scan: None,
        }
    }

    /// Whether the result is an index of images: one for each platform.
    pub fn is_index(&self) -> bool {
        self.index || self.platforms.len() > 1
    }

    /// The request as it is seen for each of its platforms.
    pub(crate) fn each(&self) -> Vec<OnePlatform<'_>> {
        if self.platforms.is_empty() {
            return vec![OnePlatform { whole: self, asked: None, number: 0 }];
        }
        let one = |(number, platform)| OnePlatform { whole: self, asked: Some(platform), number };
        self.platforms.iter().enumerate().map(one).collect()
    }

    /// The request as it is seen for the first of its platforms.
    pub(crate) fn first(&self) -> OnePlatform<'_> {
        OnePlatform { whole: self, asked: self.platforms.first(), number: 0 }
    }
}

/// A request for one of its platforms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnePlatform<'a> {
    /// The request.
    pub(crate) whole: &'a Request,
    /// The platform, where one was asked for.
    pub(crate) asked: Option<&'a Platform>,
    /// Its place among the platforms.
    pub(crate) number: usize,
}

impl<'a> OnePlatform<'a> {
    /// The platform that the target is built for.
    pub(crate) fn target(self) -> &'a Platform {
        self.asked.unwrap_or(&self.whole.build_platform)
    }
}
