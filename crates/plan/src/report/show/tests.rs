//! The text and the JSON of a check.

use expect_test::expect;

use super::*;
use crate::lint::{Finding, Rule};
use crate::report::CheckError;

fn report() -> (Report, Request) {
    let finding = |rule, lines, detail: &str| Finding::new(rule, lines, detail);
    let findings = vec![
        finding(Rule::UndefinedVar, (3, 4), "Usage of undefined variable '$b'"),
        finding(Rule::StageNameCasing, (1, 1), "Stage name 'A' should be lowercase"),
    ];
    let request = Request::new("FROM scratch AS A\nUSER u\nCOPY \\\n $b /\nCMD [\"x\"]\n");
    (Report::Check(CheckReport { findings, error: None }), request)
}

#[test]
fn a_check_is_text_with_the_lines_that_are_meant() {
    let (report, request) = report();
    expect![[r#"
        Check complete, 2 warnings have been found!

        WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/
        Stage name 'A' should be lowercase
        Dockerfile:1
        --------------------
           1 | >>> FROM scratch AS A
           2 |     USER u
           3 |     COPY \
        --------------------

        WARNING: UndefinedVar - https://docs.docker.com/go/dockerfile/rule/undefined-var/
        Usage of undefined variable '$b'
        Dockerfile:3
        --------------------
           2 |     USER u
           3 | >>> COPY \
           4 | >>>  $b /
           5 |     CMD ["x"]
        --------------------
    "#]]
    .assert_eq(&text(&report, &request));
    let clean = Report::Check(CheckReport::default());
    assert_eq!(text(&clean, &request), "Check complete, no warnings found.\n");
    let error = CheckError { message: "bad".into(), lines: None, hint: None };
    let failed = Report::Check(CheckReport { findings: Vec::new(), error: Some(error) });
    assert_eq!(text(&failed, &request), "");
}

#[test]
fn a_check_is_json() {
    let (report, request) = report();
    let value: Value = serde_json::from_str(&json(&report, &request)).unwrap();
    let first = json!({
        "ruleName": "UndefinedVar",
        "description": "Variables should be defined before their use",
        "url": "https://docs.docker.com/go/dockerfile/rule/undefined-var/",
        "detail": "Usage of undefined variable '$b'",
        "location": { "ranges": [{ "start": { "line": 3 }, "end": { "line": 4 } }] },
    });
    assert_eq!(value["warnings"][0], first);
    assert_eq!(value["sources"][0]["filename"], "Dockerfile");
    assert_eq!(value["sources"][0]["data"], STANDARD.encode(&request.dockerfile));
    assert_eq!(value.get("buildError"), None);
    let error = CheckError { message: "bad".into(), lines: Some((2, 2)), hint: None };
    let failed = Report::Check(CheckReport { findings: Vec::new(), error: Some(error) });
    let value: Value = serde_json::from_str(&json(&failed, &request)).unwrap();
    assert_eq!(value["buildError"]["message"], "bad");
    assert_eq!(value["buildError"]["location"]["ranges"][0]["start"]["line"], 2);
}
