//! Breakers: what reaches an upstream that fails, and what becomes of the tasks that wait for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::view::BreakerStatus;
use levelflow_common::{Code, Failure, RunId, RunStatus, UpstreamCall};
use levelflow_engine::{BreakerPolicy, BreakerState, Config};
use serde_json::{Value, json};

use crate::definitions::{flow, task};
use crate::explanations::coded;
use crate::shell::Shell;
use crate::worker::FakeWorker;

const UPSTREAM: &str = "http:dead:80";

fn call(id: &str, more: Value) -> Value {
    let mut task = task(id, &[], more);
    task["type"] = json!("http");
    task["with"] = json!({ "url": "http://dead/" });
    task
}

fn down() -> Failure {
    Failure::retryable(Code::HttpFailed, "connection refused")
}

fn shell(slots: u32) -> Shell {
    let mut shell = Shell::new(Config::default());
    shell.workers.push(FakeWorker::new("w", slots));
    shell.join(0).unwrap();
    shell
}

/// All attempts that run call their upstream and end so; gives how many there were.
fn answer(shell: &mut Shell, healthy: bool) -> usize {
    let attempts = shell.attempts();
    for &(worker, token) in &attempts {
        let result = if healthy {
            Ok(Bytes::from_static(b"1"))
        } else {
            Err(down())
        };
        shell.complete_call(worker, token, result, !healthy);
    }
    shell.settle();
    attempts.len()
}

/// Lets time pass, with an upstream that answers so; gives how many calls it got.
fn pass(shell: &mut Shell, seconds: u64, healthy: bool) -> usize {
    let mut calls = answer(shell, healthy);
    for _ in 0..seconds {
        shell.pass(Duration::from_secs(1));
        calls += answer(shell, healthy);
    }
    calls
}

fn many(shell: &mut Shell, runs: usize) -> Vec<RunId> {
    let retry = json!({ "retry": { "initial": "1s", "jitter": false } });
    let definition = flow([call("a", retry)]);
    let runs = (0..runs).map(|_| shell.run(&definition)).collect();
    shell.settle();
    runs
}

/// The code and the text of the first reason why a task waits.
fn why(shell: &Shell, run: RunId, task: &str) -> (&'static str, String) {
    let explained = shell.engine.explain(shell.now, run, task, None).unwrap().1;
    let first = explained.reasons.into_iter().next().unwrap();
    coded(first)
}

#[test]
fn a_dead_upstream_gets_few_calls_and_all_tasks_succeed_when_it_heals() {
    let mut shell = shell(64);
    let runs = many(&mut shell, 500);
    assert_eq!(
        pass(&mut shell, 59, false),
        5,
        "the calls of the first minute"
    );
    for minute in 2..4 {
        let calls = pass(&mut shell, 60, false);
        assert!((1..=3).contains(&calls), "{calls} calls in minute {minute}");
    }
    let waiting: u32 = shell.engine.breakers().iter().map(|it| it.waiting).sum();
    let attempts = |shell: &Shell| -> u32 {
        let all = runs.iter();
        all.map(|&run| shell.state(run).tasks[0].attempts).sum()
    };
    assert!(waiting >= 485, "{waiting} tasks are parked");
    let burned = attempts(&shell);
    assert!(burned <= 5 + 2 * 3, "{burned} attempts were used up");

    pass(&mut shell, 120, true);
    for &run in &runs {
        assert_eq!(shell.state(run).status, RunStatus::Succeeded);
    }
    assert_eq!(attempts(&shell), 500 + burned);
    assert_eq!(shell.engine.breakers()[0].status, BreakerStatus::Closed);
}

#[test]
fn an_upstream_that_hangs_holds_no_more_slots_than_calls_open_its_breaker() {
    let mut shell = shell(64);
    many(&mut shell, 100);
    assert_eq!(shell.attempts().len(), 5);
    let (worker, token) = shell.attempts()[0];
    shell.complete_call(worker, token, Ok(Bytes::from_static(b"1")), false);
    shell.settle();
    assert_eq!(shell.attempts().len(), 64, "it answered");
}

#[test]
fn an_answer_counts_while_its_attempt_goes_on() {
    let mut shell = shell(64);
    many(&mut shell, 100);
    let (worker, token) = shell.attempts()[0];
    let call = UpstreamCall {
        upstream: UPSTREAM.to_owned(),
        failed: false,
    };
    shell.answered = vec![(token, call)];
    shell.heartbeat(worker);
    shell.settle();
    assert_eq!(shell.attempts().len(), 64);
}

#[test]
fn other_tasks_go_on_while_an_upstream_is_dead() {
    let mut shell = shell(2);
    many(&mut shell, 50);
    pass(&mut shell, 30, false);
    assert_eq!(shell.attempts().len(), 0);
    let run = shell.run(&flow([task("b", &[], json!({}))]));
    shell.settle();
    assert_eq!(shell.running(), ["b"]);
    shell.succeed("b");
    assert_eq!(shell.state(run).status, RunStatus::Succeeded);
}

#[test]
fn what_waits_says_for_which_breaker_and_until_when() {
    let mut shell = shell(64);
    let run = *many(&mut shell, 20).last().unwrap();
    assert_eq!(why(&shell, run, "a").0, "upstream_unproven");
    let (worker, token) = shell.attempts()[0];
    shell.complete_call(worker, token, Err(down()), true);
    shell.settle();
    assert_eq!(why(&shell, run, "a").0, "upstream_failing");
    pass(&mut shell, 18, false);
    let (code, text) = why(&shell, run, "a");
    assert_eq!(code, "breaker_open");
    assert_eq!(
        text,
        "its upstream `http:dead:80` failed: the breaker is open for another 42.0s, and the task is \
         parked without using up attempts"
    );
    shell.pass(Duration::from_secs(42));
    assert_eq!(why(&shell, run, "a").0, "breaker_half_open");
    assert_eq!(shell.attempts().len(), 3, "probes");
}

#[test]
fn the_queue_timeout_does_not_count_while_an_upstream_must_not_be_called() {
    let mut shell = shell(64);
    let slow = json!({ "timeout": { "queue": "10s" } });
    many(&mut shell, 5);
    pass(&mut shell, 1, false);
    let run = shell.run(&flow([call("late", slow)]));
    shell.settle();
    shell.leave(0);
    shell.pass(Duration::from_secs(65));
    assert_eq!(shell.state(run).status, RunStatus::Running);
    shell.pass(Duration::from_secs(10));
    assert_eq!(shell.failure(run, "late").0, Code::QueueTimeout);
}

#[test]
fn an_attempt_that_a_worker_did_not_make_is_parked_and_probes_later() {
    let mut shell = shell(8);
    let run = shell.run(&flow([task(
        "a",
        &[],
        json!({ "retry": { "max_attempts": 1 } }),
    )]));
    let failed = || UpstreamCall {
        upstream: "crm".to_owned(),
        failed: true,
    };
    let other = shell.run(&flow([task("b", &[], json!({}))]));
    let (worker, token) = shell.attempts()[1];
    let held = shell.workers[worker].held.get_mut(&token).unwrap();
    held.upstreams.calls = vec![failed(), failed(), failed(), failed(), failed()];
    shell.complete(worker, token, Ok(Bytes::from_static(b"1")));
    shell.settle();
    assert_eq!(shell.state(other).status, RunStatus::Succeeded);
    assert!(matches!(shell.breakers["crm"], BreakerState::Open { .. }));

    let (worker, token) = shell.attempts()[0];
    let held = shell.workers[worker].held.get_mut(&token).unwrap();
    held.upstreams.parked_on = Some("crm".to_owned());
    shell.complete(worker, token, Err(down()));
    shell.settle();
    assert_eq!(why(&shell, run, "a").0, "breaker_open");
    assert_eq!(shell.attempts(), []);
    shell.pass(Duration::from_secs(60));
    let (worker, token) = shell.attempts()[0];
    let attempt = &shell.workers[worker].held[&token].attempt;
    assert_eq!(
        (attempt.attempt, attempt.upstream.as_deref()),
        (1, Some("crm"))
    );
    shell.succeed("a");
    assert_eq!(shell.state(run).status, RunStatus::Succeeded);
}

#[test]
fn a_cancel_ends_what_is_parked() {
    let mut shell = shell(64);
    let run = *many(&mut shell, 10).last().unwrap();
    pass(&mut shell, 1, false);
    assert_eq!(why(&shell, run, "a").0, "breaker_open");
    shell.cancel(run).unwrap();
    shell.settle();
    assert_eq!(shell.state(run).status, RunStatus::Cancelled);
    assert_eq!(shell.engine.breakers()[0].waiting, 9);
}

#[test]
fn after_a_crash_the_upstream_is_learned_again() {
    let mut shell = shell(64);
    let runs = many(&mut shell, 50);
    pass(&mut shell, 20, false);
    shell.crash();
    shell.join(0).unwrap();
    shell.settle();
    assert_eq!(pass(&mut shell, 50, false), 5);
    pass(&mut shell, 120, true);
    for run in runs {
        assert_eq!(shell.state(run).status, RunStatus::Succeeded);
    }
}

#[test]
fn a_reset_lets_a_few_through_at_once() {
    let mut shell = shell(64);
    many(&mut shell, 50);
    pass(&mut shell, 1, false);
    assert_eq!(
        shell.engine.reset_breaker(shell.now, "http:unknown:80"),
        None
    );
    let view = shell.engine.reset_breaker(shell.now, UPSTREAM).unwrap();
    assert_eq!((view.status, view.limit), (BreakerStatus::Closed, Some(5)));
    shell.tick();
    shell.settle();
    assert_eq!(shell.attempts().len(), 5);
    assert_eq!(shell.breakers[UPSTREAM], BreakerState::Closed);
}

#[test]
fn the_number_of_upstreams_is_bounded_and_those_in_use_stay() {
    let mut shell = Shell::new(Config {
        breaker: BreakerPolicy {
            max_upstreams: 3,
            ..BreakerPolicy::default()
        },
        ..Config::default()
    });
    shell.workers.push(FakeWorker::new("w", 64));
    shell.join(0).unwrap();
    many(&mut shell, 10);
    pass(&mut shell, 1, false);
    for host in 0..20 {
        let mut other = call("a", json!({}));
        other["with"]["url"] = json!(format!("http://host{host}/"));
        shell.run(&flow([other]));
        shell.work();
        shell.advance(Duration::from_millis(1));
    }
    let names: Vec<Arc<str>> = shell
        .engine
        .breakers()
        .into_iter()
        .map(|it| it.upstream)
        .collect();
    assert_eq!(
        names.iter().map(|it| &**it).collect::<Vec<_>>(),
        [UPSTREAM, "http:host18:80", "http:host19:80"]
    );
}

#[test]
fn without_breakers_nothing_is_held_back() {
    let mut shell = Shell::new(Config {
        breaker: BreakerPolicy {
            failures: 0,
            ..BreakerPolicy::default()
        },
        ..Config::default()
    });
    shell.workers.push(FakeWorker::new("w", 64));
    shell.join(0).unwrap();
    many(&mut shell, 100);
    assert_eq!(shell.attempts().len(), 64);
    assert_eq!(shell.engine.breakers(), []);
}
