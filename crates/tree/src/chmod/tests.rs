use super::*;

#[test]
fn modes_change_as_chmod_would() {
    for (text, mode, is_dir, want) in [
        ("604", 0o640, false, 0o604),
        ("0711", 0o640, false, 0o711),
        ("0", 0o640, false, 0),
        ("3770", 0o755, true, 0o3770),
        ("u=rwX,go=rX", 0o600, false, 0o644),
        ("u=rwX,go=rX", 0o755, false, 0o755),
        ("u=rwX,go=rX", 0o700, true, 0o755),
        ("go-w", 0o666, false, 0o644),
        ("a+x", 0o640, false, 0o751),
        ("+x", 0o640, false, 0o751),
        ("g=u,o=", 0o755, true, 0o770),
        ("u+x,go=", 0o644, false, 0o700),
        ("a+X", 0o744, false, 0o755),
        ("a+X", 0o644, false, 0o644),
        ("u+s,g+s,+t", 0o755, false, 0o7755),
        ("u+w-r", 0o444, false, 0o244),
    ] {
        let got = Chmod::parse(text).unwrap().apply(mode, is_dir);
        assert_eq!(got, want, "{text} {mode:o} gives {got:o}");
    }
}

#[test]
fn other_texts_are_refused() {
    for text in ["10000", "0789", "0o755"] {
        assert!(matches!(Chmod::parse(text), Err(ChmodError::Octal { .. })), "{text}");
    }
    for text in ["banana", "u+x,,g+w", "", "u", "u+y", "rwx"] {
        assert!(matches!(Chmod::parse(text), Err(ChmodError::Symbolic { .. })), "{text}");
    }
}
