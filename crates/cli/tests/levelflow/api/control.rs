use std::path::Path;

use levelflow_common::event::RunEvent;
use levelflow_common::{Code, RunStatus, TaskStatus};
use levelflow_proto::v1;
use serde_json::json;

use super::{gated, open, quick, serve};
use crate::client::{Client, eventually};
use crate::harness::Home;

#[tokio::test]
async fn a_cancel_ends_a_program_and_what_it_started() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let script = "sleep 1000 & echo $! > child.tmp; mv child.tmp child; wait";
    let workflow = json!({
        "name": "long",
        "tasks": [
            { "id": "long", "type": "process",
              "with": { "command": ["sh", "-c", script], "cwd": home.path("") } },
            { "id": "after", "type": "transform", "needs": ["long"], "with": { "value": 1 } },
        ],
    });
    let run_id = client.start(&workflow).await;
    let child = home.path("child");
    eventually("the program has started another", async || child.exists()).await;
    let pid = std::fs::read_to_string(&child).unwrap().trim().to_owned();
    assert!(is_alive(&pid));

    let status = client.cancel(&run_id).await.unwrap().status();
    assert_eq!(status, v1::RunStatus::Cancelling);
    let history = client.history(&run_id).await;
    let requested = |event: &RunEvent| matches!(event, RunEvent::CancelRequested { reason } if reason == "enough");
    assert!(
        history
            .iter()
            .flat_map(|update| &update.events)
            .any(requested)
    );
    let run = client.get(&run_id).await.unwrap();
    assert_eq!(run.summary.status, RunStatus::Cancelled);
    assert_eq!(
        [run.tasks[0].status, run.tasks[1].status],
        [TaskStatus::Cancelled; 2]
    );
    eventually("the other program has gone", async || !is_alive(&pid)).await;

    let error = client.cancel(&run_id).await.unwrap_err();
    assert_eq!(error.code(), Code::RunEnded);
    assert_eq!(error.message, format!("run {run_id} has ended (cancelled)"));
}

/// Whether a process runs; what is dead and waits for its parent does not.
fn is_alive(pid: &str) -> bool {
    std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
}

#[tokio::test]
async fn nothing_starts_after_a_cancel() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[("LEVELFLOW_WORKER__SLOTS", "1")]).await;
    let mut workflow = gated(&home);
    let task = workflow["tasks"][0].clone();
    workflow["tasks"] = (0..20)
        .map(|number| {
            let mut task = task.clone();
            task["id"] = json!(format!("t{number}"));
            task
        })
        .collect();
    let run_id = client.start(&workflow).await;
    let started = home.path("started");
    let count = || {
        std::fs::read_to_string(&started)
            .unwrap_or_default()
            .lines()
            .count()
    };
    eventually("the first program has started", async || count() > 0).await;
    client.cancel(&run_id).await.unwrap();
    let run = client.ended(&run_id).await;
    assert_eq!(run.summary.status, RunStatus::Cancelled);
    assert_eq!(run.summary.counts.cancelled, 20);
    // The slot is free again, and none of the others has had it.
    client.ended(&client.start(&quick()).await).await;
    assert_eq!(count(), 1);
}

#[tokio::test]
async fn a_run_that_waits_is_cancelled_at_once() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let run_id = client.start(&open()).await;
    client.cancel(&run_id).await.unwrap();
    let run = client.ended(&run_id).await;
    assert_eq!(run.summary.status, RunStatus::Cancelled);
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    let error = client.cancel(unknown).await.unwrap_err();
    assert_eq!(error.code(), Code::RunNotFound);
}

#[tokio::test]
async fn a_resumed_run_keeps_what_succeeded() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let append = "echo \"$LEVELFLOW_TASK_ID $0\" >> ran; test \"$0\" != 2 || test -e fixed";
    let with = |item: &str| json!({ "command": ["sh", "-c", append, item], "cwd": home.path(""), "output": "lines" });
    let workflow = json!({
        "name": "resumable",
        "inputs": { "greeting": { "type": "string", "required": true } },
        "tasks": [
            { "id": "once", "type": "process", "with": with("x"), "retry": { "max_attempts": 1 } },
            { "id": "each", "type": "process", "needs": ["once"], "with": with("${{ item | string }}"),
              "for_each": { "items": [1, 2, 3] }, "retry": { "max_attempts": 1 } },
            { "id": "last", "type": "transform", "needs": ["each"],
              "with": { "value": "${{ inputs.greeting }}" } },
        ],
        "outputs": { "last": "${{ tasks.last.output }}" },
    });
    let request = v1::SubmitWorkflowRequest {
        inputs: r#"{"greeting":"hello"}"#.into(),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        ..crate::client::submission(&workflow)
    };
    let failed = client.submit(request).await.unwrap().run_id;
    let run = client.ended(&failed).await;
    assert_eq!(run.summary.status, RunStatus::Failed);

    // Again without a remedy, then with one: what was kept is kept over both.
    let second = client.resume(&failed).await.unwrap();
    assert_eq!(second.kept, 3, "`once` and two items");
    assert_eq!(
        client.ended(&second.run_id).await.summary.status,
        RunStatus::Failed
    );
    home.file("fixed", "");
    let third = client.resume(&second.run_id).await.unwrap();
    let run = client.ended(&third.run_id).await;
    assert_eq!(run.summary.status, RunStatus::Succeeded);
    assert_eq!(run.outputs.as_deref(), Some(&br#"{"last":"hello"}"#[..]));
    assert_eq!(run.summary.labels["a"], "b");
    assert_eq!(run.summary.resumed_from.unwrap().to_string(), second.run_id);
    let once = run
        .tasks
        .iter()
        .find(|task| &*task.task_id == "once")
        .unwrap();
    assert_eq!(
        once.reused_from.unwrap().to_string(),
        failed,
        "who computed it"
    );
    let mut ran: Vec<String> = std::fs::read_to_string(home.path("ran"))
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    ran.sort_unstable();
    assert_eq!(
        ran,
        ["each 1", "each 2", "each 2", "each 2", "each 3", "once x"]
    );

    let error = client.resume(&third.run_id).await.unwrap_err();
    assert_eq!(error.code(), Code::NotResumable);
    assert_eq!(
        error.message,
        format!(
            "run {} is succeeded; only failed and cancelled runs can be resumed",
            third.run_id
        )
    );
    let open = client.start(&open()).await;
    let error = client.resume(&open).await.unwrap_err();
    assert_eq!(error.code(), Code::NotResumable);
    client.cancel(&open).await.unwrap();
    client.ended(&open).await;
    assert_eq!(client.resume(&open).await.unwrap().kept, 0);
}

/// Waits until a task stands for a reason; the journal does not tell of all of them.
pub(super) async fn until_explained(
    client: &Client,
    run_id: &str,
    task: &str,
    code: &str,
) -> v1::TaskStatus {
    eventually(code, async || {
        client.explain(run_id, task).await.1[0].code == code
    })
    .await;
    client.explain(run_id, task).await.0
}

#[tokio::test]
async fn a_task_that_waits_is_explained() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[("LEVELFLOW_WORKER__SLOTS", "1")]).await;
    let waiting = json!({
        "name": "waiting",
        "tasks": [
            { "id": "nobody", "type": "handler", "with": { "name": "missing" } },
            { "id": "after", "type": "transform", "needs": ["nobody"], "with": { "value": 1 } },
            { "id": "slept", "type": "sleep", "with": { "duration": "1h" } },
            { "id": "tried", "type": "process", "with": { "command": ["false"] },
              "retry": { "max_attempts": 2, "initial": "1h", "max": "1h", "jitter": false } },
            { "id": "done", "type": "transform", "with": { "value": 1 } },
            { "id": "label", "type": "transform", "with": { "value": 1 },
              "worker": { "labels": { "zone": "eu" } } },
        ],
    });
    let run_id = client.start(&waiting).await;
    for (task, code, status) in [
        ("nobody", "no_worker", v1::TaskStatus::Ready),
        ("after", "needs", v1::TaskStatus::Pending),
        ("slept", "sleeping", v1::TaskStatus::Sleeping),
        ("tried", "backoff", v1::TaskStatus::Backoff),
        ("done", "succeeded", v1::TaskStatus::Succeeded),
        ("label", "no_worker", v1::TaskStatus::Ready),
    ] {
        assert_eq!(
            until_explained(&client, &run_id, task, code).await,
            status,
            "{task}"
        );
    }
    let texts = async |task| {
        let (_, reasons) = client.explain(&run_id, task).await;
        reasons
            .into_iter()
            .map(|reason| reason.text)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        texts("nobody").await[0],
        "no connected worker serves queue `default` that runs handler `missing`"
    );
    assert_eq!(texts("after").await, ["it waits for `nobody`"]);
    let tried = texts("tried").await;
    assert!(
        tried[0].starts_with("attempt 1 failed; the next starts in 3"),
        "{tried:?}"
    );
    assert_eq!(
        tried[1],
        "the last attempt failed: the program `false` exited with status 1"
    );

    let busy = client.start(&gated(&home)).await;
    let status = until_explained(&client, &busy, "gated", "running").await;
    assert_eq!(status, v1::TaskStatus::Running);
    let queued = client.start(&quick()).await;
    let status = until_explained(&client, &queued, "a", "workers_busy").await;
    assert_eq!(status, v1::TaskStatus::Ready);
    home.file("gate", "");
    client.ended(&queued).await;

    let request = v1::ExplainTaskRequest {
        run_id: run_id.clone(),
        task_id: "other".to_owned(),
        item: None,
    };
    let error = crate::client::answer(client.service.clone().explain_task(request)).await;
    let error = error.unwrap_err();
    assert_eq!(error.code(), Code::TaskNotFound);
    assert_eq!(error.message, format!("run {run_id} has no task `other`"));
}
