//! `dcbuild doctor`: tries what builds will need, and says what is wrong and the way out.

mod cluster;
mod machine;

use std::process::ExitCode;

use crate::args::Doctor;
use crate::build::App;
use crate::say;
use crate::state::Format;

/// How something was found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Verdict {
    Well,
    Skipped,
    /// Builds work, but not as well as they could.
    Warning,
    /// Some builds will fail.
    Wrong,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Well => "ok",
            Verdict::Skipped => "skipped",
            Verdict::Warning => "warning",
            Verdict::Wrong => "wrong",
        }
    }
}

/// One thing that was tried.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Finding {
    /// What it is about, such as `store`.
    part: &'static str,
    verdict: Verdict,
    words: String,
    /// The way out.
    hint: Option<String>,
}

impl Finding {
    fn new(part: &'static str, verdict: Verdict, words: impl Into<String>) -> Finding {
        Finding { part, verdict, words: words.into(), hint: None }
    }

    fn well(part: &'static str, words: impl Into<String>) -> Finding {
        Finding::new(part, Verdict::Well, words)
    }

    fn warning(part: &'static str, words: impl Into<String>) -> Finding {
        Finding::new(part, Verdict::Warning, words)
    }

    fn wrong(part: &'static str, words: impl Into<String>) -> Finding {
        Finding::new(part, Verdict::Wrong, words)
    }

    fn hint(self, hint: impl Into<String>) -> Finding {
        Finding { hint: Some(hint.into()), ..self }
    }
}

/// Looks at everything; fails if something is wrong.
pub(crate) async fn doctor(app: &App, flags: Doctor) -> anyhow::Result<ExitCode> {
    let mut findings = machine::look(app).await;
    findings.extend(machine::credentials(app).await);
    findings.extend(cluster::look(app, &flags).await);
    say(&match flags.format {
        Format::Text => text(&findings),
        Format::Json => json(&findings),
    })?;
    let wrong = findings.iter().any(|finding| finding.verdict == Verdict::Wrong);
    Ok(if wrong { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { part, verdict, words, hint } in findings {
        text.push_str(&format!("{:<8} {part:<12} {words}\n", verdict.word()));
        if let Some(hint) = hint {
            text.push_str(&format!("{:<21} hint: {hint}\n", ""));
        }
    }
    let count = |verdict| findings.iter().filter(|it| it.verdict == verdict).count();
    let (wrong, warnings) = (count(Verdict::Wrong), count(Verdict::Warning));
    text.push_str(&match (wrong, warnings) {
        (0, 0) => "all is well\n".to_owned(),
        (0, _) => format!("builds work; warnings: {warnings}\n"),
        _ => format!("something is wrong: {wrong}; warnings: {warnings}\n"),
    });
    text
}

fn json(findings: &[Finding]) -> String {
    let rows: Vec<serde_json::Value> = findings
        .iter()
        .map(|Finding { part, verdict, words, hint }| {
            serde_json::json!({
                "part": part, "verdict": verdict.word(), "message": words, "hint": hint,
            })
        })
        .collect();
    let worst = findings.iter().map(|finding| finding.verdict).max();
    let ok = worst != Some(Verdict::Wrong);
    format!("{}\n", serde_json::json!({ "ok": ok, "findings": rows }))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn findings_are_printed_for_people_and_for_programs() {
        let findings = [
            Finding::well("state", "/s can be written"),
            Finding::wrong("store", "could not list the bucket").hint("create it"),
            Finding::warning("index", "maxmemory is not set"),
        ];
        expect![[r#"
            ok       state        /s can be written
            wrong    store        could not list the bucket
                                  hint: create it
            warning  index        maxmemory is not set
            something is wrong: 1; warnings: 1
        "#]]
        .assert_eq(&text(&findings));
        assert_eq!(text(&findings[..1]).lines().last(), Some("all is well"));
        let json: serde_json::Value = serde_json::from_str(&json(&findings)).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["findings"][1]["hint"], "create it");
        assert_eq!(json["findings"][0]["hint"], serde_json::Value::Null);
    }
}
