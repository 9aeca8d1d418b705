//! Who has what the store lacks, as workers are told it.

use std::time::Duration;

use dcbuild_model::{BuildId, ChangeDigest, Digest, LayerId, LayerRef, Record};
use dcbuild_proto::document::{self, Lease, LeasedStep, Submission, Upload};
use dcbuild_proto::pb;
use dcbuild_proto::pb::worker_order::Order;
use dcbuild_proto::pb::worker_report::Report;
use dcbuild_remote::PeerKey;

use crate::harness::{Cluster, Worker, fence, steps, submission};

fn layer() -> LayerId {
    LayerId(Digest::of(b"layer"))
}

async fn maker(asker: &Worker) -> pb::FindMakerReply {
    ask(asker, false).await
}

async fn ask(asker: &Worker, send: bool) -> pb::FindMakerReply {
    let (worker, layer) = (asker.id.to_string(), layer().to_string());
    let request = pb::FindMakerRequest { worker, layer, send };
    asker.client.clone().find_maker(request).await.unwrap().into_inner()
}

/// Says that a step left the layer.
async fn makes(worker: &Worker, lease: &Lease, step: &LeasedStep) {
    let Report::StepDone(mut done) = worker.done_report(lease, step, None) else { unreachable!() };
    let mut record: Record = document::from_bytes("record", &done.record).unwrap();
    let change = ChangeDigest(Digest::of(b"change"));
    record.result.layers =
        vec![LayerRef { layer: layer(), change, entries: 1, bytes: 1, base: None }];
    done.record = document::to_bytes(&record).into();
    worker.say(Report::StepDone(done)).await;
}

/// Waits until the coordinator says this of the layer.
async fn until(asker: &Worker, wanted: impl Fn(&pb::FindMakerReply) -> bool) -> pb::FindMakerReply {
    for _ in 0..1_000 {
        let said = maker(asker).await;
        if wanted(&said) {
            return said;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it still says {:?}", maker(asker).await);
}

/// A layer on its way: its maker, whoever asks, and what was leased.
async fn coming(cluster: &Cluster) -> (Worker, Worker, Lease) {
    made(cluster, Upload::All).await
}

/// The same of a build that keeps this.
async fn made(cluster: &Cluster, upload: Upload) -> (Worker, Worker, Lease) {
    let mut maker = cluster.worker(1, &[]).await;
    let submission = Submission { upload, ..submission("FROM scratch\nRUN a\nRUN b") };
    let build = cluster.submit(10, &submission).await;
    let _client = cluster.attach(build).await;
    let lease = maker.lease().await;
    let asker = cluster.worker(2, &[]).await;
    assert_eq!(self::maker(&asker).await, pb::FindMakerReply::default());
    maker.start(&lease, &steps(&lease)[0]).await;
    makes(&maker, &lease, &steps(&lease)[0]).await;
    let said = until(&asker, |said| said.coming).await;
    let key = PeerKey::new(&[7; 32]).unwrap();
    let peer = pb::Peer {
        worker: maker.id.to_string(),
        address: "worker-1:7072".into(),
        ticket: key.ticket(&layer()).into(),
        certificate: vec![5; 32].into(),
    };
    assert_eq!(said.peer, Some(peer));
    (maker, asker, lease)
}

#[tokio::test(start_paused = true)]
async fn a_layer_is_its_maker_s_until_it_is_durable() {
    let cluster = Cluster::in_memory();
    let (worker, asker, lease) = coming(&cluster).await;
    // It neither asks itself nor waits for itself, and others get nothing.
    let own = maker(&worker).await;
    assert_eq!((own.coming, own.peer), (false, None));
    let unknown = pb::FindMakerRequest {
        worker: dcbuild_model::WorkerId::from_bits(99).to_string(),
        layer: layer().to_string(),
        send: true,
    };
    let unknown = asker.client.clone().find_maker(unknown).await.unwrap().into_inner();
    assert_eq!(unknown, pb::FindMakerReply::default());
    let (attempt, step) = (lease.attempt.to_string(), steps(&lease)[0].index.0);
    worker.say(Report::StepDurable(pb::StepDurable { attempt, step })).await;
    let said = until(&asker, |said| !said.coming).await;
    assert_eq!(said.peer, None);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_was_renewed_is_the_one_that_others_look_for() {
    let cluster = Cluster::in_memory();
    let (worker, asker, lease) = coming(&cluster).await;
    let renewed = vec![6; 32];
    let renew = pb::Renew { peer_certificate: renewed.clone().into(), ..pb::Renew::default() };
    worker.say(Report::Renew(renew)).await;
    let is_shown = |said: &pb::FindMakerReply| {
        said.peer.as_ref().is_some_and(|peer| peer.certificate == renewed)
    };
    until(&asker, is_shown).await;
    // A sign of life that says nothing of it takes nothing back.
    worker.say(Report::Renew(pb::Renew::default())).await;
    let (attempt, step) = (lease.attempt.to_string(), steps(&lease)[0].index.0);
    worker.say(Report::StepKeptBack(pb::StepKeptBack { attempt, step })).await;
    let said = until(&asker, |said| !said.coming).await;
    assert!(is_shown(&said), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn what_its_maker_keeps_back_does_not_come_but_is_there() {
    let cluster = Cluster::in_memory();
    let (worker, asker, lease) = coming(&cluster).await;
    let (attempt, step) = (lease.attempt.to_string(), steps(&lease)[0].index.0);
    let kept_back = pb::StepKeptBack { attempt, step };
    asker.say(Report::StepKeptBack(kept_back.clone())).await;
    worker.say(Report::StepKeptBack(kept_back)).await;
    let said = until(&asker, |said| !said.coming).await;
    assert!(said.peer.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_maker_that_is_lost_has_nothing() {
    let cluster = Cluster::in_memory();
    let (worker, asker, lease) = coming(&cluster).await;
    assert!(fence(&lease).epoch > 0);
    worker.fall_silent();
    let said = until(&asker, |said| !said.coming).await;
    assert_eq!(said.peer, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_taken_from_its_maker_and_comes_by_the_store_where_that_does_not_give_it() {
    let cluster = Cluster::in_memory();
    let (mut worker, asker, lease) = made(&cluster, Upload::None).await;
    // Each question gives the same answer, and nothing is sent for it.
    for _ in 0..3 {
        assert!(maker(&asker).await.peer.is_some());
    }
    for _ in 0..2 {
        assert!(ask(&asker, true).await.coming);
    }
    let step = pb::HeldStep { attempt: lease.attempt.to_string(), step: steps(&lease)[0].index.0 };
    assert_eq!(worker.order().await, Order::Send(step.clone()));
    let pb::HeldStep { attempt, step } = step;
    worker.say(Report::StepDurable(pb::StepDurable { attempt, step })).await;
    until(&asker, |said| !said.coming).await;
    // It was sent once, and is not kept.
    cluster.cancel(BuildId::from_bits(10)).await;
    assert_eq!(worker.stopped().await, lease.attempt.to_string());
    let again = cluster.submit(11, &submission("FROM scratch\nRUN a\nRUN b")).await;
    let _client = cluster.attach(again).await;
    assert_eq!(steps(&worker.lease().await).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_its_maker_keeps_back_is_made_again_for_the_next_build() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let submission = submission("FROM scratch\nRUN --network=none a");
    let build = cluster.submit(10, &submission).await;
    let mut client = cluster.attach(build).await;
    let lease = worker.lease().await;
    let [step] = steps(&lease) else { panic!("{lease:?}") };
    makes(&worker, &lease, step).await;
    let kept_back = pb::StepKeptBack { attempt: lease.attempt.to_string(), step: step.index.0 };
    worker.say(Report::StepKeptBack(kept_back)).await;
    let output = worker.lease().await;
    worker.assemble(&output).await;
    client.outcome().await;
    cluster.submit(11, &submission).await;
    let again = worker.lease().await;
    assert_eq!(steps(&again)[0].step.recipe, step.step.recipe);
    assert_ne!(again.attempt, lease.attempt);
}
