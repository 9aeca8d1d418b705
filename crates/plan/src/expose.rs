//! EXPOSE: ports, ranges and the mappings that docker tolerates there.

/// The ports that one word of EXPOSE stands for, such as `80/tcp`.
pub(crate) fn ports(word: &str) -> Result<Vec<String>, String> {
    let (mapping, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_lowercase() };
    let container = container_port(mapping);
    if container.is_empty() {
        return Err(format!("no port specified: {word}<empty>"));
    }
    let invalid = || format!("invalid containerPort: {container}");
    let (first, last) = if let Some((first, last)) = container.split_once('-') {
        (number(first).ok_or_else(invalid)?, number(last).ok_or_else(invalid)?)
    } else {
        let port = number(container).ok_or_else(invalid)?;
        (port, port)
    };
    if last < first {
        return Err(invalid());
    }
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid port: \"{word}\": invalid proto: {protocol}"));
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// What stands behind `ADDRESS:HOSTPORT:`.
fn container_port(mapping: &str) -> &str {
    mapping.rsplit_once(':').map_or(mapping, |(_, port)| port)
}

fn number(text: &str) -> Option<u16> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_ports() {
        for (word, want) in [
            ("80", Ok("80/tcp")),
            ("81/Udp", Ok("81/udp")),
            ("8000-8002", Ok("8000/tcp 8001/tcp 8002/tcp")),
            ("127.0.0.1:8080:80", Ok("80/tcp")),
            ("[::1]:80:80", Ok("80/tcp")),
            ("+80", Ok("80/tcp")),
            ("0080/", Ok("80/tcp")),
            ("http", Err("invalid containerPort: http")),
            ("-1", Err("invalid containerPort: -1")),
            ("90-80", Err("invalid containerPort: 90-80")),
            ("80/tcp/udp", Err("invalid port: \"80/tcp/udp\": invalid proto: tcp/udp")),
        ] {
            let got = ports(word).map(|ports| ports.join(" "));
            assert_eq!(got.as_deref(), want.map_err(str::to_owned).as_deref(), "{word}");
        }
    }
}
