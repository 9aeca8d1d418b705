//! `--call` and `--check`: what is asked of a Dockerfile instead of building it.

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use dcbuild_plan::Call;
use serde::Serialize;

use crate::FlagError;
use crate::csv;
use crate::parse::malformed;
use crate::variables::switch;

/// What is asked of a Dockerfile instead of building it, and how the answer is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallWanted {
    /// What is asked.
    pub call: Call,
    /// How the answer is printed.
    pub format: ReportFormat,
    /// Whether findings make the command fail.
    pub status: FindingStatus,
}

/// How a report is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReportFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Whether findings make the command fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FindingStatus {
    /// They do.
    Fail,
    /// Nobody wants to know.
    Ignore,
}

/// What `--call` means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Method {
    /// A build.
    #[default]
    Build,
    /// A question about the Dockerfile.
    Ask(CallWanted),
    /// Which methods there are, which needs no Dockerfile.
    Describe(ReportFormat),
}

impl Method {
    /// The question, if it is one about the Dockerfile.
    pub fn question(self) -> Option<CallWanted> {
        match self {
            Method::Ask(wanted) => Some(wanted),
            Method::Build | Method::Describe(_) => None,
        }
    }
}

/// Reads `--call=METHOD[,format=json][,ignorestatus=true]`, which `--check` is short for.
pub(crate) fn method(text: Option<&str>, check: bool) -> Result<Method, FlagError> {
    let text = match (text.filter(|text| !text.is_empty()), check) {
        (None, false) => return Ok(Method::Build),
        (None, true) => "check",
        (Some(text), _) => text,
    };
    let bad = |problem: String| malformed("call", text, problem, "--call=check,format=json");
    let (mut method, mut format, mut status) = (None, ReportFormat::Text, FindingStatus::Fail);
    for (key, value) in csv::pairs(text).ok_or_else(|| bad("a quote is not closed".into()))? {
        match (key.as_str(), value.as_deref()) {
            ("format", Some("json")) => format = ReportFormat::Json,
            ("format", Some("text" | "")) => format = ReportFormat::Text,
            ("format", Some(other)) => {
                return Err(bad(format!("'{other}' is no format (text or json)")));
            }
            ("ignorestatus", Some(value)) => {
                status = match switch(value) {
                    Some(true) => FindingStatus::Ignore,
                    Some(false) => FindingStatus::Fail,
                    None => {
                        return Err(bad(format!("'{value}' is no value of ignorestatus")));
                    }
                };
            }
            (key, Some(value)) => {
                return Err(bad(format!(
                    "'{key}={value}' is neither format=json nor ignorestatus="
                )));
            }
            (_, None) if method.is_some() => return Err(bad("it names two methods".into())),
            (name, None) => method = Some(name.to_owned()),
        }
    }
    let call = match method.as_deref() {
        None | Some("build") => return refuse_check(Method::Build, text, check),
        Some("subrequests.describe") => {
            return refuse_check(Method::Describe(format), text, check);
        }
        Some("check" | "lint") => Call::Check,
        Some("advice") => Call::Advice,
        Some("outline") => Call::Outline,
        Some("targets") => Call::Targets,
        Some(other) => {
            return Err(bad(format!(
                "'{other}' is none of build, check, advice, outline, targets and subrequests.describe"
            )));
        }
    };
    refuse_check(Method::Ask(CallWanted { call, format, status }), text, check)
}

/// Of `--check` and another method nobody knows which is meant.
fn refuse_check(method: Method, text: &str, check: bool) -> Result<Method, FlagError> {
    let checks = method.question().is_some_and(|wanted| wanted.call == Call::Check);
    if !check || checks {
        return Ok(method);
    }
    let instead = "--check is short for --call=check: leave one of them out";
    let second = format!("--call={text}");
    Err(FlagError::Conflict { first: "--check".into(), second, instead })
}

/// A method, as BuildKit's frontends describe theirs.
#[derive(Serialize)]
struct Described {
    name: &'static str,
    version: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    description: &'static str,
    opts: &'static [Part],
    inputs: Option<()>,
    metadata: &'static [Part],
    refs: Option<()>,
}

/// A named part of what a method takes or gives.
#[derive(Serialize)]
struct Part {
    name: &'static str,
    description: &'static str,
}

/// What each gives.
const RESULTS: &[Part] =
    &[Part { name: "result.json", description: "" }, Part { name: "result.txt", description: "" }];

const fn described(
    name: &'static str,
    description: &'static str,
    opts: &'static [Part],
) -> Described {
    Described {
        name,
        version: "1.0.0",
        kind: "rpc",
        description,
        opts,
        inputs: None,
        metadata: RESULTS,
        refs: None,
    }
}

/// How the names of frontends' methods begin, which people leave out.
const FRONTEND: &str = "frontend.";

const METHODS: [Described; 5] = [
    described(
        "frontend.outline",
        "List all parameters current build target supports",
        &[Part { name: "target", description: "Target build stage" }],
    ),
    described("frontend.targets", "List all targets current build supports", &[]),
    described("frontend.lint", "Lint a Dockerfile", &[]),
    described("frontend.advice", "Lint a Dockerfile, and say what could be smaller or safer", &[]),
    described("frontend.subrequests.describe", "List available subrequest types", &[]),
];

/// What `--call=subrequests.describe` prints.
pub fn describe(format: ReportFormat) -> String {
    if format == ReportFormat::Json {
        let text = serde_json::to_string_pretty(&METHODS);
        return text.expect("texts are always JSON") + "\n";
    }
    let mut out = String::new();
    let mut row = |name: &str, version: &str, about: &str| {
        // Writing to a string does not fail.
        let _written = writeln!(out, "{name:<20} {version:<7} {about}");
    };
    row("NAME", "VERSION", "DESCRIPTION");
    for Described { name, version, description, .. } in &METHODS {
        row(name.trim_start_matches(FRONTEND), version, description);
    }
    out
}
