//! Tasks with which workers go down.

use std::time::Duration;

use levelflow_common::{Code, Failure, RunId, TaskStatus};
use levelflow_engine::Config;
use serde_json::json;

use crate::definitions::{flow, task};
use crate::shell::Shell;
use crate::worker::FakeWorker;

fn cluster(config: Config, slots: &[u32]) -> Shell {
    let mut shell = Shell::new(config);
    for (number, &slots) in slots.iter().enumerate() {
        let name = format!("w{number}");
        shell.workers.push(FakeWorker::new(&name, slots));
        shell.join(number).unwrap();
    }
    shell
}

fn run_of<const N: usize>(shell: &mut Shell, ids: [&str; N]) -> RunId {
    let retry = json!({ "max_attempts": 9, "initial": "1s", "jitter": false, "factor": 1.0 });
    let tasks = ids.map(|id| task(id, &[], json!({ "retry": retry })));
    let run = shell.run(&flow(tasks));
    shell.settle();
    run
}

/// The process of a worker dies and another takes its place; the backoff of what it ran passes.
fn die(shell: &mut Shell, worker: usize) {
    shell.restart(worker);
    shell.join(worker).unwrap();
    shell.settle();
    shell.pass(Duration::from_secs(1));
}

fn holds(shell: &Shell, worker: usize) -> Vec<String> {
    let held = shell.workers[worker].held.values();
    held.map(|it| it.attempt.task_id.to_string()).collect()
}

#[test]
fn a_task_that_is_lost_twice_with_its_worker_fails_for_good() {
    let mut shell = cluster(Config::default(), &[2]);
    let run = run_of(&mut shell, ["a"]);
    die(&mut shell, 0);
    assert_eq!(shell.running(), ["a"]);
    // What was recorded counts, whatever the coordinator remembers.
    shell.crash();
    shell.join(0).unwrap();
    shell.pass(Duration::from_secs(1));
    assert_eq!(shell.attempts().len(), 1);
    die(&mut shell, 0);
    let (code, message) = shell.failure(run, "a");
    assert_eq!(code, Code::Quarantined);
    assert_eq!(
        message,
        "2 attempts were lost with the process that ran them: \
         attempt 1 on worker `w0` (worker_lost): the worker process was replaced; \
         attempt 2 on worker `w0` (worker_lost): the worker process was replaced"
    );
    let told = &shell.quarantined[0];
    assert_eq!((&*told.task_id, told.run_id), ("a", run));
    assert_eq!((told.code, &told.reason), (Code::WorkerLost, &message));
    assert_eq!(shell.quarantined.len(), 1);
}

#[test]
fn processes_of_handlers_count_like_workers_and_other_failures_do_not() {
    let mut shell = cluster(Config::default(), &[2]);
    let run = run_of(&mut shell, ["a"]);
    for code in [
        Code::HandlerFailed,
        Code::HandlerCrashed,
        Code::HandlerFailed,
    ] {
        shell.finish("a", Err(Failure::retryable(code, "no")));
        shell.pass(Duration::from_secs(1));
        assert_eq!(shell.status(run, "a"), TaskStatus::Running);
    }
    shell.finish("a", Err(Failure::retryable(Code::MemoryExceeded, "9 GiB")));
    let (code, message) = shell.failure(run, "a");
    assert_eq!(code, Code::Quarantined);
    assert!(
        message.contains("attempt 2 on worker `w0` (handler_crashed): no"),
        "{message}"
    );
    assert!(
        message.ends_with("attempt 4 on worker `w0` (memory_exceeded): 9 GiB"),
        "{message}"
    );
}

#[test]
fn the_limit_is_a_setting_and_0_is_none() {
    let config = Config {
        quarantine_after: 0,
        ..Config::default()
    };
    let mut shell = cluster(config, &[2]);
    let run = run_of(&mut shell, ["a", "b"]);
    for _ in 0..5 {
        die(&mut shell, 0);
        assert_eq!(shell.running(), ["a", "b"], "they may run side by side");
    }
    let state = shell.state(run);
    assert_eq!(state.tasks[0].attempts, 5);

    let config = Config {
        quarantine_after: 1,
        ..Config::default()
    };
    let mut shell = cluster(config, &[1]);
    let run = run_of(&mut shell, ["a"]);
    die(&mut shell, 0);
    assert_eq!(shell.failure(run, "a").0, Code::Quarantined);
}

#[test]
fn neighbours_of_a_killer_are_not_quarantined_with_it() {
    let mut shell = cluster(Config::default(), &[4]);
    let run = run_of(&mut shell, ["killer", "a", "b", "c"]);
    assert_eq!(holds(&shell, 0).len(), 4);
    die(&mut shell, 0);
    // Each of them runs without the others, until it kills again or ends.
    for _ in 0..4 {
        assert_eq!(shell.running().len(), 1);
        let next = shell.running()[0].clone();
        if next == "killer" {
            die(&mut shell, 0);
        } else {
            shell.succeed(&next);
        }
    }
    assert_eq!(shell.failure(run, "killer").0, Code::Quarantined);
    for task in ["a", "b", "c"] {
        assert_eq!(shell.status(run, task), TaskStatus::Succeeded);
    }
}

#[test]
fn suspects_keep_to_workers_of_their_own_and_hold_up_nobody_else() {
    let mut shell = cluster(Config::default(), &[4, 4]);
    let run = run_of(&mut shell, ["a", "b", "c", "d", "e", "f"]);
    die(&mut shell, 0);
    // Three were lost; one of them is given to each worker, and the third waits.
    let lost = |it: &str| {
        shell.state(run).tasks[shell.state(run).find(it, None).unwrap().0 as usize]
            .losses
            .len()
    };
    let suspects: Vec<&str> = ["a", "b", "c", "d", "e", "f"]
        .into_iter()
        .filter(|it| lost(it) > 0)
        .collect();
    assert_eq!(suspects.len(), 3);
    let waits: Vec<&str> = suspects
        .iter()
        .copied()
        .filter(|it| shell.status(run, it) == TaskStatus::Ready)
        .collect();
    assert_eq!(waits.len(), 1);
    let why = shell
        .engine
        .explain(shell.now, run, waits[0], None)
        .unwrap()
        .1;
    assert_eq!(why.reasons[0].code, "suspect");
    // Other tasks take the slots that are free.
    run_of(&mut shell, ["g", "h", "i"]);
    assert_eq!(shell.running().len(), 8);
    let runs: Vec<&str> = suspects
        .iter()
        .copied()
        .filter(|it| *it != waits[0])
        .collect();
    shell.succeed(runs[0]);
    assert_eq!(shell.status(run, waits[0]), TaskStatus::Running);
}
