//! Which steps a person means.

use dcbuild_model::StepIndex;

use crate::Account;

/// Names the steps that there are, where none is what was asked for.
const NAMED_MAX: usize = 20;

/// Says that a build has no such step.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("build {build} has no step '{asked}'; it has{steps}")]
pub struct NoSuchStep {
    /// The build.
    pub build: String,
    /// What was asked for.
    pub asked: String,
    /// The steps that it has, one to a line.
    pub steps: String,
}

/// Finds steps by number (from 1), by stage, or by a part of their name; all, if nothing is asked.
pub fn pick(account: &Account, asked: Option<&str>) -> Result<Vec<StepIndex>, NoSuchStep> {
    let all = || (0..).map(StepIndex).zip(&account.steps);
    let Some(asked) = asked else { return Ok(all().map(|(at, _)| at).collect()) };
    let numbered = asked.parse::<u32>().ok().and_then(|number| number.checked_sub(1));
    if let Some(at) = numbered.map(StepIndex).filter(|at| at.index() < account.steps.len()) {
        return Ok(vec![at]);
    }
    let word = asked.to_lowercase();
    let of_stage = all().filter(|(_, step)| step.stage.to_lowercase() == word);
    let found: Vec<StepIndex> = of_stage.map(|(at, _)| at).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let named = all().filter(|(_, step)| step.name.to_lowercase().contains(&word));
    let found: Vec<StepIndex> = named.map(|(at, _)| at).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let mut steps = String::new();
    for (at, step) in all().take(NAMED_MAX) {
        steps.push_str(&format!("\n  {} {}", at.0 + 1, step.name));
    }
    if account.steps.len() > NAMED_MAX {
        steps.push_str(&format!("\n  and {} more", account.steps.len() - NAMED_MAX));
    }
    Err(NoSuchStep { build: account.build.to_string(), asked: asked.to_owned(), steps })
}
