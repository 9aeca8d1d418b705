//! Which of the records that were found are taken: decided from the outputs backwards, by one function.
//!
//! In one build a step has one result. Whoever takes a record takes what it was made from; a record that was made from
//! something else than what is taken already is no hit.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_model::{Record, StateDigest, StepIndex};

use crate::op::InputSource;
use crate::plan::Plan;

/// What becomes of a build's steps.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Choice {
    /// Records that are taken.
    pub taken: BTreeMap<StepIndex, Record>,
    /// Steps that must run, since something needs them and no record fits.
    pub run: BTreeSet<StepIndex>,
}

/// Chooses among the records found for each step, the one decided last at the end of each list. All records given must
/// have their blobs; steps without a list have no record. `wanted` are the states that outputs need.
pub fn choose(
    plan: &Plan,
    found: &BTreeMap<StepIndex, Vec<Record>>,
    wanted: &[StepIndex],
) -> Choice {
    let mut banned = BTreeSet::new();
    loop {
        let mut attempt = Attempt::new(plan, found, &banned);
        for step in wanted {
            attempt.need(*step);
        }
        match attempt.settle() {
            Ok(choice) => return choice,
            // Each round bans records that were taken, so the rounds end.
            Err(contradictory) => banned.extend(contradictory),
        }
    }
}

/// A record by its step and its place in the step's list.
type Pick = (StepIndex, usize);

struct Attempt<'a> {
    plan: &'a Plan,
    found: &'a BTreeMap<StepIndex, Vec<Record>>,
    banned: &'a BTreeSet<Pick>,
    needed: BTreeSet<StepIndex>,
    picked: BTreeMap<StepIndex, usize>,
    /// What a taken record says that a step's state is, and which record says so.
    promised: BTreeMap<StepIndex, (StateDigest, Pick)>,
    run: BTreeSet<StepIndex>,
}

impl<'a> Attempt<'a> {
    fn new(
        plan: &'a Plan,
        found: &'a BTreeMap<StepIndex, Vec<Record>>,
        banned: &'a BTreeSet<Pick>,
    ) -> Attempt<'a> {
        Attempt {
            plan,
            found,
            banned,
            needed: BTreeSet::new(),
            picked: BTreeMap::new(),
            promised: BTreeMap::new(),
            run: BTreeSet::new(),
        }
    }

    fn need(&mut self, step: StepIndex) {
        self.needed.insert(step);
    }

    fn record(&self, (step, place): Pick) -> Option<&'a Record> {
        self.found.get(&step).and_then(|records| records.get(place))
    }

    /// Goes through the needed steps from the last to the first; whatever one needs stands before it.
    fn settle(mut self) -> Result<Choice, Vec<Pick>> {
        while let Some(step) = self.needed.pop_last() {
            if self.picked.contains_key(&step) || self.run.contains(&step) {
                continue;
            }
            let places = self.found.get(&step).map_or(0, Vec::len);
            let fitting = (0..places).rev().find_map(|place| self.chain((step, place)));
            match fitting {
                Some(chain) => self.take(chain),
                None => self.run_step(step),
            }
        }
        let broken: Vec<Pick> = self
            .promised
            .iter()
            .filter(|(step, _)| self.run.contains(step))
            .map(|(_, (_, by))| *by)
            .collect();
        if !broken.is_empty() {
            return Err(broken);
        }
        let taken = self
            .picked
            .iter()
            .filter_map(|(step, place)| Some((*step, self.record((*step, *place))?.clone())));
        Ok(Choice { taken: taken.collect(), run: self.run })
    }

    fn run_step(&mut self, step: StepIndex) {
        self.run.insert(step);
        let planned = self.plan.step(step);
        self.needed.extend(planned.parent);
        for input in &planned.inputs {
            if let InputSource::Step { step } = input.source {
                self.needed.insert(step);
            }
        }
    }

    /// The records that must be taken along with one, if that is possible: one for each step below it.
    fn chain(&self, top: Pick) -> Option<Vec<Pick>> {
        let mut chain = vec![];
        let mut pick = top;
        loop {
            let record = self.record(pick)?;
            if self.banned.contains(&pick) || !self.fits(pick.0, record) {
                return None;
            }
            chain.push(pick);
            let Some(parent) = self.plan.step(pick.0).parent else { return Some(chain) };
            // A record without a parent stands upon anything (`--link`): the chain below is chosen by itself.
            let Some(below) = record.lineage.parent else { return Some(chain) };
            if let Some(place) = self.picked.get(&parent) {
                let same =
                    self.record((parent, *place)).and_then(|record| self.state(parent, record))
                        == Some(below);
                return same.then_some(chain);
            }
            if self.run.contains(&parent) {
                return None;
            }
            let records = self.found.get(&parent)?;
            let place = (0..records.len()).rev().find(|place| {
                !self.banned.contains(&(parent, *place))
                    && self.state(parent, &records[*place]) == Some(below)
            })?;
            pick = (parent, place);
        }
    }

    /// The state after a step by one of its records; unknown where the record stands upon anything.
    fn state(&self, step: StepIndex, record: &Record) -> Option<StateDigest> {
        match (record.lineage.parent, self.plan.step(step).parent) {
            (Some(parent), _) => Some(record.result.state_after(parent)),
            (None, None) => Some(record.result.state_after(StateDigest::empty())),
            (None, Some(parent)) => {
                let place = self.picked.get(&parent)?;
                let below = self.state(parent, self.record((parent, *place))?)?;
                Some(record.result.state_after(below))
            }
        }
    }

    fn fits(&self, step: StepIndex, record: &Record) -> bool {
        let promised = self.promised.get(&step);
        if promised.is_some_and(|(state, _)| self.state(step, record) != Some(*state)) {
            return false;
        }
        let inputs = step_inputs(self.plan, step);
        inputs.iter().zip(&record.lineage.inputs).all(|(input, made_from)| {
            if let Some(place) = self.picked.get(input) {
                return self.record((*input, *place)).and_then(|record| self.state(*input, record))
                    == Some(*made_from);
            }
            !self.run.contains(input)
                && self.promised.get(input).is_none_or(|(state, _)| state == made_from)
        })
    }

    fn take(&mut self, chain: Vec<Pick>) {
        for pick in chain {
            let (step, place) = pick;
            self.picked.insert(step, place);
            let Some(record) = self.record(pick) else { continue };
            let inputs = step_inputs(self.plan, step);
            for (input, made_from) in inputs.into_iter().zip(&record.lineage.inputs) {
                self.promised.entry(input).or_insert((*made_from, pick));
            }
            // A linked layer says nothing of what lies below: that is needed for its own sake.
            if record.lineage.parent.is_none() {
                self.needed.extend(self.plan.step(step).parent);
            }
        }
    }
}

/// The steps that a step reads, in the order of its lineage.
pub fn step_inputs(plan: &Plan, step: StepIndex) -> Vec<StepIndex> {
    let source = |input: &crate::op::Input| match input.source {
        InputSource::Step { step } => Some(step),
        InputSource::Scratch {} | InputSource::Context { .. } => None,
    };
    plan.step(step).inputs.iter().filter_map(source).collect()
}
