//! The breaker of a shared tier: after some failures in a row the tier is left alone for a while, so that
//! it costs no time. Then one request that nobody waits for finds out whether it is back.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// Failures in a row that open it.
const FAILURES: u32 = 5;
/// The time between looks at a tier that is left alone.
const OPEN_FOR: Duration = Duration::from_secs(5);

/// How the breaker of a tier stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// The tier is asked.
    Closed,
    /// It is left alone.
    Open,
    /// It is left alone while one request finds out whether it is back.
    HalfOpen,
}

/// What may be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The tier may be asked.
    Go,
    /// It may not.
    Skip,
    /// It may not, but someone should see whether it is back, and tell [`Breaker::probed`].
    Probe,
}

#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen,
}

impl Breaker {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Closed { failures: 0 },
        }
    }

    pub(crate) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen => BreakerState::HalfOpen,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state() == BreakerState::Closed
    }

    pub(crate) fn admit(&mut self, now: Instant) -> Admission {
        match self.state {
            State::Closed { .. } => Admission::Go,
            State::Open { until } if now >= until => {
                self.state = State::HalfOpen;
                Admission::Probe
            }
            State::Open { .. } | State::HalfOpen => Admission::Skip,
        }
    }

    /// A request that was let through ended; says whether that opened the breaker. Those that began before
    /// it opened tell nothing any more.
    pub(crate) fn ended(&mut self, now: Instant, failed: bool) -> bool {
        let State::Closed { failures } = &mut self.state else {
            return false;
        };
        *failures = if failed { *failures + 1 } else { 0 };
        let opens = *failures >= FAILURES;
        if opens {
            self.state = State::Open {
                until: now + OPEN_FOR,
            };
        }
        opens
    }

    /// The request that finds out whether the tier is back has ended.
    pub(crate) fn probed(&mut self, now: Instant, failed: bool) {
        self.state = match failed {
            true => State::Open {
                until: now + OPEN_FOR,
            },
            false => State::Closed { failures: 0 },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_and_a_probe_closes_it() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new();
        for _ in 0..FAILURES - 1 {
            assert!(!breaker.ended(now, true));
        }
        assert!(!breaker.ended(now, false));
        for _ in 0..FAILURES - 1 {
            assert!(!breaker.ended(now, true));
        }
        assert_eq!(breaker.admit(now), Admission::Go);
        assert!(breaker.ended(now, true));
        assert_eq!(breaker.admit(now), Admission::Skip);
        // An answer to what was asked before does not close it.
        assert!(!breaker.ended(now, false));
        assert_eq!(breaker.state(), BreakerState::Open);

        now += OPEN_FOR;
        assert_eq!(breaker.admit(now), Admission::Probe);
        assert_eq!(breaker.admit(now), Admission::Skip);
        breaker.probed(now, true);
        assert_eq!(breaker.admit(now), Admission::Skip);
        now += OPEN_FOR;
        assert_eq!(breaker.admit(now), Admission::Probe);
        breaker.probed(now, false);
        assert_eq!(breaker.admit(now), Admission::Go);
    }
}
