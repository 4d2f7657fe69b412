//! A shared tier that does as it is told.

use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use levelflow_common::{HumanDuration, Timestamp};
use tokio::time::Instant;

use crate::Cache;
use crate::clock::Clock;
use crate::config::{CacheConfig, MemoryConfig};
use crate::entry::{Labels, Target};
use crate::error::TierError;
use crate::memory::MemoryTier;
use crate::shared::SharedSettings;
use crate::tier::{LeaseToken, Record, SharedTier, Tier, TierKind, Usage};
use levelflow_common::CacheKey;

pub(super) const BUDGET: Duration = Duration::from_millis(20);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// What the tier does with requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mood {
    Answers,
    Hangs,
    Fails,
}

pub(super) struct FakeTier {
    kind: TierKind,
    entries: MemoryTier,
    leases: Mutex<HashMap<CacheKey, (LeaseToken, Instant)>>,
    mood: Mutex<Mood>,
    pub(super) asked: AtomicU64,
}

impl FakeTier {
    pub(super) fn new(kind: TierKind) -> Arc<Self> {
        let config = MemoryConfig {
            ttl: HumanDuration(1000 * DAY),
            ..MemoryConfig::default()
        };
        Arc::new(Self {
            kind,
            entries: MemoryTier::new(&config),
            leases: Mutex::default(),
            mood: Mutex::new(Mood::Answers),
            asked: AtomicU64::new(0),
        })
    }

    pub(super) fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Puts bytes behind the back of the cache.
    pub(super) fn smuggle(&self, key: &CacheKey, sealed: Bytes, labels: Labels) {
        let record = Record {
            key: *key,
            sealed,
            labels: Arc::new(labels),
            expires_at: Timestamp::MAX,
        };
        assert!(self.entries.put_now(&record, Timestamp::default()));
    }

    pub(super) fn has(&self, key: &CacheKey) -> bool {
        self.sealed(key).is_some()
    }

    pub(super) fn sealed(&self, key: &CacheKey) -> Option<Bytes> {
        self.entries.get_now(key, Timestamp::default())
    }

    pub(super) async fn remove_all(&self) {
        self.entries.remove(&Target::All).await.unwrap();
    }

    async fn mind(&self) -> Result<(), TierError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Answers => Ok(()),
            Mood::Hangs => pending().await,
            Mood::Fails => Err(TierError::Busy),
        }
    }
}

#[async_trait]
impl Tier for FakeTier {
    fn kind(&self) -> TierKind {
        self.kind
    }

    async fn get(&self, key: &CacheKey, now: Timestamp) -> Result<Option<Bytes>, TierError> {
        self.mind().await?;
        self.entries.get(key, now).await
    }

    async fn put(&self, records: &[Record], now: Timestamp) -> Result<(), TierError> {
        self.mind().await?;
        self.entries.put(records, now).await
    }

    async fn remove(&self, target: &Target) -> Result<u64, TierError> {
        self.mind().await?;
        self.entries.remove(target).await
    }

    async fn sweep(&self, now: Timestamp) -> Result<u64, TierError> {
        self.entries.sweep(now).await
    }

    async fn usage(&self) -> Result<Usage, TierError> {
        self.entries.usage().await
    }
}

#[async_trait]
impl SharedTier for FakeTier {
    async fn prepare(&self) -> Result<(), TierError> {
        self.mind().await
    }

    async fn lease(
        &self,
        key: &CacheKey,
        token: LeaseToken,
        span: Duration,
    ) -> Result<bool, TierError> {
        self.mind().await?;
        let now = Instant::now();
        let mut leases = self.leases.lock().unwrap();
        let (holder, until) = leases.entry(*key).or_insert((token, now));
        if *holder != token && now < *until {
            return Ok(false);
        }
        (*holder, *until) = (token, now + span);
        Ok(true)
    }

    async fn release(&self, key: &CacheKey, token: LeaseToken) -> Result<(), TierError> {
        self.mind().await?;
        let mut leases = self.leases.lock().unwrap();
        if leases.get(key).is_some_and(|(holder, _)| *holder == token) {
            leases.remove(key);
        }
        Ok(())
    }
}

/// A clock that is set by hand.
#[derive(Clone, Default)]
pub(super) struct TestClock(Arc<AtomicU64>);

impl TestClock {
    pub(super) fn pass(&self, span: Duration) {
        self.0.fetch_add(span.as_micros() as u64, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn clock(&self) -> Clock {
        let clock = self.clone();
        Arc::new(move || clock.now())
    }
}

/// A cache over these tiers, the first of which keeps entries for an hour and the others for a day.
pub(super) fn cache_over(
    clock: &TestClock,
    config: CacheConfig,
    tiers: &[&Arc<FakeTier>],
) -> Cache {
    let tiers = tiers.iter().map(|&tier| {
        let settings = SharedSettings {
            ttl: match tier.kind {
                TierKind::Postgres => DAY,
                _ => Duration::from_secs(3600),
            },
            lookup_budget: BUDGET,
            timeout: Duration::from_secs(2),
        };
        (Arc::clone(tier) as Arc<dyn SharedTier>, settings)
    });
    Cache::with_tiers(config, clock.clock(), tiers.collect()).unwrap()
}
