//! The world round the scheduler: clients that submit and cancel, workers that run, freeze, fail and die.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use dcbuild_model::{
    AttemptId, BlobDigest, BuildId, Digest, LogTime, Platform, StageIndex, StateDigest, StepIndex,
    StepKey, WorkerId, limits,
};
use dcbuild_scheduler::*;

use crate::watch::Watch;

/// How large a run is.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) workers: u64,
    pub(crate) builds: u64,
}

/// The generator `SplitMix64`.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % sides
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.roll(100) < chance
    }
}

/// What is to happen.
#[derive(Clone)]
enum Plan {
    Log(Event),
    /// A worker comes to the end of a step or an output.
    Work(AttemptId),
    /// A worker dies; another of its platform comes.
    Return(WorkerId),
    Die(WorkerId, &'static str),
}

#[derive(Clone)]
struct Run {
    lease: Lease,
    next: usize,
}

pub(crate) struct World {
    seed: u64,
    dice: Dice,
    now: u64,
    order: u64,
    plans: BTreeMap<(u64, u64), Plan>,
    scheduler: Scheduler,
    watch: Watch,
    runs: BTreeMap<AttemptId, Run>,
    graphs: BTreeMap<BuildId, Graph>,
    alive: BTreeSet<WorkerId>,
    born: u64,
    log: Vec<(LogTime, Event)>,
    calm_after: u64,
    builds: u64,
}

fn made(text: &str) -> Made {
    let digest = Digest::of(text.as_bytes());
    Made { state: StateDigest(digest), record: BlobDigest(digest) }
}

impl World {
    pub(crate) fn new(seed: u64, size: Size) -> World {
        let mut world = World {
            seed,
            dice: Dice(seed),
            now: 0,
            order: 0,
            plans: BTreeMap::new(),
            scheduler: Scheduler::new(u128::from(seed)),
            watch: Watch::new(seed),
            runs: BTreeMap::new(),
            graphs: BTreeMap::new(),
            alive: BTreeSet::new(),
            born: 0,
            log: Vec::new(),
            calm_after: size.builds * 20,
            builds: size.builds,
        };
        for number in 0..size.workers {
            world.be_born(if number % 4 == 0 { "linux/arm64" } else { "linux/amd64" });
        }
        for number in 0..size.builds {
            world.plan_build(number);
        }
        world
    }

    fn plan(&mut self, delay: u64, plan: Plan) {
        self.order += 1;
        self.plans.insert((self.now + delay, self.order), plan);
    }

    fn faulty(&self) -> bool {
        self.now < self.calm_after
    }

    fn be_born(&mut self, platform: &'static str) {
        self.born += 1;
        let worker = WorkerId::from_bits(u128::from(self.born));
        self.alive.insert(worker);
        let facts = WorkerFacts {
            worker,
            slots: u32::try_from(1 + self.dice.roll(4)).unwrap(),
            capacity: Requests { memory_bytes: 8, cpu_millis: 0 },
            platforms: self.platforms_beside(platform),
            emulated: BTreeSet::new(),
        };
        self.plan(0, Plan::Log(Event::WorkerJoined(facts)));
        if self.dice.percent(60) {
            let at = self.dice.roll(self.calm_after);
            let at = at.saturating_sub(self.now);
            self.plan(at, Plan::Die(worker, platform));
        }
    }

    /// Some workers run a second platform too, by an interpreter.
    fn platforms_beside(&mut self, own: &str) -> BTreeSet<Platform> {
        let also = self.dice.percent(25).then_some("linux/riscv64");
        [own].into_iter().chain(also).map(|text| text.parse().unwrap()).collect()
    }

    fn plan_build(&mut self, number: u64) {
        let build = BuildId::from_bits(u128::from(number) + 1);
        let graph = self.graph();
        graph.check().unwrap();
        self.graphs.insert(build, graph.clone());
        let scopes = ["t1/r", "t1/r/pr", "t2/r", "t3"];
        let scope = scopes[usize::try_from(self.dice.roll(4)).unwrap()].parse().unwrap();
        let submission = Submission {
            build,
            body: Digest::of(&number.to_le_bytes()),
            scope,
            priority: i32::try_from(self.dice.roll(3)).unwrap(),
            presence: Presence::Attached,
            graph,
        };
        let at = self.dice.roll(self.calm_after);
        self.plan(at, Plan::Log(Event::Submit(submission.clone())));
        if self.dice.percent(5) {
            self.plan(at + 1, Plan::Log(Event::Submit(submission)));
        }
        if self.dice.percent(8) {
            let wait = self.dice.roll(4_000);
            self.plan(at + wait, Plan::Log(Event::Cancel { build }));
        }
        if self.dice.percent(5) {
            self.plan(at + 5, Plan::Log(Event::ClientGone { build, grace: limits::CLIENT_GONE }));
        }
    }

    /// A few stages over keys that many builds have in common.
    fn graph(&mut self) -> Graph {
        let mut graph = Graph::default();
        let family = self.dice.roll(12);
        let fresh = self.dice.percent(5);
        let mut ends: Vec<StepIndex> = Vec::new();
        for stage in 0..=self.dice.roll(3) {
            let mut parent: Option<StepIndex> = None;
            let shared = self.dice.roll(6);
            for place in 0..=self.dice.roll(5) {
                let tail = if place < shared { 0 } else { self.dice.roll(50) };
                let inputs: Vec<StepIndex> =
                    if place == 2 { ends.last().copied().into_iter().collect() } else { vec![] };
                let of = |step: Option<&StepIndex>, graph: &Graph| {
                    step.and_then(|step| graph.steps.get(step.index())).map(|node| node.key)
                };
                let above = (of(parent.as_ref(), &graph), of(inputs.first(), &graph));
                let name = format!("{family}/{stage}/{place}/{tail}/{above:?}");
                let step = StepIndex(u32::try_from(graph.steps.len()).unwrap());
                let share = if self.dice.percent(3) { Share::Nobody } else { Share::Anyone };
                graph.steps.push(StepNode {
                    stage: StageIndex(u32::try_from(stage).unwrap()),
                    key: StepKey(Digest::of(name.as_bytes())),
                    parent,
                    parts: inputs.iter().copied().filter(|_| self.dice.percent(30)).collect(),
                    inputs,
                    platform: if family == 0 { "linux/arm64" } else { "linux/amd64" }
                        .parse()
                        .unwrap(),
                    kind: if place == 0 { StepKind::Files } else { StepKind::Run },
                    share,
                    sees: if self.dice.percent(50) { Sees::KeyOnly } else { Sees::More },
                    freshness: if fresh { Freshness::Fresh } else { Freshness::Any },
                    caches: Vec::new(),
                    locked: (0..2)
                        .filter(|_| self.dice.percent(3))
                        .map(|mount| CacheMount(Digest::of(&[mount])))
                        .collect(),
                    requests: Requests { memory_bytes: self.dice.roll(4), cpu_millis: 0 },
                    taken: None,
                });
                parent = Some(step);
            }
            ends.extend(parent);
        }
        let needs = ends.last().copied().into_iter().collect();
        let requests = Requests::default();
        graph.outputs.push(OutputNode { needs, platform: None, requests });
        graph
    }

    /// Runs until nothing is left to happen, and returns the log.
    pub(crate) fn run(mut self) -> Vec<(LogTime, Event)> {
        while let Some(((at, _), plan)) = self.plans.pop_first() {
            self.now = at;
            match plan {
                Plan::Log(event) => self.apply(event),
                Plan::Work(attempt) => self.work(attempt),
                Plan::Return(worker) => {
                    if self.alive.contains(&worker) {
                        let own = self.runs.iter().filter(|(_, run)| run.lease.worker == worker);
                        let running = own.map(|(attempt, _)| *attempt).collect();
                        self.apply(Event::WorkerBack { worker, running });
                    }
                }
                Plan::Die(worker, platform) => {
                    if self.alive.remove(&worker) {
                        if self.dice.percent(50) {
                            self.apply(Event::WorkerAway { worker });
                        }
                        self.apply(Event::WorkerLost { worker });
                        self.be_born(platform);
                    }
                }
            }
            assert!(self.log.len() < 2_000_000, "seed {}: no end", self.seed);
        }
        self.apply(Event::Tick);
        self.watch.check_end(self.builds);
        let left = self.scheduler.counts();
        let idle = Counts {
            running_builds: 0,
            queued_jobs: 0,
            leased_jobs: 0,
            shared_steps: 0,
            results: 0,
            ..left
        };
        assert_eq!(left, idle, "seed {}: something is left behind", self.seed);
        self.log
    }

    fn apply(&mut self, event: Event) {
        let stamp = LogTime(self.now);
        self.log.push((stamp, event.clone()));
        let actions = self.scheduler.apply(stamp, event.clone());
        self.watch.see(&event, &actions, &self.graphs);
        for action in actions {
            self.obey(action);
        }
        if self.log.len().is_multiple_of(997) {
            self.apply(Event::Recovered);
            // All that live connect again, one after the other.
            for worker in self.alive.clone() {
                let delay = 1 + self.dice.roll(50);
                self.plan(delay, Plan::Return(worker));
            }
        }
    }

    fn obey(&mut self, action: Action) {
        match action {
            Action::Lease(lease) => {
                let delay = 1 + self.dice.roll(300);
                let attempt = lease.attempt;
                if let Entry::Vacant(run) = self.runs.entry(attempt) {
                    run.insert(Run { lease, next: 0 });
                    self.plan(delay, Plan::Work(attempt));
                }
            }
            // A frozen worker does not hear it, and reports what it made all the same.
            Action::StopAttempt { attempt, .. } if !self.dice.percent(20) => {
                self.runs.remove(&attempt);
            }
            Action::CutAttempt { attempt, last, .. } if !self.dice.percent(20) => {
                if let Some(Run { lease: Lease { work: Work::Steps(steps), .. }, .. }) =
                    self.runs.get_mut(&attempt)
                {
                    steps.retain(|step| *step <= last);
                }
            }
            Action::WakeAt(at) => {
                self.plan(at.0.saturating_sub(self.now), Plan::Log(Event::Tick));
            }
            _ => {}
        }
    }

    fn work(&mut self, attempt: AttemptId) {
        let Some(Run { lease, next }) = self.runs.get(&attempt).cloned() else { return };
        // A worker that froze goes on later, and speaks of leases that may be over.
        if self.faulty() && self.dice.percent(3) {
            let delay = 100 + self.dice.roll(2_000);
            return self.plan(delay, Plan::Work(attempt));
        }
        let fence = Fence { attempt, epoch: lease.epoch };
        let event = match &lease.work {
            Work::Output(_) => {
                self.runs.remove(&attempt);
                let fault = StepFault::Infra(InfraFault::Network);
                if self.faulty() && self.dice.percent(3) {
                    Event::OutputFailed { fence, fault }
                } else if self.faulty() && self.dice.percent(1) {
                    Event::OutputFailed { fence, fault: StepFault::Rejected }
                } else {
                    Event::OutputDone { fence, result: made("output").record }
                }
            }
            Work::Steps(steps) => {
                let Some(step) = steps.get(next).copied() else { return };
                let turn = self.scheduler.turn_of(lease.worker, fence);
                if matches!(turn, Some((_, Part::Step(turn))) if turn < step) {
                    return self.give_up(lease.worker, fence);
                }
                let event = self.step_event(&lease, fence, step);
                let goes_on = matches!(event, Event::StepDone { .. } | Event::StepHit { .. });
                if goes_on && next + 1 < steps.len() {
                    self.runs.insert(attempt, Run { lease: lease.clone(), next: next + 1 });
                    let delay = 1 + self.dice.roll(300);
                    self.plan(delay, Plan::Work(attempt));
                } else {
                    self.runs.remove(&attempt);
                }
                if matches!(event, Event::StepDone { .. }) {
                    let delay = 1 + self.dice.roll(1_000);
                    self.plan(delay, Plan::Log(Event::StepDurable { attempt, step }));
                }
                event
            }
        };
        // What nobody hears is missed when its worker says more, or that it has ended.
        if self.faulty() && self.dice.percent(1) {
            if !self.runs.contains_key(&attempt) {
                self.give_up(lease.worker, fence);
            }
            return;
        }
        if self.faulty() && self.dice.percent(3) {
            let delay = self.dice.roll(500);
            self.plan(delay, Plan::Log(event.clone()));
        }
        self.apply(event);
    }

    /// Ends a lease whose worker has said what was not heard.
    fn give_up(&mut self, worker: WorkerId, fence: Fence) {
        self.runs.remove(&fence.attempt);
        let fault = StepFault::Infra(InfraFault::Network);
        match self.scheduler.turn_of(worker, fence) {
            Some((_, Part::Step(step))) => self.apply(Event::StepFailed { fence, step, fault }),
            Some((_, Part::Output(_))) => self.apply(Event::OutputFailed { fence, fault }),
            None => {}
        }
    }

    fn step_event(&mut self, lease: &Lease, fence: Fence, step: StepIndex) -> Event {
        let node = self.graphs[&lease.build].steps[step.index()].clone();
        // One in ten executions makes something else.
        let variant = if self.dice.percent(10) { self.dice.roll(1_000) } else { 0 };
        let made = made(&format!("{}/{variant}", node.key));
        let lasts = self.dice.percent(70);
        if !self.faulty() {
            return Event::StepDone { fence, step, made, lasts };
        }
        match self.dice.roll(100) {
            0 => Event::StepFailed { fence, step, fault: StepFault::Exit { code: 1 } },
            1 => Event::StepFailed { fence, step, fault: StepFault::TimeLimit },
            2..5 => {
                let delay = 100 + self.dice.roll(2_000);
                self.plan(delay, Plan::Log(Event::WorkerHasRoom { worker: lease.worker }));
                Event::StepFailed { fence, step, fault: StepFault::Infra(InfraFault::NoSpace) }
            }
            5..7 => match node.needs().last() {
                Some(input) => Event::JobReturned { fence, why: Return::InputLost(input) },
                None => Event::StepDone { fence, step, made, lasts },
            },
            7..10 => Event::StepHit { fence, step, made },
            _ => Event::StepDone { fence, step, made, lasts },
        }
    }
}
