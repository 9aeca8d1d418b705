//! Compares an image with what a case expects, and shows how they differ.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};

use crate::golden::case::Case;
use crate::image::Image;
use crate::layout::{architecture, digest};
use crate::merged::{Merged, Node};

/// How many characters of a text are shown.
const TEXT_CHARS_MAX: usize = 400;

/// The base image as far as the comparison needs it.
#[derive(Debug)]
pub struct Base {
    tree: Merged,
    diff_id: String,
}

impl Base {
    /// Of an image with this one layer.
    pub fn new(layer: &[u8]) -> Base {
        let mut tree = Merged::default();
        tree.apply(layer);
        Base { tree, diff_id: digest(layer) }
    }
}

/// How the image differs from what the case expects; none where it does not.
pub fn difference(case: &Case, image: &Image, base: &Base) -> Option<String> {
    let expect = &case.expect;
    if let Some(error) = expect["error"].as_str() {
        return Some(format!("  should fail: {error}\n"));
    }
    let on_base = image.diff_ids().first() == Some(&base.diff_id);
    let below = usize::from(on_base);
    let scratch = Merged::default();
    let mut out = String::new();
    let mut same = |what: &str, found: Value, wanted: &Value| {
        if found != *wanted {
            out.push_str(&format!("  {what}\n    found  {found}\n    wanted {wanted}\n"));
        }
    };
    same("base", if on_base { json!("busybox") } else { json!("scratch") }, &expect["base"]);
    same("platform", json!(platform(&image.config)), &json!(of_this_machine(expect)));
    same("layers", json!(image.layers.len() - below), &expect["layers"]);
    same("config", sorted(&image.config["config"]), &sorted(&expect["config"]));
    same("history", history(&image.config, below), &expect["history"]);
    out.push_str(&trees(case, &image.tree(), if on_base { &base.tree } else { &scratch }));
    (!out.is_empty()).then_some(out)
}

fn platform(config: &Value) -> String {
    let part = |name: &str| config[name].as_str().unwrap_or_default();
    let variant = part("variant");
    let slash = if variant.is_empty() { "" } else { "/" };
    format!("{}/{}{slash}{variant}", part("os"), part("architecture"))
}

/// The cases were recorded on amd64, and built for the machine.
fn of_this_machine(expect: &Value) -> String {
    expect["platform"].as_str().unwrap_or_default().replace("amd64", architecture())
}

fn sorted(object: &Value) -> Value {
    let sorted: BTreeMap<&String, &Value> = object.as_object().into_iter().flatten().collect();
    json!(sorted)
}

/// `[created_by, empty_layer]` of each line after the base's.
fn history(config: &Value, below: usize) -> Value {
    let lines = config["history"].as_array().cloned().unwrap_or_default();
    let line = |line: &Value| json!([line["created_by"], line["empty_layer"] == true]);
    lines.iter().skip(below).map(line).collect()
}

fn trees(case: &Case, tree: &Merged, base: &Merged) -> String {
    let expect = &case.expect;
    let wanted_nodes = expect["tree"].as_array().cloned().unwrap_or_default();
    let gone = expect["removed"].as_array().cloned().unwrap_or_default();
    let wanted: BTreeSet<String> = wanted_nodes
        .iter()
        .map(wanted_line)
        .chain(gone.iter().map(|path| format!("removed {}", path.as_str().unwrap_or_default())))
        .collect();
    let timed: BTreeSet<&str> = wanted_nodes
        .iter()
        .filter(|node| !node[7].is_null())
        .filter_map(|node| node[0].as_str())
        .collect();
    let shows = |path: &str, mtime: i64| timed.contains(path) || case.mtimes.contains(&mtime);
    let found = found_lines(tree, base, &shows);
    let mut out = String::new();
    for line in wanted.difference(&found) {
        out.push_str(&format!("  - {line}\n"));
    }
    for line in found.difference(&wanted) {
        out.push_str(&format!("  + {line}\n"));
    }
    for (path, text) in expect["texts"].as_object().into_iter().flatten() {
        let wanted = text.as_str().unwrap_or_default();
        if let Some(found) = tree.text(path).filter(|found| found != wanted) {
            out.push_str(&format!("  {path}\n    found  {}\n", quoted(&found)));
            out.push_str(&format!("    wanted {}\n", quoted(wanted)));
        }
    }
    out
}

fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(TEXT_CHARS_MAX).collect::<String>())
}

fn wanted_line(node: &Value) -> String {
    let text = |place: usize| match &node[place] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    (0..8).map(text).collect::<Vec<_>>().join(" ")
}

/// What differs from the base, a line each, and what of the base is gone.
fn found_lines(
    tree: &Merged,
    base: &Merged,
    shows: &dyn Fn(&str, i64) -> bool,
) -> BTreeSet<String> {
    let mut firsts: HashMap<u64, String> = HashMap::new();
    let mut lines = BTreeSet::new();
    for (path, node) in tree.walk() {
        let first = node.links.map(|group| firsts.entry(group).or_insert(path.clone()).clone());
        if base.get(&path).is_some_and(|before| untimed(before) == untimed(node)) {
            continue;
        }
        let first = first.filter(|first| *first != path);
        let kind = if first.is_some() { 'h' } else { node.kind };
        let link = first.or(node.link.clone()).unwrap_or_else(|| "-".to_owned());
        let hash = node.hash.as_deref().map_or("-", |hash| &hash[..16]);
        let time = if shows(&path, node.mtime) { node.mtime.to_string() } else { "-".to_owned() };
        let (mode, uid, gid) = (node.mode, node.uid, node.gid);
        lines.insert(format!("{path} {kind} {mode:04o} {uid} {gid} {link} {hash} {time}"));
    }
    let gone = base.walk().filter(|(path, _)| tree.get(path).is_none());
    lines.extend(gone.map(|(path, _)| format!("removed {path}")));
    lines
}

fn untimed(node: &Node) -> Node {
    Node { mtime: 0, links: None, text: None, ..node.clone() }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::layout::LayerTar;

    fn base_layer() -> Vec<u8> {
        LayerTar::default().dir("etc", 0o755).file("etc/passwd", 0o644, b"root\n").finish()
    }

    fn check(expect: Value, layers: &[Vec<u8>], expected: &Expect) {
        let case = json!({ "name": "c", "dockerfile": "", "mtimes": [0], "expect": expect });
        let case: Case = serde_json::from_value(case).unwrap();
        let config = json!({
            "os": "linux",
            "architecture": architecture(),
            "config": { "Cmd": ["sh"] },
            "history": [{ "created_by": "busybox" }, { "created_by": "COPY a /a" }],
        });
        let image =
            Image { digest: String::new(), manifest: Value::Null, config, layers: layers.to_vec() };
        let found = difference(&case, &image, &Base::new(&base_layer()));
        expected.assert_eq(&found.map(|text| format!("differs\n{text}")).unwrap_or_default());
    }

    fn good() -> Value {
        json!({
            "base": "busybox",
            "platform": "linux/amd64",
            "config": { "Cmd": ["sh"] },
            "history": [["COPY a /a", false]],
            "layers": 1,
            "tree": [["a", "f", "0640", 0, 0, null, "87428fc522803d31", 0]],
            "texts": { "a": "a\n" },
            "removed": ["etc", "etc/passwd"],
        })
    }

    fn layer() -> LayerTar {
        LayerTar::default().file(".wh.etc", 0, b"").file("a", 0o640, b"a\n")
    }

    #[test]
    fn what_is_as_recorded_does_not_differ() {
        check(good(), &[base_layer(), layer().finish()], &expect![""]);
    }

    #[test]
    fn every_difference_is_shown() {
        let mut other = good();
        other["config"] = json!({ "User": "nobody" });
        other["history"] = json!([["COPY a /a", true]]);
        other["removed"] = json!([]);
        other["texts"]["a"] = json!("b\n");
        other["tree"][0][3] = json!(7);
        check(
            other,
            &[base_layer(), layer().hard_link("b", "a").finish()],
            &expect![[r#"
                differs
                  config
                    found  {"Cmd":["sh"]}
                    wanted {"User":"nobody"}
                  history
                    found  [["COPY a /a",false]]
                    wanted [["COPY a /a",true]]
                  - a f 0640 7 0 - 87428fc522803d31 0
                  + a f 0640 0 0 - 87428fc522803d31 0
                  + b h 0640 0 0 a 87428fc522803d31 0
                  + removed etc
                  + removed etc/passwd
                  a
                    found  "a\n"
                    wanted "b\n"
            "#]],
        );
    }

    #[test]
    fn an_image_is_no_failure() {
        let layers = [base_layer()];
        let expected = expect![[r#"
            differs
              should fail: no
        "#]];
        check(json!({ "error": "no" }), &layers, &expected);
    }
}
