//! Runs one policy about one source.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{anyhow, bail};
use dcbuild_model::Digest;
use dcbuild_plan::policy::{PolicyAsk, Verdict};
use regorus::Value;
use serde_json::Value as Json;

use crate::input::Seen;
use crate::{Detail, Policies, Policy, RegoError};

const DECISION: &str = "data.docker.decision";
/// How large a file that `load_json` reads may be, as with docker.
const JSON_BYTES_MAX: u64 = 4 << 20;
/// Lines that one policy may print about one source.
const PRINTS_MAX: usize = 1_000;

type Pins = Arc<Mutex<BTreeSet<String>>>;

impl Policies {
    pub(crate) fn one(
        &self,
        policy: &Policy,
        ask: &PolicyAsk,
        seen: &Seen,
        log: &mut Vec<String>,
    ) -> Result<Verdict, RegoError> {
        let name = &policy.name;
        let input = seen.input(&self.env);
        if self.detail == Detail::Inputs {
            let shown = serde_json::to_string_pretty(&input).unwrap_or_default();
            log.push(format!("{name} sees {shown}"));
        }
        let failed = |error: anyhow::Error| RegoError::of_engine(name, &error);
        let pins = Pins::default();
        let mut engine = policy.engine.clone();
        self.give_functions(&mut engine, policy, seen, &pins).map_err(failed)?;
        engine.set_input(Value::from_json_str(&input.to_string()).map_err(failed)?);
        let decided = engine.eval_rule(DECISION.into());
        if self.detail > Detail::None {
            log.extend(engine.take_prints().unwrap_or_default().into_iter().take(PRINTS_MAX));
        }
        let decided = match decided {
            Err(error) if error.to_string().contains("not a valid rule path") => {
                let problem = "it has no rule 'decision'".into();
                return Err(RegoError::Decision { name: name.clone(), problem });
            }
            decided => decided.map_err(failed)?,
        };
        let Decision { allow, messages } = Decision::read(name, &decided)?;
        if self.detail > Detail::None {
            log.push(format!("{name}: {}", if allow { "ALLOW" } else { "DENY" }));
        }
        if !allow {
            return Ok(Verdict::Denied { policy: name.clone(), messages });
        }
        let pins = std::mem::take(&mut *pins.lock().unwrap_or_else(PoisonError::into_inner));
        let mut pins = pins.into_iter();
        match (pins.next(), pins.next()) {
            (None, _) => Ok(Verdict::Allowed {}),
            (Some(digest), None) if ask.identifier.ends_with(&format!("@{digest}")) => {
                Ok(Verdict::Allowed {})
            }
            (Some(digest), None) => Ok(Verdict::Pinned { policy: name.clone(), digest }),
            (Some(one), Some(other)) => {
                let problem = format!("it pins the image to {one} and to {other}");
                Err(RegoError::Decision { name: name.clone(), problem })
            }
        }
    }

    /// What buildx gives policies over what Rego has itself.
    fn give_functions(
        &self,
        engine: &mut regorus::Engine,
        policy: &Policy,
        seen: &Seen,
        pins: &Pins,
    ) -> anyhow::Result<()> {
        let (folders, beside) = (self.folders.clone(), policy.folder.clone());
        let load = move |arguments: Vec<Value>| {
            let name = text_of(&arguments, 0, "load_json(FILE)")?;
            let bytes = folders.read(&name, &beside, JSON_BYTES_MAX).map_err(|error| {
                let cause = std::error::Error::source(&error).map(|it| format!(": {it}"));
                anyhow!("{error}{}", cause.unwrap_or_default())
            })?;
            let text = String::from_utf8(bytes).map_err(|_| anyhow!("'{name}' is no text"))?;
            Value::from_json_str(&text).map_err(|error| anyhow!("'{name}' is no JSON: {error}"))
        };
        engine.add_extension("load_json".into(), 1, Box::new(load))?;
        let (pins, reference) = (pins.clone(), seen.image_reference());
        let pin = move |arguments: Vec<Value>| {
            let form = "pin_image(input.image, \"sha256:...\")";
            let image = arguments.first().map_or(Value::Undefined, |it| it["ref"].clone());
            let image = image.as_string().map(ToString::to_string).ok();
            if image.is_none() || image != reference {
                bail!("{form} pins the image that is asked about, and no other");
            }
            let digest = text_of(&arguments, 1, form)?;
            let digest: Digest =
                digest.parse().map_err(|_| anyhow!("'{digest}' is no digest for {form}"))?;
            pins.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.to_string());
            Ok(Value::Bool(true))
        };
        engine.add_extension("pin_image".into(), 2, Box::new(pin))
    }
}

fn text_of(arguments: &[Value], at: usize, form: &str) -> anyhow::Result<String> {
    let text = arguments.get(at).and_then(|it| it.as_string().ok());
    Ok(text.ok_or_else(|| anyhow!("it is called as {form}"))?.to_string())
}

/// What a policy decides.
struct Decision {
    allow: bool,
    messages: Vec<String>,
}

impl Decision {
    fn read(name: &str, value: &Value) -> Result<Decision, RegoError> {
        let bad = |problem: &str| RegoError::Decision {
            name: name.to_owned(),
            problem: problem.to_owned(),
        };
        if *value == Value::Undefined {
            return Err(bad("'decision' is undefined for this source"));
        }
        let text = value.to_json_str().map_err(|error| RegoError::of_engine(name, &error))?;
        let json: Json = serde_json::from_str(&text).map_err(|error| bad(&error.to_string()))?;
        let Json::Object(decision) = json else { return Err(bad("'decision' is no object")) };
        let allow = match decision.get("allow") {
            None => false,
            Some(Json::Bool(allow)) => *allow,
            Some(_) => return Err(bad("'allow' of 'decision' is neither true nor false")),
        };
        if decision.contains_key("caps") {
            return Err(bad("its 'caps' ask for what a RUN may reach, which nobody here watches"));
        }
        let messages = match decision.get("deny_msg") {
            Some(Json::Array(messages)) => {
                messages.iter().filter_map(Json::as_str).map(str::to_owned).collect()
            }
            Some(Json::String(message)) => vec![message.clone()],
            Some(_) | None => Vec::new(),
        };
        Ok(Decision { allow, messages })
    }
}
