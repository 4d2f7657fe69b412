//! The tier in a real PostgreSQL.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use levelflow_common::HumanDuration;
use levelflow_runtime::task;
use tokio_postgres::{Client, NoTls};

use super::*;

const VARIABLE: &str = "TEST_POSTGRES_URL";

static DATABASES: AtomicU32 = AtomicU32::new(0);

/// Settings with a database of their own.
pub(crate) async fn settings() -> PostgresConfig {
    let server = std::env::var(VARIABLE).unwrap_or_else(|_| {
        panic!("{VARIABLE} is not set: run the tests with `cargo xtask test`, or single ones with `cargo xtask servers -- cargo nextest run …`")
    });
    let number = DATABASES.fetch_add(1, Ordering::Relaxed);
    let name = format!("cache_{}_{number}", std::process::id());
    let admin = connect(&server).await;
    let create = format!("create database {name}");
    admin.batch_execute(&create).await.unwrap();
    let (base, _) = server.rsplit_once('/').unwrap();
    PostgresConfig {
        // A busy machine is not a broken one.
        lookup_budget: HumanDuration(Duration::from_secs(30)),
        timeout: HumanDuration(Duration::from_secs(30)),
        ..PostgresConfig::at(format!("{base}/{name}"))
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    task::spawn("session of the test", connection);
    client
}

async fn open() -> Box<PostgresTier> {
    Box::new(PostgresTier::new(&settings().await).unwrap())
}

crate::conformance::conformance! { shared (open().await, ()) }

#[tokio::test]
async fn processes_that_start_together_make_the_tables_once() {
    let settings = settings().await;
    let tiers: Vec<_> = (0..8)
        .map(|_| {
            let tier = PostgresTier::new(&settings).unwrap();
            task::spawn("process", async move { tier.prepare().await })
        })
        .collect();
    for tier in tiers {
        tier.await.unwrap().unwrap();
    }
    let tier = PostgresTier::new(&settings).unwrap();
    assert_eq!(tier.usage().await.unwrap(), Usage::default());
}

#[tokio::test]
async fn tables_of_a_newer_version_are_left_alone() {
    let settings = settings().await;
    let tier = PostgresTier::new(&settings).unwrap();
    tier.prepare().await.unwrap();
    let admin = connect(settings.address().unwrap().reveal()).await;
    let newer = "update levelflow_cache_version set version = 99";
    admin.batch_execute(newer).await.unwrap();
    let error = PostgresTier::new(&settings).unwrap().prepare().await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, TierError::TooNew { found: 99, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_connection_on_which_a_request_was_broken_off_is_not_used_again() {
    let mut settings = settings().await;
    settings.max_connections = 1;
    let tier = PostgresTier::new(&settings).unwrap();
    tier.prepare().await.unwrap();
    let admin = connect(settings.address().unwrap().reveal()).await;
    admin
        .batch_execute("begin; lock table levelflow_cache_lease")
        .await
        .unwrap();
    let key = CacheKey::from_bytes([1; 32]);
    let token = LeaseToken::now_v7();
    let waits = tier.lease(&key, token, Duration::from_secs(60));
    let broken_off = tokio::time::timeout(Duration::from_millis(50), waits).await;
    assert!(broken_off.is_err());
    // It would wait behind the other on the same connection.
    assert_eq!(tier.get(&key, Timestamp::default()).await.unwrap(), None);
    admin.batch_execute("rollback").await.unwrap();
    let taken = tier.lease(&key, token, Duration::from_secs(60)).await;
    assert!(taken.unwrap());
}
