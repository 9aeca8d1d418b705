//! Reads a transcript's lines into events and writes actions in the same words.

use std::collections::BTreeMap;

use dcbuild_model::{
    AttemptId, BlobDigest, BuildId, Digest, Epoch, LogTime, StageIndex, StateDigest, StepIndex,
    StepKey, WorkerId, limits,
};

use crate::*;

struct Player {
    scheduler: Scheduler,
    now: LogTime,
    names: BTreeMap<String, Vec<String>>,
    leases: Vec<Lease>,
    out: String,
}

/// Plays a script and returns its lines with the actions behind each.
pub(super) fn play(script: &str) -> String {
    let mut player = Player {
        scheduler: Scheduler::new(0),
        now: LogTime(0),
        names: BTreeMap::new(),
        leases: Vec::new(),
        out: String::new(),
    };
    for line in script.lines().map(str::trim) {
        player.out.push_str(&format!("> {line}\n"));
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["wait", seconds] = words.as_slice() {
            player.now.0 += seconds.parse::<u64>().unwrap() * 1_000;
            continue;
        }
        if words == ["unmet"] {
            player.unmet();
            continue;
        }
        let event = player.event(&words);
        for action in player.scheduler.apply(player.now, event) {
            let text = player.write(&action);
            player.out.push_str(&format!("  {text}\n"));
        }
    }
    player.out
}

fn id_of(name: &str) -> u128 {
    name.bytes().fold(0, |bits, byte| bits << 8 | u128::from(byte))
}

fn build_id(name: &str) -> BuildId {
    BuildId::from_bits(id_of(name))
}

fn worker_id(name: &str) -> WorkerId {
    WorkerId::from_bits(id_of(name))
}

fn made(name: &str) -> Made {
    let digest = Digest::of(name.as_bytes());
    Made { state: StateDigest(digest), record: BlobDigest(digest) }
}

fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

impl Player {
    fn unmet(&mut self) {
        for (build, platforms) in self.scheduler.unmet() {
            let kind = |platform: &Option<dcbuild_model::Platform>| {
                platform.as_ref().map_or("any".into(), ToString::to_string)
            };
            let platforms: Vec<String> = platforms.iter().map(kind).collect();
            self.out.push_str(&format!("  {} lacks {}\n", short(build), platforms.join(" ")));
        }
    }

    fn event(&mut self, words: &[&str]) -> Event {
        match words {
            ["worker", name, "joins", rest @ ..] => Event::WorkerJoined(WorkerFacts {
                worker: worker_id(name),
                slots: option(rest, "slots").map_or(1, |slots| slots.parse().unwrap()),
                capacity: Requests::default(),
                platforms: ["platform", "emulates"]
                    .into_iter()
                    .filter_map(|word| match word {
                        "platform" => option(rest, word).or(Some("linux/amd64")),
                        word => option(rest, word),
                    })
                    .map(|text| text.parse().unwrap())
                    .collect(),
                emulated: option(rest, "emulates")
                    .map(|it| it.parse().unwrap())
                    .into_iter()
                    .collect(),
            }),
            ["worker", name, "away"] => Event::WorkerAway { worker: worker_id(name) },
            ["worker", name, "lost"] => Event::WorkerLost { worker: worker_id(name) },
            ["worker", name, "has", "room"] => Event::WorkerHasRoom { worker: worker_id(name) },
            ["worker", name, "drains"] => Event::WorkerDraining { worker: worker_id(name) },
            ["worker", name, "back", running @ ..] => Event::WorkerBack {
                worker: worker_id(name),
                running: running.iter().map(|name| self.attempt(name)).collect(),
            },
            ["build", rest @ ..] => self.submission(&rest.join(" ")),
            ["cancel", name] => Event::Cancel { build: build_id(name) },
            ["forget", name] => Event::Forget { build: build_id(name) },
            ["client", name, "gone"] => {
                Event::ClientGone { build: build_id(name), grace: limits::CLIENT_GONE }
            }
            ["client", name, "back"] => Event::ClientBack { build: build_id(name) },
            ["tick"] => Event::Tick,
            ["recovered"] => Event::Recovered,
            [attempt, "old", rest @ ..] => self.report(attempt, Epoch(0), rest),
            [attempt, rest @ ..] => {
                let epoch = self.lease(attempt).epoch;
                self.report(attempt, epoch, rest)
            }
            [] => panic!("an empty line"),
        }
    }

    fn lease(&self, name: &str) -> &Lease {
        let number: usize = name.strip_prefix('t').unwrap().parse().unwrap();
        self.leases.get(number - 1).unwrap_or_else(|| panic!("no attempt {name}:\n{}", self.out))
    }

    fn attempt(&self, name: &str) -> AttemptId {
        match name {
            "t9" => AttemptId::from_bits(9),
            name => self.lease(name).attempt,
        }
    }

    fn step(&self, attempt: &str, name: &str) -> StepIndex {
        let names = &self.names[&self.lease(attempt).build.to_string()];
        let at = names.iter().position(|known| known == name).unwrap();
        StepIndex(u32::try_from(at).unwrap())
    }

    fn report(&self, name: &str, epoch: Epoch, words: &[&str]) -> Event {
        let attempt = self.lease(name).attempt;
        let fence = Fence { attempt, epoch };
        match words {
            ["done", step] => {
                let (step, state) = step.split_once('=').unwrap_or((step, step));
                let (state, lasts) =
                    state.strip_suffix('!').map_or((state, false), |it| (it, true));
                let step = step.trim_end_matches('!');
                Event::StepDone { fence, step: self.step(name, step), made: made(state), lasts }
            }
            ["hit", step] => {
                Event::StepHit { fence, step: self.step(name, step), made: made(step) }
            }
            ["durable", step] => Event::StepDurable { attempt, step: self.step(name, step) },
            ["keeps", step] => Event::StepKeptBack { attempt, step: self.step(name, step) },
            ["fails", step, why] => {
                let step = self.step(name, step);
                let fault = match option(&[why], "exit") {
                    Some(code) => StepFault::Exit { code: code.parse().unwrap() },
                    None if *why == "full" => StepFault::Infra(InfraFault::NoSpace),
                    None => StepFault::Infra(InfraFault::Sandbox),
                };
                Event::StepFailed { fence, step, fault }
            }
            ["output", "rejected"] => Event::OutputFailed { fence, fault: StepFault::Rejected },
            ["output", "infra"] => {
                Event::OutputFailed { fence, fault: StepFault::Infra(InfraFault::Network) }
            }
            ["output"] => Event::OutputDone { fence, result: made("output").record },
            ["returns", "draining"] => Event::JobReturned { fence, why: Return::Draining },
            ["returns", lost] => {
                let lost = self.step(name, option(&[lost], "lost").unwrap());
                Event::JobReturned { fence, why: Return::InputLost(lost) }
            }
            other => panic!("cannot read {other:?}"),
        }
    }

    fn submission(&mut self, text: &str) -> Event {
        let (head, steps) = text.split_once(':').unwrap();
        let head: Vec<&str> = head.split_whitespace().collect();
        let build = build_id(head[0]);
        let mut names: Vec<String> = Vec::new();
        let mut graph = Graph::default();
        for word in steps.split_whitespace() {
            let find = |name: &str| {
                let at = names.iter().position(|known| known == name).unwrap();
                StepIndex(u32::try_from(at).unwrap())
            };
            if let Some(needs) = word.strip_prefix("=>") {
                let needs = needs.split(',').map(find).collect();
                let requests = Requests::default();
                graph.outputs.push(OutputNode { needs, platform: None, requests });
                continue;
            }
            let mut flags = word.split(':');
            let (name, needs) = flags
                .next()
                .unwrap()
                .split_once('<')
                .unwrap_or((word.split(':').next().unwrap(), ""));
            let (name, stage) = name.split_once('@').unwrap_or((name, "0"));
            let parts = needs.split('+').filter_map(|need| need.strip_prefix('.')).map(find);
            let parts = parts.collect();
            let needs = needs.split('+').filter(|need| !need.is_empty());
            let mut needs = needs.map(|need| find(need.trim_start_matches('.')));
            let mut node = StepNode {
                stage: StageIndex(stage.parse().unwrap()),
                key: StepKey(Digest::of(name.as_bytes())),
                parent: needs.next(),
                inputs: needs.collect(),
                parts,
                platform: "linux/amd64".parse().unwrap(),
                kind: StepKind::Run,
                share: Share::Anyone,
                sees: Sees::KeyOnly,
                freshness: Freshness::Any,
                caches: Vec::new(),
                locked: Vec::new(),
                requests: Requests::default(),
                taken: None,
            };
            for flag in flags {
                match flag {
                    "hit" => node.taken = Some(made(name)),
                    "net" => node.sees = Sees::More,
                    "locks" => node.locked.push(CacheMount(Digest::of(b"a mount"))),
                    "tree" => node.kind = StepKind::Files,
                    "fresh" => node.freshness = Freshness::Fresh,
                    other => panic!("no flag {other}"),
                }
            }
            graph.steps.push(node);
            names.push(name.to_owned());
        }
        self.names.entry(build.to_string()).or_insert(names);
        let presence =
            if head.contains(&"detached") { Presence::Detached } else { Presence::Attached };
        Event::Submit(Submission {
            build,
            body: Digest::of(text.as_bytes()),
            scope: option(&head, "scope").unwrap_or("local").parse().unwrap(),
            priority: 0,
            presence,
            graph,
        })
    }

    fn name(&self, build: BuildId, step: StepIndex) -> String {
        let name = self.names.get(&build.to_string()).and_then(|names| names.get(step.index()));
        format!("{}.{}", short(build), name.map_or("?", String::as_str))
    }

    fn number(&self, attempt: AttemptId) -> String {
        match self.leases.iter().position(|lease| lease.attempt == attempt) {
            Some(at) => format!("t{}", at + 1),
            None => "t?".into(),
        }
    }

    fn write(&mut self, action: &Action) -> String {
        match action {
            Action::Accepted { build } => format!("accepted {}", short(build)),
            Action::Refused(Refusal::InvalidGraph { .. }) => "refused: invalid graph".into(),
            Action::Refused(Refusal::OldEpoch { .. }) => "refused: old epoch".into(),
            Action::Refused(Refusal::UnknownAttempt(_)) => "refused: unknown attempt".into(),
            Action::Refused(Refusal::BuildExists(_)) => "refused: build exists".into(),
            Action::Refused(Refusal::UnknownBuild(_)) => "refused: unknown build".into(),
            Action::Refused(other) => format!("refused: {other:?}"),
            Action::Lease(lease) => {
                if !self.leases.contains(lease) {
                    self.leases.push(lease.clone());
                }
                let work = match &lease.work {
                    Work::Steps(steps) => steps
                        .iter()
                        .map(|step| self.name(lease.build, *step))
                        .collect::<Vec<_>>()
                        .join(" "),
                    Work::Output(output) => format!("{} output {}", short(lease.build), output.0),
                };
                let attempt = self.number(lease.attempt);
                format!("lease {attempt} to worker {}: {work}", short(lease.worker))
            }
            Action::StopAttempt { attempt, why, .. } => {
                format!("stop {}: {why:?}", self.number(*attempt))
            }
            Action::CutAttempt { attempt, last, .. } => {
                let build = self.lease(&self.number(*attempt)).build;
                format!("cut {} behind {}", self.number(*attempt), self.name(build, *last))
            }
            Action::Subscribed { build, step, owner, owner_step } => {
                let (own, other) = (self.name(*build, *step), self.name(*owner, *owner_step));
                format!("{own} shares {other}")
            }
            Action::StepSettled { build, step, how, .. } => {
                let how = match how {
                    How::Ran { attempt } => format!("ran as {}", self.number(*attempt)),
                    How::Shared { attempt } => format!("shared {}", self.number(*attempt)),
                    How::Hit => "hit".into(),
                };
                format!("{} {how}", self.name(*build, *step))
            }
            Action::OutputSettled { build, output, .. } => {
                format!("{} output {} made", short(build), output.0)
            }
            Action::OutputFailed { build, output, failure } => {
                format!("{} output {} failed: {}", short(build), output.0, failure.code())
            }
            Action::Note { build, note: Note::Withdrawn { step } } => {
                format!("{} withdrawn", self.name(*build, *step))
            }
            Action::Note { build, note: Note::Moved { part } } => {
                format!("{} moved: {part:?}", short(build))
            }
            Action::Note { build, note: Note::Retry { attempts, attempts_max, fault, .. } } => {
                format!("{} lost attempt {attempts}/{attempts_max}: {fault:?}", short(build))
            }
            Action::BuildEnded { build, outcome: Outcome::Failed(failure) } => {
                format!("{} failed: {}", short(build), failure.code())
            }
            Action::BuildEnded { build, outcome } => format!("{} ended: {outcome:?}", short(build)),
            Action::Forgotten { build } => format!("forgot {}", short(build)),
            Action::WakeAt(at) => format!("wake at {}s", at.0 / 1_000),
        }
    }
}

fn short(id: impl ToString) -> String {
    // One-letter names, as 5-bit digits.
    let text = id.to_string();
    for name in "abcdefgh123456789".chars() {
        if BuildId::from_bits(id_of(&name.to_string())).to_string() == text {
            return name.to_string();
        }
    }
    text
}
