//! The name servers that steps are told.

use std::net::IpAddr;

use crate::spec::Network;

/// Where they are named.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where the local resolver of many distributions names the servers that it asks itself.
const UPSTREAMS: &str = "/run/systemd/resolve/resolv.conf";

/// The text of a step's `resolv.conf`; on a network of its own a step cannot reach the host's loopback, and where the
/// host knows of no other server, neither does the step.
pub(crate) fn text_for(network: Network) -> String {
    match network {
        Network::Host => read(RESOLV_CONF),
        Network::None | Network::Isolated => without_loopback(&of_host()),
    }
}

/// What the host says of servers beyond its loopback.
pub(crate) fn of_host() -> String {
    choose(read(RESOLV_CONF), || read(UPSTREAMS))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn choose(text: String, upstreams: impl FnOnce() -> String) -> String {
    let only_loopback =
        servers(&text).next().is_some() && servers(&text).all(|server| server.is_loopback());
    if !only_loopback {
        return text;
    }
    let upstreams = upstreams();
    if servers(&upstreams).next().is_some() { upstreams } else { text }
}

/// The servers that a `resolv.conf` names.
pub(crate) fn servers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(server)
}

fn server(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace();
    (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
}

fn without_loopback(text: &str) -> String {
    let reachable = |line: &&str| !server(line).is_some_and(|server| server.is_loopback());
    text.lines().filter(reachable).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_on_the_loopback_are_left_out() {
        for (text, upstreams, expected) in [
            ("search a\nnameserver 127.0.0.53\n", "", "search a\n"),
            ("search a\nnameserver 127.0.0.53\n", "nameserver 10.0.0.2\n", "nameserver 10.0.0.2\n"),
            (
                "nameserver ::1\nnameserver 10.0.0.3",
                "nameserver 10.0.0.2\n",
                "nameserver 10.0.0.3\n",
            ),
            ("options a\n", "nameserver 10.0.0.2\n", "options a\n"),
        ] {
            let chosen = choose(text.to_owned(), || upstreams.to_owned());
            assert_eq!(without_loopback(&chosen), expected, "{text}");
        }
    }
}
