//! `WWW-Authenticate`: what a registry wants to see.

use std::collections::BTreeMap;

const PARAMS_MAX: usize = 32;

/// One way in that a registry offers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Challenge {
    /// In lower case, such as `bearer`.
    pub(crate) scheme: String,
    /// By name, in lower case.
    pub(crate) params: BTreeMap<String, String>,
}

/// Parses one header, which may offer several ways; what makes no sense is left out.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (word, after) = token(rest);
        if word.is_empty() {
            // Not a word: step over one character, so that the loop ends.
            let mut characters = rest.chars();
            characters.next();
            rest = characters.as_str();
            continue;
        }
        let after = after.trim_start();
        match (after.strip_prefix('='), challenges.last_mut()) {
            (Some(value), Some(challenge)) => {
                let (value, after) = value_of(value.trim_start());
                if challenge.params.len() < PARAMS_MAX {
                    challenge.params.insert(word.to_ascii_lowercase(), value);
                }
                rest = after;
            }
            (Some(value), None) => rest = value,
            (None, _) => {
                let scheme = word.to_ascii_lowercase();
                if challenges.len() < PARAMS_MAX {
                    challenges.push(Challenge { scheme, params: BTreeMap::new() });
                }
                rest = after;
            }
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    challenges
}

fn token(text: &str) -> (&str, &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !plain(c)).unwrap_or(text.len());
    text.split_at(end)
}

fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => value.extend(characters.next()),
            other => value.push(other),
        }
    }
    (value, characters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_parsed() {
        for (header, want) in [
            ("Basic realm=\"x y\"", "basic realm=x y"),
            (
                "Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:a/b:pull,push\"",
                "bearer realm=https://a/t scope=repository:a/b:pull,push service=s",
            ),
            ("Bearer realm=a, Basic realm=b", "bearer realm=a; basic realm=b"),
            ("Negotiate, BEARER Realm=\"a\\\"b\"", "negotiate; bearer realm=a\"b"),
            ("Bearer realm=\"open", "bearer realm=open"),
            ("", ""),
            (",=,\"(", ""),
        ] {
            let shown: Vec<String> = parse(header)
                .iter()
                .map(|one| {
                    let params = one.params.iter().map(|(k, v)| format!(" {k}={v}"));
                    format!("{}{}", one.scheme, params.collect::<String>())
                })
                .collect();
            assert_eq!(shown.join("; "), want, "{header}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_survived(header in ".{0,200}") {
            let _challenges = parse(&header);
        }
    }
}
