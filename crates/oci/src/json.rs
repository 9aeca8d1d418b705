//! JSON as Go's encoder writes it, and objects read field by field without building trees of values.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// How deeply the arrays and objects of a document may nest.
pub const JSON_DEPTH_MAX: usize = 100;

/// Says why bytes are no JSON document of the wanted shape.
#[derive(Debug, thiserror::Error)]
pub enum InvalidJson {
    /// The document nests too deeply.
    #[error("nested more than {JSON_DEPTH_MAX} levels deep")]
    Depth,
    /// A part of the document has another shape.
    #[error("{part} has the wrong shape")]
    Shape {
        /// The field, or what the whole document is.
        part: String,
        /// What the parser said.
        source: serde_json::Error,
    },
}

/// The fields of an object, each still as text.
pub(crate) struct Fields(BTreeMap<String, Box<RawValue>>);

impl Fields {
    /// Reads an object; `what` names it in an error.
    pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<Fields, InvalidJson> {
        check_depth(bytes)?;
        let shape = |source| InvalidJson::Shape { part: what.into(), source };
        let fields: Option<BTreeMap<String, Box<RawValue>>> =
            serde_json::from_slice(bytes).map_err(shape)?;
        Ok(Fields(fields.unwrap_or_default()))
    }

    /// Takes a field out; one that is absent or null is none.
    pub(crate) fn take<T: DeserializeOwned>(
        &mut self,
        name: &str,
    ) -> Result<Option<T>, InvalidJson> {
        let shape = |source| InvalidJson::Shape { part: format!("field '{name}'"), source };
        match self.0.remove(name) {
            Some(raw) => serde_json::from_str(raw.get()).map_err(shape),
            None => Ok(None),
        }
    }

    /// Takes a list of texts out; a null item is an empty text, as Go reads it.
    pub(crate) fn take_texts(&mut self, name: &str) -> Result<Vec<String>, InvalidJson> {
        let items: Option<Vec<Option<String>>> = self.take(name)?;
        Ok(items.unwrap_or_default().into_iter().map(Option::unwrap_or_default).collect())
    }

    /// Takes an object out, as text, or none.
    pub(crate) fn take_raw(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).map(|raw| raw.get().to_owned()).filter(|text| text != "null")
    }

    /// What nobody took, as JSON text.
    pub(crate) fn rest(self) -> BTreeMap<String, String> {
        self.0.into_iter().map(|(name, raw)| (name, raw.get().to_owned())).collect()
    }
}

/// Refuses a document that nests too deeply, before anything recursive or costly looks at it.
pub(crate) fn check_depth(bytes: &[u8]) -> Result<(), InvalidJson> {
    let mut depth = 0usize;
    let mut in_text = false;
    let mut escaped = false;
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth += 1,
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > JSON_DEPTH_MAX {
            return Err(InvalidJson::Depth);
        }
    }
    Ok(())
}

/// Writes a value compactly, with the escapes of Go's encoder, so that equal documents have equal bytes.
pub fn to_go_json<T: Serialize>(value: &T) -> String {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, GoFormatter);
    value.serialize(&mut serializer).expect("types of this crate have text keys and plain values");
    String::from_utf8(bytes).expect("a JSON serializer writes UTF-8")
}

/// A value as text that is spliced into a larger document.
pub(crate) fn to_raw<T: Serialize>(value: &T) -> Box<RawValue> {
    RawValue::from_string(to_go_json(value)).expect("it was just written as JSON")
}

struct GoFormatter;

impl serde_json::ser::Formatter for GoFormatter {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        let mut start = 0;
        for (at, found) in fragment.match_indices(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let escape: &[u8] = match found {
                "<" => b"\\u003c",
                ">" => b"\\u003e",
                "&" => b"\\u0026",
                "\u{2028}" => b"\\u2028",
                _ => b"\\u2029",
            };
            writer.write_all(fragment.get(start..at).unwrap_or_default().as_bytes())?;
            writer.write_all(escape)?;
            start = at + found.len();
        }
        writer.write_all(fragment.get(start..).unwrap_or_default().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_as_go_escapes_them() {
        for (text, want) in [
            ("a && b <c>", r#""a \u0026\u0026 b \u003cc\u003e""#),
            ("tab\tquote\"back\\", r#""tab\tquote\"back\\""#),
            ("\u{1}\u{2028}é", "\"\\u0001\\u2028é\""),
        ] {
            assert_eq!(to_go_json(&text), want);
        }
    }

    #[test]
    fn deep_documents_are_refused() {
        let deep = "[".repeat(100_000);
        assert!(matches!(check_depth(deep.as_bytes()), Err(InvalidJson::Depth)));
        assert!(check_depth(br#"{"a":"[[[[[\"[[["}"#).is_ok());
    }
}
