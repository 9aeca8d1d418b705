//! What Docker's configuration says: proxies, and where its daemon is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dcbuild_model::Digest;

use crate::{Env, Hint};

/// Proxies, each where it is set.
#[derive(Clone, PartialEq, Eq, Default, Debug, serde::Deserialize)]
pub struct Proxies {
    /// For http.
    #[serde(rename = "httpProxy")]
    pub http: Option<String>,
    /// For https.
    #[serde(rename = "httpsProxy")]
    pub https: Option<String>,
    /// For ftp.
    #[serde(rename = "ftpProxy")]
    pub ftp: Option<String>,
    /// The hosts that need none.
    #[serde(rename = "noProxy")]
    pub no: Option<String>,
    /// For everything.
    #[serde(rename = "allProxy")]
    pub all: Option<String>,
}

/// Says why the proxies could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProxiesError {
    /// The file failed.
    #[error("could not read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file is not what Docker writes.
    #[error("could not understand {path}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's answer.
        source: serde_json::Error,
    },
}

#[derive(serde::Deserialize)]
struct ConfigFile {
    #[serde(default)]
    proxies: BTreeMap<String, Proxies>,
}

/// Where the daemon listens that is meant where nothing else is said.
const DAEMON: &str = "unix:///var/run/docker.sock";

/// Says why there is no daemon that could be spoken to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoDaemon {
    /// Docker's configuration has no such context.
    #[error("docker has no context '{name}' with the address of a daemon")]
    Context {
        /// The context's name.
        name: String,
    },
    /// The daemon is to be spoken to over TLS, which is not spoken here: in the clear an image goes to nobody who was
    /// meant to show a certificate.
    #[error(
        "the docker daemon at '{address}' is to be reached over TLS, which dcbuild does not speak to a daemon"
    )]
    Tls {
        /// Its address.
        address: String,
    },
}

impl Hint for NoDaemon {
    fn hint(&self) -> Option<String> {
        let words = match self {
            NoDaemon::Context { .. } => {
                "`docker context ls` lists those there are: set DOCKER_CONTEXT to one, or DOCKER_HOST to unix:///PATH"
            }
            NoDaemon::Tls { .. } => {
                "`dcbuild build -t NAME -o type=docker,dest=- CONTEXT | docker load` hands it over by docker's own client"
            }
        };
        Some(words.to_owned())
    }
}

/// Where the docker daemon listens: `DOCKER_HOST`, else what the context says that `DOCKER_CONTEXT` or docker's configuration
/// names.
pub fn daemon(env: &Env) -> Result<String, NoDaemon> {
    let plain = |address: String, is_secured: bool| {
        if is_secured && address.starts_with("tcp://") {
            return Err(NoDaemon::Tls { address });
        }
        Ok(address)
    };
    if let Some(host) = env.docker_host() {
        // As docker: any value counts.
        let is_set = |name: &&str| env.get(name).is_some_and(|value| !value.is_empty());
        return plain(host.to_owned(), ["DOCKER_TLS_VERIFY", "DOCKER_TLS"].iter().any(is_set));
    }
    let folder = env.docker_config();
    let read = |path: &str| -> Option<serde_json::Value> {
        let text = std::fs::read(folder.as_ref()?.join(path)).ok()?;
        serde_json::from_slice(&text).ok()
    };
    let chosen = || Some(read("config.json")?.get("currentContext")?.as_str()?.to_owned());
    let name = env.get("DOCKER_CONTEXT").map(str::to_owned).filter(|name| !name.is_empty());
    let Some(name) = name.or_else(chosen).filter(|name| !matches!(name.as_str(), "" | "default"))
    else {
        return Ok(DAEMON.to_owned());
    };
    let digest = Digest::of(name.as_bytes()).to_string();
    let hex = digest.trim_start_matches("sha256:");
    let told = read(&format!("contexts/meta/{hex}/meta.json"));
    let host = told.as_ref().and_then(|told| told.pointer("/Endpoints/docker/Host")?.as_str());
    let certificates = folder.as_ref().map(|folder| folder.join("contexts/tls").join(hex));
    let is_secured = certificates.is_some_and(|folder| folder.is_dir());
    plain(host.map(str::to_owned).ok_or(NoDaemon::Context { name })?, is_secured)
}

impl Proxies {
    /// Reads the proxies that the user's Docker configuration sets for builds; an absent file sets none.
    pub fn load(env: &Env) -> Result<Proxies, ProxiesError> {
        let Some(folder) = env.docker_config() else { return Ok(Proxies::default()) };
        let path = folder.join("config.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Proxies::default());
            }
            Err(source) => return Err(ProxiesError::Read { path, source }),
        };
        // Whoever loads into a daemon is told that a context is none.
        let host = daemon(env).unwrap_or_else(|_| DAEMON.to_owned());
        Proxies::parse(&text, &host).map_err(|source| ProxiesError::Parse { path, source })
    }

    /// Reads them from the file's text; those of the daemon's address go before the default ones.
    pub fn parse(text: &str, host: &str) -> Result<Proxies, serde_json::Error> {
        let mut file: ConfigFile = serde_json::from_str(text)?;
        let found = file.proxies.remove(host).or_else(|| file.proxies.remove("default"));
        Ok(found.unwrap_or_default())
    }

    /// The build arguments that they stand for, each name in capitals and in small letters.
    pub fn build_args(&self) -> Vec<(String, String)> {
        let all = [
            ("HTTP_PROXY", &self.http),
            ("HTTPS_PROXY", &self.https),
            ("FTP_PROXY", &self.ftp),
            ("NO_PROXY", &self.no),
            ("ALL_PROXY", &self.all),
        ];
        all.into_iter()
            .filter_map(|(name, value)| Some((name, value.as_ref().filter(|v| !v.is_empty())?)))
            .flat_map(|(name, value)| {
                [(name.to_owned(), value.clone()), (name.to_lowercase(), value.clone())]
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"auths": {}, "proxies": {
        "default": {"httpProxy": "http://p:1", "noProxy": "x"},
        "tcp://d": {"allProxy": "socks5://q"}
    }}"#;

    #[test]
    fn the_daemon_s_own_proxies_go_first() {
        let default = Proxies::parse(FILE, "unix:///s").unwrap();
        assert_eq!(default.http.as_deref(), Some("http://p:1"));
        let own = Proxies::parse(FILE, "tcp://d").unwrap();
        assert_eq!((own.http, own.all.as_deref()), (None, Some("socks5://q")));
        let names: Vec<String> = default.build_args().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"]);
    }

    #[test]
    fn a_context_says_where_the_daemon_is() {
        let folder = tempfile::tempdir().unwrap();
        let docker = folder.path().to_str().unwrap();
        let asked = |more: &[(&str, &str)]| {
            let own = [("DOCKER_CONFIG", docker)];
            daemon(&own.into_iter().chain(more.iter().copied()).collect())
        };
        assert_eq!(asked(&[]).as_deref(), Ok(DAEMON));
        assert_eq!(asked(&[("DOCKER_CONTEXT", "default")]).as_deref(), Ok(DAEMON));
        // The folder of a context is named by the digest of its name.
        let hex = "12b961af5feb3e9d39f93b2cefb9a1a944f18d02cca0cac2f04f5a982240605f";
        let meta = folder.path().join("contexts/meta").join(hex);
        std::fs::create_dir_all(&meta).unwrap();
        let told = r#"{"Name":"rootless","Endpoints":{"docker":{"Host":"unix:///run/user/1/docker.sock"}}}"#;
        std::fs::write(meta.join("meta.json"), told).unwrap();
        let rootless = Ok("unix:///run/user/1/docker.sock");
        assert_eq!(asked(&[("DOCKER_CONTEXT", "rootless")]).as_deref(), rootless);
        let both = [("DOCKER_CONTEXT", "rootless"), ("DOCKER_HOST", "unix:///own")];
        assert_eq!(asked(&both).as_deref(), Ok("unix:///own"));
        let verify = |host: &str| {
            asked(&[("DOCKER_HOST", host), ("DOCKER_TLS_VERIFY", "1")]).map_err(|it| it.to_string())
        };
        assert_eq!(verify("unix:///own"), Ok("unix:///own".into()));
        let refused = "the docker daemon at 'tcp://docker:2376' is to be reached over TLS, which dcbuild does not speak to a daemon";
        assert_eq!(verify("tcp://docker:2376"), Err(refused.into()));
        let config = r#"{"currentContext": "rootless"}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        assert_eq!(asked(&[]).as_deref(), rootless);
        let error = asked(&[("DOCKER_CONTEXT", "nowhere")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "docker has no context 'nowhere' with the address of a daemon"
        );
    }

    #[test]
    fn an_absent_file_sets_none_and_a_broken_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::from_iter([("DOCKER_CONFIG", folder.path())]);
        assert_eq!(Proxies::load(&env).unwrap(), Proxies::default());
        std::fs::write(folder.path().join("config.json"), "{").unwrap();
        assert!(matches!(Proxies::load(&env), Err(ProxiesError::Parse { .. })));
    }
}
