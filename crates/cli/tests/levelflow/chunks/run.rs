//! Watchers of a run that ask for the chunks of its tasks.

use std::collections::BTreeMap;

use levelflow_common::event::{RunEvent, RunUpdate, TaskRef};
use levelflow_common::{ChunkCursor, ChunkEvent, RunStatus};
use levelflow_proto::v1;
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::Streaming;

use super::{Chunks, GATED, GATED_LINES, Seen};
use crate::client::{Client, answer};
use crate::harness::{DEADLINE, Home, Running};

/// Two programs that give chunks at the same time, and one after them.
fn workflow(home: &Home) -> Value {
    let lines = |id: &str, needs: &[&str], script: &str| {
        json!({
            "id": id, "type": "process", "needs": needs,
            "with": { "command": ["sh", "-c", script], "cwd": home.path(""), "stream": "lines" },
        })
    };
    json!({
        "name": "several",
        "tasks": [lines("a", &[], GATED), lines("b", &[], GATED), lines("c", &["a", "b"], "echo last")],
    })
}

struct Watch(Streaming<v1::WatchRunResponse>);

impl Watch {
    async fn start(client: &Client, run_id: &str, after: u64, known: &Known) -> Self {
        let cursor = |(task_id, seen): (&String, &Seen)| v1::TaskCursor {
            task_id: task_id.clone(),
            item: None,
            after: seen.stream.map(|_| seen.cursor().into()),
        };
        let request = v1::WatchRunRequest {
            run_id: run_id.to_owned(),
            after_sequence: after,
            chunks: true,
            cursors: known.iter().map(cursor).collect(),
        };
        Self(
            answer(client.service.clone().watch_run(request))
                .await
                .unwrap(),
        )
    }

    async fn next(&mut self) -> Option<RunUpdate> {
        let update = timeout(DEADLINE, self.0.message());
        let update = update.await.expect("something happens before the deadline");
        update.unwrap().map(|update| update.try_into().unwrap())
    }

    /// Takes in what comes until the condition holds; gives the last sequence number.
    async fn until(&mut self, known: &mut Known, holds: impl Fn(&Known) -> bool) -> u64 {
        let mut sequence = 0;
        while !holds(known) {
            sequence = take(known, self.next().await.unwrap());
        }
        sequence
    }

    /// Takes in everything until the run has ended.
    async fn rest(mut self, known: &mut Known) {
        while let Some(update) = self.next().await {
            take(known, update);
        }
    }
}

type Known = BTreeMap<String, Seen>;

/// Takes in an update; the chunks of a result have to come before it.
fn take(known: &mut Known, update: RunUpdate) -> u64 {
    for event in update.events {
        match event {
            RunEvent::Streamed { task, event } => {
                let seen = known.entry(task.task_id.to_string()).or_default();
                seen.take(event);
            }
            RunEvent::TaskSucceeded { task, chunks, .. } => {
                assert_eq!(known[&*task.task_id].chunks.len(), chunks as usize);
            }
            _ => {}
        }
    }
    update.sequence
}

fn count(known: &Known, task: &str) -> usize {
    known.get(task).map_or(0, |seen| seen.chunks.len())
}

#[tokio::test]
async fn chunks_of_all_tasks_come_with_the_events_of_the_run() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    let run_id = client.start(&workflow(&home)).await;
    let mut live = Watch::start(&client, &run_id, 0, &Known::new()).await;
    let mut known = Known::new();
    let both = |known: &Known| count(known, "a") == 2 && count(known, "b") == 2;
    let sequence = live.until(&mut known, both).await;

    // One that comes back goes on where it was; one that comes late gets all of it.
    let mut again = known.clone();
    let back = Watch::start(&client, &run_id, sequence, &known).await;
    home.file("gate", "");
    live.rest(&mut known).await;
    back.rest(&mut again).await;
    assert_eq!(again, known);
    for task in ["a", "b"] {
        assert_eq!(known[task].values(), GATED_LINES);
    }
    assert_eq!(known["c"].values(), ["last"]);
    let mut late = Known::new();
    Watch::start(&client, &run_id, 0, &Known::new())
        .await
        .rest(&mut late)
        .await;
    assert_eq!(late, known);
}

#[tokio::test]
async fn who_does_not_ask_gets_no_chunks() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    home.file("gate", "");
    let run_id = client.start(&workflow(&home)).await;
    let is_streamed = |event: &RunEvent| matches!(event, RunEvent::Streamed { .. });
    for _ in 0..2 {
        let mut updates = client.watch(&run_id, 0).await.unwrap();
        while let Some(update) = updates.next().await.unwrap() {
            assert!(!update.events.iter().any(is_streamed), "{update:?}");
        }
    }
}

#[tokio::test]
async fn an_event_of_chunks_names_task_and_place() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    let workflow = json!({
        "name": "items",
        "tasks": [{
            "id": "each", "type": "process", "for_each": { "items": [1, 2] },
            "with": { "command": ["echo", "n${{ item }}"], "stream": "lines" },
        }],
    });
    let run_id = client.start(&workflow).await;
    client.ended(&run_id).await;
    let mut watch = Watch::start(&client, &run_id, 0, &Known::new()).await;
    let mut lines = BTreeMap::new();
    while let Some(update) = watch.next().await {
        for event in update.events {
            if let RunEvent::Streamed { task, event } = event {
                let TaskRef { item, .. } = task;
                if let ChunkEvent::Chunks { stream, chunks, .. } = &event {
                    let cursor = ChunkCursor {
                        stream: *stream,
                        chunks: 1,
                    };
                    assert_eq!(event.cursor(), Some(cursor));
                    lines.insert(item, chunks.clone());
                }
            }
        }
    }
    let expected = [
        (Some(0), vec!["\"n1\"".into()]),
        (Some(1), vec!["\"n2\"".into()]),
    ];
    assert_eq!(lines, BTreeMap::from(expected));
}

#[tokio::test]
async fn a_resumed_run_tells_the_chunks_of_what_it_keeps() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = Client::connect(&address).await;
    home.file("gate", "");
    let mended = home.path("mended");
    let mut workflow = workflow(&home);
    let tasks = workflow["tasks"].as_array_mut().unwrap();
    tasks[2]["with"]["command"] = json!(["sh", "-c", "test -e mended && echo last"]);
    tasks[2]["retry"] = json!({ "max_attempts": 1 });
    let script = "test $1 = n1 -o -e mended && echo $1";
    tasks.push(json!({
        "id": "each", "type": "process", "for_each": { "items": [1, 2] },
        "with": {
            "command": ["sh", "-c", script, "sh", "n${{ item }}"], "cwd": home.path(""), "stream": "lines",
        },
        "retry": { "max_attempts": 1 },
    }));
    let failed = client.start(&workflow).await;
    client.ended(&failed).await;
    std::fs::write(mended, "").unwrap();
    let resumed = client.resume(&failed).await.unwrap().run_id;
    let ended = client.ended(&resumed).await;
    assert_eq!(ended.summary.status, RunStatus::Succeeded, "{ended:?}");

    let mut watch = Watch::start(&client, &resumed, 0, &Known::new()).await;
    let mut seen: BTreeMap<TaskRef, Seen> = BTreeMap::new();
    let mut kept = Vec::new();
    while let Some(update) = watch.next().await {
        for event in update.events {
            match event {
                RunEvent::Streamed { task, event } => seen.entry(task).or_default().take(event),
                RunEvent::TaskSucceeded {
                    task,
                    chunks,
                    reused_from,
                    ..
                } if &*task.task_id != "each" || task.item.is_some() => {
                    assert_eq!(seen[&task].chunks.len(), chunks as usize, "{task:?}");
                    if reused_from.is_some() {
                        kept.push(task);
                    }
                }
                _ => {}
            }
        }
    }
    assert_eq!(kept.len(), 3, "`a`, `b` and an item: {kept:?}");
    for (task, seen) in &seen {
        let single = Chunks::watch_item(&client, &resumed, &task.task_id, task.item, None).await;
        let (alone, _) = single.unwrap().rest(Seen::default()).await;
        assert_eq!(*seen, alone, "who watches {task:?} alone is told the same");
    }
    assert_eq!(seen.len(), 5);

    // One that comes back in the middle of the chunks of a kept result goes on there.
    let mut known = Known::new();
    let mut part = seen[&kept[0]].clone();
    part.chunks.truncate(1);
    known.insert(kept[0].task_id.to_string(), part);
    let mut rest = Watch::start(&client, &resumed, 0, &known).await;
    let mut told = Vec::new();
    while told.is_empty() {
        for event in rest.next().await.unwrap().events {
            if let RunEvent::Streamed { task, event } = event
                && task == kept[0]
            {
                told.push(event);
            }
        }
    }
    assert!(
        matches!(&told[0], ChunkEvent::Chunks { first: 1, chunks, .. } if chunks.len() == 3),
        "{told:?}"
    );
}
