//! What heartbeats say of that which attempts share.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use levelflow_proto::v1;
use levelflow_worker::{
    BatchOptions, Context, HandlerError, SqlConnection, Worker, WorkerBuilder, WorkerConfig,
};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::coordinator::{Coordinator, Running, Session, attempt, outcome_of};
use crate::http::http;
use crate::http::pool::lasting_server;
use crate::process::{pipe, shell};

async fn start(
    config: WorkerConfig,
    configure: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
) -> (Session, Running) {
    let mut coordinator = Coordinator::start().await;
    let address = coordinator.address.clone();
    let builder = Worker::builder().config(WorkerConfig { address, ..config });
    let worker = Running::start(configure(builder).build().unwrap());
    let (mut session, _) = coordinator.accept().await;
    session.welcome(50, &[]).await;
    session.until(|session| session.credits >= 8).await;
    (session, worker)
}

/// What the next heartbeat says of a pool for which `condition` holds.
async fn pool(
    session: &mut Session,
    name: &str,
    condition: impl Fn(&v1::Pool) -> bool,
) -> v1::Pool {
    loop {
        if let Some(beat) = session.frame().await.heartbeat {
            let mut pools = beat.pools.into_iter();
            let pool = pools.find(|pool| pool.name == name).expect("it is told of");
            if condition(&pool) {
                return pool;
            }
        }
    }
}

/// A function that waits until it is let go on, once for each message.
fn gated() -> (
    Sender<()>,
    impl Fn(Context, ()) -> Result<(), HandlerError> + Send + Sync + 'static,
) {
    let (release, gate) = channel();
    let gate = Mutex::new(gate);
    (release, move |_, ()| Ok(gate.lock().unwrap().recv()?))
}

async fn threads(name: &str, size: u32, idle_at_last: u32) {
    let (release, wait) = gated();
    let config = WorkerConfig {
        cpu_threads: 1,
        blocking_threads: 2,
        ..WorkerConfig::default()
    };
    let (mut session, _worker) = start(config, |builder| match name {
        "cpu" => builder.cpu_handler("wait", wait),
        _ => builder.blocking_handler("wait", wait),
    })
    .await;
    let attempts = (1..=3).map(|token| attempt(token, "wait", "null"));
    session.dispatch(attempts.collect()).await;
    let waiting = 3 - size;
    let busy = pool(&mut session, name, |pool| pool.busy == size).await;
    assert_eq!(
        (busy.size, busy.waiting, busy.idle, busy.used),
        (size, waiting, 0, size.into())
    );
    for _ in 0..3 {
        release.send(()).unwrap();
    }
    let outcomes = session.outcomes(3).await;
    assert!(outcomes.iter().all(|outcome| outcome.failure.is_none()));
    let idle = pool(&mut session, name, |pool| pool.busy == 0).await;
    assert_eq!(
        (idle.size, idle.waiting, idle.idle, idle.used),
        (size, 0, idle_at_last, 3)
    );
    // At least one of them waited through a heartbeat.
    assert!(idle.waited_us > busy.waited_us, "{idle:?}");
}

#[tokio::test]
async fn threads_for_computing() {
    threads("cpu", 1, 1).await;
}

#[tokio::test]
async fn threads_for_waiting() {
    threads("blocking", 2, 0).await;
}

#[tokio::test]
async fn attempts_that_gather() {
    static GATE: Semaphore = Semaphore::const_new(0);
    let options = BatchOptions {
        max_size: 3,
        max_wait: Duration::from_secs(60),
    };
    let (mut session, _worker) = start(WorkerConfig::default(), |builder| {
        builder.batch_handler("add", options, async |attempts: Vec<(Context, ())>| {
            GATE.acquire().await?.forget();
            Ok(attempts.into_iter().map(|_| Ok(())).collect())
        })
    })
    .await;
    let name = "batch:add";
    let attempts = (1..=2).map(|token| attempt(token, "add", "null"));
    session.dispatch(attempts.collect()).await;
    let gathering = pool(&mut session, name, |pool| pool.waiting == 2).await;
    assert_eq!(
        (
            gathering.size,
            gathering.busy,
            gathering.opened,
            gathering.used
        ),
        (16, 0, 0, 0)
    );
    session.dispatch(vec![attempt(3, "add", "null")]).await;
    let in_call = pool(&mut session, name, |pool| pool.busy == 3).await;
    assert_eq!((in_call.waiting, in_call.opened, in_call.used), (0, 1, 3));
    assert!(in_call.waited_us > 0);
    GATE.add_permits(1);
    session.outcomes(3).await;
    pool(&mut session, name, |pool| pool.busy == 0).await;
}

#[tokio::test]
async fn programs_that_run() {
    let directory = tempfile::tempdir().unwrap();
    let gate = pipe(directory.path().join("gate"));
    let config = WorkerConfig {
        allow_process: true,
        slots: 9,
        ..WorkerConfig::default()
    };
    let (mut session, _worker) = start(config, |builder| builder).await;
    let reads = shell(&format!("cat {}", gate.display()));
    session.dispatch(vec![reads]).await;
    let busy = pool(&mut session, "process", |pool| pool.busy == 1).await;
    assert_eq!((busy.size, busy.opened, busy.used), (9, 1, 1));
    let opened = tokio::task::spawn_blocking(move || std::fs::write(gate, "go on"));
    opened.await.unwrap().unwrap();
    assert_eq!(session.outcome().await.failure, None);
    pool(&mut session, "process", |pool| pool.busy == 0).await;
}

#[tokio::test]
async fn connections() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("data.db");
    let database = SqlConnection {
        max_connections: 4,
        ..SqlConnection::at(format!("sqlite:{}", file.display()))
    };
    let (mut session, _worker) = start(WorkerConfig::default(), |builder| {
        builder.connection("main", database).allow_http("127.0.0.1")
    })
    .await;
    let input = json!({ "connection": "main", "query": "select 1 as one" });
    for token in 1..=2 {
        let query = v1::Attempt {
            kind: v1::TaskKind::Sql.into(),
            ..attempt(token, "", &input.to_string())
        };
        assert_eq!(outcome_of(&mut session, query).await.failure, None);
    }
    let database = pool(&mut session, "sql:main", |pool| pool.used == 2).await;
    assert_eq!(
        (database.size, database.busy, database.idle, database.opened),
        (4, 0, 1, 1)
    );

    let (address, _) = lasting_server().await;
    for token in 3..=5 {
        let call = v1::Attempt {
            token,
            ..http(&json!({ "url": address }))
        };
        assert_eq!(outcome_of(&mut session, call).await.failure, None);
    }
    let http = pool(&mut session, "http", |pool| pool.used == 3).await;
    assert_eq!(
        (http.size, http.busy, http.idle, http.opened),
        (1_000, 0, 1, 1)
    );
}
