//! `--cache-upload outputs` and `none`: results that stay with their workers.

use dcbuild_proto::document::{
    Lease, LeasedStep, Outcome, Sending, Submission, Summary, Upload, Work,
};
use dcbuild_proto::pb;
use dcbuild_proto::pb::worker_order::Order;
use dcbuild_proto::pb::worker_report::Report;

use crate::harness::{Cluster, Worker, steps, submission};

/// The second stage reads the first one, which no output is made of.
const TWO_STAGES: &str =
    "FROM scratch AS made\nRUN [\"/make\"]\nFROM scratch\nCOPY --from=made /a /a\nRUN [\"/use\"]\n";

fn keeping(upload: Upload, dockerfile: &str) -> Submission {
    Submission { upload, ..submission(dockerfile) }
}

fn sending(lease: &Lease) -> Vec<(String, Sending)> {
    let word = |step: &LeasedStep| step.step.name.rsplit(' ').next().unwrap().to_owned();
    steps(lease).iter().map(|step| (word(step), step.sending)).collect()
}

fn held(lease: &Lease, step: &LeasedStep) -> pb::HeldStep {
    pb::HeldStep { attempt: lease.attempt.to_string(), step: step.index.0 }
}

/// Carries out all steps of a lease, and sends what is not held.
async fn carry_out(worker: &Worker, lease: &Lease) {
    for step in steps(lease) {
        worker.start(lease, step).await;
        match step.sending {
            Sending::AtOnce => worker.done(lease, step, None).await,
            Sending::WhenAsked => worker.say(worker.done_report(lease, step, None)).await,
        }
    }
}

async fn durable(worker: &Worker, pb::HeldStep { attempt, step }: pb::HeldStep) {
    worker.say(Report::StepDurable(pb::StepDurable { attempt, step })).await;
}

/// Runs a build that keeps what it is told; says what was told the worker when all was over.
async fn over(cluster: &Cluster, worker: &mut Worker, upload: Upload) -> (Vec<Order>, usize) {
    let build = cluster.submit(10, &keeping(upload, TWO_STAGES)).await;
    let mut client = cluster.attach(build).await;
    let mut holds = 0;
    loop {
        let lease = worker.lease().await;
        if matches!(lease.work, Work::Output { .. }) {
            worker.assemble(&lease).await;
            break;
        }
        holds += steps(&lease).iter().filter(|it| it.sending == Sending::WhenAsked).count();
        carry_out(worker, &lease).await;
    }
    assert!(matches!(client.outcome().await, Outcome::Done { .. }));
    let mut orders = Vec::new();
    for _ in 0..holds {
        orders.push(worker.order().await);
    }
    (orders, holds)
}

/// What a build that comes later finds of it.
async fn found(cluster: &Cluster, worker: &mut Worker, number: u128) -> Summary {
    let build = cluster.submit(number, &submission(TWO_STAGES)).await;
    let mut client = cluster.attach(build).await;
    loop {
        let lease = worker.lease().await;
        if matches!(lease.work, Work::Output { .. }) {
            worker.assemble(&lease).await;
            break;
        }
        assert!(steps(&lease).iter().all(|it| it.sending == Sending::AtOnce));
        worker.run(&lease).await;
    }
    let Outcome::Done { summary, .. } = client.outcome().await else { panic!("not done") };
    summary
}

#[tokio::test(start_paused = true)]
async fn of_none_nothing_is_sent_or_found_and_the_worker_lets_go_of_it_at_the_end() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let (orders, holds) = over(&cluster, &mut worker, Upload::None).await;
    assert_eq!(holds, 3);
    assert!(orders.iter().all(|order| matches!(order, Order::LetGo(_))), "{orders:?}");
    assert_eq!(found(&cluster, &mut worker, 11).await, Summary { ran: 3, ..Summary::default() });
    // That one kept all of it.
    let third = found(&cluster, &mut worker, 12).await;
    assert_eq!((third.ran, third.hits), (0, 2), "{third:?}");
}

#[tokio::test(start_paused = true)]
async fn of_outputs_what_the_image_is_made_of_is_sent_and_found() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let (orders, holds) = over(&cluster, &mut worker, Upload::Outputs).await;
    assert!(matches!(*orders, [Order::LetGo(_)]) && holds == 1, "{orders:?}");
    let second = found(&cluster, &mut worker, 11).await;
    assert_eq!((second.ran, second.hits), (0, 2), "{second:?}");
}

#[tokio::test(start_paused = true)]
async fn what_another_build_shares_that_keeps_all_is_sent_and_kept() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let dockerfile = "FROM scratch\nRUN --network=none [\"/a\"]\n";
    let first = cluster.submit(10, &keeping(Upload::None, dockerfile)).await;
    let mut owner = cluster.attach(first).await;
    let lease = worker.lease().await;
    assert_eq!(sending(&lease), [("[\"/a\"]".to_owned(), Sending::WhenAsked)]);
    let step = &steps(&lease)[0];
    worker.start(&lease, step).await;
    worker.log(&lease, step, "one").await;
    owner.until("log one").await;
    let second = cluster.submit(11, &submission(dockerfile)).await;
    let mut sharer = cluster.attach(second).await;
    sharer.until("log one").await;
    carry_out(&worker, &lease).await;
    let (mut sent, mut outputs) = (false, 0);
    while outputs < 2 || !sent {
        match worker.order().await {
            Order::Send(asked) => {
                assert_eq!(asked, held(&lease, step));
                durable(&worker, asked).await;
                sent = true;
            }
            Order::Lease(bytes) => {
                let lease = dcbuild_proto::document::from_bytes("lease", &bytes).unwrap();
                worker.assemble(&lease).await;
                outputs += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(owner.outcome().await, Outcome::Done { .. }));
    assert!(matches!(sharer.outcome().await, Outcome::Done { .. }));
    let third = cluster.submit(12, &submission(dockerfile)).await;
    let mut client = cluster.attach(third).await;
    let output = worker.lease().await;
    worker.assemble(&output).await;
    let Outcome::Done { summary, .. } = client.outcome().await else { panic!("not done") };
    assert_eq!(summary, Summary { hits: 1, ..Summary::default() });
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_comes_back_knows_what_is_held_and_what_is_not_wanted() {
    let cluster = Cluster::on_disk();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &keeping(Upload::None, TWO_STAGES)).await;
    let mut client = cluster.attach(build).await;
    let lease = worker.lease().await;
    let first = &steps(&lease)[0];
    worker.start(&lease, first).await;
    worker.say(worker.done_report(&lease, first, None)).await;
    client.until("done: [made 1/1] RUN [\"/make\"]").await;
    worker.fall_silent();
    let cluster = cluster.restart().await;
    let stranger = pb::HeldStep { step: 77, ..held(&lease, first) };
    let mut worker =
        cluster.worker_that_holds(1, vec![held(&lease, first), stranger.clone()]).await;
    // What nobody knows goes; what the build still needs stays.
    let mut orders = vec![worker.order().await];
    while !orders.contains(&Order::LetGo(stranger.clone())) {
        orders.push(worker.order().await);
    }
    assert!(!orders.contains(&Order::LetGo(held(&lease, first))), "{orders:?}");
    cluster.cancel(build).await;
    while worker.order().await != Order::LetGo(held(&lease, first)) {}
}
