//! Which of the records that were found are taken: decided from the outputs backwards, by one function.
//!
//! In one build a step has one result. Whoever takes a record takes what it was made from; a record that was made from
//! something else than what is taken already is no hit.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_model::{Record, StateDigest, StepIndex};

use crate::op::InputSource;
use crate::plan::Plan;

/// How many states of one step are looked at. Only linked layers make many of few records.
const STATES_MAX: usize = 64;

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
            let fitting = match self.promised.get(&step) {
                Some((state, _)) => self.chain_to(step, *state),
                None => self.records(step).rev().find_map(|(place, _)| self.chain((step, place))),
            };
            match fitting {
                Some(chain) => self.take(chain),
                None => self.run_step(step),
            }
        }
        let broken = self.promised.iter().filter(|(step, _)| self.run.contains(step));
        let mut broken: Vec<Pick> = broken.map(|(_, (_, by))| *by).collect();
        broken.extend(self.ungrounded());
        if !broken.is_empty() {
            return Err(broken);
        }
        let taken = self
            .picked
            .iter()
            .filter_map(|(step, place)| Some((*step, self.record((*step, *place))?.clone())));
        Ok(Choice { taken: taken.collect(), run: self.run })
    }

    /// All records of the steps whose record says nothing of what lies below, where that has to run: such a step is asked
    /// for once it is known what it stands on, and what it reads must be had till then.
    fn ungrounded(&self) -> Vec<Pick> {
        let waits = |step: &StepIndex| {
            self.plan.step(*step).parent.is_some_and(|parent| !self.picked.contains_key(&parent))
        };
        let steps = self.picked.keys().copied().filter(waits);
        steps.flat_map(|step| self.records(step).map(move |(place, _)| (step, place))).collect()
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

    /// One record and those that must be taken along with it, if that is possible: one for each step below it. A record
    /// without a parent stands upon anything (`--link`): the chain below it is chosen by itself.
    fn chain(&self, top: Pick) -> Option<Vec<Pick>> {
        let record = self.record(top)?;
        if self.banned.contains(&top) || !self.inputs_fit(top.0, record) {
            return None;
        }
        let mut chain = vec![top];
        if let (Some(parent), Some(below)) = (self.plan.step(top.0).parent, record.lineage.parent) {
            chain.append(&mut self.chain_to(parent, below)?);
        }
        Some(chain)
    }

    /// The records by which a step has this state: its own and one for each step below, less what is picked already.
    fn chain_to(&self, top: StepIndex, state: StateDigest) -> Option<Vec<Pick>> {
        let mut chain = vec![];
        let (mut step, mut wanted) = (top, state);
        loop {
            if let Some(place) = self.picked.get(&step) {
                let state = self.record((step, *place)).and_then(|it| self.state(step, it));
                return (state == Some(wanted)).then_some(chain);
            }
            let promised = self.promised.get(&step);
            if self.run.contains(&step) || promised.is_some_and(|(state, _)| *state != wanted) {
                return None;
            }
            let records = self.found.get(&step)?;
            let (place, below) = (0..records.len()).rev().find_map(|place| {
                let record = &records[place];
                let fits = !self.banned.contains(&(step, place)) && self.inputs_fit(step, record);
                fits.then(|| self.below(step, record, wanted)).flatten().map(|below| (place, below))
            })?;
            chain.push((step, place));
            let Some(parent) = self.plan.step(step).parent else { return Some(chain) };
            (step, wanted) = (parent, below);
        }
    }

    /// The state that must lie below a record for its step to have the state that is wanted.
    fn below(&self, step: StepIndex, record: &Record, wanted: StateDigest) -> Option<StateDigest> {
        let parent = self.plan.step(step).parent;
        let possible = match (record.lineage.parent, parent) {
            (Some(below), _) => vec![below],
            (None, None) => vec![StateDigest::empty()],
            (None, Some(parent)) => self.states(parent),
        };
        possible.into_iter().find(|below| record.result.state_after(*below) == wanted)
    }

    /// The states that a step can have by what was found.
    fn states(&self, top: StepIndex) -> Vec<StateDigest> {
        let mut linked = vec![];
        let mut step = top;
        let stands_on_anything = |record: &Record| record.lineage.parent.is_none();
        while let Some(parent) = self.plan.step(step).parent
            && !self.picked.contains_key(&step)
            && self.found.get(&step).is_some_and(|found| found.iter().all(stands_on_anything))
        {
            linked.push(step);
            step = parent;
        }
        let picked = self.picked.get(&step);
        let own = |(place, record)| {
            let is_open = picked.map_or(!self.banned.contains(&(step, place)), |it| *it == place);
            is_open.then(|| self.state(step, record)).flatten()
        };
        let mut states: Vec<StateDigest> = self.records(step).rev().filter_map(own).collect();
        for step in linked.into_iter().rev() {
            let open = self
                .records(step)
                .rev()
                .filter(|(place, _)| !self.banned.contains(&(step, *place)));
            let after = open.flat_map(|(_, record)| {
                states.iter().map(|below| record.result.state_after(*below))
            });
            states = after.take(STATES_MAX).collect();
        }
        states
    }

    fn records(
        &self,
        step: StepIndex,
    ) -> impl DoubleEndedIterator<Item = (usize, &'a Record)> + use<'a> {
        self.found.get(&step).map(Vec::as_slice).unwrap_or_default().iter().enumerate()
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

    fn inputs_fit(&self, step: StepIndex, record: &Record) -> bool {
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
