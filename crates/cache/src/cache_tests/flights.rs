//! Identical work, in one process and in several.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::fake::{FakeTier, Mood, TestClock, cache_over};
use super::*;
use crate::Cache;
use crate::cache::Source;
use crate::config::CacheConfig;
use crate::lease::{Arrival, Flight, Lease, Wait};
use crate::tier::TierKind;

const DEADLINE: Duration = Duration::from_secs(30);

fn alone() -> Cache {
    cache_over(&TestClock::default(), CacheConfig::default(), &[])
}

async fn wait(cache: &Cache) -> Wait {
    match cache.begin_flight(&key(1)).await {
        Flight::Follower(wait) => wait,
        Flight::Leader(_) => panic!("nobody computes"),
    }
}

async fn lead(cache: &Cache) -> Lease {
    match cache.begin_flight(&key(1)).await {
        Flight::Leader(lease) => lease,
        Flight::Follower(_) => panic!("another computes"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_identical_calls_compute_once() {
    let redis = FakeTier::new(TierKind::Redis);
    let clock = TestClock::default();
    let caches = [(); 2].map(|()| cache_over(&clock, CacheConfig::default(), &[&redis]));
    let runs = Arc::new(AtomicU64::new(0));
    let go = Arc::new(Notify::new());
    let calls: Vec<_> = (0..100)
        .map(|number| {
            let (cache, runs, go) = (caches[number % 2].clone(), runs.clone(), go.clone());
            levelflow_runtime::task::spawn("call", async move {
                let compute = async || {
                    runs.fetch_add(1, Ordering::Relaxed);
                    go.notified().await;
                    computed("1")
                };
                cache
                    .get_or_compute(&key(1), Terms::default(), compute)
                    .await
            })
        })
        .collect();
    // Time passes when all of them wait.
    sleep(Duration::from_secs(1)).await;
    go.notify_one();
    let mut sources = Vec::new();
    for call in calls {
        let obtained = timeout(DEADLINE, call).await.unwrap().unwrap();
        assert_eq!(obtained.computed, computed("1"));
        sources.push(obtained.source);
    }
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    let fresh = sources.iter().filter(|source| **source == Source::Computed);
    assert_eq!(fresh.count(), 1);
    let joined: u64 = caches.iter().map(|cache| cache.statistics().joined).sum();
    assert_eq!(joined, 99);
}

#[tokio::test]
async fn what_was_computed_is_found_the_next_time() {
    let cache = alone();
    let fresh = cache
        .get_or_compute(&key(1), Terms::default(), async || computed("1"))
        .await;
    assert_eq!(fresh.source, Source::Computed);
    let again = cache
        .get_or_compute(&key(1), Terms::default(), async || panic!("it is there"))
        .await;
    assert!(matches!(
        again.source,
        Source::Kept {
            tier: TierKind::Memory,
            ..
        }
    ));
    assert_eq!(again.computed, fresh.computed);
}

#[tokio::test]
async fn when_who_computes_is_dropped_another_does() {
    let cache = alone();
    let started = Arc::new(Notify::new());
    let first = {
        let (cache, started) = (cache.clone(), started.clone());
        levelflow_runtime::task::spawn("first", async move {
            let compute = async || {
                started.notify_one();
                std::future::pending().await
            };
            cache
                .get_or_compute(&key(1), Terms::default(), compute)
                .await
        })
    };
    started.notified().await;
    let key = key(1);
    let second = cache.get_or_compute(&key, Terms::default(), async || computed("2"));
    first.abort();
    let obtained = timeout(DEADLINE, second).await.unwrap();
    assert_eq!(obtained.source, Source::Computed);
    assert_eq!(obtained.computed, computed("2"));
}

#[tokio::test]
async fn another_process_waits_for_the_result() {
    let redis = FakeTier::new(TierKind::Redis);
    let clock = TestClock::default();
    let [one, other] = [(); 2].map(|()| cache_over(&clock, CacheConfig::default(), &[&redis]));
    let lease = lead(&one).await;
    assert!(lease.is_exclusive());
    let arrival = wait(&other).await.arrival();
    one.put(&key(1), computed("1"), Terms::default()).unwrap();
    drop(lease);
    match timeout(DEADLINE, arrival).await.unwrap() {
        Arrival::Hit(hit) => assert_eq!(hit.entry.computed, computed("1")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_result_that_came_between_the_lookup_and_the_lead_is_not_computed_again() {
    let redis = FakeTier::new(TierKind::Redis);
    let clock = TestClock::default();
    let [one, other] = [(); 2].map(|()| cache_over(&clock, CacheConfig::default(), &[&redis]));
    assert_eq!(other.lookup(&key(1)).await, None);
    let lease = lead(&one).await;
    one.put(&key(1), computed("1"), Terms::default()).unwrap();
    drop(lease);
    one.flush().await;
    match wait(&other).await.arrival().await {
        Arrival::Hit(hit) => assert_eq!(hit.entry.computed, computed("1")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn another_process_computes_when_the_first_gives_up() {
    let redis = FakeTier::new(TierKind::Redis);
    let clock = TestClock::default();
    let [one, other] = [(); 2].map(|()| cache_over(&clock, CacheConfig::default(), &[&redis]));
    let lease = lead(&one).await;
    let arrival = wait(&other).await.arrival();
    drop(lease);
    match timeout(DEADLINE, arrival).await.unwrap() {
        Arrival::Leader(lease) => assert!(lease.is_exclusive()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_another_process_is_bounded() {
    let redis = FakeTier::new(TierKind::Redis);
    let clock = TestClock::default();
    let [one, other] = [(); 2].map(|()| cache_over(&clock, CacheConfig::default(), &[&redis]));
    let lease = lead(&one).await;
    let started = Instant::now();
    let arrival = wait(&other).await.arrival().await;
    assert!(matches!(arrival, Arrival::TimedOut), "{arrival:?}");
    let longest = CacheConfig::default().single_flight.wait.0;
    assert!(started.elapsed() < longest + Duration::from_secs(1));
    drop(lease);
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_lengthened_for_as_long_as_it_is_held() {
    let redis = FakeTier::new(TierKind::Redis);
    let clock = TestClock::default();
    let [one, other] = [(); 2].map(|()| cache_over(&clock, CacheConfig::default(), &[&redis]));
    let lease = lead(&one).await;
    for _ in 0..60 {
        sleep(Duration::from_secs(1)).await;
        drop(wait(&other).await);
    }
    drop(lease);
    one.flush().await;
    drop(lead(&other).await);
}

#[tokio::test(start_paused = true)]
async fn without_a_tier_that_answers_everyone_leads() {
    assert!(!lead(&alone()).await.is_exclusive());
    let redis = FakeTier::new(TierKind::Redis);
    redis.set(Mood::Hangs);
    let cache = cache_over(&TestClock::default(), CacheConfig::default(), &[&redis]);
    assert!(!lead(&cache).await.is_exclusive());
}
