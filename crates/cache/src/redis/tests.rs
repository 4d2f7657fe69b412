//! The tier in a real Redis.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use levelflow_common::HumanDuration;
use tokio::net::TcpListener;

use super::*;
use crate::error::CacheError;

const VARIABLE: &str = "TEST_REDIS_URL";

static TIERS: AtomicU32 = AtomicU32::new(0);

pub(crate) fn address() -> String {
    std::env::var(VARIABLE).unwrap_or_else(|_| {
        panic!("{VARIABLE} is not set: run the tests with `cargo xtask test`, or single ones with `cargo xtask servers -- cargo nextest run …`")
    })
}

/// Settings with a prefix of their own.
pub(crate) fn settings() -> RedisConfig {
    let number = TIERS.fetch_add(1, Ordering::Relaxed);
    RedisConfig {
        prefix: format!("test:{}:{number}", std::process::id()),
        // A busy machine is not a broken one.
        lookup_budget: HumanDuration(Duration::from_secs(30)),
        timeout: HumanDuration(Duration::from_secs(30)),
        ..RedisConfig::at(address())
    }
}

fn open() -> Box<RedisTier> {
    Box::new(RedisTier::new(&settings()).unwrap())
}

crate::conformance::conformance! { shared (open(), ()) }

#[tokio::test]
async fn redis_ends_entries_by_itself() {
    let tier = open();
    let now = Timestamp::default();
    let expires_at = now.saturating_add(Duration::from_secs(60));
    let record = crate::conformance::record(1, "x", Default::default(), expires_at);
    let key = record.key;
    tier.put(&[record], now).await.unwrap();
    let left: u64 = tier.ask(cmd("PTTL").arg(tier.entry(&key))).await.unwrap();
    assert!((1..=60_000).contains(&left), "{left}");
}

#[tokio::test]
async fn what_others_keep_in_redis_stays() {
    let tier = open();
    let other = format!("{}-other:cache:x", tier.prefix);
    let _: () = tier.ask(cmd("SET").arg(&other).arg("y")).await.unwrap();
    assert_eq!(tier.remove(&Target::All).await.unwrap(), 0);
    let value: String = tier.ask(cmd("GET").arg(&other)).await.unwrap();
    assert_eq!(value, "y");
    let _: () = tier.ask(cmd("DEL").arg(&other)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let config = RedisConfig::at(format!("redis://127.0.0.1:{port}"));
    let tier = RedisTier::new(&config).unwrap();
    let error = tier.prepare().await.unwrap_err();
    assert!(matches!(error, TierError::Redis(_)), "{error:?}");
}

#[tokio::test]
async fn a_wrong_address_is_told_without_its_password() {
    let config = RedisConfig::at("redis://:hunter2@host:port/x");
    let error = CacheError::from(RedisTier::new(&config).map(drop).unwrap_err());
    assert_eq!(
        error.to_string(),
        "`cache.redis.url` is not an address of Redis"
    );
}
