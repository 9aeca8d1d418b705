//! Transcripts: a few words per event, the actions behind it.
//!
//! A build is written as `build a: x y<x z@1<x+y:net =>z`: step `y` lies on `x`; `z` is of stage 1, lies on `x` and reads
//! `y`, of which it reads a part if that is written `.y`; flags follow a colon; the output needs `z`. A step's name is its
//! key. Attempts are `t1`, `t2` in their order; `done x!` is a result on its way to the store.

mod language;
mod sharing;

use expect_test::{Expect, expect};

use language::play;

fn check(script: &str, expected: &Expect) {
    expected.assert_eq(&play(script));
}

#[test]
fn a_segment_is_one_job_and_the_output_follows() {
    check(
        "worker 1 joins\nbuild a: x y<x z<y =>z\nt1 done x\nt1 done y\nt1 done z\nt2 output",
        &expect![[r#"
            > worker 1 joins
            > build a: x y<x z<y =>z
              accepted a
              lease t1 to worker 1: a.x a.y a.z
            > t1 done x
              a.x ran as t1
            > t1 done y
              a.y ran as t1
            > t1 done z
              a.z ran as t1
              lease t2 to worker 1: a output 0
            > t2 output
              a output 0 made
              a ended: Done
        "#]],
    );
}

#[test]
fn a_step_that_waits_cuts_the_segment() {
    check(
        "worker 1 joins slots=2\nbuild a: b x@1 y@1<x z@1<y+b =>z\nt2 done x\nt2 done y\nt1 done b",
        &expect![[r#"
            > worker 1 joins slots=2
            > build a: b x@1 y@1<x z@1<y+b =>z
              accepted a
              lease t1 to worker 1: a.b
              lease t2 to worker 1: a.x a.y
            > t2 done x
              a.x ran as t2
            > t2 done y
              a.y ran as t2
            > t1 done b
              a.b ran as t1
              lease t3 to worker 1: a.z
        "#]],
    );
}

#[test]
fn what_nobody_needs_is_never_run() {
    check(
        "worker 1 joins\nbuild a: x:hit y<x:hit u@1 =>y\nt1 output",
        &expect![[r#"
        > worker 1 joins
        > build a: x:hit y<x:hit u@1 =>y
          accepted a
          lease t1 to worker 1: a output 0
        > t1 output
          a output 0 made
          a ended: Done
    "#]],
    );
}

#[test]
fn a_lost_workers_job_goes_ahead_to_another_worker() {
    check(
        "worker 1 joins\nbuild a: x =>x\nbuild b: y =>y\nworker 2 joins\nt2 done y\nworker 1 lost",
        &expect![[r#"
            > worker 1 joins
            > build a: x =>x
              accepted a
              lease t1 to worker 1: a.x
            > build b: y =>y
              accepted b
            > worker 2 joins
              lease t2 to worker 2: b.y
            > t2 done y
              b.y ran as t2
              lease t3 to worker 2: b output 0
            > worker 1 lost
              a lost attempt 1/3: WorkerLost
        "#]],
    );
}

#[test]
fn three_lost_attempts_end_the_build() {
    check(
        "worker 1 joins\nbuild a: x =>x\nt1 fails x infra\nt2 fails x infra\nt3 fails x infra",
        &expect![[r#"
            > worker 1 joins
            > build a: x =>x
              accepted a
              lease t1 to worker 1: a.x
            > t1 fails x infra
              a lost attempt 1/3: Sandbox
              lease t2 to worker 1: a.x
            > t2 fails x infra
              a lost attempt 2/3: Sandbox
              lease t3 to worker 1: a.x
            > t3 fails x infra
              a failed: INFRA_ATTEMPTS_EXHAUSTED
        "#]],
    );
}

#[test]
fn a_failed_output_leaves_the_others_alone() {
    check(
        "worker 1 joins slots=3\nbuild a: x:hit =>x =>x =>x\nt1 output rejected\nt2 output infra\nt3 output\nt4 output",
        &expect![[r#"
            > worker 1 joins slots=3
            > build a: x:hit =>x =>x =>x
              accepted a
              lease t1 to worker 1: a output 0
              lease t2 to worker 1: a output 1
              lease t3 to worker 1: a output 2
            > t1 output rejected
              a output 0 failed: OUTPUT_FAILED
            > t2 output infra
              a lost attempt 1/3: Network
              lease t4 to worker 1: a output 1
            > t3 output
              a output 2 made
            > t4 output
              a output 1 made
              a failed: OUTPUT_FAILED
        "#]],
    );
}

#[test]
fn a_full_worker_s_job_goes_to_another_and_is_no_attempt() {
    check(
        "worker 1 joins\nbuild a: x =>x\nworker 2 joins\nt1 fails x full\nbuild b: y =>y\n\
         t2 done x\nworker 1 has room\nt3 fails y full\nt4 output\nt5 fails y full",
        &expect![[r#"
            > worker 1 joins
            > build a: x =>x
              accepted a
              lease t1 to worker 1: a.x
            > worker 2 joins
            > t1 fails x full
              a moved: Step(StepIndex(0))
              lease t2 to worker 2: a.x
            > build b: y =>y
              accepted b
            > t2 done x
              a.x ran as t2
              lease t3 to worker 2: b.y
            > worker 1 has room
              lease t4 to worker 1: a output 0
            > t3 fails y full
              b moved: Step(StepIndex(0))
            > t4 output
              a output 0 made
              a ended: Done
              lease t5 to worker 1: b.y
            > t5 fails y full
              b failed: INFRA_ATTEMPTS_EXHAUSTED
        "#]],
    );
}

#[test]
fn the_users_own_failure_is_not_retried() {
    check(
        "worker 1 joins slots=2\nbuild a: x y@1 =>x,y\nt1 fails x exit=2\nt2 done y",
        &expect![[r#"
            > worker 1 joins slots=2
            > build a: x y@1 =>x,y
              accepted a
              lease t1 to worker 1: a.x
              lease t2 to worker 1: a.y
            > t1 fails x exit=2
              a failed: STEP_FAILED
              stop t2: Unwanted
            > t2 done y
              refused: unknown attempt
        "#]],
    );
}

#[test]
fn a_report_of_an_old_lease_is_refused() {
    check(
        "worker 1 joins\nbuild a: x =>x\nt1 old done x\nworker 1 lost\nworker 2 joins\nt1 done x\nt2 done x\nt2 done x",
        &expect![[r#"
            > worker 1 joins
            > build a: x =>x
              accepted a
              lease t1 to worker 1: a.x
            > t1 old done x
              refused: old epoch
            > worker 1 lost
              a lost attempt 1/3: WorkerLost
            > worker 2 joins
              lease t2 to worker 2: a.x
            > t1 done x
              refused: unknown attempt
            > t2 done x
              a.x ran as t2
              lease t3 to worker 2: a output 0
            > t2 done x
              refused: unknown attempt
        "#]],
    );
}

#[test]
fn a_second_build_shares_what_runs() {
    check(
        "worker 1 joins\nbuild a: x y<x =>y\nbuild b: x y<x =>y\nt1 done x\nt1 done y",
        &expect![[r#"
            > worker 1 joins
            > build a: x y<x =>y
              accepted a
              lease t1 to worker 1: a.x a.y
            > build b: x y<x =>y
              accepted b
              b.x shares a.x
              b.y shares a.y
            > t1 done x
              a.x ran as t1
              b.x shared t1
            > t1 done y
              a.y ran as t1
              b.y shared t1
              lease t2 to worker 1: a output 0
        "#]],
    );
}

#[test]
fn a_plain_exit_code_goes_to_all_and_another_failure_does_not() {
    check(
        "worker 1 joins\nbuild a: x =>x\nbuild b: x =>x\nt1 fails x exit=1\n\
         build c: y:net =>y\nbuild d: y:net =>y\nt2 fails y exit=1\nt3 done y",
        &expect![[r#"
            > worker 1 joins
            > build a: x =>x
              accepted a
              lease t1 to worker 1: a.x
            > build b: x =>x
              accepted b
              b.x shares a.x
            > t1 fails x exit=1
              a failed: STEP_FAILED
              b failed: STEP_FAILED
            > build c: y:net =>y
              accepted c
              lease t2 to worker 1: c.y
            > build d: y:net =>y
              accepted d
              d.y shares c.y
            > t2 fails y exit=1
              c failed: STEP_FAILED
              lease t3 to worker 1: d.y
            > t3 done y
              d.y ran as t3
              lease t4 to worker 1: d output 0
        "#]],
    );
}

#[test]
fn a_cancel_cuts_behind_the_last_step_that_is_wanted() {
    check(
        "worker 1 joins\nbuild a: x y<x z<y =>z\nbuild b: x y<x w<y =>w\ncancel a\nt1 done x\nt1 done y",
        &expect![[r#"
            > worker 1 joins
            > build a: x y<x z<y =>z
              accepted a
              lease t1 to worker 1: a.x a.y a.z
            > build b: x y<x w<y =>w
              accepted b
              b.x shares a.x
              b.y shares a.y
            > cancel a
              a ended: Cancelled(Request)
              cut t1 behind a.y
            > t1 done x
              b.x shared t1
            > t1 done y
              b.y shared t1
              lease t2 to worker 1: b.w
        "#]],
    );
}

#[test]
fn a_parents_attempt_is_joined_and_a_childs_is_not() {
    check(
        "worker 1 joins slots=3\nbuild a scope=t/r/pr: x =>x\nbuild b scope=t/r: x =>x\nbuild c scope=t/r/pr2: x =>x",
        &expect![[r#"
            > worker 1 joins slots=3
            > build a scope=t/r/pr: x =>x
              accepted a
              lease t1 to worker 1: a.x
            > build b scope=t/r: x =>x
              accepted b
              lease t2 to worker 1: b.x
            > build c scope=t/r/pr2: x =>x
              accepted c
              c.x shares b.x
        "#]],
    );
}

#[test]
fn a_fresh_step_joins_nothing_begun_before_it() {
    check(
        "worker 1 joins slots=3\nbuild a: x =>x\nbuild b: x:fresh =>x\nbuild c: x:fresh =>x\nbuild d: x =>x",
        &expect![[r#"
            > worker 1 joins slots=3
            > build a: x =>x
              accepted a
              lease t1 to worker 1: a.x
            > build b: x:fresh =>x
              accepted b
              lease t2 to worker 1: b.x
            > build c: x:fresh =>x
              accepted c
              lease t3 to worker 1: c.x
            > build d: x =>x
              accepted d
              d.x shares a.x
        "#]],
    );
}

#[test]
fn a_result_lost_before_it_was_durable_is_made_again() {
    check(
        "worker 1 joins\nbuild a: x b@1 y@1<b+x =>y\nt1 done x\nworker 1 lost\nworker 2 joins slots=2\n\
         t3 done x=other\nt4 done b\nt5 done y",
        &expect![[r#"
            > worker 1 joins
            > build a: x b@1 y@1<b+x =>y
              accepted a
              lease t1 to worker 1: a.x
            > t1 done x
              a.x ran as t1
              lease t2 to worker 1: a.b
            > worker 1 lost
              a lost attempt 1/3: WorkerLost
              a.x withdrawn
            > worker 2 joins slots=2
              lease t3 to worker 2: a.x
              lease t4 to worker 2: a.b
            > t3 done x=other
              a.x ran as t3
            > t4 done b
              a.b ran as t4
              lease t5 to worker 2: a.y
            > t5 done y
              a.y ran as t5
              lease t6 to worker 2: a output 0
        "#]],
    );
}

#[test]
fn a_durable_result_survives_its_worker() {
    check(
        "worker 1 joins\nbuild a: x =>x\nt1 done x\nt1 durable x\nworker 1 lost\nworker 2 joins\nt3 output",
        &expect![[r#"
            > worker 1 joins
            > build a: x =>x
              accepted a
              lease t1 to worker 1: a.x
            > t1 done x
              a.x ran as t1
              lease t2 to worker 1: a output 0
            > t1 durable x
            > worker 1 lost
              a lost attempt 1/3: WorkerLost
            > worker 2 joins
              lease t3 to worker 2: a output 0
            > t3 output
              a output 0 made
              a ended: Done
        "#]],
    );
}

#[test]
fn what_was_made_of_the_lost_result_is_made_again_if_the_new_one_differs() {
    check(
        "worker 1 joins\nworker 2 joins\nbuild a: x b@1 y@2<x+b =>y\nt1 done x\nworker 1 drains\nt2 done b\nt3 done y\n\
         worker 1 lost\nt5 done x=other\nt6 done y\nt7 output",
        &expect![[r#"
            > worker 1 joins
            > worker 2 joins
            > build a: x b@1 y@2<x+b =>y
              accepted a
              lease t1 to worker 1: a.x
              lease t2 to worker 2: a.b
            > t1 done x
              a.x ran as t1
            > worker 1 drains
            > t2 done b
              a.b ran as t2
              lease t3 to worker 2: a.y
            > t3 done y
              a.y ran as t3
              lease t4 to worker 2: a output 0
            > worker 1 lost
              a.x withdrawn
              stop t4: InputChanged
              lease t5 to worker 2: a.x
            > t5 done x=other
              a.x ran as t5
              a.y withdrawn
              lease t6 to worker 2: a.y
            > t6 done y
              a.y ran as t6
              lease t7 to worker 2: a output 0
            > t7 output
              a output 0 made
              a ended: Done
        "#]],
    );
}

#[test]
fn an_input_that_vanished_is_no_attempt() {
    check(
        "worker 1 joins\nbuild a: x b@1:hit y@1<b+x =>y\nt1 done x\nt2 returns lost=x\nt3 done x\nt4 done y",
        &expect![[r#"
            > worker 1 joins
            > build a: x b@1:hit y@1<b+x =>y
              accepted a
              lease t1 to worker 1: a.x
            > t1 done x
              a.x ran as t1
              lease t2 to worker 1: a.y
            > t2 returns lost=x
              a.x withdrawn
              lease t3 to worker 1: a.x
            > t3 done x
              a.x ran as t3
              lease t4 to worker 1: a.y
            > t4 done y
              a.y ran as t4
              lease t5 to worker 1: a output 0
        "#]],
    );
}

#[test]
fn a_client_that_stays_away_ends_its_build() {
    check(
        "build a: x =>x\nbuild b detached: y =>y\nclient a gone\nclient b gone\nwait 299\ntick\nclient a back\n\
         client a gone\nwait 300\ntick",
        &expect![[r#"
            > build a: x =>x
              accepted a
            > build b detached: y =>y
              accepted b
            > client a gone
              wake at 300s
            > client b gone
            > wait 299
            > tick
            > client a back
            > client a gone
              wake at 599s
            > wait 300
            > tick
              a ended: Cancelled(ClientGone)
        "#]],
    );
}

#[test]
fn tenants_take_turns() {
    check(
        "worker 1 joins\nbuild a scope=big: a1 a2@1 a3@2 =>a1,a2,a3\nbuild b scope=small: b1 =>b1\nt1 done a1\nt2 done b1",
        &expect![[r#"
            > worker 1 joins
            > build a scope=big: a1 a2@1 a3@2 =>a1,a2,a3
              accepted a
              lease t1 to worker 1: a.a1
            > build b scope=small: b1 =>b1
              accepted b
            > t1 done a1
              a.a1 ran as t1
              lease t2 to worker 1: b.b1
            > t2 done b1
              b.b1 ran as t2
              lease t3 to worker 1: b output 0
        "#]],
    );
}

#[test]
fn who_waits_for_a_missing_platform_is_known_until_it_comes() {
    check(
        "worker 2 joins platform=linux/arm64\nbuild a: x =>x\nbuild b: x =>x\nunmet\n\
         worker 1 joins\nunmet\nt1 done x\nworker 1 drains\nworker 2 drains\nunmet\n\
         cancel a\nunmet",
        &expect![[r#"
            > worker 2 joins platform=linux/arm64
            > build a: x =>x
              accepted a
            > build b: x =>x
              accepted b
              b.x shares a.x
            > unmet
              a lacks linux/amd64
              b lacks linux/amd64
            > worker 1 joins
              lease t1 to worker 1: a.x
            > unmet
            > t1 done x
              a.x ran as t1
              b.x shared t1
              lease t2 to worker 1: a output 0
              lease t3 to worker 2: b output 0
            > worker 1 drains
            > worker 2 drains
            > unmet
            > cancel a
              a ended: Cancelled(Request)
              stop t2: Unwanted
            > unmet
        "#]],
    );
}

#[test]
fn a_worker_that_needs_no_interpreter_goes_first() {
    check(
        "worker 1 joins platform=linux/arm64 emulates=linux/amd64\nbuild a: x =>x\nt1 done x\nt2 output\n\
         worker 2 joins\nbuild b: y =>y\nbuild c: z =>z",
        &expect![[r#"
            > worker 1 joins platform=linux/arm64 emulates=linux/amd64
            > build a: x =>x
              accepted a
              lease t1 to worker 1: a.x
            > t1 done x
              a.x ran as t1
              lease t2 to worker 1: a output 0
            > t2 output
              a output 0 made
              a ended: Done
            > worker 2 joins
            > build b: y =>y
              accepted b
              lease t3 to worker 2: b.y
            > build c: z =>z
              accepted c
              lease t4 to worker 1: c.z
        "#]],
    );
}

#[test]
fn a_submission_is_one_build_however_often_it_arrives() {
    check(
        "build a: x =>x\nbuild a: x =>x\nbuild a: y =>y\ncancel a\nforget a\nforget a",
        &expect![[r#"
            > build a: x =>x
              accepted a
            > build a: x =>x
              accepted a
            > build a: y =>y
              refused: build exists
            > cancel a
              a ended: Cancelled(Request)
            > forget a
              forgot a
            > forget a
              refused: unknown build
        "#]],
    );
}

#[test]
fn after_a_recovery_all_is_said_again() {
    check(
        "worker 1 joins\nbuild a: x =>x\nbuild b: x =>x\nrecovered\nworker 1 back t1\nworker 1 back t9",
        &expect![[r#"
            > worker 1 joins
            > build a: x =>x
              accepted a
              lease t1 to worker 1: a.x
            > build b: x =>x
              accepted b
              b.x shares a.x
            > recovered
              lease t1 to worker 1: a.x
              b.x shares a.x
            > worker 1 back t1
              lease t1 to worker 1: a.x
            > worker 1 back t9
              stop t?: Stale
              lease t1 to worker 1: a.x
        "#]],
    );
}

#[test]
fn work_goes_where_its_parent_lies() {
    check(
        "worker 1 joins slots=9\nworker 2 joins slots=9\nbuild a: p x@1<p y@2<p z@3<p =>x,y,z\nt1 done p",
        &expect![[r#"
            > worker 1 joins slots=9
            > worker 2 joins slots=9
            > build a: p x@1<p y@2<p z@3<p =>x,y,z
              accepted a
              lease t1 to worker 1: a.p
            > t1 done p
              a.p ran as t1
              lease t2 to worker 1: a.x
              lease t3 to worker 1: a.y
              lease t4 to worker 1: a.z
        "#]],
    );
}

#[test]
fn a_stage_that_is_read_whole_weighs_more_than_one_that_is_read_in_part() {
    let place = |reads: &str| {
        let script = format!(
            "worker 1 joins\nworker 2 joins\nbuild a: x:hit y@1<x w@2<x z@3<x+{reads} =>z,y\nt1 done y\nt2 done w"
        );
        play(&script).lines().last().unwrap().trim().to_owned()
    };
    assert_eq!(place("y+w"), "lease t3 to worker 1: a.z");
    assert_eq!(place(".y+w"), "lease t3 to worker 2: a.z");
    assert_eq!(place("y+.w"), "lease t3 to worker 1: a.z");
    assert_eq!(place(".w"), "lease t3 to worker 2: a.z");
}

#[test]
fn a_draining_worker_hands_back_without_an_attempt() {
    check(
        "worker 1 joins\nbuild a: x =>x\nworker 1 drains\nt1 returns draining\nworker 2 joins",
        &expect![[r#"
            > worker 1 joins
            > build a: x =>x
              accepted a
              lease t1 to worker 1: a.x
            > worker 1 drains
            > t1 returns draining
            > worker 2 joins
              lease t2 to worker 2: a.x
        "#]],
    );
}

#[test]
fn a_lost_layer_deep_below_is_made_again_and_what_lies_on_it_stays() {
    check(
        "worker 1 joins\nbuild a: x:hit y<x:hit z<y:hit u<z =>u\nt1 returns lost=x\nt2 done x\nt3 done u\nt4 output",
        &expect![[r#"
            > worker 1 joins
            > build a: x:hit y<x:hit z<y:hit u<z =>u
              accepted a
              lease t1 to worker 1: a.u
            > t1 returns lost=x
              a.x withdrawn
              lease t2 to worker 1: a.x
            > t2 done x
              a.x ran as t2
              lease t3 to worker 1: a.u
            > t3 done u
              a.u ran as t3
              lease t4 to worker 1: a output 0
            > t4 output
              a output 0 made
              a ended: Done
        "#]],
    );
    check(
        "worker 1 joins\nbuild a: x:hit y<x:hit =>y\nt1 returns lost=x\nt2 done x=other\nt3 done y\nt4 output",
        &expect![[r#"
            > worker 1 joins
            > build a: x:hit y<x:hit =>y
              accepted a
              lease t1 to worker 1: a output 0
            > t1 returns lost=x
              a.x withdrawn
              lease t2 to worker 1: a.x
            > t2 done x=other
              a.x ran as t2
              a.y withdrawn
              lease t3 to worker 1: a.y
            > t3 done y
              a.y ran as t3
              lease t4 to worker 1: a output 0
            > t4 output
              a output 0 made
              a ended: Done
        "#]],
    );
}

/// A record can lie on what was made again, and that on what is lost next.
#[test]
fn what_is_lost_below_a_result_that_was_made_again_is_made_again() {
    check(
        "worker 1 joins\nbuild a: x:hit y<x:hit z<y:hit =>z\nt1 returns lost=y\nt2 done y\nt3 returns lost=x\n\
         t4 done x\nt5 output",
        &expect![[r#"
            > worker 1 joins
            > build a: x:hit y<x:hit z<y:hit =>z
              accepted a
              lease t1 to worker 1: a output 0
            > t1 returns lost=y
              a.y withdrawn
              lease t2 to worker 1: a.y
            > t2 done y
              a.y ran as t2
              lease t3 to worker 1: a output 0
            > t3 returns lost=x
              a.x withdrawn
              lease t4 to worker 1: a.x
            > t4 done x
              a.x ran as t4
              lease t5 to worker 1: a output 0
            > t5 output
              a output 0 made
              a ended: Done
        "#]],
    );
}

/// Who lost a bucket's blobs misses the layers of an image one after the other.
#[test]
fn many_lost_layers_are_made_again_and_one_that_stays_lost_ends_the_build() {
    let losses = |lost: &dyn Fn(usize) -> String, count: usize| -> String {
        let loss = |at: usize| {
            let (output, again, step) = (2 * at + 1, 2 * at + 2, lost(at));
            format!("\nt{output} returns lost={step}\nt{again} done {step}")
        };
        (0..count).map(loss).collect()
    };
    let chain = (1..20).map(|at| format!("x{at}<x{}:hit", at - 1)).collect::<Vec<_>>().join(" ");
    let each = losses(&|at| format!("x{at}"), 20);
    let said = play(&format!("worker 1 joins\nbuild a: x0:hit {chain} =>x19{each}\nt41 output"));
    assert!(said.ends_with("a ended: Done\n"), "{said}");
    let same = losses(&|_| "x".to_owned(), 8);
    let said = play(&format!("worker 1 joins\nbuild a: x:hit =>x{same}\nt17 returns lost=x"));
    assert!(said.ends_with("a failed: INPUT_LOST_TOO_OFTEN\n"), "{said}");
}

/// What was leased upon one result says of that one that it is lost, and not of the next.
#[test]
fn all_that_stands_on_a_lost_result_loses_it_once() {
    let readers: Vec<usize> = (0..12).collect();
    let each = |text: &dyn Fn(usize) -> String| -> String {
        readers.iter().map(|at| text(*at)).collect::<Vec<_>>().join("\n")
    };
    let steps = each(&|at| format!("y{at}<x")).replace('\n', " ");
    let wanted = each(&|at| format!("=>y{at}")).replace('\n', " ");
    let (early, late) = readers.split_at(11);
    let returns = |at: &usize| format!("t{} returns lost=x", at + 1);
    let early: Vec<String> = early.iter().map(returns).collect();
    let late: Vec<String> = late.iter().map(returns).collect();
    let script = format!(
        "worker 1 joins slots=12\nbuild a: x:hit {steps} {wanted}\n{}\nt13 done x\n{}",
        early.join("\n"),
        late.join("\n"),
    );
    let said = play(&script);
    assert_eq!(said.matches("a.x withdrawn").count(), 1, "{said}");
    assert!(!said.contains("a failed"), "{said}");
    let again = |at: usize| said.matches(&format!(" a.y{at}\n")).count();
    assert!(readers.iter().all(|at| again(*at) == 2), "{said}");
}
