//! Arbitrary text is parsed or refused, and never breaks the parser.

use dcbuild_dockerfile::{
    Escape, EscapeMode, ExpandOptions, InstructionKind, QuoteMode, Span, UnsetMode, excerpt,
    expand, expand_word, parse, parse_trigger,
};
use proptest::prelude::*;

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("FROM a\n".to_owned()),
        Just("RUN --mount=type=cache,\"".to_owned()),
        Just("COPY <<EOF <<-'B' /x\n".to_owned()),
        Just("EOF\n".to_owned()),
        Just("ONBUILD ".to_owned()),
        Just("HEALTHCHECK --interval=1.5h CMD [\"".to_owned()),
        Just("ENV a=b c=\"".to_owned()),
        Just("\\\n".to_owned()),
        Just("# escape=`\n".to_owned()),
        Just("${x:-${y#*}".to_owned()),
        "[\\PC\\n\\r\\t\u{0}]{0,12}",
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(piece(), 0..12).prop_map(|pieces| pieces.concat())
}

fn word() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("${"),
        Just("}"),
        Just("x"),
        Just(":-"),
        Just("//"),
        Just("##"),
        Just("%"),
        Just("*"),
        Just("\\"),
        Just("\""),
        Just("'"),
        Just("$"),
        Just("<<"),
        Just(" "),
        Just("é"),
    ];
    prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

fn mount() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("type="),
        Just("cache"),
        Just("secret"),
        Just("tmpfs"),
        Just("ssh"),
        Just(","),
        Just("\""),
        Just("target="),
        Just("/x"),
        Just("id="),
        Just("from="),
        Just("$x"),
        Just("mode=0999"),
        Just("uid=-1"),
        Just("size=9999999999t"),
        Just("sharing=locked"),
        Just("required"),
        Just("="),
    ];
    prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in text()) {
        if let Err(error) = parse(text.as_bytes()) {
            let _shown = error.span.map(|span| excerpt(&text, "Dockerfile", span));
            prop_assert!(!error.to_string().is_empty());
        }
        let _trigger = parse_trigger(&text);
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _outcome = parse(&bytes);
    }

    #[test]
    fn any_word_is_expanded_or_refused(word in word(), keep in any::<bool>()) {
        let env = |name: &str| (name == "x").then(|| "va*l/ue x".to_owned());
        for escape in [Escape::Backslash, Escape::Backtick] {
            let options = ExpandOptions {
                escape,
                quotes: if keep { QuoteMode::Keep } else { QuoteMode::Strip },
                escapes: if keep { EscapeMode::Keep } else { EscapeMode::Strip },
                unset: if keep { UnsetMode::Keep } else { UnsetMode::Empty },
            };
            let _outcome = expand(&word, &env, options);
            let _body = expand(&word, &env, ExpandOptions::heredoc_body(escape));
        }
    }

    #[test]
    fn words_without_marks_stay(word in "[a-zA-Z0-9_./:=-]{0,40}") {
        let text = dcbuild_dockerfile::expand_word(&word, &|_| None, Escape::Backslash);
        prop_assert_eq!(text, Ok(word));
    }

    #[test]
    fn excerpts_of_any_place_are_shown(text in text(), start in any::<u32>(), end in any::<u32>()) {
        let _shown = excerpt(&text, "Dockerfile", Span { start_line: start, end_line: end });
    }

    #[test]
    fn any_mount_is_typed_or_refused(flag in mount()) {
        let Ok(file) = parse(format!("FROM a\nRUN --mount={flag} x\n").as_bytes()) else { return Ok(()) };
        let InstructionKind::Run(run) = &file.stages[0].instructions[0].kind else { return Ok(()) };
        for mount in &run.mounts {
            let _mount = mount.resolve(&mut |text| expand_word(text, &|_| None, Escape::Backslash));
        }
    }
}
