//! Which task goes first, and to whom.

use std::time::Duration;

use levelflow_common::Priority;
use levelflow_engine::Config;
use serde_json::json;

use crate::definitions::{define, flow, task};
use crate::shell::Shell;
use crate::worker::FakeWorker;

/// Completes what one slot is given until nothing is left, and tells the order.
fn order(shell: &mut Shell) -> Vec<String> {
    let mut order = Vec::new();
    shell.join(0).unwrap();
    shell.settle();
    while let Some(task) = shell.running().first().cloned() {
        shell.succeed(&task);
        order.push(task);
    }
    order
}

fn waiting(config: Config, tasks: &[(&str, Priority, &str, u64)]) -> Shell {
    let mut shell = Shell::new(config);
    shell.workers.push(FakeWorker::new("w", 1));
    for &(name, priority, tenant, seconds) in tasks {
        shell.pass(Duration::from_secs(seconds));
        let definition = flow([task(name, &[], json!({}))]);
        shell.enqueue(&definition, priority, tenant);
    }
    shell
}

#[test]
fn the_more_urgent_class_goes_first_and_within_it_the_first_come() {
    let mut shell = waiting(
        Config::default(),
        &[
            ("low", Priority::Low, "t", 0),
            ("n1", Priority::Normal, "t", 0),
            ("n2", Priority::Normal, "t", 0),
            ("critical", Priority::Critical, "t", 0),
            ("high", Priority::High, "t", 0),
        ],
    );
    assert_eq!(order(&mut shell), ["critical", "high", "n1", "n2", "low"]);
}

#[test]
fn tenants_take_turns() {
    let mut shell = waiting(
        Config::default(),
        &[
            ("a1", Priority::Normal, "a", 0),
            ("a2", Priority::Normal, "a", 0),
            ("a3", Priority::Normal, "a", 0),
            ("b1", Priority::Normal, "b", 0),
            ("c1", Priority::Normal, "c", 0),
            ("b2", Priority::Normal, "b", 0),
        ],
    );
    assert_eq!(order(&mut shell), ["a1", "b1", "c1", "a2", "b2", "a3"]);
}

#[test]
fn what_waited_too_long_goes_before_more_urgent_work_but_not_all_at_once() {
    let mut shell = waiting(
        Config::default(),
        &[
            ("l1", Priority::Low, "t", 0),
            ("l2", Priority::Low, "t", 0),
            ("l3", Priority::Low, "t", 0),
            ("c1", Priority::Critical, "t", 30),
            ("c2", Priority::Critical, "t", 0),
            ("c3", Priority::Critical, "t", 0),
            ("c4", Priority::Critical, "t", 0),
        ],
    );
    assert_eq!(
        order(&mut shell),
        ["l1", "c1", "c2", "c3", "l2", "c4", "l3"]
    );
}

#[test]
fn the_longest_remaining_path_goes_first() {
    let mut shell = Shell::new(Config::default());
    shell.workers.push(FakeWorker::new("w", 1));
    let definition = flow([
        task("short", &[], json!({})),
        task("long", &[], json!({})),
        task("next", &["long"], json!({})),
    ]);
    shell.enqueue(&definition, Priority::Normal, "t");
    assert_eq!(order(&mut shell), ["long", "short", "next"]);
}

#[test]
fn a_task_may_be_more_urgent_than_its_run() {
    let mut shell = Shell::new(Config::default());
    shell.workers.push(FakeWorker::new("w", 1));
    let definition = flow([
        task("a", &[], json!({})),
        task("b", &[], json!({ "priority": "critical" })),
    ]);
    shell.enqueue(&definition, Priority::Low, "t");
    assert_eq!(order(&mut shell), ["b", "a"]);
}

#[test]
fn levels_are_a_barrier_where_that_is_asked_for() {
    let mut shell = Shell::with_worker(9);
    shell.run(&define(json!({
        "name": "w", "dispatch": "level", "max_parallel": 2,
        "tasks": [
            task("a", &[], json!({})),
            task("b", &[], json!({})),
            task("c", &[], json!({})),
            task("d", &["a"], json!({})),
        ],
    })));
    assert_eq!(shell.running(), ["a", "b"]);
    shell.succeed("a");
    assert_eq!(shell.running(), ["b", "c"]);
    shell.succeed("b");
    assert_eq!(shell.running(), ["c"], "d waits for all of its level's");
    shell.succeed("c");
    assert_eq!(shell.running(), ["d"]);
}

#[test]
fn the_least_busy_worker_gets_the_next_task() {
    let mut shell = Shell::new(Config::default());
    for (name, slots) in [("small", 2), ("large", 4)] {
        shell.workers.push(FakeWorker::new(name, slots));
    }
    shell.join(0).unwrap();
    shell.join(1).unwrap();
    let tasks = ["a", "b", "c"].map(|id| task(id, &[], json!({})));
    shell.run(&flow(tasks));
    let busy: Vec<_> = shell.workers.iter().map(|it| it.running().len()).collect();
    assert_eq!(busy, [1, 2]);
}

#[test]
fn a_task_goes_only_to_a_worker_that_offers_what_it_requires() {
    let mut shell = Shell::new(Config::default());
    for name in ["plain", "zoned"] {
        shell.workers.push(FakeWorker::new(name, 1));
    }
    shell.workers[1].labels.insert("zone".into(), "eu".into());
    shell.join(0).unwrap();
    let more = json!({ "worker": { "labels": { "zone": "eu" } } });
    shell.run(&flow([task("a", &[], more)]));
    assert_eq!(shell.running(), [""; 0]);
    shell.join(1).unwrap();
    shell.settle();
    assert_eq!(shell.workers[1].running().len(), 1);
}
