//! Every golden case is built with the binary, and must come out as BuildKit's did.

use dcbuild_tests::golden::case::{families, read};
use dcbuild_tests::golden::run::{Open, check_family};

/// Cases that are open or differ on purpose: a family or a case, and the reason.
const OPEN: &Open = &[
    (
        "cmd-json-surrogate",
        "half a surrogate pair is no text: the array falls back to the shell form",
    ),
    (
        "multistage-named-context",
        "BuildKit adds a history line of its own for a base without a history",
    ),
];

macro_rules! families {
    ($($family:ident)*) => {
        const FAMILIES: &[&str] = &[$(stringify!($family)),*];
        $(#[test]
        fn $family() {
            check_family(stringify!($family), OPEN);
        })*
    };
}

families! {
    add arg chmod chown cmd copy copyfrom entrypoint env errors exclude expand expose healthcheck heredoc ignore label
    lex link mount multistage network onbuild parents runenv runfs shell stopsignal user volume workdir workdirfs
}

#[test]
fn every_family_is_tested_and_every_open_case_exists() {
    assert_eq!(families(), FAMILIES);
    for (word, _) in OPEN {
        let family = word.split('-').next().unwrap();
        let is_case = read(family).iter().any(|case| case.name == *word);
        assert!(is_case || word == &family, "there is no case {word}");
    }
}
