//! Which worker gets a task.

use std::time::Duration;

use levelflow_common::Placement;
use levelflow_common::overview::WorkerStatus;
use levelflow_engine::Config;
use serde_json::json;

use crate::definitions::{define, flow, task};
use crate::shell::Shell;
use crate::worker::FakeWorker;

/// A shell with workers of some weights, each with as many slots as it may ever need.
fn shell(placement: Placement, weights: &[u32]) -> Shell {
    let mut shell = Shell::new(Config {
        placement,
        ..Config::default()
    });
    for (number, &weight) in weights.iter().enumerate() {
        let mut worker = FakeWorker::new(&format!("w{number}"), 1_000);
        worker.weight = weight;
        shell.workers.push(worker);
        shell.join(number).unwrap();
    }
    shell
}

fn give(shell: &mut Shell, tasks: usize) {
    let tasks = (0..tasks).map(|number| task(&format!("t{number}"), &[], json!({})));
    let tasks: Vec<_> = tasks.collect();
    shell.run(&define(json!({ "name": "flow", "tasks": tasks })));
    shell.settle();
}

fn held(shell: &Shell) -> Vec<usize> {
    shell.workers.iter().map(|it| it.held.len()).collect()
}

#[test]
fn the_least_busy_has_the_least_part_of_its_slots_taken() {
    let mut shell = shell(Placement::LeastBusy, &[1, 1]);
    shell.workers[1].slots = 500;
    shell.workers[1].instance += 1;
    shell.leave(1);
    shell.join(1).unwrap();
    give(&mut shell, 90);
    assert_eq!(held(&shell), [60, 30]);
}

#[test]
fn round_robin_takes_turns_whoever_is_how_busy() {
    let mut shell = shell(Placement::RoundRobin, &[1, 9, 1]);
    give(&mut shell, 7);
    assert_eq!(held(&shell), [3, 2, 2]);
    // One that has nothing to do is not given more than the others.
    for (worker, token) in shell.attempts() {
        if worker == 2 {
            shell.complete(worker, token, Ok("1".into()));
        }
    }
    shell.settle();
    give(&mut shell, 2);
    assert_eq!(held(&shell), [3, 3, 1]);
}

#[test]
fn weighted_gives_each_its_part() {
    let mut shell = shell(Placement::Weighted, &[1, 2, 5]);
    give(&mut shell, 80);
    assert_eq!(held(&shell), [10, 20, 50]);
}

#[test]
fn who_was_away_does_not_get_all_that_it_missed() {
    let mut shell = shell(Placement::RoundRobin, &[1, 1]);
    shell.leave(1);
    give(&mut shell, 50);
    shell.join(1).unwrap();
    give(&mut shell, 10);
    assert_eq!(held(&shell), [55, 5]);
}

#[test]
fn random_is_even_in_the_long_run_and_the_same_for_a_seed() {
    let spread = || {
        let mut shell = shell(Placement::Random, &[1, 1, 1]);
        give(&mut shell, 600);
        held(&shell)
    };
    let held = spread();
    assert!(
        held.iter().all(|&held| (150..250).contains(&held)),
        "{held:?}"
    );
    assert_eq!(spread(), held);
}

#[test]
fn tasks_that_stick_follow_the_first_while_its_worker_takes_them() {
    let mut shell = shell(Placement::RoundRobin, &[1, 1, 1]);
    let sticky = json!({ "worker": { "sticky": true } });
    shell.run(&flow([
        task("a", &[], sticky.clone()),
        task("b", &["a"], sticky.clone()),
        task("c", &["b"], sticky.clone()),
        task("free", &["b"], json!({})),
        task("d", &["c", "free"], sticky),
    ]));
    shell.settle();
    let first = shell.attempts()[0].0;
    shell.succeed("a");
    shell.settle();
    assert_eq!(shell.attempts()[0].0, first);
    shell.succeed("b");
    shell.settle();
    let of = |shell: &Shell, id: &str| {
        let holds = |it: &FakeWorker| it.held.values().any(|held| *held.attempt.task_id == *id);
        shell.workers.iter().position(holds).unwrap()
    };
    assert_eq!(of(&shell, "c"), first);
    // The others take turns as ever.
    assert_ne!(of(&shell, "free"), first);
    shell.succeed("c");
    shell.leave(first);
    shell.succeed("free");
    shell.settle();
    // Better elsewhere than not at all.
    assert_ne!(of(&shell, "d"), first);
}

#[test]
fn a_worker_that_missed_a_heartbeat_gets_nothing_until_it_is_heard() {
    let mut shell = shell(Placement::LeastBusy, &[1, 1]);
    let interval = shell.config.heartbeat_interval;
    shell.advance(interval);
    shell.heartbeat(0);
    shell.advance(interval * 3 / 4);
    give(&mut shell, 4);
    assert_eq!(held(&shell), [4, 0]);
    let status = |shell: &Shell| {
        let workers = shell.engine.workers(shell.now).into_iter();
        workers.map(|(_, it)| it.status).collect::<Vec<_>>()
    };
    assert_eq!(status(&shell), [WorkerStatus::Active, WorkerStatus::Silent]);
    shell.heartbeat(1);
    assert_eq!(status(&shell), [WorkerStatus::Active, WorkerStatus::Active]);
    give(&mut shell, 4);
    assert_eq!(held(&shell), [4, 4]);
}

#[test]
fn what_waits_for_silent_workers_goes_on_when_one_is_heard() {
    let mut shell = shell(Placement::LeastBusy, &[1]);
    shell.advance(shell.config.heartbeat_interval * 2);
    let run = shell.run(&flow([task("a", &[], json!({}))]));
    shell.settle();
    assert_eq!(held(&shell), [0]);
    let (_, why) = shell.engine.explain(shell.now, run, "a", None).unwrap();
    assert_eq!(why.reasons[0].code, "silent");
    assert_eq!(
        why.reasons[0].text,
        "all 1 workers for queue `default` that runs `transform` tasks are connected and silent, the last for 10.0s: they get nothing until one is heard again"
    );
    shell.heartbeat(0);
    shell.settle();
    assert_eq!(shell.running(), ["a"]);
    // What was shorter than a heartbeat and a half was no silence.
    shell.advance(Duration::from_millis(7_400));
    give(&mut shell, 1);
    assert_eq!(held(&shell), [2]);
}
