//! A worker whose handler leaks, with and without the watch over its memory.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use levelflow_common::view::RunView;
use levelflow_common::{HumanDuration, RunStatus};
use levelflow_proto::v1;
use levelflow_worker::{HandlerError, MemoryConfig, Worker, WorkerConfig, on_signal};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::client::Client;
use crate::crash_worker::coordinator;
use crate::harness::{Home, Running};

const COORDINATOR: &str = "LEAKING_WORKER_COORDINATOR";
const WATCHDOG: &str = "LEAKING_WORKER_WATCHDOG";
const MIB: usize = 1024 * 1024;
/// What the handler leaks in a second, while it runs.
const RATE_MIB: usize = 32;
/// What one attempt leaks.
const LEAK_MIB: usize = 8;
/// Attempts: they leak far more than the worker may hold.
const ITEMS: usize = 20;
/// From the memory of an idle worker on.
const WARNING_MIB: usize = 24;
const CRITICAL_MIB: usize = 64;
const LIMIT_MIB: usize = 12;

static LEAKED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
/// Tells the worker before a restart from the one after it.
static PROGRAM: OnceLock<Instant> = OnceLock::new();

/// Leaks at a steady rate, and gives which program it ran in.
fn leak() -> Result<String, HandlerError> {
    let begun_at = Instant::now();
    for leaked in 1..=LEAK_MIB {
        let due = Duration::from_secs(1) * u32::try_from(leaked)? / u32::try_from(RATE_MIB)?;
        thread::sleep(due.saturating_sub(begun_at.elapsed()));
        LEAKED.lock().unwrap().push(vec![1_u8; MIB]);
    }
    let program = PROGRAM.get_or_init(Instant::now);
    Ok(format!("{program:?}"))
}

fn resident_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() / 1024
}

/// The `main` of the worker.
#[tokio::test]
#[ignore = "other tests start it"]
async fn is_a_worker() {
    let Ok(address) = std::env::var(COORDINATOR) else {
        return;
    };
    let idle = resident_mib();
    let memory = if std::env::var_os(WATCHDOG).is_some() {
        MemoryConfig {
            warning_mib: idle + WARNING_MIB,
            critical_mib: idle + CRITICAL_MIB,
            leak_mib_per_second: LIMIT_MIB,
            window: HumanDuration(Duration::from_millis(800)),
            interval: HumanDuration(Duration::from_millis(160)),
            restart_after: HumanDuration(Duration::from_millis(500)),
            restart_interval: HumanDuration(Duration::from_millis(1)),
            ..MemoryConfig::default()
        }
    } else {
        MemoryConfig {
            warning_mib: 0,
            critical_mib: 0,
            leak_mib_per_second: 0,
            ..MemoryConfig::default()
        }
    };
    let worker = Worker::builder()
        .config(WorkerConfig {
            address: format!("http://{address}"),
            id: "leaking".to_owned(),
            memory,
            ..WorkerConfig::default()
        })
        .blocking_handler("leak", |_, (): ()| leak());
    let ended = worker.build().unwrap().run(on_signal().unwrap()).await;
    ended.unwrap().restart_program().unwrap();
}

fn start_worker(address: &str, watchdog: bool) -> Running {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "leak::is_a_worker", "--ignored"])
        .env(COORDINATOR, address)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    if watchdog {
        command.env(WATCHDOG, "1");
    }
    Running::start(command)
}

/// What came of the attempts of a worker that leaks, and the alerts of its coordinator.
async fn leaking(watchdog: bool) -> (RunView, Vec<v1::Alert>) {
    let home = Home::new();
    let (_coordinator, address) = coordinator(&home, "10s").await;
    let client = Client::connect(&address).await;
    let worker = start_worker(&address, watchdog);
    let run_id = client
        .start(&json!({
            "name": "leaks",
            "tasks": [{
                "id": "leak",
                "type": "handler",
                "for_each": { "items": vec![0; ITEMS], "max_parallel": 1 },
                "with": { "name": "leak", "input": null },
                "retry": { "max_attempts": 1 },
            }],
        }))
        .await;
    let run = client.ended(&run_id).await;
    let request = v1::ListAlertsRequest {
        after_number: 0,
        limit: 1_000,
    };
    let alerts = client.service.clone().list_alerts(request).await;
    // The process is the same, whatever happened in it.
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await.code(), Some(0));
    (run, alerts.unwrap().into_inner().alerts)
}

/// No task was lost, none was tried twice. Gives how many programs ran them.
fn programs(run: &RunView) -> usize {
    assert_eq!(run.summary.status, RunStatus::Succeeded, "{run:?}");
    let items: Vec<_> = run
        .tasks
        .iter()
        .filter(|task| task.item.is_some())
        .collect();
    assert_eq!(items.len(), ITEMS);
    assert!(items.iter().all(|item| item.attempts == 1), "{items:?}");
    let programs = items.iter().map(|item| item.output.as_ref().unwrap());
    programs.collect::<BTreeSet<_>>().len()
}

#[tokio::test]
async fn a_worker_that_leaks_is_drained_and_replaced_before_it_dies() {
    let (run, alerts) = leaking(true).await;
    let programs = programs(&run);
    assert!(programs > 1, "the worker was not replaced");

    // Each program but the last sees all of it, in this order.
    let begun: Vec<_> = alerts.iter().filter(|alert| !alert.all_clear).collect();
    let kinds: Vec<&str> = begun.iter().map(|alert| &*alert.kind).collect();
    let cycle = [
        "memory_warning",
        "memory_leak",
        "memory_critical",
        "memory_restart",
    ];
    assert_eq!(kinds[..4], cycle, "{alerts:?}");
    let restarts = kinds
        .iter()
        .filter(|&&kind| kind == "memory_restart")
        .count();
    assert!((programs - 1..=programs).contains(&restarts), "{kinds:?}");
    let mut resident = 0;
    for alert in &begun[..4] {
        let subject: Value = serde_json::from_slice(&alert.subject).unwrap();
        let figure = |name: &str| subject[name].as_u64().unwrap() as usize;
        assert_eq!(subject["worker"], "leaking");
        if alert.kind == "memory_leak" {
            assert_eq!(figure("limit"), LIMIT_MIB * MIB);
        } else {
            assert!(figure("resident_bytes") >= figure("limit"), "{subject}");
            assert!(
                figure("resident_bytes") < figure("limit") + 32 * MIB,
                "{subject}"
            );
        }
        assert!(figure("resident_bytes") >= resident, "{alerts:?}");
        resident = figure("resident_bytes");
        if alert.kind == "memory_leak" {
            // Between two attempts it pauses, so it is a bit less than the rate.
            let growth = figure("growth_per_second");
            let expected = RATE_MIB * MIB / 2..=RATE_MIB * MIB * 5 / 4;
            assert!(expected.contains(&growth), "{subject}");
        }
    }
}

#[tokio::test]
async fn without_the_watchdog_nobody_is_told_and_nothing_is_done() {
    let (run, alerts) = leaking(false).await;
    assert_eq!(programs(&run), 1);
    assert_eq!(alerts, []);
}
