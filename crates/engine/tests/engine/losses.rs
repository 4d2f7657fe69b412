//! Workers that go without a word.

use std::sync::Arc;
use std::time::Duration;

use levelflow_engine::Event;
use serde_json::json;

use crate::definitions::{flow, task};
use crate::shell::Shell;

fn lost(shell: &mut Shell) -> Vec<(Arc<str>, usize)> {
    shell.settle();
    std::mem::take(&mut shell.lost)
}

fn wait(shell: &mut Shell, seconds: u64) {
    for _ in 0..seconds {
        shell.advance(Duration::from_secs(1));
    }
}

#[test]
fn a_worker_that_stays_away_is_lost_with_what_it_ran() {
    let mut shell = Shell::with_worker(2);
    shell.run(&flow(["a", "b"].map(|id| task(id, &[], json!({})))));
    shell.settle();
    shell.leave(0);
    wait(&mut shell, 15);
    assert_eq!(lost(&mut shell), []);
    wait(&mut shell, 2);
    assert_eq!(lost(&mut shell), [("w".into(), 2)]);
    wait(&mut shell, 60);
    assert_eq!(lost(&mut shell), [], "it is told once");
}

#[test]
fn an_idle_worker_is_lost_unless_it_drained_or_comes_back() {
    let mut shell = Shell::with_worker(1);
    shell.leave(0);
    wait(&mut shell, 10);
    shell.join(0).unwrap();
    wait(&mut shell, 60);
    assert_eq!(lost(&mut shell), [], "it came back");

    shell.leave(0);
    wait(&mut shell, 17);
    assert_eq!(lost(&mut shell), [("w".into(), 0)]);

    shell.join(0).unwrap();
    let session = shell.workers[0].session.unwrap();
    shell.event(Event::Draining { session }).unwrap();
    shell.leave(0);
    wait(&mut shell, 60);
    assert_eq!(lost(&mut shell), [], "it drained");
}

#[test]
fn another_process_of_the_same_name_tells_that_the_first_was_lost() {
    let mut shell = Shell::with_worker(1);
    shell.run(&flow([task("a", &[], json!({}))]));
    shell.settle();
    shell.restart(0);
    shell.join(0).unwrap();
    assert_eq!(lost(&mut shell), [("w".into(), 1)]);
    wait(&mut shell, 60);
    assert_eq!(lost(&mut shell), []);
}

#[test]
fn a_silent_worker_loses_attempts_while_it_is_connected() {
    let mut shell = Shell::with_worker(1);
    shell.run(&flow([task("a", &[], json!({}))]));
    shell.settle();
    wait(&mut shell, 17);
    assert_eq!(lost(&mut shell), [("w".into(), 1)]);
}
