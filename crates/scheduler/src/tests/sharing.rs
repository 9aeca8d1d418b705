//! What waits for what: workers out of reach, cache mounts that one step has, results on their way to the store.

use super::*;

#[test]
fn a_worker_out_of_reach_is_given_nothing_until_it_is_back() {
    check(
        "worker 1 joins slots=2\nworker 1 away\nbuild a: x =>x\nworker 1 back",
        &expect![[r#"
            > worker 1 joins slots=2
            > worker 1 away
            > build a: x =>x
              accepted a
            > worker 1 back
              lease t1 to worker 1: a.x
        "#]],
    );
    // Three that die at once cost a build one attempt, and none that never had it.
    check(
        "worker 1 joins\nworker 2 joins\nworker 3 joins\nbuild a: x =>x\nworker 1 away\nworker 2 away\nworker 1 lost\n\
         worker 2 lost",
        &expect![[r#"
            > worker 1 joins
            > worker 2 joins
            > worker 3 joins
            > build a: x =>x
              accepted a
              lease t1 to worker 1: a.x
            > worker 1 away
            > worker 2 away
            > worker 1 lost
              a lost attempt 1/3: WorkerLost
              lease t2 to worker 3: a.x
            > worker 2 lost
        "#]],
    );
    // Nobody is connected when a coordinator begins.
    check(
        "worker 1 joins\nworker 2 joins\nrecovered\nbuild a: x =>x\nworker 2 back\nworker 1 lost",
        &expect![[r#"
            > worker 1 joins
            > worker 2 joins
            > recovered
            > build a: x =>x
              accepted a
            > worker 2 back
              lease t1 to worker 2: a.x
            > worker 1 lost
        "#]],
    );
}

#[test]
fn one_step_at_a_time_has_a_locked_mount() {
    check(
        "worker 1 joins\nworker 2 joins slots=3\nbuild a: x:locks y<x =>y\nbuild b: z:locks =>z\nbuild c: w =>w\nt1 done x",
        &expect![[r#"
            > worker 1 joins
            > worker 2 joins slots=3
            > build a: x:locks y<x =>y
              accepted a
              lease t1 to worker 1: a.x a.y
            > build b: z:locks =>z
              accepted b
            > build c: w =>w
              accepted c
              lease t2 to worker 2: c.w
            > t1 done x
              a.x ran as t1
              lease t3 to worker 2: b.z
        "#]],
    );
    // What is lost or given up lets go of it, and any number may wait without standing in the way of others.
    let waiting: Vec<String> =
        ('d'..='q').map(|name| format!("build {name}: x{name}:locks =>x{name}")).collect();
    let waiting = waiting.join("\n");
    let script = format!(
        "worker 1 joins\nworker 2 joins slots=2\nbuild a: x:locks =>x\n{waiting}\nbuild b: y =>y\nworker 1 lost\ncancel a"
    );
    let said: Vec<String> = play(&script)
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("lease") || line.starts_with("stop"))
        .map(|line| line.rsplit(' ').next().unwrap().to_owned())
        .collect();
    expect![[r#"
        [
            "a.x",
            "b.y",
            "a.x",
            "Unwanted",
            "d.xd",
        ]
    "#]]
    .assert_debug_eq(&said);
}

#[test]
fn a_result_on_its_way_to_the_store_is_there_for_builds_that_come_meanwhile() {
    let begin =
        "worker 1 joins\nworker 2 joins\nbuild a: x y<x =>y\nt1 done x!\nt1 done y\nt2 output\n";
    let rest = "build b: x y<x =>y\n";
    check(
        &format!("{begin}{rest}"),
        &expect![[r#"
        > worker 1 joins
        > worker 2 joins
        > build a: x y<x =>y
          accepted a
          lease t1 to worker 1: a.x a.y
        > t1 done x!
          a.x ran as t1
        > t1 done y
          a.y ran as t1
          lease t2 to worker 1: a output 0
        > t2 output
          a output 0 made
          a ended: Done
        > build b: x y<x =>y
          accepted b
          b.x shared t1
          lease t3 to worker 1: b.y
    "#]],
    );
    // What is in the store is found there; what its worker took along, or will never send, is made again.
    for gone in ["t1 durable x", "worker 1 lost", "t1 keeps x"] {
        let said = play(&format!("{begin}{gone}\n{rest}"));
        assert!(said.contains("b.x") && !said.contains("b.x shares"), "{said}");
    }
}

/// A COPY goes anywhere, also where the RUN behind it waits for a worker of its platform.
#[test]
fn what_can_run_does_not_wait_with_what_cannot() {
    check(
        "worker 1 joins platform=linux/arm64\nbuild a: x:tree y<x =>y\nbuild b: x:tree =>x\nt1 done x\n\
         build c: x:tree y<x =>y\nunmet\nworker 2 joins\nt3 done y",
        &expect![[r#"
            > worker 1 joins platform=linux/arm64
            > build a: x:tree y<x =>y
              accepted a
              lease t1 to worker 1: a.x
            > build b: x:tree =>x
              accepted b
              b.x shares a.x
            > t1 done x
              a.x ran as t1
              b.x shared t1
              lease t2 to worker 1: b output 0
            > build c: x:tree y<x =>y
              accepted c
              c.x shared t1
              c.y shares a.y
            > unmet
              a lacks linux/amd64
              c lacks linux/amd64
            > worker 2 joins
              lease t3 to worker 2: a.y
            > t3 done y
              a.y ran as t3
              c.y shared t3
              lease t4 to worker 2: a output 0
        "#]],
    );
    // Nobody knows who will come before the first is there; and the last that could run a job may leave.
    check(
        "build a: x:tree y<x =>y\nbuild b: x:tree =>x\nworker 1 joins platform=linux/arm64\nt1 done x\nunmet",
        &expect![[r#"
            > build a: x:tree y<x =>y
              accepted a
            > build b: x:tree =>x
              accepted b
              b.x shares a.x
            > worker 1 joins platform=linux/arm64
              b.x shares a.x
              lease t1 to worker 1: a.x
            > t1 done x
              a.x ran as t1
              b.x shared t1
              lease t2 to worker 1: b output 0
            > unmet
              a lacks linux/amd64
        "#]],
    );
    check(
        "worker 1 joins\nworker 2 joins platform=linux/arm64\nbuild z: w =>w\nbuild a: x:tree y<x =>y\nbuild b: x:tree =>x\n\
         worker 1 drains",
        &expect![[r#"
            > worker 1 joins
            > worker 2 joins platform=linux/arm64
            > build z: w =>w
              accepted 0000000000000000000000003t
              lease t1 to worker 1: 0000000000000000000000003t.w
            > build a: x:tree y<x =>y
              accepted a
            > build b: x:tree =>x
              accepted b
              b.x shares a.x
            > worker 1 drains
              b.x shares a.x
              lease t2 to worker 2: a.x
        "#]],
    );
}
