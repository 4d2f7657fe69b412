//! Guarantees 1, 5 and 11: submits are kept and gone on with, keys are known, and runs are bounded.

use levelflow_common::Protection;
use levelflow_proto::v1;
use levelflow_proto::v1::submission_answer::Answer;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::held::HeldRequests;
use super::scene::{Scene, postgres};
use super::{flow, show, task};
use crate::client::submission;
use crate::cluster::chaos::guarantees::Violation;
use crate::harness::DEADLINE;

/// The coordinator dies while the commit of a submit is on its way.
async fn lost_commit(without: Option<Protection>) -> Vec<Violation> {
    let proxy = HeldRequests::before(&postgres()).await;
    let mut scene = Scene::on_postgres(without, proxy.url()).await;
    let workflow = flow("commit-of-a-submit", &[task("a")]);
    let request = submission(&workflow);
    proxy.hold("commit-of-a-submit");

    let (requests, outbound) = mpsc::channel(4);
    let submit = async |tag, request| {
        let submission = v1::Submission {
            tag,
            request: Some(request),
            report_end: false,
        };
        let submissions = vec![submission];
        let request = v1::SubmitWorkflowsRequest { submissions };
        requests.send(request).await.unwrap();
    };
    submit(1, request.clone()).await;
    let mut service = scene.client.service.clone();
    let answers = service.submit_workflows(ReceiverStream::new(outbound));
    let mut answers = answers.await.unwrap().into_inner();
    proxy.held().await;
    // An answer to the first is before the refusal of this one.
    submit(2, v1::SubmitWorkflowRequest::default()).await;
    let mut is_refused = false;
    while !is_refused {
        let message = timeout(DEADLINE, answers.message()).await.unwrap();
        for answer in message.unwrap().unwrap().answers {
            match answer.answer.unwrap() {
                Answer::Accepted(accepted) => {
                    let accepted = Ok(accepted);
                    let noted = scene.ledger.answered(&workflow, request.clone(), accepted);
                    noted.unwrap();
                }
                _ => is_refused = answer.tag == 2,
            }
        }
    }
    scene.restart_on_postgres(&postgres()).await;
    scene.violations().await
}

#[tokio::test]
async fn a_submit_is_acknowledged_when_it_is_durable() {
    show(Protection::DurableSubmit, 1, lost_commit).await;
}

/// A coordinator cannot renew its lease any more, and another one has its shards.
async fn submit_to_a_former_owner(without: Option<Protection>) -> Vec<Violation> {
    let proxy = HeldRequests::before(&postgres()).await;
    let mut scene = Scene::on_postgres(without, proxy.url()).await;
    proxy.hold("members (id, address");
    let former = scene.take_over_on_postgres(&postgres()).await;
    let workflow = flow("late", &[task("a")]);
    // It is refused, or somebody has to go on with it. Refusals are noted, too.
    let submit = scene
        .ledger
        .submit(&former, &workflow, submission(&workflow));
    let _ = submit.await;
    let mut worker = scene.worker("w").await;
    worker.grant(1).await;
    tokio::select! {
        never = worker.work() => match never {},
        found = scene.violations() => found,
    }
}

#[tokio::test]
async fn who_lost_a_shard_takes_no_runs_for_it() {
    show(Protection::ShardEpoch, 5, submit_to_a_former_owner).await;
}

async fn same_key_twice(without: Option<Protection>) -> Vec<Violation> {
    let scene = Scene::start(without, &[]).await;
    let workflow = flow("keyed", &[task("a")]);
    let request = v1::SubmitWorkflowRequest {
        idempotency_key: "key".to_owned(),
        ..submission(&workflow)
    };
    for _ in 0..2 {
        let accepted = scene.submit_as(&workflow, request.clone()).await;
        accepted.unwrap();
    }
    let mut worker = scene.worker("w").await;
    for _ in scene.ledger.runs() {
        worker.grant(1).await;
        let attempt = worker.attempt().await;
        worker.succeed(&attempt).await;
    }
    scene.violations().await
}

#[tokio::test]
async fn a_known_key_gives_its_run() {
    show(Protection::KnownKey, 1, same_key_twice).await;
}

async fn one_run_too_many(without: Option<Protection>) -> Vec<Violation> {
    let most = ("LEVELFLOW_COORDINATOR__MAX_OPEN_RUNS", "2");
    let mut scene = Scene::start(without, &[most]).await;
    scene.max_open_runs = Some(2);
    let workflow = flow("bounded", &[task("a")]);
    for _ in 0..3 {
        // Refusals are noted, too.
        let _ = scene.submit_as(&workflow, submission(&workflow)).await;
    }
    let mut worker = scene.worker("w").await;
    for _ in scene.ledger.runs() {
        worker.grant(1).await;
        let attempt = worker.attempt().await;
        worker.succeed(&attempt).await;
    }
    scene.violations().await
}

#[tokio::test]
async fn runs_beyond_the_limit_are_refused() {
    show(Protection::RunBound, 11, one_run_too_many).await;
}
