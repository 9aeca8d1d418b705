//! What is printed for programs.

use dcbuild_model::UnixTime;
use serde_json::Value;

/// A document, indented; times are written as RFC 3339, as everywhere in what this program prints.
pub(crate) fn pretty(document: Value) -> String {
    format!("{:#}\n", readable(document))
}

fn readable(value: Value) -> Value {
    match value {
        Value::Object(fields) => match time(&fields) {
            Some(time) => Value::String(time.rfc3339()),
            None => fields.into_iter().map(|(name, value)| (name, readable(value))).collect(),
        },
        Value::Array(values) => values.into_iter().map(readable).collect(),
        plain => plain,
    }
}

/// The time that an object is, in the form in which times travel.
fn time(fields: &serde_json::Map<String, Value>) -> Option<UnixTime> {
    let (secs, nanos) = (fields.get("secs")?.as_i64()?, fields.get("nanos")?.as_u64()?);
    let nanos = u32::try_from(nanos).ok()?;
    (fields.len() == 2).then_some(UnixTime { secs, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_by_people_and_programs() {
        let at = UnixTime { secs: 1_700_000_000, nanos: 500_000_000 };
        let document = serde_json::json!({
            "at": at, "list": [{ "evicted": [at, 3] }], "none": null,
            "other": { "secs": 1, "nanos": 2, "more": 3 },
        });
        let want = serde_json::json!({
            "at": "2023-11-14T22:13:20.5Z",
            "list": [{ "evicted": ["2023-11-14T22:13:20.5Z", 3] }],
            "none": null,
            "other": { "secs": 1, "nanos": 2, "more": 3 },
        });
        let printed = pretty(document);
        assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), want);
    }
}
