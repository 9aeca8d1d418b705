//! Where a build of dcbuild spent its time, by what it said of its progress.

use serde_json::Value;

/// What dcbuild does before and beside the steps has names that begin so.
const PLANNING: &str = "[internal]";
/// Outputs have names that begin so.
const OUTPUT: &str = "exporting";

/// The parts of a build's time, in seconds; each moment counts for the first part that something was done for.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Split {
    /// A step ran.
    pub(super) run: f64,
    /// An output was made.
    pub(super) output: f64,
    /// It was planned.
    pub(super) plan: f64,
    /// Nothing of these: starting, leasing, ending.
    pub(super) wait: f64,
}

/// Something that was done from one time to another.
type Span = (f64, f64);

/// Reads progress in its raw form, of a build that took so many seconds.
pub(super) fn split(progress: &str, took: f64) -> Split {
    let (mut run, mut output, mut plan) = (Vec::new(), Vec::new(), Vec::new());
    for line in progress.lines() {
        let Ok(said) = serde_json::from_str::<Value>(line) else { continue };
        for vertex in said["vertexes"].as_array().into_iter().flatten() {
            let Some(span) = span(vertex) else { continue };
            let name = vertex["name"].as_str().unwrap_or_default();
            if name.starts_with(PLANNING) {
                plan.push(span);
            } else if name.starts_with(OUTPUT) {
                output.push(span);
            } else {
                run.push(span);
            }
        }
    }
    let run_took = covered(&run);
    let done = [run, output].concat();
    let done_took = covered(&done);
    let all_took = covered(&[done, plan].concat());
    Split {
        run: run_took,
        output: done_took - run_took,
        plan: all_took - done_took,
        wait: (took - all_took).max(0.0),
    }
}

/// How long the step took whose name ends so.
pub(super) fn step(progress: &str, end: &str) -> Option<f64> {
    let batches = progress.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut spans = batches.filter_map(|said| {
        let vertexes = said["vertexes"].as_array()?;
        let is_it = |it: &&Value| it["name"].as_str().is_some_and(|name| name.ends_with(end));
        vertexes.iter().filter(is_it).find_map(span)
    });
    spans.next_back().map(|(started, completed)| completed - started)
}

fn span(vertex: &Value) -> Option<Span> {
    if vertex["cached"] == true {
        return None;
    }
    let time = |key: &str| seconds(vertex[key].as_str()?);
    Some((time("started")?, time("completed")?))
}

/// The seconds of the day of a time such as `2026-11-25T10:00:01.5Z`.
fn seconds(text: &str) -> Option<f64> {
    let (_, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut parts = time.split(':').map(str::parse::<f64>);
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    Some(hours.ok()? * 3600.0 + minutes.ok()? * 60.0 + seconds.ok()?)
}

/// How many seconds at least one of the spans covers.
fn covered(spans: &[Span]) -> f64 {
    let mut spans = spans.to_vec();
    spans.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut total, mut reached) = (0.0, f64::MIN);
    for (begin, end) in spans {
        total += (end - begin.max(reached)).max(0.0);
        reached = reached.max(end);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_moment_counts_once() {
        let vertex = |name: &str, from: &str, to: &str| {
            format!(
                r#"{{"vertexes":[{{"name":"{name}","started":"2026-01-01T10:00:{from}Z","completed":"2026-01-01T10:00:{to}Z"}}]}}"#
            )
        };
        let progress = [
            vertex("[internal] load build definition from Dockerfile", "00.5", "01"),
            vertex("[a 1/2] RUN one", "01", "03"),
            vertex("[b 1/2] RUN two", "02", "04"),
            vertex("exporting to image", "04", "05.5"),
            "no progress".to_owned(),
        ];
        let split = split(&progress.join("\n"), 6.0);
        assert_eq!(split, Split { run: 3.0, output: 1.5, plan: 0.5, wait: 1.0 });
    }
}
