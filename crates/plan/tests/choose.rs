//! Which records are taken; above all: no layer ever lies on a parent that it was not made from.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::BTreeMap;

use dcbuild_model::{
    AttemptId, ChangeDigest, Digest, LayerId, LayerRef, Lineage, Record, StateDigest, StepIndex,
    StepResult, UnixTime, WorkerId,
};
use dcbuild_plan::choose::step_inputs;
use dcbuild_plan::op::Op;
use dcbuild_plan::{ContextSource, Need, Plan, Planned, Request, Sources, choose, plan};
use proptest::prelude::*;

fn planned(dockerfile: &str) -> Plan {
    let mut request = Request::new(dockerfile);
    request.contexts.insert("base".into(), ContextSource::Folder {});
    let mut sources = Sources::default();
    loop {
        match plan(&request, &sources).unwrap() {
            Planned::Ready(plan) => return *plan,
            Planned::Lacks(needs) => {
                for need in needs {
                    let Need::Selection { context, selection } = need else { panic!("{need:?}") };
                    let digest = dcbuild_model::SelectionDigest(Digest::of(b"selection"));
                    sources.selections.insert((context, selection), Ok(digest));
                }
            }
        }
    }
}

/// A record of a step that made `version`, upon the states of one execution of each step below.
fn record(
    plan: &Plan,
    step: StepIndex,
    version: u8,
    states: &BTreeMap<StepIndex, StateDigest>,
) -> Record {
    let change = ChangeDigest(Digest::of(&[u8::try_from(step.0).unwrap(), version]));
    let planned = plan.step(step);
    let attempt = AttemptId::from_bits(u128::from(step.0) * 100 + u128::from(version));
    Record {
        recipe: planned.recipe,
        outcome: None,
        attempt,
        worker: WorkerId::from_bits(1),
        result: StepResult {
            layers: vec![LayerRef {
                layer: LayerId(change.0),
                change,
                entries: 1,
                bytes: 1,
                base: None,
            }],
            created: UnixTime::default(),
        },
        lineage: Lineage {
            parent: planned.parent.filter(|_| !is_linked(plan, step)).map(|parent| states[&parent]),
            inputs: step_inputs(plan, step).iter().map(|input| states[input]).collect(),
            selections: Vec::new(),
        },
        components: Vec::new(),
        took_ms: 0,
    }
}

fn is_linked(plan: &Plan, step: StepIndex) -> bool {
    matches!(&plan.step(step).op, Op::Copy(copy) if copy.link)
}

/// The state after each step of some that stand for all below them as well.
fn states(plan: &Plan, records: &BTreeMap<StepIndex, Record>) -> BTreeMap<StepIndex, StateDigest> {
    let mut states = BTreeMap::new();
    for (step, record) in records {
        let parent = plan
            .step(*step)
            .parent
            .map_or(Some(StateDigest::empty()), |parent| states.get(&parent).copied());
        if let Some(below) = record.lineage.parent.or(parent) {
            states.insert(*step, record.result.state_after(below));
        }
    }
    states
}

/// Executes the whole plan once; each step makes the version that it is given.
fn execution(plan: &Plan, versions: &[u8]) -> Vec<Record> {
    let mut states = BTreeMap::new();
    let mut records = Vec::new();
    for (index, version) in (0..).map(StepIndex).zip(versions).take(plan.steps.len()) {
        let record = record(plan, index, *version, &states);
        let below =
            plan.step(index).parent.map_or_else(StateDigest::empty, |parent| states[&parent]);
        states.insert(index, record.result.state_after(below));
        records.push(record);
    }
    records
}

const DIAMOND: &str = "FROM base AS a\nRUN a1\nRUN a2\nFROM base AS b\nRUN b1\nCOPY --from=a /x /x\nRUN b2\n\
                       FROM base\nCOPY --from=a /x /x\nCOPY --from=b /y /y\nRUN c\n";

/// The same with layers that stand upon anything.
const LINKED: &str = "FROM base AS a\nRUN a1\nCOPY --link /l /l\nFROM base AS b\nCOPY --link /k /k\nCOPY --link --from=a /x /x\nRUN b2\n\
                      FROM base\nRUN c0\nCOPY --link --from=b /y /y\nRUN c\n";

proptest! {
    #[test]
    fn taken_records_lie_on_what_they_were_made_from(
        executions in prop::collection::vec(prop::collection::vec(0u8..2, 16), 1..4),
        present in prop::collection::vec(prop::collection::vec(any::<bool>(), 16), 4),
        linked in any::<bool>(),
    ) {
        let plan = planned(if linked { LINKED } else { DIAMOND });
        let mut found: BTreeMap<StepIndex, Vec<Record>> = BTreeMap::new();
        for (versions, present) in executions.iter().zip(&present) {
            for (index, record) in (0..).map(StepIndex).zip(execution(&plan, versions)) {
                if present[index.index()] {
                    found.entry(index).or_default().push(record);
                }
            }
        }
        let wanted = plan.images[0].state.unwrap();
        let choice = choose(&plan, &found, &[wanted]);
        prop_assert!(choice.taken.contains_key(&wanted) || choice.run.contains(&wanted));
        let states = states(&plan, &choice.taken);
        for (step, record) in &choice.taken {
            prop_assert!(!choice.run.contains(step));
            if let Some(parent) = plan.step(*step).parent {
                prop_assert!(choice.taken.contains_key(&parent), "what it lies on is taken");
                if !is_linked(&plan, *step) {
                    prop_assert_eq!(states.get(&parent).copied(), record.lineage.parent);
                }
            }
            for (input, made_from) in step_inputs(&plan, *step).iter().zip(&record.lineage.inputs) {
                prop_assert!(!choice.run.contains(input), "an input that runs anew may come out otherwise");
                if choice.taken.contains_key(input) {
                    prop_assert_eq!(states.get(input), Some(made_from));
                }
            }
        }
        for step in &choice.run {
            let planned = plan.step(*step);
            for needed in planned.parent.into_iter().chain(step_inputs(&plan, *step)) {
                prop_assert!(choice.taken.contains_key(&needed) || choice.run.contains(&needed));
            }
        }
    }
}

#[test]
fn what_nobody_needs_neither_runs_nor_is_taken() {
    for dockerfile in [DIAMOND, LINKED] {
        let plan = planned(dockerfile);
        let records = execution(&plan, &[0; 16]);
        let all = (0..).map(StepIndex).zip(records.into_iter().map(|record| vec![record]));
        let choice = choose(&plan, &all.collect(), &[plan.images[0].state.unwrap()]);
        assert!(choice.run.is_empty(), "{dockerfile}");
        assert_eq!(
            choice.taken.keys().copied().collect::<Vec<_>>(),
            plan.chain(plan.images[0].state),
            "the stages that were copied from are not"
        );
    }
}

#[test]
fn a_missing_input_does_not_matter_when_its_reader_is_a_hit() {
    let plan = planned(DIAMOND);
    let records = execution(&plan, &[0; 16]);
    let chain = plan.chain(plan.images[0].state);
    let found = (0..).map(StepIndex).zip(records.into_iter().map(|record| vec![record]));
    let found = found.filter(|(step, _)| chain.contains(step)).collect();
    assert!(choose(&plan, &found, &[plan.images[0].state.unwrap()]).run.is_empty());
}

/// A linked layer is asked for when it is known what it lies on; what it is copied from is a hit all the same.
#[test]
fn a_linked_layer_upon_a_step_that_runs_needs_what_it_is_copied_from() {
    let plan = planned(LINKED);
    let chain = plan.chain(plan.images[0].state);
    let below = chain[1];
    let all = (0..).map(StepIndex).zip(execution(&plan, &[0; 16]));
    let found = all.filter(|(step, _)| *step != below).map(|(step, record)| (step, vec![record]));
    let choice = choose(&plan, &found.collect(), &[plan.images[0].state.unwrap()]);
    assert_eq!(choice.run.into_iter().collect::<Vec<_>>(), chain[1..]);
    let source = step_inputs(&plan, chain[2])[0];
    assert!(choice.taken.contains_key(&source), "{:?}", choice.taken.keys());
}

#[test]
fn the_record_decided_last_wins_where_it_fits() {
    let plan = planned("FROM base\nRUN a\n");
    let (first, second) = (execution(&plan, &[0, 0]), execution(&plan, &[0, 1]));
    let last = second[1].clone();
    let found = BTreeMap::from([
        (StepIndex(0), vec![first[0].clone()]),
        (StepIndex(1), vec![first[1].clone(), last.clone()]),
    ]);
    assert_eq!(choose(&plan, &found, &[StepIndex(1)]).taken[&StepIndex(1)], last);
}
