//! Where a worker is reached by others.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// Where a worker listens for others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerListen {
    /// At the address by which it reaches its coordinator, on a free port.
    Auto,
    /// Nowhere.
    Nowhere,
    /// Here.
    At(SocketAddr),
}

/// Says why a text is no place to listen at.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not IP:PORT, 'auto' or 'none'")]
pub struct InvalidPeerListen(String);

impl FromStr for PeerListen {
    type Err = InvalidPeerListen;

    fn from_str(text: &str) -> Result<PeerListen, InvalidPeerListen> {
        match text {
            "auto" => Ok(PeerListen::Auto),
            "none" => Ok(PeerListen::Nowhere),
            _ => text.parse().map(PeerListen::At).map_err(|_| InvalidPeerListen(text.into())),
        }
    }
}

/// A name or address, and a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAddress(String);

/// Says why a text is no address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not of the form HOST:PORT, such as worker-3.example:7072")]
pub struct InvalidPeerAddress(String);

impl FromStr for PeerAddress {
    type Err = InvalidPeerAddress;

    fn from_str(text: &str) -> Result<PeerAddress, InvalidPeerAddress> {
        let of_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        let fits = |(host, port): (&str, &str)| {
            let bare = host.starts_with('[') == host.contains(':');
            !host.is_empty()
                && bare
                && host.bytes().all(of_host)
                && port.parse::<u16>().is_ok_and(|it| it > 0)
        };
        if text.len() <= 256 && text.rsplit_once(':').is_some_and(fits) {
            Ok(PeerAddress(text.to_owned()))
        } else {
            Err(InvalidPeerAddress(text.chars().take(100).collect()))
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_to_listen_at_is_read_and_what_is_none_is_named() {
        assert_eq!("auto".parse(), Ok(PeerListen::Auto));
        assert_eq!("none".parse(), Ok(PeerListen::Nowhere));
        let at = PeerListen::At("10.0.0.5:7072".parse().unwrap());
        assert_eq!("10.0.0.5:7072".parse(), Ok(at));
        for wrong in ["", "7072", "10.0.0.5", "host:7072"] {
            assert_eq!(wrong.parse::<PeerListen>(), Err(InvalidPeerListen(wrong.into())));
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for right in ["w:1", "worker-3.example:7072", "10.0.0.5:65535", "[::1]:7072"] {
            assert_eq!(right.parse::<PeerAddress>().unwrap().to_string(), right);
        }
        for wrong in ["", ":1", "w", "w:", "w:0", "w:70000", "http://w:1", "::1:7072", "a b:1"] {
            assert!(wrong.parse::<PeerAddress>().is_err(), "{wrong}");
        }
    }
}
