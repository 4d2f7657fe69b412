//! How many workers are wanted, and why.

use std::sync::Arc;
use std::time::Duration;

use levelflow_common::Timestamp;

use super::demand::WorkerLoad;

/// How many workers are wanted, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// When it was made.
    pub at: Timestamp,
    /// The queue that it is about; none for all.
    pub queue: Option<Arc<str>>,
    /// Workers that there should be.
    pub wanted: u32,
    /// Workers that there are and that take tasks.
    pub current: u32,
    /// Whether anything waits or runs, or more workers are wanted than there always are.
    pub is_active: bool,
    /// The rule that the number comes from.
    pub decided_by: Rule,
    /// Every rule with its numbers.
    pub reasons: Vec<Reason>,
    /// When the number may change by itself, if the load does not; none if it will not.
    pub next_change_at: Option<Timestamp>,
    /// What the rules looked at.
    pub workload: Workload,
    /// The workers with their leases, the least busy first; those that drain come last.
    pub workers: Vec<WorkerLoad>,
    /// Coordinators that did not say what waits with them, so that it is not in the numbers.
    pub unheard: Vec<String>,
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The rule.
    pub rule: Rule,
    /// The workers that it wants or, of a bound, lets be; none if it wants none in particular.
    pub wants: Option<u32>,
    /// Its numbers, for people.
    pub text: String,
}

/// What the rules look at.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Workload {
    /// Tasks that wait for a slot, with the coordinator or with a worker.
    pub waiting: u64,
    /// Tasks that none of the workers may take; more workers of the same kind would not help them.
    pub unserved: u64,
    /// How long the oldest has waited.
    pub oldest_wait: Duration,
    /// How long a task takes.
    pub task_time: Duration,
    /// Slots of all workers that take tasks.
    pub slots: u64,
    /// Slots that are busy.
    pub busy: u64,
    /// The same as an average of the last seconds.
    pub busy_lately: f64,
}

/// What decides how many workers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Tasks that no slot takes.
    QueueDepth,
    /// The task that has waited longest.
    OldestReady,
    /// How long all tasks that are there will take.
    DrainTime,
    /// The share of slots that are busy.
    BusyShare,
    /// How long fewer workers have been enough.
    ScaleDownIdle,
    /// The fewest that there may be.
    Min,
    /// The most that there may be.
    Max,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 7] = [
        Self::QueueDepth,
        Self::OldestReady,
        Self::DrainTime,
        Self::BusyShare,
        Self::ScaleDownIdle,
        Self::Min,
        Self::Max,
    ];

    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueDepth => "queue_depth",
            Self::OldestReady => "oldest_ready",
            Self::DrainTime => "drain_time",
            Self::BusyShare => "busy_share",
            Self::ScaleDownIdle => "scale_down_idle",
            Self::Min => "min",
            Self::Max => "max",
        }
    }
}

/// A time as a person reads it, in few digits.
pub(super) fn brief(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    match seconds {
        0.0 => "0 s".to_owned(),
        _ if seconds < 0.001 => format!("{} us", span.as_micros()),
        _ if seconds < 1.0 => format!("{} ms", span.as_millis()),
        _ if seconds < 10.0 => format!("{seconds:.1} s"),
        _ => format!("{seconds:.0} s"),
    }
}
