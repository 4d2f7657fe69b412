//! The token bucket of one rate limit key.

use std::sync::Arc;

use levelflow_common::Timestamp;

use crate::limit::spec::Rate;
use crate::limit::waiting::Waiting;

/// The token bucket of one rate limit key, as the time at which it is full again (the generic cell rate
/// algorithm: ITU-T I.371).
///
/// A token costs the time in which one comes back. Each task has a rate of its own, so tokens of the
/// same key may differ in cost.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// The tenant and the key.
    pub(crate) name: (Arc<str>, Arc<str>),
    /// In nanoseconds since the epoch.
    full_at: u64,
    pub(crate) waiting: Waiting<Rate>,
    /// Tasks that know it.
    pub(crate) tasks: usize,
    /// When its timer goes off.
    pub(crate) armed: Option<Timestamp>,
}

impl Rate {
    /// The time in which one token comes back, in nanoseconds.
    fn cost(self) -> u64 {
        let per = u64::try_from(self.per.as_nanos()).unwrap_or(u64::MAX);
        per.div_ceil(u64::from(self.limit).max(1)).max(1)
    }

    /// What all tokens but one cost.
    fn burst(self) -> u64 {
        self.cost()
            .saturating_mul(u64::from(self.limit).saturating_sub(1))
    }
}

impl Bucket {
    pub(crate) fn new(name: (Arc<str>, Arc<str>)) -> Self {
        Self {
            name,
            full_at: 0,
            waiting: Waiting::default(),
            tasks: 0,
            armed: None,
        }
    }

    /// When it has a token.
    pub(crate) fn ready_at(&self, rate: Rate) -> Timestamp {
        let nanos = self.full_at.saturating_sub(rate.burst());
        Timestamp::from_micros(nanos.div_ceil(1000))
    }

    pub(crate) fn has_token(&self, now: Timestamp, rate: Rate) -> bool {
        self.ready_at(rate) <= now
    }

    pub(crate) fn full_at(&self) -> Timestamp {
        Timestamp::from_micros(self.full_at.div_ceil(1000))
    }

    /// Takes a token, which is there.
    pub(crate) fn take(&mut self, now: Timestamp, rate: Rate) {
        let from = self.full_at.max(nanos(now));
        self.full_at = from.saturating_add(rate.cost());
    }

    /// How many tokens there are.
    pub(crate) fn tokens(&self, now: Timestamp, rate: Rate) -> u64 {
        let now = nanos(now);
        let until = now.saturating_add(rate.burst());
        match until.checked_sub(self.full_at.max(now)) {
            Some(left) => left / rate.cost() + 1,
            None => 0,
        }
    }

    /// When to look at it next: for those that wait, when another token is there; otherwise when it is
    /// full, and can be forgotten.
    pub(crate) fn wakes_at(&self, now: Timestamp) -> Timestamp {
        let next = |rate: Rate| {
            let ready = self.ready_at(rate);
            if ready > now {
                return ready;
            }
            // Those that were called have not started: more tokens come meanwhile.
            let nanos = nanos(now).saturating_add(rate.cost());
            Timestamp::from_micros(nanos.div_ceil(1000))
        };
        let next = self.waiting.limits().map(next).min();
        next.unwrap_or_else(|| self.full_at())
    }
}

fn nanos(at: Timestamp) -> u64 {
    at.as_micros().saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn bucket() -> Bucket {
        Bucket::new(("t".into(), "k".into()))
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(millis * 1000)
    }

    #[test]
    fn a_full_bucket_gives_its_limit_and_then_one_after_the_other() {
        let rate = Rate {
            limit: 3,
            per: Duration::from_secs(3),
        };
        let mut bucket = bucket();
        assert_eq!(bucket.tokens(at(5_000), rate), 3);
        for left in (0..3).rev() {
            bucket.take(at(5_000), rate);
            assert_eq!(bucket.tokens(at(5_000), rate), left);
        }
        assert_eq!(bucket.ready_at(rate), at(6_000));
        assert!(!bucket.has_token(at(5_999), rate));
        assert_eq!(bucket.tokens(at(7_500), rate), 2);
        assert_eq!(bucket.full_at(), at(8_000));
    }

    proptest! {
        #[test]
        fn no_span_of_time_sees_more_starts_than_a_full_bucket_and_what_comes_back(
            limit in 1..20_u32,
            millis in 1..5_000_u64,
            steps in proptest::collection::vec(0..2_000_u64, 1..200),
        ) {
            let rate = Rate { limit, per: Duration::from_millis(millis) };
            let (mut bucket, mut now) = (bucket(), at(1_000_000));
            let mut starts: Vec<u64> = Vec::new();
            for step in steps {
                now = Timestamp::from_micros(now.as_micros() + step * 500);
                prop_assert_eq!(bucket.has_token(now, rate), bucket.tokens(now, rate) > 0);
                if bucket.has_token(now, rate) {
                    bucket.take(now, rate);
                    starts.push(now.as_micros());
                    // It never waits for longer than its rate says.
                    prop_assert!(bucket.ready_at(rate).since(now) <= rate.per);
                } else {
                    prop_assert!(bucket.wakes_at(now) > now);
                    prop_assert_eq!(bucket.tokens(bucket.ready_at(rate), rate), 1);
                }
            }
            for (first, &from) in starts.iter().enumerate() {
                for (last, &to) in starts.iter().enumerate().skip(first) {
                    let back = (to - from) * 1000 / rate.cost();
                    prop_assert!(((last - first) as u64) < u64::from(limit) + back);
                }
            }
        }
    }
}
