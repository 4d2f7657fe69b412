//! Workers and queues as clients see them.

use levelflow_common::overview::{EndedTasks, WorkerStatus};
use levelflow_common::{Code, Failure};
use levelflow_engine::{Config, Event};
use serde_json::json;

use crate::definitions::{flow, task};
use crate::shell::Shell;
use crate::worker::FakeWorker;

/// The workers: name, status, attempts, credits.
fn workers(shell: &Shell) -> Vec<(String, WorkerStatus, u32, u32)> {
    let told = shell
        .engine
        .workers(shell.now)
        .into_iter()
        .map(|(session, worker)| {
            assert_eq!(session.is_none(), worker.status == WorkerStatus::Lost);
            let name = worker.worker.to_string();
            (name, worker.status, worker.attempts, worker.credits)
        });
    told.collect()
}

/// The queues: name, tasks that are ready, tasks that are parked.
fn queues(shell: &Shell, most: usize) -> Vec<(String, u64, u64)> {
    let told = shell.engine.queues(most).into_iter();
    told.map(|queue| (queue.name.to_string(), queue.ready, queue.parked))
        .collect()
}

#[test]
fn workers_come_by_name_with_what_they_hold() {
    let mut shell = Shell::new(Config::default());
    for name in ["b", "a"] {
        shell.workers.push(FakeWorker::new(name, 2));
    }
    shell.join(0).unwrap();
    shell.join(1).unwrap();
    let session = shell.workers[0].session.unwrap();
    shell.event(Event::Draining { session }).unwrap();
    shell.run(&flow([task("t", &[], json!({}))]));
    let (a, b) = ("a".to_owned(), "b".to_owned());
    assert_eq!(
        workers(&shell),
        [
            (a.clone(), WorkerStatus::Active, 1, 1),
            (b.clone(), WorkerStatus::Draining, 0, 2),
        ]
    );
    // One holds an attempt, the other has nothing to come back for.
    shell.leave(0);
    shell.leave(1);
    assert_eq!(workers(&shell), [(a, WorkerStatus::Lost, 1, 0)]);
}

#[test]
fn queues_tell_what_waits_for_a_worker_and_what_is_held_back() {
    let mut shell = Shell::with_worker(9);
    let limit = json!({ "concurrency": { "key": "k", "limit": 1 } });
    shell.run(&flow([
        task("a", &[], limit.clone()),
        task("b", &[], limit),
        task("c", &[], json!({ "worker": { "queue": "gpu" } })),
        task("d", &[], json!({ "worker": { "queue": "gpu" } })),
    ]));
    assert_eq!(shell.running(), ["a"]);
    let default = ("default".to_owned(), 0, 1);
    let gpu = ("gpu".to_owned(), 2, 0);
    assert_eq!(queues(&shell, 9), [default, gpu.clone()]);
    let (fullest, ..) = &queues(&shell, 1)[0];
    assert_eq!(fullest, "gpu");
    shell.succeed("a");
    assert_eq!(shell.running(), ["b"]);
    assert_eq!(queues(&shell, 9), [gpu]);
}

#[test]
fn only_tasks_that_did_something_count_as_ended() {
    let mut shell = Shell::with_worker(9);
    shell.run(&flow([
        task("a", &[], json!({})),
        task("b", &[], json!({ "retry": { "max_attempts": 1 } })),
        task("c", &["b"], json!({})),
    ]));
    shell.succeed("a");
    shell.finish("b", Err(Failure::permanent(Code::HandlerFailed, "no")));
    assert_eq!(
        shell.engine.ended_tasks(),
        EndedTasks {
            succeeded: 1,
            failed: 1
        }
    );
}
