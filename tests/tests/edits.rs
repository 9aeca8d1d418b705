//! A build after any edit is what a build without a cache makes: Dockerfiles of many shapes, edited again and again and
//! built by two machines in turns, which share a bucket, and on a cluster. Each RUN writes what it finds of what others made, so that a step
//! which should have run is seen.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::image::Image;
use dcbuild_tests::merged::Node;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::running::Running;
use dcbuild_tests::s3::S3Server;
use dcbuild_tests::story::{Story, fill};
use dcbuild_tests::wait::LONG;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

const BASE: &str = "busybox:golden";

/// An instruction; a stage is told as a number, taken among those that stand before it.
#[derive(Clone, Debug)]
enum Line {
    Run,
    Argument,
    Copy { link: bool },
    CopyFrom { stage: usize, link: bool },
    RunMount { stage: usize },
}

#[derive(Clone, Debug)]
struct Stage {
    base: Option<usize>,
    lines: Vec<Line>,
}

/// What a person changes; the number is taken among all places of that kind.
#[derive(Clone, Copy, Debug)]
enum Edit {
    File(usize),
    Command(usize),
    Argument(usize),
    NewFile(usize),
    Undo,
}

/// What has been edited, and how often.
#[derive(Clone, Default)]
struct Edited {
    files: BTreeMap<usize, u32>,
    commands: BTreeMap<usize, u32>,
    arguments: BTreeMap<usize, u32>,
    new_files: BTreeMap<usize, u32>,
}

impl Edited {
    fn edit(&mut self, edit: Edit, project: &Project) {
        let (place, count, times) = match edit {
            Edit::File(place) => (place, project.copies, &mut self.files),
            Edit::Command(place) => (place, project.commands, &mut self.commands),
            Edit::Argument(place) => (place, project.arguments, &mut self.arguments),
            Edit::NewFile(place) => (place, project.copies, &mut self.new_files),
            Edit::Undo => return,
        };
        if count > 0 {
            *times.entry(place % count).or_default() += 1;
        }
    }
}

/// A Dockerfile and its files as they are after some edits.
#[derive(Default)]
struct Project {
    dockerfile: String,
    files: Vec<ContextEntry>,
    copies: usize,
    commands: usize,
    arguments: usize,
}

impl Project {
    fn new(stages: &[Stage], edited: &Edited) -> Project {
        let mut project = Project::default();
        for (place, stage) in stages.iter().enumerate() {
            let earlier = |number: usize| (place > 0).then(|| number % place);
            let base = stage.base.and_then(earlier);
            let base = base.map_or(BASE.to_owned(), |base| format!("s{base}"));
            project.line(&format!("FROM {base} AS s{place}"));
            for line in &stage.lines {
                project.instruction(line, &earlier, edited);
            }
        }
        // What the last stage does not need is built all the same, so that all edits count.
        project.line(&format!("FROM {BASE}"));
        for place in 0..stages.len() {
            project.line(&format!("COPY --from=s{place} / /all/{place}/"));
        }
        project
    }

    fn line(&mut self, line: &str) {
        writeln!(self.dockerfile, "{line}").unwrap();
    }

    fn instruction(
        &mut self,
        line: &Line,
        earlier: &dyn Fn(usize) -> Option<usize>,
        edited: &Edited,
    ) {
        let flag = |link: bool| if link { "--link " } else { "" };
        match *line {
            Line::Run => self.run("", edited),
            Line::Argument => {
                let times = edited.arguments.get(&self.arguments).copied().unwrap_or_default();
                self.line(&format!("ARG A{}=value{times}", self.arguments));
                self.arguments += 1;
            }
            Line::Copy { link } => self.copy(flag(link), edited),
            Line::CopyFrom { stage, link } => match earlier(stage) {
                Some(from) => {
                    let to = self.commands;
                    self.line(&format!(
                        "COPY {}--from=s{from} /made /made/{from}-{to}/",
                        flag(link)
                    ));
                }
                None => self.run("", edited),
            },
            Line::RunMount { stage } => match earlier(stage) {
                Some(from) => {
                    self.run(&format!("--mount=from=s{from},source=/made,target=/m "), edited);
                }
                None => self.run("", edited),
            },
        }
    }

    /// Writes down all that was made so far, variables and mounts included.
    fn run(&mut self, flags: &str, edited: &Edited) {
        let number = self.commands;
        let times = edited.commands.get(&number).copied().unwrap_or_default();
        self.line(&format!(
            "RUN {flags}mkdir -p /made && (echo {number} {times}; env | grep ^A | sort; \
             find /made /m -type f 2>/dev/null | sort | while read f; do echo $f; cat $f; done) \
             | sha256sum > /r && mv /r /made/r{number}"
        ));
        self.commands += 1;
    }

    fn copy(&mut self, flag: &str, edited: &Edited) {
        let number = self.copies;
        let times = edited.files.get(&number).copied().unwrap_or_default();
        self.files.push(ContextEntry::file(&format!("c{number}/file"), &format!("{times}\n")));
        for new in 0..edited.new_files.get(&number).copied().unwrap_or_default() {
            self.files.push(ContextEntry::file(&format!("c{number}/new{new}"), "new\n"));
        }
        self.line(&format!("COPY {flag}c{number} /made/c{number}/"));
        self.copies += 1;
    }
}

fn line() -> impl Strategy<Value = Line> {
    prop_oneof![
        3 => Just(Line::Run),
        1 => Just(Line::Argument),
        3 => any::<bool>().prop_map(|link| Line::Copy { link }),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(stage, link)| Line::CopyFrom { stage, link }),
        1 => any::<usize>().prop_map(|stage| Line::RunMount { stage }),
    ]
}

fn stages() -> impl Strategy<Value = Vec<Stage>> {
    // Each stage makes something first, so that others find what they copy.
    let stage = (proptest::option::of(any::<usize>()), prop::collection::vec(line(), 1..5));
    let stage = stage.prop_map(|(base, mut lines)| {
        lines.insert(0, Line::Run);
        Stage { base, lines }
    });
    prop::collection::vec(stage, 1..4)
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        3 => any::<usize>().prop_map(Edit::File),
        3 => any::<usize>().prop_map(Edit::Command),
        1 => any::<usize>().prop_map(Edit::Argument),
        1 => any::<usize>().prop_map(Edit::NewFile),
        1 => Just(Edit::Undo),
    ];
    prop::collection::vec(edit, 2..5)
}

/// Where builds share a cache.
trait Cached {
    /// Builds the project as it is now.
    fn build(&self, turn: usize, project: &Project) -> Image;
}

/// Two machines with a bucket.
struct Machines {
    s3: S3Server,
    homes: [Home; 2],
}

impl Machines {
    fn start(registry: &Registry) -> Machines {
        let homes = [(); 2].map(|()| Home::new(&registry.as_docker_io()));
        Machines { s3: S3Server::start(), homes }
    }
}

impl Cached for Machines {
    fn build(&self, turn: usize, project: &Project) -> Image {
        let home = &self.homes[turn % 2];
        let mut command = home.command(["build", "--store", &self.s3.url("acme")]);
        command.envs(self.s3.environment());
        built(home, command, project)
    }
}

impl Cached for Cluster {
    fn build(&self, _turn: usize, project: &Project) -> Image {
        built(&self.home, self.command("submit"), project)
    }
}

/// Runs a command that builds.
fn built(home: &Home, mut command: Command, project: &Project) -> Image {
    let folder = home.path("context");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    let mut entries = vec![ContextEntry::file("Dockerfile", &project.dockerfile)];
    entries.extend(project.files.iter().cloned());
    write_context(&folder, &entries);
    let output = format!("type=oci,dest={}", home.arg("image.tar"));
    command.args(["--progress", "plain", "--output", &output, &home.arg("context")]);
    let done = Running::start(command).finish(LONG);
    assert!(done.status.success(), "{}\n{}", project.dockerfile, done.stderr);
    Image::read_tar(&home.path("image.tar"))
}

fn contents(image: &Image) -> BTreeMap<String, String> {
    let node =
        |(path, node): (String, &Node)| (path, format!("{:?}", Node { mtime: 0, ..node.clone() }));
    image.tree().walk().map(node).collect()
}

/// Builds, edits and builds again; each build must be as one without a cache.
fn check(
    registry: &Registry,
    site: &dyn Cached,
    stages: &[Stage],
    edits: &[Edit],
) -> Result<(), TestCaseError> {
    let bare = Home::new(&registry.as_docker_io());
    let mut history = vec![Edited::default()];
    site.build(0, &Project::new(stages, &history[0]));
    for (turn, edit) in (1..).zip(edits) {
        let mut edited = history.last().cloned().unwrap_or_default();
        if matches!(edit, Edit::Undo) && history.len() > 1 {
            history.pop();
            edited = history.last().cloned().unwrap_or_default();
        } else {
            edited.edit(*edit, &Project::new(stages, &edited));
            history.push(edited.clone());
        }
        let project = Project::new(stages, &edited);
        let cached = contents(&site.build(turn, &project));
        let anew = contents(&built(&bare, bare.command(["build", "--no-cache"]), &project));
        let mut names = cached.keys().chain(anew.keys());
        if let Some(name) = names.find(|name| cached.get(*name) != anew.get(*name)) {
            return Err(TestCaseError::fail(format!(
                "{name} after {edit:?}: {:?}, without a cache {:?}\n{}",
                cached.get(name),
                anew.get(name),
                project.dockerfile
            )));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4, max_shrink_iters: 12, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn an_edited_build_is_a_build_without_a_cache(stages in stages(), edits in edits()) {
        let registry = Registry::start();
        fill(&registry);
        check(&registry, &Machines::start(&registry), &stages, &edits)?;
    }

    #[test]
    fn an_edited_build_on_a_cluster_is_a_build_without_a_cache(
        stages in stages(),
        edits in edits(),
    ) {
        let registry = Registry::start();
        fill(&registry);
        let cluster = Cluster::start(Home::new(&registry.as_docker_io()), 2, 2);
        check(&registry, &cluster, &stages, &edits)?;
    }
}

/// Two checkouts of one commit belong to whoever made them: no step can see that, and none is made again for it.
#[test]
fn whose_the_files_are_changes_nothing() {
    let text = "FROM busybox:golden\nRUN --mount=type=bind,target=/in ls -ln /in\nCOPY f /f\nRUN ls -ln /f\n";
    let story = Story::new(text, &[("f", "text")]);
    assert_eq!(story.build(&[]).ran.len(), 3);
    for path in ["", "f"] {
        std::os::unix::fs::chown(story.context().join(path), Some(1234), Some(5678)).unwrap();
    }
    assert_eq!(story.build(&[]).ran, Vec::<String>::new());
}
