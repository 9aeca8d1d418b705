//! Any word is expanded or refused, whatever the marks; what comes out is bounded.
#![no_main]

use dcbuild_dockerfile::limits::EXPANSION_BYTES_MAX;
use dcbuild_dockerfile::{
    Escape, EscapeMode, ExpandOptions, QuoteMode, UnsetMode, expand, expand_word, expand_words,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|word: &str| {
    let env = |name: &str| match name {
        "x" => Some("va*l/ue x".to_owned()),
        "e" => Some(String::new()),
        "b" => Some("a".repeat(1000)),
        _ => None,
    };
    for escape in [Escape::Backslash, Escape::Backtick] {
        for (quotes, escapes, unset) in [
            (QuoteMode::Keep, EscapeMode::Keep, UnsetMode::Keep),
            (QuoteMode::Strip, EscapeMode::Strip, UnsetMode::Empty),
            (QuoteMode::Keep, EscapeMode::Strip, UnsetMode::Empty),
        ] {
            let options = ExpandOptions { escape, quotes, escapes, unset };
            if let Ok(expanded) = expand(word, &env, options) {
                assert!(expanded.text.len() <= EXPANSION_BYTES_MAX);
            }
        }
        let _body = expand(word, &env, ExpandOptions::heredoc_body(escape));
        let _word = expand_word(word, &env, escape);
        let _words = expand_words(word, &env, escape);
    }
});
