//! Who is spoken to: scheme, host and port, exactly.

use std::fmt;
use std::net::IpAddr;

use url::Url;

/// The scheme, host and port that a credential is bound to.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of a URL of http or https; none for other URLs and for those with a user name in them.
    pub(crate) fn of(url: &Url) -> Option<Origin> {
        let known = matches!(url.scheme(), "http" | "https");
        if !known || !url.username().is_empty() || url.password().is_some() {
            return None;
        }
        Some(Origin {
            scheme: url.scheme().to_owned(),
            host: url.host_str()?.to_owned(),
            port: url.port_or_known_default()?,
        })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.scheme == "https"
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The host, and the port where it is not the scheme's own: what configuration calls it.
    pub(crate) fn name(&self) -> String {
        let default = if self.is_tls() { 443 } else { 80 };
        if self.port == default {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Scheme, host and port, the scheme's own port too: what an error calls it.
    pub(crate) fn whole(&self) -> String {
        format!("{}://{}:{}", self.scheme, self.host, self.port)
    }

    /// Whether a token service at `realm` may see the credentials of this registry: it is on the same host, such as GitLab's
    /// for its registry on port 5050, or a TLS host of the same parent domain (`auth.docker.io` for `registry-1.docker.io`).
    pub(crate) fn trusts_realm(&self, realm: &Origin) -> bool {
        if self.host == realm.host && (realm.is_tls() || !self.is_tls()) {
            return true;
        }
        let named = |origin: &Origin| origin.is_tls() && origin.host.parse::<IpAddr>().is_err();
        if !named(self) || !named(realm) || realm.host.starts_with('[') {
            return false;
        }
        let parent = match self.host.split_once('.') {
            Some((_, parent)) if parent.contains('.') => parent,
            _ => self.host.as_str(),
        };
        let below = |domain: &str| {
            realm.host == domain
                || realm.host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
        };
        below(parent)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.name())
    }
}

/// Whether a registry's name means this machine, where plain http is the custom.
pub(crate) fn is_local(name: &str) -> bool {
    if let Some(rest) = name.strip_prefix('[') {
        let address = rest.split_once(']').map(|(address, _)| address.parse::<IpAddr>());
        return matches!(address, Some(Ok(address)) if address.is_loopback());
    }
    let host = name.split_once(':').map_or(name, |(host, _)| host);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::of(&Url::parse(text).unwrap()).unwrap()
    }

    #[test]
    fn realms_are_trusted_by_domain() {
        for (registry, realm, want) in [
            ("https://registry-1.docker.io", "https://auth.docker.io", true),
            ("https://registry.gitlab.com", "https://gitlab.com", true),
            ("https://ghcr.io", "https://ghcr.io", true),
            ("https://ghcr.io", "https://token.ghcr.io", true),
            ("https://ghcr.io", "https://gcr.io", false),
            ("https://ghcr.io", "http://ghcr.io", false),
            ("https://azurecr.io", "https://evil-azurecr.io", false),
            ("https://registry.azurecr.io", "https://evil-azurecr.io", false),
            ("https://a.example.com", "https://a.example.com:8443", true),
            ("https://gitlab.example.com:5050", "https://gitlab.example.com", true),
            ("https://registry.example.com:5000", "https://gitlab.example.com", true),
            ("https://registry.example.com:5000", "http://registry.example.com", false),
            ("https://registry.example.com", "https://gitlab.example.org", false),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001", true),
            ("http://127.0.0.1:5000", "https://127.0.0.1:5001", true),
            ("http://127.0.0.1:5000", "http://127.0.0.2:5000", false),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000", true),
            ("https://10.0.0.1", "https://9.0.0.1", false),
        ] {
            assert_eq!(origin(registry).trusts_realm(&origin(realm)), want, "{registry} {realm}");
        }
    }

    #[test]
    fn local_names() {
        for (name, want) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.3.2.1:80", true),
            ("[::1]:5000", true),
            ("10.0.0.1", false),
            ("localhost.evil.com", false),
            ("[fe80::1]", false),
        ] {
            assert_eq!(is_local(name), want, "{name}");
        }
    }
}
