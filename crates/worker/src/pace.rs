//! Whether attempts of one kind end at once, learned from how they went.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The longest that an attempt may hold up the session.
const SHORT: Duration = Duration::from_micros(200);
/// Attempts in a row that must have ended at once before the next is tried inside the session.
const TRUSTED_AFTER: u32 = 16;

/// The recent record of a handler. Work that ends at its first poll runs inside the session, which
/// saves a task and two wake-ups for each attempt; anything else is spawned, so that it cannot hold up
/// heartbeats.
#[derive(Debug, Default)]
pub(crate) struct Pace(AtomicU32);

impl Pace {
    /// Whether the next attempt may be polled inside the session.
    pub(crate) fn ends_at_once(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= TRUSTED_AFTER
    }

    /// Notes how the first poll of an attempt went.
    pub(crate) fn note(&self, took: Duration, ended: bool) {
        if !ended || took > SHORT {
            self.0.store(0, Ordering::Relaxed);
        } else if !self.ends_at_once() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_earned_slowly_and_lost_at_once() {
        let pace = Pace::default();
        for _ in 0..TRUSTED_AFTER {
            assert!(!pace.ends_at_once());
            pace.note(Duration::ZERO, true);
        }
        assert!(pace.ends_at_once());
        pace.note(SHORT * 2, true);
        assert!(!pace.ends_at_once());

        for _ in 0..TRUSTED_AFTER {
            pace.note(Duration::ZERO, true);
        }
        assert!(pace.ends_at_once());
        pace.note(Duration::ZERO, false);
        assert!(!pace.ends_at_once());
    }
}
