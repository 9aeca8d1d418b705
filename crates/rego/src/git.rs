//! The texts of git's commits and tags, as policies see them.

use dcbuild_model::UnixTime;
use serde_json::{Map, Value, json};

use crate::input::put;

/// Where a signature begins that stands below a message.
const SIGNATURES: [&str; 2] = ["-----BEGIN PGP SIGNATURE-----", "-----BEGIN SSH SIGNATURE-----"];

/// A commit.
pub(crate) fn commit(text: &str) -> Value {
    let (headers, message) = parts(text);
    let mut fields = Map::new();
    let all = |name: &str| -> Vec<&str> {
        headers.iter().filter(|(key, _)| *key == name).map(|(_, value)| *value).collect()
    };
    let one = |name: &str| all(name).first().copied();
    put(&mut fields, "tree", json!(one("tree")));
    put(&mut fields, "parents", json!(all("parent")));
    put(&mut fields, "author", one("author").map_or(Value::Null, actor));
    put(&mut fields, "committer", one("committer").map_or(Value::Null, actor));
    put(&mut fields, "message", json!(message));
    Value::Object(fields)
}

/// An annotated tag.
pub(crate) fn tag(text: &str) -> Value {
    let (headers, message) = parts(text);
    let one = |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let mut fields = Map::new();
    put(&mut fields, "object", json!(one("object")));
    put(&mut fields, "type", json!(one("type")));
    put(&mut fields, "tag", json!(one("tag")));
    put(&mut fields, "tagger", one("tagger").map_or(Value::Null, actor));
    let signed = SIGNATURES.iter().filter_map(|begin| message.find(begin)).min();
    put(&mut fields, "message", json!(signed.and_then(|at| message.get(..at)).unwrap_or(message)));
    Value::Object(fields)
}

/// The lines above the empty one, and what is below. A line that begins with a space goes on with a signature.
fn parts(text: &str) -> (Vec<(&str, &str)>, &str) {
    let (head, message) = text.split_once("\n\n").unwrap_or((text, ""));
    let lines = head.lines().filter(|line| !line.starts_with(' '));
    (lines.filter_map(|line| line.split_once(' ')).collect(), message)
}

/// `NAME <MAIL> SECONDS ZONE`.
fn actor(text: &str) -> Value {
    let mut fields = Map::new();
    let (name, rest) = text.split_once('<').unwrap_or((text, ""));
    let (email, when) = rest.split_once('>').unwrap_or((rest, ""));
    put(&mut fields, "name", json!(name.trim()));
    put(&mut fields, "email", json!(email));
    put(&mut fields, "when", json!(time(when)));
    Value::Object(fields)
}

/// `SECONDS +0100` in RFC 3339, in its own zone.
fn time(text: &str) -> Option<String> {
    let mut words = text.split_whitespace();
    let seconds: i64 = words.next()?.parse().ok()?;
    let zone = words.next().filter(|zone| zone.len() == 5 && zone.is_ascii()).unwrap_or("+0000");
    let (sign, digits) = zone.split_at(1);
    let (hours, minutes) = digits.split_at(2);
    let ahead = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
    let ahead = if sign == "-" { -ahead } else { ahead };
    let local = UnixTime { secs: seconds.checked_add(ahead)?, nanos: 0 }.rfc3339();
    let local = local.strip_suffix('Z').unwrap_or(&local);
    Some(if ahead == 0 { format!("{local}Z") } else { format!("{local}{sign}{hours}:{minutes}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "tree 1111\nparent 2222\nparent 3333\nauthor A B <a@b.c> 1700000000 +0130\ncommitter C <c@d> 0 +0000\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n abc\n -----END PGP SIGNATURE-----\n\nfirst\n\nmore\n";

    #[test]
    fn commits_and_tags_are_read() {
        assert_eq!(
            commit(COMMIT),
            json!({
                "tree": "1111",
                "parents": ["2222", "3333"],
                "author": {"name": "A B", "email": "a@b.c", "when": "2023-11-14T23:43:20+01:30"},
                "committer": {"name": "C", "email": "c@d", "when": "1970-01-01T00:00:00Z"},
                "message": "first\n\nmore\n",
            })
        );
        let text = "object 1\ntype commit\ntag v1\ntagger T <t@u> 60 -0100\n\nv1\n-----BEGIN PGP SIGNATURE-----\nx\n";
        assert_eq!(
            tag(text),
            json!({
                "object": "1",
                "type": "commit",
                "tag": "v1",
                "tagger": {"name": "T", "email": "t@u", "when": "1969-12-31T23:01:00-01:00"},
                "message": "v1\n",
            })
        );
    }

    proptest::proptest! {
        #[test]
        fn no_object_is_too_odd(text in "(tree|author|<|>|[0-9]|\\+|\n| |é){0,40}") {
            drop(commit(&text));
            drop(tag(&text));
        }
    }
}
