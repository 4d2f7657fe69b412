//! `for_each`.

use bytes::Bytes;
use levelflow_common::{Code, Failure, RunStatus};
use serde_json::{Value, json};

use crate::definitions::{define, flow, task};
use crate::shell::Shell;

fn list(items: Value, more: Value) -> Value {
    let mut list = more;
    list["items"] = items;
    json!({ "for_each": list })
}

#[test]
fn a_list_without_items_ends_with_an_empty_list() {
    let mut shell = Shell::with_worker(1);
    let run = shell.run(&flow([
        task("a", &[], list(json!("${{ inputs.none }}"), json!({}))),
        task("b", &["a"], json!({})),
    ]));
    shell.settle();
    assert_eq!(shell.running(), ["b"]);
    shell.succeed("b");
    let state = shell.state(run);
    assert_eq!(state.status, RunStatus::Succeeded);
    assert_eq!(state.tasks[0].output.as_deref(), Some(&b"[]"[..]));
}

#[test]
fn items_see_their_value_and_their_outputs_come_in_order() {
    let mut shell = Shell::with_worker(4);
    let mut more = list(json!("${{ inputs.three }}"), json!({ "as": "it" }));
    more["with"] = json!({ "value": "${{ it * 10 + index }}" });
    let run = shell.run(&flow([task("a", &[], more)]));
    shell.settle();
    for (worker, token) in shell.attempts().into_iter().rev() {
        let input = shell.workers[worker].held[&token].attempt.input.clone();
        shell.complete(worker, token, Ok(input));
    }
    shell.settle();
    let output = shell.state(run).tasks[0].output.clone().unwrap();
    assert_eq!(&output[..], br#"[{"value":10},{"value":21},{"value":32}]"#);
}

#[test]
fn a_failed_item_fails_the_list_when_all_items_have_ended() {
    let mut shell = Shell::with_worker(4);
    let run = shell.run(&flow([task("a", &[], list(json!([1, 2, 3]), json!({})))]));
    shell.settle();
    let no = || Failure::permanent(Code::HandlerFailed, "no");
    shell.finish("a[1]", Err(no()));
    assert_eq!(shell.running(), ["a[0]", "a[2]"]);
    shell.work();
    let told = (Code::HandlerFailed, "item 1: no".to_owned());
    assert_eq!(shell.failure(run, "a"), told);
    assert_eq!(shell.state(run).status, RunStatus::Failed);
}

#[test]
fn a_failed_item_that_is_allowed_is_null() {
    let mut shell = Shell::with_worker(4);
    let mut more = list(json!([1, 2]), json!({}));
    more["continue_on_error"] = json!(true);
    let run = shell.run(&flow([task("a", &[], more)]));
    shell.settle();
    shell.finish("a[0]", Err(Failure::permanent(Code::HandlerFailed, "no")));
    shell.succeed("a[1]");
    let state = shell.state(run);
    assert_eq!(state.status, RunStatus::Succeeded);
    assert_eq!(state.tasks[0].output.as_deref(), Some(&b"[null,1]"[..]));
}

#[test]
fn max_parallel_bounds_the_items_under_way() {
    let mut shell = Shell::with_worker(9);
    shell.run(&flow([
        task(
            "a",
            &[],
            list(json!([1, 2, 3, 4]), json!({ "max_parallel": 2 })),
        ),
        task("b", &[], json!({})),
    ]));
    shell.settle();
    assert_eq!(shell.running(), ["b", "a[0]", "a[1]"]);
    shell.succeed("a[1]");
    assert_eq!(shell.running(), ["b", "a[0]", "a[2]"]);
    shell.succeed("a[0]");
    assert_eq!(shell.running(), ["b", "a[2]", "a[3]"]);
}

#[test]
fn max_parallel_of_the_run_bounds_items_too() {
    let mut shell = Shell::with_worker(9);
    shell.run(&define(json!({
        "name": "w", "max_parallel": 3,
        "tasks": [
            task("b", &[], json!({})),
            task("a", &[], list(json!([1, 2, 3, 4]), json!({}))),
        ],
    })));
    shell.settle();
    assert_eq!(shell.running(), ["b", "a[0]", "a[1]"]);
    shell.succeed("b");
    assert_eq!(shell.running(), ["a[0]", "a[1]", "a[2]"]);
}

#[test]
fn a_list_over_the_limit_fails() {
    let mut shell = Shell::with_worker(1);
    let items: Vec<u32> = (0..10_001).collect();
    let run = shell.run(&flow([task("a", &[], list(json!(items), json!({})))]));
    shell.settle();
    let told = "`for_each` has 10001 items; the limit is 10000".to_owned();
    assert_eq!(shell.failure(run, "a"), (Code::TaskInputInvalid, told));
}

#[test]
fn a_crash_in_the_middle_of_a_list_keeps_what_ended() {
    let mut shell = Shell::with_worker(2);
    let run = shell.run(&flow([task(
        "a",
        &[],
        list(json!("${{ inputs.three }}"), json!({})),
    )]));
    shell.settle();
    shell.finish("a[1]", Ok(Bytes::from_static(b"20")));
    shell.crash();
    shell.join(0).unwrap();
    shell.settle();
    assert_eq!(shell.running(), ["a[0]", "a[2]"]);
    shell.work();
    let state = shell.state(run);
    assert_eq!(state.tasks[0].output.as_deref(), Some(&b"[1,20,1]"[..]));
    assert_eq!(state.tasks[1].attempts, 1, "a crash does not count");
}
