//! Whether what came of a case is what its page says.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::golden::failure::marked_lines;
use crate::image::Image;
use crate::merged::{Merged, Node};
use crate::reference::expect::{Expectation, Pairs, WantedNode};
use crate::running::Finished;

/// What dcbuild said and made, by a plan or by a build.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub done: Finished,
    /// The plan, where only that was asked for.
    pub plan: Option<Value>,
    /// The image, where it was built.
    pub image: Option<Image>,
    /// The plan of the other Dockerfile.
    pub other: Option<Value>,
    /// How many layers the base image has.
    pub below: usize,
}

/// What is not as expected, a line each; empty where all is.
pub fn misses(outcome: &Outcome, expectations: &[Expectation]) -> Vec<String> {
    let should_fail = expectations.iter().any(|it| matches!(it, Expectation::Error(_)));
    let code = outcome.done.status.code();
    let orderly = code.is_some_and(|code| code != 101) && !said(outcome).contains("panicked at");
    if !orderly || outcome.done.status.success() == should_fail {
        let said = said(outcome).trim_end().replace('\n', "\n    ");
        return vec![format!("it ended with {:?}\n    {said}", outcome.done.status)];
    }
    expectations.iter().filter_map(|it| outcome.miss(it)).collect()
}

fn said(outcome: &Outcome) -> &str {
    let said = &outcome.done.stderr;
    said.rfind("error:").map_or(said, |place| &said[place..])
}

/// One line where the two differ.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: &T) -> Option<String> {
    (found != *wanted).then(|| format!("{what}: found {found:?}, wanted {wanted:?}"))
}

impl Outcome {
    fn miss(&self, expectation: &Expectation) -> Option<String> {
        match expectation {
            Expectation::Error(text) => {
                let missing = !self.done.stderr.contains(text);
                missing.then(|| format!("no error {text:?}\n    {}", said(self).trim_end()))
            }
            Expectation::Line(wanted) => match marked_lines(&self.done.stderr) {
                (Some(first), Some(last)) if (first..=last).contains(wanted) => None,
                found => Some(format!("the error is at {found:?}, wanted line {wanted}")),
            },
            Expectation::Ran(_) | Expectation::Cached(_) | Expectation::Prints { .. } => {
                self.miss_of_steps(expectation)
            }
            Expectation::Warning { .. } | Expectation::NoWarning(_) => {
                self.miss_of_findings(expectation)
            }
            Expectation::Layers(_)
            | Expectation::Node(_)
            | Expectation::Nothing(_)
            | Expectation::Below { .. }
            | Expectation::Time { .. } => self.miss_of_files(expectation),
            Expectation::Same => {
                let other = self.other.as_ref().map(meaning);
                let plan = self.plan.as_ref().map(meaning);
                (plan.is_none() || plan != other)
                    .then(|| format!("they differ\n    {plan:?}\n    {other:?}"))
            }
            Expectation::Built => None,
            _ => self.miss_of_config(expectation),
        }
    }

    fn miss_of_config(&self, expectation: &Expectation) -> Option<String> {
        let image = self.config();
        let config = &image["config"];
        match expectation {
            Expectation::Pair { of, name, value } => same(name, pair(config, *of, name), value),
            Expectation::Config { field, value } => {
                same(field, config.get(field).filter(|it| !it.is_null()), &value.as_ref())
            }
            Expectation::Author(text) => same("author", image["author"].as_str(), &Some(text)),
            Expectation::Created(time) => same("created", image["created"].as_str(), &Some(time)),
            Expectation::Platform(text) => same("platform", &platform(&image), &text),
            Expectation::History { text, has } => {
                let lines = self.history();
                let found = lines.iter().any(|line| line.contains(text));
                (found != *has).then(|| format!("history: {lines:#?}"))
            }
            Expectation::Stages(names) => same("stages", self.stages("name"), names),
            Expectation::Base(name) => {
                let base = self.stages("base").pop().unwrap_or_default();
                let base = base.split('@').next().unwrap_or_default();
                let base = base.trim_start_matches("docker.io/library/").to_owned();
                same("base", &base, &name)
            }
            other => Some(format!("{other:?} is not of a config")),
        }
    }

    /// The whole config of the image.
    fn config(&self) -> Value {
        if let Some(image) = &self.image {
            return image.config.clone();
        }
        let config = self.plan.as_ref().and_then(|plan| {
            serde_json::from_str(plan["images"][0]["template"]["config"].as_str()?).ok()
        });
        config.unwrap_or_default()
    }

    /// What the history says of each instruction.
    fn history(&self) -> Vec<String> {
        let lines = match (&self.image, &self.plan) {
            (Some(image), _) => image.config["history"].clone(),
            (None, Some(plan)) => plan["images"][0]["template"]["history"].clone(),
            (None, None) => Value::Null,
        };
        let lines = lines.as_array().cloned().unwrap_or_default();
        let line = |line: &Value| line["created_by"].as_str().unwrap_or_default().to_owned();
        lines.iter().map(line).collect()
    }

    fn stages(&self, field: &str) -> Vec<String> {
        let stages = self.plan.as_ref().and_then(|plan| plan["stages"].as_array());
        let name = |stage: &Value| stage[field].as_str().unwrap_or_default().to_owned();
        stages.into_iter().flatten().map(name).collect()
    }

    fn miss_of_findings(&self, expectation: &Expectation) -> Option<String> {
        let findings = self.plan.as_ref().map(|plan| plan["findings"].clone());
        let findings = findings.as_ref().and_then(Value::as_array)?;
        let is = |finding: &Value, rule: &str| finding["rule"] == rule;
        let met = match expectation {
            Expectation::Warning { rule, line, text } => findings.iter().any(|finding| {
                is(finding, rule)
                    && line.is_none_or(|line| finding["lines"][0] == line)
                    && text.as_ref().is_none_or(|text| finding["detail"] == *text)
            }),
            Expectation::NoWarning(Some(rule)) => !findings.iter().any(|it| is(it, rule)),
            _ => findings.is_empty(),
        };
        (!met).then(|| format!("{expectation:?}: found {findings:?}"))
    }

    fn miss_of_steps(&self, expectation: &Expectation) -> Option<String> {
        let (ran, cached) = steps(&self.done.stderr);
        let has = |steps: &[String], text: &String| steps.iter().any(|step| step.contains(text));
        let met = match expectation {
            Expectation::Ran(None) => ran.is_empty(),
            Expectation::Ran(Some(text)) => has(&ran, text),
            Expectation::Cached(text) => has(&cached, text) && !has(&ran, text),
            Expectation::Prints { text, does } => {
                let said = &self.done.stderr;
                said.lines().filter_map(printed).any(|line| line == text) == *does
            }
            _ => false,
        };
        (!met).then(|| format!("{expectation:?}: ran {ran:?}, cached {cached:?}"))
    }

    fn miss_of_files(&self, expectation: &Expectation) -> Option<String> {
        let image = self.image.as_ref()?;
        let tree = image.tree();
        match expectation {
            Expectation::Layers(count) => same("layers", image.layers.len() - self.below, count),
            Expectation::Node(wanted) => match tree.get(&wanted.path) {
                None => {
                    Some(format!("nothing is at {}: {}", wanted.path, names(&tree, "/").join(" ")))
                }
                Some(node) => differs(node, wanted),
            },
            Expectation::Nothing(path) => {
                tree.get(path).map(|node| format!("at {path} is {node:?}"))
            }
            Expectation::Below { path, names: wanted } => {
                let wanted: BTreeSet<String> = wanted.iter().cloned().collect();
                same(path, names(&tree, path).into_iter().collect(), &wanted)
            }
            Expectation::Time { path, secs } => {
                same(path, tree.get(path).map(|node| node.mtime), &Some(*secs))
            }
            other => Some(format!("{other:?} is not of files")),
        }
    }
}

fn pair(config: &Value, of: Pairs, name: &str) -> Option<String> {
    let text = match of {
        Pairs::Label => config["Labels"].get(name)?.as_str()?,
        Pairs::Env => {
            let of_name = |line: &Value| {
                line.as_str()?.strip_prefix(name)?.strip_prefix('=').map(str::to_owned)
            };
            return config["Env"].as_array()?.iter().find_map(of_name);
        }
    };
    Some(text.to_owned())
}

fn platform(image: &Value) -> String {
    let parts = ["os", "architecture", "variant"].map(|name| image[name].as_str());
    parts.into_iter().flatten().filter(|it| !it.is_empty()).collect::<Vec<_>>().join("/")
}

/// A plan without what two texts of one meaning may differ in.
fn meaning(plan: &Value) -> Value {
    let steps = plan["steps"].as_array().cloned().unwrap_or_default();
    let keys: Vec<Value> = steps.iter().map(|step| step["recipe"].clone()).collect();
    let configs = plan["images"].as_array().cloned().unwrap_or_default();
    let configs: Vec<Value> =
        configs.iter().map(|image| image["template"]["config"].clone()).collect();
    serde_json::json!([keys, configs])
}

/// The steps that ran, and those that were cached, as the plain display says; base images are no steps here.
fn steps(stderr: &str) -> (Vec<String>, Vec<String>) {
    let is_cached = |number: &str| stderr.lines().any(|line| line == format!("{number} CACHED"));
    let step = |line: &str| {
        let (number, name) = line.split_once(' ')?;
        let whole = number.starts_with('#') && name.starts_with('[');
        let named = whole && !name.starts_with("[internal]") && !name.contains("] FROM ");
        named.then(|| (number.to_owned(), name.to_owned()))
    };
    let all: BTreeSet<(String, String)> = stderr.lines().filter_map(step).collect();
    let (cached, ran): (Vec<_>, Vec<_>) = all.into_iter().partition(|(it, _)| is_cached(it));
    let named = |steps: Vec<(String, String)>| steps.into_iter().map(|(_, name)| name).collect();
    (named(ran), named(cached))
}

/// What a RUN printed, of a line of the plain display.
fn printed(line: &str) -> Option<&str> {
    let (number, rest) = line.split_once(' ')?;
    let (secs, text) = rest.split_once(' ')?;
    (number.starts_with('#') && secs.parse::<f64>().is_ok()).then(|| text.trim_end())
}

/// What lies below a folder.
fn names(tree: &Merged, folder: &str) -> Vec<String> {
    let folder = folder.trim_matches('/');
    let below = |path: &str| {
        let rest = path.strip_prefix(folder)?;
        let rest = if folder.is_empty() { rest } else { rest.strip_prefix('/')? };
        (!rest.is_empty()).then(|| rest.to_owned())
    };
    let slash = |node: &Node| if node.kind == 'd' { "/" } else { "" };
    tree.walk().filter_map(|(path, node)| Some(below(&path)? + slash(node))).collect()
}

fn differs(node: &Node, wanted: &WantedNode) -> Option<String> {
    let text = match node.kind {
        'l' => node.link.clone(),
        _ => node.text.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
    };
    // Programs end a file with a line's end, and the pages need not say so.
    let bare = |text: &String| text.strip_suffix('\n').unwrap_or(text).to_owned();
    let found = WantedNode {
        path: wanted.path.clone(),
        kind: node.kind,
        mode: wanted.mode.map(|_| node.mode),
        owner: wanted.owner.map(|_| (node.uid, node.gid)),
        text: wanted.text.as_ref().and(text.as_ref().map(bare)),
    };
    let wanted = WantedNode { text: wanted.text.as_ref().map(bare), ..wanted.clone() };
    same("node", found, &wanted)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use serde_json::json;

    use super::*;
    use crate::layout::LayerTar;

    const SAID: &str = "#3 [1/2] FROM busybox\n#3 CACHED\n#4 [2/2] RUN one\n#4 0.030 hi there\n#5 [3/2] RUN two\n#5 CACHED\n";

    fn outcome(code: i32, stderr: &str) -> Outcome {
        let status = ExitStatus::from_raw(code << 8);
        let done = Finished { status, stdout: String::new(), stderr: stderr.into() };
        let layer = LayerTar::default().dir("d", 0o755).file("d/a", 0o640, b"text\n").finish();
        let config = json!({
            "author": "me", "created": "T", "os": "linux", "architecture": "arm64",
            "config": { "Env": ["A=b=c"], "Labels": { "l": "m" }, "User": "u" },
            "history": [{ "created_by": "RUN one" }],
        });
        let (digest, manifest) = (String::new(), Value::Null);
        let image = Some(Image { digest, manifest, config, layers: vec![layer] });
        let plan = json!({
            "stages": [{ "name": "x", "base": "busybox:1@sha256:0" }],
            "findings": [{ "rule": "Some", "lines": [2, 2], "detail": "so" }],
            "steps": [{ "recipe": "k" }],
        });
        Outcome { done, other: Some(plan.clone()), plan: Some(plan), image, below: 0 }
    }

    fn check(outcome: &Outcome, line: &str) -> Vec<String> {
        misses(outcome, &[Expectation::read(line).unwrap()])
    }

    #[test]
    fn what_is_as_expected_is_no_miss_and_what_is_not_is_one() {
        for (right, wrong) in [
            ("env A = b=c", "env A = b"),
            ("no env B", "no env A"),
            ("label l = m", "label l = n"),
            ("config User = \"u\"", "config User = \"v\""),
            ("no config Cmd", "no config User"),
            ("author = me", "author = you"),
            ("created = T", "created = U"),
            ("platform = linux/arm64", "platform = linux/amd64"),
            ("stages = x", "stages = x y"),
            ("base = busybox:1", "base = busybox"),
            ("history has RUN", "history lacks RUN"),
            ("history lacks COPY", "history has COPY"),
            ("layers = 1", "layers = 2"),
            ("file /d/a 640 0:0 = text", "file /d/a 644"),
            ("dir d", "file d"),
            ("nothing at /x", "nothing at /d/a"),
            ("below / = d/ d/a", "below / = d/"),
            ("below /d = a", "below /d = b"),
            ("time /d/a = 0", "time /d/a = 1"),
            ("prints hi there", "no prints hi there"),
            ("ran RUN one", "ran RUN two"),
            ("cached RUN two", "cached RUN one"),
            ("warning Some 2", "warning Some 3"),
            ("warning Some 2 = so", "warning Some = not so"),
            ("no warning Other", "no warning"),
            ("same image", "no warning Some"),
        ] {
            assert_eq!(check(&outcome(0, SAID), right), Vec::<String>::new(), "{right}");
            assert_eq!(check(&outcome(0, SAID), wrong).len(), 1, "{wrong}");
        }
    }

    #[test]
    fn a_failure_is_expected_or_a_miss() {
        let failed = outcome(1, "Dockerfile:7\nerror: it is so\n");
        assert_eq!(check(&failed, "error is so"), Vec::<String>::new());
        for line in ["error is not", "built", "env A = b=c"] {
            assert_eq!(check(&failed, line).len(), 1, "{line}");
        }
        assert_eq!(check(&outcome(0, ""), "error is so").len(), 1);
        let lines =
            ["error is so", "line 7", "line 8"].map(|line| Expectation::read(line).unwrap());
        assert_eq!(misses(&failed, &lines).len(), 1);
        assert_eq!(check(&outcome(101, "error: it is so"), "error is so").len(), 1);
    }
}
