//! What a build asks, as the client sends it.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_model::Platform;
use serde::{Deserialize, Serialize};

use crate::op::{RunNetwork, Ulimit};

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

/// What a build asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// `--platform`; the worker's if none.
    pub platform: Option<Platform>,
    /// The platform that builds.
    pub build_platform: Platform,
    /// `--build-context`, by name as written.
    pub contexts: BTreeMap<String, ContextSource>,
    /// `--no-cache`, `--no-cache-filter`.
    pub no_cache: NoCache,
    /// `--pull`.
    pub pull: PullPolicy,
    /// `--network`.
    pub network: RunNetwork,
    /// `--allow`: `network.host`, `security.insecure`.
    pub allow: BTreeSet<String>,
    /// `--add-host`: name and address.
    pub hosts: Vec<(String, String)>,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--shm-size` in bytes; 0 is the usual.
    pub shm_bytes: u64,
    /// The host's name inside a RUN; empty is the usual.
    pub hostname: String,
    /// Proxies of the docker config file: seen by each RUN, in no key.
    pub proxies: BTreeMap<String, String>,
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
            platform: None,
            build_platform: Platform { os: "linux".into(), ..Platform::host() },
            contexts: BTreeMap::new(),
            no_cache: NoCache::Nothing,
            pull: PullPolicy::IfMissing,
            network: RunNetwork::Default,
            allow: BTreeSet::new(),
            hosts: Vec::new(),
            ulimits: Vec::new(),
            shm_bytes: 0,
            hostname: String::new(),
            proxies: BTreeMap::new(),
        }
    }

    /// The platform that the target is built for.
    pub fn target_platform(&self) -> &Platform {
        self.platform.as_ref().unwrap_or(&self.build_platform)
    }
}
