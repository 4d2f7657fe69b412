//! Workers in processes of their own, killed and stopped while they work.

use futures_util::{StreamExt as _, stream};
use levelflow_common::event::{RunEvent, RunUpdate};
use levelflow_common::{Code, RunStatus, TaskStatus};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::client::{Client, eventually, is_recorded};
use crate::fold::Fold;
use crate::generated::{MAX_ATTEMPTS, Shape};
use crate::harness::{DEADLINE, Home, Running};

const RUNS: usize = 60;
/// Runs that are under way at once.
const AT_ONCE: usize = 12;
const KILLS: usize = 10;
const SEED: u64 = 0x776f_726b;

pub(crate) async fn coordinator(home: &Home, lease: &str) -> (Running, String) {
    coordinator_at(home, lease, "127.0.0.1:0").await
}

async fn coordinator_at(home: &Home, lease: &str, address: &str) -> (Running, String) {
    // The tasks are not to blame for the kills.
    coordinator_with(home, lease, address, "0").await
}

async fn coordinator_with(
    home: &Home,
    lease: &str,
    address: &str,
    quarantine_after: &str,
) -> (Running, String) {
    let mut command = home.command(&["coordinator", "--listen", address, "--no-http", "--json"]);
    command
        .env("LEVELFLOW_COORDINATOR__HEARTBEAT_INTERVAL", "200ms")
        .env("LEVELFLOW_COORDINATOR__LEASE", lease)
        .env("LEVELFLOW_COORDINATOR__QUARANTINE_AFTER", quarantine_after);
    Running::server(command).await
}

async fn worker(home: &Home, address: &str, id: &str) -> Running {
    let arguments = ["worker", "--address", address, "--id", id, "--json"];
    let mut command = home.command(&arguments);
    command.args(["--allow-process", "--slots", "8"]);
    let mut worker = Running::start(command);
    worker.line().await;
    worker
}

#[tokio::test]
async fn every_run_ends_when_workers_are_killed() {
    let home = Home::new();
    let (coordinator, address) = coordinator(&home, "1s").await;
    let client = Client::connect(&address).await;
    let shape = Shape {
        tasks: 5..=20,
        process: 0.4,
        max_processes: 6,
        command: ["sleep", "0.05"].map(str::to_owned).to_vec(),
        sleep: 0.1,
    };
    let seeds = (0..RUNS as u64).map(|run| SEED + run);
    let total: usize = seeds.clone().map(|seed| shape.generate(seed).tasks).sum();

    let (progress, mut seen) = watch::channel(0);
    let lost = stream::iter(seeds)
        .map(async |seed| {
            let generated = shape.generate(seed);
            let run_id = client.start(&generated.workflow).await;
            let updates = follow(&client, &run_id, &progress).await;
            let run = client.get(&run_id).await.unwrap();
            assert_eq!(run.summary.status, RunStatus::Succeeded, "{run:?}");
            let expected = format!("{{\"last\":{}}}", generated.last);
            assert_eq!(run.outputs.as_deref(), Some(expected.as_bytes()));
            assert_eq!(Fold::of(&updates), Fold::served(&run));
            check_attempts(&updates)
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<u32>>();
    let killing = async {
        let mut workers = [
            worker(&home, &address, "w0").await,
            worker(&home, &address, "w1").await,
        ];
        for kill in 1..=KILLS {
            let threshold = kill * total / (KILLS + 1);
            let reached = seen.wait_for(|succeeded| *succeeded >= threshold);
            let reached = timeout(DEADLINE, reached).await;
            reached.expect("the runs go on").unwrap();
            // Half of them come back as they were, in place of half others start.
            let place = kill % 2;
            let id = match kill % 4 {
                0 | 1 => format!("w{place}"),
                _ => format!("w{place}.{kill}"),
            };
            let next = worker(&home, &address, &id);
            let [first, second] = workers;
            workers = if place == 0 {
                first.kill().await;
                [next.await, second]
            } else {
                second.kill().await;
                [first, next.await]
            };
        }
        workers
    };
    let (lost, workers) = tokio::join!(lost, killing);
    assert_eq!(lost.len(), RUNS);
    assert!(lost.iter().sum::<u32>() > 0, "no kill met an attempt");
    for process in workers.into_iter().chain([coordinator]) {
        process.signal(Signal::SIGTERM);
        assert_eq!(process.ended().await.code(), Some(0));
    }
}

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

/// Attempts are numbered without a gap, few enough, and only the loss of a worker makes one fail. Gives
/// how many were lost.
fn check_attempts(updates: &[RunUpdate]) -> u32 {
    let mut failed = std::collections::BTreeMap::new();
    for event in updates.iter().flat_map(|update| &update.events) {
        match event {
            RunEvent::AttemptFailed {
                task,
                attempt,
                failure,
                ..
            } => {
                assert_eq!(failure.code, Code::WorkerLost, "{failure:?}");
                let failed: &mut u32 = failed.entry(&task.task_id).or_default();
                *failed += 1;
                assert_eq!(attempt, failed, "{task:?}");
            }
            RunEvent::TaskSucceeded { task, attempt, .. } if *attempt > 0 => {
                let failed = failed.get(&task.task_id).copied().unwrap_or_default();
                assert_eq!(*attempt, failed + 1, "{task:?}");
                assert!(*attempt <= MAX_ATTEMPTS);
            }
            _ => {}
        }
    }
    failed.values().sum()
}

/// A program that goes on until the file `gate` is there, after it has made the file `started`.
fn gated(home: &Home) -> Value {
    let script = "touch started; while ! test -e gate && test -e started; do sleep 0.02; done";
    let with = json!({ "command": ["sh", "-c", script], "cwd": home.path(""), "output": "lines" });
    json!({
        "name": "gated",
        "tasks": [{
            "id": "gated",
            "type": "process",
            "with": with,
            "retry": { "max_attempts": 2, "initial": "1ms" },
        }],
    })
}

#[tokio::test]
async fn an_attempt_of_a_killed_worker_is_lost_and_counts() {
    let home = Home::new();
    let (_coordinator, address) = coordinator(&home, "1s").await;
    let client = Client::connect(&address).await;
    let first = worker(&home, &address, "first").await;
    let run_id = client.start(&gated(&home)).await;
    client.until_running(&run_id, "first").await;
    let _second = worker(&home, &address, "second").await;
    first.kill().await;
    client.until_running(&run_id, "second").await;
    home.file("gate", "");

    let run = client.ended(&run_id).await;
    assert_eq!(run.summary.status, RunStatus::Succeeded);
    assert_eq!(run.tasks[0].attempts, 2);
    assert_eq!(&*run.tasks[0].worker.as_ref().unwrap().0, "second");
    assert_eq!(check_attempts(&client.history(&run_id).await), 1);
}

#[tokio::test]
async fn an_attempt_is_given_up_when_its_attempts_are_used_up() {
    let home = Home::new();
    let (_coordinator, address) = coordinator(&home, "1s").await;
    let client = Client::connect(&address).await;
    let first = worker(&home, &address, "first").await;
    let run_id = client.start(&gated(&home)).await;
    client.until_running(&run_id, "first").await;
    first.kill().await;
    let second = worker(&home, &address, "second").await;
    client.until_running(&run_id, "second").await;
    second.kill().await;

    let run = client.ended(&run_id).await;
    assert_eq!(run.summary.status, RunStatus::Failed);
    let task = &run.tasks[0];
    assert_eq!((task.status, task.attempts), (TaskStatus::Failed, 2));
    assert_eq!(task.failure.as_ref().unwrap().code, Code::WorkerLost);
    home.file("gate", "");
}

#[tokio::test]
async fn a_task_with_which_two_workers_died_is_quarantined_until_it_is_resumed() {
    let home = Home::new();
    let (before, address) = coordinator_with(&home, "1s", "127.0.0.1:0", "2").await;
    let client = Client::connect(&address).await;
    let mut workflow = gated(&home);
    workflow["tasks"][0]["retry"]["max_attempts"] = json!(9);
    let run_id = client.start(&workflow).await;
    let first = worker(&home, &address, "first").await;
    client.until_running(&run_id, "first").await;
    first.kill().await;
    let lost = |event: &RunEvent| matches!(event, RunEvent::AttemptFailed { .. });
    client.until(&run_id, lost).await;
    // What it was to blame for is not forgotten.
    before.kill().await;
    let (_after, address) = coordinator_with(&home, "1s", &address, "2").await;
    let client = Client::connect(&address).await;
    let second = worker(&home, &address, "second").await;
    client.until_running(&run_id, "second").await;
    second.kill().await;

    let run = client.ended(&run_id).await;
    assert_eq!(run.summary.status, RunStatus::Failed);
    let task = &run.tasks[0];
    assert_eq!((task.status, task.attempts), (TaskStatus::Failed, 2));
    let failure = task.failure.as_ref().unwrap();
    assert_eq!(failure.code, Code::Quarantined);
    assert_eq!(
        failure.message,
        "2 attempts were lost with the process that ran them: \
         attempt 1 on worker `first` (worker_lost): no heartbeat for 1s; \
         attempt 2 on worker `second` (worker_lost): no heartbeat for 1s"
    );
    home.file("gate", "");
    let _third = worker(&home, &address, "third").await;
    let resumed = client.resume(&run_id).await.unwrap();
    let resumed = client.ended(&resumed.run_id).await;
    assert_eq!(resumed.summary.status, RunStatus::Succeeded);
}

#[tokio::test]
async fn a_worker_that_starts_again_gives_up_what_it_had() {
    let home = Home::new();
    // Nobody waits that long: the new process itself shows that the old one has gone.
    let (_coordinator, address) = coordinator(&home, "1h").await;
    let client = Client::connect(&address).await;
    let before = worker(&home, &address, "same").await;
    let run_id = client.start(&gated(&home)).await;
    client.until_running(&run_id, "same").await;
    before.kill().await;
    let _after = worker(&home, &address, "same").await;
    let lost = |event: &RunEvent| matches!(event, RunEvent::AttemptFailed { .. });
    client.until(&run_id, lost).await;
    home.file("gate", "");
    let run = client.ended(&run_id).await;
    assert_eq!(run.summary.status, RunStatus::Succeeded);
    assert_eq!(run.tasks[0].attempts, 2);
}

#[tokio::test]
async fn a_stopping_worker_ends_its_attempts_and_takes_no_more() {
    let home = Home::new();
    let (_coordinator, address) = coordinator(&home, "1s").await;
    let client = Client::connect(&address).await;
    let stopping = worker(&home, &address, "stopping").await;
    let run_id = client.start(&gated(&home)).await;
    // What it was sent but has not begun, it would give back.
    let started = home.path("started");
    eventually("the program has started", async || started.exists()).await;
    stopping.signal(Signal::SIGTERM);
    let _other = worker(&home, &address, "other").await;

    // The stopping worker stays longer than a lease, and others do the rest.
    let quick = json!({
        "name": "quick",
        "tasks": [
            { "id": "wait", "type": "sleep", "with": { "duration": "1500ms" } },
            { "id": "quick", "type": "transform", "needs": ["wait"], "with": { "value": 1 } },
        ],
    });
    let quick = client.start(&quick).await;
    let quick = client.ended(&quick).await;
    assert_eq!(&*quick.tasks[1].worker.as_ref().unwrap().0, "other");
    assert_eq!(quick.tasks[1].attempts, 1);

    home.file("gate", "");
    assert_eq!(stopping.ended().await.code(), Some(0));
    let run = client.ended(&run_id).await;
    assert_eq!(run.summary.status, RunStatus::Succeeded);
    assert_eq!(run.tasks[0].attempts, 1);
    assert_eq!(&*run.tasks[0].worker.as_ref().unwrap().0, "stopping");
}

#[tokio::test]
async fn workers_come_back_to_a_coordinator_that_was_killed() {
    let home = Home::new();
    let (before, address) = coordinator(&home, "1s").await;
    let _worker = worker(&home, &address, "w").await;
    let client = Client::connect(&address).await;
    let run_id = client.start(&gated(&home)).await;
    client.until_running(&run_id, "w").await;
    before.kill().await;
    let (_after, address) = coordinator_at(&home, "1s", &address).await;
    let client = Client::connect(&address).await;
    client.until_running(&run_id, "w").await;
    home.file("gate", "");
    let history = client.history(&run_id).await;
    let run = client.get(&run_id).await.unwrap();
    assert_eq!(run.summary.status, RunStatus::Succeeded);
    assert_eq!(Fold::of(&history), Fold::served(&run));
    assert_eq!(
        run.tasks[0].attempts, 1,
        "what the coordinator forgot does not count"
    );
}
