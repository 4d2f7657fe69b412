use levelflow_common::Code;
use levelflow_common::event::RunEvent;
use serde_json::json;

use super::{gated, quick, serve};
use crate::fold::Fold;
use crate::harness::Home;

#[tokio::test]
async fn who_comes_late_or_again_misses_nothing() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let workflow = json!({
        "name": "many kinds of events",
        "tasks": [
            { "id": "list", "type": "transform", "with": { "value": [1, 2, 3] } },
            { "id": "each", "type": "transform", "with": { "value": "${{ item * 2 }}" },
              "for_each": { "items": "${{ tasks.list.output }}" } },
            { "id": "skipped", "type": "transform", "when": "${{ false }}", "with": { "value": 1 } },
            { "id": "slept", "type": "sleep", "with": { "duration": "5ms" } },
            { "id": "tried", "type": "process", "continue_on_error": true,
              "retry": { "max_attempts": 2, "initial": "1ms" },
              "with": { "command": ["false"] } },
            { "id": "last", "type": "transform", "needs": ["each", "slept", "tried"],
              "with": { "value": "${{ tasks.each.output }}" } },
        ],
        "outputs": { "last": "${{ tasks.last.output }}" },
    });
    let run_id = client.start(&workflow).await;
    let history = client.history(&run_id).await;
    let run = client.get(&run_id).await.unwrap();
    assert_eq!(Fold::of(&history), Fold::served(&run));
    assert_eq!(run.outputs.as_deref(), Some(&br#"{"last":[2,4,6]}"#[..]));

    // From the journal now: the same again, from every place.
    assert_eq!(client.history(&run_id).await, history);
    for after in 0..=history.len() {
        let mut updates = client.watch(&run_id, after as u64).await.unwrap();
        for expected in &history[after..] {
            assert_eq!(updates.next().await.unwrap().as_ref(), Some(expected));
        }
        assert_eq!(updates.next().await.unwrap(), None);
    }
    let mut beyond = client.watch(&run_id, 1_000_000).await.unwrap();
    assert_eq!(beyond.next().await.unwrap(), None);
}

#[tokio::test]
async fn attempts_are_seen_as_they_start() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let mut workflow = gated(&home);
    let next =
        json!({ "id": "next", "type": "transform", "needs": ["gated"], "with": { "value": 1 } });
    workflow["tasks"].as_array_mut().unwrap().push(next);
    let run_id = client.start(&workflow).await;
    let mut updates = client.watch(&run_id, 0).await.unwrap();
    let submitted = updates.next().await.unwrap().unwrap();
    assert_eq!(submitted.sequence, 1);
    home.file("gate", "");
    // The start of the first attempt may have been missed, that of the second comes behind the end of
    // the first.
    let mut seen = Vec::new();
    while let Some(update) = updates.next().await.unwrap() {
        for event in update.events {
            match event {
                RunEvent::AttemptStarted { task, attempt, .. } if &*task.task_id == "next" => {
                    seen.push(("started", attempt, update.sequence));
                }
                RunEvent::TaskSucceeded { attempt, .. } => {
                    seen.push(("succeeded", attempt, update.sequence));
                }
                _ => {}
            }
        }
    }
    assert_eq!(
        seen,
        [("succeeded", 1, 2), ("started", 1, 2), ("succeeded", 1, 3)]
    );
}

#[tokio::test]
async fn a_run_that_is_not_there_is_named() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let run_id = client.start(&quick()).await;
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    assert_ne!(run_id, unknown);
    let mut updates = client.watch(unknown, 0).await.unwrap();
    let error = updates.next().await.unwrap_err();
    assert_eq!(
        (error.code(), error.message),
        (Code::RunNotFound, format!("no run {unknown}"))
    );
    let error = client.get(unknown).await.unwrap_err();
    assert_eq!(error.code(), Code::RunNotFound);
    let error = client.get("nonsense").await.unwrap_err();
    assert_eq!(error.code(), Code::RequestInvalid);
    assert_eq!(error.violations[0].field, "run_id");
}
