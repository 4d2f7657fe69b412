//! Results that are found, and tasks that wait for one that computes the same.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::{
    AttemptResult, CacheTier, CacheUse, Code, Failure, RunId, RunStatus, TaskStatus,
};
use levelflow_engine::{Config, Definition, Event};
use serde_json::{Value, json};

use crate::definitions::{define, flow, task};
use crate::preparer::{FROM_MEMORY, similar};
use crate::shell::Shell;
use crate::worker::FakeWorker;

fn cached(id: &str, policy: &Value) -> Value {
    task(id, &[], json!({ "cache": policy }))
}

fn permanent(code: Code) -> AttemptResult {
    Err(Failure::permanent(code, "no"))
}

fn submit(shell: &mut Shell, definition: &Arc<Definition>) -> RunId {
    let run = shell.run(definition);
    shell.settle();
    run
}

fn submit_with(shell: &mut Shell, definition: &Arc<Definition>, cache: CacheUse) -> RunId {
    let mut submitted = shell.submission(definition);
    submitted.cache = cache;
    let run = submitted.run_id;
    shell.submit(submitted).unwrap();
    shell.settle();
    run
}

/// Where the result of a task came from, and its attempts.
fn tier(shell: &Shell, run: RunId, task: &str) -> (Option<CacheTier>, u32) {
    let state = shell.state(run);
    let task = state.task(state.find(task, None).unwrap());
    (task.cached.as_ref().map(|from| from.tier), task.attempts)
}

/// The outputs that the cache has.
fn values(shell: &Shell) -> Vec<&str> {
    let outputs = shell.cache.values().flatten();
    outputs
        .map(|output| std::str::from_utf8(&output.value).unwrap())
        .collect()
}

#[test]
fn identical_tasks_are_computed_once() {
    let mut shell = Shell::with_worker(9);
    let definition = flow([cached("a", &json!({})), task("b", &["a"], json!({}))]);
    let runs: Vec<_> = (0..5).map(|_| submit(&mut shell, &definition)).collect();
    assert_eq!(shell.running(), ["a"], "one of them runs");
    let (_, why) = shell.engine.explain(shell.now, runs[3], "a", None).unwrap();
    assert_eq!(why.status, TaskStatus::Ready);
    assert_eq!(why.reasons[0].code, "same_result");
    let leader = format!("task `a` of run {}", runs[0]);
    assert!(
        why.reasons[0].text.ends_with(&leader),
        "{}",
        why.reasons[0].text
    );

    shell.finish("a", Ok(Bytes::from_static(b"42")));
    assert_eq!(shell.running(), ["b"; 5], "all go on with the one result");
    assert_eq!(tier(&shell, runs[0], "a"), (None, 1));
    for &run in &runs[1..] {
        assert_eq!(tier(&shell, run, "a"), (Some(CacheTier::Flight), 0));
        let state = shell.state(run);
        assert_eq!(state.tasks[0].output.as_deref(), Some(&b"42"[..]));
    }

    // Later ones find it in the cache, and the journal says so.
    let later = submit(&mut shell, &definition);
    assert_eq!(tier(&shell, later, "a"), (Some(CacheTier::Memory), 0));
    assert_eq!(shell.running().len(), 6);
    shell.work();
    for run in runs {
        assert_eq!(shell.state(run).status, RunStatus::Succeeded);
    }
}

#[test]
fn a_run_may_compute_anew_or_leave_the_cache_alone() {
    let mut shell = Shell::with_worker(9);
    let definition = flow([cached("a", &json!({}))]);
    submit(&mut shell, &definition);
    shell.finish("a", Ok(Bytes::from_static(b"1")));

    let off = submit_with(&mut shell, &definition, CacheUse::Off);
    shell.finish("a", Ok(Bytes::from_static(b"2")));
    assert_eq!(tier(&shell, off, "a"), (None, 1));
    assert_eq!(values(&shell), ["1"]);

    let fresh: Vec<_> = [(); 2]
        .map(|()| submit_with(&mut shell, &definition, CacheUse::Refresh))
        .into();
    assert_eq!(shell.running(), ["a"; 2], "each computes for itself");
    shell.finish("a", Ok(Bytes::from_static(b"3")));
    shell.finish("a", Ok(Bytes::from_static(b"4")));
    assert_eq!(tier(&shell, fresh[1], "a"), (None, 1));
    assert_eq!(values(&shell), ["4"]);
}

#[test]
fn what_differs_is_computed_for_itself() {
    let mut shell = Shell::with_worker(99);
    let by_input = |value: &str| {
        let input = json!({ "with": { "value": value }, "cache": {} });
        flow([task("a", &[], input)])
    };
    let by_version = |version: &str| flow([cached("a", &json!({ "version": version }))]);
    let by_label = json!({ "worker": { "labels": {} }, "cache": {} });
    let several = [
        by_input("${{ inputs.x }}"),
        by_input("${{ inputs.x + 1 }}"),
        by_version("1"),
        by_version("2"),
        flow([task("a", &[], by_label)]),
    ];
    for definition in &several {
        submit(&mut shell, definition);
    }
    let mut other = shell.submission(&several[0]);
    other.tenant = "other".into();
    shell.submit(other).unwrap();
    shell.settle();
    assert_eq!(shell.running().len(), 6);

    // The name of the task and of its workflow make no difference, unless the key leaves the rest out.
    let same = define(json!({
        "name": "another",
        "tasks": [task("z", &[], json!({ "with": { "value": "${{ 8 - 1 }}" }, "cache": {} }))],
    }));
    submit(&mut shell, &same);
    assert_eq!(shell.running().len(), 6);
    let keyed = |value: u8| {
        let more = json!({ "with": { "value": value }, "cache": { "key": "k" } });
        flow([task("a", &[], more)])
    };
    submit(&mut shell, &keyed(1));
    submit(&mut shell, &keyed(2));
    assert_eq!(
        shell.running().len(),
        8,
        "the key stands for the input only, not for the task"
    );
}

#[test]
fn the_next_computes_when_the_first_cannot() {
    let mut shell = Shell::with_worker(9);
    let definition = flow([cached("a", &json!({}))]);
    let runs: Vec<_> = (0..4).map(|_| submit(&mut shell, &definition)).collect();
    shell.finish("a", permanent(Code::HandlerFailed));
    assert_eq!(shell.state(runs[0]).status, RunStatus::Failed);
    assert_eq!(shell.running(), ["a"], "the second took over");
    assert!(shell.cache.is_empty());

    // A cancelled one makes room at once.
    shell.cancel(runs[1]).unwrap();
    shell.settle();
    assert_eq!(
        shell.running().len(),
        2,
        "the third does not wait for the worker to let go"
    );
    shell.cancel(runs[3]).unwrap();
    shell.settle();
    assert_eq!(
        shell.state(runs[3]).status,
        RunStatus::Cancelled,
        "a waiting one just ends"
    );
    let (worker, token) = shell.attempts()[1];
    shell.complete(worker, token, Ok(Bytes::from_static(b"1")));
    shell.settle();
    assert_eq!(shell.state(runs[2]).status, RunStatus::Succeeded);
    assert_eq!(tier(&shell, runs[2], "a"), (None, 1));
}

#[test]
fn the_result_of_a_nearly_equal_text_is_told_with_its_source() {
    let mut shell = Shell::with_worker(9);
    let semantic = |text: &str| {
        let text = format!("${{{{ '{text}' }}}}");
        flow([cached(
            "a",
            &json!({ "key": text, "semantic": { "text": text } }),
        )])
    };
    let label = |shell: &Shell, run: RunId| shell.state(run).tasks[0].similar_to.clone();
    let first = submit(&mut shell, &semantic("same"));
    assert_eq!(shell.running(), ["a"], "nothing is known yet");
    shell.finish("a", Ok(Bytes::from_static(b"42")));
    assert_eq!(label(&shell, first), None);

    let reused = submit(&mut shell, &semantic("same "));
    assert_eq!(shell.running(), ["a"], "the text differs");
    shell.finish("a", Ok(Bytes::from_static(b"43")));
    assert_eq!(label(&shell, reused), None);

    // What is near is computed by the one that is shown it; what waits for it has the very same input.
    let near = semantic("near");
    let shown = submit(&mut shell, &near);
    let waiting = submit(&mut shell, &near);
    assert_eq!(shell.running(), ["a"]);
    shell.finish("a", Ok(Bytes::from_static(b"44")));
    assert_eq!(tier(&shell, shown, "a"), (None, 1));
    assert_eq!(label(&shell, shown).as_deref(), Some(&similar(0.9)));
    assert_eq!(tier(&shell, waiting, "a"), (Some(CacheTier::Flight), 0));
    assert_eq!(label(&shell, waiting), None);

    let policy = json!({ "key": "other", "semantic": { "text": "${{ 'same' }}" } });
    let open = task("b", &["a"], json!({}));
    let reused = submit(&mut shell, &flow([cached("a", &policy), open]));
    assert_eq!(tier(&shell, reused, "a"), (Some(CacheTier::Memory), 0));
    assert_eq!(label(&shell, reused).as_deref(), Some(&similar(0.97)));
    let (_, why) = shell.engine.explain(shell.now, reused, "a", None).unwrap();
    let source = "for a text of similarity 0.970, by task `source` of run 07070707";
    assert!(
        why.reasons[0].text.contains(source),
        "{}",
        why.reasons[0].text
    );
}

#[test]
fn others_may_compute_what_the_last_one_here_gave_up() {
    let mut shell = Shell::with_worker(9);
    let definition = flow([cached("a", &json!({}))]);
    let runs: Vec<_> = (0..3).map(|_| submit(&mut shell, &definition)).collect();
    shell.cancel(runs[2]).unwrap();
    shell.settle();
    assert!(shell.given_up.is_empty(), "one that waited is not missed");
    shell.finish("a", permanent(Code::HandlerFailed));
    assert!(shell.given_up.is_empty(), "the second computes it");
    shell.finish("a", permanent(Code::HandlerFailed));
    assert_eq!(shell.given_up.len(), 1);

    submit_with(&mut shell, &definition, CacheUse::Refresh);
    shell.finish("a", permanent(Code::HandlerFailed));
    submit(&mut shell, &definition);
    shell.finish("a", Ok(Bytes::from_static(b"1")));
    assert_eq!(shell.state(runs[1]).status, RunStatus::Failed);
    assert_eq!(
        shell.given_up.len(),
        1,
        "it had no right to give up, or its result is kept"
    );
}

#[test]
fn failures_are_remembered_where_that_is_asked_for() {
    let mut shell = Shell::with_worker(9);
    let definition = flow([cached("a", &json!({ "on_error": "1m" }))]);
    let runs: Vec<_> = (0..3).map(|_| submit(&mut shell, &definition)).collect();
    shell.finish("a", permanent(Code::HttpStatus));
    let later = submit(&mut shell, &definition);
    assert!(shell.running().is_empty());
    for run in runs.into_iter().chain([later]) {
        assert_eq!(shell.failure(run, "a"), (Code::HttpStatus, "no".to_owned()));
    }
    // A failure that is not the input's says nothing of others.
    let definition = flow([cached("b", &json!({ "on_error": "1m", "version": "2" }))]);
    for _ in 0..2 {
        submit(&mut shell, &definition);
    }
    shell.finish("b", permanent(Code::SecretUnavailable));
    assert_eq!(shell.running(), ["b"], "the second tries");
    assert_eq!(shell.cache.len(), 1);
}

#[test]
fn one_that_waits_for_its_next_attempt_is_waited_for_and_blocks_nobody() {
    let mut shell = Shell::new(Config::default());
    shell.workers.push(FakeWorker::new("w", 9));
    shell.join(0).unwrap();
    // Both in one run of which one task at a time may be under way.
    let retry = json!({ "max_attempts": 3, "initial": "2s", "jitter": false });
    let more = json!({ "cache": {}, "retry": retry });
    let tasks = [task("a", &[], more.clone()), task("b", &[], more)];
    let definition = define(json!({ "name": "x", "max_parallel": 1, "tasks": tasks }));
    let run = submit(&mut shell, &definition);
    shell.finish("a", Err(Failure::retryable(Code::HandlerFailed, "again")));
    assert_eq!(shell.status(run, "a"), TaskStatus::Backoff);
    assert!(shell.running().is_empty(), "`b` waits for the same result");
    shell.pass(Duration::from_secs(3));
    assert_eq!(shell.running(), ["a"]);
    shell.succeed("a");
    assert_eq!(shell.state(run).status, RunStatus::Succeeded);
    assert_eq!(tier(&shell, run, "a"), (None, 2));
    assert_eq!(tier(&shell, run, "b"), (Some(CacheTier::Flight), 0));
}

#[test]
fn a_result_takes_no_slot_and_no_token() {
    let mut shell = Shell::with_worker(0);
    let limit = json!({ "key": "k", "limit": 1, "per": "1h" });
    let definition = flow([task("a", &[], json!({ "cache": {}, "rate_limit": limit }))]);
    let first = submit(&mut shell, &definition);
    shell.grant(0, 1);
    shell.settle();
    shell.succeed("a");
    assert_eq!(shell.state(first).status, RunStatus::Succeeded);
    for _ in 0..3 {
        let run = submit(&mut shell, &definition);
        assert_eq!(tier(&shell, run, "a"), (Some(CacheTier::Memory), 0));
        let state = shell.state(run);
        assert_eq!(
            state.task(state.find("a", None).unwrap()).cached.as_deref(),
            Some(&FROM_MEMORY)
        );
    }
}

#[test]
fn a_crash_of_the_coordinator_loses_nobody_who_waited() {
    let mut shell = Shell::with_worker(9);
    let definition = flow([cached("a", &json!({}))]);
    let runs: Vec<_> = (0..3).map(|_| submit(&mut shell, &definition)).collect();
    shell.crash();
    shell.join(0).unwrap();
    shell.settle();
    shell.work();
    for run in runs {
        assert_eq!(shell.state(run).status, RunStatus::Succeeded);
    }
}

#[test]
fn a_result_on_its_way_into_the_cache_is_used() {
    let mut shell = Shell::with_worker(9);
    let definition = flow([cached("a", &json!({}))]);
    submit(&mut shell, &definition);
    // Looked up before the result is in the cache, answered after.
    let late = shell.run(&definition);
    let missed = shell.prepares.remove(0);
    let answer = crate::preparer::prepare(&missed, &shell.cache);
    let (worker, token) = shell.attempts()[0];
    shell.complete(worker, token, Ok(Bytes::from_static(b"7")));
    shell.flush();
    shell.commit_all();
    let between = shell.run(&definition);
    shell.answer_prepare(0);
    shell.keep(0);
    let event = Event::Prepared {
        run: missed.run,
        task: missed.task,
        ticket: missed.ticket,
        result: answer,
    };
    shell.event(event).unwrap();
    shell.settle();
    for run in [between, late] {
        assert_eq!(tier(&shell, run, "a"), (Some(CacheTier::Flight), 0));
    }
    // Then it is forgotten here, and the cache alone knows it.
    shell.cache.clear();
    submit(&mut shell, &definition);
    assert_eq!(shell.running(), ["a"]);
}
