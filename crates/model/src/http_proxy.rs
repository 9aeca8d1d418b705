//! Which proxy an http request goes by, as Go's programs read it from the environment (golang.org/x/net/http/httpproxy),
//! docker among them: by `HTTP_PROXY` and `HTTPS_PROXY`, never by `ALL_PROXY`, and never to this machine itself.

use std::error::Error;
use std::io;
use std::net::IpAddr;

use crate::remote::shown;

/// The proxies of a process.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HttpProxies {
    http: Option<String>,
    https: Option<String>,
    none_for: Vec<Exception>,
}

/// An entry of `NO_PROXY`.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Exception {
    Everything,
    Network { base: IpAddr, bits: u32 },
    Address { address: IpAddr, port: Option<u16> },
    Domain { name: String, own: bool, port: Option<u16> },
}

impl HttpProxies {
    /// Reads them among variables; small letters count where capitals are not set.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> HttpProxies {
        let one = |name: &str| {
            let set = |name: &str| variable(name).filter(|value| !value.is_empty());
            set(name).or_else(|| set(&name.to_lowercase()))
        };
        let proxy = |name| one(name).map(with_scheme);
        let none_for = one("NO_PROXY").unwrap_or_default();
        let none_for = none_for.split(',').filter_map(|entry| Exception::parse(entry.trim()));
        HttpProxies {
            http: proxy("HTTP_PROXY"),
            https: proxy("HTTPS_PROXY"),
            none_for: none_for.collect(),
        }
    }

    /// The URL of the proxy for a request, if it goes by one.
    pub fn proxy(&self, scheme: &str, host: &str, port: u16) -> Option<&str> {
        let proxy = if scheme == "https" { &self.https } else { &self.http };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        let is_here = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        let is_out = |entry: &Exception| entry.holds(&host, address, port);
        proxy.as_deref().filter(|_| !is_here && !self.none_for.iter().any(is_out))
    }

    /// The same in words: without a password, and with the variable that it stands in.
    pub fn words(&self, scheme: &str, host: &str, port: u16) -> Option<String> {
        let proxy = shown(self.proxy(scheme, host, port)?);
        let variable = if scheme == "https" { "https_proxy" } else { "http_proxy" };
        Some(format!("{proxy} of {variable}"))
    }
}

/// Whether there was nobody to take a connection. Of a request that goes by a proxy that is said of the proxy, for whoever
/// is behind it is connected to by the proxy alone.
pub fn is_unreached(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        next = cause.source();
        let Some(error) = cause.downcast_ref::<io::Error>() else { continue };
        if matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::TimedOut
        ) {
            return true;
        }
        // An error within an I/O error is not among its sources, which are those of the inner one.
        if let Some(inner) = error.get_ref() {
            next = Some(inner);
        }
    }
    false
}

fn with_scheme(proxy: String) -> String {
    if proxy.contains("://") { proxy } else { format!("http://{proxy}") }
}

impl Exception {
    fn parse(entry: &str) -> Option<Exception> {
        let entry = entry.to_ascii_lowercase();
        if entry == "*" {
            return Some(Exception::Everything);
        }
        if let Some((base, bits)) = entry.split_once('/') {
            let (base, bits) = (base.parse().ok()?, bits.parse().ok()?);
            return Some(Exception::Network { base, bits });
        }
        if let Ok(address) = entry.trim_matches(['[', ']']).parse() {
            return Some(Exception::Address { address, port: None });
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (entry.as_str(), None),
        };
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            return Some(Exception::Address { address, port });
        }
        let name = host.strip_prefix('*').unwrap_or(host);
        let (name, own) = match name.strip_prefix('.') {
            Some(below) => (below, false),
            None => (name, true),
        };
        (!name.is_empty()).then(|| Exception::Domain { name: name.to_owned(), own, port })
    }

    fn holds(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        let fits = |own: &Option<u16>| own.is_none_or(|own| own == port);
        match self {
            Exception::Everything => true,
            Exception::Network { base, bits } => {
                address.is_some_and(|address| is_within(address, *base, *bits))
            }
            Exception::Address { address: own, port } => address == Some(*own) && fits(port),
            Exception::Domain { name, own, port } => {
                let below =
                    host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
                fits(port) && (below || (*own && host == name))
            }
        }
    }
}

fn is_within(address: IpAddr, base: IpAddr, bits: u32) -> bool {
    match (address, base) {
        (IpAddr::V4(address), IpAddr::V4(base)) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or(0);
            address.to_bits() & mask == base.to_bits() & mask
        }
        (IpAddr::V6(address), IpAddr::V6(base)) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or(0);
            address.to_bits() & mask == base.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> HttpProxies {
        let value = |name: &str| variables.iter().find(|(known, _)| *known == name);
        HttpProxies::of(|name| value(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_proxy_is_named_without_its_password() {
        let proxies = of(&[("http_proxy", "user:secret@proxy:3128")]);
        let words = proxies.words("http", "elsewhere", 80);
        assert_eq!(words.as_deref(), Some("http://proxy:3128 of http_proxy"));
        assert_eq!(proxies.words("https", "elsewhere", 443), None);
        assert_eq!(proxies.words("http", "localhost", 80), None);
    }

    #[test]
    fn what_nobody_took_is_told_from_what_broke() {
        let of = |kind: io::ErrorKind| io::Error::other(io::Error::from(kind));
        assert!(is_unreached(&of(io::ErrorKind::ConnectionRefused)));
        assert!(!is_unreached(&of(io::ErrorKind::ConnectionReset)));
    }

    #[test]
    fn the_environment_is_read_as_go_reads_it() {
        let proxies = of(&[
            ("HTTP_PROXY", "proxy:3128"),
            ("https_proxy", "socks5://sox:1080"),
            ("ALL_PROXY", "socks5://all:1"),
            (
                "NO_PROXY",
                "reg.corp:5000, *.wild, .below,plain,10.0.0.0/8,192.0.2.7,192.0.2.8:80,[fd00::1]",
            ),
        ]);
        let (http, socks) = (Some("http://proxy:3128"), Some("socks5://sox:1080"));
        for (scheme, host, port, want) in [
            ("http", "elsewhere", 80, http),
            ("https", "elsewhere", 443, socks),
            ("http", "localhost", 80, None),
            ("http", "127.0.0.1", 8000, None),
            ("http", "[::1]", 8000, None),
            ("https", "reg.corp", 5000, None),
            ("https", "reg.corp", 443, socks),
            ("https", "sub.reg.corp", 5000, None),
            ("http", "a.wild", 80, None),
            ("http", "wild", 80, http),
            ("http", "a.below", 80, None),
            ("http", "below", 80, http),
            ("http", "plain", 80, None),
            ("http", "sub.PLAIN.", 80, None),
            ("http", "notplain", 80, http),
            ("http", "10.1.2.3", 80, None),
            ("http", "11.1.2.3", 80, http),
            ("http", "192.0.2.7", 99, None),
            ("http", "192.0.2.8", 80, None),
            ("http", "192.0.2.8", 81, http),
            ("http", "[fd00::1]", 80, None),
        ] {
            assert_eq!(proxies.proxy(scheme, host, port), want, "{scheme}://{host}:{port}");
        }
        let all = of(&[("HTTP_PROXY", "http://p"), ("NO_PROXY", "*")]);
        assert_eq!(all.proxy("http", "elsewhere", 80), None);
        let none = of(&[("ALL_PROXY", "http://p")]);
        assert_eq!(none, HttpProxies::default());
    }
}
