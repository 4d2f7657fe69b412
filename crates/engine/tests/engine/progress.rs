//! Runs from submit to end: order, skips, failures, kept results.

use bytes::Bytes;
use levelflow_common::{Code, Failure, RunId, RunStatus, TaskStatus};
use levelflow_engine::TaskIndex;
use levelflow_engine::record::{Kept, KeptEnd};
use serde_json::json;

use crate::definitions::{define, flow, task};
use crate::shell::Shell;

fn no() -> Failure {
    Failure::permanent(Code::HandlerFailed, "no")
}

#[test]
fn a_diamond_runs_from_top_to_bottom() {
    let mut shell = Shell::with_worker(4);
    let run = shell.run(&flow([
        task("a", &[], json!({})),
        task("b", &["a"], json!({})),
        task("c", &["a"], json!({})),
        task("d", &["b", "c"], json!({})),
    ]));
    assert_eq!(shell.running(), ["a"]);
    shell.succeed("a");
    assert_eq!(shell.running(), ["b", "c"]);
    shell.succeed("c");
    assert_eq!(shell.running(), ["b"]);
    shell.succeed("b");
    assert_eq!(shell.running(), ["d"]);
    shell.succeed("d");
    let state = shell.state(run);
    assert_eq!(state.status, RunStatus::Succeeded);
    assert_eq!(state.counts.succeeded, 4);
}

#[test]
fn a_false_condition_skips_what_follows() {
    let mut shell = Shell::with_worker(4);
    let run = shell.run(&flow([
        task("a", &[], json!({ "when": "inputs.no" })),
        task("b", &["a"], json!({})),
        task("c", &["b"], json!({})),
        task("d", &[], json!({ "when": "inputs.yes" })),
    ]));
    shell.work();
    let state = shell.state(run);
    assert_eq!(state.status, RunStatus::Succeeded);
    assert_eq!((state.counts.skipped, state.counts.succeeded), (3, 1));
    assert_eq!(state.tasks[2].skipped_by, Some(TaskIndex(1)));
}

#[test]
fn a_failure_skips_what_needs_it_and_lets_the_rest_end() {
    let mut shell = Shell::with_worker(4);
    let run = shell.run(&flow([
        task("a", &[], json!({})),
        task("b", &["a"], json!({})),
        task("other", &[], json!({})),
        task("after", &["other"], json!({})),
    ]));
    shell.finish("a", Err(no()));
    assert_eq!(shell.status(run, "b"), TaskStatus::Skipped);
    assert_eq!(shell.state(run).status, RunStatus::Running);
    shell.work();
    let state = shell.state(run);
    assert_eq!(state.status, RunStatus::Failed);
    assert_eq!(state.counts.succeeded, 2);
    assert_eq!(
        state.failure.as_ref().unwrap().message,
        "task `a` failed: no"
    );
}

#[test]
fn a_failure_that_is_allowed_lets_the_run_go_on() {
    let mut shell = Shell::with_worker(4);
    let run = shell.run(&define(json!({
        "name": "w",
        "tasks": [
            task("a", &[], json!({ "continue_on_error": true })),
            task("b", &["a"], json!({})),
        ],
        "outputs": { "a": "${{ tasks.a.output }}", "how": "${{ tasks.a.status }}" },
    })));
    shell.finish("a", Err(no()));
    assert_eq!(shell.running(), ["b"]);
    shell.succeed("b");
    let state = shell.state(run);
    assert_eq!(state.status, RunStatus::Succeeded);
    assert_eq!(
        state.outputs.as_deref(),
        Some(&br#"{"a":null,"how":"failed"}"#[..])
    );
}

#[test]
fn outputs_that_cannot_be_evaluated_fail_the_run() {
    let mut shell = Shell::with_worker(1);
    let run = shell.run(&define(json!({
        "name": "w",
        "tasks": [task("a", &[], json!({}))],
        "outputs": { "x": "${{ inputs.x.nothing.here }}" },
    })));
    shell.work();
    let state = shell.state(run);
    assert_eq!(state.status, RunStatus::Failed);
    assert_eq!(state.failure.as_ref().unwrap().code, Code::ExpressionFailed);
}

#[test]
fn an_output_over_the_limit_fails_the_task() {
    let mut shell = Shell::with_worker(1);
    let run = shell.run(&flow([task("a", &[], json!({}))]));
    shell.finish("a", Ok(Bytes::from(vec![b'1'; 1024 * 1024 + 1])));
    let told = "the output has 1048577 bytes; the limit is 1048576".to_owned();
    assert_eq!(shell.failure(run, "a"), (Code::OutputTooLarge, told));
}

#[test]
fn a_resumed_run_keeps_what_was_done() {
    let mut shell = Shell::with_worker(4);
    let list = json!({ "for_each": { "items": [1, 2, 3] } });
    let definition = flow([
        task("a", &[], json!({})),
        task("no", &[], json!({ "when": "inputs.no" })),
        task("never", &["no"], json!({})),
        task("list", &["a"], list),
        task("last", &["list", "a"], json!({})),
    ]);
    let from = RunId::from_slice(&[7; 16]).unwrap();
    let keep = |task, item, end| Kept {
        task: TaskIndex(task),
        item,
        end,
        from,
    };
    let mut submitted = shell.submission(&definition);
    submitted.resumed_from = Some(from);
    submitted.kept = vec![
        keep(0, None, KeptEnd::Succeeded(Bytes::from_static(b"10"))),
        keep(1, None, KeptEnd::Skipped),
        keep(3, Some(1), KeptEnd::Succeeded(Bytes::from_static(b"11"))),
    ];
    let run = submitted.run_id;
    shell.submit(submitted).unwrap();
    shell.settle();
    assert_eq!(shell.running(), ["list[0]", "list[2]"]);
    shell.crash();
    shell.workers[0].held.clear();
    shell.join(0).unwrap();
    shell.settle();
    assert_eq!(shell.running(), ["list[0]", "list[2]"]);
    shell.succeed("list[2]");
    shell.succeed("list[0]");
    assert_eq!(shell.running(), ["last"]);
    shell.succeed("last");
    let state = shell.state(run);
    assert_eq!(state.status, RunStatus::Succeeded);
    assert_eq!(state.tasks[3].output.as_deref(), Some(&b"[1,11,1]"[..]));
    let view = state.view();
    let reused: Vec<_> = view.tasks.iter().map(|task| task.reused_from).collect();
    let from = Some(from);
    assert_eq!(reused, [from, None, None, None, None, None, from, None]);
    assert_eq!(view.tasks[2].status, TaskStatus::Skipped);
}
