//! Bytes as documents hold them.

/// Writes bytes as hex digits, as documents hold them.
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String does not fail.
        let _ok = write!(text, "{byte:02x}");
        text
    })
}
