//! What workers said goes with a coordinator that heard it, or is said twice.

use dcbuild_proto::document::{self, Lease, Outcome};
use dcbuild_proto::pb;
use dcbuild_proto::pb::worker_order::Order;
use dcbuild_proto::pb::worker_report::Report;

use crate::harness::{Client, Cluster, Worker, fence, steps, submission};

const TWO_STEPS: &str = "FROM scratch\nCOPY a /a\nRUN [\"/a\"]\n";
const TOLD: &str = "warning attempt 1 of 3 was lost to a network that failed: what its worker said of it was not heard";

fn ended(lease: &Lease) -> Report {
    Report::JobEnded(pb::JobEnded { fence: Some(fence(lease)) })
}

/// The next lease; until then no job but the former one is stopped.
async fn next_lease(worker: &mut Worker, former: &Lease) -> Lease {
    loop {
        match worker.order().await {
            Order::Stop(stop) => assert_eq!(stop.attempt, former.attempt.to_string()),
            Order::Lease(lease) => return document::from_bytes("lease", &lease).unwrap(),
            other => panic!("no lease but {other:?}"),
        }
    }
}

/// How many steps ran of a build that is done.
async fn ran(client: &mut Client) -> u32 {
    let Outcome::Done { summary, .. } = client.outcome().await else { panic!("not done") };
    summary.ran
}

fn losses(client: &Client) -> usize {
    client.seen.iter().filter(|line| *line == TOLD).count()
}

#[tokio::test(start_paused = true)]
async fn a_job_of_which_something_was_not_heard_is_leased_again() {
    let cluster = Cluster::on_disk();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission(TWO_STEPS)).await;
    let mut client = cluster.attach(build).await;
    client.until("waiting: [2/2] RUN [\"/a\"]").await;
    let lease = worker.lease().await;
    let [_, second] = steps(&lease) else { panic!("{lease:?}") };
    // That the first step is done is never heard.
    let late = vec![worker.done_report(&lease, second, None), ended(&lease)];
    worker.fall_silent();
    let cluster = cluster.restart().await;
    let mut worker = cluster.worker_that_says(1, &[&lease], late).await;
    let again = next_lease(&mut worker, &lease).await;
    assert!(again.attempt != lease.attempt && again.epoch > lease.epoch);
    worker.run(&again).await;
    let output = worker.lease().await;
    worker.assemble(&output).await;
    let mut client = cluster.attach(build).await;
    assert_eq!(ran(&mut client).await, 2);
    assert_eq!(losses(&client), 1, "{:#?}", client.seen);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_begins_a_step_too_far_is_stopped_at_once() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission(TWO_STEPS)).await;
    let mut client = cluster.attach(build).await;
    client.until("waiting: [2/2] RUN [\"/a\"]").await;
    let lease = worker.lease().await;
    worker.start(&lease, &steps(&lease)[1]).await;
    assert_eq!(worker.stopped().await, lease.attempt.to_string());
    let again = worker.lease().await;
    worker.run(&again).await;
    let output = worker.lease().await;
    worker.assemble(&output).await;
    assert_eq!(ran(&mut client).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_ended_without_a_word_of_how_is_leased_again() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission("FROM scratch\nRUN [\"/a\"]\n")).await;
    let mut client = cluster.attach(build).await;
    let lease = worker.lease().await;
    worker.say(ended(&lease)).await;
    let again = next_lease(&mut worker, &lease).await;
    assert!(again.attempt != lease.attempt && again.epoch > lease.epoch);
    worker.run(&again).await;
    let output = worker.lease().await;
    worker.say(ended(&output)).await;
    let again = next_lease(&mut worker, &output).await;
    assert_ne!(again.attempt, output.attempt);
    worker.assemble(&again).await;
    assert_eq!(ran(&mut client).await, 1);
    assert_eq!(losses(&client), 2, "{:#?}", client.seen);
}

#[tokio::test(start_paused = true)]
async fn the_job_of_a_worker_that_leaves_is_lost_with_it_and_once() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission("FROM scratch\nRUN [\"/a\"]\n")).await;
    let mut client = cluster.attach(build).await;
    let lease = worker.lease().await;
    worker.say(ended(&lease)).await;
    worker.say(Report::Goodbye(pb::Goodbye {})).await;
    let mut other = cluster.worker(2, &[]).await;
    let again = other.lease().await;
    other.run(&again).await;
    let output = other.lease().await;
    other.assemble(&output).await;
    assert_eq!(ran(&mut client).await, 1);
    let lost = |line: &&String| line.contains(" was lost to ");
    let lost: Vec<&String> = client.seen.iter().filter(lost).collect();
    let told = format!("warning attempt 1 of 3 was lost to a lost worker, {}", worker.id);
    assert_eq!(lost, [&told]);
}

#[tokio::test(start_paused = true)]
async fn what_is_said_twice_ends_no_lease() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission(TWO_STEPS)).await;
    let mut client = cluster.attach(build).await;
    client.until("waiting: [2/2] RUN [\"/a\"]").await;
    let lease = worker.lease().await;
    let [first, second] = steps(&lease) else { panic!("{lease:?}") };
    worker.start(&lease, first).await;
    worker.done(&lease, first, None).await;
    client.until("done: [1/2] COPY a /a").await;
    let done = |step| worker.done_report(&lease, step, None);
    let mut back = cluster.worker_that_says(1, &[&lease], vec![done(first)]).await;
    assert_eq!(back.lease().await.attempt, lease.attempt);
    back.run(&lease).await;
    let output = back.lease().await;
    // All of it once more; of the job that is over it is said that it is to stop, and nothing else.
    let kept = vec![done(first), done(second), ended(&lease), ended(&lease)];
    let mut back = cluster.worker_that_says(1, &[&output], kept).await;
    assert_eq!(next_lease(&mut back, &lease).await.attempt, output.attempt);
    back.assemble(&output).await;
    assert_eq!(ran(&mut client).await, 2);
    assert!(!client.seen.iter().any(|line| line.contains(" was lost to ")), "{:#?}", client.seen);
}

#[tokio::test(start_paused = true)]
async fn what_a_renewal_is_answered_with_is_written_down() {
    let cluster = Cluster::on_disk();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission(TWO_STEPS)).await;
    let mut client = cluster.attach(build).await;
    client.until("waiting: [2/2] RUN [\"/a\"]").await;
    let lease = worker.lease().await;
    let [first, second] = steps(&lease) else { panic!("{lease:?}") };
    worker.start(&lease, first).await;
    worker.done(&lease, first, None).await;
    worker.say(Report::Renew(pb::Renew { said: 3, ..pb::Renew::default() })).await;
    assert_eq!(worker.order().await, Order::Heard(pb::Heard { said: 3 }));
    worker.fall_silent();
    // So nothing of it is said again.
    let cluster = cluster.restart().await;
    let mut worker = cluster.worker(1, &[&lease]).await;
    assert_eq!(worker.lease().await.attempt, lease.attempt);
    worker.start(&lease, second).await;
    worker.done(&lease, second, None).await;
    let output = worker.lease().await;
    worker.assemble(&output).await;
    let mut client = cluster.attach(build).await;
    assert_eq!(ran(&mut client).await, 2);
    assert_eq!(losses(&client), 0, "{:#?}", client.seen);
}
