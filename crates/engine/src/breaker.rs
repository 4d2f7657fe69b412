//! The circuit breaker of one upstream: how many attempts may call it now.
//!
//! Closed, it lets everything through while the upstream is known to work. After a failure, and before
//! the first success, it lets through no more at once than may fail before it opens: so a dead upstream
//! gets as many calls as the breaker needs to open, and not one for each slot. Open, it lets nothing
//! through for a time. Half open, it lets a few probes through: some successes close it, a failure opens
//! it again.

use std::time::Duration;

use levelflow_common::Timestamp;

/// When breakers open and close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Failures in a row after which a breaker opens; 0 for no breakers.
    pub failures: u32,
    /// How long it stays open.
    pub open_for: Duration,
    /// Attempts that may call the upstream at once while the breaker is half open.
    pub probes: u32,
    /// Successes that close it then.
    pub successes: u32,
    /// Upstreams that are known at once.
    pub max_upstreams: usize,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            failures: 5,
            open_for: Duration::from_secs(60),
            probes: 3,
            successes: 2,
            max_upstreams: 1000,
        }
    }
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// The upstream may be called.
    Closed,
    /// It may not, until then.
    Open {
        /// When probes may start.
        until: Timestamp,
    },
    /// Probes may call it.
    HalfOpen {
        /// Probes that succeeded.
        successes: u32,
    },
}

/// The period in which an attempt was let through. What it says later does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period(u32);

#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    state: BreakerState,
    /// In a row.
    failures: u32,
    /// The upstream has answered since the breaker was made or reset.
    proven: bool,
    /// Attempts of this period that have not ended.
    under_way: u32,
    period: Period,
    changed_at: Timestamp,
}

impl Breaker {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            state: BreakerState::Closed,
            failures: 0,
            proven: false,
            under_way: 0,
            period: Period(0),
            changed_at: now,
        }
    }

    pub(crate) fn state(&self) -> BreakerState {
        self.state
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// When the state changed last.
    pub(crate) fn changed_at(&self) -> Timestamp {
        self.changed_at
    }

    /// Attempts that may be under way at once.
    pub(crate) fn limit(&self, policy: &BreakerPolicy) -> u32 {
        match self.state {
            BreakerState::Closed if self.proven && self.failures == 0 => u32::MAX,
            BreakerState::Closed => policy.failures.saturating_sub(self.failures),
            BreakerState::Open { .. } => 0,
            BreakerState::HalfOpen { .. } => policy.probes,
        }
    }

    /// Whether one more attempt may start.
    pub(crate) fn has_room(&self, policy: &BreakerPolicy) -> bool {
        self.under_way < self.limit(policy)
    }

    /// An attempt starts.
    pub(crate) fn start(&mut self) -> Period {
        self.under_way += 1;
        self.period
    }

    /// An attempt is over, whatever came of it.
    pub(crate) fn end(&mut self, period: Period) {
        if period == self.period {
            self.under_way -= 1;
        }
    }

    /// A call ended; says whether that changed the state. Calls of attempts that were not let through
    /// here tell nothing about a breaker that is not closed: they may have begun before it opened.
    pub(crate) fn record(
        &mut self,
        now: Timestamp,
        policy: &BreakerPolicy,
        period: Option<Period>,
        failed: bool,
    ) -> bool {
        let counts = match period {
            Some(period) => period == self.period,
            None => self.state == BreakerState::Closed,
        };
        if !counts {
            return false;
        }
        match (&mut self.state, failed) {
            (BreakerState::Open { .. }, _) => false,
            (BreakerState::Closed, false) => {
                self.failures = 0;
                self.proven = true;
                false
            }
            (BreakerState::HalfOpen { successes }, false) => {
                *successes += 1;
                if *successes < policy.successes {
                    return false;
                }
                self.failures = 0;
                self.proven = true;
                self.change(now, BreakerState::Closed);
                true
            }
            (state, true) => {
                let half_open = *state != BreakerState::Closed;
                self.failures = self.failures.saturating_add(1);
                if half_open || self.failures >= policy.failures {
                    self.new_period();
                    let until = now.saturating_add(policy.open_for);
                    self.change(now, BreakerState::Open { until });
                    return true;
                }
                false
            }
        }
    }

    /// Time passed; says whether that changed the state.
    pub(crate) fn tick(&mut self, now: Timestamp) -> bool {
        match self.state {
            BreakerState::Open { until } if until <= now => {
                self.change(now, BreakerState::HalfOpen { successes: 0 });
                true
            }
            _ => false,
        }
    }

    /// Closes it by hand: nothing is known of the upstream any more.
    pub(crate) fn reset(&mut self, now: Timestamp) {
        self.new_period();
        self.failures = 0;
        self.proven = false;
        self.change(now, BreakerState::Closed);
    }

    fn new_period(&mut self) {
        self.period.0 = self.period.0.wrapping_add(1);
        self.under_way = 0;
    }

    fn change(&mut self, now: Timestamp, state: BreakerState) {
        self.state = state;
        self.changed_at = now;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn policy() -> BreakerPolicy {
        BreakerPolicy::default()
    }

    /// Starts as many attempts as there is room for, at most `most`.
    fn start(breaker: &mut Breaker, most: usize) -> Vec<Period> {
        let mut started = Vec::new();
        while started.len() < most && breaker.has_room(&policy()) {
            started.push(breaker.start());
        }
        started
    }

    fn end(breaker: &mut Breaker, seconds: u64, period: Period, failed: bool) -> bool {
        breaker.end(period);
        breaker.record(at(seconds), &policy(), Some(period), failed)
    }

    /// A breaker that opened at second 0.
    fn opened() -> Breaker {
        let mut breaker = Breaker::new(at(0));
        for (number, period) in start(&mut breaker, 5).into_iter().enumerate() {
            assert_eq!(end(&mut breaker, 0, period, true), number == 4);
        }
        assert_eq!(breaker.state(), BreakerState::Open { until: at(60) });
        breaker
    }

    #[test]
    fn an_upstream_that_never_answered_gets_as_many_calls_as_open_the_breaker() {
        let mut breaker = Breaker::new(at(0));
        let mut calls = Vec::new();
        for _ in 0..20 {
            calls.extend(start(&mut breaker, 500));
            if let Some(period) = calls.pop() {
                end(&mut breaker, 0, period, true);
            }
        }
        assert_eq!((calls.len(), breaker.failures()), (0, 5));
        assert!(matches!(breaker.state(), BreakerState::Open { .. }));
    }

    #[test]
    fn an_upstream_that_works_is_not_held_back() {
        let mut breaker = Breaker::new(at(0));
        let mut calls = start(&mut breaker, 500);
        assert_eq!(calls.len(), 5);
        end(&mut breaker, 0, calls.remove(0), false);
        calls.extend(start(&mut breaker, 500));
        assert_eq!(calls.len(), 504);
        end(&mut breaker, 0, calls.remove(0), true);
        assert!(
            !breaker.has_room(&policy()),
            "a failure holds back new calls"
        );
        end(&mut breaker, 0, calls.remove(0), false);
        assert!(breaker.has_room(&policy()), "a success lets them go on");
    }

    #[test]
    fn two_probes_close_it() {
        let mut breaker = opened();
        assert!(!breaker.tick(at(59)));
        assert!(!breaker.has_room(&policy()));
        assert!(breaker.tick(at(60)));
        let probes = start(&mut breaker, 500);
        assert_eq!(probes.len(), 3);
        assert!(!end(&mut breaker, 60, probes[0], false));
        assert_eq!(start(&mut breaker, 500).len(), 1);
        assert!(end(&mut breaker, 61, probes[1], false));
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert_eq!(start(&mut breaker, 500).len(), 500);
    }

    #[test]
    fn a_failed_probe_opens_it_again_and_the_others_do_not_count() {
        let mut breaker = opened();
        breaker.tick(at(60));
        let probes = start(&mut breaker, 3);
        assert!(end(&mut breaker, 70, probes[0], true));
        assert_eq!(breaker.state(), BreakerState::Open { until: at(130) });
        assert!(!end(&mut breaker, 71, probes[1], false));
        assert!(breaker.tick(at(130)));
        assert!(!end(&mut breaker, 131, probes[2], true));
        assert_eq!(breaker.state(), BreakerState::HalfOpen { successes: 0 });
    }

    #[test]
    fn calls_that_were_not_let_through_count_only_while_it_is_closed() {
        let mut breaker = Breaker::new(at(0));
        for call in 1..=5 {
            assert_eq!(breaker.record(at(0), &policy(), None, true), call == 5);
        }
        breaker.tick(at(60));
        assert!(!breaker.record(at(60), &policy(), None, true));
        assert_eq!(breaker.state(), BreakerState::HalfOpen { successes: 0 });
    }

    #[test]
    fn a_reset_closes_it_with_care() {
        let mut breaker = opened();
        breaker.reset(at(1));
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert_eq!(start(&mut breaker, 500).len(), 5);
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Start,
        End(proptest::sample::Index, Option<bool>),
        Stray(bool),
        Wait(u64),
        Reset,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => Just(Step::Start),
            8 => (any::<proptest::sample::Index>(), proptest::option::weighted(0.8, any::<bool>()))
                .prop_map(|(which, end)| Step::End(which, end)),
            1 => any::<bool>().prop_map(Step::Stray),
            3 => (0..40_u64).prop_map(Step::Wait),
            1 => Just(Step::Reset),
        ]
    }

    proptest! {
        #[test]
        fn it_never_lets_through_more_than_its_state_allows(
            steps in proptest::collection::vec(step(), 1..200),
        ) {
            let policy = policy();
            let (mut breaker, mut now, mut calls) = (Breaker::new(at(0)), 0, Vec::new());
            for step in steps {
                match step {
                    Step::Start => {
                        let before = breaker.under_way;
                        if breaker.has_room(&policy) {
                            calls.push(breaker.start());
                            prop_assert!(before < breaker.limit(&policy));
                        }
                    }
                    Step::End(which, end) => if !calls.is_empty() {
                        let period = calls.swap_remove(which.index(calls.len()));
                        breaker.end(period);
                        if let Some(failed) = end {
                            breaker.record(at(now), &policy, Some(period), failed);
                        }
                    },
                    Step::Stray(failed) => {
                        breaker.record(at(now), &policy, None, failed);
                    }
                    Step::Wait(seconds) => {
                        now += seconds;
                        breaker.tick(at(now));
                    }
                    Step::Reset => breaker.reset(at(now)),
                }
                let of_period = calls.iter().filter(|&&it| it == breaker.period).count();
                prop_assert_eq!(breaker.under_way as usize, of_period);
                match breaker.state() {
                    BreakerState::Open { until } => {
                        prop_assert!(until > at(now) && until <= at(now + 60));
                        prop_assert!(!breaker.has_room(&policy));
                    }
                    BreakerState::HalfOpen { successes } => {
                        prop_assert!(successes < policy.successes && of_period <= 3);
                    }
                    BreakerState::Closed => prop_assert!(breaker.failures() < policy.failures),
                }
                // Whatever happened, it is never closed to all for good.
                if calls.is_empty() {
                    let mut later = breaker.clone();
                    later.tick(at(now + 60));
                    prop_assert!(later.has_room(&policy));
                }
            }
        }
    }
}
