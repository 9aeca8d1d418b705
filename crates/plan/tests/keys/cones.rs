//! A key covers all that a step can see, and no more: in Dockerfiles of any shape, a changed command changes the keys of
//! the steps that it can reach, and no other's.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use dcbuild_model::StepIndex;
use dcbuild_plan::key::sees_parent;
use dcbuild_plan::op::InputSource;
use dcbuild_plan::{ContextSource, Plan, Request};
use proptest::prelude::*;

use crate::planned;

/// An instruction; a stage is told as a number, taken among those that stand before it.
#[derive(Clone, Debug)]
enum Line {
    Run,
    Workdir,
    Copy { link: bool },
    CopyFrom { stage: usize, link: bool },
    RunMount { stage: usize },
}

/// What a stage stands on, and its instructions.
#[derive(Clone, Debug)]
struct Stage {
    base: Option<usize>,
    lines: Vec<Line>,
}

fn line() -> impl Strategy<Value = Line> {
    prop_oneof![
        3 => Just(Line::Run),
        1 => Just(Line::Workdir),
        2 => any::<bool>().prop_map(|link| Line::Copy { link }),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(stage, link)| Line::CopyFrom { stage, link }),
        1 => any::<usize>().prop_map(|stage| Line::RunMount { stage }),
    ]
}

fn stages() -> impl Strategy<Value = Vec<Stage>> {
    let stage = (proptest::option::of(any::<usize>()), prop::collection::vec(line(), 1..6))
        .prop_map(|(base, lines)| Stage { base, lines });
    prop::collection::vec(stage, 1..5)
}

/// The Dockerfile, each command with a number of its own, that of `changed` with another word; and how many there are.
fn written(stages: &[Stage], changed: Option<usize>) -> (String, usize) {
    let mut text = String::new();
    let mut runs = 0;
    let mut run = |text: &mut String, flags: &str| {
        let word = if changed == Some(runs) { "after" } else { "before" };
        writeln!(text, "RUN {flags}echo {runs} {word}").unwrap();
        runs += 1;
    };
    for (place, stage) in stages.iter().enumerate() {
        let earlier = |number: usize| (place > 0).then(|| number % place);
        match stage.base.and_then(earlier) {
            Some(base) => writeln!(text, "FROM s{base} AS s{place}").unwrap(),
            None => writeln!(text, "FROM base AS s{place}").unwrap(),
        }
        for (row, line) in stage.lines.iter().enumerate() {
            let link = |link: bool| if link { "--link " } else { "" };
            match *line {
                Line::Run => run(&mut text, ""),
                Line::Workdir => writeln!(text, "WORKDIR /w{place}-{row}").unwrap(),
                Line::Copy { link: linked } => {
                    writeln!(text, "COPY {}c{place}-{row} /", link(linked)).unwrap();
                }
                Line::CopyFrom { stage, link: linked } => match earlier(stage) {
                    Some(from) => {
                        writeln!(text, "COPY --from=s{from} {}/f{row} /", link(linked)).unwrap();
                    }
                    None => run(&mut text, ""),
                },
                Line::RunMount { stage } => match earlier(stage) {
                    Some(from) => run(&mut text, &format!("--mount=from=s{from},target=/m ")),
                    None => run(&mut text, ""),
                },
            }
        }
    }
    (text, runs)
}

/// The plan of a Dockerfile whose base is a folder, so that no image is asked for.
fn planned_on_folder(dockerfile: &str) -> Plan {
    let mut request = Request::new(dockerfile.to_owned());
    request.contexts.insert("base".into(), ContextSource::Folder {});
    planned(&request)
}

/// The steps that have a part in what a step makes: in its own right, without the plan's keys.
fn cone(plan: &Plan, step: StepIndex) -> BTreeSet<StepIndex> {
    let own = plan.step(step);
    let read = own.inputs.iter().filter_map(|input| match input.source {
        InputSource::Step { step } => Some(step),
        InputSource::Scratch {} | InputSource::Context { .. } => None,
    });
    let below = own.parent.filter(|_| sees_parent(&own.op));
    let mut cone: BTreeSet<StepIndex> =
        read.chain(below).flat_map(|seen| behind(plan, seen)).collect();
    cone.insert(step);
    cone
}

/// The steps that have a part in the state that a step leaves behind.
fn behind(plan: &Plan, step: StepIndex) -> BTreeSet<StepIndex> {
    let mut all = cone(plan, step);
    if let Some(below) = plan.step(step).parent {
        all.extend(behind(plan, below));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_change_reaches_what_sees_it_and_nothing_else(stages in stages(), pick in any::<usize>()) {
        let (text, runs) = written(&stages, None);
        prop_assume!(runs > 0);
        let (other, _) = written(&stages, Some(pick % runs));
        let (before, after) = (planned_on_folder(&text), planned_on_folder(&other));
        prop_assert_eq!(before.steps.len(), after.steps.len());
        let all = || (0..u32::try_from(before.steps.len()).unwrap()).map(StepIndex);
        let changed: Vec<StepIndex> =
            all().filter(|step| before.step(*step).op != after.step(*step).op).collect();
        // A command of a stage that nothing needs is in no plan.
        prop_assert!(changed.len() <= 1);
        for step in all() {
            let reached = changed.iter().any(|it| cone(&before, step).contains(it));
            let differs = before.step(step).recipe != after.step(step).recipe;
            prop_assert_eq!(
                differs, reached, "{} in\n{}\n--\n{}", before.step(step).name, text, other
            );
        }
    }
}
