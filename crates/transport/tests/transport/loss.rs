//! What NATS loses, and who goes without a word.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use levelflow_transport::SessionError;
use tokio::time::timeout;

use crate::conformance::{CoordinatorEnd, WorkerEnd, credits, ended, next};
use crate::nats::{COORDINATOR, Coordinator, heard, open, settings, worker};
use crate::server::{NatsServer, variable};

const DEADLINE: Duration = Duration::from_secs(60);

/// The head of a message: kind, sequence number, acknowledged number.
fn message(kind: u8, sequence: u64, acknowledged: u64) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend_from_slice(&sequence.to_be_bytes());
    message.extend_from_slice(&acknowledged.to_be_bytes());
    message
}

/// A session into which somebody else sends what looks like messages of the worker.
struct Tampered {
    _worker: WorkerEnd,
    session: CoordinatorEnd,
    stranger: async_nats::Client,
    subject: async_nats::Subject,
    _coordinator: Coordinator,
}

impl Tampered {
    async fn start() -> Self {
        let settings = settings(&variable("TEST_NATS_URL"));
        let stranger = async_nats::connect(variable("TEST_NATS_URL"))
            .await
            .unwrap();
        let all = format!("{}.v1.coordinator.>", settings.prefix);
        let mut overheard = stranger.subscribe(all).await.unwrap();
        stranger.flush().await.unwrap();
        let mut coordinator = Coordinator::start(&settings).await;
        let connector = worker(&settings).await;
        let (worker, mut session) = open(&connector, &mut coordinator).await;
        next(&mut session.inbound).await.unwrap().unwrap();
        let subject = overheard.next().await.unwrap().subject;
        Self {
            _worker: worker,
            session,
            stranger,
            subject,
            _coordinator: coordinator,
        }
    }

    /// How the coordinator's end of the session ends when this comes.
    async fn end_with(mut self, message: Vec<u8>) -> Option<SessionError> {
        let publish = self.stranger.publish(self.subject.clone(), message.into());
        publish.await.unwrap();
        ended(&mut self.session.inbound).await
    }
}

#[tokio::test]
async fn a_message_that_is_missing_ends_the_session() {
    // Hello was the first.
    let error = Tampered::start().await.end_with(message(0, 3, 0)).await;
    let lost = |error: Option<SessionError>| match error {
        Some(SessionError::Lost { expected, received }) => (expected, received),
        other => panic!("{other:?}"),
    };
    assert_eq!(lost(error), (2, 3));
    // The last one is missing, as the other side says with its next word.
    let error = Tampered::start().await.end_with(message(4, 2, 0)).await;
    assert_eq!(lost(error), (2, 2));
    // It came before.
    let error = Tampered::start().await.end_with(message(0, 1, 0)).await;
    assert_eq!(lost(error), (2, 1));
}

#[tokio::test]
async fn what_no_worker_says_ends_the_session() {
    for nonsense in [vec![], vec![9; 40], message(0, 2, u64::MAX)] {
        let error = Tampered::start().await.end_with(nonsense).await;
        assert!(matches!(error, Some(SessionError::Malformed)), "{error:?}");
    }
    let mut no_frame = message(0, 2, 0);
    no_frame.push(0);
    let error = Tampered::start().await.end_with(no_frame).await;
    assert!(matches!(error, Some(SessionError::Frame(_))), "{error:?}");
}

#[tokio::test]
async fn a_sender_that_knows_no_bounds_is_cut_off() {
    let mut tampered = Tampered::start().await;
    let large = vec![0; 200_000];
    for sequence in 2..100 {
        let message = [&message(1, sequence, 0)[..], &large].concat();
        let subject = tampered.subject.clone();
        tampered
            .stranger
            .publish(subject, message.into())
            .await
            .unwrap();
    }
    tampered.stranger.flush().await.unwrap();
    // Nothing is read until the session has ended.
    let left = tampered.session.outbound.closed();
    timeout(DEADLINE, left).await.unwrap();
    let error = ended(&mut tampered.session.inbound).await;
    assert!(matches!(error, Some(SessionError::Overrun)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_end_with_their_server_and_come_back_with_it() {
    let mut server = NatsServer::start("");
    let settings = settings(&server.url());
    let mut coordinator = Coordinator::start(&settings).await;
    let connector = worker(&settings).await;
    heard(&connector, COORDINATOR).await;
    for _ in 0..3 {
        let (mut worker, mut session) = open(&connector, &mut coordinator).await;
        next(&mut session.inbound).await.unwrap().unwrap();
        server.kill();
        // What is sent now is not told apart from what was on the way: it may come, with all before it.
        worker.outbound.send(credits(1)).await.unwrap();
        worker.outbound.send(credits(2)).await.unwrap();
        server.restart();
        drop(worker.outbound);
        let came = loop {
            match next(&mut session.inbound).await {
                Some(Ok(frame)) if frame == credits(2) => break true,
                Some(Ok(frame)) => assert_eq!(frame, credits(1)),
                Some(Err(_)) | None => break false,
            }
        };
        drop(session);
        let end = ended(&mut worker.inbound).await;
        assert!(
            came || end.is_some(),
            "an end without a reason, and without the frames"
        );
    }
    let mut there = connector.coordinators();
    there
        .wait_for(|ids| ids.contains(COORDINATOR))
        .await
        .unwrap();
    let (_worker, mut session) = open(&connector, &mut coordinator).await;
    next(&mut session.inbound).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_session_with_nobody_is_refused_at_once() {
    let connector = worker(&settings(&variable("TEST_NATS_URL"))).await;
    let began = Instant::now();
    let opened = connector.open(COORDINATOR).await;
    let opened: Result<WorkerEnd, _> = opened;
    assert!(matches!(opened, Err(SessionError::Gone)));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn coordinators_are_heard_until_they_leave() {
    let settings = settings(&variable("TEST_NATS_URL"));
    let connector = worker(&settings).await;
    let first = Coordinator::named(&settings, "c1").await;
    let second = Coordinator::named(&settings, "c2").await;
    let mut there = connector.coordinators();
    let names = |names: &[&str]| -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    };
    let both = names(&["c1", "c2"]);
    timeout(DEADLINE, there.wait_for(|ids| *ids == both))
        .await
        .unwrap()
        .unwrap();
    // Who comes later need not wait for the next time that they say it.
    let later = worker(&settings).await;
    let mut heard_later = later.coordinators();
    timeout(DEADLINE, heard_later.wait_for(|ids| *ids == both))
        .await
        .unwrap()
        .unwrap();

    drop(first);
    let one = names(&["c2"]);
    timeout(DEADLINE, there.wait_for(|ids| *ids == one))
        .await
        .unwrap()
        .unwrap();
    drop(second);
    timeout(DEADLINE, there.wait_for(BTreeSet::is_empty))
        .await
        .unwrap()
        .unwrap();
}
