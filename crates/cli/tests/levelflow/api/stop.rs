use levelflow_common::event::RunEvent;
use levelflow_common::{Code, RunStatus};
use nix::sys::signal::Signal;
use serde_json::json;

use super::{gated, quick, serve};
use crate::client::eventually;
use crate::harness::Home;

#[tokio::test]
async fn a_stopping_server_lets_a_running_task_end() {
    let home = Home::new();
    let settings = [
        ("LEVELFLOW_STOP_GRACE", "1m"),
        ("LEVELFLOW_WORKER__SLOTS", "1"),
    ];
    let (server, client) = serve(&home, &settings).await;
    let run_id = client.start(&gated(&home)).await;
    let started = home.path("started");
    eventually("the program has started", async || started.exists()).await;
    server.signal(Signal::SIGTERM);
    // It drains: what is ready waits for the next start, and says so.
    let queued = client.start(&quick()).await;
    let why = async || client.explain(&queued, "a").await.1[0].code == "draining";
    eventually("the worker drains", why).await;
    home.file("gate", "");
    assert_eq!(server.ended().await.code(), Some(0));

    let (_server, client) = serve(&home, &[]).await;
    let run = client.ended(&run_id).await;
    assert_eq!(run.summary.status, RunStatus::Succeeded);
    assert_eq!(run.tasks[0].attempts, 1);
    let run = client.ended(&queued).await;
    assert_eq!(run.summary.status, RunStatus::Succeeded);
    let pids = std::fs::read_to_string(&started).unwrap();
    assert_eq!(pids.lines().count(), 1, "the program ran once");
}

#[tokio::test]
async fn a_task_that_does_not_end_in_time_is_done_again_after_the_next_start() {
    let home = Home::new();
    let (server, client) = serve(&home, &[("LEVELFLOW_STOP_GRACE", "100ms")]).await;
    let mut workflow = gated(&home);
    workflow["tasks"][0]["retry"] = json!({ "max_attempts": 1 });
    let run_id = client.start(&workflow).await;
    let started = home.path("started");
    eventually("the program has started", async || started.exists()).await;
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().await.code(), Some(0));

    home.file("gate", "");
    let (_server, client) = serve(&home, &[]).await;
    let run = client.ended(&run_id).await;
    assert_eq!(run.summary.status, RunStatus::Succeeded);
    assert_eq!(run.tasks[0].attempts, 1, "a stop does not count");
    let pids = std::fs::read_to_string(&started).unwrap();
    assert_eq!(pids.lines().count(), 2, "the worker had to stop it");
    let history = client.history(&run_id).await;
    let failures: Vec<Code> = history
        .iter()
        .flat_map(|update| &update.events)
        .filter_map(|event| match event {
            RunEvent::AttemptFailed { failure, .. } => Some(failure.code),
            _ => None,
        })
        .collect();
    assert_eq!(failures, []);
}

#[tokio::test]
async fn watchers_of_a_stopping_server_are_told() {
    let home = Home::new();
    let (server, client) = serve(&home, &[]).await;
    let run_id = client.start(&super::open()).await;
    let mut updates = client.watch(&run_id, 0).await.unwrap();
    updates
        .next()
        .await
        .unwrap()
        .expect("the run was submitted");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().await.code(), Some(0));
    let error = updates.next().await.expect_err("the run has not ended");
    assert!(
        matches!(error.code(), Code::ShuttingDown | Code::ServerUnreachable),
        "{error:?}"
    );
}
