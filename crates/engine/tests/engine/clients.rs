//! Submits and cancels.

use std::time::Duration;

use bytes::Bytes;
use levelflow_common::{Code, Failure, RunStatus, TaskStatus};
use levelflow_engine::command::Answer;
use levelflow_engine::record::{SubmitKey, Submitted};
use levelflow_engine::{Config, Definition, Rejection};
use serde_json::json;
use std::sync::Arc;

use crate::definitions::{flow, task};
use crate::shell::Shell;

fn one() -> Arc<Definition> {
    flow([task("a", &[], json!({}))])
}

fn keyed(shell: &mut Shell, content: u8, window: Option<u64>) -> Submitted {
    let mut submitted = shell.submission(&one());
    submitted.key = Some(SubmitKey {
        key: "key".into(),
        content: [content; 32],
        expires_at: window.map(|seconds| shell.now.saturating_add(Duration::from_secs(seconds))),
    });
    submitted
}

#[test]
fn a_key_stands_for_one_run_before_and_after_it_is_durable() {
    let mut shell = Shell::with_worker(1);
    let first = keyed(&mut shell, 1, None);
    let run_id = first.run_id;
    shell.submit(first).unwrap();
    let second = keyed(&mut shell, 1, None);
    let reply = shell.submit(second).unwrap();
    shell.flush();
    assert!(
        !shell.answers.contains_key(&reply),
        "answered before it is durable"
    );
    shell.commit_all();
    let existing = true;
    assert_eq!(
        shell.answers[&reply],
        Answer::Submitted { run_id, existing }
    );
    let other = keyed(&mut shell, 2, None);
    assert_eq!(shell.submit(other), Err(Rejection::KeyReused { run_id }));
    shell.work();
    shell.crash();
    let later = keyed(&mut shell, 1, None);
    let reply = shell.submit(later).unwrap();
    assert_eq!(
        shell.answers[&reply],
        Answer::Submitted { run_id, existing }
    );
}

#[test]
fn an_unacknowledged_submit_may_be_lost_and_then_its_key_is_free() {
    let mut shell = Shell::with_worker(1);
    let lost = keyed(&mut shell, 1, None);
    shell.submit(lost).unwrap();
    shell.crash();
    let again = keyed(&mut shell, 2, None);
    let run_id = again.run_id;
    let reply = shell.submit(again).unwrap();
    shell.settle();
    let existing = false;
    assert_eq!(
        shell.answers[&reply],
        Answer::Submitted { run_id, existing }
    );
}

#[test]
fn a_key_of_the_dedup_window_is_free_after_it() {
    let mut shell = Shell::with_worker(1);
    let first = keyed(&mut shell, 1, Some(60));
    let first_id = first.run_id;
    shell.submit(first).unwrap();
    shell.settle();
    shell.pass(Duration::from_secs(59));
    let second = keyed(&mut shell, 1, Some(60));
    let reply = shell.submit(second).unwrap();
    let existing = Answer::Submitted {
        run_id: first_id,
        existing: true,
    };
    assert_eq!(shell.answers[&reply], existing);
    shell.pass(Duration::from_secs(1));
    let third = keyed(&mut shell, 2, Some(60));
    let reply = shell.submit(third).unwrap();
    shell.settle();
    assert!(matches!(
        shell.answers[&reply],
        Answer::Submitted {
            existing: false,
            ..
        }
    ));
}

#[test]
fn a_full_queue_refuses_submits_until_it_drains() {
    let mut shell = Shell::new(Config {
        max_queue: 2,
        ..Config::default()
    });
    for _ in 0..2 {
        let submitted = shell.submission(&one());
        shell.submit(submitted).unwrap();
    }
    let third = shell.submission(&one());
    let refused = shell.submit(third.clone()).unwrap_err();
    assert_eq!(refused.code(), Code::QueueFull);
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(1)));
    assert_eq!(
        refused.to_string(),
        "queue `default` is full: 2 tasks wait for a worker; try again later"
    );
    shell.workers.push(crate::worker::FakeWorker::new("w", 1));
    shell.join(0).unwrap();
    shell.submit(third).unwrap();
}

#[test]
fn too_many_open_runs_refuse_submits() {
    let mut shell = Shell::new(Config {
        max_open_runs: 1,
        ..Config::default()
    });
    shell.run(&one());
    let second = shell.submission(&one());
    let refused = shell.submit(second).unwrap_err();
    assert_eq!(refused.code(), Code::TooManyRuns);
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(1)));
    assert_eq!(
        refused.to_string(),
        "1 runs are open, which is the limit; try again later"
    );
}

#[test]
fn a_cancel_ends_what_waits_and_stops_what_runs() {
    let mut shell = Shell::with_worker(2);
    let retry = json!({ "retry": { "initial": "1m", "jitter": false } });
    let run = shell.run(&flow([
        task("again", &[], retry),
        task("runs", &[], json!({})),
        task(
            "sleeps",
            &[],
            json!({ "type": "sleep", "with": { "duration": "1h" } }),
        ),
        task(
            "prepares",
            &[],
            json!({ "with": { "value": "${{ inputs.x }}" } }),
        ),
        task("waits", &["runs"], json!({})),
    ]));
    shell.finish(
        "again",
        Err(Failure::retryable(Code::HandlerFailed, "again")),
    );
    let queued = shell.run(&flow([task("queued", &[], json!({}))]));
    assert_eq!(shell.running(), ["runs", "prepares"]);
    let statuses = |shell: &Shell| {
        ["again", "runs", "sleeps", "prepares", "waits"].map(|task| shell.status(run, task))
    };
    use TaskStatus::{Backoff, Cancelled, Pending, Running, Sleeping, Succeeded};
    assert_eq!(
        statuses(&shell),
        [Backoff, Running, Sleeping, Running, Pending]
    );

    for run in [run, queued] {
        let reply = shell.cancel(run).unwrap();
        shell.flush();
        assert!(
            !shell.answers.contains_key(&reply),
            "answered before it is durable"
        );
        shell.commit_all();
        assert!(shell.answers.contains_key(&reply));
    }
    assert_eq!(shell.state(queued).status, RunStatus::Cancelled);
    assert_eq!(shell.state(run).status, RunStatus::Cancelling);
    assert!(shell.workers[0].held.values().all(|held| held.stopped));
    shell.cancel(run).unwrap();
    shell.finish("runs", Ok(Bytes::from_static(b"1")));
    let stopped = Failure::retryable(Code::Cancelled, "stopped");
    shell.finish("prepares", Err(stopped));
    assert_eq!(shell.state(run).status, RunStatus::Cancelled);
    assert_eq!(
        statuses(&shell),
        [Cancelled, Succeeded, Cancelled, Cancelled, Cancelled]
    );
    shell.pass(Duration::from_secs(4000));
    assert_eq!(
        shell.engine.next_deadline(),
        None,
        "timers of ended runs are gone"
    );
    assert_eq!(shell.cancel(run), Err(Rejection::RunNotFound(run)));
}

#[test]
fn a_cancel_survives_a_crash() {
    let mut shell = Shell::with_worker(1);
    let run = shell.run(&one());
    shell.cancel(run).unwrap();
    shell.settle();
    assert_eq!(shell.state(run).status, RunStatus::Cancelling);
    shell.crash();
    shell.join(0).unwrap();
    shell.settle();
    assert_eq!(shell.state(run).status, RunStatus::Cancelled);
    assert!(shell.workers[0].held.is_empty(), "what it held was revoked");
}
