//! The envelope of key files: a kind between two lines of dashes, headers, and base64.

use base64::Engine as _;

/// What a file holds.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Pem<'a> {
    pub(crate) kind: &'a str,
    /// Whether a header says that it is encrypted.
    pub(crate) encrypted: bool,
    pub(crate) bytes: Vec<u8>,
}

/// Reads the first envelope of a text.
pub(crate) fn parse(text: &str) -> Option<Pem<'_>> {
    let (_, text) = text.split_once("-----BEGIN ")?;
    let (kind, text) = text.split_once("-----")?;
    let (body, _) = text.split_once("-----END ")?;
    let header = |line: &&str| line.contains(':');
    let lines = || body.lines().map(str::trim);
    let encrypted = lines().filter(header).any(|line| line.contains("ENCRYPTED"));
    let digits: String = lines().filter(|line| !header(line)).collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(digits);
    // What is encrypted need not be understood further.
    let bytes = if encrypted { bytes.unwrap_or_default() } else { bytes.ok()? };
    Some(Pem { kind, encrypted, bytes })
}
