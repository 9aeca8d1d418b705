//! The environment, read once.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::docker::Proxies;

/// The variables that the process was started with, or that a test made up.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Env {
    variables: BTreeMap<OsString, OsString>,
}

impl std::fmt::Debug for Env {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Env {
        let variables =
            variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Env { variables }
    }
}

impl Env {
    /// Reads the process's environment.
    pub fn capture() -> Env {
        std::env::vars_os().collect()
    }

    /// A variable by name, as `--build-arg NAME` means it; none if it is unset or no UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_os(name)?.to_str()
    }

    /// A variable's bytes by name, as `--secret env=NAME` means it.
    pub fn get_os(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    fn set(&self, name: &str) -> Option<&OsStr> {
        self.get_os(name).filter(|value| !value.is_empty())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.set(name).map(PathBuf::from)
    }

    /// A folder of the XDG base directory specification, which has relative ones ignored.
    fn xdg(&self, name: &str, below_home: &str) -> Option<PathBuf> {
        let given = self.path(name).filter(|path| path.is_absolute());
        given.or_else(|| Some(self.home()?.join(below_home)))
    }

    /// The user's folder.
    pub fn home(&self) -> Option<PathBuf> {
        self.path("HOME").or_else(|| self.path("USERPROFILE"))
    }

    /// Where a user's configuration lies.
    pub fn config_home(&self) -> Option<PathBuf> {
        self.xdg("XDG_CONFIG_HOME", ".config")
    }

    /// Where a user's data lies.
    pub fn data_home(&self) -> Option<PathBuf> {
        self.xdg("XDG_DATA_HOME", ".local/share")
    }

    /// The configuration file, where `DCBUILD_CONFIG` names one.
    pub fn config_file(&self) -> Option<PathBuf> {
        self.path("DCBUILD_CONFIG")
    }

    /// The state folder, where `DCBUILD_STATE_DIR` names one.
    pub fn state_dir(&self) -> Option<PathBuf> {
        self.path("DCBUILD_STATE_DIR")
    }

    /// The coordinator, where `DCBUILD_COORDINATOR` names one.
    pub fn coordinator(&self) -> Option<&str> {
        self.get("DCBUILD_COORDINATOR").filter(|value| !value.is_empty())
    }

    /// Whose records builds read and write, where `DCBUILD_SCOPE` says so.
    pub fn scope(&self) -> Option<&str> {
        self.get("DCBUILD_SCOPE").filter(|value| !value.is_empty())
    }

    /// The key that records are signed with, where `DCBUILD_SIGNING_KEY` gives one.
    pub fn signing_key(&self) -> Option<&[u8]> {
        self.set("DCBUILD_SIGNING_KEY").map(OsStr::as_encoded_bytes)
    }

    /// The store, where `DCBUILD_STORE` names one.
    pub fn store(&self) -> Option<&str> {
        self.get("DCBUILD_STORE").filter(|value| !value.is_empty())
    }

    /// The index, where `DCBUILD_INDEX` names one; it may hold a password.
    pub fn index(&self) -> Option<&str> {
        self.get("DCBUILD_INDEX").filter(|value| !value.is_empty())
    }

    /// A file of certificates that are trusted instead of the system's when S3 is reached, as for AWS's own tools.
    pub fn aws_ca_bundle(&self) -> Option<PathBuf> {
        self.path("AWS_CA_BUNDLE")
    }

    /// Who we are to the sentinels of Redis, as `[USER:]PASSWORD` in `DCBUILD_SENTINEL_AUTH`.
    pub fn sentinel_auth(&self) -> Option<&str> {
        self.get("DCBUILD_SENTINEL_AUTH").filter(|value| !value.is_empty())
    }

    /// The certificates that vouch for a coordinator, where `DCBUILD_TLS_CA` names a file.
    pub fn tls_ca(&self) -> Option<PathBuf> {
        self.path("DCBUILD_TLS_CA")
    }

    /// The certificate that is shown to a coordinator, where `DCBUILD_TLS_CERT` names a file.
    pub fn tls_cert(&self) -> Option<PathBuf> {
        self.path("DCBUILD_TLS_CERT")
    }

    /// Its key, where `DCBUILD_TLS_KEY` names a file.
    pub fn tls_key(&self) -> Option<PathBuf> {
        self.path("DCBUILD_TLS_KEY")
    }

    /// The folder of Docker's `config.json`.
    pub fn docker_config(&self) -> Option<PathBuf> {
        self.path("DOCKER_CONFIG").or_else(|| Some(self.home()?.join(".docker")))
    }

    /// The address of the Docker daemon, where `DOCKER_HOST` names one.
    pub fn docker_host(&self) -> Option<&str> {
        self.get("DOCKER_HOST").filter(|value| !value.is_empty())
    }

    /// The folder of the certificates for a Docker daemon behind TLS, where `DOCKER_CERT_PATH` names one.
    pub fn docker_cert_path(&self) -> Option<PathBuf> {
        self.path("DOCKER_CERT_PATH")
    }

    /// The credentials for registries that `DOCKER_AUTH_CONFIG` holds, as in Docker's `config.json`.
    pub fn docker_auth_config(&self) -> Option<&str> {
        self.get("DOCKER_AUTH_CONFIG").filter(|value| !value.is_empty())
    }

    /// The same environment with a variable more, or with another value of it.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Env {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// The proxies; a name in capitals goes before the same in small letters.
    pub fn proxies(&self) -> Proxies {
        let one = |name: &str| {
            let found = self.get(name).or_else(|| self.get(&name.to_lowercase()));
            found.filter(|value| !value.is_empty()).map(str::to_owned)
        };
        Proxies {
            http: one("HTTP_PROXY"),
            https: one("HTTPS_PROXY"),
            ftp: one("FTP_PROXY"),
            no: one("NO_PROXY"),
            all: one("ALL_PROXY"),
        }
    }

    /// The form of progress that `BUILDKIT_PROGRESS` asks for.
    pub fn progress(&self) -> Option<&str> {
        self.get("BUILDKIT_PROGRESS").filter(|value| !value.is_empty())
    }

    /// The platforms to build for where none is named, as written in `DOCKER_DEFAULT_PLATFORM`.
    pub fn default_platform(&self) -> Option<&str> {
        self.get("DOCKER_DEFAULT_PLATFORM").filter(|value| !value.is_empty())
    }

    /// Whether colours are unwanted (`NO_COLOR` set to anything but nothing).
    pub fn no_color(&self) -> bool {
        self.set("NO_COLOR").is_some()
    }

    /// The time that images should carry, as written in `SOURCE_DATE_EPOCH`.
    pub fn source_date_epoch(&self) -> Option<&str> {
        self.get("SOURCE_DATE_EPOCH").filter(|value| !value.is_empty())
    }

    /// How much provenance goes into the metadata file, as written in `BUILDX_METADATA_PROVENANCE`.
    pub fn metadata_provenance(&self) -> Option<&str> {
        self.get("BUILDX_METADATA_PROVENANCE").filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_fall_back_to_home() {
        let env = Env::from_iter([("HOME", "/home/ann"), ("XDG_DATA_HOME", "relative")]);
        assert_eq!(env.data_home(), Some("/home/ann/.local/share".into()));
        assert_eq!(env.config_home(), Some("/home/ann/.config".into()));
        assert_eq!(env.docker_config(), Some("/home/ann/.docker".into()));
        assert_eq!(Env::default().data_home(), None);
    }

    #[test]
    fn proxies_are_read_in_both_cases() {
        let env =
            Env::from_iter([("http_proxy", "http://a"), ("NO_PROXY", "b"), ("no_proxy", "c")]);
        let want =
            Proxies { http: Some("http://a".into()), no: Some("b".into()), ..Proxies::default() };
        assert_eq!(env.proxies(), want);
    }

    #[test]
    fn values_are_never_printed() {
        let env = Env::from_iter([("TOKEN", "hunter2")]);
        assert_eq!(format!("{env:?}"), r#"{"TOKEN"}"#);
        assert!(!Env::from_iter([("NO_COLOR", "")]).no_color());
    }
}
