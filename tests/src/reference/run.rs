//! Runs the cases of a page.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use crate::files::{ContextEntry, write_context};
use crate::image::Image;
use crate::reference::case::{Case, read};
use crate::reference::expect::Expectation;
use crate::reference::judge::{Outcome, misses};
use crate::reference::world::World;
use crate::running::{Finished, Running};

/// How long the lines of one case may take.
const CASE: Duration = Duration::from_mins(1);

/// The environment's variable that picks cases by a part of their names.
const ONLY: &str = "REFERENCE";

/// `dcbuild` in a case: what it says goes to a file, so that the last one of a case is what counts.
const BUILD: &str = r#"dcbuild() {
    shift
    "$DCBUILD" build $FRESH --progress plain --output "type=oci,dest=$OUT/image.tar" "$@" > "$OUT/stdout" 2> "$OUT/stderr"
}
"#;

/// What a case takes that builds once: nothing that another case has made, so that what runs is seen.
const FRESH: &str = "--no-cache";

/// The same, where a plan shows all that is expected.
const PLAN: &str = r#"dcbuild() {
    shift
    "$DCBUILD" plan --format json "$@" > "$OUT/stdout" 2> "$OUT/stderr"
}
"#;

/// Checks all cases of a page.
pub fn check_page(page: &str) {
    let only = std::env::var_os(ONLY).map(|name| name.to_string_lossy().into_owned());
    let cases = read(page).into_iter();
    let cases: VecDeque<Case> =
        cases.filter(|case| only.as_ref().is_none_or(|only| case.name.contains(only))).collect();
    if cases.is_empty() {
        return;
    }
    let count = cases.len();
    let world = World::start(&|word: &str| cases.iter().any(|case| case.asks_for(word)));
    let todo = Mutex::new((0..).zip(cases).collect::<VecDeque<(usize, Case)>>());
    let wrong: Mutex<Vec<(usize, String)>> = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some((place, case)) = todo.lock().unwrap().pop_front() else { return };
                    let found = run(&world, place, &case);
                    if !found.is_empty() {
                        wrong.lock().unwrap().push((place, told(page, &case, &found)));
                    }
                }
            });
        }
    });
    let mut wrong = wrong.into_inner().unwrap();
    wrong.sort();
    let report: String = wrong.iter().map(|(_, text)| text.as_str()).collect();
    assert!(
        report.is_empty(),
        "{} of {count} cases are not as {page}.md says\n{report}",
        wrong.len()
    );
}

fn told(page: &str, case: &Case, misses: &[String]) -> String {
    let (line, heading, name) = (case.line, &case.heading, &case.name);
    let mut out = format!("\n{page}.md:{line}: {heading}: {name}\n  > {}\n", case.sentence);
    for miss in misses {
        writeln!(out, "  {miss}").unwrap();
    }
    out
}

/// How much of a case is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Extent {
    Planned,
    Built,
}

/// What of a case is not as expected.
fn run(world: &World, place: usize, case: &Case) -> Vec<String> {
    let folder = world.home.path(&format!("cases/{place}"));
    let filled: Vec<Expectation> = case.expectations.iter().map(|it| it.filled(world)).collect();
    let seen = filled.iter().any(Expectation::needs_build);
    let extent = if seen { Extent::Built } else { Extent::Planned };
    let mut outcome = shell(world, &folder, case, 0, extent);
    if case.dockerfiles.len() > 1 {
        assert_eq!(extent, Extent::Planned, "{}: two are planned only", case.name);
        outcome.other = shell(world, &folder, case, 1, extent).plan;
    }
    let found = misses(&outcome, &filled);
    std::fs::remove_dir_all(&folder).unwrap();
    found
}

/// Writes the context, with one of the Dockerfiles, and runs the console's lines in it.
fn shell(world: &World, folder: &Path, case: &Case, which: usize, extent: Extent) -> Outcome {
    let context = folder.join(format!("context{which}"));
    let out = folder.join(format!("out{which}"));
    std::fs::create_dir_all(&out).unwrap();
    let dockerfile = case.dockerfiles.get(which);
    let dockerfile =
        dockerfile.map(|file| ContextEntry::file(&file.path, &world.filled(&file.text)));
    let entries: Vec<ContextEntry> = dockerfile.into_iter().chain(case.files.clone()).collect();
    write_context(&context, &entries);
    let lines = world.filled(&case.console);
    let lines = lines.lines().map(|line| line.strip_prefix("$ ").unwrap_or(line));
    let mut script = match extent {
        Extent::Built => BUILD.to_owned(),
        Extent::Planned => PLAN.to_owned(),
    };
    for line in lines {
        writeln!(script, "{line}").unwrap();
    }
    let dcbuild = world.home.command::<&str>([]);
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(script).env_clear().current_dir(&context);
    for (name, value) in dcbuild.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let fresh = if case.console.matches("dcbuild build").count() == 1 { FRESH } else { "" };
    command.env("DCBUILD", dcbuild.get_program()).env("OUT", &out).env("FRESH", fresh);
    let ended = Running::start(command).finish(CASE);
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap_or_default();
    // Where nothing ran, the shell says why.
    let done = Finished { stderr: read("stderr") + &ended.stderr, ..ended };
    let (mut image, mut plan) = (None, None);
    match extent {
        _ if !done.status.success() => {}
        Extent::Built => image = Some(Image::read_tar(&out.join("image.tar"))),
        Extent::Planned => plan = Some(serde_json::from_str(&read("stdout")).unwrap()),
    }
    Outcome { below: below(image.as_ref(), world), done, plan, image, other: None }
}

/// How many layers of an image are its base's.
fn below(image: Option<&Image>, world: &World) -> usize {
    let first = image.and_then(|image| image.diff_ids().into_iter().next());
    usize::from(first.as_ref() == Some(&world.base))
}
