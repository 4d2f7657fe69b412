//! A worker that holds too much memory, among others.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::client::{Client, eventually};
use crate::harness::{DEADLINE, Home, Running, lines};

#[tokio::test]
async fn a_worker_with_critical_memory_leaves_tasks_to_others() {
    let home = Home::new();
    let (_coordinator, address) = Running::serve(&home, &["coordinator"]).await;
    let worker = |id: &str| home.command(&["worker", "--address", &address, "--id", id, "--json"]);
    // Every process holds more than this.
    let mut full = worker("full")
        .env("LEVELFLOW_WORKER__MEMORY__WARNING_MIB", "1")
        .env("LEVELFLOW_WORKER__MEMORY__CRITICAL_MIB", "2")
        .env("LEVELFLOW_LOG_FORMAT", "json")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = lines(full.stderr.take().unwrap());
    let mut alerts = Vec::new();
    while alerts.len() < 2 {
        let line = timeout(DEADLINE, log.next_line()).await.unwrap().unwrap();
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if line["message"] == "memory alert" {
            assert!(line["resident_mib"].as_u64().unwrap() >= 2);
            assert_eq!(line["growth_mib_per_s"], 0);
            let alert = (&line["cause"], &line["limit_mib"]);
            alerts.push(json!(alert));
        }
    }
    assert_eq!(alerts, [json!(["warning", 1]), json!(["critical", 2])]);

    let client = Client::connect(&address).await;
    let run_id = client
        .start(&json!({
            "name": "flow",
            "tasks": [{ "id": "a", "type": "transform", "with": { "value": 1 } }],
        }))
        .await;
    eventually("the worker is connected and takes nothing", async || {
        let (_, reasons) = client.explain(&run_id, "a").await;
        reasons
            .iter()
            .any(|reason| reason.code == "memory_pressure")
    })
    .await;
    let why = home.levelflow(&["why", &run_id, "a"]).await;
    let expected = "all 1 workers for queue `default` that runs `transform` tasks are short of \
                    memory, and take nothing until they hold less [memory_pressure]";
    assert!(why.stdout.contains(expected), "{}", why.stdout);

    let _free = Running::start(worker("free"));
    let run = client.ended(&run_id).await;
    assert_eq!(&*run.tasks[0].worker.as_ref().unwrap().0, "free");
    assert_eq!(run.tasks[0].attempts, 1);
    full.kill().await.unwrap();
}
