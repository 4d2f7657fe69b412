//! Watchers of one task.

use levelflow_common::{ChunkCursor, Code, FencingToken, TaskStatus};
use levelflow_proto::v1::workflow_service_client::WorkflowServiceClient;
use serde_json::{Value, json};
use tonic::transport::Endpoint;

use super::{Chunks, GATED, GATED_LINES, Seen, program, replay, succeeded};
use crate::client::Client;
use crate::harness::{Home, Running};

#[tokio::test]
async fn live_late_and_resumed_watchers_see_the_same_bytes() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    let run_id = client.start(&program(&home, GATED)).await;
    let mut live = Chunks::watch(&client, &run_id, "lines", None)
        .await
        .unwrap();
    let mut seen = Seen::default();
    live.take(&mut seen, 2).await;
    // While the task runs: one that comes later, and one that comes back.
    let mut later = Chunks::watch(&client, &run_id, "lines", None)
        .await
        .unwrap();
    let mut seen_later = Seen::default();
    later.take(&mut seen_later, 2).await;
    assert_eq!(seen_later, seen);
    let back = Chunks::watch(&client, &run_id, "lines", Some(seen.cursor()))
        .await
        .unwrap();
    home.file("gate", "");
    let (seen_live, end) = live.rest(seen.clone()).await;
    assert_eq!(seen_live.values(), GATED_LINES);
    assert!(succeeded(&end), "{end:?}");
    assert_eq!((end.chunks, end.attempt), (4, 1));
    assert_eq!(
        later.rest(seen_later).await,
        (seen_live.clone(), end.clone())
    );
    assert_eq!(back.rest(seen).await, (seen_live.clone(), end.clone()));

    client.ended(&run_id).await;
    assert_eq!(
        replay(&client, &run_id, "lines").await,
        (seen_live.clone(), end.clone())
    );
    for known in 0..=4 {
        let mut seen = seen_live.clone();
        seen.chunks.truncate(known);
        let rest = Chunks::watch(&client, &run_id, "lines", Some(seen.cursor()))
            .await
            .unwrap();
        assert_eq!(rest.rest(seen).await, (seen_live.clone(), end.clone()));
    }
    // A place in a stream that is not this one counts for nothing.
    let other = ChunkCursor {
        stream: FencingToken(1),
        chunks: 3,
    };
    let all = Chunks::watch(&client, &run_id, "lines", Some(other))
        .await
        .unwrap();
    assert_eq!(all.rest(Seen::default()).await, (seen_live, end));
    let run = client.get(&run_id).await.unwrap();
    assert_eq!(run.tasks[0].chunks, 4);
}

/// A client on a connection of its own, which holds little that is not read.
async fn narrow(address: &str) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let endpoint = endpoint
        .initial_stream_window_size(16 * 1024)
        .initial_connection_window_size(64 * 1024);
    Client {
        service: WorkflowServiceClient::new(endpoint.connect().await.unwrap()),
    }
}

#[tokio::test]
async fn a_watcher_that_does_not_read_holds_nothing_up_and_misses_nothing() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    // Far more than the connections of watchers that do not read can hold.
    let line = "x".repeat(1_000);
    let script = format!(
        "while ! test -e gate; do sleep 0.02; done; i=0; while test $i -lt 900; do echo $i {line}; i=$((i+1)); done"
    );
    let run_id = client.start(&program(&home, &script)).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let client = narrow(&address).await;
        let mut watcher = Chunks::watch(&client, &run_id, "lines", None)
            .await
            .unwrap();
        let mut seen = Seen::default();
        seen.take(watcher.next().await.unwrap().unwrap());
        stalled.push((watcher, seen));
    }
    let reading = Chunks::watch(&client, &run_id, "lines", None)
        .await
        .unwrap();
    home.file("gate", "");
    let (seen, end) = reading.rest(Seen::default()).await;
    assert!(succeeded(&end), "{end:?}");
    assert_eq!(seen.chunks.len(), 900);
    client.ended(&run_id).await;
    for (watcher, before) in stalled {
        assert_eq!(watcher.rest(before).await, (seen.clone(), end.clone()));
    }
}

#[tokio::test]
async fn tasks_without_chunks_have_an_end_too() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    let workflow = json!({
        "name": "ends",
        "tasks": [
            { "id": "gated", "type": "process", "with": {
                "command": ["sh", "-c", "while ! test -e gate; do sleep 0.02; done"],
                "cwd": home.path(""),
            } },
            { "id": "value", "type": "transform", "needs": ["gated"], "with": { "value": 7 } },
            { "id": "list", "type": "process", "needs": ["gated"],
              "for_each": { "items": [10, 20] },
              "with": { "command": ["sh", "-c", "echo ${{ item }}"], "stream": "lines" } },
            { "id": "failed", "type": "process", "needs": ["gated"], "continue_on_error": true,
              "with": { "command": ["sh", "-c", "echo half; false"], "stream": "lines" },
              "retry": { "max_attempts": 1 } },
            { "id": "skipped", "type": "transform", "needs": ["failed"], "when": "${{ false }}",
              "with": { "value": 1 } },
        ],
    });
    let run_id = client.start(&workflow).await;
    let names = ["gated", "value", "list", "failed", "skipped"];
    let mut watchers = Vec::new();
    for name in names {
        let watcher = Chunks::watch(&client, &run_id, name, None).await.unwrap();
        watchers.push(watcher);
    }
    home.file("gate", "");
    let mut live = Vec::new();
    for watcher in watchers {
        live.push(watcher.rest(Seen::default()).await);
    }
    client.ended(&run_id).await;
    let statuses: Vec<_> = live.iter().map(|(_, end)| end.status).collect();
    let succeeded = TaskStatus::Succeeded;
    assert_eq!(
        statuses,
        [
            succeeded,
            succeeded,
            succeeded,
            TaskStatus::Failed,
            TaskStatus::Skipped
        ]
    );
    assert_eq!(live[1].1.output.as_deref(), Some(&b"7"[..]));
    // What a failed attempt gave is seen live, and not recorded.
    assert_eq!(live[3].0.values(), ["half"]);
    for (name, (seen, end)) in names.iter().zip(&live) {
        let (again, end_again) = replay(&client, &run_id, name).await;
        assert_eq!(&end_again, end);
        if end.status == TaskStatus::Failed {
            assert_eq!(again, Seen::default());
        } else if !seen.chunks.is_empty() {
            assert_eq!(&again, seen);
        }
    }
    for (item, line) in [(0, "10"), (1, "20")] {
        let watcher = Chunks::watch_item(&client, &run_id, "list", Some(item), None).await;
        let (seen, end) = watcher.unwrap().rest(Seen::default()).await;
        assert_eq!(seen.values(), [line]);
        assert_eq!(end.chunks, 1);
    }
    let error = async |run_id: &str, task: &str, item| {
        let watcher = Chunks::watch_item(&client, run_id, task, item, None).await;
        watcher.unwrap().next().await.unwrap_err().code()
    };
    assert_eq!(error(&run_id, "nobody", None).await, Code::TaskNotFound);
    assert_eq!(error(&run_id, "list", Some(2)).await, Code::TaskNotFound);
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    assert_eq!(error(unknown, "list", None).await, Code::RunNotFound);
}

#[tokio::test]
async fn a_result_that_a_resumed_run_keeps_is_replayed() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    let mut workflow = program(&home, "echo one; echo two");
    let next = json!({
        "id": "next", "type": "process", "needs": ["lines"],
        "with": { "command": ["test", "-e", home.path("mended")] },
        "retry": { "max_attempts": 1 },
    });
    workflow["tasks"].as_array_mut().unwrap().push(next);
    let run_id = client.start(&workflow).await;
    client.ended(&run_id).await;
    let original = replay(&client, &run_id, "lines").await;
    assert_eq!(original.0.values(), ["one", "two"]);
    home.file("mended", "");
    let resumed = client.resume(&run_id).await.unwrap().run_id;
    client.ended(&resumed).await;
    let (seen, end) = replay(&client, &resumed, "lines").await;
    assert_eq!((seen.chunks, end.chunks), (original.0.chunks, 2));
}

#[tokio::test]
async fn the_program_prints_chunks_as_they_come() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    let run_id = client.start(&program(&home, GATED)).await;
    let arguments = ["watch", &run_id, "--task", "lines", "--address", &address];
    let mut watch = Running::start(home.command(&arguments));
    assert_eq!(watch.line().await, "one");
    assert_eq!(watch.line().await, "two");
    home.file("gate", "");
    assert_eq!(watch.line().await, "three");
    assert_eq!(watch.line().await, "four");
    assert_eq!(watch.ended().await.code(), Some(0));

    let mut json = arguments.to_vec();
    json.push("--json");
    let ended = home.levelflow(&json).await;
    let events: Vec<Value> = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events[0]["event"], "started");
    assert_eq!(events[1]["chunks"], json!(GATED_LINES));
    assert_eq!(events[2]["state"], "succeeded");
    let cursor = events[1]["cursor"].as_str().unwrap();
    let (stream, count) = cursor.split_once('-').unwrap();
    assert_eq!(count, "4");
    let from = format!("{stream}-3");
    json.extend(["--from", &from]);
    let ended = home.levelflow(&json).await;
    let first: Value = serde_json::from_str(ended.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["first"], &first["chunks"]),
        (&json!(3), &json!(["four"]))
    );
    let unknown = home
        .levelflow(&["watch", &run_id, "--task", "nobody"])
        .await;
    assert_eq!(unknown.code, Some(2), "{}", unknown.stderr);
}

#[tokio::test]
async fn a_result_from_the_cache_has_its_chunks() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    let mut workflow = program(&home, "echo $$; echo two");
    workflow["tasks"][0]["cache"] = json!({ "ttl": "1h" });
    let run_id = client.start(&workflow).await;
    client.ended(&run_id).await;
    let original = replay(&client, &run_id, "lines").await;
    assert_eq!(original.0.values()[1], "two");

    // Followed before the result is found.
    let gate = json!({
        "id": "gate", "type": "process",
        "with": {
            "command": ["sh", "-c", "while ! test -e gate; do sleep 0.02; done"],
            "cwd": home.path(""),
        },
    });
    workflow["tasks"][0]["needs"] = json!(["gate"]);
    workflow["tasks"].as_array_mut().unwrap().push(gate);
    let run_id = client.start(&workflow).await;
    let live = Chunks::watch(&client, &run_id, "lines", None)
        .await
        .unwrap();
    home.file("gate", "");
    let (seen, end) = live.rest(Seen::default()).await;
    let run = client.ended(&run_id).await;
    assert!(run.tasks[0].cached.is_some(), "{run:?}");
    assert_eq!((&seen.chunks, end.chunks), (&original.0.chunks, 2));
    assert_eq!(end.output, original.1.output);
    assert_eq!(replay(&client, &run_id, "lines").await, (seen, end));
}
