//! Shards have an owner each, and requests find it.

use std::collections::BTreeSet;

use levelflow_common::RunStatus;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Cluster, members};
use crate::client::{Client, eventually, submission};

fn chain(tasks: usize) -> Value {
    let tasks: Vec<Value> = (0..tasks)
        .map(|task| match task.checked_sub(1) {
            None => json!({ "id": "t0", "type": "transform", "with": { "value": 1 } }),
            Some(before) => json!({
                "id": format!("t{task}"),
                "type": "transform",
                "with": { "value": format!("${{{{ tasks.t{before}.output + 1 }}}}") },
            }),
        })
        .collect();
    let last = tasks.len() - 1;
    json!({
        "name": "chain",
        "tasks": tasks,
        "outputs": { "last": format!("${{{{ tasks.t{last}.output }}}}") },
    })
}

#[tokio::test]
async fn a_request_finds_its_run_wherever_it_is_asked() {
    let cluster = Cluster::new();
    let (first, second) = (cluster.coordinator().await, cluster.coordinator().await);
    cluster.is_even(&first, 2).await;
    let _worker = cluster.worker(&first, 4).await;
    let one = Client::connect(&first.address).await;
    let other = Client::connect(&second.address).await;

    // One key is one run, whoever is asked; so keys spread over both.
    for key in 0..12 {
        let request = levelflow_proto::v1::SubmitWorkflowRequest {
            idempotency_key: format!("key {key}"),
            ..submission(&chain(3))
        };
        let (asked, again) = if key % 2 == 0 {
            (&one, &other)
        } else {
            (&other, &one)
        };
        let accepted = asked.submit(request.clone()).await.unwrap();
        assert!(!accepted.existing);
        let known = again.submit(request).await.unwrap();
        assert_eq!(
            (known.run_id, known.existing),
            (accepted.run_id.clone(), true)
        );
        // The worker, which was told of one of them, works for both.
        let ended = again.ended(&accepted.run_id).await;
        assert_eq!(ended.outputs.as_deref(), Some(&b"{\"last\":3}"[..]));
        assert_eq!(
            one.history(&accepted.run_id).await,
            other.history(&accepted.run_id).await
        );
    }

    // What is open is looked at, explained and cancelled from anywhere.
    let sleeps = json!({
        "name": "sleeps",
        "tasks": [{ "id": "sleep", "type": "sleep", "with": { "duration": "1h" } }],
    });
    for asked in [&one, &other] {
        let run = asked.start(&sleeps).await;
        for looks in [&one, &other] {
            let view = looks.get(&run).await.unwrap();
            assert_eq!(view.summary.status, RunStatus::Running);
            let (status, _) = looks.explain(&run, "sleep").await;
            assert_eq!(status, levelflow_proto::v1::TaskStatus::Sleeping);
        }
        let request = levelflow_proto::v1::ListRunsRequest {
            statuses: vec![levelflow_proto::v1::RunStatus::Running as i32],
            ..Default::default()
        };
        let listed = async |looks: &Client| looks.list(request.clone()).await.unwrap().runs;
        assert_eq!(listed(&one).await, listed(&other).await);
        let another = if std::ptr::eq(asked, &one) {
            &other
        } else {
            &one
        };
        another.cancel(&run).await.unwrap();
        let ended = asked.ended(&run).await;
        assert_eq!(ended.summary.status, RunStatus::Cancelled);
        another.resume(&run).await.unwrap();
    }
}

#[tokio::test]
async fn shards_go_to_others_when_their_coordinator_leaves() {
    let cluster = Cluster::new();
    let (first, second) = (cluster.coordinator().await, cluster.coordinator().await);
    cluster.is_even(&first, 2).await;
    let _worker = cluster.worker(&second, 4).await;
    let (one, other) = (
        Client::connect(&first.address).await,
        Client::connect(&second.address).await,
    );
    let epochs = |view: &Value| -> Vec<u64> {
        let shards = view["shards"].as_array().unwrap().iter();
        shards.map(|it| it["epoch"].as_u64().unwrap()).collect()
    };
    let before = cluster.view(&second).await;

    let waits = json!({
        "name": "waits",
        "tasks": [
            { "id": "wait", "type": "sleep", "with": { "duration": "3s" } },
            { "id": "after", "type": "transform", "needs": ["wait"], "with": { "value": 7 } },
        ],
        "outputs": { "x": "${{ tasks.after.output }}" },
    });
    let run = one.start(&waits).await;
    let watching = levelflow_runtime::task::spawn("watching", {
        let (other, run) = (other.clone(), run.clone());
        async move { other.history(&run).await }
    });
    first.process.signal(Signal::SIGTERM);
    assert_eq!(first.process.ended().await.code(), Some(0));
    cluster.is_even(&second, 1).await;
    let after = cluster.view(&second).await;
    let raised = epochs(&before).into_iter().zip(epochs(&after));
    let raised: BTreeSet<bool> = raised.map(|(before, after)| after > before).collect();
    assert_eq!(
        raised,
        BTreeSet::from([false, true]),
        "those that moved have a higher epoch"
    );

    let ended = other.ended(&run).await;
    assert_eq!(ended.outputs.as_deref(), Some(&b"{\"x\":7}"[..]));
    assert_eq!(
        watching.await.unwrap(),
        other.history(&run).await,
        "the watcher missed nothing"
    );

    // Who watches at the coordinator from which half of the runs go on to a new one misses and repeats nothing.
    let mut watching = Vec::new();
    for _ in 0..16 {
        let (other, run) = (other.clone(), other.start(&waits).await);
        let watch = async move { (other.history(&run).await, run) };
        watching.push(levelflow_runtime::task::spawn("watching", watch));
    }
    let third = cluster.coordinator().await;
    cluster.is_even(&third, 2).await;
    for watched in watching {
        let (history, run) = watched.await.unwrap();
        assert_eq!(history, other.history(&run).await);
    }
}

#[tokio::test]
async fn the_last_coordinator_lets_what_runs_end() {
    let cluster = Cluster::with_lease("4s");
    let first = cluster.coordinator().await;
    cluster.is_even(&first, 1).await;
    let worker = cluster.worker(&first, 2).await;
    let client = Client::connect(&first.address).await;
    let trace = cluster.home.file("trace", "");
    let script = "echo started >> \"$0\"; sleep 6";
    let flow = json!({
        "name": "ends",
        "tasks": [
            {
                "id": "long", "type": "process",
                "with": { "command": ["sh", "-c", script, trace.to_str().unwrap()] },
            },
            { "id": "after", "type": "transform", "needs": ["long"], "with": { "value": 1 } },
        ],
    });
    let run = client.start(&flow).await;
    let started = async || std::fs::read_to_string(&trace).unwrap() == "started\n";
    eventually("the program has started", started).await;
    // It takes longer than the lease of the shards, and nobody else is there to take them.
    first.process.signal(Signal::SIGTERM);
    assert_eq!(first.process.ended().await.code(), Some(0));
    drop(worker);

    let second = cluster.coordinator().await;
    let view = cluster.view(&second).await;
    let owners = members(&view).count();
    assert_eq!(owners, 1, "nobody has to wait for the lease: {view}");
    cluster.is_even(&second, 1).await;
    let _worker = cluster.worker(&second, 2).await;
    let ended = Client::connect(&second.address).await.ended(&run).await;
    assert_eq!(ended.summary.status, RunStatus::Succeeded);
    assert_eq!(
        std::fs::read_to_string(&trace).unwrap(),
        "started\n",
        "it ran once"
    );
}

#[tokio::test]
async fn a_busy_coordinator_gets_the_slots_that_an_idle_one_has_not() {
    let cluster = Cluster::new();
    let (busy, idle) = (cluster.coordinator().await, cluster.coordinator().await);
    cluster.is_even(&busy, 2).await;
    let _worker = cluster.worker(&idle, 10).await;
    let client = Client::connect(&busy.address).await;
    let both = async || {
        let of = async |address: &str| {
            let (_, workers) = cluster.home.json(&["workers", "--address", address]).await;
            workers["workers"].as_array().unwrap().len()
        };
        of(&busy.address).await == 1 && of(&idle.address).await == 1
    };
    eventually("the worker works for both", both).await;

    let script = json!(["sh", "-c", "sleep 1"]);
    let tasks: Vec<Value> = (0..60)
        .map(|task| json!({ "id": format!("t{task}"), "type": "process", "with": { "command": script } }))
        .collect();
    let run = client
        .start(&json!({ "name": "busy", "tasks": tasks }))
        .await;
    let nine = async || {
        let view = cluster.view(&busy).await;
        let asked = members(&view).find(|it| it["is_asked"] == true).unwrap();
        asked["load"]["attempts"].as_u64().unwrap() >= 9
    };
    eventually("nine of ten slots work for it", nine).await;
    client.cancel(&run).await.unwrap();
}
