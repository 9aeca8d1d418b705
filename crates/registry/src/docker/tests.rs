use super::*;

#[test]
fn chunks_are_joined() {
    for (text, want, whole) in [
        ("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", "abcde", true),
        ("3\r\nabc\r\n", "abc", false),
        ("3\r\nab", "ab", false),
        ("zz\r\nab", "", false),
        ("ffffffffffffffff\r\nab", "ab", false),
        ("", "", false),
    ] {
        assert_eq!(unchunk(text.as_bytes()), (want.as_bytes().to_vec(), whole), "{text:?}");
    }
}
