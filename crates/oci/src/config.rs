//! Image configs, read as tolerantly as Go reads them and written as `BuildKit`'s exporter writes them.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_model::limits::{CONFIG_BYTES_MAX, LAYERS_MAX};
use dcbuild_model::{ConfigDigest, DiffId, Digest, ParseDigestError, Platform};
use serde::de::IgnoredAny;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::json::{Fields, InvalidJson, to_go_json, to_raw};
use crate::manifest::OciPlatform;

/// What a config's history may have at most, empty entries included.
const HISTORY_MAX: usize = 20_000;

/// Says why bytes are no image config.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// The config is too large.
    #[error("image config of {bytes} bytes is larger than {CONFIG_BYTES_MAX} bytes")]
    Size {
        /// Its size.
        bytes: usize,
    },
    /// The JSON has another shape.
    #[error("image config is malformed")]
    Json(#[from] InvalidJson),
    /// A layer's digest is wrong.
    #[error("image config names a layer wrongly")]
    DiffId(#[source] ParseDigestError),
    /// There are too many layers.
    #[error("image config lists {count} layers, more than {LAYERS_MAX}")]
    Layers {
        /// How many there are.
        count: usize,
    },
    /// There are too many history entries.
    #[error("image config lists {count} history entries, more than {HISTORY_MAX}")]
    History {
        /// How many there are.
        count: usize,
    },
    /// The rootfs is of a kind that nobody knows.
    #[error("image config has a rootfs of type '{kind}', not 'layers'")]
    Rootfs {
        /// The type, cut at 100 characters.
        kind: String,
    },
}

/// The config of an image.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ImageConfig {
    /// The architecture, such as `amd64`.
    pub architecture: String,
    /// The operating system, such as `linux`.
    pub os: String,
    /// The architecture's variant; empty where there is none.
    pub variant: String,
    /// The version of the operating system, on Windows.
    pub os_version: String,
    /// Features that the operating system must have, on Windows.
    pub os_features: Vec<String>,
    /// When the image was made, in RFC 3339.
    pub created: Option<String>,
    /// Who made it.
    pub author: String,
    /// How its containers run.
    pub config: ContainerConfig,
    /// The digests of its layers' tars, lowest first.
    pub diff_ids: Vec<DiffId>,
    /// How each layer came to be.
    pub history: Vec<History>,
    /// Fields that this type does not know, as JSON text by name; kept as they were.
    pub unknown: BTreeMap<String, String>,
}

/// How containers of an image run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ContainerConfig {
    /// The user, and maybe group; empty means root.
    pub user: String,
    /// Ports, such as `80/tcp`.
    pub exposed_ports: BTreeSet<String>,
    /// `NAME=VALUE`, in the order they were set.
    pub env: Vec<String>,
    /// The entrypoint's argv.
    pub entrypoint: Vec<String>,
    /// The default arguments.
    pub cmd: Vec<String>,
    /// Folders that are volumes.
    pub volumes: BTreeSet<String>,
    /// The working folder.
    pub working_dir: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The signal that stops a container.
    pub stop_signal: String,
    /// Windows: the command line is escaped already.
    pub args_escaped: bool,
    /// How the container's health is probed.
    pub healthcheck: Option<Healthcheck>,
    /// Instructions for builds that start from this image.
    pub on_build: Vec<String>,
    /// The shell of the shell form.
    pub shell: Vec<String>,
    /// Fields that this type does not know, as JSON text by name; kept as they were.
    pub unknown: BTreeMap<String, String>,
}

/// How a container's health is probed; zero means that the default is used.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", ..]` or `["CMD-SHELL", ..]`; empty inherits.
    #[serde(rename = "Test", default, deserialize_with = "or_default")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Nanoseconds between probes.
    #[serde(rename = "Interval", default, deserialize_with = "or_default")]
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Nanoseconds until a probe counts as hung.
    #[serde(rename = "Timeout", default, deserialize_with = "or_default")]
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Nanoseconds in which failures do not count.
    #[serde(rename = "StartPeriod", default, deserialize_with = "or_default")]
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Nanoseconds between probes in the start period.
    #[serde(rename = "StartInterval", default, deserialize_with = "or_default")]
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row until the container is unhealthy.
    #[serde(rename = "Retries", default, deserialize_with = "or_default")]
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// How a layer, or a change of the config alone, came to be.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// When, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which instruction.
    #[serde(default, deserialize_with = "or_default")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// By whom.
    #[serde(default, deserialize_with = "or_default")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// A remark; `BuildKit` writes `buildkit.dockerfile.v0`.
    #[serde(default, deserialize_with = "or_default")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// There is no layer.
    #[serde(default, deserialize_with = "or_default")]
    #[serde(skip_serializing_if = "is_false")]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// An empty config for a platform: that of `FROM scratch`.
    pub fn for_platform(platform: &Platform) -> ImageConfig {
        ImageConfig {
            architecture: platform.arch.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            ..ImageConfig::default()
        }
    }

    /// Reads the config of an image.
    pub fn parse(bytes: &[u8]) -> Result<ImageConfig, InvalidConfig> {
        if bytes.len() > CONFIG_BYTES_MAX {
            return Err(InvalidConfig::Size { bytes: bytes.len() });
        }
        let mut fields = Fields::parse(bytes, "image config")?;
        let config = fields.take_raw("config").unwrap_or_else(|| "{}".into());
        let config = ContainerConfig::parse(config.as_bytes())?;
        let rootfs: RootfsText = fields.take("rootfs")?.unwrap_or_default();
        let diff_ids = rootfs.diff_ids()?;
        let history: Vec<Option<History>> = fields.take("history")?.unwrap_or_default();
        if history.len() > HISTORY_MAX {
            return Err(InvalidConfig::History { count: history.len() });
        }
        Ok(ImageConfig {
            architecture: fields.take("architecture")?.unwrap_or_default(),
            os: fields.take("os")?.unwrap_or_default(),
            variant: fields.take("variant")?.unwrap_or_default(),
            os_version: fields.take("os.version")?.unwrap_or_default(),
            os_features: fields.take_texts("os.features")?,
            created: fields.take("created")?,
            author: fields.take("author")?.unwrap_or_default(),
            config,
            diff_ids,
            history: history.into_iter().map(Option::unwrap_or_default).collect(),
            unknown: fields.rest(),
        })
    }

    /// Writes the config: fields sorted at the top, in `BuildKit`'s order below.
    pub fn to_json(&self) -> Vec<u8> {
        to_go_json(self).into_bytes()
    }

    /// The digest of the config as it is written.
    pub fn digest(&self) -> ConfigDigest {
        ConfigDigest(Digest::of(&self.to_json()))
    }

    /// The platform that the image is for, if it names one.
    pub fn platform(&self) -> Option<Platform> {
        OciPlatform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            variant: self.variant.clone(),
            ..OciPlatform::default()
        }
        .to_model()
    }

    /// The config for an image that is made from this one: as with `BuildKit`, fields that no specification has, and those
    /// of docker's own that tell how this image was built, are not its; how long a container may take to stop is.
    #[must_use]
    pub fn inherited(mut self) -> ImageConfig {
        self.unknown.clear();
        self.config.unknown.retain(|name, _| name == "StopTimeout");
        self
    }
}

impl ContainerConfig {
    /// Reads the part of an image config that says how containers run.
    pub fn parse(bytes: &[u8]) -> Result<ContainerConfig, InvalidJson> {
        let mut fields = Fields::parse(bytes, "field 'config'")?;
        let labels: BTreeMap<String, Option<String>> = fields.take("Labels")?.unwrap_or_default();
        Ok(ContainerConfig {
            user: fields.take("User")?.unwrap_or_default(),
            exposed_ports: take_set(&mut fields, "ExposedPorts")?,
            env: fields.take_texts("Env")?,
            entrypoint: fields.take_texts("Entrypoint")?,
            cmd: fields.take_texts("Cmd")?,
            volumes: take_set(&mut fields, "Volumes")?,
            working_dir: fields.take("WorkingDir")?.unwrap_or_default(),
            labels: labels.into_iter().map(|(k, v)| (k, v.unwrap_or_default())).collect(),
            stop_signal: fields.take("StopSignal")?.unwrap_or_default(),
            args_escaped: fields.take("ArgsEscaped")?.unwrap_or_default(),
            healthcheck: fields.take("Healthcheck")?,
            on_build: fields.take_texts("OnBuild")?,
            shell: fields.take_texts("Shell")?,
            unknown: fields.rest(),
        })
    }
}

/// Go keeps sets as objects with empty values.
#[expect(clippy::zero_sized_map_values, reason = "the format is an object with empty values")]
fn take_set(fields: &mut Fields, name: &str) -> Result<BTreeSet<String>, InvalidJson> {
    let entries: Option<BTreeMap<String, IgnoredAny>> = fields.take(name)?;
    Ok(entries.unwrap_or_default().into_keys().collect())
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RootfsText {
    #[serde(rename = "type", deserialize_with = "or_default")]
    kind: String,
    #[serde(deserialize_with = "or_default")]
    diff_ids: Vec<String>,
}

impl RootfsText {
    fn diff_ids(self) -> Result<Vec<DiffId>, InvalidConfig> {
        if !matches!(self.kind.as_str(), "" | "layers") {
            return Err(InvalidConfig::Rootfs { kind: self.kind.chars().take(100).collect() });
        }
        if self.diff_ids.len() > LAYERS_MAX {
            return Err(InvalidConfig::Layers { count: self.diff_ids.len() });
        }
        let parsed = self.diff_ids.iter().map(|text| text.parse().map_err(InvalidConfig::DiffId));
        parsed.collect()
    }
}

impl Serialize for ImageConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields: BTreeMap<&str, Box<RawValue>> = raw_fields(&self.unknown);
        fields.insert("architecture", to_raw(&self.architecture));
        fields.insert("os", to_raw(&self.os));
        for (name, text) in
            [("variant", &self.variant), ("os.version", &self.os_version), ("author", &self.author)]
        {
            if !text.is_empty() {
                fields.insert(name, to_raw(text));
            }
        }
        if !self.os_features.is_empty() {
            fields.insert("os.features", to_raw(&self.os_features));
        }
        if let Some(created) = &self.created {
            fields.insert("created", to_raw(created));
        }
        let diff_ids: Vec<String> = self.diff_ids.iter().map(ToString::to_string).collect();
        fields.insert("rootfs", to_raw(&RootfsOut { kind: "layers", diff_ids }));
        if !self.history.is_empty() {
            fields.insert("history", to_raw(&self.history));
        }
        fields.insert("config", to_raw(&self.config));
        serializer.collect_map(fields)
    }
}

#[derive(Serialize)]
struct RootfsOut {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: Vec<String>,
}

impl Serialize for ContainerConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        text(&mut map, "User", &self.user)?;
        set(&mut map, "ExposedPorts", &self.exposed_ports)?;
        list(&mut map, "Env", &self.env)?;
        list(&mut map, "Entrypoint", &self.entrypoint)?;
        list(&mut map, "Cmd", &self.cmd)?;
        set(&mut map, "Volumes", &self.volumes)?;
        text(&mut map, "WorkingDir", &self.working_dir)?;
        if !self.labels.is_empty() {
            map.serialize_entry("Labels", &self.labels)?;
        }
        text(&mut map, "StopSignal", &self.stop_signal)?;
        if self.args_escaped {
            map.serialize_entry("ArgsEscaped", &true)?;
        }
        if let Some(healthcheck) = &self.healthcheck {
            map.serialize_entry("Healthcheck", healthcheck)?;
        }
        list(&mut map, "OnBuild", &self.on_build)?;
        list(&mut map, "Shell", &self.shell)?;
        for (name, raw) in raw_fields(&self.unknown) {
            map.serialize_entry(name, &raw)?;
        }
        map.end()
    }
}

fn text<M: SerializeMap>(map: &mut M, name: &str, value: &str) -> Result<(), M::Error> {
    if value.is_empty() { Ok(()) } else { map.serialize_entry(name, value) }
}

fn list<M: SerializeMap>(map: &mut M, name: &str, value: &[String]) -> Result<(), M::Error> {
    if value.is_empty() { Ok(()) } else { map.serialize_entry(name, value) }
}

fn set<M: SerializeMap>(map: &mut M, name: &str, set: &BTreeSet<String>) -> Result<(), M::Error> {
    if set.is_empty() {
        return Ok(());
    }
    let empty = || BTreeMap::<&str, &str>::new();
    let entries: BTreeMap<&str, _> = set.iter().map(|key| (key.as_str(), empty())).collect();
    map.serialize_entry(name, &entries)
}

/// Unknown fields as raw JSON; a text that is not JSON can only have been put there by our own code, and is written as
/// a JSON text.
fn raw_fields(unknown: &BTreeMap<String, String>) -> BTreeMap<&str, Box<RawValue>> {
    let raw = |text: &String| RawValue::from_string(text.clone()).unwrap_or_else(|_| to_raw(text));
    unknown.iter().map(|(name, text)| (name.as_str(), raw(text))).collect()
}

/// Reads null as the default, as Go does.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[cfg(test)]
mod tests;
