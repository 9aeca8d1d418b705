//! Expansion held against the golden cases whose outcome is labels, variables or a refusal.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dcbuild_dockerfile::{
    ArgInstruction, Dockerfile, ExpandError, InstructionKind, Word, expand_word, parse,
};
use serde_json::Value;

type Vars = BTreeMap<String, String>;

struct Outcome {
    labels: Vars,
    env: Vars,
}

/// Runs a file of one stage that holds nothing but ARG, ENV and LABEL; other files are passed over.
fn run(file: &Dockerfile, build_args: &Vars) -> Option<Result<Outcome, ExpandError>> {
    let [stage] = file.stages.as_slice() else { return None };
    let simple = stage.instructions.iter().all(|instruction| {
        matches!(
            instruction.kind,
            InstructionKind::Arg(_) | InstructionKind::Env(_) | InstructionKind::Label(_)
        )
    });
    (simple && stage.base.as_str() == "busybox:golden").then(|| evaluate(file, build_args))
}

fn evaluate(file: &Dockerfile, build_args: &Vars) -> Result<Outcome, ExpandError> {
    let mut globals = Vars::new();
    let none = Vars::new();
    for arg in &file.global_args {
        declare(arg, file, (build_args, &none), &mut globals)?;
    }
    let mut args = Vars::new();
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    let mut outcome = Outcome { labels: Vars::new(), env: Vars::from([("PATH".to_owned(), path)]) };
    for instruction in &file.stages.first().unwrap().instructions {
        let mut scope = outcome.env.clone();
        scope.extend(args.clone());
        let expanded = |word: &Word| {
            expand_word(word.as_str(), &|name| scope.get(name).cloned(), file.escape())
        };
        match &instruction.kind {
            InstructionKind::Arg(arg) => {
                let mut seen = scope.clone();
                declare(arg, file, (build_args, &globals), &mut seen)?;
                for declaration in &arg.declarations {
                    let name = declaration.name.as_str();
                    if let Some(value) = seen.get(name) {
                        args.insert(name.to_owned(), value.clone());
                    }
                }
            }
            InstructionKind::Env(pairs) => {
                for pair in pairs {
                    let (key, value) = (expanded(&pair.key)?, expanded(&pair.value)?);
                    args.remove(&key);
                    outcome.env.insert(key, value);
                }
            }
            InstructionKind::Label(pairs) => {
                for pair in pairs {
                    outcome.labels.insert(expanded(&pair.key)?, expanded(&pair.value)?);
                }
            }
            _ => {}
        }
    }
    Ok(outcome)
}

fn declare(
    arg: &ArgInstruction,
    file: &Dockerfile,
    (build_args, globals): (&Vars, &Vars),
    scope: &mut Vars,
) -> Result<(), ExpandError> {
    for declaration in &arg.declarations {
        let name = declaration.name.as_str();
        let default = match &declaration.default {
            Some(word) => {
                let lookup = |name: &str| scope.get(name).cloned();
                Some(expand_word(word.as_str(), &lookup, file.escape())?)
            }
            None => globals.get(name).cloned(),
        };
        if let Some(value) = build_args.get(name).cloned().or(default) {
            scope.insert(name.to_owned(), value);
        }
    }
    Ok(())
}

fn texts(value: &Value) -> Vars {
    let pairs = value.as_object().into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn env(value: &Value) -> Vars {
    let pairs = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    pairs
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

#[test]
fn expansion_agrees_with_the_golden_cases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/cases");
    let (mut checked, mut bad) = (0, Vec::new());
    for family in ["expand", "arg", "env", "label", "lex", "errors"] {
        let text = fs::read_to_string(folder.join(format!("{family}.jsonl"))).unwrap();
        for case in text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
            let Some(source) = case["dockerfile"].as_str() else { continue };
            let Ok(file) = parse(source.as_bytes()) else { continue };
            if case["platform"].is_string()
                || source.contains("TARGET")
                || source.to_lowercase().contains("platform")
                || case["filename"].is_string()
            {
                continue;
            }
            let Some(outcome) = run(&file, &texts(&case["build_args"])) else { continue };
            let (config, error) = (&case["expect"]["config"], case["expect"]["error"].as_str());
            checked += 1;
            match (outcome, error) {
                (Ok(outcome), None) => {
                    let labels = texts(&config["Labels"]);
                    if outcome.labels != labels {
                        bad.push(format!("{}: {:?}, not {labels:?}", case["name"], outcome.labels));
                    }
                    let vars = env(&config["Env"]);
                    if outcome.env != vars {
                        bad.push(format!("{}: {:?}, not {vars:?}", case["name"], outcome.env));
                    }
                }
                (Err(found), Some(error)) => {
                    let reason = found.kind.to_string();
                    if !error.contains(&reason) {
                        bad.push(format!("{}: {reason:?}, not {error:?}", case["name"]));
                    }
                }
                (Ok(_), Some(error)) => bad.push(format!("{}: passes, not {error}", case["name"])),
                (Err(found), None) => bad.push(format!("{}: {found}", case["name"])),
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(checked > 100, "{checked}");
}
