//! The coordinator dies and comes back on the same folder.

use std::time::Duration;

use dcbuild_coordinator::CoordinatorConfig;
use dcbuild_proto::document::{Outcome, StepError, StepErrorKind, Summary};
use dcbuild_proto::pb;

use crate::harness::{Cluster, steps, submission};

const TWO_STEPS: &str = "FROM scratch\nCOPY a /a\nRUN [\"/a\"]\n";

#[tokio::test(start_paused = true)]
async fn a_build_that_is_not_planned_is_planned_again() {
    let cluster = Cluster::on_disk();
    let build = cluster.submit(10, &submission(TWO_STEPS)).await;
    let cluster = cluster.restart().await;
    let mut client = cluster.attach(build).await;
    client.until("asked for context").await;
    let mut worker = cluster.worker(1, &[]).await;
    client.until("waiting: [2/2] RUN [\"/a\"]").await;
    let lease = worker.lease().await;
    worker.run(&lease).await;
    let lease = worker.lease().await;
    worker.assemble(&lease).await;
    assert!(matches!(client.outcome().await, Outcome::Done { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_build_that_was_planned_by_five_coordinators_is_planned_by_no_sixth() {
    let mut cluster = Cluster::on_disk();
    let build = cluster.submit(10, &submission(TWO_STEPS)).await;
    for _ in 0..4 {
        cluster = cluster.restart().await;
        cluster.attach(build).await.until("asked for context").await;
    }
    // A restart with nobody to look is one more.
    let mut cluster = cluster.restart().await;
    for _ in 0..2 {
        let Outcome::Failed(failure) = cluster.attach(build).await.outcome().await else {
            panic!("it is planned once more")
        };
        assert_eq!(failure.code, "PLANNING_ENDS_COORDINATOR");
        assert!(failure.message.contains("has ended 5 times"), "{}", failure.message);
        cluster = cluster.restart().await;
    }
    // Others are built as before.
    let build = cluster.submit(11, &submission(TWO_STEPS)).await;
    cluster.attach(build).await.until("asked for context").await;
}

#[tokio::test(start_paused = true)]
async fn a_running_build_goes_on_with_the_worker_that_runs_it() {
    let cluster = Cluster::on_disk();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission(TWO_STEPS)).await;
    let mut client = cluster.attach(build).await;
    client.until("waiting: [2/2] RUN [\"/a\"]").await;
    let lease = worker.lease().await;
    let [first, second] = steps(&lease) else { panic!("{lease:?}") };
    worker.start(&lease, first).await;
    worker.log(&lease, first, "early").await;
    worker.done(&lease, first, None).await;
    client.until("done: [1/2] COPY a /a").await;
    worker.fall_silent();

    let cluster = cluster.restart().await;
    let mut worker = cluster.worker(1, &[&lease]).await;
    let again = worker.lease().await;
    assert_eq!((again.attempt, again.epoch), (lease.attempt, lease.epoch));
    worker.start(&lease, first).await;
    worker.done(&lease, first, None).await;
    worker.start(&lease, second).await;
    worker.done(&lease, second, None).await;
    let output = worker.lease().await;

    let cluster = {
        worker.fall_silent();
        cluster.restart().await
    };
    let mut worker = cluster.worker(1, &[&output]).await;
    assert_eq!(worker.lease().await, output);
    worker.assemble(&output).await;
    let mut client = cluster.attach(build).await;
    let Outcome::Done { summary, .. } = client.outcome().await else { panic!("not done") };
    assert_eq!(summary, Summary { ran: 2, ..Summary::default() });
    for line in ["log early", "done: [1/2] COPY a /a", "done: [2/2] RUN [\"/a\"]"] {
        let count = client.seen.iter().filter(|it| *it == line).count();
        assert_eq!(count, 1, "{line} in {:#?}", client.seen);
    }
    assert!(!client.seen.iter().any(|it| it.starts_with("canceled")), "{:#?}", client.seen);

    let cluster = cluster.restart().await;
    let mut client = cluster.attach(build).await;
    assert!(matches!(client.outcome().await, Outcome::Done { .. }));
    let again = cluster.try_submit(build, &submission("FROM scratch\n")).await;
    assert_eq!(again.unwrap_err().code(), tonic::Code::AlreadyExists);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_step_counts_from_its_beginning_and_not_from_a_restart() {
    let cluster = Cluster::on_disk();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission(TWO_STEPS)).await;
    let mut client = cluster.attach(build).await;
    client.until("waiting: [2/2] RUN [\"/a\"]").await;
    let lease = worker.lease().await;
    let first = &steps(&lease)[0];
    worker.start(&lease, first).await;
    client.until("running: [1/2] COPY a /a").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    worker.fall_silent();

    let cluster = cluster.restart().await;
    let mut worker = cluster.worker(1, &[&lease]).await;
    let again = worker.lease().await;
    worker.start(&again, first).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    worker.done(&again, first, None).await;
    let mut client = cluster.attach(build).await;
    let done = loop {
        match client.next().await {
            Some(pb::build_event::Event::Vertex(vertex))
                if vertex.state == i32::from(pb::VertexState::Done)
                    && vertex.name == "[1/2] COPY a /a" =>
            {
                break vertex;
            }
            Some(_) => {}
            None => panic!("{:#?}", client.seen),
        }
    };
    let took = done.completed.unwrap().secs - done.started.unwrap().secs;
    assert!((5..7).contains(&took), "{took} s, and it ran for five");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_ended_while_nobody_heard_is_not_leased_again() {
    let cluster = Cluster::on_disk();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission(TWO_STEPS)).await;
    let mut client = cluster.attach(build).await;
    client.until("waiting: [2/2] RUN [\"/a\"]").await;
    let lease = worker.lease().await;
    let steps = steps(&lease).iter();
    let kept = steps.map(|step| worker.done_report(&lease, step, None)).collect();
    worker.fall_silent();
    let cluster = cluster.restart().await;
    let mut worker = cluster.worker_that_says(1, &[], kept).await;
    let output = worker.lease().await;
    worker.assemble(&output).await;
    let mut client = cluster.attach(build).await;
    let Outcome::Done { summary, .. } = client.outcome().await else { panic!("not done") };
    assert_eq!(summary, Summary { ran: 2, ..Summary::default() });
}

#[tokio::test(start_paused = true)]
async fn the_job_of_a_worker_that_does_not_come_back_is_leased_after_a_full_term() {
    let cluster = Cluster::on_disk();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission(TWO_STEPS)).await;
    let mut client = cluster.attach(build).await;
    client.until("waiting: [2/2] RUN [\"/a\"]").await;
    let lease = worker.lease().await;
    worker.fall_silent();
    let cluster = cluster.restart().await;
    let before = tokio::time::Instant::now();
    let mut other = cluster.worker(2, &[]).await;
    let again = other.lease().await;
    assert!(before.elapsed() >= Duration::from_secs(9), "it may take a while to come back");
    assert!(again.epoch > lease.epoch);
    let error =
        StepError { kind: StepErrorKind::Rejected {}, message: "no such file".into(), hint: None };
    other.fail(&again, &steps(&again)[0], &error).await;
    let mut client = cluster.attach(build).await;
    let Outcome::Failed(failed) = client.outcome().await else { panic!("it did not fail") };
    assert_eq!(failed.message, "no such file");
}

#[tokio::test(start_paused = true)]
async fn secrets_that_died_with_the_process_are_waited_for() {
    let cluster = Cluster::on_disk();
    let mut worker = cluster.worker(1, &[]).await;
    let dockerfile = "FROM scratch\nRUN --mount=type=secret,id=key [\"/a\"]\n";
    let build = cluster.submit(10, &submission(dockerfile)).await;
    let secrets = || [("key".to_owned(), b"abc".to_vec())].into();
    let _client = cluster.attach_with(build, secrets()).await;
    let lease = worker.lease().await;
    worker.fall_silent();
    let cluster = cluster.restart().await;
    let mut other = cluster.worker(2, &[]).await;
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    let _client = cluster.attach_with(build, secrets()).await;
    let again = other.lease().await;
    assert_eq!(again.secrets, lease.secrets);
    assert!(again.epoch > lease.epoch);
}

#[tokio::test(start_paused = true)]
async fn a_build_that_is_planned_again_waits_for_its_client_s_secrets_and_not_for_a_guest() {
    let cluster = Cluster::on_disk();
    let dockerfile = "FROM scratch\nRUN --mount=type=secret,id=key [\"/a\"]\n";
    let build = cluster.submit(10, &submission(dockerfile)).await;
    let cluster = cluster.restart().await;
    let mut worker = cluster.worker(1, &[]).await;
    let mut guest = cluster.visit(build).await;
    let planned = guest.until("waiting: [1/1] RUN [\"/a\"]");
    assert!(tokio::time::timeout(Duration::from_secs(5), planned).await.is_err());
    let secrets = [("key".to_owned(), b"abc".to_vec())].into();
    let _client = cluster.attach_with(build, secrets).await;
    assert_eq!(worker.lease().await.secrets.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_said_just_before_a_stop_counts() {
    let cluster = Cluster::on_disk();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission(TWO_STEPS)).await;
    let mut client = cluster.attach(build).await;
    client.until("waiting: [2/2] RUN [\"/a\"]").await;
    let lease = worker.lease().await;
    worker.fall_silent();
    worker.run(&lease).await;
    worker.say(pb::worker_report::Report::Goodbye(pb::Goodbye {})).await;
    let cluster = cluster.restart().await;
    let mut other = cluster.worker(2, &[]).await;
    let output = other.lease().await;
    other.assemble(&output).await;
    let mut client = cluster.attach(build).await;
    let Outcome::Done { summary, .. } = client.outcome().await else { panic!("not done") };
    assert_eq!(summary, Summary { ran: 2, ..Summary::default() });
}

#[tokio::test(start_paused = true)]
async fn a_long_log_is_begun_again_once_no_build_goes_on() {
    let short = || CoordinatorConfig { log_bytes_max: 1, ..Default::default() };
    let cluster = Cluster::on_disk();
    let log = cluster.dir.path().join("data/log-1");
    let length = || std::fs::metadata(&log).unwrap().len();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission(TWO_STEPS)).await;
    let mut client = cluster.attach(build).await;
    let lease = tokio::select! {
        lease = worker.lease() => lease,
        () = client.until("never") => unreachable!(),
    };
    worker.fall_silent();
    let before = length();
    let cluster = cluster.restart_with(short()).await;
    assert!(length() >= before, "a build goes on");
    let mut worker = cluster.worker(1, &[&lease]).await;
    let lease = worker.lease().await;
    worker.run(&lease).await;
    let lease = worker.lease().await;
    worker.assemble(&lease).await;
    let mut client = cluster.attach(build).await;
    assert!(matches!(client.outcome().await, Outcome::Done { .. }));
    worker.fall_silent();

    let before = length();
    let cluster = cluster.restart_with(short()).await;
    assert!(length() < before);
    let mut client = cluster.attach(build).await;
    assert!(matches!(client.outcome().await, Outcome::Done { .. }));
    assert!(client.seen.iter().any(|it| it == "done: [2/2] RUN [\"/a\"]"), "{:#?}", client.seen);
    let mut worker = cluster.worker(1, &[]).await;
    let other = cluster.submit(11, &submission(TWO_STEPS)).await;
    let mut client = cluster.attach(other).await;
    client.until("cached: [2/2] RUN [\"/a\"]").await;
    let lease = worker.lease().await;
    worker.assemble(&lease).await;
    assert!(matches!(client.outcome().await, Outcome::Done { .. }));

    worker.fall_silent();
    let stray = cluster.dir.path().join(format!("data/builds/{}.events", lease.job));
    std::fs::write(&stray, b"").unwrap();
    tokio::time::advance(Duration::from_hours(8 * 24)).await;
    let events = cluster.dir.path().join(format!("data/builds/{build}.events"));
    assert!(events.exists());
    let cluster = cluster.restart().await;
    let _served = cluster.worker(2, &[]).await;
    assert!(!events.exists(), "the events of a build that ended long ago are gone");
    assert!(!stray.exists());
}

/// Journals are not synced: a client may have read more of one than a loss of power left.
#[tokio::test(start_paused = true)]
async fn a_client_that_has_read_more_than_is_left_hears_what_follows_and_the_end() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission("FROM scratch\nRUN [\"/a\"]\n")).await;
    let far = pb::Attach { build: build.to_string(), from_event: 9_000, ..pb::Attach::default() };
    let _first = cluster.attach(build).await;
    let lease = worker.lease().await;
    let mut second = cluster.attached(far.clone()).await;
    worker.run(&lease).await;
    let lease = worker.lease().await;
    worker.assemble(&lease).await;
    assert!(matches!(second.outcome().await, Outcome::Done { .. }));
    assert!(second.seen.contains(&"done: [1/1] RUN [\"/a\"]".to_owned()), "{:#?}", second.seen);
    let mut third = cluster.attached(far).await;
    assert!(matches!(third.outcome().await, Outcome::Done { .. }));
}
