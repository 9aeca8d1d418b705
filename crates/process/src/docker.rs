//! What Docker's configuration says: proxies, and where its daemon is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dcbuild_model::{Daemon, DaemonTls, DaemonTrust, Digest};

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
/// Where it is where nothing is said but that it is to be reached over TLS.
const DAEMON_TLS: &str = "tcp://localhost:2376";

/// The files of a folder of certificates for docker's client.
const AUTHORITY: &str = "ca.pem";
const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";

/// Docker's flags before a command that name a file of certificates each. An environment has them by these names, which no
/// variable has that a system sets.
pub const TLS_CA_FLAG: &str = "--tlscacert";
/// See [`TLS_CA_FLAG`].
pub const TLS_CERT_FLAG: &str = "--tlscert";
/// See [`TLS_CA_FLAG`].
pub const TLS_KEY_FLAG: &str = "--tlskey";

/// Says why there is no daemon that could be spoken to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoDaemon {
    /// Docker's configuration has no such context.
    #[error("docker has no context '{name}' with the address of a daemon")]
    Context {
        /// The context's name.
        name: String,
    },
    /// The daemon is to prove who it is, and there is nothing to judge that by.
    #[error(
        "the docker daemon at '{address}' is to be reached over TLS (DOCKER_TLS_VERIFY), and there is no {path}",
        path = path.display()
    )]
    NoAuthority {
        /// Its address.
        address: String,
        /// The file that should be there.
        path: PathBuf,
    },
    /// The certificates are to lie where there is nothing.
    #[error("DOCKER_CERT_PATH names '{}', where there is no folder", path.display())]
    NoFolder {
        /// The folder.
        path: PathBuf,
    },
    /// Of a certificate and its key one is there.
    #[error("there is '{}', and no '{}' that belongs to it", there.display(), missing.display())]
    Half {
        /// The file that is there.
        there: PathBuf,
        /// The one that is not.
        missing: PathBuf,
    },
}

impl Hint for NoDaemon {
    fn hint(&self) -> Option<String> {
        let words = match self {
            NoDaemon::Context { .. } => {
                "`docker context ls` lists those there are: set DOCKER_CONTEXT to one, or DOCKER_HOST to unix:///PATH"
            }
            NoDaemon::NoAuthority { .. } => {
                "set DOCKER_CERT_PATH to the folder that has ca.pem, cert.pem and key.pem, or name the files with --tlscacert, --tlscert \
                 and --tlskey; or unset DOCKER_TLS_VERIFY where the daemon does without TLS"
            }
            NoDaemon::NoFolder { .. } => {
                "name the folder that has ca.pem, cert.pem and key.pem, or unset DOCKER_TLS_VERIFY and DOCKER_TLS where the daemon \
                 does without TLS"
            }
            NoDaemon::Half { .. } => {
                "put both into the folder, or name both by --tlscert and --tlskey before the command"
            }
        };
        Some(words.to_owned())
    }
}

/// Where the docker daemon listens: `DOCKER_HOST`, else what the context says that `DOCKER_CONTEXT` or docker's configuration
/// names; and how it is spoken to over TLS, if it is.
pub fn daemon(env: &Env) -> Result<Daemon, NoDaemon> {
    let folder = env.docker_config();
    let read = |path: &str| -> Option<serde_json::Value> {
        let text = std::fs::read(folder.as_ref()?.join(path)).ok()?;
        serde_json::from_slice(&text).ok()
    };
    if let Some(host) = env.docker_host() {
        return of_environment(env, Some(host));
    }
    let chosen = || Some(read("config.json")?.get("currentContext")?.as_str()?.to_owned());
    let name = env.get("DOCKER_CONTEXT").map(str::to_owned).filter(|name| !name.is_empty());
    let Some(name) = name.or_else(chosen).filter(|name| !matches!(name.as_str(), "" | "default"))
    else {
        return of_environment(env, None);
    };
    let digest = Digest::of(name.as_bytes()).to_string();
    let hex = digest.trim_start_matches("sha256:");
    let told = read(&format!("contexts/meta/{hex}/meta.json"));
    let told = told.as_ref().and_then(|told| told.pointer("/Endpoints/docker"));
    let host = told.and_then(|told| told.get("Host")?.as_str());
    let address = host.ok_or(NoDaemon::Context { name })?.to_owned();
    let skips = told.and_then(|told| told.get("SkipTLSVerify")?.as_bool()).unwrap_or(false);
    let material =
        folder.as_ref().map(|folder| folder.join("contexts/tls").join(hex).join("docker"));
    let tls = if is_port(&address) { of_context(material, skips) } else { None };
    Ok(Daemon { address: with_port(address, tls.is_some()), tls })
}

/// The daemon at an address, or the one that is meant without any, spoken to as the environment says.
fn of_environment(env: &Env, host: Option<&str>) -> Result<Daemon, NoDaemon> {
    // As docker: any value counts.
    let is_set = |name: &str| env.get_os(name).is_some_and(|value| !value.is_empty());
    let verifies = is_set("DOCKER_TLS_VERIFY");
    let wants = verifies || is_set("DOCKER_TLS");
    let usual = if wants { DAEMON_TLS } else { DAEMON };
    let address = host.unwrap_or(usual).to_owned();
    if !wants || !is_port(&address) {
        return Ok(Daemon::plain(with_port(address, false)));
    }
    let address = with_port(address, true);
    let files = Files::of(env)?;
    let trust = if verifies {
        let path = files.authority;
        if !path.exists() {
            return Err(NoDaemon::NoAuthority { address, path });
        }
        DaemonTrust::Authority(path)
    } else {
        DaemonTrust::Anybody
    };
    Ok(Daemon { address, tls: Some(DaemonTls { trust, identity: files.identity }) })
}

/// The files that the environment names for TLS.
struct Files {
    authority: PathBuf,
    identity: Option<(PathBuf, PathBuf)>,
}

impl Files {
    /// Those that flags name, and otherwise those of a folder; a certificate of the folder's need not be there.
    fn of(env: &Env) -> Result<Files, NoDaemon> {
        let flag = |name| env.get_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let named = [TLS_CA_FLAG, TLS_CERT_FLAG, TLS_KEY_FLAG].map(flag);
        let folder = match env.docker_cert_path() {
            Some(path) if named.iter().any(Option::is_none) && !path.is_dir() => {
                return Err(NoDaemon::NoFolder { path });
            }
            path => path.or_else(|| env.docker_config()).unwrap_or_default(),
        };
        let [authority, cert, key] = named;
        let authority = authority.unwrap_or_else(|| folder.join(AUTHORITY));
        if cert.is_none() && key.is_none() {
            return Ok(Files { authority, identity: whole_identity(&folder)? });
        }
        // What a flag names is used, and if it is not there, that is said by name.
        let or = |named: Option<PathBuf>, usual: &str| named.unwrap_or_else(|| folder.join(usual));
        Ok(Files { authority, identity: Some((or(cert, CERTIFICATE), or(key, KEY))) })
    }
}

/// The certificate of a folder and its key, or neither.
fn whole_identity(folder: &Path) -> Result<Option<(PathBuf, PathBuf)>, NoDaemon> {
    let (cert, key) = (folder.join(CERTIFICATE), folder.join(KEY));
    match (cert.exists(), key.exists()) {
        (true, false) => Err(NoDaemon::Half { there: cert, missing: key }),
        (false, true) => Err(NoDaemon::Half { there: key, missing: cert }),
        (true, true) => Ok(Some((cert, key))),
        (false, false) => Ok(None),
    }
}

/// How the daemon of a context is spoken to; none where the context has no certificates.
fn of_context(material: Option<PathBuf>, skips: bool) -> Option<DaemonTls> {
    let material = material.filter(|folder| folder.is_dir());
    let authority = material.as_ref().map(|folder| folder.join(AUTHORITY)).filter(|it| it.exists());
    let identity = material.as_deref().and_then(identity);
    let trust = match authority {
        _ if skips => DaemonTrust::Anybody,
        Some(path) => DaemonTrust::Authority(path),
        None if identity.is_none() => return None,
        None => DaemonTrust::System,
    };
    Some(DaemonTls { trust, identity })
}

/// The certificate of a folder and its key, where both are there.
fn identity(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let (cert, key) = (folder.join(CERTIFICATE), folder.join(KEY));
    (cert.exists() && key.exists()).then_some((cert, key))
}

fn is_port(address: &str) -> bool {
    address.starts_with("tcp://")
}

/// An address of docker's may leave its port out.
fn with_port(address: String, is_tls: bool) -> String {
    let Some(place) = address.strip_prefix("tcp://") else { return address };
    let place = place.trim_end_matches('/');
    let after_host = place.rsplit(']').next().unwrap_or(place);
    if place.is_empty() || after_host.contains(':') {
        return format!("tcp://{place}");
    }
    format!("tcp://{place}:{}", if is_tls { 2376 } else { 2375 })
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
        let host = daemon(env).map_or_else(|_| DAEMON.to_owned(), |daemon| daemon.address);
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
        let daemon_of = |more: &[(&str, &str)]| {
            let own = [("DOCKER_CONFIG", docker)];
            daemon(&own.into_iter().chain(more.iter().copied()).collect())
        };
        let asked = |more: &[(&str, &str)]| daemon_of(more).map(|daemon| daemon.address);
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
        let config = r#"{"currentContext": "rootless"}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        assert_eq!(asked(&[]).as_deref(), rootless);
        let error = asked(&[("DOCKER_CONTEXT", "nowhere")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "docker has no context 'nowhere' with the address of a daemon"
        );

        // A context has its own certificates.
        let told = r#"{"Name":"rootless","Endpoints":{"docker":{"Host":"tcp://far"}}}"#;
        std::fs::write(meta.join("meta.json"), told).unwrap();
        assert_eq!(daemon_of(&[]), Ok(Daemon::plain("tcp://far:2375")));
        let material = folder.path().join("contexts/tls").join(hex).join("docker");
        std::fs::create_dir_all(&material).unwrap();
        std::fs::write(material.join("ca.pem"), "").unwrap();
        let trust = DaemonTrust::Authority(material.join("ca.pem"));
        let tls = Some(DaemonTls { trust, identity: None });
        assert_eq!(daemon_of(&[]), Ok(Daemon { address: "tcp://far:2376".into(), tls }));
        let skips = told.replace("tcp://far\"", "tcp://[::1]:9\",\"SkipTLSVerify\":true");
        std::fs::write(meta.join("meta.json"), skips).unwrap();
        let tls = Some(DaemonTls { trust: DaemonTrust::Anybody, identity: None });
        assert_eq!(daemon_of(&[]), Ok(Daemon { address: "tcp://[::1]:9".into(), tls }));
    }

    #[test]
    fn the_environment_says_how_a_daemon_is_spoken_to() {
        let folder = tempfile::tempdir().unwrap();
        let docker = folder.path().to_str().unwrap();
        let asked = |more: &[(&str, &str)]| {
            let own = [("DOCKER_CONFIG", docker)];
            daemon(&own.into_iter().chain(more.iter().copied()).collect())
        };
        let (host, verify) = (("DOCKER_HOST", "tcp://docker:9"), ("DOCKER_TLS_VERIFY", "1"));
        assert_eq!(asked(&[host]), Ok(Daemon::plain("tcp://docker:9")));
        assert_eq!(asked(&[("DOCKER_HOST", "unix:///s"), verify]), Ok(Daemon::plain("unix:///s")));
        let error = asked(&[host, verify]).unwrap_err().to_string();
        let want = format!(
            "the docker daemon at 'tcp://docker:9' is to be reached over TLS (DOCKER_TLS_VERIFY), and there is no {docker}/ca.pem"
        );
        assert_eq!(error, want);
        let anybody = |address: &str| Daemon {
            address: address.into(),
            tls: Some(DaemonTls { trust: DaemonTrust::Anybody, identity: None }),
        };
        let loose = ("DOCKER_TLS", "yes");
        assert_eq!(asked(&[loose]), Ok(anybody("tcp://localhost:2376")));
        assert_eq!(asked(&[("DOCKER_HOST", "tcp://d/"), loose]), Ok(anybody("tcp://d:2376")));

        let own = tempfile::tempdir().unwrap();
        for name in ["ca.pem", "cert.pem", "key.pem"] {
            std::fs::write(own.path().join(name), "").unwrap();
        }
        let path = ("DOCKER_CERT_PATH", own.path().to_str().unwrap());
        let file = |name: &str| own.path().join(name);
        let trust = DaemonTrust::Authority(file("ca.pem"));
        let identity = Some((file("cert.pem"), file("key.pem")));
        let tls = Some(DaemonTls { trust, identity });
        let want = Daemon { address: "tcp://docker:9".into(), tls };
        assert_eq!(asked(&[host, verify, path]), Ok(want));

        // Flags before the command go before the folder.
        let (flags, trust) =
            ([(TLS_CA_FLAG, "/x/ca"), (TLS_CERT_FLAG, "/x/c")], DaemonTrust::Anybody);
        let identity = Some((PathBuf::from("/x/c"), file("key.pem")));
        let tls = asked(&[host, loose, path, flags[1]]).unwrap().tls;
        assert_eq!(tls, Some(DaemonTls { trust, identity }));
        let error = asked(&[host, verify, path, flags[0]]).unwrap_err().to_string();
        assert!(error.ends_with("there is no /x/ca"), "{error}");

        // What is half there, or not at all, is said.
        std::fs::remove_file(file("key.pem")).unwrap();
        let missing = file("key.pem");
        let half = NoDaemon::Half { there: file("cert.pem"), missing };
        assert_eq!(asked(&[host, loose, path]), Err(half));
        for wants in [verify, loose] {
            let error = asked(&[host, wants, ("DOCKER_CERT_PATH", "/none")]).unwrap_err();
            assert_eq!(
                error.to_string(),
                "DOCKER_CERT_PATH names '/none', where there is no folder"
            );
            assert!(error.hint().is_some());
        }
        assert_eq!(
            asked(&[host, ("DOCKER_CERT_PATH", "/none")]),
            Ok(Daemon::plain("tcp://docker:9"))
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
