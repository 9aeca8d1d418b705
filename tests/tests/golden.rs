//! Every golden case is built with the binary, and must come out as BuildKit's did.

use dcbuild_tests::golden::case::{families, read};
use dcbuild_tests::golden::run::{Builder, Open, check_family};

/// Cases that are open or differ on purpose: a family or a case, and the reason.
const OPEN: &Open = &[
    ("lex-long-line", "on purpose: BuildKit names the line before the one that is too long"),
    (
        "errors-run-exec-is-dir",
        "on purpose: a program that cannot be started ends with the shell's codes, 126 and 127",
    ),
    (
        "errors-run-exec-not-executable",
        "on purpose: a program that cannot be started ends with the shell's codes, 126 and 127",
    ),
    (
        "errors-run-exec-not-found",
        "on purpose: a program that cannot be started ends with the shell's codes, 126 and 127",
    ),
    (
        "multistage-scratch-run",
        "on purpose: a program that cannot be started ends with the shell's codes, 126 and 127",
    ),
    (
        "runfs-fail-exec-not-found",
        "on purpose: a program that cannot be started ends with the shell's codes, 126 and 127",
    ),
    (
        "runfs-fail-not-executable",
        "on purpose: a program that cannot be started ends with the shell's codes, 126 and 127",
    ),
    ("runfs-hard-link-made", "on purpose: hard links that a RUN makes stay hard links"),
    ("runfs-hard-link-symlink", "on purpose: hard links that a RUN makes stay hard links"),
    ("runfs-hard-link-to-base-file", "on purpose: hard links that a RUN makes stay hard links"),
    ("runfs-hard-link-to-busybox", "on purpose: hard links that a RUN makes stay hard links"),
    (
        "runfs-rename-over-existing",
        "on purpose: BuildKit misses that files of one size and time changed places",
    ),
    (
        "runfs-swap-names",
        "on purpose: BuildKit misses that files of one size and time changed places",
    ),
    ("runfs-dir-touched-only", "on purpose: a folder whose time a RUN sets keeps it"),
    (
        "runfs-name-wh-prefix",
        "on purpose: a name that would act as a whiteout is refused, not lost",
    ),
    (
        "cmd-json-surrogate",
        "on purpose: half a surrogate pair is no text: the array falls back to the shell form",
    ),
    (
        "multistage-named-context",
        "on purpose: BuildKit adds a history line of its own for a base without a history",
    ),
];

macro_rules! families {
    ($($family:ident)*) => {
        const FAMILIES: &[&str] = &[$(stringify!($family)),*];
        $(#[test]
        fn $family() {
            check_family(stringify!($family), OPEN, Builder::Machine);
        })*
    };
}

families! {
    add arg chmod chown cmd copy copyfrom entrypoint env errors exclude expand expose healthcheck heredoc ignore label
    lex link mount multistage network onbuild parents runenv runfs shell stopsignal user volume workdir workdirfs
}

/// On a cluster, what a step reads is cut out of the context and of stages, sent, and put together elsewhere.
mod on_a_cluster {
    use super::{Builder, OPEN, check_family};

    macro_rules! families {
        ($($family:ident)*) => {
            $(#[test]
            fn $family() {
                check_family(stringify!($family), OPEN, Builder::Cluster);
            })*
        };
    }

    families! { add copy copyfrom exclude link mount parents }
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
