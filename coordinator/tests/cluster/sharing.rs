//! Two builds of the same.

use std::collections::BTreeMap;
use std::time::Duration;

use dcbuild_model::BuildId;
use dcbuild_plan::NoCache;
use dcbuild_proto::document::{Outcome, Work};
use dcbuild_proto::pb;
use dcbuild_proto::pb::worker_report::Report;

use crate::harness::{Cluster, Worker, fence, steps, submission};

#[tokio::test(start_paused = true)]
async fn a_running_step_is_shared_and_its_log_is_told_from_the_first_byte() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let dockerfile = "FROM scratch\nRUN --network=none [\"/a\"]\n";
    let first = cluster.submit(10, &submission(dockerfile)).await;
    let mut owner = cluster.attach(first).await;
    let lease = worker.lease().await;
    let step = &steps(&lease)[0];
    worker.start(&lease, step).await;
    worker.log(&lease, step, "one").await;
    owner.until("log one").await;
    let second = cluster.submit(11, &submission(dockerfile)).await;
    let mut sharer = cluster.attach(second).await;
    sharer.until("log one").await;
    worker.log(&lease, step, "two").await;
    worker.done(&lease, step, None).await;
    for _ in 0..2 {
        let lease = worker.lease().await;
        worker.assemble(&lease).await;
    }
    let Outcome::Done { summary, .. } = owner.outcome().await else { panic!("not done") };
    assert_eq!((summary.ran, summary.shared), (1, 0));
    let Outcome::Done { summary, .. } = sharer.outcome().await else { panic!("not done") };
    assert_eq!((summary.ran, summary.shared), (0, 1));
    let told = |line: &str| sharer.seen.iter().filter(|it| *it == line).count();
    assert_eq!((told("log one"), told("log two")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_shared_step_goes_on_when_its_owner_is_cancelled() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let dockerfile = "FROM scratch\nRUN [\"/a\"]\n";
    let first = cluster.submit(10, &submission(dockerfile)).await;
    let mut owner = cluster.attach(first).await;
    let lease = worker.lease().await;
    let step = &steps(&lease)[0];
    worker.start(&lease, step).await;
    owner.until("running: [1/1] RUN [\"/a\"]").await;
    let second = cluster.submit(11, &submission(dockerfile)).await;
    let mut sharer = cluster.attach(second).await;
    sharer.until("running: [1/1] RUN [\"/a\"]").await;
    cluster.cancel(first).await;
    assert!(matches!(owner.outcome().await, Outcome::Canceled { .. }));
    worker.done(&lease, step, None).await;
    let output = worker.lease().await;
    worker.assemble(&output).await;
    assert!(matches!(sharer.outcome().await, Outcome::Done { .. }));
}

/// Secrets are in memory alone: after a restart those of a client that stays away are not to be had.
#[tokio::test(start_paused = true)]
async fn a_step_whose_owner_took_its_secret_along_is_leased_to_who_shares_it() {
    let cluster = Cluster::on_disk();
    let dockerfile = "FROM scratch\nRUN --mount=type=secret,id=key [\"/a\"]\n";
    let step = "[1/1] RUN --mount=type=secret,id=key [\"/a\"]";
    let secrets = || BTreeMap::from([("key".to_owned(), b"abc".to_vec())]);
    let mut builds = Vec::new();
    for number in [10, 11] {
        let build = cluster.submit(number, &submission(dockerfile)).await;
        let mut client = cluster.attach_with(build, secrets()).await;
        client.until(&format!("waiting: {step}")).await;
        builds.push(build);
    }
    let [owner, sharer] = builds[..] else { panic!("{builds:?}") };
    let cluster = cluster.restart().await;
    let mut client = cluster.attach_with(sharer, secrets()).await;
    let mut worker = cluster.worker(1, &[]).await;
    // The worker has the owner's lease, and waits for what the owner alone can give.
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.cancel(owner).await;
    worker.stopped().await;
    let lease = worker.lease().await;
    assert_eq!((lease.build, lease.secrets.len()), (sharer, 1));
    worker.run(&lease).await;
    let output = worker.lease().await;
    worker.assemble(&output).await;
    assert!(matches!(client.outcome().await, Outcome::Done { .. }));
}

/// What a build found of another one that goes on stays known when the finder has ended.
#[tokio::test(start_paused = true)]
async fn a_result_that_somebody_found_and_left_is_shared_still() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let made = "FROM scratch AS a\nRUN --network=none [\"/x\"]\nFROM scratch\nCOPY --from=a / /y\n";
    let build = cluster.submit(10, &submission(made)).await;
    ends(&cluster, &mut worker, build).await;
    // One that makes the first step anew, and goes on.
    let mut fresh = submission(&made.replace("/y", "/z"));
    fresh.request.no_cache = NoCache::All;
    let fresh = cluster.submit(11, &fresh).await;
    let _client = cluster.attach(fresh).await;
    let lease = worker.lease().await;
    worker.run(&lease).await;
    let lease = worker.lease().await;
    worker.start(&lease, &steps(&lease)[0]).await;
    let finder =
        cluster.submit(12, &submission("FROM scratch\nRUN --network=none [\"/x\"]\n")).await;
    ends(&cluster, &mut worker, finder).await;
    // One that finds its last step, whose layer is lost then: it needs the first one.
    let build = cluster.submit(13, &submission(made)).await;
    let mut client = cluster.attach(build).await;
    let output = worker.lease().await;
    let (fence, lost_input) = (Some(fence(&output)), Some(1));
    let returned = pb::JobReturned { fence, lost_input, lost_layer: String::new() };
    worker.say(Report::JobReturned(returned)).await;
    let again = worker.lease().await;
    assert!(matches!(steps(&again), [copy] if copy.index.0 == 1), "{again:?}");
    worker.run(&again).await;
    let output = worker.lease().await;
    worker.assemble(&output).await;
    assert!(matches!(client.outcome().await, Outcome::Done { .. }), "{:#?}", client.seen);
}

/// Has a worker carry out all of a build.
async fn ends(cluster: &Cluster, worker: &mut Worker, build: BuildId) {
    let mut client = cluster.attach(build).await;
    loop {
        let lease = worker.lease().await;
        match lease.work {
            Work::Steps { .. } => worker.run(&lease).await,
            Work::Output { .. } => break worker.assemble(&lease).await,
        }
    }
    assert!(matches!(client.outcome().await, Outcome::Done { .. }), "{:#?}", client.seen);
}
