//! Which addresses may be reached: any on one's own machine; on a cluster the public ones, and those that its
//! configuration names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::FetchError;

/// Which addresses may be reached.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Reach {
    /// Any.
    #[default]
    Anywhere,
    /// Public ones, and these hosts, by name or address.
    Public {
        /// Hosts that may be reached wherever they are.
        allow: Vec<String>,
    },
}

impl Reach {
    /// Whether a host may be reached at an address.
    pub fn permits(&self, host: &str, address: IpAddr) -> bool {
        match self {
            Reach::Anywhere => true,
            Reach::Public { allow } => {
                let is_named = |known: &String| {
                    known.eq_ignore_ascii_case(host)
                        || known.parse::<IpAddr>().is_ok_and(|known| known == address)
                };
                is_public(address) || allow.iter().any(is_named)
            }
        }
    }

    /// Looks a host up, once, and keeps what may be reached of it.
    pub(crate) async fn look_up(
        &self,
        host: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, FetchError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let failed = |source: std::io::Error| FetchError::Lookup {
            url: host.to_owned(),
            source: Arc::new(source),
        };
        let found: Vec<SocketAddr> =
            tokio::net::lookup_host((bare, port)).await.map_err(failed)?.collect();
        let permitted: Vec<SocketAddr> =
            found.iter().copied().filter(|it| self.permits(bare, it.ip())).collect();
        match (permitted.is_empty(), found.first()) {
            (false, _) => Ok(permitted),
            (true, Some(first)) => Err(FetchError::Forbidden {
                host: host.to_owned(),
                address: first.ip().to_string(),
            }),
            (true, None) => Err(FetchError::Address {
                url: host.to_owned(),
                problem: "the name stands for no address".into(),
            }),
        }
    }
}

/// Whether an address is one of the open internet, by the registries of special addresses.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || first == 0
        || first >= 240
        || (first == 100 && (64..128).contains(&second))
        || (first == 192 && second == 0 && third == 0)
        || (first == 198 && (18..20).contains(&second));
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let [first, second, ..] = segments;
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match (first, second) {
        // Addresses that carry one of version 4 inside.
        (0x0064, 0xff9b) => segments[2..6] == [0; 4] && v4(segments[6], segments[7]),
        (0x2002, _) => v4(segments[1], segments[2]),
        (0x2001, 0x0db8) => false,
        (0x2001, second) => second >= 0x0200,
        _ => (0x2000..0x4000).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        for (text, public) in [
            ("8.8.8.8", true),
            ("127.0.0.1", false),
            ("10.1.2.3", false),
            ("172.31.0.1", false),
            ("172.32.0.1", true),
            ("192.168.1.1", false),
            ("169.254.169.254", false),
            ("100.64.0.1", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::1", false),
            ("::", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:8.8.8.8", true),
            ("fe80::1", false),
            ("fd00::1", false),
            ("2606:4700::1111", true),
            ("2002:7f00:1::", false),
            ("64:ff9b::7f00:1", false),
            ("64:ff9b::808:808", true),
        ] {
            assert_eq!(is_public(text.parse().unwrap()), public, "{text}");
        }
    }

    #[tokio::test]
    async fn a_cluster_reaches_what_its_configuration_names() {
        let reach = Reach::Public { allow: vec![] };
        let error = reach.look_up("127.0.0.1", 80).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "127.0.0.1 may not be reached: 127.0.0.1 is not a public address"
        );
        // Odd spellings of an address are what they stand for, or nothing.
        for odd in ["2130706433", "0177.0.0.1", "0x7f.1", "[::ffff:127.0.0.1]", "localhost"] {
            assert!(reach.look_up(odd, 80).await.is_err(), "{odd}");
        }
        let reach = Reach::Public { allow: vec!["localhost".into()] };
        assert!(reach.look_up("localhost", 80).await.is_ok());
        assert!(reach.look_up("127.0.0.1", 80).await.is_err());
        assert!(Reach::Anywhere.look_up("127.0.0.1", 80).await.is_ok());
    }
}
