//! Source policies: what a build may take from outside, and what it takes in its place. Files, rules and errors are
//! `BuildKit`'s.
//!
//! Every plan asks the policy anew, so a step that is in the cache stands on nothing that is denied by now; and what a
//! rule converts is converted before the step's key is made.

mod ask;
mod read;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

pub use ask::{Facts, GitFacts, Judged, Known, PolicyAsk, Verdict};
pub use read::InvalidPolicy;
pub use source::ask_of;

/// How often one source is converted before it counts as a circle.
const CONVERSIONS_MAX: usize = 20;

/// How long what a rule makes of a source may be.
const IDENTIFIER_BYTES_MAX: usize = 64 << 10;
/// How much one replacement may write at most before that is looked at.
const REPLACED_BYTES_MAX: usize = 64 << 20;
/// How large a compiled pattern may be.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// The rules of one file, in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourcePolicy {
    /// The file's name, for messages.
    pub name: String,
    /// Its rules.
    pub rules: Vec<PolicyRule>,
}

/// What becomes of the sources that a selector means.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRule {
    /// What becomes of them.
    pub action: PolicyAction,
    /// Which they are.
    pub selector: Selector,
}

/// What becomes of a source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "do")]
pub enum PolicyAction {
    /// It is taken, whatever rules above say.
    Allow {},
    /// The build fails.
    Deny {},
    /// Another one is taken.
    Convert {
        /// Its identifier, with `${1}` for what a pattern matched; the same if none.
        identifier: Option<String>,
        /// Attributes that it gets.
        attrs: BTreeMap<String, String>,
    },
}

/// Which sources a rule means.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// An identifier, or a pattern for some.
    pub identifier: String,
    /// How it is read.
    pub match_type: MatchType,
    /// What their attributes must be besides.
    pub constraints: Vec<Constraint>,
}

/// How the identifier of a selector is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MatchType {
    /// Each `*` stands for any text.
    #[default]
    Wildcard,
    /// Letter for letter.
    Exact,
    /// As a regular expression.
    Regex,
}

/// What an attribute must be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constraint {
    /// The attribute's name.
    pub key: String,
    /// What it is compared with.
    pub value: String,
    /// How.
    pub condition: Condition,
}

/// How an attribute is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Condition {
    /// It is the value.
    #[default]
    Equal,
    /// It is another one.
    NotEqual,
    /// The value is a regular expression that matches it.
    Matches,
}

/// Says why a source is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PolicyError {
    /// A rule denies it.
    #[error("source {identifier:?} denied by policy: source denied by policy")]
    Denied {
        /// The source.
        identifier: String,
        /// The rule, for people.
        rule: String,
    },
    /// Rules convert it without end.
    #[error("too many mutations on a single source: too many operations")]
    Circle {
        /// What the last rules made of it.
        seen: Vec<String>,
    },
    /// A rule makes far too much of it.
    #[error("the source policy makes more than {} KiB of {identifier:?}", IDENTIFIER_BYTES_MAX >> 10)]
    Long {
        /// The source, its beginning.
        identifier: String,
    },
    /// What a rule makes of it cannot be taken in its place.
    #[error("the source policy makes {to:?} of {from:?}, which is no {wanted}")]
    Kind {
        /// What it was.
        from: String,
        /// What it is to be.
        to: String,
        /// What could stand there.
        wanted: &'static str,
    },
    /// An attribute means nothing.
    #[error("the source policy gives {identifier:?} the attribute {name} {value:?}, which is none")]
    Attribute {
        /// The source.
        identifier: String,
        /// The attribute.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// A policy of the client does not allow it.
    #[error("source {identifier:?} not allowed by policy{}", said(messages))]
    NotAllowed {
        /// The source.
        identifier: String,
        /// The policy's file.
        policy: String,
        /// What it says of it.
        messages: Vec<String>,
    },
    /// A policy of the client cannot be evaluated.
    #[error("could not ask the policy about {identifier:?}: {problem}")]
    Unevaluated {
        /// The source.
        identifier: String,
        /// Why not.
        problem: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// Nobody could look at what a policy wants to know of it.
    #[error("could not look at {identifier:?} for the policy: {problem}")]
    Unseen {
        /// The source.
        identifier: String,
        /// Why not.
        problem: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A pattern of the policy cannot be understood.
    #[error(transparent)]
    Invalid(#[from] InvalidPolicy),
}

impl PolicyError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            PolicyError::Denied { rule, .. } => Some(format!("{rule} denies it")),
            PolicyError::Circle { seen } => {
                Some(format!("the rules go round: {}", seen.join(" -> ")))
            }
            PolicyError::Kind { .. } => Some(
                "images are converted to images, web addresses and git repositories to one another"
                    .into(),
            ),
            PolicyError::NotAllowed { policy, .. } => Some(format!(
                "{policy} does not allow it; --policy log-level=debug with --progress=plain shows what it is asked"
            )),
            PolicyError::Unevaluated { hint, .. } | PolicyError::Unseen { hint, .. } => {
                hint.clone()
            }
            PolicyError::Long { .. } => Some("see how often its identifier has $0 or ${1}".into()),
            PolicyError::Attribute { .. } | PolicyError::Invalid(_) => None,
        }
    }
}

/// What a policy says of a source, behind the sentence that it denies it.
fn said(messages: &[String]) -> String {
    if messages.is_empty() { String::new() } else { format!(": {}", messages.join("; ")) }
}

/// Something that a build takes from outside, as policies see it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Source {
    identifier: String,
    attrs: BTreeMap<String, String>,
}

/// Policies, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    policies: Vec<(String, Vec<Ready>)>,
    /// Whether the client is asked too.
    asks: bool,
}

/// A rule whose patterns are compiled.
#[derive(Clone, Debug)]
struct Ready {
    rule: PolicyRule,
    pattern: Option<Regex>,
    constraints: Vec<Option<Regex>>,
}

/// What one policy makes of a source.
enum Told {
    Taken,
    Converted,
    Denied(usize),
}

impl Engine {
    /// Compiles the patterns of policies.
    pub fn new(policies: &[SourcePolicy]) -> Result<Engine, InvalidPolicy> {
        let ready = |policy: &SourcePolicy| {
            let rules = policy.rules.iter().enumerate();
            let rules = rules.map(|(at, rule)| {
                Ready::new(rule.clone()).map_err(|problem| policy.problem(at, problem))
            });
            Ok((policy.name.clone(), rules.collect::<Result<_, _>>()?))
        };
        let policies = policies.iter().map(ready).collect::<Result<_, InvalidPolicy>>()?;
        Ok(Engine { policies, asks: false })
    }

    /// Asks the client too, about all that the files let through.
    #[must_use]
    pub fn asking(self, asks: bool) -> Engine {
        Engine { asks, ..self }
    }

    /// Asks every policy in turn, and all of them again about what one has converted.
    fn evaluate(&self, mut source: Source) -> Result<Source, PolicyError> {
        let mut seen = vec![source.identifier.clone()];
        while self.round(&mut source)? {
            seen.push(source.identifier.clone());
            if seen.len() > CONVERSIONS_MAX {
                return Err(PolicyError::Circle { seen: seen.split_off(seen.len() - 3) });
            }
        }
        Ok(source)
    }

    /// Whether one of the policies has converted the source.
    fn round(&self, source: &mut Source) -> Result<bool, PolicyError> {
        for (name, rules) in &self.policies {
            match judge(rules, source)? {
                Told::Taken => {}
                Told::Converted => return Ok(true),
                Told::Denied(at) => {
                    let rule = format!("rule {} of {name}", at + 1);
                    return Err(PolicyError::Denied {
                        identifier: source.identifier.clone(),
                        rule,
                    });
                }
            }
        }
        Ok(false)
    }
}

/// The last rule that allows or denies decides, unless one converts first.
fn judge(rules: &[Ready], source: &mut Source) -> Result<Told, PolicyError> {
    let mut denied = None;
    for (at, ready) in rules.iter().enumerate().filter(|(_, ready)| ready.means(source)) {
        match &ready.rule.action {
            PolicyAction::Allow {} => denied = None,
            PolicyAction::Deny {} => denied = Some(at),
            PolicyAction::Convert { identifier, attrs } => {
                let converted = ready.converted(source, identifier.as_deref(), attrs)?;
                if converted != *source {
                    *source = converted;
                    return Ok(Told::Converted);
                }
            }
        }
    }
    Ok(denied.map_or(Told::Taken, Told::Denied))
}

impl Ready {
    fn new(rule: PolicyRule) -> Result<Ready, String> {
        let Selector { identifier, match_type, constraints } = &rule.selector;
        let pattern = match match_type {
            MatchType::Exact => None,
            MatchType::Regex => Some(compile(identifier)?),
            MatchType::Wildcard if identifier.contains("**") => {
                let problem = "failed to translate wildcard";
                return Err(format!(
                    "{problem} {identifier:?} to regexp: invalid wildcard: \"**\""
                ));
            }
            MatchType::Wildcard => {
                let parts: Vec<String> = identifier.split('*').map(regex::escape).collect();
                Some(compile(&format!("^{}$", parts.join("(.*)")))?)
            }
        };
        let compiled = constraints.iter().map(|constraint| match constraint.condition {
            Condition::Equal | Condition::NotEqual => Ok(None),
            Condition::Matches => compile(&constraint.value).map(Some),
        });
        let constraints = compiled.collect::<Result<_, String>>()?;
        Ok(Ready { rule, pattern, constraints })
    }

    fn means(&self, source: &Source) -> bool {
        let Selector { identifier, match_type: _, constraints } = &self.rule.selector;
        let holds = |(constraint, pattern): (&Constraint, &Option<Regex>)| {
            let has = source.attrs.get(&constraint.key).map_or("", String::as_str);
            match (constraint.condition, pattern) {
                (Condition::Equal, _) => has == constraint.value,
                (Condition::NotEqual, _) => has != constraint.value,
                (Condition::Matches, pattern) => {
                    pattern.as_ref().is_some_and(|pattern| pattern.is_match(has))
                }
            }
        };
        constraints.iter().zip(&self.constraints).all(holds)
            && (*identifier == source.identifier
                || self.pattern.as_ref().is_some_and(|it| it.is_match(&source.identifier)))
    }

    fn converted(
        &self,
        source: &Source,
        identifier: Option<&str>,
        attrs: &BTreeMap<String, String>,
    ) -> Result<Source, PolicyError> {
        let from = source.identifier.as_str();
        let to = match (identifier, &self.pattern) {
            (None, _) => from.to_owned(),
            (Some(to), Some(pattern)) if pattern.is_match(from) => {
                let long = || PolicyError::Long { identifier: from.chars().take(200).collect() };
                replaced(pattern, from, to).ok_or_else(long)?
            }
            (Some(to), _) => to.to_owned(),
        };
        let mut converted = Source { identifier: to, attrs: source.attrs.clone() };
        converted.attrs.extend(attrs.clone());
        Ok(converted)
    }
}

/// What stands in the place of each match; nothing where that grows beyond measure.
fn replaced(pattern: &Regex, from: &str, to: &str) -> Option<String> {
    if from.len().saturating_mul(to.len()) > REPLACED_BYTES_MAX {
        return None;
    }
    let (mut made, mut after) = (String::new(), 0);
    for captures in pattern.captures_iter(from) {
        let whole = captures.get_match();
        made.push_str(from.get(after..whole.start())?);
        captures.expand(to, &mut made);
        after = whole.end();
        if made.len() > IDENTIFIER_BYTES_MAX {
            return None;
        }
    }
    made.push_str(from.get(after..)?);
    Some(made)
}

fn compile(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build();
    built.map_err(|error| format!("invalid regex {pattern:?}: {error}"))
}
