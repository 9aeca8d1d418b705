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
        Reason::LayerDamaged { layer, at } => vec![
            format!("because its layer {layer} was damaged in the store:"),
            format!("what was left of it was put in quarantine at {}", time(*at)),
        ],
        Reason::OtherResults {} => vec![
            "because its record was made from other results of the steps before than this build took"
                .into(),
        ],
        Reason::Unreachable { since, at } => vec![
            format!("because the store could not be asked for it; build {since} of {} had it", time(*at)),
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
        Reason::Held { since, at } => vec![format!(
            "because build {since} of {} made it and kept it for nobody, as its --cache-upload said",
            time(*at)
        )],
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
    // Flags are told as they are written.
    if value.starts_with("--") { short(value) } else { format!("\"{}\"", short(value)) }
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

#[cfg(test)]
mod tests {
    use dcbuild_explain::FileChange;
    use dcbuild_model::{BuildId, Digest, LayerId, StepKey};
    use expect_test::expect;

    use super::*;

    fn step(number: u32, verdict: Verdict, reason: Option<Reason>) -> StepExplanation {
        let name = format!("[build {number}/9] RUN step {number}");
        let key = StepKey(Digest::of(b"key"));
        StepExplanation { number, name, lines: (1, 1), key, verdict, took_ms: None, reason }
    }

    fn all_changes() -> Vec<Change> {
        let text = |text: &str| Some(text.to_owned());
        let file = FileChange { path: "/a\u{1b}[31m".into(), how: "new".into() };
        vec![
            Change::Instruction { before: "RUN a".into(), after: "RUN b".into() },
            Change::Base { name: "busybox:1".into(), before: "one".into(), after: "two".into() },
            Change::Variable { name: "A".into(), given: true, before: text("1"), after: text("2") },
            Change::Variable { name: "B".into(), given: false, before: None, after: text("") },
            Change::Files { input: "context src".into(), files: vec![file], more: 3 },
            Change::Files { input: "context x".into(), files: Vec::new(), more: 0 },
            Change::Part { name: "user".into(), before: text("root"), after: None },
            Change::Part {
                name: "hosts".into(),
                before: None,
                after: text("--add-host a:1.2.3.4"),
            },
            Change::Stage { input: "stage /out".into(), step: 2, name: "RUN make".into() },
            Change::Parent { step: 1, name: "FROM busybox".into() },
        ]
    }

    /// A step for each reason.
    fn all_reasons() -> Explanation {
        let at = UnixTime { secs: 1_700_000_000, nanos: 5 };
        let layer = LayerId(Digest([0; 32]));
        let since = BuildId::from_bits(1);
        let (age, bytes) =
            (EvictionRule::Age { max_secs: 720 * 3_600 }, EvictionRule::Bytes { keep: 10 << 30 });
        let changes = all_changes();
        let steps = vec![
            StepExplanation {
                took_ms: Some(61_500),
                ..step(1, Verdict::Miss, Some(Reason::Changed { since, at, changes }))
            },
            step(2, Verdict::Hit, None),
            step(3, Verdict::HitByResult, None),
            step(4, Verdict::Unneeded, None),
            step(5, Verdict::Failed, Some(Reason::NoCache {})),
            step(6, Verdict::Shared, Some(Reason::Evicted { at, rule: age })),
            step(7, Verdict::NotRun, Some(Reason::LayerGone { layer, evicted: Some((at, bytes)) })),
            step(8, Verdict::Miss, Some(Reason::Lost { since, at })),
            step(9, Verdict::Miss, Some(Reason::Never {})),
            step(10, Verdict::Miss, Some(Reason::Held { since, at })),
            step(11, Verdict::Miss, Some(Reason::LayerDamaged { layer, at })),
            step(12, Verdict::Miss, Some(Reason::Unreachable { since, at })),
        ];
        let (build, title, submitted) = (BuildId::from_bits(2), "app:2".into(), at);
        Explanation { build, title, submitted, compared: 7, steps }
    }

    #[test]
    fn each_reason_has_its_words() {
        expect![[r#"
            build 00000000000000000000000002 of app:2, submitted 2023-11-14T22:13:20Z

              1 [build 1/9] RUN step 1
                miss, ran for 1m01s
                because of what changed since build 00000000000000000000000001 of 2023-11-14T22:13:20Z:
                  the instruction itself
                    before: RUN a
                    now:    RUN b
                  the image busybox:1
                    before: one
                    now:    two
                  build argument A: was "1", now "2"
                  ARG or ENV B: new, ""
                  files of context src
                    /a: new
                    and 3 more
                  the content of context x
                  user: gone, was "root"
                  hosts: new, --add-host a:1.2.3.4
                  what it reads, stage /out: step 2, RUN make
                  what it stands on: step 1, FROM busybox

              2 [build 2/9] RUN step 2
                hit

              3 [build 3/9] RUN step 3
                hit: what it stands on or reads was made again, with the same result

              4 [build 4/9] RUN step 4
                not needed: nothing that ran or was wanted reads it

              5 [build 5/9] RUN step 5
                miss, ran and failed
                because --no-cache was given

              6 [build 6/9] RUN step 6
                miss, another build ran it at the same time
                because its record was removed at 2023-11-14T22:13:20Z: it was not used for 30 days

              7 [build 7/9] RUN step 7
                miss, not run
                because its layer sha256:0000000000000000000000000000000000000000000000000000000000000000 was removed at 2023-11-14T22:13:20Z: it was the longest unused, and 10.73GB may stay

              8 [build 8/9] RUN step 8
                miss
                because its record is gone: build 00000000000000000000000001 of 2023-11-14T22:13:20Z had it
                and nobody noted its removal (the store was emptied, or the record was never durable)

              9 [build 9/9] RUN step 9
                miss
                because nobody ever made it: none of the 7 earlier builds that are known has a step like it

             10 [build 10/9] RUN step 10
                miss
                because build 00000000000000000000000001 of 2023-11-14T22:13:20Z made it and kept it for nobody, as its --cache-upload said

             11 [build 11/9] RUN step 11
                miss
                because its layer sha256:0000000000000000000000000000000000000000000000000000000000000000 was damaged in the store:
                what was left of it was put in quarantine at 2023-11-14T22:13:20Z

             12 [build 12/9] RUN step 12
                miss
                because the store could not be asked for it; build 00000000000000000000000001 of 2023-11-14T22:13:20Z had it
        "#]]
        .assert_eq(&explanation(&all_reasons()));
    }
}
