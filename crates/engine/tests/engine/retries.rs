//! What counts as an attempt, and when the next one starts.

use std::time::Duration;

use levelflow_common::{Code, Failure, RunId, RunStatus, TaskStatus};
use serde_json::json;

use crate::definitions::{flow, task};
use crate::shell::Shell;

fn again() -> Failure {
    Failure::retryable(Code::HandlerFailed, "again")
}

fn retried(shell: &mut Shell, jitter: bool) -> RunId {
    let retry = json!({
        "max_attempts": 4, "initial": "1s", "factor": 3.0, "max": "5s", "jitter": jitter,
    });
    shell.run(&flow([task("a", &[], json!({ "retry": retry }))]))
}

#[test]
fn without_jitter_the_backoff_is_exact() {
    let mut shell = Shell::with_worker(1);
    let run = retried(&mut shell, false);
    for seconds in [1, 3, 5] {
        shell.finish("a", Err(again()));
        assert_eq!(shell.status(run, "a"), TaskStatus::Backoff);
        let due = shell.now.saturating_add(Duration::from_secs(seconds));
        assert_eq!(
            shell.engine.view(run).unwrap().1.tasks[0].wakes_at,
            Some(due)
        );
        shell.pass(Duration::from_secs(seconds) - Duration::from_micros(1));
        assert_eq!(shell.running(), [""; 0], "the backoff is over too early");
        shell.pass(Duration::from_micros(1));
        assert_eq!(shell.running(), ["a"]);
    }
    shell.finish("a", Err(again()));
    let state = shell.state(run);
    assert_eq!(state.status, RunStatus::Failed);
    assert_eq!(state.tasks[0].attempts, 4);
    let failure = state.failure.as_ref().unwrap();
    assert_eq!(failure.message, "task `a` failed: again");
}

#[test]
fn jitter_stays_between_zero_and_the_backoff() {
    let mut waits = Vec::new();
    for seed in 0..20 {
        let mut shell = Shell::new(levelflow_engine::Config {
            seed,
            ..Default::default()
        });
        shell.workers.push(crate::worker::FakeWorker::new("w", 1));
        shell.join(0).unwrap();
        let run = retried(&mut shell, true);
        shell.finish("a", Err(again()));
        let due = shell.engine.view(run).unwrap().1.tasks[0].wakes_at.unwrap();
        assert!(due.since(shell.now) <= Duration::from_secs(1));
        waits.push(due.since(shell.now));
    }
    waits.sort();
    assert!(waits[0] < Duration::from_millis(300), "{waits:?}");
    assert!(waits[19] > Duration::from_millis(700), "{waits:?}");
}

#[test]
fn the_next_attempt_is_not_earlier_than_the_upstream_asked_for() {
    let wait_after = |failure: Failure| {
        let mut shell = Shell::with_worker(1);
        let run = retried(&mut shell, false);
        shell.finish("a", Err(failure));
        let due = shell.engine.view(run).unwrap().1.tasks[0].wakes_at.unwrap();
        due.since(shell.now)
    };
    let seconds = Duration::from_secs;
    let asked = |wait| wait_after(again().with_retry_after(wait));
    assert_eq!(asked(seconds(20)), seconds(20));
    assert_eq!(
        asked(Duration::from_millis(1)),
        seconds(1),
        "the backoff is longer"
    );
    assert_eq!(
        asked(seconds(100_000)),
        seconds(3600),
        "more than can be asked for"
    );
}

#[test]
fn jitter_is_the_same_for_the_same_attempt_and_differs_between_attempts() {
    let waits = |tasks: [&str; 2]| {
        let mut shell = Shell::with_worker(2);
        let run = shell.run(&flow(tasks.map(|id| task(id, &[], json!({})))));
        for id in tasks {
            shell.finish(id, Err(again()));
        }
        let view = shell.engine.view(run).unwrap().1;
        [0, 1].map(|task: usize| view.tasks[task].wakes_at.unwrap().since(shell.now))
    };
    let first = waits(["a", "b"]);
    assert_eq!(first, waits(["a", "b"]));
    assert_ne!(first[0], first[1]);
}

#[test]
fn a_permanent_failure_is_not_tried_again() {
    let mut shell = Shell::with_worker(1);
    let run = retried(&mut shell, false);
    shell.finish("a", Err(Failure::permanent(Code::HandlerFailed, "no")));
    assert_eq!(shell.status(run, "a"), TaskStatus::Failed);
    assert_eq!(shell.state(run).tasks[0].attempts, 1);
}

#[test]
fn listed_codes_decide_what_is_tried_again() {
    let mut shell = Shell::with_worker(1);
    let retry = json!({
        "initial": "1s", "retryable": ["http_status"], "non_retryable": ["http_failed"],
    });
    let run = shell.run(&flow([task("a", &[], json!({ "retry": retry }))]));
    shell.finish("a", Err(Failure::permanent(Code::HttpStatus, "404")));
    assert_eq!(shell.status(run, "a"), TaskStatus::Backoff);
    shell.pass(Duration::from_secs(1));
    shell.finish("a", Err(Failure::retryable(Code::HttpFailed, "refused")));
    assert_eq!(shell.status(run, "a"), TaskStatus::Failed);
    assert_eq!(shell.state(run).tasks[0].attempts, 2);
}

#[test]
fn refused_and_drained_attempts_do_not_count() {
    let mut shell = Shell::with_worker(1);
    let run = retried(&mut shell, false);
    for _ in 0..10 {
        let (worker, token) = shell.attempts()[0];
        shell.refuse(worker, token);
        shell.settle();
        shell.finish("a", Err(Failure::retryable(Code::Cancelled, "drained")));
    }
    shell.succeed("a");
    assert_eq!(shell.state(run).tasks[0].attempts, 1);
}

#[test]
fn the_attempt_of_a_lost_worker_counts() {
    let mut shell = Shell::with_worker(1);
    let run = retried(&mut shell, false);
    shell.leave(0);
    shell.advance(Duration::from_secs(14));
    shell.settle();
    assert_eq!(
        shell.status(run, "a"),
        TaskStatus::Running,
        "the lease decides"
    );
    for _ in 0..2 {
        shell.advance(Duration::from_secs(1));
    }
    shell.settle();
    assert_eq!(shell.status(run, "a"), TaskStatus::Backoff);
    assert_eq!(
        shell.failure(run, "a"),
        (
            Code::WorkerLost,
            "worker `w`: no heartbeat for 15s".to_owned()
        )
    );
    assert_eq!(shell.state(run).tasks[0].attempts, 1);
}

#[test]
fn the_attempt_of_a_replaced_process_counts_at_once() {
    let mut shell = Shell::with_worker(1);
    let run = retried(&mut shell, false);
    shell.restart(0);
    shell.join(0).unwrap();
    shell.settle();
    assert_eq!(
        shell.failure(run, "a"),
        (
            Code::WorkerLost,
            "worker `w`: the worker process was replaced".to_owned()
        )
    );
}

#[test]
fn an_attempt_survives_a_lost_stream_and_one_that_never_arrived_is_given_again() {
    let mut shell = Shell::with_worker(1);
    let run = retried(&mut shell, false);
    shell.leave(0);
    shell.join(0).unwrap();
    shell.settle();
    assert_eq!(shell.running(), ["a"]);
    shell.leave(0);
    shell.workers[0].held.clear();
    shell.join(0).unwrap();
    shell.settle();
    shell.succeed("a");
    assert_eq!(shell.state(run).tasks[0].attempts, 1);
    assert_eq!(shell.engine.load().stale_results, 0);
}

#[test]
fn an_outcome_after_the_lease_ended_is_stale() {
    let mut shell = Shell::with_worker(1);
    retried(&mut shell, false);
    let (worker, token) = shell.attempts()[0];
    shell.advance(Duration::from_secs(16));
    shell.flush();
    assert!(!shell.report(worker, token, Ok(bytes::Bytes::from_static(b"1"))));
    assert_eq!(shell.engine.load().stale_results, 1);
}
