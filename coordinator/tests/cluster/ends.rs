//! How builds end that do not come out whole: an output that cannot be made, a worker that never comes.

use std::time::Duration;

use dcbuild_coordinator::CoordinatorConfig;
use dcbuild_model::Fault;
use dcbuild_proto::document::{
    self, Failed, Lease, Outcome, OutputKind, StepError, StepErrorKind, Submission, Work,
};
use dcbuild_proto::pb;
use dcbuild_proto::pb::worker_report::Report;

use crate::harness::{Cluster, Worker, fence, steps, submission};

/// An image under each of these names, an output each.
fn named(names: &[&str]) -> Submission {
    let mut submission = submission("FROM scratch\nENV A=1\n");
    let spec = submission.outputs.remove(0);
    for name in names {
        let names = vec![(*name).to_owned()];
        let kind = OutputKind::Image { names, push: false, push_by_digest: false, keep: false };
        submission.outputs.push(document::OutputSpec { kind, ..spec.clone() });
    }
    submission
}

async fn refuse(worker: &Worker, lease: &Lease, message: &str) {
    let kind = StepErrorKind::Rejected {};
    let error = StepError { kind, message: message.into(), hint: Some("log in".into()) };
    let error = document::to_bytes(&error).into();
    let failed = pb::StepFailed { fence: Some(fence(lease)), step: None, error };
    worker.say(Report::StepFailed(failed)).await;
}

fn output_of(lease: &Lease) -> u32 {
    match &lease.work {
        Work::Output { output, .. } => *output,
        Work::Steps { .. } => panic!("steps are leased: {lease:?}"),
    }
}

async fn failed(client: &mut crate::harness::Client) -> Failed {
    match client.outcome().await {
        Outcome::Failed(failed) => failed,
        other => panic!("it did not fail: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_output_that_fails_takes_no_other_with_it() {
    for restarted in [false, true] {
        let mut cluster = Cluster::on_disk();
        let mut worker = cluster.worker(1, &[]).await;
        let build = cluster.submit(10, &named(&["r:5000/a", "r:5000/b"])).await;
        let mut client = cluster.attach(build).await;
        let mut leases = [worker.lease().await, worker.lease().await];
        leases.sort_by_key(output_of);
        let [first, mut second] = leases;
        assert_eq!((output_of(&first), output_of(&second)), (0, 1));
        refuse(&worker, &first, "could not push r:5000/a").await;
        client.until("failed: exporting to image").await;
        if restarted {
            drop((worker, client));
            cluster = cluster.restart().await;
            client = cluster.attach(build).await;
            worker = cluster.worker(2, &[]).await;
            second = worker.lease().await;
            assert_eq!(output_of(&second), 1, "the failed output is not tried again");
        }
        worker.assemble(&second).await;
        let failed = failed(&mut client).await;
        assert_eq!(failed.code, "OUTPUT_FAILED");
        assert_eq!(failed.message, "image r:5000/a failed: could not push r:5000/a");
        assert_eq!(failed.hint.as_deref(), Some("log in"));
        let made: Vec<bool> = failed.outputs.iter().map(Option::is_some).collect();
        assert_eq!(made, [false, true]);
        let canceled = |line: &String| line.starts_with("canceled");
        assert!(!client.seen.iter().any(canceled), "{:#?}", client.seen);
    }
}

#[tokio::test(start_paused = true)]
async fn all_outputs_that_failed_are_named() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &named(&["r:5000/a", "r:5000/b"])).await;
    let mut client = cluster.attach(build).await;
    for _ in 0..2 {
        let lease = worker.lease().await;
        let why = if output_of(&lease) == 0 { "no a" } else { "no b" };
        refuse(&worker, &lease, why).await;
    }
    let failed = failed(&mut client).await;
    let want = "image r:5000/a failed: no a; image r:5000/b failed: no b";
    assert_eq!((failed.message.as_str(), failed.outputs.len()), (want, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lost_try_at_an_output_is_told_at_that_output() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &named(&["r:5000/a"])).await;
    let mut client = cluster.attach(build).await;
    let lease = worker.lease().await;
    let (kind, message) = (StepErrorKind::Network {}, "the registry hung up".to_owned());
    let error = document::to_bytes(&StepError { kind, message, hint: None }).into();
    let lost = pb::StepFailed { fence: Some(fence(&lease)), step: None, error };
    worker.say(Report::StepFailed(lost)).await;
    let told = "warning attempt 1 of 3 was lost to a network that failed: the registry hung up";
    client.until(told).await;
    let output = client.vertex_of("exporting to image");
    assert_eq!(client.vertex_of(told), output);
}

#[tokio::test(start_paused = true)]
async fn a_build_without_a_worker_says_what_it_waits_for_and_goes_on_when_one_comes() {
    let cluster = Cluster::in_memory();
    let mut dockerfile = submission("FROM scratch\nCOPY a /a\nRUN [\"/a\"]\n");
    dockerfile.in_place = false;
    dockerfile.request.platforms = vec!["linux/riscv64".parse().unwrap()];
    let mut near = cluster.worker(1, &[]).await;
    let own = near.platform();
    let build = cluster.submit(10, &dockerfile).await;
    let mut client = cluster.attach(build).await;
    client.until("done: [internal] send build context").await;
    // What works on trees alone is done by whoever is there.
    let lease = near.lease().await;
    near.run(&lease).await;
    let waits = format!("waits for a worker of linux/riscv64; connected: 1 of {own}");
    client.until(&format!("running: {waits}")).await;
    client.until(&format!("log still {waits}, after 31 s\n")).await;
    let mut worker = cluster.worker_of(2, "linux/riscv64").await;
    client.until(&format!("done: {waits}")).await;
    let lease = worker.lease().await;
    worker.run(&lease).await;
}

#[tokio::test(start_paused = true)]
async fn each_platform_s_programs_go_to_a_worker_that_runs_them() {
    let cluster = Cluster::in_memory();
    let mut dockerfile = submission("FROM scratch\nCOPY a /a\nRUN [\"/a\"]\n");
    let platforms = ["linux/riscv64", "linux/s390x"];
    dockerfile.request.platforms = platforms.map(|text| text.parse().unwrap()).into();
    let mut one = cluster.worker_of(1, platforms[0]).await;
    let mut other = cluster.worker_of(2, platforms[1]).await;
    let build = cluster.submit(10, &dockerfile).await;
    let mut client = cluster.attach(build).await;
    client.until("waiting: [linux/s390x 2/2] RUN [\"/a\"]").await;
    for worker in [&mut one, &mut other] {
        let lease = worker.lease().await;
        let names: Vec<&str> =
            steps(&lease).iter().map(|leased| leased.step.name.as_str()).collect();
        let own = worker.platform();
        assert_eq!(names, [format!("[{own} 1/2] COPY a /a"), format!("[{own} 2/2] RUN [\"/a\"]")]);
        worker.run(&lease).await;
    }
    let lease = tokio::select! {
        lease = one.lease() => lease,
        lease = other.lease() => lease,
    };
    let Work::Output { images, index, .. } = &lease.work else { panic!("{lease:?}") };
    let of =
        |image: &document::LeasedImage| (image.template.platform.to_string(), image.created.len());
    let states: Vec<(String, usize)> = images.iter().map(of).collect();
    assert_eq!(states, platforms.map(|platform| (platform.to_owned(), 2)));
    assert!(index);
}

#[tokio::test(start_paused = true)]
async fn what_builds_is_what_the_workers_are() {
    let cluster = Cluster::in_memory();
    let mut dockerfile =
        submission("FROM --platform=$BUILDPLATFORM scratch\nCOPY a /a\nRUN [\"/a\"]\n");
    // A client whose own platform no worker has.
    dockerfile.request.build_platform = "linux/s390x".parse().unwrap();
    let mut worker = cluster.worker_of(1, "linux/riscv64").await;
    let build = cluster.submit(10, &dockerfile).await;
    let mut client = cluster.attach(build).await;
    client.until("waiting: [2/2] RUN [\"/a\"]").await;
    let lease = worker.lease().await;
    assert_eq!(steps(&lease)[1].step.platform, "linux/riscv64".parse().unwrap());
    worker.run(&lease).await;
    let lease = worker.lease().await;
    let Work::Output { images, .. } = &lease.work else { panic!("{lease:?}") };
    assert_eq!(images[0].template.platform, "linux/riscv64".parse().unwrap());
    // One that has a worker of its own platform builds on that.
    let mut own = cluster.worker_of(2, "linux/s390x").await;
    let build = cluster.submit(11, &dockerfile).await;
    let mut client = cluster.attach(build).await;
    client.until("waiting: [2/2] RUN [\"/a\"]").await;
    let lease = own.lease().await;
    assert_eq!(steps(&lease)[1].step.platform, "linux/s390x".parse().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_build_does_not_wait_for_a_worker_for_ever() {
    let config = CoordinatorConfig {
        no_worker_max: Duration::from_secs(30),
        ..CoordinatorConfig::default()
    };
    let cluster = Cluster::in_memory().restart_with(config).await;
    let build = cluster.submit(10, &submission("FROM scratch\nCOPY a /a\n")).await;
    let mut client = cluster.attach(build).await;
    let failed = failed(&mut client).await;
    assert_eq!((failed.fault, failed.code.as_str()), (Fault::Cluster, "NO_WORKER"));
    assert_eq!(failed.message, "a worker did not come within 30 s; none is connected");
    assert!(client.seen.contains(&"failed: waits for a worker; none is connected".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_tainted_result_is_used_once_and_told_and_so_is_all_that_is_made_of_it() {
    let cluster = Cluster::on_disk();
    let dockerfile = submission("FROM scratch\nCOPY a /a\nRUN [\"/a\"]\nRUN [\"/b\"]\n");
    let mut worker = cluster.worker(1, &[]).await;
    for (build, ran) in [(10, 3), (11, 2)] {
        let build = cluster.submit(build, &dockerfile).await;
        let mut client = cluster.attach(build).await;
        client.until("waiting: [3/3] RUN [\"/b\"]").await;
        let lease = worker.lease().await;
        assert_eq!(steps(&lease).len(), ran, "what is clean is kept, and nothing else");
        for step in steps(&lease) {
            assert!(!step.tainted, "its own attempt knows what it made itself");
            let Report::StepDone(done) = worker.done_report(&lease, step, None) else { panic!() };
            let bad = step.step.name.contains("/a\"]");
            let tainted = if bad { "it was killed" } else { "" }.to_owned();
            worker.say(Report::StepDone(pb::StepDone { tainted, ..done })).await;
            let (attempt, step) = (lease.attempt.to_string(), step.index.0);
            worker.say(Report::StepDurable(pb::StepDurable { attempt, step })).await;
        }
        let lease = worker.lease().await;
        worker.assemble(&lease).await;
        assert!(matches!(client.outcome().await, Outcome::Done { .. }));
        assert!(client.seen.contains(&"warning it was killed".to_owned()), "{:#?}", client.seen);
    }
}
