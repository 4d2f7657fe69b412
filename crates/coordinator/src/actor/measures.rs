//! What the actor measures: plain numbers of its own, read when someone asks.

use std::collections::BTreeMap;
use std::time::Duration;

use levelflow_common::overview::{QueueView, WorkerStatus};
use levelflow_common::view::BreakerStatus;
use levelflow_engine::{Counters, Load};

/// Seconds that a commit may take.
const COMMIT_SECONDS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
];
/// Entries that one batch may have.
const BATCH_ENTRIES: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0,
];

/// How often a number fell between which bounds.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    /// The upper bounds, each with how many were at or below it and above the one before.
    pub(crate) buckets: Vec<(f64, u64)>,
    pub(crate) count: u64,
    pub(crate) sum: f64,
}

impl Histogram {
    fn new(bounds: &[f64]) -> Self {
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        Self {
            buckets: bounds.map(|bound| (bound, 0)).collect(),
            count: 0,
            sum: 0.0,
        }
    }

    fn observe(&mut self, value: f64) {
        let bucket = self.buckets.iter_mut().find(|(bound, _)| value <= *bound);
        if let Some((_, count)) = bucket {
            *count += 1;
        }
        self.count += 1;
        self.sum += value;
    }
}

/// What commits cost.
#[derive(Clone, Debug)]
pub(crate) struct CommitMeasures {
    pub(crate) seconds: Histogram,
    pub(crate) entries: Histogram,
}

impl Default for CommitMeasures {
    fn default() -> Self {
        Self {
            seconds: Histogram::new(COMMIT_SECONDS),
            entries: Histogram::new(BATCH_ENTRIES),
        }
    }
}

impl CommitMeasures {
    pub(crate) fn began(&mut self, entries: usize) {
        self.entries.observe(entries as f64);
    }

    pub(crate) fn ended(&mut self, after: Duration) {
        self.seconds.observe(after.as_secs_f64());
    }
}

/// What workers offer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WorkerMeasures {
    pub(crate) workers: usize,
    /// Attempts that they run at once.
    pub(crate) slots: usize,
    /// More attempts that they would take now.
    pub(crate) credits: usize,
}

/// How everything stands that the actor knows.
#[derive(Debug)]
pub(crate) struct Measures {
    pub(crate) counters: Counters,
    pub(crate) load: Load,
    /// The tasks that wait, by queue.
    pub(crate) queues: Vec<QueueView>,
    pub(crate) workers: Vec<(WorkerStatus, WorkerMeasures)>,
    /// Messages that wait in its inbox.
    pub(crate) inbox: usize,
    pub(crate) commits: CommitMeasures,
    /// Who follows a run live.
    pub(crate) watchers: usize,
    pub(crate) breakers: Vec<(BreakerStatus, usize)>,
    /// Alerts by what they were about.
    pub(crate) alerts: BTreeMap<&'static str, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_part_of_its_bucket() {
        let mut histogram = Histogram::new(&[1.0, 10.0]);
        for value in [0.5, 1.0, 1.5, 10.0, 11.0] {
            histogram.observe(value);
        }
        assert_eq!(histogram.buckets, [(1.0, 2), (10.0, 2), (f64::INFINITY, 1)]);
        assert_eq!((histogram.count, histogram.sum), (5, 24.0));
    }
}
