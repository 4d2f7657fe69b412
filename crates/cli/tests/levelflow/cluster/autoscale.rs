//! What waits with all coordinators decides how many workers are wanted.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Cluster, Coordinator};
use crate::client::{Client, eventually};
use crate::harness::Running;

async fn coordinator(cluster: &Cluster) -> Coordinator {
    let arguments = ["coordinator", "--listen", "127.0.0.1:0", "--json"];
    let mut command = cluster.command(&arguments);
    command
        .env("LEVELFLOW_COORDINATOR__AUTOSCALE__MIN", "1")
        .env("LEVELFLOW_COORDINATOR__AUTOSCALE__MAX", "9");
    let (process, address) = Running::server(command).await;
    Coordinator { process, address }
}

async fn explain(cluster: &Cluster, coordinator: &Coordinator) -> Value {
    let arguments = ["autoscale", "explain", "--address", &coordinator.address];
    cluster.home.json(&arguments).await.1
}

#[tokio::test]
async fn each_coordinator_decides_on_what_waits_with_all_and_counts_a_worker_once() {
    let cluster = Cluster::with_lease("20s");
    let (first, second) = (coordinator(&cluster).await, coordinator(&cluster).await);
    cluster.is_even(&first, 2).await;
    let _worker = cluster.worker(&first, 2).await;
    for coordinator in [&first, &second] {
        eventually("the worker is known once", async || {
            let decided = explain(&cluster, coordinator).await;
            decided["current"] == 1 && decided["unheard"] == json!([])
        })
        .await;
    }
    let with = json!({ "command": ["sleep", "600"] });
    let task =
        |number: usize| json!({ "id": format!("t{number}"), "type": "process", "with": with });
    let tasks: Vec<_> = (0..20).map(task).collect();
    let workflow = json!({ "name": "burst", "tasks": tasks });
    for coordinator in [&first, &second] {
        Client::connect(&coordinator.address)
            .await
            .start(&workflow)
            .await;
    }
    for coordinator in [&first, &second] {
        eventually("what waits with both is known to each", async || {
            let decided = explain(&cluster, coordinator).await;
            let load = &decided["workload"];
            (&load["waiting"], &load["busy"]) == (&json!(38), &json!(2)) && decided["wanted"] == 9
        })
        .await;
    }
    second.process.signal(Signal::SIGSTOP);
    let id = cluster.view(&first).await["coordinators"].clone();
    let ids: Vec<_> = id
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["id"].clone())
        .collect();
    eventually("the silent one is left out and named", async || {
        let decided = explain(&cluster, &first).await;
        let unheard = decided["unheard"].as_array().unwrap().clone();
        let waiting = decided["workload"]["waiting"].as_u64().unwrap();
        unheard.len() == 1 && ids.contains(&unheard[0]) && waiting < 38
    })
    .await;
    second.process.signal(Signal::SIGCONT);
}
