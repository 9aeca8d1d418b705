//! Some hundred Dockerfiles in the styles that people write: each parses and plans, and its stages, config and warnings
//! are those that stand below it.
//!
//! The cases stand in `cases/*.txt`. A case begins with a line `===== name option ...`, then comes the Dockerfile, and
//! behind the line `-----` what it plans to. `UPDATE_EXPECT=1` writes that part again. Options are `target=STAGE`,
//! `platform=OS/ARCH`, `arg:NAME=VALUE`, `label:NAME=VALUE`, `context:NAME=folder` or `=IMAGE`, and for what a text file
//! does not show, `crlf`, `bom`, `no-final-newline` and `trailing-spaces`.
#![expect(clippy::unwrap_used, reason = "test")]

mod bases;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use dcbuild_dockerfile::parse;
use dcbuild_model::{Digest, SelectionDigest};
use dcbuild_plan::{ContextSource, Need, Plan, PlanError, Planned, Request, Sources, plan, show};
use expect_test::expect_file;
use serde_json::Value;

const CASE: &str = "===== ";
const PLANNED: &str = "-----\n";

/// One case as it stands in its file.
struct Case<'a> {
    /// The first line behind its mark.
    head: &'a str,
    dockerfile: &'a str,
}

impl<'a> Case<'a> {
    fn read(text: &'a str) -> Case<'a> {
        let (head, rest) = text.split_once('\n').unwrap();
        let dockerfile = rest.split_once(PLANNED).map_or(rest, |(dockerfile, _)| dockerfile);
        Case { head, dockerfile }
    }

    fn name(&self) -> &'a str {
        self.head.split(' ').next().unwrap()
    }

    fn request(&self) -> Request {
        let mut request = Request::new("");
        request.build_platform = "linux/amd64".parse().unwrap();
        let mut text = self.dockerfile.to_owned();
        for option in self.head.split(' ').skip(1) {
            match option {
                "crlf" => text = text.replace('\n', "\r\n"),
                "bom" => text.insert(0, '\u{feff}'),
                "no-final-newline" => text.truncate(text.trim_end_matches('\n').len()),
                "trailing-spaces" => text = text.replace("\\\n", "\\ \t\n"),
                option => set(&mut request, option),
            }
        }
        request.dockerfile = text;
        request
    }
}

fn set(request: &mut Request, option: &str) {
    let (key, value) = option.split_once('=').unwrap();
    match key.split_once(':') {
        Some(("arg", name)) => {
            request.build_args.insert(name.into(), value.into());
        }
        Some(("label", name)) => {
            request.labels.insert(name.into(), value.into());
        }
        Some(("context", name)) => {
            let source = match value {
                "folder" => ContextSource::Folder {},
                image => ContextSource::DockerImage { reference: image.into() },
            };
            request.contexts.insert(name.into(), source);
        }
        None if key == "target" => request.target = Some(value.into()),
        None if key == "platform" => request.platforms = vec![value.parse().unwrap()],
        _ => panic!("'{option}' is no option of a case"),
    }
}

fn planned(request: &Request) -> Result<Plan, PlanError> {
    let mut sources = Sources::default();
    for _ in 0..100 {
        match plan(request, &sources)? {
            Planned::Ready(plan) => return Ok(*plan),
            Planned::Lacks(needs) => {
                for need in needs {
                    answer(need, &mut sources);
                }
            }
        }
    }
    panic!("the plan asks for ever");
}

fn answer(need: Need, sources: &mut Sources) {
    match need {
        Need::Verdict(_) | Need::Remote(_) => panic!("there is no policy of a client"),
        Need::Image { reference, platform } => {
            let image = bases::image(&reference, &platform);
            sources.images.insert((reference, platform), Ok(image));
        }
        Need::Selection { context, selection } => {
            let digest = SelectionDigest(Digest::of(format!("{selection:?}").as_bytes()));
            sources.selections.insert((context, selection), Ok(digest));
        }
    }
}

/// What is said of a case below it.
fn told(request: &Request) -> String {
    match planned(request) {
        Ok(plan) => shown(&plan),
        Err(error) => match error.lines() {
            Some((line, _)) => format!("error at line {line}: {error}\n"),
            None => format!("error: {error}\n"),
        },
    }
}

fn shown(plan: &Plan) -> String {
    let mut out = String::new();
    for stage in &plan.stages {
        let steps = plan.steps.iter().filter(|step| step.stage == stage.index).count();
        writeln!(out, "stage {} on {}: {steps} steps", stage.name, stage.base).unwrap();
    }
    let image: BTreeMap<String, Value> =
        serde_json::from_str(&plan.images[0].template.config).unwrap();
    let platform = plan.images[0].template.platform.to_string();
    if platform != "linux/amd64" {
        writeln!(out, "platform {platform}").unwrap();
    }
    if let Some(author) = image.get("author") {
        writeln!(out, "author {author}").unwrap();
    }
    for (key, value) in image["config"].as_object().unwrap() {
        match value {
            Value::Array(items) if key == "Env" => {
                for item in items {
                    writeln!(out, "Env {}", item.as_str().unwrap().replace('\n', "\\n")).unwrap();
                }
            }
            Value::Object(fields) if key != "Healthcheck" => {
                for (name, value) in fields {
                    let value = if value.is_string() { format!(" {value}") } else { String::new() };
                    writeln!(out, "{key} {name}{value}").unwrap();
                }
            }
            value => writeln!(out, "{key} {value}").unwrap(),
        }
    }
    let layers = plan.images[0].template.history.iter().filter(|line| line.step.is_some()).count();
    writeln!(out, "history {} ({layers} layers)", plan.images[0].template.history.len()).unwrap();
    for finding in &plan.findings {
        writeln!(out, "warning {} (line {})", finding.rule.name(), finding.lines.0).unwrap();
    }
    for note in &plan.notes {
        writeln!(out, "note {note}").unwrap();
    }
    out
}

/// The files of cases, in order of their names.
fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/cases");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn cases(text: &str) -> Vec<Case<'_>> {
    let begins = text.match_indices(CASE).map(|(at, _)| at);
    let begins: Vec<usize> =
        begins.filter(|at| *at == 0 || text[..*at].ends_with('\n')).chain([text.len()]).collect();
    assert_eq!(begins.first(), Some(&0), "a file begins with a case");
    let each = begins.windows(2).map(|ends| &text[ends[0] + CASE.len()..ends[1]]);
    each.map(Case::read).collect()
}

#[test]
fn each_case_plans_to_what_stands_below_it() {
    let mut names = BTreeSet::new();
    for file in files() {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut found = String::new();
        for case in cases(&text) {
            assert!(names.insert(case.name().to_owned()), "two cases are called {}", case.name());
            let told = told(&case.request());
            let parting = if found.is_empty() { "" } else { "\n" };
            let Case { head, dockerfile } = case;
            write!(found, "{parting}{CASE}{head}\n{dockerfile}{PLANNED}{told}").unwrap();
        }
        expect_file![file].assert_eq(&found);
    }
    assert!(names.len() >= 200, "only {} cases were found", names.len());
}

/// A file that is cut off at any line is read as far as it goes, and planned or refused.
#[test]
fn each_beginning_of_a_case_is_planned_or_refused() {
    for file in files() {
        let text = std::fs::read_to_string(&file).unwrap();
        for case in cases(&text) {
            let whole = case.request();
            let ends = whole.dockerfile.match_indices('\n').map(|(at, _)| at);
            for end in ends.flat_map(|end| [end, end + 1]) {
                let part = &whole.dockerfile[..end];
                let parsed = parse(part.as_bytes());
                let request = Request { dockerfile: part.into(), target: None, ..whole.clone() };
                match planned(&request) {
                    Ok(plan) => assert!(parsed.is_ok() && !show::text(&plan).is_empty()),
                    Err(error) => assert!(!error.to_string().is_empty()),
                }
            }
        }
    }
}
