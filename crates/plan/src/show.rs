//! Shows a plan to people: as text, as JSON, as a graph in the DOT language, and as a picture.

mod svg;

use std::fmt::Write as _;

use dcbuild_model::StepIndex;

use crate::op::{InputSource, Op};
use crate::plan::{Plan, PlannedImage};

pub use svg::svg;

/// The plan as lines of text: stages, steps with keys and what they wait for, history and config.
pub fn text(plan: &Plan) -> String {
    let mut out = String::new();
    for stage in &plan.stages {
        let platform = if plan.index { format!(" for {}", stage.platform) } else { String::new() };
        let (index, name, base) = (stage.index.0, &stage.name, &stage.base);
        line(&mut out, format!("stage {index} {name} on {base}{platform}"));
        let steps =
            (0..).map(StepIndex).zip(&plan.steps).filter(|(_, step)| step.stage == stage.index);
        for (index, step) in steps {
            line(&mut out, format!("  step {} {}", index.0, step.name));
            line(&mut out, format!("    key {}", step.recipe));
            if let Some(parent) = step.parent {
                line(&mut out, format!("    upon step {}", parent.0));
            }
            for input in &step.inputs {
                let paths = input.selection.sources.join(" ");
                let from = match &input.source {
                    InputSource::Step { step } => format!("step {}", step.0),
                    InputSource::Scratch {} => "an empty tree".into(),
                    InputSource::Context { name, digest } => format!("context {name} ({digest})"),
                };
                line(&mut out, format!("    reads {paths} of {from}"));
            }
        }
    }
    for (number, segment) in segments(plan).iter().enumerate() {
        let steps: Vec<String> = segment.iter().map(|step| step.0.to_string()).collect();
        line(&mut out, format!("segment {number}: steps {}", steps.join(" ")));
    }
    for PlannedImage { template, .. } in &plan.images {
        let of = if plan.index { format!(" of {}", template.platform) } else { String::new() };
        line(&mut out, format!("history{of}"));
        for entry in &template.history {
            let layer = if entry.step.is_some() { "layer" } else { "-----" };
            line(&mut out, format!("  {layer} {}", entry.created_by.replace('\n', "\\n")));
        }
        line(&mut out, format!("config{of} {}", template.config));
    }
    out
}

/// The plan as one JSON document, indented.
pub fn json(plan: &Plan) -> String {
    let mut text =
        serde_json::to_string_pretty(plan).expect("a plan has string keys and no failing parts");
    text.push('\n');
    text
}

/// The plan as a graph in the DOT language of Graphviz: a box for each stage, an arrow for each wait.
pub fn dot(plan: &Plan) -> String {
    let mut out = String::from(
        "digraph plan {\n  rankdir=LR;\n  node [shape=box, fontname=\"monospace\"];\n",
    );
    for stage in &plan.stages {
        let platform = if plan.index { format!(" for {}", stage.platform) } else { String::new() };
        let name = quote(&format!("{}{platform}", stage.name));
        line(&mut out, format!("  subgraph cluster_{} {{\n    label={name};", stage.index.0));
        for (index, step) in
            (0..).map(StepIndex).zip(&plan.steps).filter(|(_, step)| step.stage == stage.index)
        {
            line(&mut out, format!("    s{} [label={}];", index.0, quote(&step.name)));
        }
        line(&mut out, "  }".into());
    }
    for (index, step) in (0..).map(StepIndex).zip(&plan.steps) {
        if let Some(parent) = step.parent {
            line(&mut out, format!("  s{} -> s{};", parent.0, index.0));
        }
        for input in &step.inputs {
            if let InputSource::Step { step } = &input.source {
                line(&mut out, format!("  s{} -> s{} [style=dashed];", step.0, index.0));
            }
        }
    }
    out.push_str("}\n");
    out
}

/// The segments: runs of consecutive steps of one stage that wait for nothing in their middle.
pub fn segments(plan: &Plan) -> Vec<Vec<StepIndex>> {
    let mut segments: Vec<Vec<StepIndex>> = Vec::new();
    for (index, step) in (0..).map(StepIndex).zip(&plan.steps) {
        let waits =
            step.inputs.iter().any(|input| matches!(input.source, InputSource::Step { .. }));
        let begins = waits || matches!(step.op, Op::Image(_));
        let upon = segments.iter_mut().find(|segment| {
            segment.last().copied() == step.parent
                && segment.last().is_some_and(|last| plan.step(*last).stage == step.stage)
        });
        match upon {
            Some(segment) if !begins => segment.push(index),
            Some(_) | None => segments.push(vec![index]),
        }
    }
    segments
}

fn line(out: &mut String, text: String) {
    writeln!(out, "{text}").expect("writing to a String cannot fail");
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
