//! Builds the cases of a family with the binary, and tells which differ.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use crate::base::{busybox, busybox_layer};
use crate::cluster::Cluster;
use crate::golden::case::{Case, read};
use crate::golden::{compare, failure};
use crate::home::Home;
use crate::image::Image;
use crate::registry::Registry;
use crate::running::Running;

/// How long one case may take.
const CASE: Duration = Duration::from_mins(1);

/// How many differences are shown as a whole, and how many lines of each.
const SHOWN_MAX: usize = 40;
const LINES_MAX: usize = 40;

/// Cases or families that differ, and why.
pub type Open = [(&'static str, &'static str)];

/// What builds the cases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Builder {
    /// `build`, on this machine alone.
    Machine,
    /// `submit`, to a coordinator with two workers, to whom the context has to be sent.
    Cluster,
}

enum Place {
    Machine(Home),
    Cluster(Box<Cluster>),
}

impl Place {
    fn home(&self) -> &Home {
        match self {
            Place::Machine(home) => home,
            Place::Cluster(cluster) => &cluster.home,
        }
    }

    fn build(&self, flags: &[&str]) -> Running {
        match self {
            Place::Machine(home) => home.start(["build"].iter().chain(flags)),
            Place::Cluster(cluster) => cluster.client("submit", flags),
        }
    }
}

struct Bench {
    place: Place,
    base: compare::Base,
    _registry: Registry,
}

impl Bench {
    fn new(builder: Builder) -> Bench {
        let registry = Registry::start();
        registry.put("library/busybox:golden", &busybox());
        let home = Home::new(&registry.as_docker_io());
        busybox().write(&home.path("base"));
        let place = match builder {
            Builder::Machine => Place::Machine(home),
            Builder::Cluster => Place::Cluster(Box::new(Cluster::start(home, 2, 2))),
        };
        Bench { place, base: compare::Base::new(&busybox_layer()), _registry: registry }
    }

    fn difference(&self, case: &Case) -> Option<String> {
        let home = self.place.home();
        let folder = home.path(&format!("cases/{}", case.name));
        std::fs::create_dir_all(&folder).unwrap();
        case.write(&folder);
        let made = folder.join("image.tar");
        let base = format!("busybox:golden=oci-layout://{}", home.arg("base"));
        let output = format!("type=oci,dest={}", made.display());
        let fixed = ["--progress", "plain", "--build-context", &base, "--output", &output];
        let given = case.arguments(&folder);
        let flags: Vec<&str> = fixed.into_iter().chain(given.iter().map(String::as_str)).collect();
        let done = self.place.build(&flags).finish(CASE);
        let found = if done.status.success() {
            compare::difference(case, &Image::read_tar(&made), &self.base)
        } else {
            match done.status.code() {
                Some(code) if code != 101 => failure::difference(case, &done.stderr),
                _ => Some(format!("  {}: {}\n", done.status, done.stderr)),
            }
        };
        std::fs::remove_dir_all(&folder).unwrap();
        found
    }
}

/// Whether the word stands for the case: its name, or the family that it belongs to.
fn stands_for(word: &str, family: &str, case: &Case) -> bool {
    word == family || word == case.name
}

/// Checks all cases of a family but the open ones; of these, each must differ still.
pub fn check_family(family: &str, open: &Open, builder: Builder) {
    let only = std::env::var_os("GOLDEN").map(|name| name.to_string_lossy().into_owned());
    let cases: VecDeque<Case> = read(family)
        .into_iter()
        .filter(|case| only.as_ref().is_none_or(|only| case.name.contains(only)))
        .collect();
    if cases.is_empty() {
        return;
    }
    let count = cases.len();
    let bench = Bench::new(builder);
    let todo = Mutex::new(cases);
    let results: Mutex<Vec<(Case, Option<String>)>> = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(case) = todo.lock().unwrap().pop_front() else { return };
                    let found = bench.difference(&case);
                    results.lock().unwrap().push((case, found));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    assert_eq!(results.len(), count);
    let report = judge(family, &results, open);
    assert!(report.is_empty(), "{report}");
}

fn judge(family: &str, results: &[(Case, Option<String>)], open: &Open) -> String {
    let mut report = String::new();
    for (word, reason) in open {
        let mut named =
            results.iter().filter(|(case, _)| stands_for(word, family, case)).peekable();
        if named.peek().is_some() && named.all(|(_, found)| found.is_none()) {
            report.push_str(&format!("{word}: agrees now; take it off the list ({reason})\n"));
        }
    }
    let wrong: Vec<(&str, &str)> = results
        .iter()
        .filter(|(case, _)| !open.iter().any(|(word, _)| stands_for(word, family, case)))
        .filter_map(|(case, found)| Some((case.name.as_str(), found.as_deref()?)))
        .collect();
    for (name, difference) in wrong.iter().take(SHOWN_MAX) {
        let lines: Vec<&str> = difference.lines().take(LINES_MAX).collect();
        report.push_str(&format!("{name}\n{}\n", lines.join("\n")));
    }
    if !wrong.is_empty() {
        let names: Vec<&str> = wrong.iter().map(|(name, _)| *name).collect();
        let (some, all) = (wrong.len(), results.len());
        report.push_str(&format!("{some} of {all} differ: {}\n", names.join(" ")));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_cases_must_differ_and_others_must_not() {
        let mut cases = read("label").into_iter();
        let mut next = |found: Option<&str>| (cases.next().unwrap(), found.map(str::to_owned));
        let results = [next(Some("  x\n")), next(None)];
        let (first, second) = (results[0].0.name.clone(), results[1].0.name.clone());
        let leak = |name: String| -> &'static str { name.leak() };
        let (first, second) = (leak(first), leak(second));
        assert_eq!(judge("label", &results, &[(first, "r")]), "");
        assert_eq!(judge("label", &results, &[("label", "r")]), "");
        let all = judge("label", &results, &[(second, "r")]);
        let lines = format!(
            "{second}: agrees now; take it off the list (r)\n{first}\n  x\n1 of 2 differ: {first}\n"
        );
        assert_eq!(all, lines);
    }
}
