//! What every transport does: one suite that each runs.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use levelflow_proto::v1;
use levelflow_runtime::task;
use levelflow_transport::{Inbound, Session, SessionError};
use tokio::time::timeout;
use tonic::{Code, Status};

/// More than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// Long enough for a sender that is not held back to send again.
const HELD_BACK: Duration = Duration::from_secs(1);
/// Bytes that may gather between a sender and a reader that has stalled: windows, and what the system keeps
/// of connections.
const MOST_UNDER_WAY: usize = 48 * 1024 * 1024;

pub(crate) type WorkerEnd = Session<v1::WorkerFrame, v1::CoordinatorFrame>;
pub(crate) type CoordinatorEnd = Session<Result<v1::CoordinatorFrame, Status>, v1::WorkerFrame>;

/// A transport under test.
pub(crate) trait Transport: Sized {
    /// Both ends of a new session. The worker has said hello.
    async fn open(&mut self) -> (WorkerEnd, CoordinatorEnd);

    /// Cuts the way between the ends without a word to either.
    async fn cut(&mut self);
}

/// Runs the suite: `$start` gives a transport with whatever must outlive it.
macro_rules! conformance {
    ($start:expr; $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::conformance::$case(&mut $start.await).await;
            }
        )*
    };
    ($start:expr) => {
        crate::conformance::conformance! { $start;
            a_session_opens_with_hello_and_welcome
            frames_come_in_order_both_ways
            large_frames_come_whole
            each_side_can_say_that_nothing_more_comes
            a_coordinator_closes_with_a_reason_after_its_last_frame
            a_worker_that_leaves_is_noticed
            a_coordinator_that_leaves_is_noticed
            a_lost_peer_is_noticed
            who_does_not_read_holds_back_who_sends
            sessions_do_not_hold_up_each_other
        }
    };
}
pub(crate) use conformance;

pub(crate) fn hello(worker: &str) -> v1::WorkerFrame {
    v1::WorkerFrame {
        hello: Some(v1::Hello {
            worker_id: worker.to_owned(),
            ..v1::Hello::default()
        }),
        ..v1::WorkerFrame::default()
    }
}

pub(crate) fn credits(credits: u32) -> v1::WorkerFrame {
    v1::WorkerFrame {
        credits,
        ..v1::WorkerFrame::default()
    }
}

fn acknowledged(token: u64) -> v1::CoordinatorFrame {
    v1::CoordinatorFrame {
        acknowledged: vec![token],
        ..v1::CoordinatorFrame::default()
    }
}

fn outcome(token: u64, bytes: usize) -> v1::WorkerFrame {
    let output = (0..bytes)
        .map(|place| (place % 251) as u8)
        .collect::<Vec<_>>();
    v1::WorkerFrame {
        outcomes: vec![v1::Outcome {
            token,
            output: output.into(),
            ..v1::Outcome::default()
        }],
        ..v1::WorkerFrame::default()
    }
}

/// The next frame, the end as none, or an error.
pub(crate) async fn next<R: prost::Message + Default>(
    inbound: &mut Inbound<R>,
) -> Option<Result<R, SessionError>> {
    timeout(DEADLINE, inbound.next()).await.expect("in time")
}

async fn frame<R: prost::Message + Default>(inbound: &mut Inbound<R>) -> R {
    next(inbound).await.expect("not the end").expect("a frame")
}

/// Waits until no more frames come.
pub(crate) async fn ended<R: prost::Message + Default>(
    inbound: &mut Inbound<R>,
) -> Option<SessionError> {
    loop {
        match next(inbound).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Some(error),
            None => return None,
        }
    }
}

pub(crate) async fn a_session_opens_with_hello_and_welcome(transport: &mut impl Transport) {
    let (mut worker, mut coordinator) = transport.open().await;
    let first = frame(&mut coordinator.inbound).await;
    assert_eq!(first, hello("w1"));
    let welcome = v1::CoordinatorFrame {
        welcome: Some(v1::Welcome {
            coordinator_id: "c1".to_owned(),
            ..v1::Welcome::default()
        }),
        ..v1::CoordinatorFrame::default()
    };
    coordinator
        .outbound
        .send(Ok(welcome.clone()))
        .await
        .unwrap();
    assert_eq!(frame(&mut worker.inbound).await, welcome);
}

pub(crate) async fn frames_come_in_order_both_ways(transport: &mut impl Transport) {
    const FRAMES: u32 = 3_000;
    let (mut worker, mut coordinator) = transport.open().await;
    frame(&mut coordinator.inbound).await;
    let (up, down) = (worker.outbound.clone(), coordinator.outbound.clone());
    let up = task::spawn("up", async move {
        for number in 1..=FRAMES {
            up.send(credits(number)).await.unwrap();
        }
    });
    let down = task::spawn("down", async move {
        for number in 1..=FRAMES {
            down.send(Ok(acknowledged(number.into()))).await.unwrap();
        }
    });
    for number in 1..=FRAMES {
        assert_eq!(frame(&mut coordinator.inbound).await, credits(number));
        assert_eq!(
            frame(&mut worker.inbound).await,
            acknowledged(number.into())
        );
    }
    up.await.unwrap();
    down.await.unwrap();
}

pub(crate) async fn large_frames_come_whole(transport: &mut impl Transport) {
    let (worker, mut coordinator) = transport.open().await;
    frame(&mut coordinator.inbound).await;
    // Beside the output there are a few bytes of its frame.
    let largest = levelflow_common::limits::MAX_MESSAGE_BYTES - 1024;
    let sizes = [0, 1, 300_000, 5_000_000, 1, largest];
    let send = task::spawn("send", async move {
        for (token, size) in (0..).zip(sizes) {
            worker.outbound.send(outcome(token, size)).await.unwrap();
        }
        worker
    });
    for (token, size) in (0..).zip(sizes) {
        let came = frame(&mut coordinator.inbound).await;
        // Not `assert_eq`: nobody wants to see it.
        assert!(came == outcome(token, size), "the frame with {size} bytes");
    }
    send.await.unwrap();
}

pub(crate) async fn each_side_can_say_that_nothing_more_comes(transport: &mut impl Transport) {
    let (worker, mut coordinator) = transport.open().await;
    let Session {
        outbound,
        mut inbound,
    } = worker;
    outbound.send(credits(1)).await.unwrap();
    drop(outbound);
    frame(&mut coordinator.inbound).await;
    assert_eq!(frame(&mut coordinator.inbound).await, credits(1));
    assert!(next(&mut coordinator.inbound).await.is_none());
    // The coordinator goes on until it has said all.
    coordinator
        .outbound
        .send(Ok(acknowledged(1)))
        .await
        .unwrap();
    drop(coordinator);
    assert_eq!(frame(&mut inbound).await, acknowledged(1));
    assert!(next(&mut inbound).await.is_none());
}

pub(crate) async fn a_coordinator_closes_with_a_reason_after_its_last_frame(
    transport: &mut impl Transport,
) {
    let (mut worker, coordinator) = transport.open().await;
    let refusal = Status::with_details(
        Code::AlreadyExists,
        "a worker with that id has a live session",
        Bytes::from_static(b"details"),
    );
    coordinator
        .outbound
        .send(Ok(acknowledged(1)))
        .await
        .unwrap();
    coordinator.outbound.send(Err(refusal)).await.unwrap();
    drop(coordinator);
    assert_eq!(frame(&mut worker.inbound).await, acknowledged(1));
    let error = next(&mut worker.inbound).await.unwrap().unwrap_err();
    let SessionError::Status(status) = error else {
        panic!("{error}");
    };
    assert_eq!(status.code(), Code::AlreadyExists);
    assert_eq!(status.message(), "a worker with that id has a live session");
    assert_eq!(status.details(), b"details");
    assert!(next(&mut worker.inbound).await.is_none());
    // Whether the sender sees it, too, decides whether its user ends.
    timeout(DEADLINE, worker.outbound.closed()).await.unwrap();
}

pub(crate) async fn a_worker_that_leaves_is_noticed(transport: &mut impl Transport) {
    let (worker, mut coordinator) = transport.open().await;
    drop(worker);
    ended(&mut coordinator.inbound).await;
    drop(coordinator.inbound);
    timeout(DEADLINE, coordinator.outbound.closed())
        .await
        .unwrap();
}

pub(crate) async fn a_coordinator_that_leaves_is_noticed(transport: &mut impl Transport) {
    let (mut worker, coordinator) = transport.open().await;
    drop(coordinator);
    ended(&mut worker.inbound).await;
    timeout(DEADLINE, worker.outbound.closed()).await.unwrap();
}

pub(crate) async fn a_lost_peer_is_noticed(transport: &mut impl Transport) {
    let (mut worker, mut coordinator) = transport.open().await;
    frame(&mut coordinator.inbound).await;
    transport.cut().await;
    ended(&mut worker.inbound).await;
    ended(&mut coordinator.inbound).await;
}

pub(crate) async fn who_does_not_read_holds_back_who_sends(transport: &mut impl Transport) {
    const BYTES: usize = 100_000;
    let (worker, mut coordinator) = transport.open().await;
    let mut sent = 0;
    while let Ok(permit) = timeout(HELD_BACK, worker.outbound.reserve()).await {
        permit.unwrap().send(outcome(sent, BYTES));
        sent += 1;
        assert!(
            (sent as usize) < MOST_UNDER_WAY / BYTES,
            "it is never held back"
        );
    }
    // Nothing of it is lost, and it goes on.
    frame(&mut coordinator.inbound).await;
    for token in 0..sent {
        assert!(frame(&mut coordinator.inbound).await == outcome(token, BYTES));
    }
    worker.outbound.send(credits(7)).await.unwrap();
    assert_eq!(frame(&mut coordinator.inbound).await, credits(7));
}

pub(crate) async fn sessions_do_not_hold_up_each_other(transport: &mut impl Transport) {
    let (stalled, unread) = transport.open().await;
    let (worker, mut coordinator) = transport.open().await;
    frame(&mut coordinator.inbound).await;
    let fill = task::spawn("fill", async move {
        while stalled.outbound.send(outcome(1, 100_000)).await.is_ok() {}
    });
    for number in 0..2_000 {
        worker.outbound.send(credits(number)).await.unwrap();
        assert_eq!(frame(&mut coordinator.inbound).await, credits(number));
    }
    drop(unread);
    timeout(DEADLINE, fill).await.unwrap().unwrap();
}
