//! Dockerfiles in odd encodings and of odd sizes: what is read, and what is refused with its place.
#![expect(clippy::unwrap_used, reason = "test")]

use dcbuild_dockerfile::limits::{FILE_BYTES_MAX, INSTRUCTIONS_MAX, LINE_BYTES_MAX, STAGES_MAX};
use dcbuild_dockerfile::{Dockerfile, parse};
use expect_test::{Expect, expect};

/// What the instructions of the last stage say.
fn told(dockerfile: &Dockerfile) -> Vec<String> {
    let last = dockerfile.stages.last().unwrap();
    let texts = last.instructions.iter().map(|instruction| {
        let bodies = instruction.heredocs.iter().map(|heredoc| heredoc.content.as_str());
        std::iter::once(instruction.source.as_str()).chain(bodies).collect::<Vec<_>>().join(" | ")
    });
    texts.collect()
}

fn check(text: impl AsRef<[u8]>, want: &Expect) {
    let out = match parse(text.as_ref()) {
        Ok(dockerfile) => format!("{:#?}\n", told(&dockerfile)),
        Err(error) => match error.span {
            Some(span) => format!("line {}: {error}\n", span.start_line),
            None => format!("{error}\n"),
        },
    };
    // A snapshot holds no bytes that an editor would not show.
    want.assert_eq(&out.replace('\0', "<NUL>").replace('\u{fffd}', "<?>"));
}

fn utf16(text: &str, mark: &[u8], bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    mark.iter().copied().chain(text.encode_utf16().flat_map(bytes)).collect()
}

#[test]
fn utf_16_is_told_so() {
    check(
        utf16("FROM a\nRUN x\n", b"\xff\xfe", u16::to_le_bytes),
        &expect![[r#"
            dockerfile parse error: the file is in UTF-16, and a Dockerfile is in UTF-8
        "#]],
    );
    check(
        utf16("FROM a\nRUN x\n", b"\xfe\xff", u16::to_be_bytes),
        &expect![[r#"
            dockerfile parse error: the file is in UTF-16, and a Dockerfile is in UTF-8
        "#]],
    );
    // Without a mark, and read as if it were UTF-8 before it came here.
    check(
        utf16("FROM a\nRUN x\n", b"", u16::to_le_bytes),
        &expect![[r#"
            dockerfile parse error: the file is in UTF-16, and a Dockerfile is in UTF-8
        "#]],
    );
    let lossy = utf16("FROM a\nRUN x\n", b"\xff\xfe", u16::to_le_bytes);
    check(
        String::from_utf8_lossy(&lossy).as_bytes(),
        &expect![[r#"
            dockerfile parse error: the file is in UTF-16, and a Dockerfile is in UTF-8
        "#]],
    );
}

#[test]
fn encodings() {
    // Lines may end as on Windows; the body of a heredoc keeps its ends.
    check(
        "FROM a\r\nRUN x \\\r\n  y\r\nCOPY <<E /f\r\nz\r\nE\r\n",
        &expect![[r#"
        [
            "RUN x   y",
            "COPY <<E /f | z\r\n",
        ]
    "#]],
    );
    check(
        "\u{feff}FROM a\nRUN x\n",
        &expect![[r#"
        [
            "RUN x",
        ]
    "#]],
    );
    // A carriage return alone ends no line.
    check(
        "FROM a\rRUN x\r",
        &expect![[r#"
        line 1: dockerfile parse error on line 1: FROM requires either one or three arguments
    "#]],
    );
    check(
        "FROM a\nRUN x\0y\n",
        &expect![[r#"
        [
            "RUN x\0y",
        ]
    "#]],
    );
    check(
        b"FROM a\nENV A=\xff\xfe\n",
        &expect![[r#"
        [
            "ENV A=<?><?>",
        ]
    "#]],
    );
    // The O is a Cyrillic one.
    check(
        "FR\u{41e}M a\n",
        &expect![[r#"
        line 1: dockerfile parse error on line 1: unknown instruction: FRОM (did you mean FROM?)
    "#]],
    );
    check(
        "FROM a\nRUN echo \u{202e}x\n",
        &expect![[r#"
        [
            "RUN echo \u{202e}x",
        ]
    "#]],
    );
}

#[test]
fn sizes() {
    let line = |bytes: usize| format!("FROM a\nRUN {}\n", "x".repeat(bytes - 4));
    assert!(parse(line(LINE_BYTES_MAX).as_bytes()).is_ok());
    check(
        line(70_000),
        &expect![[r#"
        line 2: dockerfile parse error on line 2: dockerfile line greater than max allowed size of 65535
    "#]],
    );
    let hint = parse(line(70_000).as_bytes()).unwrap_err().hint().unwrap();
    assert!(hint.starts_with("break the line with a backslash"), "{hint}");
    let continued = format!(
        "FROM a\nRUN true{}\n",
        " \\\n && echo 0123456789 0123456789 0123456789 012345".repeat(3_000)
    );
    assert_eq!(parse(continued.as_bytes()).unwrap().stages[0].instructions[0].span.end_line, 3_002);
    let mut large = b"FROM a\n#".to_vec();
    large.resize(FILE_BYTES_MAX + 1, b'\n');
    check(
        &large,
        &expect![[r#"
        dockerfile parse error: dockerfile greater than max allowed size of 4194304
    "#]],
    );
    large.truncate(FILE_BYTES_MAX);
    assert!(parse(&large).is_ok());
    check(
        "",
        &expect![[r#"
        dockerfile parse error: the Dockerfile cannot be empty
    "#]],
    );
    check(
        "# a\n\n  # b\n",
        &expect![[r#"
        line 3: dockerfile parse error on line 3: file with no instructions
    "#]],
    );
    check(
        "FROM a\nRUN <<EOF\necho\n",
        &expect![[r#"
        line 2: dockerfile parse error on line 2: unterminated heredoc
    "#]],
    );
    check(
        "FROM a\nRUN <<EOF\necho\n EOF\n",
        &expect![[r#"
        line 2: dockerfile parse error on line 2: unterminated heredoc
    "#]],
    );
    check(
        "FROM a\n".to_owned() + &"LABEL a=b\n".repeat(INSTRUCTIONS_MAX),
        &expect![[r#"
        line 100001: dockerfile parse error on line 100001: dockerfile has more than 100000 instructions
    "#]],
    );
    check(
        "FROM a\n".repeat(STAGES_MAX + 1),
        &expect![[r#"
        line 10001: dockerfile parse error on line 10001: dockerfile has more than 10000 stages
    "#]],
    );
}
