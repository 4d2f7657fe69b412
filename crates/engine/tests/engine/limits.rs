//! Concurrency and rate limits by key.

use std::sync::Arc;
use std::time::Duration;

use levelflow_common::{AttemptResult, Code, Failure, Priority, RunId, RunStatus, TaskStatus};
use levelflow_engine::{Config, Definition, Event};
use serde_json::{Value, json};

use crate::definitions::{define, flow, task};
use crate::explanations::coded;
use crate::shell::Shell;
use crate::worker::FakeWorker;

/// A workflow of one task, with a limit on how many run at once.
fn limited(id: &str, limit: u32, on_full: &str) -> Arc<Definition> {
    let concurrency = json!({ "key": "k", "limit": limit, "on_full": on_full });
    flow([task(id, &[], json!({ "concurrency": concurrency }))])
}

fn failed(code: Code) -> AttemptResult {
    Err(Failure::retryable(code, "again"))
}

fn rated(id: &str, limit: u32, per: &str) -> Arc<Definition> {
    let rate = json!({ "key": "k", "limit": limit, "per": per });
    flow([task(id, &[], json!({ "rate_limit": rate }))])
}

/// Why the task of a run waits: the first reason.
fn why(shell: &Shell, run: RunId, task: &str) -> (&'static str, String) {
    let (_, explanation) = shell.engine.explain(shell.now, run, task, None).unwrap();
    assert_eq!(explanation.status, TaskStatus::Ready);
    coded(explanation.reasons.into_iter().next().unwrap())
}

#[test]
fn no_more_than_the_limit_run_at_once_over_all_runs() {
    let mut shell = Shell::with_worker(9);
    let definition = limited("a", 2, "queue");
    let runs: Vec<_> = (0..5).map(|_| shell.run(&definition)).collect();
    for running in [2, 2, 2, 2, 1] {
        assert_eq!(shell.running().len(), running);
        assert_eq!(
            shell.workers[0].credits,
            9 - running as u32,
            "parked tasks take credit"
        );
        shell.succeed("a");
    }
    for run in runs {
        assert_eq!(shell.state(run).status, RunStatus::Succeeded);
    }
}

#[test]
fn tenants_do_not_share_keys() {
    let mut shell = Shell::with_worker(9);
    let definition = limited("a", 1, "queue");
    for tenant in ["t1", "t2", "t1"] {
        shell.enqueue(&definition, Priority::Normal, tenant);
    }
    shell.settle();
    assert_eq!(shell.running().len(), 2);
}

#[test]
fn whatever_ends_an_attempt_frees_its_slot() {
    type End = fn(&mut Shell, RunId);
    let ends: [End; 6] = [
        |shell, _| shell.succeed("a"),
        |shell, _| shell.finish("a", failed(Code::HandlerFailed)),
        |shell, _| shell.finish("a", failed(Code::Cancelled)),
        |shell, run| {
            shell.cancel(run).unwrap();
            shell.settle();
            shell.finish("a", failed(Code::Cancelled));
        },
        |shell, _| {
            shell.restart(0);
            shell.join(0).unwrap();
        },
        |shell, _| {
            let (worker, token) = shell.attempts()[0];
            shell.refuse(worker, token);
        },
    ];
    for end in ends {
        let mut shell = Shell::with_worker(1);
        let first = shell.run(&limited("a", 1, "queue"));
        let critical = limited("b", 1, "queue");
        shell.enqueue(&critical, Priority::Critical, "default");
        shell.settle();
        assert_eq!(shell.running(), ["a"]);
        end(&mut shell, first);
        shell.settle();
        assert_eq!(shell.running(), ["b"]);
        shell.succeed("b");
        shell.pass(Duration::from_secs(2));
        shell.work();
        assert_eq!(shell.open_runs(), 0);
    }
}

#[test]
fn an_expired_lease_frees_its_slot() {
    let mut shell = Shell::with_worker(1);
    shell.run(&limited("a", 1, "queue"));
    shell.run(&limited("b", 1, "queue"));
    shell.workers.push(FakeWorker::new("other", 1));
    shell.join(1).unwrap();
    shell.settle();
    assert_eq!(shell.running(), ["a"]);
    shell.leave(0);
    for _ in 0..20 {
        shell.heartbeat(1);
        shell.advance(Duration::from_secs(1));
        shell.settle();
    }
    assert_eq!(shell.workers[1].running().len(), 1);
}

#[test]
fn a_crash_leaks_no_slot() {
    let mut shell = Shell::with_worker(9);
    for _ in 0..4 {
        shell.run(&limited("a", 2, "queue"));
    }
    assert_eq!(shell.running().len(), 2);
    shell.crash();
    shell.join(0).unwrap();
    shell.settle();
    assert_eq!(
        shell.running().len(),
        2,
        "as many as before, under new tokens"
    );
    shell.work();
    assert_eq!(shell.open_runs(), 0);
}

#[test]
fn a_restart_neither_fails_nor_displaces_what_was_admitted() {
    for on_full in ["fail", "cancel_oldest"] {
        let mut shell = Shell::with_worker(9);
        let first = shell.run(&limited("a", 1, "queue"));
        let second = shell.run(&limited("b", 2, on_full));
        shell.crash();
        shell.join(0).unwrap();
        shell.work();
        for run in [first, second] {
            assert_eq!(shell.state(run).status, RunStatus::Succeeded, "{on_full}");
        }
    }
}

#[test]
fn over_the_limit_a_task_may_fail_at_once() {
    let mut shell = Shell::with_worker(9);
    let definition = limited("a", 1, "fail");
    let (first, second) = (shell.run(&definition), shell.run(&definition));
    shell.settle();
    let message = "`concurrency` lets 1 tasks with key `k` run at once, and as many wait or run";
    assert_eq!(
        shell.failure(second, "a"),
        (Code::ConcurrencyFull, message.to_owned())
    );
    shell.succeed("a");
    assert_eq!(shell.state(first).status, RunStatus::Succeeded);
    let third = shell.run(&definition);
    shell.work();
    assert_eq!(shell.state(third).status, RunStatus::Succeeded);
}

#[test]
fn over_the_limit_the_oldest_may_make_room() {
    let mut shell = Shell::with_worker(9);
    let definition = limited("a", 2, "cancel_oldest");
    let runs: Vec<_> = (0..3).map(|_| shell.run(&definition)).collect();
    shell.settle();
    let oldest = shell.workers[0].held.values().next().unwrap();
    assert!(oldest.stopped, "its worker is told");
    let message = "a newer task with the `concurrency` key `k` came";
    assert_eq!(
        shell.failure(runs[0], "a"),
        (Code::ConcurrencyDisplaced, message.to_owned())
    );
    shell.work();
    assert_eq!(shell.state(runs[1]).status, RunStatus::Succeeded);
    assert_eq!(shell.state(runs[2]).status, RunStatus::Succeeded);
}

#[test]
fn the_newest_of_those_that_wait_for_a_worker_goes_on() {
    let mut shell = Shell::new(Config::default());
    let definition = limited("a", 1, "cancel_oldest");
    let runs: Vec<_> = (0..3).map(|_| shell.run(&definition)).collect();
    shell.settle();
    let statuses = runs.iter().map(|&run| shell.state(run).status);
    assert_eq!(
        statuses.collect::<Vec<_>>(),
        [RunStatus::Failed, RunStatus::Failed, RunStatus::Running]
    );
}

#[test]
fn a_long_chain_of_tasks_that_fail_at_once_does_not_grow_the_stack() {
    const LENGTH: usize = 5_000;
    let tasks: Vec<Value> = (0..LENGTH)
        .map(|place| {
            let needs = place.checked_sub(1).map(|need| format!("t{need}"));
            let needs: Vec<&str> = needs.as_deref().into_iter().collect();
            let concurrency = json!({ "key": "k", "limit": 1, "on_full": "fail" });
            let more = json!({ "concurrency": concurrency, "continue_on_error": true });
            task(&format!("t{place}"), &needs, more)
        })
        .collect();
    let definition = define(json!({ "name": "chain", "tasks": tasks }));
    let thread = std::thread::Builder::new().stack_size(256 * 1024);
    let ends = thread.spawn(move || {
        let mut shell = Shell::with_worker(1);
        shell.run(&limited("holder", 1, "queue"));
        let run = shell.submission(&definition);
        let run_id = run.run_id;
        let event = Event::Submit {
            reply: levelflow_engine::event::ReplyId(7_777),
            submitted: Box::new(run),
            definition,
        };
        let (engine, now) = (&mut shell.engine, shell.now);
        engine.handle(now, event).unwrap();
        engine.assign(now);
        engine.check_invariants();
        let (_, view) = engine.view(run_id).unwrap();
        view.summary.counts.failed
    });
    assert_eq!(ends.unwrap().join().unwrap() as usize, LENGTH);
}

#[test]
fn a_key_may_come_from_inputs_and_items() {
    let mut shell = Shell::with_worker(9);
    let concurrency = json!({ "key": "${{ item % 2 }}", "limit": 1 });
    let for_each = json!({ "items": [1, 2, 3, 4] });
    let more = json!({ "concurrency": concurrency, "for_each": for_each });
    shell.run(&flow([task("a", &[], more)]));
    shell.settle();
    assert_eq!(shell.running(), ["a[0]", "a[1]"]);
    shell.succeed("a[1]");
    assert_eq!(shell.running(), ["a[0]", "a[3]"]);
    let (worker, token) = shell.attempts()[0];
    shell.refuse(worker, token);
    shell.settle();
    shell.work();
    assert_eq!(shell.open_runs(), 0);
}

#[test]
fn a_key_that_is_no_text_fails_the_task() {
    let mut shell = Shell::with_worker(9);
    let failure = |shell: &mut Shell, key: &str| {
        let rate = json!({ "key": key, "limit": 1, "per": "1s" });
        let run = shell.run(&flow([task("a", &[], json!({ "rate_limit": rate }))]));
        shell.settle();
        shell.failure(run, "a")
    };
    let list = "`rate_limit.key` must be text, not a list".to_owned();
    assert_eq!(
        failure(&mut shell, "${{ inputs.three }}"),
        (Code::TaskInputInvalid, list)
    );
    let long = failure(&mut shell, "${{ range(200) | join('') }}");
    assert_eq!(
        long.1,
        "`rate_limit.key` must be text, not 490 bytes of it; the most is 256"
    );
}

#[test]
fn starts_are_spread_over_time() {
    let mut shell = Shell::with_worker(9);
    let definition = rated("a", 2, "10s");
    for _ in 0..5 {
        shell.run(&definition);
    }
    assert_eq!(shell.running().len(), 2, "a full bucket");
    assert_eq!(shell.workers[0].credits, 7, "parked tasks take no credit");
    for started in [3, 4, 5] {
        shell.pass(Duration::from_micros(4_999_999));
        assert_eq!(shell.running().len(), started - 1);
        shell.pass(Duration::from_micros(1));
        assert_eq!(shell.running().len(), started);
    }
    shell.work();
    assert_eq!(shell.open_runs(), 0);
    let last = shell
        .engine
        .next_deadline()
        .expect("the bucket is forgotten");
    shell.pass(last.since(shell.now).max(Duration::from_secs(10)));
    assert_eq!(shell.engine.next_deadline(), None);
}

#[test]
fn a_token_is_taken_when_the_attempt_starts_and_each_takes_one() {
    let mut shell = Shell::new(Config::default());
    shell.workers.push(FakeWorker::new("w", 9));
    for _ in 0..6 {
        shell.run(&rated("a", 2, "10s"));
    }
    shell.pass(Duration::from_secs(60));
    shell.join(0).unwrap();
    shell.settle();
    assert_eq!(
        shell.running().len(),
        2,
        "waiting for a worker saves no tokens"
    );
    shell.finish("a", failed(Code::HandlerFailed));
    shell.pass(Duration::from_secs(5));
    assert_eq!(shell.running().len(), 2);
    shell.pass(Duration::from_secs(5));
    assert_eq!(shell.running().len(), 3);
}

#[test]
fn both_limits_hold() {
    let mut shell = Shell::with_worker(9);
    let more = json!({
        "concurrency": { "key": "k", "limit": 1 },
        "rate_limit": { "key": "k", "limit": 2, "per": "10s" },
    });
    let definition = flow([task("a", &[], more)]);
    for _ in 0..3 {
        shell.run(&definition);
    }
    assert_eq!(shell.running().len(), 1);
    shell.succeed("a");
    assert_eq!(shell.running().len(), 1);
    shell.succeed("a");
    assert_eq!(shell.running().len(), 0, "no token");
    shell.pass(Duration::from_secs(5));
    assert_eq!(shell.running().len(), 1);
}

#[test]
fn the_more_urgent_of_those_that_wait_goes_first() {
    let mut shell = Shell::with_worker(1);
    shell.run(&limited("holder", 1, "queue"));
    for (id, priority) in [("low", Priority::Low), ("high", Priority::High)] {
        shell.enqueue(&limited("first", 1, "queue"), priority, "other");
        shell.enqueue(&limited(id, 1, "queue"), priority, "default");
    }
    shell.settle();
    shell.enqueue(
        &limited("critical", 1, "queue"),
        Priority::Critical,
        "default",
    );
    shell.succeed("holder");
    let mut order = Vec::new();
    while let Some(task) = shell.running().first().cloned() {
        shell.succeed(&task);
        order.push(task);
    }
    let of_tenant: Vec<_> = order.iter().filter(|it| *it != "first").collect();
    assert_eq!(of_tenant, ["critical", "high", "low"]);
}

#[test]
fn why_names_who_holds_the_slots_and_when_the_next_token_comes() {
    let mut shell = Shell::with_worker(9);
    let holder = shell.run(&limited("holder", 1, "queue"));
    let waits = shell.run(&limited("a", 1, "queue"));
    shell.pass(Duration::from_secs(3));
    let text = format!(
        "`concurrency` lets 1 with key `k` run at once, and there are `holder` of run {holder} since 3.0s"
    );
    assert_eq!(why(&shell, waits, "a"), ("concurrency", text));
    shell.run(&rated("b", 1, "1m30s"));
    let waits = shell.run(&rated("b", 1, "1m30s"));
    shell.pass(Duration::from_secs(30));
    let text = "`rate_limit` lets 1 with key `k` start per 1m30s; the next may start in 60.0s";
    assert_eq!(why(&shell, waits, "b"), ("rate_limit", text.to_owned()));
}

#[test]
fn a_parked_task_keeps_its_time_limits() {
    let mut shell = Shell::with_worker(9);
    shell.run(&limited("holder", 1, "queue"));
    let concurrency = json!({ "key": "k", "limit": 1 });
    for (timeout, code, message) in [
        (
            json!({ "queue": "2s" }),
            Code::QueueTimeout,
            "its limits did not let the task start within 2s",
        ),
        (
            json!({ "total": "2s" }),
            Code::TotalTimeout,
            "the task took longer than its total timeout of 2s",
        ),
    ] {
        let more = json!({ "concurrency": concurrency, "timeout": timeout });
        let run = shell.run(&flow([task("a", &[], more)]));
        shell.pass(Duration::from_secs(2));
        assert_eq!(shell.failure(run, "a"), (code, message.to_owned()));
    }
}

#[test]
fn parked_tasks_count_against_the_bound_of_their_queue() {
    let mut shell = Shell::new(Config {
        max_queue: 3,
        ..Config::default()
    });
    shell.workers.push(FakeWorker::new("w", 9));
    shell.join(0).unwrap();
    let definition = limited("a", 1, "queue");
    for _ in 0..4 {
        shell.run(&definition);
    }
    let submitted = shell.submission(&definition);
    assert_eq!(shell.submit(submitted).unwrap_err().code(), Code::QueueFull);
}

#[test]
fn there_are_no_more_rate_limit_keys_than_are_known_at_once() {
    let mut shell = Shell::new(Config {
        max_rate_keys: 1,
        ..Config::default()
    });
    let of_tenant = |shell: &mut Shell, tenant| {
        let run = shell.enqueue(&rated("a", 1, "1s"), Priority::Normal, tenant);
        shell.settle();
        run
    };
    of_tenant(&mut shell, "t1");
    let refused = of_tenant(&mut shell, "t2");
    assert_eq!(shell.failure(refused, "a").0, Code::RateKeysExhausted);
    let same = of_tenant(&mut shell, "t1");
    assert_eq!(shell.status(same, "a"), TaskStatus::Ready);
}
