//! The plan as a picture: a row for each stage, a box for each step, an arrow for each wait.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use dcbuild_model::{StageIndex, StepIndex};

use crate::op::InputSource;
use crate::plan::Plan;

const BOX_WIDTH: usize = 230;
const BOX_HEIGHT: usize = 40;
const COLUMN: usize = 270;
const ROW: usize = 90;
const LEFT: usize = 20;
const TOP: usize = 40;
/// What fits into a box, in characters.
const LABEL_MAX: usize = 34;

/// Draws the plan as SVG.
pub fn svg(plan: &Plan) -> String {
    let columns = columns(plan);
    let rows: BTreeMap<StageIndex, usize> =
        plan.stages.iter().enumerate().map(|(row, stage)| (stage.index, row)).collect();
    let place = |step: StepIndex| {
        let row = rows.get(&plan.step(step).stage).copied().unwrap_or(0);
        (LEFT + columns[step.index()] * COLUMN, TOP + row * ROW)
    };
    let width = LEFT * 2 + (columns.iter().max().copied().unwrap_or(0) + 1) * COLUMN;
    let height = TOP * 2 + plan.stages.len() * ROW;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" \
         markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#456\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (row, stage) in plan.stages.iter().enumerate() {
        let base = stage.base.split('@').next().unwrap_or(&stage.base);
        let platform = if plan.index { format!(" for {}", stage.platform) } else { String::new() };
        let title = escape(&format!("{} on {base}{platform}", stage.name));
        line(
            &mut out,
            format!(
                "<text x=\"{LEFT}\" y=\"{}\" fill=\"#345\">{title}</text>",
                TOP + row * ROW - 8
            ),
        );
    }
    for (index, step) in (0..).map(StepIndex).zip(&plan.steps) {
        let to = place(index);
        if let Some(parent) = step.parent {
            line(&mut out, arrow(place(parent), to, ""));
        }
        for input in &step.inputs {
            if let InputSource::Step { step } = &input.source {
                line(&mut out, arrow(place(*step), to, " stroke-dasharray=\"5 3\""));
            }
        }
    }
    for (index, step) in (0..).map(StepIndex).zip(&plan.steps) {
        let (x, y) = place(index);
        let (text_x, text_y) = (x + 8, y + BOX_HEIGHT / 2 + 4);
        line(
            &mut out,
            format!(
                "<g><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{BOX_WIDTH}\" height=\"{BOX_HEIGHT}\" rx=\"5\" \
                 fill=\"#eef3f8\" stroke=\"#456\"/><text x=\"{text_x}\" y=\"{text_y}\">{}</text></g>",
                escape(&format!("{}\n{}", step.name, step.recipe)),
                escape(&short(&step.name))
            ),
        );
    }
    out.push_str("</svg>\n");
    out
}

/// A step stands one column behind the last of what it waits for.
fn columns(plan: &Plan) -> Vec<usize> {
    let mut columns: Vec<usize> = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let inputs = step.inputs.iter().filter_map(|input| match &input.source {
            InputSource::Step { step } => Some(*step),
            InputSource::Scratch {} | InputSource::Context { .. } => None,
        });
        let behind =
            step.parent.into_iter().chain(inputs).map(|step| columns[step.index()] + 1).max();
        columns.push(behind.unwrap_or(0));
    }
    columns
}

fn arrow((from_x, from_y): (usize, usize), (to_x, to_y): (usize, usize), style: &str) -> String {
    let (from_x, from_y, to_y) =
        (from_x + BOX_WIDTH, from_y + BOX_HEIGHT / 2, to_y + BOX_HEIGHT / 2);
    format!(
        "<path d=\"M{from_x} {from_y}C{} {from_y} {} {to_y} {to_x} {to_y}\" fill=\"none\" stroke=\"#456\"{style} \
         marker-end=\"url(#tip)\"/>",
        from_x + 20,
        to_x.saturating_sub(30)
    )
}

fn short(name: &str) -> String {
    if name.chars().count() <= LABEL_MAX {
        return name.replace('\n', " ");
    }
    let kept: String = name.chars().take(LABEL_MAX - 1).collect();
    format!("{}…", kept.replace('\n', " "))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn line(out: &mut String, text: String) {
    writeln!(out, "{text}").expect("writing to a String cannot fail");
}
