//! The coordinator's clock: reads as wall time, and runs as the monotonic clock does.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use levelflow_common::Timestamp;
use tokio::time::Instant;

/// Wall time at the start of the process, and the monotonic clock since then: leases and timers do not
/// jump when someone sets the clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    started_at: Timestamp,
}

impl Clock {
    /// A clock that starts now.
    pub(crate) fn start() -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Self {
            started: Instant::now(),
            started_at: Timestamp::default().saturating_add(since_epoch),
        }
    }

    /// When the process started.
    pub(crate) fn started_at(&self) -> Timestamp {
        self.started_at
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.started_at.saturating_add(self.started.elapsed())
    }

    /// The instant at which [`Clock::now`] will give `at`, rounded up so that nothing fires early.
    pub(crate) fn instant(&self, at: Timestamp) -> Instant {
        let span = at.since(self.started_at) + Duration::from_micros(1);
        // Far enough for any timer, and near enough for every platform's clock.
        self.started + span.min(Duration::from_secs(365 * 24 * 3600))
    }
}
