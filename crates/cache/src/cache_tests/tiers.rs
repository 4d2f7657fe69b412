//! What tiers that hang, fail or lie do to lookups, and what promotion and removal do.

use std::sync::Arc;
use std::time::Duration;

use levelflow_common::{Code, Failure};
use tokio::time::{Instant, advance};

use super::fake::{BUDGET, DAY, FakeTier, Mood, TestClock, cache_over};
use super::*;
use crate::Cache;
use crate::config::CacheConfig;
use crate::entry::Target;
use crate::error::NotKept;
use crate::statistics::TierStatistics;
use crate::tier::TierKind;
use levelflow_runtime::breaker::BreakerState;

mod conformance {
    use super::*;

    crate::conformance::conformance! { shared (FakeTier::new(TierKind::Redis), ()) }
}

struct World {
    clock: TestClock,
    redis: Arc<FakeTier>,
    postgres: Arc<FakeTier>,
}

impl World {
    fn new() -> Self {
        Self {
            clock: TestClock::default(),
            redis: FakeTier::new(TierKind::Redis),
            postgres: FakeTier::new(TierKind::Postgres),
        }
    }

    /// A process that shares the tiers with others.
    fn process(&self) -> Cache {
        let tiers = [&self.redis, &self.postgres];
        cache_over(&self.clock, CacheConfig::default(), &tiers)
    }
}

fn tier(cache: &Cache, kind: TierKind) -> TierStatistics {
    let tiers = cache.statistics().tiers;
    tiers.into_iter().find(|tier| tier.tier == kind).unwrap()
}

async fn put(cache: &Cache, number: u8, tags: &[&str]) {
    cache
        .put(&key(number), computed("1"), terms_of("a", tags))
        .unwrap();
    cache.flush().await;
}

#[tokio::test(start_paused = true)]
async fn a_hit_in_a_lower_tier_is_put_into_those_above() {
    let world = World::new();
    put(&world.process(), 1, &[]).await;
    let cache = world.process();
    world.clock.pass(2 * HOUR);
    let hit = cache.lookup(&key(1)).await.unwrap();
    assert_eq!((hit.tier, hit.age), (TierKind::Postgres, 2 * HOUR));
    let hit = cache.lookup(&key(1)).await.unwrap();
    assert_eq!((hit.tier, hit.age), (TierKind::Memory, 2 * HOUR));
    cache.flush().await;
    let hit = world.process().lookup(&key(1)).await.unwrap();
    assert_eq!((hit.tier, hit.age), (TierKind::Redis, 2 * HOUR));
    // However often it is promoted, it ends when the last tier would end it.
    for _ in 0..30 {
        world.clock.pass(HOUR - Duration::from_secs(1));
        let expected = world.clock.now().as_micros() < DAY.as_micros() as u64;
        assert_eq!(cache.lookup(&key(1)).await.is_some(), expected);
        cache.flush().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_tier_that_hangs_costs_its_budget_and_then_nothing() {
    let world = World::new();
    let cache = world.process();
    put(&cache, 1, &[]).await;
    world.redis.set(Mood::Hangs);
    let other = world.process();
    let timed = async |number: u8| {
        let started = Instant::now();
        let is_hit = other.lookup(&key(number)).await.is_some();
        (is_hit, started.elapsed())
    };
    let (is_hit, took) = timed(1).await;
    assert!(is_hit, "the tier below has it");
    assert!(took >= BUDGET / 2 && took <= BUDGET, "{took:?}");
    let started = Instant::now();
    let flight = other.begin_flight(&key(1)).await;
    assert!(
        started.elapsed() < Duration::from_millis(5),
        "the lookup waited for both"
    );
    drop(flight);
    for number in 2..6 {
        timed(number).await;
    }
    // The promotion into the tier that hangs failed too, at the latest by now.
    let statistics = tier(&other, TierKind::Redis).shared.unwrap();
    assert_eq!(statistics.breaker, BreakerState::Open);
    let (_, took) = timed(7).await;
    assert_eq!(took, Duration::ZERO);
    assert!(tier(&other, TierKind::Redis).shared.unwrap().skipped >= 1);

    // It is looked at again, by nobody who waits.
    world.redis.set(Mood::Answers);
    advance(Duration::from_secs(6)).await;
    let (_, took) = timed(8).await;
    assert_eq!(took, Duration::ZERO);
    let closed = async {
        while tier(&other, TierKind::Redis).shared.unwrap().breaker != BreakerState::Closed {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), closed)
        .await
        .unwrap();
    let asked = world.redis.asked();
    timed(9).await;
    assert!(world.redis.asked() > asked);
}

#[tokio::test(start_paused = true)]
async fn a_tier_that_is_down_costs_nothing_and_no_task_fails() {
    let world = World::new();
    world.redis.set(Mood::Fails);
    world.postgres.set(Mood::Fails);
    let cache = world.process();
    let started = Instant::now();
    for number in 0..20 {
        assert_eq!(cache.lookup(&key(number)).await, None);
        let kept = cache.put(&key(number), computed("1"), Terms::default());
        kept.unwrap();
        assert!(cache.lookup_memory(&key(number)).is_some());
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
    cache.flush().await;
    for kind in [TierKind::Redis, TierKind::Postgres] {
        let statistics = tier(&cache, kind).shared.unwrap();
        assert_eq!(statistics.breaker, BreakerState::Open);
        assert_eq!((statistics.writes, statistics.dropped_writes), (0, 20));
    }
    assert!(world.redis.asked() < 10);
}

#[tokio::test(start_paused = true)]
async fn writes_that_nobody_takes_are_dropped_and_counted_and_delay_nobody() {
    let world = World::new();
    world.redis.set(Mood::Hangs);
    let cache = world.process();
    let started = Instant::now();
    let large = Bytes::from(vec![7; 1_000_000]);
    for number in 0..5_000u32 {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        let output = if number < 50 {
            large.clone()
        } else {
            "1".into()
        };
        let computed = Computed {
            chunks: vec![output],
            ..computed("1")
        };
        let key = CacheKey::from_bytes(bytes);
        cache.put(&key, computed, Terms::default()).unwrap();
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
    let statistics = tier(&cache, TierKind::Redis).shared.unwrap();
    assert_eq!(statistics.writes, 0);
    assert!(statistics.queued <= 4_096);
    assert!(statistics.dropped_writes >= 5_000 - 4_096);
}

#[tokio::test]
async fn a_damaged_or_swapped_entry_is_a_miss_and_is_removed() {
    let world = World::new();
    let cache = world.process();
    put(&cache, 1, &[]).await;
    put(&cache, 2, &[]).await;
    world.postgres.remove_all().await;
    let other = world.redis.sealed(&key(2)).unwrap();
    world.redis.smuggle(&key(1), other, Labels::default());
    let fresh = world.process();
    assert_eq!(fresh.lookup(&key(1)).await, None);
    assert_eq!(tier(&fresh, TierKind::Redis).corrupt, 1);
    assert_eq!(tier(&fresh, TierKind::Redis).misses, 1);
    fresh.flush().await;
    assert!(!world.redis.has(&key(1)));
    assert!(fresh.lookup(&key(2)).await.is_some());
}

#[tokio::test]
async fn what_is_invalidated_is_gone_from_all_tiers_even_if_it_was_on_its_way() {
    let world = World::new();
    let cache = world.process();
    for number in 0..3 {
        cache
            .put(&key(number), computed("1"), terms_of("a", &["red"]))
            .unwrap();
    }
    cache
        .put_in_background(&key(3), computed("1"), terms_of("a", &["red"]))
        .unwrap();
    put(&cache, 4, &["blue"]).await;
    let target = Target::Tag {
        tenant: "a".to_owned(),
        tag: "red".to_owned(),
    };
    assert_eq!(cache.invalidate(&target).await.unwrap(), 3 * 4);
    for number in 0..5 {
        assert_eq!(cache.lookup(&key(number)).await.is_some(), number == 4);
        let is_hit = world.process().lookup(&key(number)).await.is_some();
        assert_eq!(is_hit, number == 4);
    }
    assert_eq!(cache.clear(Some("b")).await.unwrap(), 0);
    assert_eq!(cache.clear(Some("a")).await.unwrap(), 3);
    assert_eq!(cache.clear(None).await.unwrap(), 0);
}

#[tokio::test]
async fn a_tier_that_cannot_remove_is_named_and_the_others_have() {
    let world = World::new();
    let cache = world.process();
    put(&cache, 1, &[]).await;
    world.redis.set(Mood::Fails);
    let error = cache.clear(None).await.unwrap_err();
    assert_eq!(error.to_string(), "the redis tier of the cache failed");
    assert_eq!(error.code(), Code::CacheUnavailable);
    assert!(!world.postgres.has(&key(1)));
    assert_eq!(cache.lookup_memory(&key(1)), None);
}

#[tokio::test]
async fn failures_are_kept_only_where_that_is_wanted() {
    let world = World::new();
    let cache = world.process();
    let failed = Computed {
        result: Err(Failure::permanent(Code::HttpStatus, "404")),
        ..computed("")
    };
    let mut terms = terms_of("a", &[]);
    let put = |terms: &Terms| cache.put(&key(1), failed.clone(), terms.clone());
    assert_eq!(put(&terms), Err(NotKept::Failure));
    terms.failure_ttl = Some(Duration::from_secs(60));
    put(&terms).unwrap();
    let hit = cache.lookup_memory(&key(1)).unwrap();
    assert_eq!(hit.entry.computed.result, failed.result);
    world.clock.pass(Duration::from_secs(60));
    assert_eq!(cache.lookup_memory(&key(1)), None);
}

#[tokio::test]
async fn results_that_are_too_large_or_badly_labelled_are_not_kept() {
    let config = CacheConfig {
        max_entry_bytes: 1024,
        ..CacheConfig::default()
    };
    let cache = cache_over(&TestClock::default(), config, &[]);
    let large = cache.put(&key(1), computed(vec![1; 2_000]), Terms::default());
    assert!(matches!(large, Err(NotKept::TooLarge(_))));
    let tags = vec!["t"; 17];
    let labelled = cache.put(&key(1), computed("1"), terms_of("a", &tags));
    assert_eq!(labelled, Err(NotKept::Labels));
    let nul = cache.put(&key(1), computed("1"), terms_of("a\0", &[]));
    assert_eq!(nul, Err(NotKept::Labels));
    assert_eq!(cache.statistics().not_kept, 3);
    assert_eq!(cache.lookup(&key(1)).await, None);
}

#[tokio::test]
async fn statistics_say_what_was_saved() {
    let world = World::new();
    let cache = world.process();
    cache
        .put(&key(1), computed("a".repeat(10_000)), terms_of("a", &[]))
        .unwrap();
    for number in [1, 1, 2] {
        cache.lookup(&key(number)).await;
    }
    let statistics = cache.statistics();
    assert_eq!(
        (statistics.lookups, statistics.hits, statistics.misses),
        (3, 2, 1)
    );
    assert!((statistics.hit_rate - 2.0 / 3.0).abs() < 1e-9);
    assert!((statistics.saved_seconds - 4.0).abs() < 1e-9);
    assert_eq!(statistics.kept, 1);
    assert!(statistics.compression_saved_bytes > 9_000);
    let memory = tier(&cache, TierKind::Memory);
    assert_eq!((memory.hits, memory.misses), (2, 1));
    assert_eq!(memory.latency.count, 3);
    assert_eq!(memory.usage.unwrap().entries, 1);
    assert_eq!(tier(&cache, TierKind::Redis).latency.count, 1);
    cache.flush().await;
    assert_eq!(tier(&cache, TierKind::Redis).shared.unwrap().writes, 1);
    let json = serde_json::to_value(cache.statistics()).unwrap();
    assert_eq!(json["tiers"][1]["shared"]["breaker"], "closed");
    let usage = cache.usage().await.unwrap();
    assert!(usage.iter().all(|(_, usage)| usage.entries == 1));
}

#[tokio::test]
async fn a_file_of_results_warms_the_cache() {
    let cache = cache_over(&TestClock::default(), CacheConfig::default(), &[]);
    let file = format!(
        "{{\"key\":\"{}\",\"output\":{{\"a\":1}}}}\nnonsense\n",
        key(1)
    );
    let report = cache.warm_up(file.as_bytes()).unwrap();
    assert_eq!((report.kept, report.passed_over), (1, 1));
    let hit = cache.lookup_memory(&key(1)).unwrap();
    assert_eq!(hit.entry.computed.result, Ok(r#"{"a":1}"#.into()));
}
