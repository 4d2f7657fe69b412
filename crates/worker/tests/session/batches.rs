//! Handlers that get many attempts in one call.

use std::time::Duration;

use levelflow_worker::{BatchOptions, Context, HandlerError, WorkerBuilder};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

use crate::coordinator::{Session, attempt, session, soon};

const MINUTE: Duration = Duration::from_secs(60);

/// A worker with a handler that doubles numbers, and the sizes of the calls.
fn doubling(
    builder: WorkerBuilder,
    max_size: usize,
    max_wait: Duration,
) -> (WorkerBuilder, UnboundedReceiver<usize>) {
    let (called, calls) = unbounded_channel();
    let options = BatchOptions { max_size, max_wait };
    let double = move |attempts: Vec<(Context, u64)>| {
        called.send(attempts.len()).unwrap();
        let doubled = attempts.into_iter().map(|(_, number)| Ok(number * 2));
        std::future::ready(Ok(doubled.collect()))
    };
    (builder.batch_handler("double", options, double), calls)
}

/// Waits until so many attempts run, as the worker sees it.
async fn running(session: &mut Session, count: usize) {
    let runs = |session: &Session| {
        let beat = session.heartbeat.as_ref();
        beat.is_some_and(|beat| beat.running.len() == count)
    };
    session.until(runs).await;
}

#[tokio::test]
async fn a_hundred_tasks_in_calls_of_at_most_eight() {
    let mut calls = None;
    let (mut session, _worker) = session(|builder| {
        let (builder, receiver) =
            doubling(builder.slots(20).prefetch(20), 8, Duration::from_millis(5));
        calls = Some(receiver);
        builder
    })
    .await;
    let (mut next, mut ended) = (1, 0);
    while ended < 100 {
        let last = (next + u64::from(session.credits)).min(101);
        if next < last {
            let attempts = (next..last).map(|n| attempt(n, "double", &n.to_string()));
            session.dispatch(attempts.collect()).await;
            next = last;
        }
        let outcomes = session.outcomes(1).await;
        for outcome in &outcomes {
            assert_eq!(outcome.output, (outcome.token * 2).to_string());
            ended += 1;
        }
        let tokens: Vec<_> = outcomes.iter().map(|outcome| outcome.token).collect();
        session.acknowledge(&tokens).await;
    }
    let mut calls = calls.unwrap();
    let sizes: Vec<_> = std::iter::from_fn(|| calls.try_recv().ok()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 100);
    assert_eq!(sizes.iter().max(), Some(&8), "{sizes:?}");
}

#[tokio::test]
async fn a_partial_batch_goes_when_the_first_has_waited() {
    let mut calls = None;
    let (mut session, _worker) = session(|builder| {
        let (builder, receiver) = doubling(builder, 8, Duration::from_millis(300));
        calls = Some(receiver);
        builder
    })
    .await;
    let attempts = (1..=3).map(|n| attempt(n, "double", &n.to_string()));
    session.dispatch(attempts.collect()).await;
    assert_eq!(session.outcomes(3).await[2].output, "6");
    assert_eq!(soon(calls.unwrap().recv()).await, Some(3));
}

#[tokio::test]
async fn a_cancelled_attempt_does_not_disturb_the_others() {
    let (called, mut calls) = unbounded_channel();
    let (open, gate) = watch::channel(false);
    let (mut session, _worker) = session(|builder| {
        let options = BatchOptions {
            max_size: 3,
            max_wait: MINUTE,
        };
        builder.cancel_grace(Duration::ZERO).batch_handler(
            "gate",
            options,
            move |attempts: Vec<(Context, u64)>| {
                let numbers: Vec<u64> = attempts.iter().map(|(_, number)| *number).collect();
                called.send(numbers.clone()).unwrap();
                let mut gate = gate.clone();
                async move {
                    gate.wait_for(|open| *open).await?;
                    Ok(numbers.into_iter().map(Ok).collect())
                }
            },
        )
    })
    .await;
    let gated = |token: u64| attempt(token, "gate", &token.to_string());
    session.dispatch(vec![gated(1), gated(2)]).await;
    running(&mut session, 2).await;
    session.cancel(1).await;
    let outcome = session.outcome().await;
    assert_eq!(
        (outcome.token, outcome.failure.unwrap().code),
        (1, "cancelled".to_owned())
    );
    session.dispatch(vec![gated(3), gated(4)]).await;
    let mut called = soon(calls.recv()).await.unwrap();
    called.sort_unstable();
    assert_eq!(called, [2, 3, 4]);

    session.cancel(3).await;
    let outcome = session.outcome().await;
    assert_eq!(
        (outcome.token, outcome.failure.unwrap().code),
        (3, "cancelled".to_owned())
    );
    open.send(true).unwrap();
    let outcomes = session.outcomes(2).await;
    let outputs: Vec<_> = outcomes.iter().map(|outcome| &outcome.output[..]).collect();
    assert_eq!(outputs, [b"2", b"4"]);
}

#[tokio::test]
async fn each_attempt_has_its_own_timeout() {
    let (mut session, _worker) = session(|builder| doubling(builder, 8, MINUTE).0).await;
    let mut short = attempt(1, "double", "1");
    short.timeout_us = 20_000;
    session
        .dispatch(vec![short, attempt(2, "double", "2")])
        .await;
    let outcome = session.outcome().await;
    assert_eq!(
        (outcome.token, outcome.failure.unwrap().code),
        (1, "run_timeout".to_owned())
    );
    running(&mut session, 1).await;
}

#[tokio::test]
async fn batches_fail_as_a_whole_or_one_by_one() {
    let (mut session, _worker) = session(|builder| {
        let options = BatchOptions {
            max_size: 2,
            max_wait: MINUTE,
        };
        let answer = async |attempts: Vec<(Context, String)>| {
            let mut results: Vec<Result<String, HandlerError>> = Vec::new();
            for (_, text) in attempts {
                results.push(match text.as_str() {
                    "panic" => panic!("out of {}", "cheese"),
                    "call" => return Err(HandlerError::permanent("no call")),
                    "short" => return Ok(Vec::new()),
                    "one" => Err(HandlerError::permanent("only this one")),
                    text => Ok(text.to_owned()),
                });
            }
            Ok(results)
        };
        builder.batch_handler("answer", options, answer)
    })
    .await;
    let panicked = (
        "handler_panicked",
        "the handler panicked: out of cheese",
        true,
    );
    let short = (
        "handler_failed",
        "the batch handler gave 0 results for 2 attempts",
        false,
    );
    let call = ("handler_failed", "no call", false);
    let one = ("handler_failed", "only this one", false);
    for (input, failure, other) in [
        ("panic", panicked, Some(panicked)),
        ("short", short, Some(short)),
        ("call", call, Some(call)),
        ("one", one, None),
    ] {
        let first = attempt(1, "answer", &format!("\"{input}\""));
        let attempts = vec![first, attempt(2, "answer", "\"fine\"")];
        session.dispatch(attempts).await;
        let outcomes = session.outcomes(2).await;
        session.acknowledge(&[1, 2]).await;
        for (outcome, expected) in outcomes.into_iter().zip([Some(failure), other]) {
            let failure = outcome.failure.as_ref();
            let failure = failure.map(|f| (f.code.as_str(), f.message.as_str(), f.retryable));
            assert_eq!(failure, expected, "{input}");
            assert_eq!(&outcome.output[..] == b"\"fine\"", expected.is_none());
        }
    }

    // An input that does not fit is no part of a call.
    session
        .dispatch(vec![
            attempt(1, "answer", "7"),
            attempt(2, "answer", "\"a\""),
            attempt(3, "answer", "\"b\""),
        ])
        .await;
    let outcomes = session.outcomes(3).await;
    let failure = outcomes[0].failure.as_ref().unwrap();
    assert_eq!(failure.code, "task_input_invalid");
    assert_eq!(outcomes[2].output, "\"b\"");
}

#[tokio::test]
async fn a_drain_calls_with_what_has_gathered() {
    let mut calls = None;
    let (mut session, worker) = session(|builder| {
        let (builder, receiver) = doubling(builder, 8, MINUTE);
        calls = Some(receiver);
        builder
    })
    .await;
    let attempts = (1..=3).map(|n| attempt(n, "double", &n.to_string()));
    session.dispatch(attempts.collect()).await;
    running(&mut session, 3).await;
    worker.shutdown.cancel();
    let outcomes = session.outcomes(3).await;
    assert_eq!(outcomes[2].output, "6");
    assert_eq!(soon(calls.unwrap().recv()).await, Some(3));
    session.acknowledge(&[1, 2, 3]).await;
    session.closed().await;
    drop(session);
    worker.ended().await.unwrap();
}
