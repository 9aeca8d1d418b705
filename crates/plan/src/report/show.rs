//! Reports as people and programs read them: the text and the JSON of `docker buildx build --call`.

#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dcbuild_dockerfile::{Span, excerpt};
use serde_json::{Map, Value, json};

use super::{CheckReport, Outline, OutlineMount, Report, Targets};
use crate::lint::Finding;
use crate::request::Request;

/// A report as people read it; the error of a check is left to who prints errors.
pub fn text(report: &Report, request: &Request) -> String {
    match report {
        Report::Check(report) => check_text(report, request),
        Report::Outline(outline) => outline_text(outline),
        Report::Targets(targets) => targets_text(targets),
    }
}

/// A report as programs read it.
pub fn json(report: &Report, request: &Request) -> String {
    let value = match report {
        Report::Check(report) => check_json(report, request),
        Report::Outline(outline) => outline_json(outline, request),
        Report::Targets(targets) => targets_json(targets, request),
    };
    let mut text = serde_json::to_string_pretty(&value).expect("texts and numbers are always JSON");
    text.push('\n');
    text
}

fn check_text(report: &CheckReport, request: &Request) -> String {
    let mut findings: Vec<&Finding> = report.findings.iter().collect();
    findings.sort_by_key(|finding| finding.lines.0);
    let mut out = match (findings.len(), &report.error) {
        (0, None) => "Check complete, no warnings found.\n".to_owned(),
        (0, Some(_)) => String::new(),
        (1, _) => "Check complete, 1 warning has been found!\n".to_owned(),
        (count, _) => format!("Check complete, {count} warnings have been found!\n"),
    };
    for finding in findings {
        let url = finding.rule.url().map(|url| format!(" - {url}")).unwrap_or_default();
        let (start_line, end_line) = finding.lines;
        let span = Span { start_line, end_line };
        out.push_str(&format!("\nWARNING: {}{url}\n{}\n", finding.rule.name(), finding.detail));
        out.push_str(&excerpt(&request.dockerfile, &request.filename, span));
    }
    out
}

fn outline_text(outline: &Outline) -> String {
    let mut out = String::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let name = if outline.name.is_empty() { "(default)" } else { &outline.name };
        let mut rows = vec![vec!["TARGET:", name]];
        if !outline.description.is_empty() {
            rows.push(vec!["DESCRIPTION:", &outline.description]);
        }
        out.push_str(&table(&rows, 1));
        out.push('\n');
    }
    if !outline.args.is_empty() {
        let mut rows = vec![vec!["BUILD ARG", "VALUE", "DESCRIPTION"]];
        rows.extend(
            outline
                .args
                .iter()
                .map(|arg| vec![arg.name.as_str(), arg.value.as_str(), arg.description.as_str()]),
        );
        out.push_str(&table(&rows, 3));
        out.push('\n');
    }
    for (title, mounts) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if mounts.is_empty() {
            continue;
        }
        let mut rows = vec![vec![title, "REQUIRED"]];
        rows.extend(
            mounts
                .iter()
                .map(|mount| vec![mount.name.as_str(), if mount.required { "true" } else { "" }]),
        );
        out.push_str(&table(&rows, 3));
        out.push('\n');
    }
    out
}

fn targets_text(targets: &Targets) -> String {
    let names: Vec<String> = targets
        .targets
        .iter()
        .enumerate()
        .map(|(index, target)| match (target.name.as_str(), index + 1 == targets.targets.len()) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        })
        .collect();
    let mut rows = vec![vec!["TARGET", "DESCRIPTION"]];
    rows.extend(
        names.iter().zip(&targets.targets).map(|(name, it)| vec![name.as_str(), &it.description]),
    );
    table(&rows, 1)
}

/// Rows whose columns, but for the last, are as wide as their widest cell and a gap.
fn table(rows: &[Vec<&str>], gap: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0) + gap
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = if column + 1 == row.len() { 0 } else { widths[column] };
            out.push_str(&format!("{cell:<width$}"));
        }
        out.push('\n');
    }
    out
}

/// The place of something in the one source of a report.
fn location((start, end): (u32, u32)) -> Value {
    json!({ "ranges": [{ "start": { "line": start }, "end": { "line": end } }] })
}

fn data(request: &Request) -> String {
    STANDARD.encode(&request.dockerfile)
}

fn check_json(report: &CheckReport, request: &Request) -> Value {
    let warning = |finding: &Finding| {
        let mut warning = Map::new();
        warning.insert("ruleName".into(), finding.rule.name().into());
        warning.insert("description".into(), finding.rule.about().into());
        if let Some(url) = finding.rule.url() {
            warning.insert("url".into(), url.into());
        }
        warning.insert("detail".into(), finding.detail.as_str().into());
        warning.insert("location".into(), location(finding.lines));
        if let Some(bytes) = finding.saved_bytes {
            warning.insert("savedBytes".into(), bytes.into());
        }
        Value::Object(warning)
    };
    let warnings: Vec<Value> = report.findings.iter().map(warning).collect();
    let source = json!({
        "filename": request.filename, "data": data(request), "language": "Dockerfile",
    });
    let mut value = json!({ "warnings": warnings, "sources": [source] });
    if let Some(error) = &report.error {
        let location = error.lines.map_or_else(|| json!({}), location);
        value["buildError"] = json!({ "message": error.message, "location": location });
    }
    value
}

fn outline_json(outline: &Outline, request: &Request) -> Value {
    let mount = |mount: &OutlineMount| {
        let mut value = Map::new();
        value.insert("name".into(), mount.name.as_str().into());
        if mount.required {
            value.insert("required".into(), true.into());
        }
        value.insert("location".into(), location(mount.lines));
        Value::Object(value)
    };
    let args = outline.args.iter().map(|arg| {
        let mut value = Map::new();
        value.insert("name".into(), arg.name.as_str().into());
        put(&mut value, "description", &arg.description);
        put(&mut value, "value", &arg.value);
        value.insert("location".into(), location(arg.lines));
        Value::Object(value)
    });
    let mut value = Map::new();
    put(&mut value, "name", &outline.name);
    put(&mut value, "description", &outline.description);
    for (key, items) in [
        ("args", args.collect::<Vec<Value>>()),
        ("secrets", outline.secrets.iter().map(mount).collect()),
        ("ssh", outline.ssh.iter().map(mount).collect()),
    ] {
        if !items.is_empty() {
            value.insert(key.into(), items.into());
        }
    }
    value.insert("sources".into(), json!([data(request)]));
    Value::Object(value)
}

fn targets_json(targets: &Targets, request: &Request) -> Value {
    let last = targets.targets.len().checked_sub(1);
    let target = |(index, target): (usize, &super::Target)| {
        let mut value = Map::new();
        put(&mut value, "name", &target.name);
        if Some(index) == last {
            value.insert("default".into(), true.into());
        }
        put(&mut value, "description", &target.description);
        put(&mut value, "base", &target.base);
        put(&mut value, "platform", &target.platform);
        value.insert("location".into(), location(target.lines));
        Value::Object(value)
    };
    let all: Vec<Value> = targets.targets.iter().enumerate().map(target).collect();
    json!({ "targets": all, "sources": [data(request)] })
}

/// Adds a text unless it is empty.
fn put(value: &mut Map<String, Value>, key: &str, text: &str) {
    if !text.is_empty() {
        value.insert(key.into(), text.into());
    }
}
