//! Shards that change hands.

use std::time::Duration;

use levelflow_common::{Code, RunStatus, ShardCount, ShardId, TaskStatus};
use levelflow_engine::{Config, Rejection};
use serde_json::json;
use uuid::Uuid;

use crate::definitions::{flow, task};
use crate::shell::Shell;
use crate::worker::FakeWorker;

const SHARD: ShardId = ShardId(2);

fn shell() -> Shell {
    let config = Config {
        shards: ShardCount::new(8).unwrap(),
        ..Config::default()
    };
    let mut shell = Shell::new(config);
    shell.workers.push(FakeWorker::new("w", 4));
    shell.join(0).unwrap();
    shell
}

fn submit(
    shell: &mut Shell,
    shard: ShardId,
    id: u128,
) -> Result<levelflow_common::RunId, Rejection> {
    let definition = flow([
        task("a", &[], json!({ "retry": { "max_attempts": 1 } })),
        task("b", &["a"], json!({})),
    ]);
    let mut submitted = shell.submission(&definition);
    submitted.run_id = shell.config.shards.run_id(shard, Uuid::from_u128(id << 20));
    let run_id = submitted.run_id;
    shell.submit(submitted)?;
    shell.settle();
    Ok(run_id)
}

#[test]
fn what_runs_when_a_shard_is_withdrawn_still_counts_and_nothing_more_starts() {
    let mut shell = shell();
    let leaving = submit(&mut shell, SHARD, 1).unwrap();
    let staying = submit(&mut shell, ShardId(3), 2).unwrap();
    assert_eq!(shell.running(), ["a", "a"]);
    shell.engine.withdraw(shell.now, &[SHARD]);
    assert_eq!(shell.engine.leases_in(&[SHARD]), 1);
    assert_eq!(
        submit(&mut shell, SHARD, 3),
        Err(Rejection::ShardElsewhere(SHARD))
    );

    shell.succeed("a");
    assert_eq!(shell.engine.leases_in(&[SHARD]), 0);
    assert_eq!(shell.running(), ["a"], "what follows is for the next owner");
    assert_eq!(shell.status(leaving, "a"), TaskStatus::Succeeded);
    assert_eq!(shell.status(leaving, "b"), TaskStatus::Ready);

    shell.give_away(&[SHARD].into());
    assert!(shell.engine.view(leaving).is_none());
    let refused = shell.cancel(leaving).unwrap_err();
    assert_eq!(refused.code(), Code::RunNotFound);
    shell.work();
    assert_eq!(shell.state(staying).status, RunStatus::Succeeded);

    shell.take_up(&[SHARD].into());
    shell.settle();
    assert_eq!(shell.running(), ["b"]);
    shell.work();
    assert_eq!(shell.state(leaving).status, RunStatus::Succeeded);
}

#[test]
fn what_is_cut_off_is_stopped_and_was_never_started() {
    let mut shell = shell();
    let run = submit(&mut shell, SHARD, 1).unwrap();
    let (worker, token) = shell.attempts()[0];
    shell.give_away(&[SHARD].into());
    shell.settle();
    assert!(shell.workers[worker].held[&token].stopped);
    shell.take_up(&[SHARD].into());
    shell.settle();
    let (_, newer) = shell.attempts()[1];
    assert!(newer > token);
    shell.complete(worker, token, Ok("1".into()));
    assert_eq!(
        shell.engine.load().stale_results,
        1,
        "the old one is refused"
    );
    shell.complete(worker, newer, Ok("2".into()));
    shell.work();
    let state = shell.state(run);
    assert_eq!(state.status, RunStatus::Succeeded);
    assert_eq!(
        state.tasks[0].attempts, 1,
        "its only attempt was not used up"
    );
    assert_eq!(state.tasks[0].output.as_deref(), Some(&b"2"[..]));
}

#[test]
fn numbers_name_their_shard_and_grow_with_time() {
    let mut shell = shell();
    let mut last = 0;
    for id in 1..40 {
        let shard = ShardId((id % 8) as u16);
        let run = submit(&mut shell, shard, id).unwrap();
        let number = shell.numbers[&run].0;
        assert!(number > last);
        assert_eq!(shell.config.shards.of_number(number), shard);
        last = number;
        shell.work();
        shell.advance(Duration::from_millis(id as u64 % 3));
    }
    // Another engine that never saw these gives higher ones a moment later.
    shell.advance(Duration::from_millis(1));
    let now = shell.now;
    let mut other = Shell::new(shell.config.clone());
    other.now = now;
    let run = submit(&mut other, ShardId(0), 1).unwrap();
    assert!(other.numbers[&run].0 > last);
}
