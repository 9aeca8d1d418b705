//! What Docker's `config.json` says of proxies.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::Env;

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
        let host = env.docker_host().unwrap_or("unix:///var/run/docker.sock");
        Proxies::parse(&text, host).map_err(|source| ProxiesError::Parse { path, source })
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
    fn an_absent_file_sets_none_and_a_broken_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::from_iter([("DOCKER_CONFIG", folder.path())]);
        assert_eq!(Proxies::load(&env).unwrap(), Proxies::default());
        std::fs::write(folder.path().join("config.json"), "{").unwrap();
        assert!(matches!(Proxies::load(&env), Err(ProxiesError::Parse { .. })));
    }
}
