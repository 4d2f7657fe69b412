//! Chunks that come with the outcome of an attempt, and what their keeper asks.

use std::time::Duration;

use bytes::Bytes;
use levelflow_common::chunk::pack;
use levelflow_common::limits::MAX_RUN_OUTPUT_BYTES;
use levelflow_common::{Code, Failure, TaskStatus};
use levelflow_engine::event::SessionId;
use levelflow_engine::record::RecordedStream;
use levelflow_engine::{Event, Fact, Rejection, TaskIndex};
use serde_json::json;

use crate::definitions::{flow, task};
use crate::shell::{Shell, stream};

#[test]
fn chunks_are_recorded_with_the_result_and_not_with_a_failure() {
    let mut shell = Shell::with_worker(1);
    let retry = json!({ "retry": { "max_attempts": 9, "initial": "1s", "jitter": false } });
    let run = shell.run(&flow([task("a", &[], retry)]));
    let number = shell.numbers[&run];
    // Until an attempt has a token with chunks, and then the next.
    let mut failed = 0;
    loop {
        let (_, token) = shell.attempts()[0];
        if failed > 0 && stream(token).is_some() {
            shell.finish("a", Ok(Bytes::from_static(b"1")));
            let state = shell.state(run);
            let expected = stream(token).unwrap();
            assert_eq!(state.task(TaskIndex(0)).chunks, expected.chunks);
            assert_eq!(state.output_bytes, 1 + expected.packed.len());
            let recorded = shell.journals[&number]
                .iter()
                .filter_map(|record| match &record.fact {
                    Fact::Succeeded { stream, .. } => stream.clone(),
                    _ => None,
                });
            assert_eq!(recorded.collect::<Vec<_>>(), [expected]);
            return;
        }
        let no = Failure::retryable(Code::HandlerFailed, "no");
        shell.finish("a", Err(no));
        failed += 1;
        shell.pass(Duration::from_secs(16));
    }
}

#[test]
fn chunks_count_as_output_of_the_run() {
    let mut shell = Shell::with_worker(1);
    let run = shell.run(&flow([task("a", &[], json!({}))]));
    let (worker, token) = shell.attempts()[0];
    let holder = &mut shell.workers[worker];
    let session = holder.session.unwrap();
    let held = holder.held.get_mut(&token).unwrap();
    held.outcome = Some(Ok(Bytes::from_static(b"1")));
    let large = Bytes::from(vec![b'1'; MAX_RUN_OUTPUT_BYTES]);
    let recorded = RecordedStream {
        stream: token,
        chunks: 1,
        packed: pack(&[large]),
    };
    shell
        .event(Event::Outcome {
            session,
            token,
            result: Ok(Bytes::from_static(b"1")),
            duration: Duration::ZERO,
            upstreams: None,
            stream: Some(Box::new(recorded)),
        })
        .unwrap();
    shell.settle();
    let task = shell.state(run).task(TaskIndex(0));
    assert_eq!(task.status, TaskStatus::Failed);
    assert_eq!(task.failure.as_ref().unwrap().code, Code::OutputTooLarge);
    assert_eq!(task.chunks, 0);
}

#[test]
fn only_the_worker_that_holds_an_attempt_gives_its_chunks() {
    let mut shell = Shell::with_worker(1);
    let run = shell.run(&flow([
        task("a", &[], json!({})),
        task("b", &["a"], json!({})),
    ]));
    let (worker, token) = shell.attempts()[0];
    let session = shell.workers[worker].session.unwrap();
    let place = shell.engine.attempt_of(session, token).unwrap();
    assert_eq!(
        (place.run_id, place.task, place.attempt),
        (run, TaskIndex(0), 1)
    );
    let other = SessionId(session.0 + 1_000);
    assert_eq!(shell.engine.attempt_of(other, token), None);

    let followed = |shell: &Shell, task: &str| shell.engine.followed_task(run, task, None);
    let a = followed(&shell, "a").unwrap();
    assert_eq!(
        (a.task, a.ended, a.attempt),
        (TaskIndex(0), false, Some((token, 1)))
    );
    let b = followed(&shell, "b").unwrap();
    assert_eq!((b.task, b.ended, b.attempt), (TaskIndex(1), false, None));
    assert!(matches!(
        followed(&shell, "c").unwrap_err(),
        Rejection::TaskNotFound { .. }
    ));
    assert_eq!(shell.engine.task_end(run, a.task), None);
    shell.succeed("a");
    assert_eq!(shell.engine.attempt_of(session, token), None);
    let a = followed(&shell, "a").unwrap();
    assert!(a.ended && a.attempt.is_none());
    let end = shell.engine.task_end(run, a.task).unwrap();
    assert_eq!((end.status, end.attempt), (TaskStatus::Succeeded, 1));
    let name = shell.engine.task_ref(run, b.task).unwrap();
    assert_eq!((&*name.task_id, name.item), ("b", None));
}
