//! Output that comes in chunks before the rest of it.

mod executors;

use std::time::Duration;

use levelflow_proto::v1;
use levelflow_worker::{Context, HandlerError, Worker, WorkerBuilder};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tonic::Status;

use crate::coordinator::{Coordinator, Running, Session, attempt, outcome_of, session, soon};

/// The limits of a chunk and of all chunks of an attempt.
const MAX_CHUNK_BYTES: usize = 64 * 1024;
const MAX_STREAM_BYTES: usize = 4 * 1024 * 1024;

/// A worker with handlers that count.
fn counting(builder: WorkerBuilder) -> WorkerBuilder {
    builder
        .cancel_grace(Duration::ZERO)
        .handler("count", async |ctx: Context, to: u32| {
            for number in 0..to {
                ctx.emit(&number).await?;
            }
            Ok(to)
        })
        .cpu_handler("count_on_cpu", |ctx, to| count(&ctx, to))
        .blocking_handler("count_blocking", |ctx, to| count(&ctx, to))
        .handler("fail", async |ctx: Context, to: u32| {
            for number in 0..to {
                ctx.emit(&number).await?;
            }
            Err::<(), _>(HandlerError::retryable("half way"))
        })
}

fn count(ctx: &Context, to: u32) -> Result<u32, HandlerError> {
    for number in 0..to {
        ctx.emit_blocking(&number)?;
    }
    Ok(to)
}

/// The chunks of an attempt, in order and each once, as they came in this session.
fn chunks_of(session: &Session, token: u64) -> Vec<Value> {
    let mut chunks = Vec::new();
    for chunk in session.chunks.iter().filter(|chunk| chunk.token == token) {
        assert_eq!(
            chunk.index as usize,
            chunks.len(),
            "in order, without a gap"
        );
        chunks.push(serde_json::from_slice(&chunk.data).unwrap());
    }
    chunks
}

fn numbers(to: u32) -> Vec<Value> {
    (0..to).map(|number| json!(number)).collect()
}

#[tokio::test]
async fn chunks_come_in_order_before_their_outcome() {
    let (mut session, _worker) = session(counting).await;
    for (token, handler) in [(1, "count"), (2, "count_on_cpu"), (3, "count_blocking")] {
        let outcome = outcome_of(&mut session, attempt(token, handler, "300")).await;
        assert_eq!((outcome.failure, outcome.chunks), (None, 300));
        assert_eq!(chunks_of(&session, token), numbers(300));
    }
    let outcome = outcome_of(&mut session, attempt(4, "fail", "3")).await;
    assert_eq!(outcome.failure.unwrap().message, "half way");
    assert_eq!(outcome.chunks, 3);
    assert_eq!(chunks_of(&session, 4), numbers(3));
    let outcome = outcome_of(&mut session, attempt(5, "count", "0")).await;
    assert_eq!(outcome.chunks, 0);
}

#[tokio::test]
async fn attempts_that_end_at_once_give_chunks_too() {
    let (mut session, _worker) = session(counting).await;
    // After many of them the worker trusts the handler, and runs it inside of the session.
    for token in 1..200 {
        let outcome = outcome_of(&mut session, attempt(token, "count", "2")).await;
        assert_eq!(outcome.chunks, 2);
        assert_eq!(chunks_of(&session, token), numbers(2));
    }
}

/// A handler that gives a chunk each time that it is told to.
fn told(builder: WorkerBuilder) -> (WorkerBuilder, watch::Sender<u32>) {
    let (tell, told) = watch::channel(0);
    let builder = builder.handler("told", move |ctx: Context, to: u32| {
        let mut told = told.clone();
        async move {
            for number in 0..to {
                told.wait_for(|most| *most > number).await?;
                ctx.emit(&number).await?;
            }
            Ok(to)
        }
    });
    (builder, tell)
}

#[tokio::test]
async fn everything_comes_again_until_the_outcome_is_acknowledged() {
    let mut coordinator = Coordinator::start().await;
    let (builder, tell) = told(Worker::builder().address(coordinator.address.as_str()));
    let worker = Running::start(builder.build().unwrap());
    let (mut first, _) = coordinator.welcome().await;
    first.until(|session| session.credits > 0).await;
    first.dispatch(vec![attempt(1, "told", "4")]).await;
    tell.send(2).unwrap();
    first.until(|session| session.chunks.len() == 2).await;
    first.refuse(Status::unavailable("lost")).await;

    // What the handler gives while there is no session is sent in the next, after what was lost.
    tell.send(3).unwrap();
    let (mut second, hello) = coordinator.welcome().await;
    assert_eq!(hello.held, [1]);
    second.until(|session| session.chunks.len() == 3).await;
    assert_eq!(chunks_of(&second, 1), numbers(3));
    tell.send(4).unwrap();
    let outcome = second.outcomes(1).await.remove(0);
    assert_eq!(outcome.chunks, 4);
    second.refuse(Status::unavailable("lost")).await;

    let (mut third, _) = coordinator.welcome().await;
    let outcome = third.outcome().await;
    assert_eq!(outcome.chunks, 4);
    assert_eq!(chunks_of(&third, 1), numbers(4));
    worker.shutdown.cancel();
    third.closed().await;
    worker.ended().await.unwrap();
    assert_eq!(
        chunks_of(&third, 1).len(),
        4,
        "nothing after the acknowledgement"
    );
}

#[tokio::test]
async fn chunks_of_a_revoked_attempt_are_not_sent_again() {
    let mut coordinator = Coordinator::start().await;
    let (builder, tell) = told(Worker::builder().address(coordinator.address.as_str()));
    let _worker = Running::start(builder.cancel_grace(Duration::ZERO).build().unwrap());
    let (mut first, _) = coordinator.welcome().await;
    first.until(|session| session.credits > 1).await;
    first
        .dispatch(vec![attempt(1, "told", "9"), attempt(2, "told", "3")])
        .await;
    tell.send(2).unwrap();
    first.until(|session| session.chunks.len() == 4).await;
    first.refuse(Status::unavailable("lost")).await;
    let (mut second, _) = coordinator.accept().await;
    second.welcome(60_000, &[1]).await;
    tell.send(9).unwrap();
    assert_eq!(second.outcome().await.token, 2);
    assert_eq!(chunks_of(&second, 1), numbers(0));
    assert_eq!(chunks_of(&second, 2), numbers(3));
}

#[tokio::test]
async fn a_handler_that_gives_much_waits_for_a_coordinator_that_does_not_read() {
    let (given, mut progress) = mpsc::unbounded_channel();
    let (mut session, _worker) = session(|builder| {
        builder.handler("much", move |ctx: Context, (): ()| {
            let given = given.clone();
            async move {
                let chunk = "x".repeat(60_000);
                for number in 0..60 {
                    ctx.emit(&chunk).await?;
                    let _ = given.send(number);
                }
                Ok(())
            }
        })
    })
    .await;
    session.dispatch(vec![attempt(1, "much", "null")]).await;
    // Neither side reads: what is under way has a bound, far from all of it. Then all comes.
    soon(progress.recv()).await.unwrap();
    let outcome = session.outcome().await;
    assert_eq!((outcome.failure, outcome.chunks), (None, 60));
    assert_eq!(chunks_of(&session, 1).len(), 60);
}

#[tokio::test]
async fn chunks_over_a_limit_fail_the_attempt_unless_its_handler_does_not_mind() {
    let (mut session, _worker) = session(|builder| {
        builder
            .handler("emit", async |ctx: Context, (size, count): (usize, u32)| {
                let chunk = "x".repeat(size);
                for _ in 0..count {
                    ctx.emit(&chunk).await?;
                }
                Ok(())
            })
            .handler("try", async |ctx: Context, size: usize| {
                let refused = ctx.emit(&"x".repeat(size)).await.unwrap_err();
                ctx.emit("small").await?;
                Ok(refused.code())
            })
    })
    .await;
    let fits = format!("[{}, 1]", MAX_CHUNK_BYTES - 2);
    let outcome = outcome_of(&mut session, attempt(1, "emit", &fits)).await;
    assert_eq!((outcome.failure, outcome.chunks), (None, 1));
    let too_large = format!("[{}, 1]", MAX_CHUNK_BYTES - 1);
    let too_many = format!("[{}, {}]", 50_000, MAX_STREAM_BYTES / 50_000 + 1);
    for (token, input, chunks) in [(2, too_large, 0), (3, too_many, MAX_STREAM_BYTES / 50_002)] {
        let outcome = outcome_of(&mut session, attempt(token, "emit", &input)).await;
        let failure = outcome.failure.unwrap();
        assert_eq!(
            (failure.code.as_str(), failure.retryable),
            ("stream_too_large", false)
        );
        assert_eq!(outcome.chunks as usize, chunks);
    }
    let size = MAX_CHUNK_BYTES.to_string();
    let outcome = outcome_of(&mut session, attempt(4, "try", &size)).await;
    assert_eq!(outcome.output, "\"stream_too_large\"");
    assert_eq!(chunks_of(&session, 4), [json!("small")]);
}

#[tokio::test]
async fn a_cancelled_attempt_gives_no_more_chunks() {
    let (mut session, _worker) = session(|builder| {
        builder.blocking_handler("endless", |ctx: Context, (): ()| -> Result<(), _> {
            for number in 0_u64.. {
                ctx.emit_blocking(&number)?;
                std::thread::sleep(Duration::from_micros(100));
            }
            Err(HandlerError::permanent("out of numbers"))
        })
    })
    .await;
    session.dispatch(vec![attempt(1, "endless", "null")]).await;
    session.until(|session| !session.chunks.is_empty()).await;
    session.cancel(1).await;
    let outcome = session.outcome().await;
    assert_eq!(outcome.failure.unwrap().code, "cancelled");
    assert_eq!(chunks_of(&session, 1).len(), outcome.chunks as usize);
}

#[tokio::test]
async fn a_chunk_is_progress() {
    let mut tell = None;
    let (mut session, _worker) = session(|builder| {
        let (builder, told) = told(builder);
        tell = Some(told);
        builder
    })
    .await;
    let tell = tell.unwrap();
    let silent = v1::Attempt {
        heartbeat_timeout_us: 50_000,
        ..attempt(1, "told", "2")
    };
    tell.send(1).unwrap();
    session.dispatch(vec![silent]).await;
    session
        .until(|session| {
            let heartbeat = session.heartbeat.as_ref();
            heartbeat.is_some_and(|heartbeat| heartbeat.progressed == [1])
        })
        .await;
    let failure = session.outcome().await.failure.unwrap();
    assert_eq!(failure.code, "heartbeat_timeout");
}
