//! The recorded cases of COPY, ADD, WORKDIR and `.dockerignore`, as far as no shell and no network is needed.
#![expect(clippy::unwrap_used, reason = "test")]

#[path = "golden/case.rs"]
mod case;
#[path = "golden/run.rs"]
mod run;
#[path = "golden/shell.rs"]
mod shell;

use std::path::Path;

use case::Case;

const FAMILIES: &[&str] = &[
    "add",
    "chmod",
    "chown",
    "copy",
    "copyfrom",
    "exclude",
    "ignore",
    "link",
    "parents",
    "workdirfs",
];

/// At least so many of the cases can be run here; a smaller number means that the reading broke.
const RUN_MIN: usize = 290;

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/cases");
    let mut cases = Vec::new();
    for family in FAMILIES {
        let path = folder.join(format!("{family}.jsonl"));
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("could not read {}: {error}", path.display()));
        cases.extend(text.lines().map(Case::read));
    }
    cases
}

#[test]
fn copies_are_what_buildkit_makes_of_them() {
    let mut ran = 0;
    let mut skipped = Vec::new();
    let mut wrong = Vec::new();
    for case in cases() {
        match run::run(&case) {
            Err(run::Stop::Unsupported(reason)) => skipped.push(format!("{}: {reason}", case.name)),
            outcome => {
                ran += 1;
                if let Some(difference) = case.difference(outcome) {
                    wrong.push(format!("{}\n{}\n{difference}", case.name, case.dockerfile));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {ran} differ:\n\n{}", wrong.len(), wrong.join("\n"));
    assert!(ran >= RUN_MIN, "only {ran} ran; not run:\n{}", skipped.join("\n"));
}
