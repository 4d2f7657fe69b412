//! Workers that reach their coordinator over NATS.

use futures_util::{StreamExt as _, stream};
use levelflow_common::RunStatus;
use levelflow_common::event::{RunEvent, RunUpdate};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::client::{Client, is_recorded};
use crate::fold::Fold;
use crate::generated::Shape;
use crate::harness::{DEADLINE, Home, Running};
use crate::nats_server::NatsServer;

const RUNS: usize = 40;
/// Runs that are under way at once.
const AT_ONCE: usize = 12;
const KILLS: usize = 5;
const SEED: u64 = 0x6e61_7473;
const TOKEN: &str = "hunter2";

async fn coordinator(home: &Home, nats: &NatsServer) -> (Running, String) {
    let arguments = ["coordinator", "--listen", "127.0.0.1:0", "--no-http"];
    let mut command = home.command(&arguments);
    command
        .args(["--json", "--nats", &nats.url()])
        .env("LEVELFLOW_COORDINATOR__NATS__TOKEN", TOKEN)
        .env("LEVELFLOW_COORDINATOR__NATS__KEEPALIVE", "500ms");
    Running::server(command).await
}

async fn worker(home: &Home, nats: &NatsServer, id: &str) -> Running {
    let mut command = home.command(&["worker", "--id", id, "--slots", "8", "--json"]);
    command
        .args(["--allow-process", "--nats", &nats.url()])
        .env("LEVELFLOW_WORKER__NATS__TOKEN", TOKEN)
        .env("LEVELFLOW_WORKER__NATS__KEEPALIVE", "500ms");
    let mut worker = Running::start(command);
    let ready = worker.json_line().await;
    assert_eq!(
        (&ready["worker_id"], &ready["nats"]),
        (&json!(id), &json!(true))
    );
    worker
}

fn server() -> NatsServer {
    NatsServer::start(&format!("authorization {{ token: {TOKEN} }}"))
}

#[tokio::test]
async fn a_worker_that_only_knows_nats_runs_what_is_submitted() {
    let home = Home::new();
    let nats = server();
    let worker = worker(&home, &nats, "w1").await;
    // It waits for a coordinator.
    let (coordinator, address) = coordinator(&home, &nats).await;
    let client = Client::connect(&address).await;
    let workflow = json!({
        "name": "hello",
        "tasks": [
            { "id": "a", "type": "process", "with": { "command": ["printf", "1"] } },
            { "id": "b", "type": "transform", "with": { "value": "${{ tasks.a.output.stdout ~ '2' }}" } },
        ],
        "outputs": { "text": "${{ tasks.b.output }}" },
    });
    let run_id = client.start(&workflow).await;
    let run = client.ended(&run_id).await;
    assert_eq!(run.summary.status, RunStatus::Succeeded, "{run:?}");
    assert_eq!(run.outputs.as_deref(), Some(&b"{\"text\":\"12\"}"[..]));
    assert_eq!(&*run.tasks[1].worker.as_ref().unwrap().0, "w1");
    for process in [worker, coordinator] {
        process.signal(Signal::SIGTERM);
        assert_eq!(process.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_wrong_token_is_said_at_the_start() {
    let home = Home::new();
    let nats = server();
    for arguments in [&["worker"][..], &["coordinator", "--listen", "127.0.0.1:0"]] {
        let mut all = arguments.to_vec();
        let url = nats.url();
        all.extend(["--nats", &url]);
        let ended = home.levelflow(&all).await;
        assert_ne!(ended.code, Some(0));
        assert!(
            ended.stderr.contains("NATS refused the connection"),
            "{}",
            ended.stderr
        );
    }
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_comes_twice_when_nats_is_killed() {
    let home = Home::new();
    let mut nats = server();
    let (coordinator, address) = coordinator(&home, &nats).await;
    let client = Client::connect(&address).await;
    let workers = [
        worker(&home, &nats, "w0").await,
        worker(&home, &nats, "w1").await,
    ];
    let shape = Shape {
        tasks: 5..=20,
        process: 0.3,
        max_processes: 6,
        command: ["sleep", "0.05"].map(str::to_owned).to_vec(),
        sleep: 0.1,
    };
    let seeds = (0..RUNS as u64).map(|run| SEED + run);
    let total: usize = seeds.clone().map(|seed| shape.generate(seed).tasks).sum();

    let (progress, mut seen) = watch::channel(0);
    let runs = stream::iter(seeds)
        .map(async |seed| {
            let generated = shape.generate(seed);
            let run_id = client.start(&generated.workflow).await;
            let updates = follow(&client, &run_id, &progress).await;
            let run = client.get(&run_id).await.unwrap();
            assert_eq!(run.summary.status, RunStatus::Succeeded, "{run:?}");
            let expected = format!("{{\"last\":{}}}", generated.last);
            assert_eq!(run.outputs.as_deref(), Some(expected.as_bytes()));
            assert_eq!(Fold::of(&updates), Fold::served(&run));
            // What NATS loses costs no attempt.
            assert!(run.tasks.iter().all(|task| task.attempts <= 1), "{run:?}");
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<()>>();
    let killing = async {
        for kill in 1..=KILLS {
            let threshold = kill * total / (KILLS + 1);
            let reached = seen.wait_for(|succeeded| *succeeded >= threshold);
            let reached = timeout(DEADLINE, reached).await;
            reached.expect("the runs go on").unwrap();
            nats.kill();
            nats.restart();
        }
    };
    let (ended, ()) = tokio::join!(runs, killing);
    assert_eq!(ended.len(), RUNS);
    for process in workers.into_iter().chain([coordinator]) {
        process.signal(Signal::SIGTERM);
        assert_eq!(process.ended().await.code(), Some(0));
    }
}

/// Follows a run to its end: what is recorded of it.
async fn follow(client: &Client, run_id: &str, progress: &watch::Sender<usize>) -> Vec<RunUpdate> {
    let mut updates = client.watch(run_id, 0).await.unwrap();
    let mut history = Vec::new();
    while let Some(update) = updates.next().await.unwrap() {
        let succeeded = |event: &&RunEvent| matches!(event, RunEvent::TaskSucceeded { .. });
        let count = update.events.iter().filter(succeeded).count();
        progress.send_modify(|total| *total += count);
        if is_recorded(&update) {
            history.push(update);
        }
    }
    history
}
