//! The port that every tier of the cache implements.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use levelflow_common::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::entry::{Labels, Target};
use crate::error::TierError;
use levelflow_common::CacheKey;

/// A tier of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TierKind {
    /// In this process.
    Memory,
    /// Shared, hot.
    Redis,
    /// Shared, warm.
    Postgres,
}

impl TierKind {
    /// The word in outcomes, logs and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }

    /// The tier of that word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Memory, Self::Redis, Self::Postgres]
            .into_iter()
            .find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for TierKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A sealed entry on its way into a tier.
#[derive(Clone, Debug)]
pub struct Record {
    /// What it is found by.
    pub key: CacheKey,
    /// The sealed entry.
    pub sealed: Bytes,
    /// Whose it is, and what it is invalidated by.
    pub labels: Arc<Labels>,
    /// From when on the tier has it no more.
    pub expires_at: Timestamp,
}

/// What a tier holds. Shared tiers count what has not been swept yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Entries.
    pub entries: u64,
    /// Bytes of the sealed entries.
    pub bytes: u64,
}

/// A place where sealed entries are kept. It may lose any of them at any time.
#[async_trait]
pub trait Tier: Send + Sync + 'static {
    /// Which it is.
    fn kind(&self) -> TierKind;

    /// The sealed entry with this key, unless it has expired.
    async fn get(&self, key: &CacheKey, now: Timestamp) -> Result<Option<Bytes>, TierError>;

    /// Keeps sealed entries in place of those with the same keys.
    async fn put(&self, records: &[Record], now: Timestamp) -> Result<(), TierError>;

    /// Removes entries, and says how many there were.
    async fn remove(&self, target: &Target) -> Result<u64, TierError>;

    /// Removes some of the entries that have expired, and says how many.
    async fn sweep(&self, now: Timestamp) -> Result<u64, TierError>;

    /// What it holds.
    async fn usage(&self) -> Result<Usage, TierError>;
}

/// Tells the holder of a lease from all others.
pub type LeaseToken = Uuid;

/// A tier that processes share.
#[async_trait]
pub trait SharedTier: Tier {
    /// Connects, and makes what the tier needs to be there. Every request does so if this was not done.
    async fn prepare(&self) -> Result<(), TierError>;

    /// Takes the lease of a key for a time, or lengthens it for who has it; says whether `token` has it now.
    async fn lease(
        &self,
        key: &CacheKey,
        token: LeaseToken,
        span: Duration,
    ) -> Result<bool, TierError>;

    /// Ends the lease of a key, if it is that of `token`.
    async fn release(&self, key: &CacheKey, token: LeaseToken) -> Result<(), TierError>;
}
