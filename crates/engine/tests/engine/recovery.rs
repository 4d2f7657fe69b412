//! Crashes of the coordinator.

use std::time::Duration;

use levelflow_common::{Code, Failure, RunStatus, TaskStatus};
use levelflow_engine::{Fact, Record, RunState, TaskIndex};
use serde_json::json;

use crate::definitions::{define, flow, task};
use crate::shell::Shell;

#[test]
fn what_was_not_finished_starts_again_with_the_same_number() {
    let mut shell = Shell::with_worker(2);
    let run = shell.run(&flow([
        task("a", &[], json!({})),
        task("b", &["a"], json!({})),
    ]));
    shell.succeed("a");
    let (_, before) = shell.attempts()[0];
    shell.crash();
    shell.join(0).unwrap();
    shell.settle();
    let (worker, after) = shell.attempts()[0];
    assert!(after > before);
    assert_eq!(shell.workers[worker].held[&after].attempt.attempt, 1);
    assert_eq!(shell.running(), ["b"]);
    shell.succeed("b");
    assert_eq!(shell.state(run).status, RunStatus::Succeeded);
}

#[test]
fn a_result_that_was_not_durable_is_computed_again() {
    let mut shell = Shell::with_worker(1);
    let run = shell.run(&flow([task("a", &[], json!({}))]));
    let (worker, token) = shell.attempts()[0];
    shell.complete(worker, token, Ok(bytes::Bytes::from_static(b"1")));
    shell.flush();
    assert!(
        shell.workers[0].held.contains_key(&token),
        "acknowledged too early"
    );
    shell.crash();
    shell.join(0).unwrap();
    shell.settle();
    assert_eq!(shell.running(), ["a"]);
    shell.succeed("a");
    assert_eq!(shell.state(run).status, RunStatus::Succeeded);
}

#[test]
fn backoffs_and_sleeps_end_when_they_would_have_without_the_crash() {
    let mut shell = Shell::with_worker(2);
    let sleep = json!({ "type": "sleep", "with": { "duration": "10s" } });
    let mut sleeps = sleep.clone();
    sleeps["for_each"] = json!({ "items": [1, 2] });
    let run = shell.run(&flow([
        task(
            "a",
            &[],
            json!({ "retry": { "initial": "8s", "jitter": false } }),
        ),
        task("b", &[], sleep),
        task("c", &[], sleeps),
    ]));
    shell.settle();
    shell.finish("a", Err(Failure::retryable(Code::HandlerFailed, "again")));
    shell.now = shell.now.saturating_add(Duration::from_secs(5));
    shell.crash();
    shell.join(0).unwrap();
    shell.settle();
    let statuses = |shell: &Shell| ["a", "b", "c"].map(|task| shell.status(run, task));
    use TaskStatus::{Backoff, Running, Sleeping, Succeeded};
    assert_eq!(statuses(&shell), [Backoff, Sleeping, Running]);
    shell.pass(Duration::from_millis(2999));
    assert_eq!(shell.running(), [""; 0]);
    shell.pass(Duration::from_millis(1));
    assert_eq!(shell.running(), ["a"]);
    shell.succeed("a");
    shell.pass(Duration::from_millis(1999));
    assert_eq!(statuses(&shell), [Succeeded, Sleeping, Running]);
    shell.pass(Duration::from_millis(1));
    assert_eq!(statuses(&shell), [Succeeded, Succeeded, Succeeded]);
}

#[test]
fn timeouts_count_from_before_the_crash() {
    let mut shell = Shell::with_worker(2);
    let list = json!({ "timeout": { "total": "6s" }, "for_each": { "items": [1, 2] } });
    let run = shell.run(&define(json!({
        "name": "w", "timeout": "10s",
        "tasks": [task("a", &[], list), task("b", &[], json!({ "worker": { "queue": "no" } }))],
    })));
    shell.settle();
    shell.now = shell.now.saturating_add(Duration::from_secs(5));
    shell.crash();
    shell.settle();
    shell.pass(Duration::from_secs(1));
    assert_eq!(shell.failure(run, "a").0, Code::TotalTimeout);
    shell.pass(Duration::from_secs(4));
    let state = shell.state(run);
    assert_eq!(state.status, RunStatus::Failed);
    assert!(state.timed_out);
}

#[test]
fn a_damaged_journal_is_refused_with_the_place() {
    let mut shell = Shell::with_worker(1);
    let run = shell.run(&flow([
        task("a", &[], json!({})),
        task("b", &["a"], json!({})),
    ]));
    shell.work();
    let number = shell.numbers[&run];
    let (good, definition) = (&shell.journals[&number], &shell.store[&number].definition);
    let replay = |records: &[Record]| {
        let replayed = RunState::replay(number, definition.clone(), records);
        replayed.map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(replay(good), Ok(()));
    let damaged = |at: usize, fact: Fact| {
        let mut records = good.clone();
        records[at].fact = fact;
        replay(&records[..=at])
    };
    let at = |sequence: u32, problem: &str| {
        Err(format!(
            "the journal of run number 1 is damaged at record {sequence}: {problem}"
        ))
    };
    let skipped = |task| Fact::Skipped {
        task: TaskIndex(task),
    };
    assert_eq!(replay(&[]), at(1, "the first record is not a submit"));
    assert_eq!(
        replay(&good[1..]),
        at(1, "the first record is not a submit")
    );
    assert_eq!(damaged(1, skipped(9)), at(2, "the task is not in the run"));
    assert_eq!(damaged(1, skipped(1)), at(2, "the task was not ready"));
    assert_eq!(damaged(2, skipped(0)), at(3, "the task has ended before"));
    assert_eq!(
        damaged(1, good[0].fact.clone()),
        at(2, "a second submit, or one of another workflow")
    );
    let unfinished = Fact::Finished {
        status: RunStatus::Running,
        outputs: None,
        failure: None,
    };
    assert_eq!(damaged(3, unfinished), at(4, "the run ends without an end"));
    let mut longer = good.clone();
    longer.push(good[1].clone());
    assert_eq!(
        replay(&longer),
        at(5, "a record follows the end of the run")
    );
}
