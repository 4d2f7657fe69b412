//! A breaker of what a process asks and can do without: after some failures in a row it is left alone for a
//! while, so that it costs no time. Then one request that nobody waits for finds out whether it is back.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// Failures in a row that open it.
const FAILURES: u32 = 5;
/// The time between looks at a tier that is left alone.
const OPEN_FOR: Duration = Duration::from_secs(5);

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Requests are made.
    Closed,
    /// None are.
    Open,
    /// None are but one, which finds out whether it is back.
    HalfOpen,
}

/// What may be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A request may be made.
    Go,
    /// It may not.
    Skip,
    /// It may not, but someone should see whether it is back, and tell [`Breaker::probed`].
    Probe,
}

/// A breaker.
#[derive(Debug)]
pub struct Breaker {
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed { failures: 0 },
        }
    }
}

impl Breaker {
    /// How it stands.
    pub fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen => BreakerState::HalfOpen,
        }
    }

    /// Whether requests are made.
    pub fn is_closed(&self) -> bool {
        self.state() == BreakerState::Closed
    }

    /// What may be done now.
    pub fn admit(&mut self, now: Instant) -> Admission {
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
    pub fn ended(&mut self, now: Instant, failed: bool) -> bool {
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

    /// The request that finds out whether it is back has ended.
    pub fn probed(&mut self, now: Instant, failed: bool) {
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
        let mut breaker = Breaker::default();
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
