//! What one side saw in one round.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Runs of one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// Runs that ended, whether they completed or failed.
    pub(super) runs: u64,
    pub(super) completed: u64,
    pub(super) elapsed_s: f64,
    /// Of the runs that completed.
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) peak_resident_bytes: u64,
}

impl Outcome {
    /// The latency has the microseconds of each run that completed.
    pub(super) fn new(
        runs: u64,
        elapsed: Duration,
        latency: &Histogram<u64>,
        peak_resident_bytes: u64,
    ) -> Self {
        Self {
            runs,
            completed: latency.len(),
            elapsed_s: elapsed.as_secs_f64(),
            p50_ms: latency.value_at_quantile(0.5) as f64 / 1e3,
            p99_ms: latency.value_at_quantile(0.99) as f64 / 1e3,
            peak_resident_bytes,
        }
    }

    pub(super) fn executions_per_s(&self) -> f64 {
        self.runs as f64 / self.elapsed_s
    }

    pub(super) fn completed_per_s(&self) -> f64 {
        self.completed as f64 / self.elapsed_s
    }
}
