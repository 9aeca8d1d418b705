//! What a case expects, a line for each thing.

use serde_json::Value;

use crate::reference::world::World;

/// One line of `expect`.
#[derive(Clone, PartialEq, Debug)]
pub enum Expectation {
    /// `env NAME = VALUE`, `label NAME = VALUE`; with `no` before it, that there is none.
    Pair {
        /// What it is: the field of the config.
        of: Pairs,
        /// The name.
        name: String,
        /// The value.
        value: Option<String>,
    },
    /// `config FIELD = JSON`; with `no` before it, that there is none.
    Config {
        /// The field.
        field: String,
        /// Its value.
        value: Option<Value>,
    },
    /// `author = TEXT`
    Author(String),
    /// `created = TIME`
    Created(String),
    /// `platform = OS/ARCH`
    Platform(String),
    /// `stages = NAME ...`: those that are built.
    Stages(Vec<String>),
    /// `base = IMAGE`: what the last stage stands on.
    Base(String),
    /// `history has TEXT`, `history lacks TEXT`
    History {
        /// What a line has in it.
        text: String,
        /// Whether there is such a line.
        has: bool,
    },
    /// `layers = N`: how many lie on those of the base.
    Layers(usize),
    /// `file PATH [MODE] [UID:GID] [= TEXT]`, `dir PATH [MODE] [UID:GID]`, `link PATH -> TARGET`
    Node(WantedNode),
    /// `nothing at PATH`
    Nothing(String),
    /// `below PATH = NAME ...`: all that lies there, folders with a slash behind.
    Below {
        /// The folder.
        path: String,
        /// The paths below it.
        names: Vec<String>,
    },
    /// `time PATH = SECONDS`
    Time {
        /// Where.
        path: String,
        /// Since 1970.
        secs: i64,
    },
    /// `prints TEXT`: a RUN prints a line; with `no` before it, that none does.
    Prints {
        /// The line.
        text: String,
        /// Whether it is printed.
        does: bool,
    },
    /// `ran TEXT`: a step of this name ran and was not cached; `ran nothing`.
    Ran(Option<String>),
    /// `cached TEXT`: a step of this name was cached.
    Cached(String),
    /// `error TEXT`
    Error(String),
    /// `line N`: where the error is.
    Line(u64),
    /// `warning RULE [N] [= TEXT]`: which check warns, and of which line.
    Warning {
        /// The check's name.
        rule: String,
        /// The line.
        line: Option<u64>,
        /// What it says.
        text: Option<String>,
    },
    /// `no warning`, `no warning RULE`
    NoWarning(Option<String>),
    /// `same image`: both Dockerfiles mean the same.
    Same,
    /// `built`: it must be built, not planned only, to be seen.
    Built,
}

/// Parts of the config with names and values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pairs {
    /// The environment.
    Env,
    /// The labels.
    Label,
}

/// What is expected at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedNode {
    /// Where.
    pub path: String,
    /// f, d or l.
    pub kind: char,
    /// Its rights.
    pub mode: Option<u32>,
    /// User and group.
    pub owner: Option<(u64, u64)>,
    /// A file's text, or where a link leads.
    pub text: Option<String>,
}

/// The first word, which may stand in double quotes, and what follows it.
pub fn quoted(text: &str) -> (String, &str) {
    let (word, rest) = match text.strip_prefix('"').and_then(|text| text.split_once('"')) {
        Some((word, rest)) => (word, rest.strip_prefix(' ').unwrap_or(rest)),
        None => text.split_once(' ').unwrap_or((text, "")),
    };
    (word.to_owned(), rest)
}

/// A text as it stands, or in double quotes with the escapes of JSON.
fn text(of: &str) -> String {
    let json = of.starts_with('"').then(|| serde_json::from_str(of).ok()).flatten();
    json.unwrap_or_else(|| of.to_owned())
}

/// `NAME = VALUE`, where the value may be empty.
fn pair(of: &str) -> Option<(String, String)> {
    let (name, value) = of.split_once(" =")?;
    Some((name.to_owned(), text(value.strip_prefix(' ').unwrap_or(value))))
}

fn words(of: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = of;
    while !rest.is_empty() {
        let (word, more) = quoted(rest);
        words.push(word);
        rest = more;
    }
    words
}

impl Expectation {
    /// Reads a line; none where it is no expectation.
    pub fn read(line: &str) -> Option<Expectation> {
        if let Some(line) = line.strip_prefix("no ") {
            return Expectation::read_negated(line);
        }
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let value = rest.strip_prefix("= ");
        Some(match kind {
            "env" => Expectation::pair(Pairs::Env, rest)?,
            "label" => Expectation::pair(Pairs::Label, rest)?,
            "config" => {
                let (field, value) = rest.split_once(" = ")?;
                let value = Some(serde_json::from_str(value).ok()?);
                Expectation::Config { field: field.to_owned(), value }
            }
            "author" => Expectation::Author(value?.to_owned()),
            "created" => Expectation::Created(value?.to_owned()),
            "platform" => Expectation::Platform(value?.to_owned()),
            "stages" => Expectation::Stages(words(value?)),
            "base" => Expectation::Base(value?.to_owned()),
            "history" => {
                let (what, line) = rest.split_once(' ')?;
                let has = ["lacks", "has"].iter().position(|word| *word == what)? == 1;
                Expectation::History { text: text(line), has }
            }
            "layers" => Expectation::Layers(value?.parse().ok()?),
            "file" | "dir" | "link" => Expectation::Node(WantedNode::read(kind, rest)?),
            "nothing" => Expectation::Nothing(text(rest.strip_prefix("at ")?)),
            "below" => {
                let (path, names) = rest.split_once(" =")?;
                Expectation::Below { path: path.to_owned(), names: words(names.trim_start()) }
            }
            "time" => {
                let (path, secs) = rest.split_once(" = ")?;
                Expectation::Time { path: path.to_owned(), secs: secs.parse().ok()? }
            }
            "prints" => Expectation::Prints { text: text(rest), does: true },
            "ran" => Expectation::Ran(Some(rest.to_owned()).filter(|rest| rest != "nothing")),
            "cached" => Expectation::Cached(rest.to_owned()),
            "error" => Expectation::Error(text(rest)),
            "line" => Expectation::Line(rest.parse().ok()?),
            "warning" => {
                let (head, said) = match rest.split_once(" = ") {
                    Some((head, said)) => (head, Some(text(said))),
                    None => (rest, None),
                };
                let (rule, line) = head.split_once(' ').unwrap_or((head, ""));
                let line = if line.is_empty() { None } else { Some(line.parse().ok()?) };
                Expectation::Warning { rule: rule.to_owned(), line, text: said }
            }
            "same" if rest == "image" => Expectation::Same,
            "built" if rest.is_empty() => Expectation::Built,
            _ => return None,
        })
    }

    fn read_negated(line: &str) -> Option<Expectation> {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let name = rest.to_owned();
        Some(match kind {
            "env" => Expectation::Pair { of: Pairs::Env, name, value: None },
            "label" => Expectation::Pair { of: Pairs::Label, name, value: None },
            "config" => Expectation::Config { field: name, value: None },
            "prints" => Expectation::Prints { text: text(rest), does: false },
            "warning" => Expectation::NoWarning(Some(name).filter(|name| !name.is_empty())),
            _ => return None,
        })
    }

    fn pair(of: Pairs, line: &str) -> Option<Expectation> {
        let (name, value) = pair(line)?;
        Some(Expectation::Pair { of, name, value: Some(value) })
    }

    /// The same with the words that stand for what a run of the tests makes.
    #[must_use]
    pub fn filled(&self, world: &World) -> Expectation {
        match self {
            Expectation::Prints { text, does } => {
                Expectation::Prints { text: world.filled(text), does: *does }
            }
            Expectation::History { text, has } => {
                Expectation::History { text: world.filled(text), has: *has }
            }
            Expectation::Platform(text) => Expectation::Platform(world.filled(text)),
            Expectation::Error(text) => Expectation::Error(world.filled(text)),
            Expectation::Warning { rule, line, text } => {
                let text = text.as_ref().map(|text| world.filled(text));
                Expectation::Warning { rule: rule.clone(), line: *line, text }
            }
            Expectation::Pair { of, name, value } => {
                let value = value.as_ref().map(|value| world.filled(value));
                Expectation::Pair { of: *of, name: name.clone(), value }
            }
            Expectation::Node(node) => {
                let text = node.text.as_ref().map(|text| world.filled(text));
                Expectation::Node(WantedNode { text, ..node.clone() })
            }
            other => other.clone(),
        }
    }

    /// Whether only a build shows it, so that a plan is not enough.
    pub fn needs_build(&self) -> bool {
        matches!(
            self,
            Expectation::Layers(_)
                | Expectation::Node(_)
                | Expectation::Nothing(_)
                | Expectation::Below { .. }
                | Expectation::Time { .. }
                | Expectation::Prints { .. }
                | Expectation::Ran(_)
                | Expectation::Cached(_)
                | Expectation::Created(_)
                | Expectation::Built
        )
    }
}

impl WantedNode {
    fn read(kind: &str, line: &str) -> Option<WantedNode> {
        let (path, mut rest) = quoted(line);
        if path.is_empty() {
            return None;
        }
        let kind = kind.chars().next()?;
        let mut node = WantedNode { path, kind, mode: None, owner: None, text: None };
        while !rest.is_empty() {
            let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
            match word {
                "=" | "->" => {
                    node.text = Some(text(after));
                    break;
                }
                owner if owner.contains(':') => {
                    let (uid, gid) = owner.split_once(':')?;
                    node.owner = Some((uid.parse().ok()?, gid.parse().ok()?));
                }
                mode => node.mode = Some(u32::from_str_radix(mode, 8).ok()?),
            }
            rest = after;
        }
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Expectation {
        Expectation::read(line).unwrap()
    }

    #[test]
    fn lines_are_read() {
        let env = |value: &str| Expectation::Pair {
            of: Pairs::Env,
            name: "A".into(),
            value: Some(value.into()),
        };
        assert_eq!(read("env A = b = c"), env("b = c"));
        assert_eq!(read("env A ="), env(""));
        assert_eq!(read(r#"env A = "b\nc ""#), env("b\nc "));
        assert_eq!(
            read("file /a 644 1:2 = x y"),
            Expectation::Node(WantedNode {
                path: "/a".into(),
                kind: 'f',
                mode: Some(0o644),
                owner: Some((1, 2)),
                text: Some("x y".into()),
            })
        );
        assert_eq!(read("ran nothing"), Expectation::Ran(None));
        let none: Vec<String> = Vec::new();
        assert_eq!(read("below /x ="), Expectation::Below { path: "/x".into(), names: none });
    }

    #[test]
    fn what_is_no_expectation_is_refused() {
        for line in ["", "en A = b", "env A", "file", "line x", "config Cmd = [", "no file /a"] {
            assert_eq!(Expectation::read(line), None, "{line}");
        }
    }
}
