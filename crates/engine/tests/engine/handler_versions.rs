//! Cached results of handlers whose code changes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::{CacheTier, RunId};
use levelflow_engine::{Config, Definition, Event, HandlerVersion};
use serde_json::json;

use crate::definitions::{flow, task};
use crate::explanations::coded;
use crate::shell::Shell;
use crate::worker::FakeWorker;

fn calls_handler() -> Arc<Definition> {
    let calls = json!({ "type": "handler", "with": { "name": "h", "input": 1 }, "cache": {} });
    flow([task("a", &[], calls)])
}

/// Adds a worker whose handler has this version.
fn join(shell: &mut Shell, name: &str, version: &str) -> usize {
    let mut worker = FakeWorker::new(name, 1);
    worker
        .versions
        .insert("h".to_owned(), HandlerVersion::new(version));
    shell.workers.push(worker);
    let place = shell.workers.len() - 1;
    shell.join(place).unwrap();
    shell.settle();
    place
}

/// Starts a worker anew, with another version of its handler.
fn upgrade(shell: &mut Shell, worker: usize, version: &str) {
    shell.restart(worker);
    let versions = &mut shell.workers[worker].versions;
    versions.insert("h".to_owned(), HandlerVersion::new(version));
    shell.join(worker).unwrap();
    shell.settle();
}

fn submit(shell: &mut Shell) -> RunId {
    let run = shell.run(&calls_handler());
    shell.settle();
    run
}

/// Where the result of the task came from, and the result.
fn result(shell: &Shell, run: RunId) -> (Option<CacheTier>, &str) {
    let task = &shell.state(run).tasks[0];
    let output = task.output.as_deref().expect("it has ended");
    let tier = task.cached.as_ref().map(|from| from.tier);
    (tier, std::str::from_utf8(output).unwrap())
}

fn finish(shell: &mut Shell, output: &'static str) {
    shell.finish("a", Ok(Bytes::from_static(output.as_bytes())));
}

fn why(shell: &Shell, run: RunId) -> Vec<(&'static str, String)> {
    let (_, told) = shell.engine.explain(shell.now, run, "a", None).unwrap();
    told.reasons.into_iter().map(coded).collect()
}

#[test]
fn a_result_of_one_version_is_none_of_another() {
    let mut shell = Shell::new(Config::default());
    let worker = join(&mut shell, "w", "1");
    submit(&mut shell);
    finish(&mut shell, "10");
    let again = submit(&mut shell);
    assert_eq!(result(&shell, again), (Some(CacheTier::Memory), "10"));

    upgrade(&mut shell, worker, "2");
    let newer = submit(&mut shell);
    finish(&mut shell, "20");
    assert_eq!(result(&shell, newer), (None, "20"));
    upgrade(&mut shell, worker, "");
    let without = submit(&mut shell);
    finish(&mut shell, "30");
    assert_eq!(result(&shell, without), (None, "30"));

    upgrade(&mut shell, worker, "1");
    let older = submit(&mut shell);
    assert_eq!(result(&shell, older), (Some(CacheTier::Memory), "10"));
    assert_eq!(shell.cache.len(), 3);
}

#[test]
fn while_versions_differ_nothing_is_looked_up_or_kept() {
    let mut shell = Shell::new(Config::default());
    let first = join(&mut shell, "w1", "1");
    submit(&mut shell);
    finish(&mut shell, "10");

    join(&mut shell, "w2", "2");
    let runs = [submit(&mut shell), submit(&mut shell)];
    assert_eq!(shell.running(), ["a"; 2], "neither waits for the other");
    let told = "its result is neither taken from the cache nor kept there: connected workers have different versions of its handler, `1` and `2`";
    assert_eq!(
        why(&shell, runs[0])[1],
        ("version_unknown", told.to_owned())
    );
    finish(&mut shell, "11");
    finish(&mut shell, "21");
    for run in runs {
        assert_eq!(result(&shell, run).0, None);
    }
    assert_eq!(shell.cache.len(), 1);

    // A worker that drains gets nothing new, so it does not count.
    let session = shell.workers[first].session.unwrap();
    shell.event(Event::Draining { session }).unwrap();
    submit(&mut shell);
    finish(&mut shell, "22");
    let again = submit(&mut shell);
    assert_eq!(result(&shell, again), (Some(CacheTier::Memory), "22"));
}

#[test]
fn without_a_worker_nobody_knows_the_version() {
    let mut shell = Shell::new(Config::default());
    let worker = join(&mut shell, "w", "1");
    submit(&mut shell);
    finish(&mut shell, "10");
    shell.leave(worker);
    let run = submit(&mut shell);
    let told = why(&shell, run);
    let codes: Vec<_> = told.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, ["no_worker", "queued", "version_unknown"]);
    upgrade(&mut shell, worker, "2");
    finish(&mut shell, "20");
    assert_eq!(result(&shell, run), (None, "20"));
    assert_eq!(shell.cache.len(), 1, "it is kept under no version");
}

#[test]
fn a_retry_asks_for_the_version_that_will_compute_it() {
    let mut shell = Shell::new(Config::default());
    let worker = join(&mut shell, "w", "1");
    let leader = submit(&mut shell);
    let follower = submit(&mut shell);
    assert_eq!(why(&shell, follower)[0].0, "same_result");
    // The attempt is lost with its process. Both tasks are prepared anew, for the version that is there then.
    upgrade(&mut shell, worker, "2");
    shell.pass(Duration::from_secs(60));
    finish(&mut shell, "20");
    assert_eq!(result(&shell, leader), (None, "20"));
    assert_eq!(result(&shell, follower), (Some(CacheTier::Flight), "20"));
    let again = submit(&mut shell);
    assert_eq!(result(&shell, again), (Some(CacheTier::Memory), "20"));
    assert_eq!(shell.cache.len(), 1);
}

#[test]
fn what_was_queued_for_one_version_and_computed_by_another_is_not_kept() {
    let mut shell = Shell::new(Config::default());
    let worker = join(&mut shell, "w", "1");
    shell.workers[worker].slots = 0;
    let busy = task(
        "busy",
        &[],
        json!({ "type": "handler", "with": { "name": "h" } }),
    );
    shell.run(&flow([busy]));
    shell.settle();
    let leader = submit(&mut shell);
    let follower = submit(&mut shell);
    shell.succeed("busy");
    assert_eq!(shell.running(), [""; 0], "it grants no more");
    shell.workers[worker].slots = 1;
    upgrade(&mut shell, worker, "2");
    assert_eq!(shell.running(), ["a"]);
    finish(&mut shell, "20");
    assert_eq!(result(&shell, leader), (None, "20"));
    assert!(
        shell.cache.is_empty(),
        "version 2 computed what was asked of 1"
    );
    assert_eq!(shell.running(), ["a"], "the follower computes for itself");
    finish(&mut shell, "21");
    assert_eq!(result(&shell, follower), (None, "21"));
    assert_eq!(shell.cache.len(), 1);
    let again = submit(&mut shell);
    assert_eq!(result(&shell, again), (Some(CacheTier::Memory), "21"));
}
