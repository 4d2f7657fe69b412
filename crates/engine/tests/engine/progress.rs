//! Runs from submit to end: order, skips, failures, lists, kept results.

use bytes::Bytes;
use levelflow_common::{Priority, RunStatus, TaskStatus};
use levelflow_engine::Config;
use serde_json::json;

use crate::definitions::{flow, task};
use crate::shell::Shell;
use crate::worker::FakeWorker;

#[test]
fn a_diamond_runs_from_top_to_bottom() {
    let mut shell = Shell::new(Config::default());
    shell.workers.push(FakeWorker::new("w", 4));
    shell.join(0).unwrap();
    let run = shell.run(&flow([
        task("a", &[], json!({})),
        task("b", &["a"], json!({})),
        task("c", &["a"], json!({})),
        task("d", &["b", "c"], json!({})),
    ]));
    for tasks in [&["a"][..], &["b", "c"], &["d"]] {
        let running = shell.attempts();
        let names: Vec<_> = running
            .iter()
            .map(|(worker, token)| &*shell.workers[*worker].held[token].attempt.task_id)
            .collect();
        assert_eq!(names, tasks);
        for (worker, token) in running {
            shell.complete(worker, token, Ok(Bytes::from_static(b"1")));
        }
        shell.settle();
    }
    let state = shell.state(run);
    assert_eq!(state.status, RunStatus::Succeeded);
    assert_eq!(state.counts.succeeded, 4);
}

#[test]
fn the_more_urgent_run_goes_first() {
    let mut shell = Shell::new(Config::default());
    shell.workers.push(FakeWorker::new("w", 1));
    let one = flow([task("a", &[], json!({}))]);
    let low = shell.enqueue(&one, Priority::Low, "t");
    let high = shell.enqueue(&one, Priority::High, "t");
    shell.join(0).unwrap();
    shell.settle();
    assert_eq!(
        shell.engine.view(high).unwrap().1.tasks[0].status,
        TaskStatus::Running
    );
    assert_eq!(
        shell.engine.view(low).unwrap().1.tasks[0].status,
        TaskStatus::Ready
    );
}
