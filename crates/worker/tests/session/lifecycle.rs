//! Hello, credits, reconnects, drains.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use levelflow_proto::v1;
use levelflow_worker::{Context, HandlerError, Worker, WorkerBuilder, WorkerError};
use tokio::sync::{mpsc, watch};
use tonic::Status;

use crate::coordinator::{Coordinator, Running, attempt, soon};

/// A worker with a handler that ends at once and one that waits for a gate.
fn worker(coordinator: &Coordinator) -> (WorkerBuilder, Gate) {
    let (entered, entries) = mpsc::unbounded_channel();
    let (open, gate) = watch::channel(false);
    let builder = Worker::builder()
        .address(coordinator.address.as_str())
        .id("w1")
        .slots(2)
        .cancel_grace(Duration::ZERO)
        .handler("double", async |_, number: u64| Ok(number * 2))
        .handler("gate", move |ctx: Context, (): ()| {
            let (entered, mut gate) = (entered.clone(), gate.clone());
            async move {
                let _ = entered.send(ctx.task_id().to_owned());
                gate.wait_for(|open| *open).await?;
                Ok("through")
            }
        });
    (builder, Gate { entries, open })
}

struct Gate {
    entries: mpsc::UnboundedReceiver<String>,
    open: watch::Sender<bool>,
}

impl Gate {
    async fn entered(&mut self) {
        soon(self.entries.recv()).await.unwrap();
    }

    fn open(&self) {
        self.open.send(true).unwrap();
    }
}

fn start(builder: WorkerBuilder) -> Running {
    Running::start(builder.build().unwrap())
}

fn tokens(outcomes: &[v1::Outcome]) -> Vec<u64> {
    outcomes.iter().map(|outcome| outcome.token).collect()
}

#[tokio::test]
async fn says_hello_and_grants_its_slots() {
    let mut coordinator = Coordinator::start().await;
    let (builder, _gate) = worker(&coordinator);
    let _worker = start(builder.queue("images").label("zone", "eu"));
    let (mut session, hello) = coordinator.welcome().await;
    assert_eq!(hello.worker_id, "w1");
    assert_eq!(hello.protocol, levelflow_proto::protocol::PROTOCOL_VERSION);
    assert_eq!(hello.slots, 2);
    assert_eq!(hello.queues, ["images"]);
    assert_eq!(hello.labels["zone"], "eu");
    assert_eq!(hello.handlers, ["double", "gate"]);
    assert!(hello.held.is_empty());
    assert_eq!(session.frame().await.credits, 2);
}

#[tokio::test]
async fn gives_a_credit_back_with_each_outcome_and_never_more() {
    let mut coordinator = Coordinator::start().await;
    let (builder, _gate) = worker(&coordinator);
    let _worker = start(builder);
    let (mut session, _) = coordinator.welcome().await;
    session.until(|session| session.credits == 2).await;
    for token in 1..=100 {
        let input = token.to_string();
        session
            .dispatch(vec![attempt(token, "double", &input)])
            .await;
        let outcome = session.outcome().await;
        assert_eq!(outcome.token, token);
        assert_eq!(outcome.output, (token * 2).to_string());
        session.until(|session| session.credits == 2).await;
    }
}

#[tokio::test]
async fn refuses_attempts_beyond_its_credits() {
    let mut coordinator = Coordinator::start().await;
    let (builder, mut gate) = worker(&coordinator);
    let _worker = start(builder);
    let (mut session, _) = coordinator.welcome().await;
    session.until(|session| session.credits == 2).await;
    session
        .dispatch(
            (1..=3)
                .map(|token| attempt(token, "gate", "null"))
                .collect(),
        )
        .await;
    session.until(|session| session.refused == [3]).await;
    gate.entered().await;
    gate.entered().await;
    gate.open();
    assert_eq!(tokens(&session.outcomes(2).await), [1, 2]);
}

#[tokio::test]
async fn prefetched_attempts_wait_for_a_slot() {
    let mut coordinator = Coordinator::start().await;
    let (builder, mut gate) = worker(&coordinator);
    let _worker = start(builder.slots(1).prefetch(2));
    let (mut session, _) = coordinator.accept().await;
    session.welcome(50, &[]).await;
    session.until(|session| session.credits == 3).await;
    session
        .dispatch(
            (1..=3)
                .map(|token| attempt(token, "gate", "null"))
                .collect(),
        )
        .await;
    gate.entered().await;
    session
        .until(|session| {
            session
                .heartbeat
                .as_ref()
                .is_some_and(|beat| beat.running.len() == 3)
        })
        .await;
    assert!(gate.entries.is_empty(), "only one may run");
    session.cancel(2).await;
    let cancelled = session.outcome().await;
    assert_eq!(
        (cancelled.token, cancelled.failure.unwrap().code),
        (2, "cancelled".to_owned())
    );
    gate.open();
    assert_eq!(tokens(&session.outcomes(2).await), [1, 3]);
}

#[tokio::test]
async fn sends_outcomes_again_until_they_are_acknowledged() {
    let mut coordinator = Coordinator::start().await;
    let (builder, _gate) = worker(&coordinator);
    let _worker = start(builder);
    let (mut session, first_hello) = coordinator.welcome().await;
    session.until(|session| session.credits == 2).await;
    session
        .dispatch(vec![attempt(1, "double", "1"), attempt(2, "double", "2")])
        .await;
    let before = session.outcomes(2).await;
    session.acknowledge(&[1]).await;
    // The answer to this one proves that the worker has read the acknowledgement.
    session.until(|session| session.credits == 2).await;
    session.dispatch(vec![attempt(3, "double", "3")]).await;
    assert_eq!(tokens(&session.outcomes(1).await), [3]);
    drop(session);

    let (mut session, hello) = coordinator.accept().await;
    assert_eq!(hello.instance, first_hello.instance);
    let mut held = hello.held;
    held.sort_unstable();
    assert_eq!(held, [2, 3]);
    session.welcome(60_000, &[3]).await;
    let again = session.outcomes(1).await;
    assert_eq!(again, before[1..]);
    session.until(|session| session.credits == 2).await;
    session.acknowledge(&[2]).await;
    session.dispatch(vec![attempt(4, "double", "4")]).await;
    assert_eq!(tokens(&session.outcomes(1).await), [4]);
}

#[tokio::test]
async fn running_attempts_survive_a_lost_stream() {
    let mut coordinator = Coordinator::start().await;
    let (builder, mut gate) = worker(&coordinator);
    let _worker = start(builder);
    let (mut session, _) = coordinator.welcome().await;
    session.until(|session| session.credits == 2).await;
    session
        .dispatch(vec![attempt(1, "gate", "null"), attempt(2, "gate", "null")])
        .await;
    gate.entered().await;
    gate.entered().await;
    drop(session);

    let (mut session, hello) = coordinator.accept().await;
    let mut held = hello.held;
    held.sort_unstable();
    assert_eq!(held, [1, 2]);
    session.welcome(60_000, &[2]).await;
    gate.open();
    assert_eq!(
        tokens(&session.outcomes(1).await),
        [1],
        "nobody wants the other"
    );
    session.until(|session| session.credits == 2).await;
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_waits_for_acknowledgement() {
    let mut coordinator = Coordinator::start().await;
    let (builder, mut gate) = worker(&coordinator);
    let worker = start(builder.slots(1).prefetch(1));
    let (mut session, _) = coordinator.welcome().await;
    session.until(|session| session.credits == 2).await;
    session
        .dispatch(vec![attempt(1, "gate", "null"), attempt(2, "gate", "null")])
        .await;
    gate.entered().await;
    worker.shutdown.cancel();
    session.until(|session| session.draining).await;
    assert_eq!(session.refused, [2]);
    gate.open();
    let outcome = session.outcome().await;
    assert_eq!(outcome.output, "\"through\"");
    session.closed().await;
    assert_eq!(session.credits, 0);
    drop(session);
    worker.ended().await.unwrap();
}

#[tokio::test]
async fn a_drain_ends_attempts_that_take_too_long() {
    let mut coordinator = Coordinator::start().await;
    let (builder, mut gate) = worker(&coordinator);
    let worker = start(
        builder
            .drain_timeout(Duration::ZERO)
            .cancel_grace(Duration::ZERO),
    );
    let (mut session, _) = coordinator.welcome().await;
    session.until(|session| session.credits == 2).await;
    session.dispatch(vec![attempt(1, "gate", "null")]).await;
    gate.entered().await;
    worker.shutdown.cancel();
    let failure = session.outcome().await.failure.unwrap();
    assert_eq!(
        (failure.code.as_str(), failure.retryable),
        ("cancelled", true)
    );
    session.closed().await;
    drop(session);
    worker.ended().await.unwrap();
}

#[tokio::test]
async fn ends_at_once_when_there_is_nothing_to_drain() {
    let coordinator = Coordinator::start().await;
    let (builder, _gate) = worker(&coordinator);
    let worker = start(builder.address("http://127.0.0.1:1"));
    worker.shutdown.cancel();
    worker.ended().await.unwrap();
}

#[tokio::test]
async fn takes_nothing_more_from_a_coordinator_that_stops() {
    let mut coordinator = Coordinator::start().await;
    let (builder, mut gate) = worker(&coordinator);
    let _worker = start(builder);
    let (mut session, _) = coordinator.welcome().await;
    session.until(|session| session.credits == 2).await;
    session
        .dispatch(vec![attempt(1, "gate", "null"), attempt(2, "gate", "null")])
        .await;
    gate.entered().await;
    gate.entered().await;
    session
        .send(v1::CoordinatorFrame {
            drain: true,
            cancelled: vec![2],
            ..v1::CoordinatorFrame::default()
        })
        .await;
    assert_eq!(tokens(&session.outcomes(1).await), [2]);
    gate.open();
    assert_eq!(tokens(&session.outcomes(1).await), [1]);
    assert_eq!(session.credits, 0);
    drop(session);
    let (mut session, _) = coordinator.welcome().await;
    session.until(|session| session.credits == 2).await;
}

#[tokio::test]
async fn asks_for_nothing_while_the_spool_is_full() {
    let mut coordinator = Coordinator::start().await;
    let (builder, _gate) = worker(&coordinator);
    let config = levelflow_worker::WorkerConfig {
        address: coordinator.address.clone(),
        slots: 2,
        spool_outcomes: 2,
        ..levelflow_worker::WorkerConfig::default()
    };
    let _worker = start(builder.config(config));
    let (mut session, _) = coordinator.welcome().await;
    session.until(|session| session.credits == 2).await;
    session
        .dispatch(vec![attempt(1, "double", "1"), attempt(2, "double", "2")])
        .await;
    session.outcomes(2).await;
    assert_eq!(session.credits, 0);
    session.acknowledge(&[1, 2]).await;
    session.until(|session| session.credits == 2).await;
}

#[tokio::test]
async fn another_protocol_is_an_error() {
    let mut coordinator = Coordinator::start().await;
    let (builder, _gate) = worker(&coordinator);
    let worker = start(builder);
    let (mut session, _) = coordinator.accept().await;
    session
        .send(v1::CoordinatorFrame {
            welcome: Some(v1::Welcome {
                protocol: 77,
                ..v1::Welcome::default()
            }),
            ..v1::CoordinatorFrame::default()
        })
        .await;
    let error = worker.ended().await.unwrap_err();
    assert!(
        matches!(error, WorkerError::Protocol(ref it) if it.newest == 77),
        "{error}"
    );
}

#[tokio::test]
async fn a_refusal_that_would_come_again_is_an_error() {
    let mut coordinator = Coordinator::start().await;
    let (builder, _gate) = worker(&coordinator);
    let worker = start(builder);
    let (session, _) = coordinator.accept().await;
    session
        .refuse(Status::already_exists("a worker `w1` is there"))
        .await;
    let (session, _) = coordinator.accept().await;
    session
        .refuse(Status::invalid_argument("the labels are too long"))
        .await;
    let error = worker.ended().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the coordinator refused the worker: the labels are too long"
    );
    assert_eq!(error.code().as_str(), "request_invalid");
}

#[tokio::test]
async fn a_drain_connects_again_to_deliver_outcomes() {
    let mut coordinator = Coordinator::start().await;
    let (builder, _gate) = worker(&coordinator);
    let worker = start(builder);
    let (mut session, _) = coordinator.welcome().await;
    session.until(|session| session.credits == 2).await;
    session.dispatch(vec![attempt(1, "double", "1")]).await;
    session.outcomes(1).await;
    drop(session);
    worker.shutdown.cancel();
    let (mut session, hello) = coordinator.welcome().await;
    assert_eq!(hello.held, [1]);
    assert_eq!(session.outcome().await.output, "2");
    session.closed().await;
    assert!(session.draining);
    assert_eq!(session.credits, 0);
    drop(session);
    worker.ended().await.unwrap();
}

#[tokio::test]
async fn every_outcome_arrives_however_often_the_stream_breaks() {
    const NUMBERS: u64 = 2_000;
    const SLOTS: u32 = 32;
    let mut coordinator = Coordinator::start().await;
    let (builder, _gate) = worker(&coordinator);
    let _worker = start(builder.slots(SLOTS as usize));
    let mut waiting: BTreeSet<u64> = (1..=NUMBERS).collect();
    let mut dispatched: BTreeMap<u64, u64> = BTreeMap::new();
    let mut last_token = 0;
    let mut sessions = 0;
    while !(waiting.is_empty() && dispatched.is_empty()) {
        let (mut session, hello) = coordinator.welcome().await;
        sessions += 1;
        assert!(sessions < 100, "{} are left", dispatched.len());
        let held: BTreeSet<u64> = hello.held.into_iter().collect();
        let mut unacknowledged = 0;
        // What the worker never received is dispatched again under a new token.
        dispatched.retain(|token, number| held.contains(token) || !waiting.insert(*number));
        for _ in 0..10 {
            let mut attempts = Vec::new();
            while (attempts.len() as u32) < session.credits
                && let Some(number) = waiting.pop_first()
            {
                last_token += 1;
                dispatched.insert(last_token, number);
                attempts.push(attempt(last_token, "double", &number.to_string()));
            }
            session.dispatch(attempts).await;
            if waiting.is_empty() && dispatched.len() == unacknowledged {
                break;
            }
            let mut acknowledged = Vec::new();
            for outcome in session.frame().await.outcomes {
                let number = dispatched.get(&outcome.token);
                // One whose acknowledgement was lost comes again.
                if let Some(number) = number {
                    assert_eq!(outcome.output, (number * 2).to_string());
                }
                if number.is_some() && outcome.token % 3 == 0 && !held.contains(&outcome.token) {
                    unacknowledged += 1;
                } else {
                    dispatched.remove(&outcome.token);
                    acknowledged.push(outcome.token);
                }
            }
            assert!(session.credits <= SLOTS);
            session.acknowledge(&acknowledged).await;
        }
    }
    assert!(sessions > 2, "the stream broke");
}

#[test]
fn a_handler_error_is_not_lost_in_a_closure() {
    // Compiles only if `?` works on any error inside an async closure without annotations.
    let _ = Worker::builder().handler("parse", async |_, text: String| {
        let number: u32 = text.parse()?;
        if number == 0 {
            return Err(HandlerError::permanent("zero"));
        }
        Ok(number)
    });
}
