//! One record of comma-separated fields, as docker's flags have them: a field may stand in double quotes.

/// Splits a record; none if a quote is left open or stands inside a bare field.
pub(crate) fn fields(text: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => bare_field(rest)?,
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return after.is_empty().then_some(fields),
        }
    }
}

fn bare_field(text: &str) -> Option<(String, &str)> {
    let (field, after) = text.split_at(text.find(',').unwrap_or(text.len()));
    (!field.contains('"')).then(|| (field.to_owned(), after))
}

/// Reads up to the closing quote; two quotes stand for one.
fn quoted_field(mut rest: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        field.push_str(part);
        let Some(more) = after.strip_prefix('"') else { return Some((field, after)) };
        field.push('"');
        rest = more;
    }
}

/// Splits a record into keys and values; a field without `=` is a key with no value. Keys are in small letters.
pub(crate) fn pairs(text: &str) -> Option<Vec<(String, Option<String>)>> {
    let pair = |field: String| match field.split_once('=') {
        Some((key, value)) => (key.trim().to_lowercase(), Some(value.to_owned())),
        None => (field.trim().to_lowercase(), None),
    };
    Some(fields(text)?.into_iter().map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_may_be_quoted() {
        for (text, want) in [
            ("", Some(vec![""])),
            ("a,b", Some(vec!["a", "b"])),
            ("a,,b,", Some(vec!["a", "", "b", ""])),
            (
                r#"type=image,"name=a,b",push=true"#,
                Some(vec!["type=image", "name=a,b", "push=true"]),
            ),
            (r#""say ""hi""""#, Some(vec![r#"say "hi""#])),
            (r#"a"b"#, None),
            (r#""open"#, None),
            (r#""shut"more"#, None),
        ] {
            let want = want.map(|want| want.into_iter().map(str::to_owned).collect());
            assert_eq!(fields(text), want, "{text}");
        }
    }
}
