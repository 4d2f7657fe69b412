//! Following a run while its server is killed and started again.

use serde_json::{Value, json};

use crate::client::Client;
use crate::harness::{Home, Running};

#[tokio::test]
async fn a_watch_goes_on_after_a_crash_of_the_server() {
    let home = Home::new();
    let (server, address) = Running::serve(&home, &["dev"]).await;
    let script = "while ! test -e gate; do sleep 0.02; done";
    let gated = json!({
        "name": "gated",
        "tasks": [
            { "id": "quick", "type": "transform", "with": { "value": 1 } },
            { "id": "gated", "type": "process", "needs": ["quick"],
              "with": { "command": ["sh", "-c", script], "cwd": home.path("") } },
        ],
    });
    let run_id = Client::connect(&address).await.start(&gated).await;
    let watch = ["watch", &run_id, "--json", "--address", &address];
    let mut watch = Running::start(home.command(&watch));
    let mut events = Vec::new();
    let quick_ended = |event: &Value| event["event"] == "level_completed";
    while !events.last().is_some_and(quick_ended) {
        events.push(watch.json_line().await);
    }

    server.kill().await;
    let command = home.command(&["dev", "--listen", &address, "--no-http", "--json"]);
    let (_server, _) = Running::server(command).await;
    home.file("gate", "");
    while events
        .last()
        .is_none_or(|event| event["event"] != "finished")
    {
        events.push(watch.json_line().await);
    }
    assert_eq!(watch.ended().await.code(), Some(0));
    let mut levels = events
        .iter()
        .filter(|event| event["event"] == "level_completed");
    let first = levels.next().unwrap();
    assert_eq!(
        (&first["level"], &first["counts"]["succeeded"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(
        first["outputs"],
        json!([{ "id": "quick", "bytes": 1, "output": 1 }])
    );
    let of_tasks: Vec<(&str, u64)> = events
        .iter()
        .filter(|event| event["event"] != "attempt_started")
        .map(|event| {
            (
                event["event"].as_str().unwrap(),
                event["sequence"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        of_tasks,
        [
            ("submitted", 1),
            ("task_succeeded", 2),
            ("level_completed", 2),
            ("task_succeeded", 3),
            ("level_completed", 3),
            ("finished", 4),
        ]
    );
}
