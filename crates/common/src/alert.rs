//! Alerts: what those who run Levelflow should know of at once.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::code::Code;
use crate::duration::HumanDuration;
use crate::id::{RunId, WorkerId};
use crate::time::Timestamp;

/// An alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Its number: from 1 since the coordinator started, without a gap.
    pub number: u64,
    /// When it came.
    pub at: Timestamp,
    /// What it is about.
    pub subject: AlertSubject,
}

/// What an alert is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AlertSubject {
    /// The memory of a worker.
    Memory(MemoryAlert),
    /// A worker went without a word.
    WorkerLost {
        /// Which.
        worker: WorkerId,
        /// How that was seen.
        reason: String,
        /// Attempts that were lost with it.
        attempts: usize,
    },
    /// The breaker of an upstream opened.
    BreakerOpened {
        /// Which upstream.
        upstream: Arc<str>,
        /// How long nothing calls it.
        open_for: HumanDuration,
    },
    /// The breaker of an upstream closed again.
    BreakerClosed {
        /// Which upstream.
        upstream: Arc<str>,
    },
    /// A task failed for good because workers died of it.
    TaskQuarantined {
        /// The run.
        run_id: RunId,
        /// The task.
        task_id: Arc<str>,
        /// Its place in the list of a `for_each`.
        #[serde(skip_serializing_if = "Option::is_none")]
        item: Option<u32>,
        /// Why its last attempt failed.
        code: Code,
        /// Which workers died, and how.
        reason: String,
    },
}

/// An alert about the memory of a worker, that begins or is over, with the figures at that time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryAlert {
    /// Whose memory.
    pub worker: WorkerId,
    /// What it is about.
    pub cause: MemoryAlertCause,
    /// Whether what caused it is over.
    pub is_over: bool,
    /// Resident bytes.
    pub resident_bytes: u64,
    /// Growth over the last window in bytes per second; 0 if it shrinks.
    pub growth_per_second: u64,
    /// The limit, in bytes or bytes per second.
    pub limit: u64,
}

/// What causes an alert about memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryAlertCause {
    /// The warning limit was reached.
    Warning,
    /// The critical limit was reached: the worker takes no work.
    Critical,
    /// It grows steadily.
    Leak,
    /// It stayed critical: the worker drains and starts anew.
    Restart,
}

impl MemoryAlertCause {
    /// Every cause.
    pub const ALL: [Self; 4] = [Self::Warning, Self::Critical, Self::Leak, Self::Restart];

    /// The word in JSON and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Leak => "leak",
            Self::Restart => "restart",
        }
    }
}

/// What alerts are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlertKind {
    /// Memory, by its cause.
    Memory(MemoryAlertCause),
    /// A worker was lost.
    WorkerLost,
    /// A breaker opened.
    BreakerOpened,
    /// A breaker closed.
    BreakerClosed,
    /// A task was quarantined.
    TaskQuarantined,
}

impl AlertKind {
    /// The name, for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory(MemoryAlertCause::Warning) => "memory_warning",
            Self::Memory(MemoryAlertCause::Critical) => "memory_critical",
            Self::Memory(MemoryAlertCause::Leak) => "memory_leak",
            Self::Memory(MemoryAlertCause::Restart) => "memory_restart",
            Self::WorkerLost => "worker_lost",
            Self::BreakerOpened => "breaker_opened",
            Self::BreakerClosed => "breaker_closed",
            Self::TaskQuarantined => "task_quarantined",
        }
    }
}

impl AlertSubject {
    /// What it is counted by.
    pub const fn kind(&self) -> AlertKind {
        match self {
            Self::Memory(alert) => AlertKind::Memory(alert.cause),
            Self::WorkerLost { .. } => AlertKind::WorkerLost,
            Self::BreakerOpened { .. } => AlertKind::BreakerOpened,
            Self::BreakerClosed { .. } => AlertKind::BreakerClosed,
            Self::TaskQuarantined { .. } => AlertKind::TaskQuarantined,
        }
    }

    /// Whether it tells that something is well again, rather than that something is wrong.
    pub const fn is_all_clear(&self) -> bool {
        match self {
            Self::Memory(alert) => alert.is_over,
            Self::BreakerClosed { .. } => true,
            Self::WorkerLost { .. } | Self::BreakerOpened { .. } | Self::TaskQuarantined { .. } => {
                false
            }
        }
    }
}

/// A sentence for people.
impl fmt::Display for AlertSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(alert) => alert.fmt(f),
            Self::WorkerLost {
                worker,
                reason,
                attempts,
            } => write!(
                f,
                "worker `{worker}` was lost with {attempts} attempts: {reason}"
            ),
            Self::BreakerOpened { upstream, open_for } => write!(
                f,
                "the breaker of upstream `{upstream}` opened for {:.0?}",
                open_for.0
            ),
            Self::BreakerClosed { upstream } => {
                write!(f, "the breaker of upstream `{upstream}` closed")
            }
            Self::TaskQuarantined {
                run_id,
                task_id,
                item,
                code: _,
                reason,
            } => {
                write!(f, "task `{task_id}`")?;
                if let Some(item) = item {
                    write!(f, " item {item}")?;
                }
                write!(f, " of run {run_id} is quarantined: {reason}")
            }
        }
    }
}

impl fmt::Display for MemoryAlert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1024 * 1024;
        let worker = &self.worker;
        let resident = self.resident_bytes / MIB;
        let limit = self.limit / MIB;
        let growth = self.growth_per_second / MIB;
        match (self.cause, self.is_over) {
            (MemoryAlertCause::Warning | MemoryAlertCause::Critical, false) => write!(
                f,
                "worker `{worker}` holds {resident} MiB, at or above its {} limit of {limit} MiB",
                self.cause.as_str()
            ),
            (MemoryAlertCause::Warning | MemoryAlertCause::Critical, true) => write!(
                f,
                "worker `{worker}` holds {resident} MiB, well below its {} limit of {limit} MiB",
                self.cause.as_str()
            ),
            (MemoryAlertCause::Leak, false) => write!(
                f,
                "worker `{worker}` holds {resident} MiB and grows by {growth} MiB/s, above {limit} MiB/s: it may leak"
            ),
            (MemoryAlertCause::Leak, true) => {
                write!(
                    f,
                    "worker `{worker}` holds {resident} MiB and does not grow steadily any more"
                )
            }
            (MemoryAlertCause::Restart, false) => write!(
                f,
                "worker `{worker}` holds {resident} MiB for too long: it drains and starts anew"
            ),
            (MemoryAlertCause::Restart, true) => write!(
                f,
                "worker `{worker}` holds {resident} MiB and goes on without a restart"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_flat_in_json_and_a_sentence_for_people() {
        let subject = AlertSubject::Memory(MemoryAlert {
            worker: WorkerId("w".into()),
            cause: MemoryAlertCause::Leak,
            is_over: false,
            resident_bytes: 500 << 20,
            growth_per_second: 12 << 20,
            limit: 10 << 20,
        });
        assert_eq!(
            serde_json::to_value(&subject).unwrap(),
            serde_json::json!({
                "kind": "memory", "worker": "w", "cause": "leak", "is_over": false,
                "resident_bytes": 524_288_000, "growth_per_second": 12_582_912,
                "limit": 10_485_760,
            })
        );
        assert_eq!(
            subject.to_string(),
            "worker `w` holds 500 MiB and grows by 12 MiB/s, above 10 MiB/s: it may leak"
        );
        assert_eq!(subject.kind().as_str(), "memory_leak");
    }
}
