//! What the coordinator reads from the store, and serves of it.

use dcbuild_coordinator::CoordinatorConfig;
use std::time::Duration;

use dcbuild_model::{
    BlobDigest, ChangeDigest, Compression, DiffId, Digest, LayerBlob, LayerDigest, LayerId,
    LayerRef, ManifestDigest, Record, Scope, StepKey, UnixTime,
};
use dcbuild_oci::{Descriptor, ImageConfig, Manifest, media_type};
use dcbuild_plan::{ImageSource, Op, Request};
use dcbuild_proto::document::{
    self, CacheDest, CacheMode, ContextPlace, Lease, LeasedStep, MadeCache, Outcome, OutputKind,
    Work,
};
use dcbuild_proto::pb;
use dcbuild_proto::pb::store_client::StoreClient;
use dcbuild_store::{
    Ceilings, FolderStore, ImageNames as _, LayerIndex as _, NamedImage, StoredBlob,
};

use crate::harness::{Cluster, Worker, fence, steps, submission};

#[tokio::test(start_paused = true)]
async fn the_store_is_swept_from_time_to_time_but_not_while_a_build_goes_on() {
    let ceilings = Ceilings { keep_bytes: Some(10), ..Ceilings::default() };
    let every = Duration::from_secs(30);
    let config = CoordinatorConfig { ceilings, sweep_every: every, ..CoordinatorConfig::default() };
    let cluster = Cluster::on_disk().restart_with(config).await;
    let store = FolderStore::open(&cluster.dir.path().join("store")).unwrap();
    let build = cluster.submit(1, &submission("FROM scratch\nRUN a")).await;
    let client = cluster.attach(build).await;
    let blob = store.put_bytes(&[7; 100]).unwrap();
    let there = || store.path_of(&blob).exists();
    for _ in 0..5 {
        tokio::time::sleep(every).await;
    }
    assert!(there(), "the build that goes on may have made it");
    drop(client);
    cluster.cancel(build).await;
    let mut rounds = 0;
    while there() {
        tokio::time::sleep(every).await;
        rounds += 1;
        assert!(rounds < 10, "nobody sweeps");
    }
}

#[tokio::test(start_paused = true)]
async fn blobs_and_layers_go_in_and_come_out() {
    let cluster = Cluster::in_memory();
    let mut store = StoreClient::new(cluster.channel());
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let blob = BlobDigest(Digest::of(&bytes));
    let named = |blob: BlobDigest, bytes: &[u8]| -> Vec<pb::PutPiece> {
        let piece = |(at, part): (usize, &[u8])| {
            let blob = if at == 0 { blob.to_string() } else { String::new() };
            pb::PutPiece { blob, bytes: part.to_vec().into() }
        };
        bytes.chunks(1 << 20).enumerate().map(piece).collect()
    };
    let other = BlobDigest(Digest::of(b"other"));
    let wrong = store.put(tokio_stream::iter(named(other, &bytes))).await.unwrap_err();
    assert_eq!(wrong.code(), tonic::Code::InvalidArgument);
    let reply = store.put(tokio_stream::iter(named(blob, &bytes))).await.unwrap().into_inner();
    assert_eq!(reply.size, 3_000_000);
    let request = pb::FindMissingRequest { blobs: vec![blob.to_string(), other.to_string()] };
    let missing = store.find_missing(request).await.unwrap().into_inner().missing;
    assert_eq!(missing, [other.to_string()]);
    for (start, length) in [(0, None), (7, Some(2_000_000))] {
        let request = pb::GetRequest { blob: blob.to_string(), start, length };
        let mut pieces = store.get(request).await.unwrap().into_inner();
        let mut found = Vec::new();
        while let Some(piece) = pieces.message().await.unwrap() {
            assert!(piece.bytes.len() <= 1 << 20);
            found.extend_from_slice(&piece.bytes);
        }
        let end = length.map_or(bytes.len(), |_| 2_000_007);
        assert!(found == bytes[usize::try_from(start).unwrap()..end]);
    }
    let stored = StoredBlob {
        blob: LayerBlob {
            digest: LayerDigest(blob.0),
            diff_id: DiffId(blob.0),
            size: 1,
            compression: Compression::Zstd,
        },
        index: other,
    };
    let layer = LayerId(Digest::of(b"layer")).to_string();
    let request =
        pb::PutLayerRequest { layer: layer.clone(), stored: document::to_bytes(&stored).into() };
    store.put_layer(request).await.unwrap();
    let absent = LayerId(Digest::of(b"absent")).to_string();
    let find = |layers: Vec<String>| pb::FindLayersRequest { layers };
    let found = store.find_layers(find(vec![absent, layer])).await.unwrap().into_inner().layers;
    let [none, one] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(none.stored.len(), 0);
    assert_eq!(document::from_bytes::<StoredBlob>("stored blob", &one.stored[0]).unwrap(), stored);
    let unknown = store.find_layers(find(vec!["sha256:12".into()])).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::InvalidArgument);
}

async fn keep_image(cluster: &Cluster, name: &str) -> ManifestDigest {
    let store = FolderStore::open(&cluster.dir.path().join("store")).unwrap();
    let layer = store.put_bytes(b"layer").unwrap();
    let config = ImageConfig {
        diff_ids: vec![DiffId(layer.0)],
        ..ImageConfig::for_platform(&Request::new("").build_platform)
    };
    let json = config.to_json();
    store.put_bytes(&json).unwrap();
    let size = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap();
    let manifest = Manifest::new(
        Descriptor::new(media_type::CONFIG, Digest::of(&json), size(&json)),
        vec![Descriptor::new("application/vnd.oci.image.layer.v1.tar", layer.0, 5)],
    );
    let manifest = ManifestDigest(store.put_bytes(&manifest.to_json()).unwrap().0);
    let tagged = UnixTime { secs: 1, nanos: 0 };
    let image = NamedImage { name: name.into(), manifest, tagged };
    store.put(&Scope::local(), &image).await.unwrap();
    manifest
}

#[tokio::test(start_paused = true)]
async fn an_image_that_was_kept_by_name_is_taken_from_the_store_and_can_be_removed() {
    let cluster = Cluster::in_memory();
    let name = "docker.io/library/kept:1";
    let manifest = keep_image(&cluster, name).await;
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission("FROM kept:1\nRUN true\n")).await;
    let mut client = cluster.attach(build).await;
    client.until("done: [internal] load metadata for docker.io/library/kept:1").await;
    let lease = worker.lease().await;
    let Op::Image(image) = &steps(&lease)[0].step.op else { panic!("{lease:?}") };
    assert_eq!((image.manifest, &image.source), (manifest, &ImageSource::Store {}));
    let images = cluster.builds().list_images(pb::ListImagesRequest {}).await.unwrap();
    assert_eq!(images.into_inner().images.len(), 1);
    for removed in [true, false] {
        let request = pb::RemoveImageRequest { name: name.into() };
        let reply = cluster.builds().remove_image(request).await.unwrap();
        assert_eq!(reply.into_inner().removed, removed);
    }
}

#[tokio::test(start_paused = true)]
async fn contexts_that_a_worker_elsewhere_reads_are_packed_first() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let mut submission = submission("FROM scratch\nCOPY a /a\n");
    submission.in_place = false;
    let build = cluster.submit(10, &submission).await;
    let mut client = cluster.attach(build).await;
    client.until("done: [internal] send build context").await;
    let lease = worker.lease().await;
    let Work::Steps { contexts, .. } = lease.work else { panic!("{lease:?}") };
    let parcel = BlobDigest(Digest::of(b"pack"));
    assert_eq!(contexts[0].place, ContextPlace::Packed { parcel });
    for said in ["sent: 5", "already in the store: 7000000"] {
        assert!(client.seen.iter().any(|seen| seen.contains(said)), "{said}: {:#?}", client.seen);
    }
}

#[tokio::test(start_paused = true)]
async fn a_context_that_changed_is_looked_at_once_more() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let mut submission = submission("FROM scratch\nCOPY a /a\n");
    submission.in_place = false;
    let build = cluster.submit(11, &submission).await;
    let mut client = cluster.attach(build).await;
    client.changes = 1;
    client.until("done: [internal] send build context").await;
    worker.lease().await;
    let asked = client.seen.iter().filter(|seen| seen.starts_with("asked for"));
    assert_eq!(asked.count(), 4, "selection and pack, twice: {:#?}", client.seen);

    let build = cluster.submit(12, &submission).await;
    let mut client = cluster.attach(build).await;
    client.changes = 2;
    let Outcome::Failed(failed) = client.outcome().await else { panic!("{:#?}", client.seen) };
    assert_eq!(failed.message, "context changed during the build: /a");
    assert_eq!(failed.code, "CONTEXT_CHANGED");
}

#[tokio::test(start_paused = true)]
async fn a_context_that_the_store_lost_is_asked_for_again() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let mut submission = submission("FROM scratch\nCOPY a /a\n");
    submission.in_place = false;
    let build = cluster.submit(13, &submission).await;
    let mut client = cluster.attach(build).await;
    client.until("done: [internal] send build context").await;
    let lease = worker.lease().await;
    lose_context(&worker, &lease).await;
    client.seen.clear();
    client.until_asked("Pack").await;
    let again = worker.lease().await;
    assert_ne!(again.attempt, lease.attempt);
}

/// Has a worker say that the context of a job's first step is not to be had.
async fn lose_context(worker: &Worker, lease: &Lease) {
    let lost_input = Some(steps(lease)[0].index.0);
    let lost_layer = String::new();
    let returned = pb::JobReturned { fence: Some(fence(lease)), lost_input, lost_layer };
    worker.say(pb::worker_report::Report::JobReturned(returned)).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_a_context_may_take_its_time_and_one_that_has_none_does_not_count() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    for (number, sends) in [(14, true), (15, false)] {
        let mut submission = submission(&format!("FROM scratch\nCOPY a /{number}\n"));
        submission.in_place = false;
        let build = cluster.submit(number, &submission).await;
        let mut client = cluster.attach(build).await;
        client.until("done: [internal] send build context").await;
        let lease = worker.lease().await;
        lose_context(&worker, &lease).await;
        let question = client.until_open("Pack").await;
        let minutes = Duration::from_mins(7);
        if sends {
            tokio::time::sleep(minutes).await;
            client.answer(&question).await;
            let again = worker.lease().await;
            assert_ne!(again.attempt, lease.attempt);
            worker.run(&again).await;
            let output = worker.lease().await;
            worker.assemble(&output).await;
            assert!(matches!(client.outcome().await, Outcome::Done { .. }));
        } else {
            let _guest = cluster.visit(build).await;
            drop(client);
            tokio::time::sleep(minutes).await;
            let Outcome::Canceled { reason } = cluster.attach(build).await.outcome().await else {
                panic!("it goes on")
            };
            assert!(reason.contains("no client attached to give them"), "{reason}");
        }
    }
}

/// The end of a build is in the log before its image has a name.
#[tokio::test(start_paused = true)]
async fn an_image_whose_build_ended_as_the_coordinator_died_has_its_name_and_cache_afterwards() {
    let cluster = Cluster::on_disk();
    let mut worker = cluster.worker(1, &[]).await;
    let mut kept = submission("FROM scratch\nRUN [\"/a\"]\n");
    kept.in_place = false;
    let names = vec!["docker.io/library/kept:1".to_owned()];
    kept.outputs[0].kind =
        OutputKind::Image { names: names.clone(), push: false, push_by_digest: false, keep: true };
    let (title, mode) = ("elsewhere".to_owned(), CacheMode::Max);
    kept.caches.to = vec![CacheDest { title, mode, compression: None }];
    let build = cluster.submit(10, &kept).await;
    let mut client = cluster.attach(build).await;
    for step in [true, false] {
        let lease = worker.lease().await;
        if step { worker.run(&lease).await } else { worker.assemble(&lease).await }
    }
    let packed = |outcome: Outcome| {
        let Outcome::Done { caches, .. } = outcome else { panic!("{outcome:?}") };
        assert!(matches!(caches[..], [MadeCache::Made { records: 1, .. }]), "{caches:?}");
    };
    packed(client.outcome().await);
    let images = async |cluster: &Cluster| {
        let listed = cluster.builds().list_images(pb::ListImagesRequest {}).await.unwrap();
        listed.into_inner().images.len()
    };
    assert_eq!(images(&cluster).await, 1);
    // As if it had died between the two: neither has the image its name, nor were the watchers told.
    cluster.builds().remove_image(pb::RemoveImageRequest { name: names[0].clone() }).await.unwrap();
    assert_eq!(images(&cluster).await, 0);
    let events = cluster.dir.path().join(format!("data/builds/{build}.events"));
    std::fs::File::options().write(true).open(events).unwrap().set_len(0).unwrap();
    let cluster = cluster.restart().await;
    packed(cluster.attach(build).await.outcome().await);
    assert_eq!(images(&cluster).await, 1);
}

/// Blobs that are whole, of a layer that they are not: whoever needs it loses it each time.
#[tokio::test(start_paused = true)]
async fn a_record_whose_layer_is_lost_again_is_not_taken_any_more() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let layer = stored_layer(&cluster).await;
    let key = StepKey(Digest::of(b"outcome"));
    for (number, rounds, first) in [(10, 1, "/x"), (11, 3, "/y")] {
        let dockerfile = format!("FROM scratch\nRUN [\"{first}\"]\nRUN [\"/b\"]\n");
        let build = cluster.submit(number, &submission(&dockerfile)).await;
        let mut client = cluster.attach(build).await;
        let lease = worker.lease().await;
        worker.done(&lease, &steps(&lease)[0], None).await;
        client.until(&format!("done: {}", steps(&lease)[0].step.name)).await;
        let mut lease = lease;
        for round in 0..rounds {
            let step = steps(&lease).last().unwrap();
            let (fence, index) = (fence(&lease), step.index.0);
            let request =
                pb::FindOutcomeRequest { fence: Some(fence), step: index, key: key.to_string() };
            let reply = worker.client.find_outcome(request).await.unwrap().into_inner();
            assert_eq!(reply.record.is_some(), number == 11 && round < 2, "{number}, {round}");
            leaves(&worker, &lease, step, (key, &layer)).await;
            let output = worker.lease().await;
            if round + 1 == rounds {
                worker.assemble(&output).await;
                break;
            }
            let lost_layer = layer.layer.to_string();
            let fence = Some(self::fence(&output));
            let returned = pb::JobReturned { fence, lost_input: None, lost_layer };
            worker.say(pb::worker_report::Report::JobReturned(returned)).await;
            lease = worker.lease().await;
        }
        assert!(matches!(client.outcome().await, Outcome::Done { .. }), "{:#?}", client.seen);
    }
}

/// Puts a layer's blobs into the store.
async fn stored_layer(cluster: &Cluster) -> LayerRef {
    let store = FolderStore::open(&cluster.dir.path().join("store")).unwrap();
    let [table, blob, index] =
        [&b"table"[..], b"blob", b"index"].map(|bytes| store.put_bytes(bytes).unwrap());
    let (digest, diff_id) = (LayerDigest(blob.0), DiffId(blob.0));
    let blob = LayerBlob { digest, diff_id, size: 4, compression: Compression::Zstd };
    let layer = LayerId(table.0);
    store.put_form(&layer, &StoredBlob { blob, index }).await.unwrap();
    let change = ChangeDigest(Digest::of(b"change"));
    LayerRef { layer, change, entries: 1, bytes: 1, base: None }
}

/// Says that a step left a layer, and that it is durable.
async fn leaves(
    worker: &Worker,
    lease: &Lease,
    step: &LeasedStep,
    (key, layer): (StepKey, &LayerRef),
) {
    use pb::worker_report::Report;
    let Report::StepDone(mut done) = worker.done_report(lease, step, Some(key)) else {
        unreachable!()
    };
    let mut record: Record = document::from_bytes("record", &done.record).unwrap();
    record.result.layers = vec![layer.clone()];
    done.record = document::to_bytes(&record).into();
    worker.say(Report::StepDone(done)).await;
    let attempt = lease.attempt.to_string();
    worker.say(Report::StepDurable(pb::StepDurable { attempt, step: step.index.0 })).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_made_while_what_it_stands_on_is_found_lost_counts() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let dockerfile = "FROM scratch AS base\nRUN [\"/base\"]\nFROM base AS one\nRUN [\"/one\"]\n\
                      FROM base AS two\nRUN [\"/two\"]\nFROM scratch\nCOPY --from=one / /one\n\
                      COPY --from=two / /two\n";
    let build = cluster.submit(16, &submission(dockerfile)).await;
    let mut client = cluster.attach(build).await;
    let lease = worker.lease().await;
    let [base] = steps(&lease) else { panic!("{lease:?}") };
    worker.run(&lease).await;
    let (one, two) = (worker.lease().await, worker.lease().await);
    let lost_layer = String::new();
    let lost_input = Some(base.index.0);
    let returned = pb::JobReturned { fence: Some(fence(&two)), lost_input, lost_layer };
    worker.say(pb::worker_report::Report::JobReturned(returned)).await;
    let again = worker.lease().await;
    assert_eq!(steps(&again)[0].index, base.index);
    worker.run(&one).await;
    client.until(&format!("done: {}", steps(&one)[0].step.name)).await;
    worker.run(&again).await;
    let mut ran = vec![&base.step.name, &base.step.name, &steps(&one)[0].step.name];
    let mut leases = Vec::new();
    while leases.last().is_none_or(|lease: &Lease| matches!(lease.work, Work::Steps { .. })) {
        let lease = worker.lease().await;
        match &lease.work {
            Work::Steps { .. } => worker.run(&lease).await,
            Work::Output { .. } => worker.assemble(&lease).await,
        }
        leases.push(lease);
    }
    leases.pop();
    ran.extend(leases.iter().flat_map(steps).map(|step| &step.step.name));
    let Outcome::Done { .. } = client.outcome().await else { panic!("{:#?}", client.seen) };
    ran.sort();
    expect_test::expect![[r#"
        [
            "[base 1/1] RUN [\"/base\"]",
            "[base 1/1] RUN [\"/base\"]",
            "[one 1/1] RUN [\"/one\"]",
            "[stage-3 1/2] COPY --from=one / /one",
            "[stage-3 2/2] COPY --from=two / /two",
            "[two 1/1] RUN [\"/two\"]",
        ]"#]]
    .assert_eq(&format!("{ran:#?}"));
    assert!(!client.seen.iter().any(|line| line.contains("attempt 1 of")), "{:#?}", client.seen);
}

#[tokio::test(start_paused = true)]
async fn what_stands_on_a_tainted_result_that_was_found_lost_is_not_kept_either() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let dockerfile = "FROM scratch AS base\nRUN [\"/base\"]\nFROM base AS one\nRUN [\"/one\"]\n\
                      FROM base AS two\nRUN [\"/two\"]\nFROM scratch\nCOPY --from=one / /one\n\
                      COPY --from=two / /two\n";
    let build = cluster.submit(17, &submission(dockerfile)).await;
    let mut client = cluster.attach(build).await;
    let lease = worker.lease().await;
    let [base] = steps(&lease) else { panic!("{lease:?}") };
    let pb::worker_report::Report::StepDone(mut done) = worker.done_report(&lease, base, None)
    else {
        unreachable!()
    };
    done.tainted = "a process was killed".into();
    worker.say(pb::worker_report::Report::StepDone(done)).await;
    let (one, two) = (worker.lease().await, worker.lease().await);
    let (lost_layer, lost_input) = (String::new(), Some(base.index.0));
    let returned = pb::JobReturned { fence: Some(fence(&two)), lost_input, lost_layer };
    worker.say(pb::worker_report::Report::JobReturned(returned)).await;
    let again = worker.lease().await;
    worker.run(&one).await;
    client.until(&format!("done: {}", steps(&one)[0].step.name)).await;
    worker.run(&again).await;
    finish(&mut worker).await;
    client.outcome().await;
    // What was made on the tainted one is made again.
    cluster.submit(18, &submission(&dockerfile.replace("/two\n", "/2\n"))).await;
    let lease = worker.lease().await;
    assert_eq!(steps(&lease)[0].step.recipe, steps(&one)[0].step.recipe);
}

/// Carries out what is left of a build.
async fn finish(worker: &mut Worker) {
    loop {
        let lease = worker.lease().await;
        match &lease.work {
            Work::Steps { .. } => worker.run(&lease).await,
            Work::Output { .. } => return worker.assemble(&lease).await,
        }
    }
}
