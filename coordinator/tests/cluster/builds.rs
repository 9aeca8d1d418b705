//! The life of builds.

use std::collections::BTreeMap;
use std::time::Duration;

use dcbuild_model::{BuildId, Fault};
use dcbuild_proto::document::{Failed, Outcome, OutputKind, StepError, StepErrorKind, Summary};
use dcbuild_proto::pb;
use expect_test::expect;

use crate::harness::{Cluster, fence, steps, submission};

const TWO_STEPS: &str = "FROM scratch\nCOPY a /a\nRUN [\"/a\"]\n";

fn summary(outcome: &Outcome) -> &Summary {
    match outcome {
        Outcome::Done { summary, .. } => summary,
        other => panic!("not done but {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_build_is_asked_planned_leased_and_finished_and_the_next_takes_its_records() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission(TWO_STEPS)).await;
    let mut client = cluster.attach(build).await;
    client.until("waiting: [2/2] RUN [\"/a\"]").await;
    let lease = worker.lease().await;
    assert_eq!(steps(&lease).len(), 2);
    worker.run(&lease).await;
    let lease = worker.lease().await;
    worker.assemble(&lease).await;
    let outcome = client.outcome().await;
    assert_eq!(*summary(&outcome), Summary { ran: 2, ..Summary::default() });

    let mut late = cluster.attach(build).await;
    assert_eq!(late.outcome().await, outcome);
    expect![[r#"
        running: [internal] load build definition from Dockerfile
        done: [internal] load build definition from Dockerfile
        running: [internal] load build context
        done: [internal] load build context
        waiting: [1/2] COPY a /a
        waiting: [2/2] RUN ["/a"]
        running: [1/2] COPY a /a
        log ran [1/2] COPY a /a

        done: [1/2] COPY a /a
        running: [2/2] RUN ["/a"]
        log ran [2/2] RUN ["/a"]

        done: [2/2] RUN ["/a"]
        running: exporting to image
        done: exporting to image
        finished"#]]
    .assert_eq(&late.seen.join("\n"));

    let build = cluster.submit(11, &submission(TWO_STEPS)).await;
    let mut client = cluster.attach(build).await;
    client.until("running: exporting to image").await;
    let lease = worker.lease().await;
    worker.assemble(&lease).await;
    assert_eq!(*summary(&client.outcome().await), Summary { hits: 2, ..Summary::default() });
    assert!(client.seen.contains(&"cached: [1/2] COPY a /a".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_silent_workers_job_goes_to_another_and_its_late_result_is_refused() {
    let cluster = Cluster::in_memory();
    let mut first = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission(TWO_STEPS)).await;
    let mut client = cluster.attach(build).await;
    client.until("waiting: [2/2] RUN [\"/a\"]").await;
    let old = first.lease().await;
    let mut second = cluster.worker(2, &[]).await;
    first.fall_silent();
    let new = second.lease().await;
    assert!(new.epoch > old.epoch && new.attempt != old.attempt);
    first.run(&old).await;
    let lost = format!("warning attempt 1 of 3 was lost to a lost worker, {}", first.id);
    client.until(&lost).await;
    second.run(&new).await;
    let output = second.lease().await;
    second.assemble(&output).await;
    assert_eq!(summary(&client.outcome().await).ran, 2);
}

#[tokio::test(start_paused = true)]
async fn the_same_submission_again_is_the_same_build_and_another_is_refused() {
    let cluster = Cluster::in_memory();
    let build = cluster.submit(10, &submission(TWO_STEPS)).await;
    cluster.try_submit(build, &submission(TWO_STEPS)).await.unwrap();
    let status = cluster.try_submit(build, &submission("FROM scratch\n")).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::AlreadyExists);
    let list = cluster.builds().list(pb::ListRequest {}).await.unwrap().into_inner();
    let list: Vec<_> = list.builds.iter().map(|it| (it.state.as_str(), &*it.name)).collect();
    assert_eq!(list, [("waiting", "test")]);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_build_stops_its_attempt_at_once() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission(TWO_STEPS)).await;
    let mut client = cluster.attach(build).await;
    client.until("waiting: [2/2] RUN [\"/a\"]").await;
    let lease = worker.lease().await;
    worker.start(&lease, &steps(&lease)[0]).await;
    client.until("running: [1/2] COPY a /a").await;
    let before = tokio::time::Instant::now();
    cluster.cancel(build).await;
    assert_eq!(worker.stopped().await, lease.attempt.to_string());
    assert!(before.elapsed() < Duration::from_secs(1));
    let reason = "cancelled by request".to_owned();
    assert_eq!(client.outcome().await, Outcome::Canceled { reason });
    assert!(client.seen.contains(&"canceled: [1/2] COPY a /a".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_build_whose_client_stays_away_ends_and_one_whose_client_comes_back_does_not() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    for (number, back) in [(10, true), (11, false)] {
        let dockerfile = format!("{TWO_STEPS}ENV X={number}\nRUN [\"/b\"]\n");
        let build = cluster.submit(number, &submission(&dockerfile)).await;
        let mut client = cluster.attach(build).await;
        client.until("waiting: [3/3] RUN [\"/b\"]").await;
        let lease = worker.lease().await;
        drop(client);
        tokio::time::sleep(Duration::from_secs(290)).await;
        if back {
            let client = cluster.attach(build).await;
            tokio::time::sleep(Duration::from_secs(20)).await;
            drop(client);
            worker.run(&lease).await;
            let lease = worker.lease().await;
            worker.assemble(&lease).await;
            let mut client = cluster.attach(build).await;
            assert!(matches!(client.outcome().await, Outcome::Done { .. }));
        } else {
            assert_eq!(worker.stopped_within(Duration::from_secs(20)).await, lease.attempt);
            let mut client = cluster.attach(build).await;
            let reason = "no client came back in time".to_owned();
            assert_eq!(client.outcome().await, Outcome::Canceled { reason });
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_command_fails_its_build_with_all_that_is_known() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission(TWO_STEPS)).await;
    let mut client = cluster.attach(build).await;
    client.until("waiting: [2/2] RUN [\"/a\"]").await;
    let lease = worker.lease().await;
    let step = &steps(&lease)[1];
    worker.done(&lease, &steps(&lease)[0], None).await;
    worker.start(&lease, step).await;
    let error = StepError {
        kind: StepErrorKind::Exit { code: 3 },
        message: "it ended with 3".into(),
        hint: Some("do better".into()),
    };
    worker.fail(&lease, step, &error).await;
    let Outcome::Failed(failed) = client.outcome().await else { panic!("it did not fail") };
    assert_eq!(
        failed,
        Failed {
            fault: Fault::Step,
            code: "STEP_FAILED".into(),
            message: "it ended with 3".into(),
            hint: Some("do better".into()),
            lines: Some((3, 3)),
            vertex: Some(step.step.recipe.to_string()),
            exit_code: Some(3),
            outputs: Vec::new(),
        }
    );
    assert!(client.seen.contains(&"failed: [2/2] RUN [\"/a\"]".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_dockerfile_that_cannot_be_planned_fails_the_request() {
    let cluster = Cluster::in_memory();
    let build = cluster.submit(10, &submission("FROM scratch\nRUNN x\n")).await;
    let mut client = cluster.attach(build).await;
    let Outcome::Failed(failed) = client.outcome().await else { panic!("it did not fail") };
    assert_eq!((failed.fault, failed.lines), (Fault::Request, Some((2, 2))));
}

#[tokio::test(start_paused = true)]
async fn secrets_travel_in_the_lease_of_the_step_that_names_them() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let dockerfile = "FROM scratch\nRUN --mount=type=secret,id=key [\"/a\"]\n";
    let build = cluster.submit(10, &submission(dockerfile)).await;
    let secrets = [("key", "abc"), ("other", "x")].map(|(id, it)| (id.into(), it.into()));
    let _client = cluster.attach_with(build, BTreeMap::from(secrets)).await;
    let lease = worker.lease().await;
    assert_eq!(lease.secrets, BTreeMap::from([("key".into(), "616263".into())]));
}

/// After a restart somebody who only looks may be back before the one who has the secrets.
#[tokio::test(start_paused = true)]
async fn a_secret_is_waited_for_though_somebody_else_attaches_first() {
    let cluster = Cluster::on_disk();
    let dockerfile = "FROM scratch\nRUN --mount=type=secret,id=key [\"/a\"]\n";
    let build = cluster.submit(10, &submission(dockerfile)).await;
    let secrets = || BTreeMap::from([("key".to_owned(), b"abc".to_vec())]);
    let mut client = cluster.attach_with(build, secrets()).await;
    client.until("waiting: [1/1] RUN --mount=type=secret,id=key [\"/a\"]").await;
    let cluster = cluster.restart().await;
    let _guest = cluster.visit(build).await;
    let mut worker = cluster.worker(1, &[]).await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    let mut client = cluster.attach_with(build, secrets()).await;
    let lease = worker.lease().await;
    assert_eq!(lease.secrets.len(), 1);
    worker.run(&lease).await;
    let output = worker.lease().await;
    worker.assemble(&output).await;
    assert!(matches!(client.outcome().await, Outcome::Done { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_login_is_waited_for_though_somebody_else_attaches_first() {
    let cluster = Cluster::on_disk();
    let build = cluster.submit(10, &pushed()).await;
    let mut client = cluster.attach(build).await;
    client.until("waiting: [1/1] RUN [\"/a\"]").await;
    let cluster = cluster.restart().await;
    let mut guest = cluster.visit(build).await;
    let mut worker = cluster.worker(1, &[]).await;
    let lease = worker.lease().await;
    worker.run(&lease).await;
    let asked = guest.until_asked("Credentials");
    assert!(tokio::time::timeout(Duration::from_secs(5), asked).await.is_err());
    let mut client = cluster.attach(build).await;
    client.until_asked("Credentials").await;
    let output = worker.lease().await;
    assert_eq!(output.credentials["r.example"].password, "1");
    worker.assemble(&output).await;
    assert!(matches!(client.outcome().await, Outcome::Done { .. }));
}

fn pushed() -> dcbuild_proto::document::Submission {
    let mut pushed = submission("FROM scratch\nRUN [\"/a\"]\n");
    pushed.outputs[0].kind = OutputKind::Image {
        names: vec!["r.example/app:1".into()],
        push: true,
        push_by_digest: false,
        keep: false,
    };
    pushed
}

/// Helpers of clouds give out what lasts for minutes; the push comes when the build is done.
#[tokio::test(start_paused = true)]
async fn a_login_that_is_old_when_it_is_used_is_asked_for_again() {
    for (minutes, password) in [(1, "1"), (20, "2")] {
        let cluster = Cluster::in_memory();
        let mut worker = cluster.worker(1, &[]).await;
        let build = cluster.submit(10, &pushed()).await;
        let mut client = cluster.attach(build).await;
        client.until("waiting: [1/1] RUN [\"/a\"]").await;
        let lease = worker.lease().await;
        tokio::time::sleep(Duration::from_mins(minutes)).await;
        let work = async {
            worker.run(&lease).await;
            let output = worker.lease().await;
            assert_eq!(output.credentials["r.example"].password, password);
            worker.assemble(&output).await;
        };
        let (outcome, ()) = tokio::join!(client.outcome(), work);
        assert!(matches!(outcome, Outcome::Done { .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_image_needs_no_step() {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let build = cluster.submit(10, &submission("FROM scratch\nENV A=1\n")).await;
    let mut client = cluster.attach(build).await;
    let lease = worker.lease().await;
    worker.assemble(&lease).await;
    assert_eq!(*summary(&client.outcome().await), Summary::default());
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_not_understood_are_refused() {
    let cluster = Cluster::in_memory();
    let refused = |code, status: tonic::Status| assert_eq!(status.code(), code, "{status}");
    let bad = pb::SubmitRequest { build: "../x".into(), submission: b"{}".to_vec().into() };
    refused(tonic::Code::InvalidArgument, cluster.builds().submit(bad).await.unwrap_err());
    let build = BuildId::from_bits(1).to_string();
    let bad = pb::SubmitRequest { build: build.clone(), submission: b"{}".to_vec().into() };
    refused(tonic::Code::InvalidArgument, cluster.builds().submit(bad).await.unwrap_err());
    let request = pb::CancelRequest { build };
    refused(tonic::Code::NotFound, cluster.builds().cancel(request).await.unwrap_err());
    let messages = tokio_stream::iter([pb::ClientMessage { message: None }]);
    refused(tonic::Code::InvalidArgument, cluster.builds().attend(messages).await.unwrap_err());
}

#[tokio::test(start_paused = true)]
async fn a_step_under_another_parent_is_found_by_its_outcome() {
    for overtakes in [false, true] {
        found_by_outcome(overtakes).await;
    }
}

/// The second step is asked for behind the report of the first, or before it.
async fn found_by_outcome(overtakes: bool) {
    let cluster = Cluster::in_memory();
    let mut worker = cluster.worker(1, &[]).await;
    let key = dcbuild_model::StepKey(dcbuild_model::Digest::of(b"outcome"));
    let mut found = Vec::new();
    for (number, first) in [(10, "/x"), (11, "/y")] {
        let dockerfile = format!("FROM scratch\nRUN [\"{first}\"]\nRUN [\"/b\"]\n");
        let build = cluster.submit(number, &submission(&dockerfile)).await;
        let mut client = cluster.attach(build).await;
        let lease = worker.lease().await;
        let [first, second] = steps(&lease) else { panic!("{lease:?}") };
        assert_eq!((first.ask, second.ask), (true, true), "a RUN is always asked for");
        if !overtakes {
            worker.done(&lease, first, None).await;
            client.until(&format!("done: {}", first.step.name)).await;
        }
        let request = pb::FindOutcomeRequest {
            fence: Some(fence(&lease)),
            step: second.index.0,
            key: key.to_string(),
        };
        let reply = worker.client.find_outcome(request).await.unwrap().into_inner();
        if overtakes {
            worker.done(&lease, first, None).await;
        }
        let record = reply.record.map(|record| {
            dcbuild_proto::document::from_bytes::<dcbuild_model::Record>("record", &record).unwrap()
        });
        found.push(record.is_some());
        if let Some(record) = record {
            assert_eq!(record.recipe, second.step.recipe);
            let record = dcbuild_proto::document::to_bytes(&record).into();
            let done = pb::StepDone {
                fence: Some(fence(&lease)),
                step: second.index.0,
                record,
                hit: true,
                tainted: String::new(),
            };
            worker.say(pb::worker_report::Report::StepDone(done)).await;
        } else {
            worker.done(&lease, second, Some(key)).await;
        }
        let lease = worker.lease().await;
        worker.assemble(&lease).await;
        let hits = summary(&client.outcome().await).hits;
        assert_eq!(hits, u32::from(number == 11));
    }
    assert_eq!(found, [false, true]);
}
