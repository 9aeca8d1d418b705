//! The files of source policies: JSON, as `BuildKit`'s protocol buffers are written in it.

use std::collections::BTreeMap;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};

use super::{
    Condition, Constraint, Engine, MatchType, PolicyAction, PolicyRule, Selector, SourcePolicy,
};

/// The version of the format that is known.
const VERSION: i64 = 1;

/// Says why a policy cannot be followed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidPolicy {
    /// It is no policy.
    #[error("{name} is no source policy: {problem}")]
    File {
        /// The file.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// One of its rules means nothing.
    #[error("rule {rule} of {name} cannot be followed: {problem}")]
    Rule {
        /// The file.
        name: String,
        /// The rule, from 1.
        rule: usize,
        /// What is wrong.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    #[serde(default)]
    version: i64,
    #[serde(default)]
    rules: Option<Vec<RawRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    #[serde(default)]
    action: Named<RawAction>,
    selector: Option<RawSelector>,
    updates: Option<RawUpdate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSelector {
    #[serde(default)]
    identifier: String,
    #[serde(default, alias = "matchType")]
    match_type: Named<MatchType>,
    #[serde(default)]
    constraints: Option<Vec<RawConstraint>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConstraint {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    condition: Named<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUpdate {
    #[serde(default)]
    identifier: String,
    #[serde(default)]
    attrs: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum RawAction {
    #[default]
    Allow,
    Deny,
    Convert,
}

/// A value of an enumeration, by its name or by its number.
#[derive(Default)]
struct Named<T>(T);

trait Numbered: Sized + Copy + 'static {
    const ALL: &'static [Self];
}

impl Numbered for RawAction {
    const ALL: &'static [RawAction] = &[RawAction::Allow, RawAction::Deny, RawAction::Convert];
}

impl Numbered for MatchType {
    const ALL: &'static [MatchType] = &[MatchType::Wildcard, MatchType::Exact, MatchType::Regex];
}

impl Numbered for Condition {
    const ALL: &'static [Condition] = &[Condition::Equal, Condition::NotEqual, Condition::Matches];
}

impl<'de, T: Numbered + Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Named<T>, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        if let Some(number) = value.as_u64() {
            let value = usize::try_from(number).ok().and_then(|number| T::ALL.get(number));
            let value =
                value.ok_or_else(|| de::Error::custom(format!("{number} means nothing")))?;
            return Ok(Named(*value));
        }
        let text = value.as_str().ok_or_else(|| de::Error::custom("a name was expected"))?;
        T::deserialize(de::value::StringDeserializer::new(text.to_owned())).map(Named)
    }
}

impl SourcePolicy {
    /// Reads a file of `BuildKit`'s format; its name is for messages.
    pub fn parse(name: &str, text: &[u8]) -> Result<SourcePolicy, InvalidPolicy> {
        let bad = |problem: String| InvalidPolicy::File { name: name.to_owned(), problem };
        if !text.trim_ascii_start().starts_with(b"{") {
            return Err(bad("it is no JSON object".into()));
        }
        let raw: RawPolicy =
            serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        if ![0, VERSION].contains(&raw.version) {
            return Err(bad(format!("its version is {}, and {VERSION} is known", raw.version)));
        }
        let mut policy = SourcePolicy { name: name.to_owned(), rules: Vec::new() };
        for (at, rule) in raw.rules.unwrap_or_default().into_iter().enumerate() {
            let rule = rule_of(rule).map_err(|problem| policy.problem(at, problem.into()))?;
            policy.rules.push(rule);
        }
        Engine::new(std::slice::from_ref(&policy))?;
        Ok(policy)
    }

    pub(super) fn problem(&self, at: usize, problem: String) -> InvalidPolicy {
        InvalidPolicy::Rule { name: self.name.clone(), rule: at + 1, problem }
    }
}

fn rule_of(raw: RawRule) -> Result<PolicyRule, &'static str> {
    let selector = raw.selector.ok_or("it has no selector")?;
    let action = match (raw.action.0, raw.updates) {
        (RawAction::Convert, None) => return Err("missing destination for convert rule"),
        (RawAction::Convert, Some(RawUpdate { identifier, attrs })) => PolicyAction::Convert {
            identifier: Some(identifier).filter(|identifier| !identifier.is_empty()),
            attrs: attrs.unwrap_or_default(),
        },
        (RawAction::Allow | RawAction::Deny, Some(_)) => {
            return Err("it has updates and does not convert");
        }
        (RawAction::Allow, None) => PolicyAction::Allow {},
        (RawAction::Deny, None) => PolicyAction::Deny {},
    };
    let constraints = selector.constraints.unwrap_or_default().into_iter();
    let constraints = constraints.map(|RawConstraint { key, value, condition }| Constraint {
        key,
        value,
        condition: condition.0,
    });
    let selector = Selector {
        identifier: selector.identifier,
        match_type: selector.match_type.0,
        constraints: constraints.collect(),
    };
    Ok(PolicyRule { action, selector })
}
