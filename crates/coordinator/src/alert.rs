//! Alerts: the one place where they come together.
//!
//! The actor owns an [`Alerts`] and gives each alert to [`Alerts::raise`], whoever found its subject: a
//! worker that tells of its memory, or the engine with a command. From there it is logged, kept among the
//! last [`KEPT`], sent to the webhook and handed to whoever watches. Whatever else is to be done with every alert, such as
//! counting it, belongs into `raise`.
//!
//! Services ask for them with `Message::Alerts`, programs around a coordinator with
//! [`crate::Coordinator::alerts`]. They are not recorded: after a restart they begin anew.

use std::collections::{BTreeMap, VecDeque};

use levelflow_common::alert::{Alert, AlertKind, AlertSubject, MemoryAlert, MemoryAlertCause};
use levelflow_common::{Timestamp, WorkerId};
use levelflow_proto::{Enumeration as _, v1};
use tokio::sync::broadcast;

use crate::webhook::{AlertsConfig, Webhook};

/// Alerts that are kept for those who come later.
const KEPT: usize = 1_000;
/// Alerts that a watcher may be behind before it misses some.
const BEHIND: usize = 256;
/// Alerts that are taken from one frame of a worker: more than it can have at once.
pub(crate) const MAX_IN_FRAME: usize = 16;

const MIB: u64 = 1024 * 1024;

/// The alerts of a coordinator.
pub(crate) struct Alerts {
    /// The last ones, the oldest first.
    kept: VecDeque<Alert>,
    next_number: u64,
    counts: BTreeMap<AlertKind, u64>,
    live: broadcast::Sender<Alert>,
    webhook: Option<Webhook>,
}

/// Alerts that were, and those that come.
#[derive(Debug)]
pub struct AlertFeed {
    /// Those that are kept, the oldest first.
    pub kept: Vec<Alert>,
    live: broadcast::Receiver<Alert>,
}

impl Default for Alerts {
    fn default() -> Self {
        Self {
            kept: VecDeque::new(),
            next_number: 1,
            counts: BTreeMap::new(),
            live: broadcast::Sender::new(BEHIND),
            webhook: None,
        }
    }
}

impl Alerts {
    /// Alerts that are also sent to an address, if one is configured.
    pub(crate) fn new(config: &AlertsConfig) -> Self {
        Self {
            webhook: Webhook::start(config),
            ..Self::default()
        }
    }

    /// Tells everyone who should know.
    pub(crate) fn raise(&mut self, at: Timestamp, subject: AlertSubject) {
        log(&subject);
        *self.counts.entry(subject.kind()).or_default() += 1;
        let alert = Alert {
            number: self.next_number,
            at,
            subject,
        };
        self.next_number += 1;
        if let Some(webhook) = &self.webhook {
            webhook.send(&alert);
        }
        // Fails when nobody watches.
        let _ = self.live.send(alert.clone());
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(alert);
    }

    /// The newest alerts with a number above `after`, the oldest of them first.
    pub(crate) fn newest(&self, after: u64, most: usize) -> Vec<Alert> {
        let missed = self.kept.iter().filter(|alert| alert.number > after);
        let skipped = missed.clone().count().saturating_sub(most);
        missed.skip(skipped).cloned().collect()
    }

    /// How many came, by what they were about.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let counts = self.counts.iter();
        counts
            .map(|(kind, count)| (kind.as_str(), *count))
            .collect()
    }

    /// The alerts with a number above `after`, and those that come, without a gap between them.
    pub(crate) fn feed(&self, after: u64) -> AlertFeed {
        let missed = self.kept.iter().filter(|alert| alert.number > after);
        AlertFeed {
            kept: missed.cloned().collect(),
            live: self.live.subscribe(),
        }
    }
}

impl AlertFeed {
    /// The next alert that comes; none when the coordinator has stopped. Who reads too slowly misses
    /// some, which the gap in their numbers tells.
    pub async fn next(&mut self) -> Option<Alert> {
        loop {
            match self.live.recv().await {
                Ok(alert) => return Some(alert),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// What a worker tells of its memory; none if a newer one tells of something that is not known here.
pub(crate) fn memory_alert(worker: WorkerId, told: &v1::MemoryAlert) -> Option<AlertSubject> {
    let cause = MemoryAlertCause::required("cause", told.cause).ok()?;
    Some(AlertSubject::Memory(MemoryAlert {
        worker,
        cause,
        is_over: told.over,
        resident_bytes: told.resident_bytes,
        growth_per_second: told.growth_per_second,
        limit: told.limit,
    }))
}

fn log(subject: &AlertSubject) {
    match subject {
        AlertSubject::Memory(alert) => {
            let worker_id = &*alert.worker.0;
            let cause = alert.cause.as_str();
            let resident_mib = alert.resident_bytes / MIB;
            let growth_mib_per_s = alert.growth_per_second / MIB;
            let limit_mib = alert.limit / MIB;
            if alert.is_over {
                tracing::info!(
                    worker_id,
                    cause,
                    resident_mib,
                    growth_mib_per_s,
                    limit_mib,
                    "memory alert of a worker is over"
                );
            } else {
                tracing::warn!(
                    worker_id,
                    cause,
                    resident_mib,
                    growth_mib_per_s,
                    limit_mib,
                    "memory alert of a worker"
                );
            }
        }
        AlertSubject::WorkerLost {
            worker,
            reason,
            attempts,
        } => tracing::warn!(worker_id = %worker, reason, attempts, "worker was lost"),
        AlertSubject::BreakerOpened { upstream, open_for } => {
            tracing::warn!(upstream = &**upstream, open_for = ?open_for.0, "breaker opened");
        }
        AlertSubject::BreakerClosed { upstream } => {
            tracing::info!(upstream = &**upstream, "breaker closed");
        }
        AlertSubject::TaskQuarantined {
            run_id,
            task_id,
            item,
            code,
            reason,
        } => {
            tracing::warn!(%run_id, task_id = &**task_id, item, %code, reason, "task is quarantined");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(number: usize) -> AlertSubject {
        AlertSubject::BreakerClosed {
            upstream: number.to_string().into(),
        }
    }

    #[tokio::test]
    async fn the_last_are_kept_and_those_that_come_follow_without_a_gap() {
        let mut alerts = Alerts::default();
        for number in 1..=KEPT + 5 {
            alerts.raise(Timestamp::from_micros(number as u64), closed(number));
        }
        let last = KEPT as u64 + 5;
        let all = alerts.feed(0).kept;
        assert_eq!((all.len(), all[0].number), (KEPT, 6));
        let newest = alerts.newest(last - 4, 2);
        let numbers: Vec<_> = newest.iter().map(|alert| alert.number).collect();
        assert_eq!(numbers, [last - 1, last]);
        assert_eq!(alerts.newest(last - 1, 2), newest[1..]);
        assert_eq!(alerts.newest(last, 2), []);
        let mut feed = alerts.feed(last - 2);
        let numbers: Vec<_> = feed.kept.iter().map(|alert| alert.number).collect();
        assert_eq!(numbers, [last - 1, last]);

        alerts.raise(Timestamp::default(), closed(0));
        assert_eq!(feed.next().await.map(|alert| alert.number), Some(last + 1));
        drop(alerts);
        assert_eq!(feed.next().await, None);
    }

    #[tokio::test]
    async fn a_slow_watcher_sees_that_it_missed_some() {
        let mut alerts = Alerts::default();
        let mut feed = alerts.feed(0);
        for number in 0..BEHIND + 10 {
            alerts.raise(Timestamp::default(), closed(number));
        }
        assert_eq!(feed.next().await.map(|alert| alert.number), Some(11));
    }

    #[test]
    fn what_is_not_known_is_no_alert() {
        let told = v1::MemoryAlert {
            cause: 99,
            ..v1::MemoryAlert::default()
        };
        assert_eq!(memory_alert(WorkerId("w".into()), &told), None);
    }
}
