//! Compares a failed build with what a case expects: that it fails, where, and how a process ended.

use crate::golden::case::Case;

/// How the failure differs from what the case expects; none where it does not.
pub fn difference(case: &Case, stderr: &str) -> Option<String> {
    let Some(wanted) = case.expect["error"].as_str() else {
        return Some(format!("  failed: {}\n", last_words(stderr)));
    };
    let mut out = String::new();
    let (first, last) = marked_lines(stderr);
    if let Some(line) = case.expect["line"].as_u64() {
        match (first, last) {
            (Some(first), Some(last)) if (first..=last).contains(&line) => {}
            (Some(first), Some(last)) => {
                out.push_str(&format!("  fails at lines {first} to {last} instead of {line}\n"));
            }
            _ => out.push_str(&format!("  does not say that it fails at line {line}\n")),
        }
    }
    if let Some(code) = exit_code(wanted)
        && exit_code(stderr) != Some(code)
    {
        out.push_str(&format!("  does not say that the exit code was {code}\n"));
    }
    (!out.is_empty())
        .then(|| format!("{out}  BuildKit: {wanted}\n  dcbuild: {}\n", last_words(stderr)))
}

fn last_words(stderr: &str) -> String {
    let error = stderr.rfind("error:").map_or(stderr, |place| &stderr[place..]);
    error.trim_end().replace('\n', "\n    ")
}

/// The lines marked with `>>>` in the last excerpt, or else the line of a `FILE:LINE` header.
pub(crate) fn marked_lines(stderr: &str) -> (Option<u64>, Option<u64>) {
    let marked: Vec<u64> = stderr
        .lines()
        .filter_map(|line| line.split_once(" | >>>"))
        .filter_map(|(number, _)| number.trim().parse().ok())
        .collect();
    if let (Some(first), Some(last)) = (marked.first(), marked.last()) {
        return (Some(*first), Some(*last));
    }
    let header = stderr.lines().rev().find_map(|line| {
        let (file, number) = line.rsplit_once(':')?;
        let number = number.parse().ok()?;
        (!file.contains(' ')).then_some(number)
    });
    (header, header)
}

/// The number after the last `exit code`.
fn exit_code(text: &str) -> Option<u32> {
    let (_, after) = text.rsplit_once("exit code")?;
    let after = after.trim_start_matches([':', ' ']);
    let end = after.find(|ch: char| !ch.is_ascii_digit()).unwrap_or(after.len());
    after[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    const STDERR: &str = "\
Dockerfile:2
--------------------
   1 |     FROM a
   2 | >>> RUN b \\
   3 | >>>   c
--------------------
error: the command of [2/2] RUN b c ended with exit code 42
caused by: it
";

    fn check(expect: serde_json::Value, stderr: &str, expected: &Expect) {
        let case = json!({ "name": "c", "dockerfile": "", "expect": expect });
        let case: Case = serde_json::from_value(case).unwrap();
        let found = difference(&case, stderr).map(|text| format!("differs\n{text}"));
        expected.assert_eq(&found.unwrap_or_default());
    }

    #[test]
    fn line_and_exit_code_must_agree() {
        let wanted = "did not complete successfully: exit code: 42";
        check(json!({ "error": wanted, "line": 3 }), STDERR, &expect![""]);
        check(json!({ "error": "x", "line": 7 }), "other:7\nerror: no\n", &expect![""]);
        check(
            json!({ "error": "exit code: 1", "line": 4 }),
            STDERR,
            &expect![[r#"
                differs
                  fails at lines 2 to 3 instead of 4
                  does not say that the exit code was 1
                  BuildKit: exit code: 1
                  dcbuild: error: the command of [2/2] RUN b c ended with exit code 42
                    caused by: it
            "#]],
        );
    }

    #[test]
    fn a_failure_may_be_wrong() {
        let expected = expect![[r#"
            differs
              failed: error: no
        "#]];
        check(json!({ "config": {} }), "error: no\n", &expected);
    }
}
