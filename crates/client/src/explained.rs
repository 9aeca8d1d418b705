//! An explanation of misses, for people.

use dcbuild_explain::{Change, Explanation, Reason, StepExplanation, Verdict};
use dcbuild_model::{EvictionRule, UnixTime};
use dcbuild_progress::text::{bytes, printable};

/// A value longer than this is cut.
const VALUE_CHARS_MAX: usize = 120;

/// Writes an explanation as text, one paragraph for each step.
pub fn explanation(explanation: &Explanation) -> String {
    let Explanation { build, title, submitted, compared, steps } = explanation;
    let title = printable(title);
    let mut text = format!("build {build} of {title}, submitted {}\n", time(*submitted));
    for step in steps {
        text.push('\n');
        self::step(step, *compared, &mut text);
    }
    text
}

fn step(step: &StepExplanation, compared: u64, text: &mut String) {
    let name = printable(&step.name);
    let verdict = match step.verdict {
        Verdict::Hit => "hit".to_owned(),
        Verdict::HitByResult => {
            "hit: what it stands on or reads was made again, with the same result".to_owned()
        }
        Verdict::Miss => match step.took_ms {
            Some(took) => format!("miss, ran for {}", duration(took)),
            None => "miss".to_owned(),
        },
        Verdict::Shared => "miss, another build ran it at the same time".to_owned(),
        Verdict::Failed => "miss, ran and failed".to_owned(),
        Verdict::Unneeded => "not needed: nothing that ran or was wanted reads it".to_owned(),
        Verdict::NotRun => "miss, not run".to_owned(),
    };
    text.push_str(&format!("{:>3} {name}\n    {verdict}\n", step.number));
    if let Some(reason) = &step.reason {
        for line in lines(reason, compared) {
            text.push_str(&format!("    {line}\n"));
        }
    }
}

fn lines(reason: &Reason, compared: u64) -> Vec<String> {
    match reason {
        Reason::NoCache {} => vec!["because --no-cache was given".into()],
        Reason::NoCacheFilter { stage } => {
            vec![format!("because --no-cache-filter names the stage {}", printable(stage))]
        }
        Reason::Evicted { at, rule } => {
            vec![format!("because its record was removed at {}: {}", time(*at), self::rule(rule))]
        }
        Reason::LayerGone { layer, evicted: Some((at, rule)) } => vec![format!(
            "because its layer {layer} was removed at {}: {}",
            time(*at),
            self::rule(rule)
        )],
        Reason::LayerGone { layer, evicted: None } => vec![format!(
            "because its layer {layer} is not to be had any more, though its record is there"
        )],
        Reason::OtherResults {} => vec![
            "because its record was made from other results of the steps before than this build took"
                .into(),
        ],
        Reason::Changed { since, at, changes } => {
            let head = format!("because of what changed since build {since} of {}:", time(*at));
            let changes = changes.iter().flat_map(change).map(|line| format!("  {line}"));
            std::iter::once(head).chain(changes).collect()
        }
        Reason::Lost { since, at } => vec![
            format!("because its record is gone: build {since} of {} had it", time(*at)),
            "and nobody noted its removal (the store was emptied, or the record was never durable)"
                .into(),
        ],
        Reason::Never {} if compared == 0 => {
            vec!["because no earlier build is known here".into()]
        }
        Reason::Never {} => vec![format!(
            "because nobody ever made it: none of the {compared} earlier builds that are known \
             has a step like it"
        )],
    }
}

fn change(change: &Change) -> Vec<String> {
    match change {
        Change::Instruction { before, after } => vec![
            "the instruction itself".into(),
            format!("  before: {}", short(before)),
            format!("  now:    {}", short(after)),
        ],
        Change::Variable { name, given, before, after } => {
            let what = if *given { "build argument" } else { "ARG or ENV" };
            vec![format!(
                "{what} {}: {}",
                printable(name),
                moved(before.as_deref(), after.as_deref())
            )]
        }
        Change::Base { name, before, after } => vec![
            format!("the image {}", printable(name)),
            format!("  before: {before}"),
            format!("  now:    {after}"),
        ],
        Change::Files { input, files, more } if files.is_empty() => {
            vec![format!("the content of {}{}", printable(input), and_more(*more))]
        }
        Change::Files { input, files, more } => {
            let head = format!("files of {}", printable(input));
            let files = files
                .iter()
                .map(|file| format!("  {}: {}", printable(&file.path), printable(&file.how)));
            let more = (*more > 0).then(|| format!("  and {more} more"));
            std::iter::once(head).chain(files).chain(more).collect()
        }
        Change::Parent { step, name } => {
            vec![format!("what it stands on: step {step}, {}", printable(name))]
        }
        Change::Stage { input, step, name } => {
            vec![format!("what it reads, {}: step {step}, {}", printable(input), printable(name))]
        }
        Change::Part { name, before, after } => {
            vec![format!("{}: {}", printable(name), moved(before.as_deref(), after.as_deref()))]
        }
    }
}

fn and_more(more: u64) -> String {
    if more == 0 { String::new() } else { format!(" ({more} files)") }
}

fn moved(before: Option<&str>, after: Option<&str>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!("was {}, now {}", quoted(before), quoted(after)),
        (None, Some(after)) => format!("new, {}", quoted(after)),
        (Some(before), None) => format!("gone, was {}", quoted(before)),
        (None, None) => "changed".into(),
    }
}

fn quoted(value: &str) -> String {
    format!("\"{}\"", short(value))
}

fn short(value: &str) -> String {
    let value = printable(value);
    if value.chars().count() <= VALUE_CHARS_MAX {
        return value;
    }
    value.chars().take(VALUE_CHARS_MAX).chain("..".chars()).collect()
}

/// A rule of removal, as the reason that it was.
pub fn rule(rule: &EvictionRule) -> String {
    match rule {
        EvictionRule::Bytes { keep } => {
            format!("it was the longest unused, and {} may stay", bytes(*keep))
        }
        EvictionRule::Age { max_secs } => {
            format!("it was not used for {}", duration(max_secs.saturating_mul(1_000)))
        }
        EvictionRule::All {} => "everything that nobody used was to go".to_owned(),
    }
}

fn time(time: UnixTime) -> String {
    UnixTime { nanos: 0, ..time }.rfc3339()
}

fn duration(millis: u64) -> String {
    let secs = millis / 1_000;
    match secs {
        0 => format!("{millis}ms"),
        1..60 => format!("{secs}.{}s", millis % 1_000 / 100),
        60..3_600 => format!("{}m{:02}s", secs / 60, secs % 60),
        3_600..172_800 => format!("{}h{:02}m", secs / 3_600, secs / 60 % 60),
        _ => format!("{} days", secs / 86_400),
    }
}
