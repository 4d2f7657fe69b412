//! Guarantees 2 to 7: what starts when, how often, and whose result is taken.

use levelflow_common::Protection;
use levelflow_proto::v1;
use serde_json::json;

use super::held::HeldRequests;
use super::scene::{Scene, postgres};
use super::{flow, show, task, task_after};
use crate::client::{eventually, submission};
use crate::cluster::chaos::guarantees::Violation;
use crate::harness::DEADLINE;

/// A worker has an attempt of before a crash, and the first one that is given after it is another.
async fn result_from_before_a_crash(without: Option<Protection>) -> Vec<Violation> {
    let mut scene = Scene::start(without, &[]).await;
    let workflow = flow("fenced", &[task("a")]);
    scene.submit(&workflow).await;
    let mut worker = scene.worker("w").await;
    worker.grant(1).await;
    let old = worker.attempt().await;

    scene.restart().await;
    let urgent = v1::SubmitWorkflowRequest {
        priority: v1::Priority::Critical.into(),
        ..submission(&workflow)
    };
    scene.submit_as(&workflow, urgent).await.unwrap();
    let mut worker = scene.worker_process("w", 1, &[old.token]).await;
    worker.grant(2).await;
    let attempts = [worker.attempt().await, worker.attempt().await];
    worker.succeed(&old).await;
    for attempt in &attempts {
        worker.succeed(attempt).await;
    }
    scene.violations().await
}

#[tokio::test]
async fn results_from_before_a_crash_are_refused() {
    show(Protection::GrowingTokens, 2, result_from_before_a_crash).await;
}

async fn worker_process_dies(without: Option<Protection>) -> Vec<Violation> {
    let scene = Scene::start(without, &[]).await;
    scene.submit(&flow("lost", &[task("a")])).await;
    let mut worker = scene.worker("w").await;
    worker.grant(1).await;
    worker.attempt().await;
    drop(worker);

    let mut worker = scene.worker_process("w", 2, &[]).await;
    worker.grant(1).await;
    let attempt = worker.attempt().await;
    worker.succeed(&attempt).await;
    scene.violations().await
}

#[tokio::test]
async fn an_attempt_counts_that_is_lost_with_its_worker() {
    show(Protection::CountedLoss, 3, worker_process_dies).await;
}

/// The coordinator dies while the commit of a result is on its way that another task needs.
async fn lost_result(without: Option<Protection>) -> Vec<Violation> {
    let proxy = HeldRequests::before(&postgres()).await;
    let mut scene = Scene::on_postgres(without, proxy.url()).await;
    let workflow = flow("strict", &[task("a"), task_after("b", "a")]);
    scene.submit(&workflow).await;
    let mut worker = scene.worker("w").await;
    worker.grant(3).await;
    let first = worker.attempt().await;
    proxy.hold(&first.mark);
    worker.report(&first).await;
    proxy.held().await;
    worker.reclaim().await;
    scene.given.rest_on("b", &first);

    scene.restart_on_postgres(&postgres()).await;
    let mut worker = scene.worker_process("w", 2, &[]).await;
    worker.grant(2).await;
    let again = worker.attempt().await;
    worker.succeed(&again).await;
    let last = worker.attempt().await;
    scene.given.rest_on("b", &again);
    worker.succeed(&last).await;
    scene.violations().await
}

#[tokio::test]
async fn a_task_starts_on_durable_results() {
    show(Protection::DurableNeeds, 4, lost_result).await;
}

async fn worker_goes_silent(without: Option<Protection>) -> Vec<Violation> {
    let settings = [
        ("LEVELFLOW_COORDINATOR__LEASE", "1s"),
        ("LEVELFLOW_COORDINATOR__HEARTBEAT_INTERVAL", "500ms"),
    ];
    let scene = Scene::start(without, &settings).await;
    let run_id = scene.submit(&flow("silent", &[task("a")])).await;
    let mut silent = scene.worker("silent").await;
    silent.grant(1).await;
    silent.attempt().await;
    drop(silent);

    // The lease, the sweep after it, and as much again.
    scene.pass("4s").await;
    let mut worker = scene.worker("w").await;
    let run = scene.client.get(&run_id).await.unwrap();
    if run.sequence > 1 {
        worker.grant(1).await;
        let attempt = worker.attempt().await;
        worker.succeed(&attempt).await;
    }
    scene.violations().await
}

#[tokio::test]
async fn a_lease_ends_that_is_not_renewed() {
    show(Protection::LeaseEnd, 5, worker_goes_silent).await;
}

/// A run is cancelled while one of its tasks runs and the other waits.
async fn cancel_with_a_queue(without: Option<Protection>) -> Vec<Violation> {
    let scene = Scene::start(without, &[]).await;
    let run_id = scene.submit(&flow("two", &[task("a"), task("b")])).await;
    let mut worker = scene.worker("w").await;
    worker.grant(1).await;
    let running = worker.attempt().await;
    let watching = {
        let (ledger, client) = (scene.ledger.clone(), scene.client.clone());
        let run_id = run_id.clone();
        let watching = async move { ledger.watch(&client, &run_id, DEADLINE).await };
        levelflow_runtime::task::spawn("watcher", watching)
    };
    let is_watched = async || scene.ledger.last_sequence(&run_id) > 0;
    eventually("the run is watched", is_watched).await;
    scene.cancel(&run_id).await;

    // What waited in the queue before this run would be given before it.
    scene.submit(&flow("after", &[task("c")])).await;
    worker.grant(2).await;
    loop {
        let attempt = worker.attempt().await;
        worker.succeed(&attempt).await;
        if attempt.task == "c" {
            break;
        }
    }
    worker.succeed(&running).await;
    watching.await.unwrap().unwrap();
    scene.violations().await
}

#[tokio::test]
async fn nothing_waits_in_a_queue_after_a_cancel() {
    show(Protection::EmptiedQueue, 6, cancel_with_a_queue).await;
}

/// The coordinator dies while a task waits for its next attempt.
pub(super) async fn crash_in_a_backoff(without: Option<Protection>) -> Vec<Violation> {
    let mut scene = Scene::start(without, &[]).await;
    let mut retried = task("a");
    retried["retry"] = json!({ "max_attempts": 2, "initial": "1h", "max": "1h" });
    let run_id = scene.submit(&flow("backoff", &[retried])).await;
    let mut worker = scene.worker("w").await;
    worker.grant(1).await;
    let attempt = worker.attempt().await;
    worker.fail(&attempt).await;
    scene.look(&run_id).await;

    scene.restart().await;
    let mut worker = scene.worker("w").await;
    // What is in the queue already is given before this.
    scene.submit(&flow("after", &[task("b")])).await;
    worker.grant(2).await;
    let mut is_early = false;
    loop {
        let attempt = worker.attempt().await;
        worker.succeed(&attempt).await;
        if attempt.task == "b" {
            break;
        }
        is_early = true;
    }
    if !is_early {
        scene.cancel(&run_id).await;
    }
    scene.violations().await
}

#[tokio::test]
async fn a_backoff_goes_on_after_a_restart() {
    show(Protection::DurableBackoff, 7, crash_in_a_backoff).await;
}
