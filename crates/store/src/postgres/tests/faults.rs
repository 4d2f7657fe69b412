//! Commits whose outcome is unknown at first.

use super::proxy::{Fault, Proxy};
use super::*;

/// A coordinator whose way to the server is the proxy.
async fn behind_proxy() -> (Postgres, Config, Proxy) {
    let config = settings(ShardCount::ONE);
    let proxy = Proxy::start(url(&config)).await;
    let through = Config {
        url: Config::at(proxy.url(url(&config))).url,
        ..config.clone()
    };
    let store = own_all(&through).await;
    // The first commit makes partitions and connects.
    append(&store, vec![sample::submit(1)]).await.unwrap();
    (store, config, proxy)
}

/// How often each run is there, in all tables.
async fn rows(config: &Config) -> (i64, i64) {
    let client = connect(url(config)).await;
    let count = format!(
        "SELECT (SELECT count(*) FROM {schema}.runs), (SELECT count(*) FROM {schema}.journal)",
        schema = config.schema
    );
    let row = client.query_one(&count, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// Has the time of all shards run out.
async fn run_out(client: &Client, config: &Config) {
    let run_out = format!(
        "UPDATE {}.shards SET expires_at = now() - interval '1 second'",
        config.schema
    );
    client.batch_execute(&run_out).await.unwrap();
}

/// Waits until a session waits for a lock in the schema.
async fn somebody_waits(client: &Client, config: &Config) {
    let waits = "SELECT count(*) FROM pg_stat_activity \
         WHERE wait_event_type = 'Lock' AND query LIKE '%' || $1 || '%'";
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let row = client.query_one(waits, &[&config.schema]).await.unwrap();
        if row.get::<_, i64>(0) > 0 {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "nobody waits");
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found() {
    let (store, config, proxy) = behind_proxy().await;
    proxy.arm(Fault::LoseAnswer);
    append(&store, vec![sample::submit(2), sample::succeed(1, 2, 1)])
        .await
        .unwrap();
    proxy.happened().await;
    assert_eq!(rows(&config).await, (2, 3));
    append(&store, vec![sample::succeed(1, 3, 1)])
        .await
        .unwrap();
    assert_eq!(sequences(&store, 1).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_commit_that_is_lost_is_done_again() {
    let (store, config, proxy) = behind_proxy().await;
    proxy.arm(Fault::LoseCommit);
    append(&store, vec![sample::submit(2), sample::succeed(1, 2, 1)])
        .await
        .unwrap();
    proxy.happened().await;
    assert_eq!(rows(&config).await, (2, 3));
}

#[tokio::test]
async fn a_transaction_that_arrives_late_changes_nothing() {
    let (store, config, mut proxy) = behind_proxy().await;
    proxy.arm(Fault::Delay);
    append(&store, vec![sample::submit(2), sample::succeed(1, 2, 1)])
        .await
        .unwrap();
    proxy.happened().await;
    append(&store, vec![sample::succeed(1, 3, 1)])
        .await
        .unwrap();
    // It fails at the check of the epochs, before it could meet what was written in its place.
    let answer = proxy.let_go("ROLLBACK").await;
    assert!(answer.contains("division by zero"), "{answer}");
    assert!(!answer.contains("duplicate key"), "{answer}");
    assert_eq!(rows(&config).await, (2, 4));
}

#[tokio::test]
async fn after_a_recovery_no_older_transaction_arrives() {
    let (store, config, mut proxy) = behind_proxy().await;
    proxy.arm(Fault::Delay);
    let pending = store.append(sample::batch(vec![sample::submit(2)]));
    proxy.happened().await;
    // Another coordinator takes the shard, as far as it can see without the run.
    let client = connect(url(&config)).await;
    run_out(&client, &config).await;
    let other = join(&config, 2).await;
    let taken = other.claim(&[ShardId(0)], LONG).await.unwrap();
    assert_eq!(taken.shards, [ShardId(0)]);
    let is_there = taken.open.iter().any(|(run, _)| *run == RunNumber(2));
    // Who was faster decides, and both say the same.
    assert_eq!(pending.await.unwrap().is_ok(), is_there);
    let answer = proxy.let_go("ROLLBACK").await;
    assert!(answer.contains("division by zero"), "{answer}");
    let runs = if is_there { 2 } else { 1 };
    assert_eq!(rows(&config).await, (runs, runs));
}

#[tokio::test]
async fn a_commit_that_has_begun_is_waited_for() {
    let (store, config, proxy) = behind_proxy().await;
    let other = join(&config, 2).await;
    proxy.arm(Fault::Pause);
    let pending = store.append(sample::batch(vec![sample::submit(2)]));
    proxy.happened().await;
    let client = connect(url(&config)).await;
    run_out(&client, &config).await;
    let claim = task::spawn("claim", async move {
        let taken = other.claim(&[ShardId(0)], LONG).await.unwrap();
        (other, taken)
    });
    somebody_waits(&client, &config).await;
    proxy.resume();
    let (_other, taken) = claim.await.unwrap();
    assert_eq!(taken.shards, [ShardId(0)]);
    let is_there = taken.open.iter().any(|(run, _)| *run == RunNumber(2));
    // On a very slow machine the server may have given it up.
    assert_eq!(pending.await.unwrap().is_ok(), is_there);
}

#[tokio::test]
async fn a_coordinator_that_stops_in_a_transaction_is_not_waited_for_long() {
    let (store, config, proxy) = behind_proxy().await;
    proxy.arm(Fault::Stall);
    let _pending = store.append(sample::batch(vec![sample::submit(2)]));
    proxy.happened().await;
    let client = connect(url(&config)).await;
    run_out(&client, &config).await;
    let other = join(&config, 2).await;
    let started = std::time::Instant::now();
    let taken = other.claim(&[ShardId(0)], LONG).await.unwrap();
    assert_eq!(taken.shards, [ShardId(0)]);
    let open: Vec<_> = taken.open.iter().map(|(run, _)| run.0).collect();
    assert_eq!(open, [1]);
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn what_the_next_owner_wrote_is_not_taken_for_a_lost_commit() {
    let (store, config, proxy) = behind_proxy().await;
    proxy.arm(Fault::Stall);
    let pending = store.append(sample::batch(vec![sample::succeed(1, 2, 1)]));
    proxy.happened().await;
    let client = connect(url(&config)).await;
    run_out(&client, &config).await;
    let other = join(&config, 2).await;
    let taken = other.claim(&[ShardId(0)], LONG).await.unwrap();
    assert_eq!(taken.shards, [ShardId(0)]);
    // The same place in the same journal, and something else.
    append(&other, vec![sample::succeed(1, 2, 2)])
        .await
        .unwrap();
    proxy.resume();
    let error = pending.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::ShardLost), "{error:?}");
    assert_eq!(sequences(&other, 1).await, [1, 2, 3]);
}

#[tokio::test]
async fn sessions_that_are_killed_lose_nothing() {
    const ENTRIES: u64 = 200;

    let config = settings(ShardCount::ONE);
    let name = config.schema.clone();
    let through = Config {
        url: Config::at(format!("{}?application_name={name}", url(&config))).url,
        ..config.clone()
    };
    let store = own_all(&through).await;
    append(&store, vec![sample::submit(1)]).await.unwrap();
    let client = connect(url(&config)).await;
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE application_name = $1";
    let mut killed = 0;
    for n in 0..ENTRIES {
        let answer = store.append(sample::batch(vec![sample::succeed(1, n + 2, 1)]));
        if n % 20 == 10 {
            let row = client.query_one(kill, &[&name]).await.unwrap();
            killed += row.get::<_, i64>(0);
        }
        answer.await.unwrap().unwrap();
    }
    assert!(killed >= 5, "{killed}");
    let expected: Vec<_> = (1..=ENTRIES + 1).collect();
    assert_eq!(sequences(&store, 1).await, expected);
}

#[tokio::test]
async fn what_cannot_be_settled_in_time_fails_and_is_known_after_a_recovery() {
    let config = settings(ShardCount::ONE);
    let proxy = Proxy::start(url(&config)).await;
    let through = Config {
        url: Config::at(proxy.url(url(&config))).url,
        commit_within: levelflow_common::HumanDuration(Duration::from_secs(1)),
        timeout: levelflow_common::HumanDuration(Duration::from_secs(30)),
        ..config.clone()
    };
    let store = own_all(&through).await;
    append(&store, vec![sample::submit(1)]).await.unwrap();
    let client = connect(url(&config)).await;
    // Nobody gets the row of the member, so that the commit cannot be asked about.
    let lock = format!("BEGIN; SELECT FROM {}.members FOR UPDATE", config.schema);
    proxy.arm(Fault::LoseAnswer);
    let pending = store.append(sample::batch(vec![sample::succeed(1, 2, 1)]));
    proxy.happened().await;
    client.batch_execute(&lock).await.unwrap();
    let answered = pending.await.unwrap();
    client.batch_execute("ROLLBACK").await.unwrap();
    if let Err(error) = &answered {
        assert_eq!(error.code(), levelflow_common::Code::StoreUnavailable);
        let later = append(&store, vec![sample::succeed(1, 3, 1)]).await;
        assert!(matches!(later, Err(StoreError::Suspended { .. })));
    }
    let recovery = store.recover().await.unwrap();
    // The lock may have come before the commit.
    let known = recovery.open[0].1.len() as u64;
    assert!(known == 2 || known == 1 && answered.is_err(), "{known}");
    append(&store, vec![sample::succeed(1, known + 1, 1)])
        .await
        .unwrap();
}
