//! Limits in time.

use std::time::Duration;

use bytes::Bytes;
use levelflow_common::{Code, RunStatus, TaskStatus};
use serde_json::json;

use crate::definitions::{define, flow, task};
use crate::shell::Shell;

const ONCE: u32 = 1;

#[test]
fn a_task_waits_for_a_worker_no_longer_than_its_queue_timeout() {
    let mut shell = Shell::new(levelflow_engine::Config::default());
    let run = shell.run(&flow([task(
        "a",
        &[],
        json!({ "timeout": { "queue": "2s" } }),
    )]));
    shell.pass(Duration::from_millis(1999));
    assert_eq!(shell.status(run, "a"), TaskStatus::Ready);
    shell.pass(Duration::from_millis(1));
    assert_eq!(
        shell.failure(run, "a"),
        (
            Code::QueueTimeout,
            "no worker took the task within 2s".to_owned()
        )
    );
    assert_eq!(shell.state(run).tasks[0].attempts, 0);
}

#[test]
fn an_attempt_that_its_worker_does_not_end_is_ended_after_its_run_timeout() {
    let mut shell = Shell::with_worker(1);
    let more = json!({ "timeout": "3s", "retry": { "max_attempts": ONCE } });
    let run = shell.run(&flow([task("a", &[], more)]));
    shell.pass(Duration::from_secs(8));
    assert_eq!(
        shell.status(run, "a"),
        TaskStatus::Running,
        "the worker ends it first"
    );
    shell.pass(Duration::from_secs(2));
    assert_eq!(
        shell.failure(run, "a"),
        (
            Code::RunTimeout,
            "the attempt took longer than 3s".to_owned()
        )
    );
    assert!(shell.workers[0].held.values().all(|held| held.stopped));
}

#[test]
fn a_silent_handler_is_ended_after_its_heartbeat_timeout() {
    let mut shell = Shell::with_worker(1);
    let more = json!({ "timeout": { "heartbeat": "1s" }, "retry": { "max_attempts": ONCE } });
    let run = shell.run(&flow([task("a", &[], more)]));
    shell.pass(Duration::from_secs(20));
    assert_eq!(
        shell.status(run, "a"),
        TaskStatus::Running,
        "it reports progress"
    );
    shell.advance(Duration::from_secs(7));
    shell.settle();
    assert_eq!(
        shell.failure(run, "a"),
        (
            Code::HeartbeatTimeout,
            "the handler was silent for longer than 1s".to_owned()
        )
    );
}

#[test]
fn the_total_timeout_counts_all_attempts() {
    let mut shell = Shell::with_worker(1);
    let more =
        json!({ "timeout": { "total": "10s" }, "retry": { "initial": "4s", "jitter": false } });
    let run = shell.run(&flow([task("a", &[], more)]));
    let again = levelflow_common::Failure::retryable(Code::HandlerFailed, "again");
    shell.finish("a", Err(again));
    shell.pass(Duration::from_secs(4));
    assert_eq!(shell.running(), ["a"]);
    shell.pass(Duration::from_secs(6));
    let told = "the task took longer than its total timeout of 10s".to_owned();
    assert_eq!(shell.failure(run, "a"), (Code::TotalTimeout, told));
    let state = shell.state(run);
    assert_eq!(state.tasks[0].attempts, 2);
    assert_eq!(state.status, RunStatus::Failed);
    let (_, held) = shell.workers[0].held.first_key_value().unwrap();
    assert!(held.stopped, "the worker was told to stop");
}

#[test]
fn a_list_whose_total_timeout_is_over_cancels_its_items() {
    let mut shell = Shell::with_worker(2);
    let more = json!({ "timeout": { "total": "5s" }, "for_each": { "items": [1, 2, 3] } });
    let run = shell.run(&flow([task("a", &[], more), task("b", &["a"], json!({}))]));
    shell.settle();
    shell.succeed("a[0]");
    shell.pass(Duration::from_secs(5));
    let state = shell.state(run);
    assert_eq!(state.status, RunStatus::Failed);
    assert_eq!(shell.failure(run, "a").0, Code::TotalTimeout);
    assert_eq!((state.counts.succeeded, state.counts.skipped), (1, 1));
    assert_eq!(state.counts.failed + state.counts.cancelled, 3);
    assert_eq!(shell.engine.load().leases, 0);
}

#[test]
fn a_run_takes_no_longer_than_its_timeout() {
    let mut shell = Shell::with_worker(1);
    let run = shell.run(&define(json!({
        "name": "w", "timeout": "5s",
        "tasks": [task("a", &[], json!({})), task("b", &["a"], json!({}))],
    })));
    shell.pass(Duration::from_secs(5));
    assert_eq!(
        shell.state(run).status,
        RunStatus::Cancelling,
        "its worker has not let go"
    );
    shell.finish("a", Ok(Bytes::from_static(b"1")));
    let state = shell.state(run);
    assert_eq!(state.status, RunStatus::Failed);
    let failure = state.failure.as_ref().unwrap();
    assert_eq!(failure.code, Code::TotalTimeout);
    assert_eq!(failure.message, "the run took longer than its timeout");
    assert_eq!(shell.status(run, "b"), TaskStatus::Cancelled);
}

#[test]
fn a_sleep_ends_on_time_without_a_worker() {
    let mut shell = Shell::new(levelflow_engine::Config::default());
    let more = json!({ "type": "sleep", "with": { "duration": "1m" } });
    let run = shell.run(&flow([task("a", &[], more)]));
    shell.settle();
    shell.pass(Duration::from_secs(60) - Duration::from_micros(1));
    assert_eq!(shell.status(run, "a"), TaskStatus::Sleeping);
    shell.pass(Duration::from_micros(1));
    assert_eq!(shell.state(run).status, RunStatus::Succeeded);
}
