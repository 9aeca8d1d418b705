//! Where a registry's credentials come from: docker's config file, its helpers, or a build that carries them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::config::canonical;

/// The key under which docker keeps Docker Hub's credentials.
const HUB_KEY: &str = "https://index.docker.io/v1/";
const CONFIG_BYTES_MAX: u64 = 4 << 20;
const HELPER_BYTES_MAX: u64 = 1 << 20;
const HELPER_TIME_MAX: Duration = Duration::from_secs(30);

/// A text that is never printed or serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// Gives the text to the one place that must have it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// What proves who we are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Credential {
    /// A user name and a password.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A token that the token service exchanges for others.
    Identity {
        /// The token.
        token: Secret,
    },
    /// A token that the registry itself takes.
    Bearer {
        /// The token.
        token: Secret,
    },
    /// None: it could not be found out, and the source says why.
    Nothing {},
}

/// A credential, and where it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Login {
    /// What proves who we are.
    pub credential: Credential,
    /// Where it comes from, for people: a file, a helper.
    pub source: String,
}

impl Login {
    /// Who we say that we are; never how we prove it.
    pub(crate) fn words(&self) -> String {
        let source = if self.source.is_empty() { "of an unknown source" } else { &self.source };
        match &self.credential {
            Credential::Basic { username, .. } => {
                let name: String = username.chars().filter(|c| !c.is_control()).take(100).collect();
                format!("asked as user '{name}', {source}")
            }
            Credential::Identity { .. } => format!("asked with an identity token, {source}"),
            Credential::Bearer { .. } => format!("asked with a registry token, {source}"),
            Credential::Nothing {} => format!("asked without credentials: {source}"),
        }
    }
}

/// Says why credentials could not be found.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file could not be read.
    #[error("could not read '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is no docker config.
    #[error("'{}' is no docker config", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        line: usize,
    },
    /// An entry is malformed.
    #[error("docker config has a malformed entry for '{host}'")]
    Entry {
        /// The registry.
        host: String,
    },
    /// The helper's name is no name.
    #[error("'{name}' is no name of a credential helper")]
    HelperName {
        /// The name.
        name: String,
    },
    /// The helper could not be run.
    #[error("could not run credential helper '{program}'")]
    Helper {
        /// The program.
        program: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The helper took too long.
    #[error("credential helper '{program}' took more than {seconds} seconds")]
    HelperTime {
        /// The program.
        program: String,
        /// How long it may take.
        seconds: u64,
    },
    /// The helper failed or answered nonsense; its output may hold secrets and is not shown.
    #[error("credential helper '{program}' failed for '{host}'")]
    HelperFailed {
        /// The program.
        program: String,
        /// The registry.
        host: String,
    },
}

/// Where credentials come from.
#[async_trait]
pub trait CredentialSource: Send + Sync {
    /// Finds the credential of a registry, `HOST` or `HOST:PORT`; none where there is none.
    async fn credential(&self, registry: &str) -> Result<Option<Login>, CredentialError>;
}

/// Has no credentials.
pub struct Anonymous;

#[async_trait]
impl CredentialSource for Anonymous {
    async fn credential(&self, _: &str) -> Result<Option<Login>, CredentialError> {
        Ok(None)
    }
}

/// Has the credentials that it was given, by registry; for those that travel with a build.
#[derive(Clone, Default)]
pub struct StaticCredentials(BTreeMap<String, Login>);

impl StaticCredentials {
    /// Holds these credentials, each for the registry beside it.
    pub fn new(entries: impl IntoIterator<Item = (String, Login)>) -> StaticCredentials {
        let name = |(registry, login): (String, Login)| (canonical(&registry).to_owned(), login);
        StaticCredentials(entries.into_iter().map(name).collect())
    }
}

#[async_trait]
impl CredentialSource for StaticCredentials {
    async fn credential(&self, registry: &str) -> Result<Option<Login>, CredentialError> {
        Ok(self.0.get(canonical(registry)).cloned())
    }
}

/// Where docker keeps credentials.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DockerLogins {
    /// The folder of `config.json`.
    pub folder: Option<PathBuf>,
    /// What `DOCKER_AUTH_CONFIG` of the environment holds.
    pub environment: Option<Secret>,
}

impl DockerLogins {
    /// The file, where it may be.
    pub fn file(&self) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join("config.json"))
    }

    /// Reads both; a variable that is not understood counts as unset, as docker has it.
    pub async fn load(&self) -> Result<DockerConfig, CredentialError> {
        let config = match self.file() {
            Some(file) => DockerConfig::load(&file).await?,
            None => DockerConfig::default(),
        };
        let environment = self.environment().unwrap_or_else(|problem| {
            tracing::debug!(problem, "{VARIABLE} is skipped");
            BTreeMap::new()
        });
        Ok(DockerConfig { environment, ..config })
    }

    /// Why the variable is not understood, if it is not; none of its text, which may be secret.
    pub fn problem(&self) -> Option<String> {
        self.environment().err()
    }

    fn environment(&self) -> Result<BTreeMap<String, AuthEntry>, String> {
        let Some(text) = &self.environment else { return Ok(BTreeMap::new()) };
        let config = DockerConfig::parse(text.reveal().as_bytes());
        let config =
            config.map_err(|line| format!("it is no docker config, from line {line} on"))?;
        for (host, entry) in &config.auths {
            of_entry(host, entry).map_err(|error| error.to_string())?;
        }
        Ok(config.auths)
    }
}

/// The variable of docker's that holds credentials.
const VARIABLE: &str = "DOCKER_AUTH_CONFIG";

/// Reads docker's `config.json` and runs the helpers that it names.
#[derive(Clone, Default)]
pub struct DockerConfig {
    /// The file, for people.
    file: String,
    /// What the environment holds, which goes before the file and its helpers.
    environment: BTreeMap<String, AuthEntry>,
    auths: BTreeMap<String, AuthEntry>,
    store: Option<String>,
    helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ConfigFile {
    auths: Option<BTreeMap<String, AuthEntry>>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
    #[serde(rename = "credHelpers")]
    helpers: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "identitytoken")]
    identity_token: Option<String>,
    #[serde(rename = "registrytoken")]
    registry_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl DockerConfig {
    /// Reads the file; one that is not there has no credentials.
    pub async fn load(path: &Path) -> Result<DockerConfig, CredentialError> {
        let read = |source| CredentialError::Read { path: path.into(), source };
        let file = match tokio::fs::File::open(path).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(DockerConfig::default());
            }
            Err(error) => return Err(read(error)),
        };
        let mut bytes = Vec::new();
        file.take(CONFIG_BYTES_MAX).read_to_end(&mut bytes).await.map_err(read)?;
        let config = DockerConfig::parse(&bytes)
            .map_err(|line| CredentialError::Parse { path: path.into(), line })?;
        Ok(DockerConfig { file: path.display().to_string(), ..config })
    }

    /// The registries that have an entry or a helper of their own.
    pub fn registries(&self) -> Vec<String> {
        let named = self.environment.keys().chain(self.auths.keys()).chain(self.helpers.keys());
        let bare = named.map(|key| canonical(&bare(key)).to_owned());
        bare.collect::<std::collections::BTreeSet<String>>().into_iter().collect()
    }

    /// Parses the file's content; the error is the line, since the text around it may be secret.
    fn parse(bytes: &[u8]) -> Result<DockerConfig, usize> {
        let file: ConfigFile = serde_json::from_slice(bytes).map_err(|error| error.line())?;
        Ok(DockerConfig {
            file: String::new(),
            environment: BTreeMap::new(),
            auths: file.auths.unwrap_or_default(),
            store: file.store.filter(|name| !name.is_empty()),
            helpers: file.helpers.unwrap_or_default(),
        })
    }

    fn helper(&self, registry: &str) -> Option<&String> {
        let own = keys(registry).into_iter().find_map(|key| self.helpers.get(&key));
        own.or(self.store.as_ref())
    }
}

/// The entry of a registry.
fn entry<'e>(auths: &'e BTreeMap<String, AuthEntry>, registry: &str) -> Option<&'e AuthEntry> {
    let exact = keys(registry).into_iter().find_map(|key| auths.get(&key));
    exact.or_else(|| {
        let mut entries = auths.iter();
        entries.find(|(key, _)| canonical(&bare(key)) == registry).map(|(_, entry)| entry)
    })
}

/// The host of a key: docker itself has written keys with a scheme and a path; the host in them must match whole.
fn bare(key: &str) -> String {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    rest.unwrap_or(key).split('/').next().unwrap_or_default().to_owned()
}

fn keys(registry: &str) -> Vec<String> {
    let mut keys = vec![registry.to_owned()];
    if registry == "docker.io" {
        keys.extend([HUB_KEY.to_owned(), "index.docker.io".to_owned()]);
    }
    keys
}

#[async_trait]
impl CredentialSource for DockerConfig {
    async fn credential(&self, registry: &str) -> Result<Option<Login>, CredentialError> {
        let registry = canonical(registry);
        if let Some(entry) = entry(&self.environment, registry)
            && let Some(credential) = of_entry(registry, entry)?
        {
            return Ok(Some(Login { credential, source: format!("from {VARIABLE}") }));
        }
        if let Some(name) = self.helper(registry) {
            let server = if registry == "docker.io" { HUB_KEY } else { registry };
            if let Some(credential) = ask_helper(name, server).await? {
                let source = format!("from docker-credential-{name}");
                return Ok(Some(Login { credential, source }));
            }
        }
        let Some(entry) = entry(&self.auths, registry) else { return Ok(None) };
        let credential = of_entry(registry, entry)?;
        let source = format!("from {}", self.file);
        Ok(credential.map(|credential| Login { credential, source }))
    }
}

fn of_entry(host: &str, entry: &AuthEntry) -> Result<Option<Credential>, CredentialError> {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(token) = filled(&entry.identity_token) {
        return Ok(Some(Credential::Identity { token: Secret::new(token) }));
    }
    if let Some(token) = filled(&entry.registry_token) {
        return Ok(Some(Credential::Bearer { token: Secret::new(token) }));
    }
    if let (Some(username), Some(password)) = (filled(&entry.username), filled(&entry.password)) {
        return Ok(Some(Credential::Basic { username, password: Secret::new(password) }));
    }
    let Some(auth) = filled(&entry.auth) else { return Ok(None) };
    let malformed = || CredentialError::Entry { host: host.to_owned() };
    let decoded = base64::engine::general_purpose::STANDARD.decode(auth.trim());
    let text =
        decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(malformed)?;
    let (username, password) = text.split_once(':').ok_or_else(malformed)?;
    let password = Secret::new(password.trim_end_matches('\0').to_owned());
    Ok(Some(Credential::Basic { username: username.to_owned(), password }))
}

async fn ask_helper(name: &str, server: &str) -> Result<Option<Credential>, CredentialError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(CredentialError::HelperName { name: name.chars().take(100).collect() });
    }
    let program = format!("docker-credential-{name}");
    let run = run_helper(&program, server);
    let Ok(answer) = tokio::time::timeout(HELPER_TIME_MAX, run).await else {
        return Err(CredentialError::HelperTime { program, seconds: HELPER_TIME_MAX.as_secs() });
    };
    let (success, output) = match answer {
        Ok(answer) => answer,
        Err(source) => return Err(CredentialError::Helper { program, source }),
    };
    if !success {
        // The protocol has no code for "none": the helpers print this text.
        let text = String::from_utf8_lossy(&output);
        if text.contains("credentials not found") {
            return Ok(None);
        }
        return Err(CredentialError::HelperFailed { program, host: server.to_owned() });
    }
    let Ok(answer) = serde_json::from_slice::<HelperAnswer>(&output) else {
        return Err(CredentialError::HelperFailed { program, host: server.to_owned() });
    };
    let secret = Secret::new(answer.secret);
    if secret.reveal().is_empty() {
        return Ok(None);
    }
    if answer.username == "<token>" {
        return Ok(Some(Credential::Identity { token: secret }));
    }
    Ok(Some(Credential::Basic { username: answer.username, password: secret }))
}

async fn run_helper(program: &str, server: &str) -> std::io::Result<(bool, Vec<u8>)> {
    let mut child = tokio::process::Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A helper may answer without reading; its answer counts, not the broken pipe.
        let _sent = input.write_all(server.as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(HELPER_BYTES_MAX).read_to_end(&mut output).await?;
    }
    let status = child.wait().await?;
    Ok((status.success(), output))
}

#[cfg(test)]
mod tests;
