//! Guarantees 8 and 10: the journal has everything, and so has who watches.

use std::time::Duration;

use levelflow_common::Protection;

use super::attempts::crash_in_a_backoff;
use super::scene::Scene;
use super::{flow, show, task, task_after};
use crate::client::is_recorded;
use crate::cluster::chaos::guarantees::Violation;

#[tokio::test]
async fn all_that_changes_a_run_is_written() {
    show(Protection::WrittenChange, 8, crash_in_a_backoff).await;
}

/// Something happens while a watcher is away.
async fn watcher_comes_back(without: Option<Protection>) -> Vec<Violation> {
    let scene = Scene::start(without, &[]).await;
    let workflow = flow("watched", &[task("a"), task_after("b", "a")]);
    let run_id = scene.submit(&workflow).await;
    let mut updates = scene.client.watch(&run_id, 0).await.unwrap();
    let first = updates.next().await.unwrap().unwrap();
    assert!(is_recorded(&first), "{first:?}");
    scene.ledger.told(&run_id, first);
    drop(updates);

    let mut worker = scene.worker("w").await;
    worker.grant(1).await;
    let attempt = worker.attempt().await;
    worker.succeed(&attempt).await;

    let mut updates = scene.client.watch(&run_id, 1).await.unwrap();
    // It watches when it is told something: if not what was recorded, then what happens now.
    let told = loop {
        if let Ok(told) = tokio::time::timeout(LOOK_EVERY, updates.next()).await {
            break told;
        }
        worker.grant(1).await;
        let attempt = worker.attempt().await;
        worker.fail(&attempt).await;
    };
    scene.ledger.told(&run_id, told.unwrap().unwrap());
    worker.grant(1).await;
    let attempt = worker.attempt().await;
    worker.succeed(&attempt).await;
    while let Some(told) = updates.next().await.unwrap() {
        scene.ledger.told(&run_id, told);
    }
    scene.violations().await
}

/// How long a watcher is given to be told something before more happens.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_watcher_that_comes_back_is_told_what_happened() {
    show(Protection::ReadJournal, 10, watcher_comes_back).await;
}
