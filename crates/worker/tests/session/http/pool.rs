//! The connections that all tasks share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use levelflow_common::HumanDuration;
use levelflow_proto::v1;
use levelflow_worker::{HttpConfig, HttpPoolStatistics};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::{http, read_request};
use crate::coordinator::{Running, Session, outcome_of, session, soon};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Answers any number of requests on any number of connections; counts the connections.
pub(crate) async fn lasting_server() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    levelflow_runtime::task::spawn("http server", async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
            levelflow_runtime::task::spawn("http connection", async move {
                while !read_request(&mut stream).await.is_empty() {
                    if stream.write_all(ANSWER).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (address, accepted)
}

async fn worker(config: HttpConfig) -> (Session, Running) {
    let config = HttpConfig {
        allow: vec!["127.0.0.1".to_owned()],
        ..config
    };
    session(|builder| builder.slots(256).http(config)).await
}

/// Runs so many tasks, as many at once as there are slots.
async fn run(session: &mut Session, address: &str, tasks: u64) {
    let mut next = 1;
    while next <= tasks {
        session.until(|session| session.credits > 0).await;
        let end = (next + u64::from(session.credits)).min(tasks + 1);
        let attempts = (next..end).map(|token| v1::Attempt {
            token,
            ..http(&json!({"url": address}))
        });
        session.dispatch(attempts.collect()).await;
        for outcome in session.outcomes((end - next) as usize).await {
            assert_eq!(outcome.failure, None);
            session.acknowledge(&[outcome.token]).await;
        }
        next = end;
    }
}

/// What the pool says when the last connections have come back to it.
async fn at_rest(worker: &Running) -> HttpPoolStatistics {
    loop {
        let statistics = worker.http_pool.statistics();
        if statistics.in_use == 0 {
            return statistics;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_tasks_share_the_connections_of_the_pool() {
    let (address, accepted) = lasting_server().await;
    let (mut session, worker) = worker(HttpConfig::default()).await;
    run(&mut session, &address, 1_000).await;
    let statistics = soon(at_rest(&worker)).await;
    let accepted = accepted.load(Ordering::Relaxed) as u64;
    assert!((1..=100).contains(&accepted), "{accepted} connections");
    assert_eq!(statistics.opened, accepted);
    assert_eq!(statistics.reused, 1_000 - accepted);
    assert_eq!(statistics.waiting, 0);
    assert_eq!(statistics.open, statistics.idle);
    assert_eq!(statistics.open as u64, accepted);
    assert!(statistics.connect_time > Duration::ZERO);
    assert!(statistics.wait_time > Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_is_enough_when_there_may_be_no_more() {
    let (address, accepted) = lasting_server().await;
    let (mut session, worker) = worker(HttpConfig {
        connections: 1,
        ..HttpConfig::default()
    })
    .await;
    run(&mut session, &address, 100).await;
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
    assert_eq!(worker.http_pool.statistics().reused, 99);
}

#[tokio::test]
async fn a_connection_survives_answers_that_are_not_wanted() {
    let (address, accepted) = lasting_server().await;
    let (mut session, worker) = worker(HttpConfig::default()).await;
    let unwanted = http(&json!({"url": address, "expect_status": [201]}));
    let outcome = outcome_of(&mut session, unwanted).await;
    assert_eq!(outcome.failure.unwrap().code, "http_status");
    soon(at_rest(&worker)).await;
    run(&mut session, &address, 1).await;
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_connection_that_the_server_closed_meanwhile_is_replaced() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (mut session, worker) = worker(HttpConfig::default()).await;
    for token in 1..=3 {
        let attempt = v1::Attempt {
            token,
            ..http(&json!({"url": address}))
        };
        session.dispatch(vec![attempt]).await;
        let (mut stream, _) = soon(listener.accept()).await.unwrap();
        read_request(&mut stream).await;
        stream.write_all(ANSWER).await.unwrap();
        let outcome = session.outcome().await;
        assert_eq!(outcome.failure, None);
        soon(at_rest(&worker)).await;
        drop(stream);
    }
    assert_eq!(worker.http_pool.statistics().opened, 3);
}

#[tokio::test]
async fn without_keep_alive_each_exchange_has_a_connection_of_its_own() {
    let (address, accepted) = lasting_server().await;
    let (mut session, worker) = worker(HttpConfig {
        keep_alive: HumanDuration(Duration::ZERO),
        connections: 4,
        ..HttpConfig::default()
    })
    .await;
    run(&mut session, &address, 20).await;
    assert_eq!(accepted.load(Ordering::Relaxed), 20);
    assert_eq!(worker.http_pool.statistics().reused, 0);
}
