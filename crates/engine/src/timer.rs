//! Things to do at a time.

use std::collections::BTreeSet;

use levelflow_common::Timestamp;

use crate::event::RunKey;
use crate::limit::BucketKey;
use crate::record::TaskIndex;

/// Something to do at a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Timer {
    /// A task's backoff or sleep is over.
    Wake(RunKey, TaskIndex),
    /// A task has waited too long for a worker.
    QueueTimeout(RunKey, TaskIndex),
    /// A task has taken too long, all attempts together.
    TaskTimeout(RunKey, TaskIndex),
    /// A run has taken too long.
    RunTimeout(RunKey),
    /// A rate limit has tokens again.
    Refill(BucketKey),
    /// Leases are checked.
    Sweep,
    /// A breaker has been open for its time.
    Breakers,
}

/// The timers, in order.
#[derive(Debug, Default)]
pub(crate) struct Timers(BTreeSet<(Timestamp, Timer)>);

impl Timers {
    pub(crate) fn arm(&mut self, at: Timestamp, timer: Timer) {
        self.0.insert((at, timer));
    }

    pub(crate) fn disarm(&mut self, at: Timestamp, timer: Timer) {
        self.0.remove(&(at, timer));
    }

    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.0.first().map(|&(at, _)| at)
    }

    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<(Timestamp, Timer)> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first()
    }

    pub(crate) fn contains(&self, at: Timestamp, timer: Timer) -> bool {
        self.0.contains(&(at, timer))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Timestamp, Timer)> {
        self.0.iter().copied()
    }
}
