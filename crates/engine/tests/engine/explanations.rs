//! The exact reason why a task waits.

use std::borrow::Cow;
use std::time::Duration;

use levelflow_common::{Code, Failure, RunId};
use levelflow_engine::event::Intake;
use levelflow_engine::{Config, Reason};
use serde_json::json;

use crate::definitions::{define, flow, task};
use crate::shell::Shell;
use crate::worker::FakeWorker;

fn why(shell: &Shell, run: RunId, task: &str, item: Option<u32>) -> Vec<(&'static str, String)> {
    let reasons = match shell.engine.explain(shell.now, run, task, item) {
        Ok((_, explanation)) => explanation.reasons,
        Err(_) => {
            let state = shell.state(run);
            state.reasons(shell.now, state.find(task, item).unwrap())
        }
    };
    let told = reasons.into_iter();
    told.map(coded).collect()
}

/// The code and the text of a reason.
pub(crate) fn coded(reason: Reason) -> (&'static str, String) {
    match reason.code {
        Cow::Borrowed(code) => (code, reason.text),
        Cow::Owned(code) => panic!("the engine gives no code like `{code}`"),
    }
}

fn told(reasons: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    let told = reasons.iter();
    told.map(|&(code, text)| (code, text.to_owned())).collect()
}

#[test]
fn it_waits_for_its_needs() {
    let mut shell = Shell::with_worker(9);
    let run = shell.run(&flow([
        task("a", &[], json!({})),
        task("b", &[], json!({})),
        task("c", &["a", "b"], json!({})),
    ]));
    let both = told(&[("needs", "it waits for `a`, `b`")]);
    assert_eq!(why(&shell, run, "c", None), both);
    shell.succeed("a");
    let one = told(&[("needs", "it waits for `b`")]);
    assert_eq!(why(&shell, run, "c", None), one);
}

#[test]
fn many_needs_are_cut_short() {
    let mut shell = Shell::with_worker(1);
    let ids: Vec<String> = (0..12).map(|number| format!("t{number}")).collect();
    let mut tasks: Vec<_> = ids.iter().map(|id| task(id, &[], json!({}))).collect();
    let needs: Vec<&str> = ids.iter().map(String::as_str).collect();
    tasks.push(task("last", &needs, json!({})));
    let run = shell.run(&define(json!({ "name": "w", "tasks": tasks })));
    let text = "it waits for `t0`, `t1`, `t2`, `t3`, `t4`, `t5`, `t6`, `t7`, `t8`, `t9` and 2 more";
    assert_eq!(why(&shell, run, "last", None), told(&[("needs", text)]));
}

#[test]
fn it_waits_for_a_worker_with_its_database() {
    let mut shell = Shell::with_worker(9);
    let orders = json!({ "type": "sql", "with": { "connection": "orders", "query": "select 1" } });
    let run = shell.run(&flow([task("a", &[], orders), task("b", &[], json!({}))]));
    assert_eq!(shell.running(), ["b"]);
    let none = "no connected worker serves queue `default` that runs `sql` tasks with `orders`";
    assert_eq!(
        why(&shell, run, "a", None)[0],
        ("no_worker", none.to_owned())
    );

    shell.workers.push(FakeWorker::new("w2", 1));
    shell.workers[1].connections.insert("orders".into());
    shell.join(1).unwrap();
    shell.flush();
    assert_eq!(shell.running(), ["b", "a"]);
}

#[test]
fn it_waits_for_a_worker_with_memory() {
    let mut shell = Shell::with_worker(1);
    let low = task("a", &[], json!({ "priority": "low" }));
    let run = shell.run(&flow([task("b", &[], json!({})), low]));
    let all = "all 1 workers for queue `default` that runs `transform` tasks are short of memory, and take";
    let busy = why(&shell, run, "a", None).remove(0);
    assert_eq!(busy.0, "workers_busy");
    for (intake, task, what) in [
        (Intake::NoLow, "a", "no tasks of low priority"),
        (Intake::Nothing, "a", "no tasks of low priority"),
        (Intake::Nothing, "b", "nothing"),
    ] {
        shell.workers[0].intake = intake;
        shell.heartbeat(0);
        if task == "b" {
            let (worker, token) = shell.attempts()[0];
            shell.refuse(worker, token);
            shell.settle();
        }
        let text = format!("{all} {what} until they hold less");
        let reasons = why(&shell, run, task, None);
        assert_eq!(reasons[0], ("memory_pressure", text));
    }
    shell.workers[0].intake = Intake::NoLow;
    shell.heartbeat(0);
    shell.settle();
    assert_eq!(shell.running(), ["b"]);
    shell.succeed("b");
    shell.pass(Duration::from_secs(3600));
    assert_eq!(shell.running(), [""; 0], "age does not help it");
    shell.workers[0].intake = Intake::All;
    shell.heartbeat(0);
    shell.settle();
    assert_eq!(shell.running(), ["a"]);
}

#[test]
fn it_waits_for_a_worker() {
    let mut shell = Shell::new(Config::default());
    let more = json!({ "worker": { "queue": "gpu", "labels": { "zone": "eu" } } });
    let run = shell.run(&flow([task("a", &[], more), task("b", &[], json!({}))]));
    shell.pass(Duration::from_secs(2));
    let serves = "queue `gpu` that runs `transform` tasks with labels {\"zone\": \"eu\"}";
    let place = (
        "queued",
        "it has waited for 2.0s among 1 tasks that require the same",
    );
    let none = format!("no connected worker serves {serves}");
    assert_eq!(
        why(&shell, run, "a", None),
        told(&[("no_worker", &none), place])
    );

    shell.workers.push(FakeWorker::new("w", 0));
    shell.workers[0].queues.insert("gpu".into());
    shell.workers[0].labels.insert("zone".into(), "eu".into());
    shell.join(0).unwrap();
    let busy = format!("none of the 1 workers for {serves} has a free slot");
    assert_eq!(
        why(&shell, run, "a", None),
        told(&[("workers_busy", &busy), place])
    );

    let session = shell.workers[0].session.unwrap();
    shell
        .event(levelflow_engine::Event::Draining { session })
        .unwrap();
    let draining = format!("all 1 workers for {serves} are draining");
    assert_eq!(
        why(&shell, run, "a", None),
        told(&[("draining", &draining), place])
    );
}

#[test]
fn it_is_held_back_by_the_bound_of_its_run() {
    let mut shell = Shell::with_worker(9);
    let run = shell.run(&define(json!({
        "name": "w", "max_parallel": 1,
        "tasks": [task("a", &[], json!({})), task("b", &[], json!({}))],
    })));
    let text = "`max_parallel: 1` tasks of the run are under way";
    assert_eq!(why(&shell, run, "b", None), told(&[("max_parallel", text)]));
}

#[test]
fn an_item_is_held_back_by_the_bound_of_its_list() {
    let mut shell = Shell::with_worker(9);
    let more = json!({ "for_each": { "items": [1, 2], "max_parallel": 1 } });
    let run = shell.run(&define(json!({
        "name": "w", "max_parallel": 5, "tasks": [task("a", &[], more)],
    })));
    shell.settle();
    let text = "as many items of its list are under way as `for_each.max_parallel` allows";
    assert_eq!(
        why(&shell, run, "a", Some(1)),
        told(&[("max_parallel", text)])
    );
    let items = told(&[("items", "2 of its 2 items have not ended")]);
    assert_eq!(why(&shell, run, "a", None), items);
}

#[test]
fn it_waits_for_the_level_before() {
    let mut shell = Shell::with_worker(9);
    let run = shell.run(&define(json!({
        "name": "w", "dispatch": "level",
        "tasks": [
            task("a", &[], json!({})), task("b", &[], json!({})), task("c", &["a"], json!({})),
        ],
    })));
    shell.succeed("a");
    let text = "it is in level 1, and `dispatch: level` holds it until level 0 has ended";
    assert_eq!(
        why(&shell, run, "c", None),
        told(&[("level_barrier", text)])
    );
}

#[test]
fn it_runs() {
    let mut shell = Shell::with_worker(9);
    let run = shell.run(&flow([task("a", &[], json!({}))]));
    shell.pass(Duration::from_millis(1500));
    let text = "attempt 1 has run for 1.5s on worker `w`";
    assert_eq!(why(&shell, run, "a", None), told(&[("running", text)]));
    shell.leave(0);
    let text = "attempt 1 has run for 1.5s on worker `w`, which is not connected; \
                its lease ends 15s after its last heartbeat";
    assert_eq!(why(&shell, run, "a", None), told(&[("running", text)]));
}

#[test]
fn it_waits_for_a_time() {
    let mut shell = Shell::with_worker(9);
    let sleep = json!({ "type": "sleep", "with": { "duration": "1m" } });
    let run = shell.run(&flow([
        task(
            "a",
            &[],
            json!({ "retry": { "initial": "4s", "jitter": false } }),
        ),
        task("b", &[], sleep),
    ]));
    let preparing = told(&[("preparing", "its expressions are being evaluated")]);
    assert_eq!(why(&shell, run, "b", None), preparing);
    shell.finish("a", Err(Failure::retryable(Code::HandlerFailed, "again")));
    shell.pass(Duration::from_secs(1));
    let backoff = told(&[
        ("backoff", "attempt 1 failed; the next starts in 3.0s"),
        ("handler_failed", "the last attempt failed: again"),
    ]);
    assert_eq!(why(&shell, run, "a", None), backoff);
    let sleeping = told(&[("sleeping", "it wakes in 59.0s")]);
    assert_eq!(why(&shell, run, "b", None), sleeping);
}

#[test]
fn it_has_ended() {
    let mut shell = Shell::with_worker(9);
    let run = shell.run(&flow([
        task("a", &[], json!({})),
        task("b", &["a"], json!({})),
        task("c", &["b"], json!({})),
        task("d", &[], json!({ "when": "inputs.no" })),
        task("e", &[], json!({})),
    ]));
    shell.finish("a", Err(Failure::permanent(Code::HandlerFailed, "no")));
    shell.succeed("e");
    let failed = told(&[
        ("failed", "it failed after 1 attempts"),
        ("handler_failed", "the last attempt failed: no"),
    ]);
    assert_eq!(why(&shell, run, "a", None), failed);
    let upstream = told(&[("upstream", "it needs `a`, which failed")]);
    assert_eq!(why(&shell, run, "b", None), upstream);
    let upstream = told(&[("upstream", "it needs `b`, which was skipped")]);
    assert_eq!(why(&shell, run, "c", None), upstream);
    let when = told(&[("when", "its `when` was false")]);
    assert_eq!(why(&shell, run, "d", None), when);
    let succeeded = told(&[("succeeded", "it has ended with an output")]);
    assert_eq!(why(&shell, run, "e", None), succeeded);
}
