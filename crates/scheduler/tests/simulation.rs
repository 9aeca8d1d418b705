//! A cluster that misbehaves by a seed: two hundred workers, two thousand builds, and what must hold after every event.
#![expect(clippy::unwrap_used, reason = "test")]

#[path = "simulation/world.rs"]
mod world;

#[path = "simulation/watch.rs"]
mod watch;

use dcbuild_model::{Encoder, LogTime};
use dcbuild_scheduler::{Action, Event, Scheduler};
use world::{Size, World};

/// More seeds are more runs of `faults_lose_no_build`.
const SEEDS: std::ops::Range<u64> = 0..3;
const LARGE: Size = Size { workers: 200, builds: 2_000 };
const SMALL: Size = Size { workers: 8, builds: 120 };
/// Few workers and builds meet corners that a large cluster seldom does.
const SMALL_SEEDS: std::ops::Range<u64> = 100..160;

fn digest(log: &[(LogTime, Event)], scheduler: &mut Scheduler) -> String {
    let mut encoder = Encoder::new("simulation");
    for (now, event) in log {
        let actions: Vec<Action> = scheduler.apply(*now, event.clone());
        encoder.text(&format!("{actions:?}"));
    }
    encoder.finish().to_string()
}

#[test]
fn faults_lose_no_build() {
    for seed in SEEDS {
        World::new(seed, LARGE).run();
    }
}

#[test]
fn faults_lose_no_build_in_a_small_cluster() {
    for seed in SMALL_SEEDS {
        World::new(seed, SMALL).run();
    }
}

#[test]
fn a_seed_gives_one_log() {
    let first = World::new(7, SMALL).run();
    let second = World::new(7, SMALL).run();
    assert!(first == second, "seed 7 gave two logs");
}

#[test]
fn a_copy_of_the_state_goes_on_alike() {
    let log = World::new(11, SMALL).run();
    let (before, after) = log.split_at(log.len() / 2);
    let mut scheduler = Scheduler::new(11);
    digest(before, &mut scheduler);
    let mut copy = scheduler.clone();
    assert_eq!(digest(after, &mut scheduler), digest(after, &mut copy), "seed 11");
}
