//! The cache over real servers, and over such that do not answer.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use levelflow_common::{HumanDuration, Timestamp};
use levelflow_runtime::task;
use tokio::net::TcpListener;

use super::*;
use crate::Cache;
use crate::cache::Source;
use crate::clock::Clock;
use crate::config::{CacheConfig, RedisConfig};
use crate::entry::Target;
use crate::tier::TierKind;
use levelflow_runtime::breaker::BreakerState;

const DEADLINE: Duration = Duration::from_secs(30);

fn clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp::default().saturating_add(since)
    })
}

/// A process whose tiers are those of the settings.
fn process(config: &CacheConfig) -> Cache {
    Cache::start(config.clone(), clock()).unwrap()
}

#[tokio::test]
async fn processes_share_results_through_redis_and_postgresql() {
    let config = CacheConfig {
        redis: Some(crate::redis::tests::settings()),
        postgres: Some(crate::postgres::tests::settings().await),
        ..CacheConfig::default()
    };
    let only_postgres = CacheConfig {
        redis: None,
        ..config.clone()
    };
    let one = process(&config);
    let terms = terms_of("a", &["red"]);
    one.put(&key(1), computed("1".repeat(5_000)), terms)
        .unwrap();
    one.flush().await;
    for (config, tier) in [
        (&config, TierKind::Redis),
        (&only_postgres, TierKind::Postgres),
    ] {
        let other = process(config);
        let hit = other.lookup(&key(1)).await.unwrap();
        assert_eq!(hit.tier, tier);
        assert_eq!(hit.entry.computed, computed("1".repeat(5_000)));
        assert_eq!(other.lookup_memory(&key(1)).unwrap().tier, TierKind::Memory);
    }
    for (_, usage) in one.usage().await.unwrap() {
        assert_eq!(usage.entries, 1);
    }
    let target = Target::Tag {
        tenant: "a".to_owned(),
        tag: "red".to_owned(),
    };
    assert_eq!(one.invalidate(&target).await.unwrap(), 3);
    assert_eq!(process(&config).lookup(&key(1)).await, None);
}

#[tokio::test]
async fn processes_compute_once_through_a_real_server() {
    for config in [
        CacheConfig {
            redis: Some(crate::redis::tests::settings()),
            ..CacheConfig::default()
        },
        CacheConfig {
            postgres: Some(crate::postgres::tests::settings().await),
            ..CacheConfig::default()
        },
    ] {
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let cache = process(&config);
                task::spawn("call", async move {
                    let compute = async || computed("1");
                    cache
                        .get_or_compute(&key(1), Terms::default(), compute)
                        .await
                        .source
                })
            })
            .collect();
        let mut fresh = 0;
        for call in calls {
            fresh += u32::from(call.await.unwrap() == Source::Computed);
        }
        assert_eq!(fresh, 1);
    }
}

#[tokio::test]
async fn a_server_that_never_answers_costs_lookups_their_budget_and_then_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let config = CacheConfig {
        redis: Some(RedisConfig {
            lookup_budget: HumanDuration(Duration::from_millis(20)),
            ..RedisConfig::at(format!("redis://127.0.0.1:{port}"))
        }),
        ..CacheConfig::default()
    };
    let cache = process(&config);
    let shared = |cache: &Cache| cache.statistics().tiers[1].shared.unwrap();
    let started = Instant::now();
    while shared(&cache).breaker == BreakerState::Closed {
        assert!(started.elapsed() < DEADLINE);
        assert_eq!(cache.lookup(&key(1)).await, None);
    }
    assert!(started.elapsed() >= Duration::from_millis(60));
    let timeouts = shared(&cache).timeouts;
    for _ in 0..1_000 {
        assert_eq!(cache.lookup(&key(1)).await, None);
    }
    assert!(shared(&cache).skipped >= 1_000 - 5);
    assert!(shared(&cache).timeouts <= timeouts + 5);
}
