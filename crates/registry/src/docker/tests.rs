use super::*;

#[test]
fn chunks_are_joined() {
    for (text, want) in [
        ("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", "abcde"),
        ("3\r\nab", "ab"),
        ("zz\r\nab", ""),
        ("ffffffffffffffff\r\nab", "ab"),
        ("", ""),
    ] {
        assert_eq!(unchunk(text.as_bytes()), want.as_bytes(), "{text:?}");
    }
}
