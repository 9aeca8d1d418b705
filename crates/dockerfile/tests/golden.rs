//! Every golden case, as far as parsing alone can tell.
#![expect(clippy::unwrap_used, reason = "test")]

use std::fs;
use std::path::Path;

use dcbuild_dockerfile::{InstructionKind, ParseErrorKind, parse};
use serde_json::Value;

/// Words of errors that the reference parser reports without naming a line in the text.
const PARSE_ERRORS: &[&str] = &[
    "dockerfile parse error",
    "must have two arguments",
    "can't find = in",
    "arrays must be comprised of strings only",
    "no build stage in current context",
    "dockerfile contains no stages",
    "unterminated heredoc",
    "file with no instructions",
    "the Dockerfile cannot be empty",
    "invalid escape token",
    "failed to parse check options",
    "dockerfile line greater",
];

/// Words that may differ: other suggestions, and Go's own texts.
const OTHER_WORDS: &[&str] = &["errors-misspelt-instruction", "healthcheck-retries-text"];

/// BuildKit names the line before the one that is too long.
fn has_other_line(case: &Value) -> bool {
    case["name"] == "lex-long-line"
}

fn cases() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/cases");
    let mut paths: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let texts = paths.iter().map(|path| fs::read_to_string(path).unwrap());
    texts
        .flat_map(|text| {
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
        })
        .collect()
}

fn verdict(case: &Value) -> Result<(), String> {
    let text = case["dockerfile"].as_str().unwrap();
    let error = case["expect"]["error"].as_str();
    let expected = error.filter(|error| PARSE_ERRORS.iter().any(|known| error.contains(known)));
    match (parse(text.as_bytes()), expected) {
        (Ok(_), None) => Ok(()),
        (Ok(_), Some(error)) => Err(format!("parses, but should fail with: {error}")),
        (Err(found), None) => Err(format!("fails with: {found}; expected {error:?}")),
        (Err(found), Some(error)) => {
            let line = case["expect"]["line"].as_u64();
            if line.is_some() && line != found.line().map(u64::from) && !has_other_line(case) {
                return Err(format!("fails on line {:?}, not {line:?}: {found}", found.line()));
            }
            let other_words = OTHER_WORDS.iter().any(|name| case["name"] == *name);
            if !other_words && !error.contains(&found.kind.to_string()) {
                return Err(format!("says {found:?}, not {error:?}"));
            }
            Ok(())
        }
    }
}

#[test]
fn parsing_agrees_with_the_golden_cases() {
    let cases = cases();
    assert!(cases.len() > 1_000);
    let bad: Vec<String> = cases
        .iter()
        .filter(|case| case["dockerfile"].is_string())
        .filter_map(|case| verdict(case).err().map(|why| format!("{}: {why}", case["name"])))
        .collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn triggers_parse_where_they_are_sound() {
    let mut triggers = 0;
    for case in cases() {
        let Some(text) = case["dockerfile"].as_str() else { continue };
        let Ok(file) = parse(text.as_bytes()) else { continue };
        for instruction in file.stages.into_iter().flat_map(|stage| stage.instructions) {
            let InstructionKind::Onbuild(onbuild) = instruction.kind else { continue };
            triggers += 1;
            let trigger = onbuild.trigger();
            assert!(
                !matches!(
                    trigger,
                    Err(ref error) if error.kind == ParseErrorKind::UnterminatedHeredoc
                ),
                "{}",
                case["name"]
            );
        }
    }
    assert!(triggers > 10);
}
