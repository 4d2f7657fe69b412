//! What the result cache did.

use levelflow_common::CacheTier;
use levelflow_common::view::BreakerStatus;
use schemars::JsonSchema;
use serde::Serialize;

use crate::enumeration::Enumeration as _;
use crate::invalid::InvalidField;
use crate::v1;

/// What the result cache did since the coordinator started.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CacheStatistics {
    /// Lookups.
    lookups: u64,
    /// Lookups that found a result.
    hits: u64,
    /// The share of lookups that did; 0 before the first.
    hit_rate: f64,
    /// The time in seconds that computing took for what hits gave without it.
    saved_seconds: f64,
    /// Results that were put in.
    kept: u64,
    /// Results that were not: too large, or too many at once.
    not_kept: u64,
    /// Bytes that compression saved.
    compression_saved_bytes: u64,
    /// The tiers, from the first that is asked.
    tiers: Vec<CacheTierStatistics>,
    /// Results of nearly equal texts.
    semantic: SemanticStatistics,
}

/// What came of results of nearly equal texts. Not among the lookups and hits of the cache.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SemanticStatistics {
    /// Tasks for whose text a nearly equal one was looked for.
    lookups: u64,
    /// Those that got its result.
    hits: u64,
    /// Those that were shown it.
    near_hits: u64,
    /// Those that no model was asked for: there is none, it is left alone, or the text is too long.
    skipped: u64,
    /// Those whose vector was not there in time.
    timeouts: u64,
    /// The time in seconds that computing took for what hits gave without it.
    saved_seconds: f64,
    /// Half of the lookups took no longer, in milliseconds.
    p50_ms: f64,
    /// 99 of a hundred lookups took no longer, in milliseconds.
    p99_ms: f64,
    /// Texts that are known.
    entries: u64,
    /// Bytes of those texts and their vectors.
    bytes: u64,
    /// Texts that had to go because there was no room.
    evictions: u64,
    /// The embedding models.
    models: Vec<EmbeddingModelStatistics>,
}

/// What one embedding model did.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EmbeddingModelStatistics {
    /// Its name in the configuration.
    name: String,
    /// Texts whose vectors it made.
    texts: u64,
    /// Batches that failed.
    failures: u64,
    /// Texts that it was not asked for: it is left alone, or too many wait.
    skipped: u64,
    /// How its breaker stands.
    breaker: BreakerStatus,
}

/// What one tier did.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CacheTierStatistics {
    /// Which: `memory`, `redis` or `postgres`.
    tier: &'static str,
    /// Lookups that found a result here.
    hits: u64,
    /// Lookups that did not.
    misses: u64,
    /// Entries that were damaged: they count as not found.
    corrupt: u64,
    /// Entries that it holds, where that is known at once.
    entries: Option<u64>,
    /// Bytes that it holds, where that is known at once.
    bytes: Option<u64>,
    /// Results that had to go because there was no room.
    evictions: u64,
    /// Results whose time was over.
    expired: u64,
    /// Half of the lookups took no longer, in milliseconds.
    p50_ms: f64,
    /// 99 of a hundred lookups took no longer, in milliseconds.
    p99_ms: f64,
    /// What only tiers have that processes share.
    #[serde(skip_serializing_if = "Option::is_none")]
    shared: Option<SharedCacheTierStatistics>,
}

/// What a tier did that processes share.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SharedCacheTierStatistics {
    /// How its breaker stands.
    breaker: BreakerStatus,
    /// Lookups that passed it over because its breaker was open.
    skipped: u64,
    /// Lookups that it did not answer in time.
    timeouts: u64,
    /// Requests that failed otherwise.
    failures: u64,
    /// Results that were written.
    writes: u64,
    /// Results that were not.
    dropped_writes: u64,
    /// Results that wait to be written.
    queued: u64,
}

impl TryFrom<&v1::CacheStatistics> for CacheStatistics {
    type Error = InvalidField;

    fn try_from(message: &v1::CacheStatistics) -> Result<Self, InvalidField> {
        let tiers = message.tiers.iter().map(CacheTierStatistics::try_from);
        Ok(Self {
            lookups: message.lookups,
            hits: message.hits,
            hit_rate: message.hits as f64 / message.lookups.max(1) as f64,
            saved_seconds: message.saved_us as f64 / 1e6,
            kept: message.kept,
            not_kept: message.not_kept,
            compression_saved_bytes: message.compression_saved_bytes,
            tiers: tiers.collect::<Result<_, _>>()?,
            semantic: message
                .semantic
                .as_ref()
                .unwrap_or(&v1::SemanticStatistics::default())
                .try_into()?,
        })
    }
}

impl TryFrom<&v1::SemanticStatistics> for SemanticStatistics {
    type Error = InvalidField;

    fn try_from(message: &v1::SemanticStatistics) -> Result<Self, InvalidField> {
        let models = message.models.iter().map(TryInto::try_into);
        Ok(Self {
            lookups: message.lookups,
            hits: message.hits,
            near_hits: message.near_hits,
            skipped: message.skipped,
            timeouts: message.timeouts,
            saved_seconds: message.saved_us as f64 / 1e6,
            p50_ms: message.p50_us / 1e3,
            p99_ms: message.p99_us / 1e3,
            entries: message.entries,
            bytes: message.bytes,
            evictions: message.evictions,
            models: models.collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<&v1::EmbeddingModelStatistics> for EmbeddingModelStatistics {
    type Error = InvalidField;

    fn try_from(message: &v1::EmbeddingModelStatistics) -> Result<Self, InvalidField> {
        Ok(Self {
            name: message.name.clone(),
            texts: message.texts,
            failures: message.failures,
            skipped: message.skipped,
            breaker: BreakerStatus::required("breaker", message.breaker)?,
        })
    }
}

impl TryFrom<&v1::CacheTierStatistics> for CacheTierStatistics {
    type Error = InvalidField;

    fn try_from(message: &v1::CacheTierStatistics) -> Result<Self, InvalidField> {
        let shared = message.shared.as_ref().map(TryInto::try_into);
        Ok(Self {
            tier: CacheTier::required("tier", message.tier)?.as_str(),
            hits: message.hits,
            misses: message.misses,
            corrupt: message.corrupt,
            entries: message.entries,
            bytes: message.bytes,
            evictions: message.evictions,
            expired: message.expired,
            p50_ms: message.p50_us / 1e3,
            p99_ms: message.p99_us / 1e3,
            shared: shared.transpose()?,
        })
    }
}

impl TryFrom<&v1::SharedCacheTierStatistics> for SharedCacheTierStatistics {
    type Error = InvalidField;

    fn try_from(message: &v1::SharedCacheTierStatistics) -> Result<Self, InvalidField> {
        Ok(Self {
            breaker: BreakerStatus::required("breaker", message.breaker)?,
            skipped: message.skipped,
            timeouts: message.timeouts,
            failures: message.failures,
            writes: message.writes,
            dropped_writes: message.dropped_writes,
            queued: message.queued,
        })
    }
}
