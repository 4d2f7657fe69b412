//! What the cache did since its start.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::tier::{TierKind, Usage};
use levelflow_runtime::breaker::BreakerState;

/// The longest latency that is told apart from longer ones.
const LONGEST: Duration = Duration::from_secs(60);

/// What the cache did since its start.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CacheStatistics {
    /// Lookups.
    pub lookups: u64,
    /// Lookups that found an entry.
    pub hits: u64,
    /// Lookups that found none.
    pub misses: u64,
    /// Hits by lookup; 0 before the first.
    pub hit_rate: f64,
    /// The time that computing took for what hits gave without it, in seconds.
    pub saved_seconds: f64,
    /// Results that were kept.
    pub kept: u64,
    /// Results that were not kept: too large, or more than could be packed in time.
    pub not_kept: u64,
    /// Bytes that compression saved.
    pub compression_saved_bytes: u64,
    /// Work that waited for identical work in place of being done.
    pub joined: u64,
    /// Each tier, from the first that is asked.
    pub tiers: Vec<TierStatistics>,
}

/// What one tier did since its start.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TierStatistics {
    /// Which.
    pub tier: TierKind,
    /// Lookups that found an entry here.
    pub hits: u64,
    /// Lookups that did not.
    pub misses: u64,
    /// Entries that were damaged; they count as misses.
    pub corrupt: u64,
    /// What it holds, where it is known at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Entries that had to go because there was no room.
    pub evictions: u64,
    /// Entries that expired and were removed.
    pub expired: u64,
    /// How long lookups took that were answered.
    pub latency: Latency,
    /// What only shared tiers have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedStatistics>,
}

/// What a shared tier did since the start, besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SharedStatistics {
    /// How its breaker stands.
    pub breaker: BreakerState,
    /// Lookups that passed it over because its breaker was open.
    pub skipped: u64,
    /// Lookups that it did not answer within its budget.
    pub timeouts: u64,
    /// Requests that failed otherwise.
    pub failures: u64,
    /// Entries that were written.
    pub writes: u64,
    /// Entries that were not: the queue was full, the tier left alone, or the write failed.
    pub dropped_writes: u64,
    /// Entries that wait to be written.
    pub queued: u64,
}

/// How long something took, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// How often it was measured.
    pub count: u64,
    /// Half took no longer.
    pub p50_us: f64,
    /// Nine of ten took no longer.
    pub p90_us: f64,
    /// 99 of a hundred took no longer.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
}

/// A count that many threads add to.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of the lookups of a tier.
#[derive(Debug, Default)]
pub(crate) struct LookupCounters {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) corrupt: Counter,
    latency: LatencyRecorder,
}

impl LookupCounters {
    pub(crate) fn answered(&self, took: Duration) {
        self.latency.record(took);
    }

    pub(crate) fn latency(&self) -> Latency {
        self.latency.latency()
    }
}

/// Takes note of how long something takes.
#[derive(Debug)]
pub struct LatencyRecorder {
    nanos: Mutex<Histogram<u64>>,
}

impl Default for LatencyRecorder {
    fn default() -> Self {
        let longest = LONGEST.as_nanos() as u64;
        let nanos = Histogram::new_with_bounds(1, longest, 2).expect("the bounds are in order");
        Self {
            nanos: Mutex::new(nanos),
        }
    }
}

impl LatencyRecorder {
    /// It took so long once.
    pub fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let mut histogram = self.nanos.lock().unwrap_or_else(PoisonError::into_inner);
        histogram.saturating_record(nanos.max(1));
    }

    /// How long it took.
    pub fn latency(&self) -> Latency {
        let histogram = self.nanos.lock().unwrap_or_else(PoisonError::into_inner);
        let micros = |nanos: u64| nanos as f64 / 1_000.0;
        Latency {
            count: histogram.len(),
            p50_us: micros(histogram.value_at_quantile(0.5)),
            p90_us: micros(histogram.value_at_quantile(0.9)),
            p99_us: micros(histogram.value_at_quantile(0.99)),
            max_us: micros(histogram.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_told_by_quantile() {
        let counters = LookupCounters::default();
        for micros in 1..=100 {
            counters.answered(Duration::from_micros(micros));
        }
        let latency = counters.latency();
        assert_eq!(latency.count, 100);
        for (measured, micros) in [
            (latency.p50_us, 50.0),
            (latency.p90_us, 90.0),
            (latency.p99_us, 99.0),
            (latency.max_us, 100.0),
        ] {
            assert!((measured / micros - 1.0).abs() < 0.02, "{latency:?}");
        }
        counters.answered(Duration::from_secs(1_000));
        assert_eq!(counters.latency().count, 101);
    }
}
