//! A worker that a user wrote, whose handlers block, crash, grow and hang.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use levelflow_common::{Code, RunStatus};
use levelflow_worker::{Context, HandlerError, IsolationOptions, Worker, on_signal};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::client::{Client, eventually};
use crate::crash_worker::coordinator;
use crate::harness::{DEADLINE, Home, Running};

/// Tells the worker where the coordinator is.
const COORDINATOR: &str = "OWN_WORKER_COORDINATOR";
const LEASE: &str = "1s";
/// Longer than two leases.
const LONG: Duration = Duration::from_millis(2_500);
/// How often a handler looks for a file.
const POLL: Duration = Duration::from_millis(10);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Deed {
    /// Computes for long.
    Spin,
    /// Sleeps for long.
    Sleep,
    /// Makes the first file, and waits for the second.
    Wait(PathBuf, PathBuf),
    Abort,
    /// Takes 256 MiB and does not end.
    Grow,
    /// Opens a pipe, as does a program that it starts, and does not end.
    Hang(PathBuf),
}

fn perform(_: Context, deed: Deed) -> Result<(), HandlerError> {
    match deed {
        Deed::Spin => {
            let begun_at = Instant::now();
            while begun_at.elapsed() < LONG {
                std::hint::spin_loop();
            }
        }
        Deed::Sleep => thread::sleep(LONG),
        Deed::Wait(started, gate) => {
            fs::write(started, "")?;
            while !gate.exists() {
                thread::sleep(POLL);
            }
        }
        Deed::Abort => std::process::abort(),
        Deed::Grow => {
            let kept = std::hint::black_box(vec![1_u8; 256 * 1024 * 1024]);
            loop {
                thread::park();
                std::hint::black_box(&kept);
            }
        }
        Deed::Hang(pipe) => {
            let mut open = File::options().write(true).open(&pipe)?;
            let holds = Stdio::from(open.try_clone()?);
            let mut program = Command::new("sleep").arg("300").stdout(holds).spawn()?;
            open.write_all(b"ready\n")?;
            program.wait()?;
        }
    }
    Ok(())
}

/// The `main` of the worker. One thread serves, so that a handler that held it would stop everything.
#[tokio::test]
#[ignore = "other tests start it"]
async fn is_a_worker() {
    let Ok(address) = std::env::var(COORDINATOR) else {
        return;
    };
    let options = IsolationOptions {
        children: 6,
        max_resident_mib: 128,
        ..IsolationOptions::default()
    };
    let worker = Worker::builder()
        .address(format!("http://{address}"))
        .cpu_handler("compute", perform)
        .blocking_handler("block", perform)
        .isolated_handler("isolated", options, perform);
    let worker = worker.build().unwrap();
    let ended = worker.run(on_signal().unwrap()).await.unwrap();
    ended.restart_program().unwrap();
}

fn start_worker(address: &str) -> Running {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "own_worker::is_a_worker", "--ignored"])
        .env(COORDINATOR, address)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    Running::start(command)
}

fn task(id: &str, handler: &str, deed: &Deed) -> Value {
    json!({
        "id": id,
        "type": "handler",
        "with": { "name": handler, "input": deed },
        "retry": { "max_attempts": 2, "initial": "1ms" },
    })
}

#[tokio::test]
async fn leases_are_kept_while_handlers_block() {
    let home = Home::new();
    let (_coordinator, address) = coordinator(&home, LEASE).await;
    let _worker = start_worker(&address);
    let client = Client::connect(&address).await;
    let tasks = [
        task("compute", "compute", &Deed::Spin),
        task("block", "block", &Deed::Sleep),
        task("isolated", "isolated", &Deed::Sleep),
    ];
    let run_id = client
        .start(&json!({ "name": "blocks", "tasks": tasks }))
        .await;
    let run = client.ended(&run_id).await;
    assert_eq!(run.summary.status, RunStatus::Succeeded);
    for task in &run.tasks {
        assert_eq!(task.attempts, 1, "{task:?}");
        let ran_for = task.finished_at.unwrap().since(task.started_at.unwrap());
        assert!(ran_for >= LONG, "{task:?}");
    }
}

#[tokio::test]
async fn what_crashes_or_grows_in_a_process_of_its_own_disturbs_no_neighbour() {
    let home = Home::new();
    let (_coordinator, address) = coordinator(&home, LEASE).await;
    let worker = start_worker(&address);
    let client = Client::connect(&address).await;
    let started: Vec<PathBuf> = (0..4).map(|n| home.path(&format!("started{n}"))).collect();
    let gate = home.path("gate");
    let neighbours = started.iter().enumerate().map(|(n, started)| {
        let handler = if n == 0 { "block" } else { "isolated" };
        task(
            &format!("n{n}"),
            handler,
            &Deed::Wait(started.clone(), gate.clone()),
        )
    });
    let neighbours = json!({ "name": "neighbours", "tasks": neighbours.collect::<Vec<_>>() });
    let neighbours = client.start(&neighbours).await;
    eventually("all have started", async || {
        started.iter().all(|started| started.exists())
    })
    .await;

    let tasks = [
        task("abort", "isolated", &Deed::Abort),
        task("grow", "isolated", &Deed::Grow),
    ];
    let run_id = client
        .start(&json!({ "name": "breaks", "tasks": tasks }))
        .await;
    let run = client.ended(&run_id).await;
    assert_eq!(run.summary.status, RunStatus::Failed);
    let codes: Vec<_> = run
        .tasks
        .iter()
        .map(|task| (task.attempts, task.failure.as_ref().unwrap().code))
        .collect();
    assert_eq!(
        codes,
        [(2, Code::HandlerCrashed), (2, Code::MemoryExceeded)]
    );

    fs::write(&gate, "").unwrap();
    let run = client.ended(&neighbours).await;
    assert_eq!(run.summary.status, RunStatus::Succeeded);
    for task in &run.tasks {
        assert_eq!(task.attempts, 1, "{task:?}");
    }
    worker.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(worker.ended().await.code(), Some(0));
}

/// Waits in a thread until a line comes out of a pipe, and then until nobody has it open.
fn watch(pipe: &Path) -> (oneshot::Receiver<()>, oneshot::Receiver<()>) {
    assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
    let pipe = pipe.to_owned();
    let (opened, is_open) = oneshot::channel();
    let (closed, is_closed) = oneshot::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(File::open(pipe).unwrap());
        reader.read_line(&mut String::new()).unwrap();
        opened.send(()).unwrap();
        reader.read_to_end(&mut Vec::new()).unwrap();
        closed.send(()).unwrap();
    });
    (is_open, is_closed)
}

#[tokio::test]
async fn a_killed_worker_leaves_no_children() {
    let home = Home::new();
    let (_coordinator, address) = coordinator(&home, LEASE).await;
    let worker = start_worker(&address);
    let client = Client::connect(&address).await;
    let pipe = home.path("pipe");
    let (is_open, is_closed) = watch(&pipe);
    let tasks = [task("hang", "isolated", &Deed::Hang(pipe))];
    client
        .start(&json!({ "name": "hangs", "tasks": tasks }))
        .await;
    timeout(DEADLINE, is_open).await.unwrap().unwrap();
    worker.kill().await;
    timeout(DEADLINE, is_closed).await.unwrap().unwrap();
}
