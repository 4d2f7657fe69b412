//! Entries that are hit often live longer, where that is wanted.

use std::time::Duration;

use levelflow_common::HumanDuration;
use serde::{Deserialize, Serialize};

/// How much longer entries live that are hit often: from the tier's own time for those that are never hit
/// up to `longest` for those with `hits_per_hour`, in proportion. The `ttl` of a task still ends all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdaptiveTtl {
    /// The longest that an entry lives.
    pub longest: HumanDuration,
    /// Hits per hour, since the entry came into the tier, with which it lives that long.
    pub hits_per_hour: u32,
}

impl Default for AdaptiveTtl {
    fn default() -> Self {
        Self {
            longest: HumanDuration(Duration::from_secs(24 * 3600)),
            hits_per_hour: 10,
        }
    }
}

impl AdaptiveTtl {
    /// How long an entry lives that was hit so often in `age`. It never comes back to life: without hits
    /// this only gets shorter.
    pub(crate) fn ttl(&self, base: Duration, hits: u64, age: Duration) -> Duration {
        let Some(more) = self.longest.0.checked_sub(base) else {
            return base;
        };
        // At an age of nothing, any hit is often.
        let hours = age.as_secs_f64().max(1e-6) / 3600.0;
        let share = (hits as f64 / hours / f64::from(self.hits_per_hour)).min(1.0);
        base + more.mul_f64(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_time_grows_with_hits_per_hour_up_to_the_longest() {
        let adaptive = AdaptiveTtl {
            longest: HumanDuration(11 * HOUR),
            hits_per_hour: 10,
        };
        let ttl = |hits, age| adaptive.ttl(HOUR, hits, age);
        assert_eq!(ttl(0, HOUR), HOUR);
        assert_eq!(ttl(1, HOUR), 2 * HOUR);
        assert_eq!(ttl(5, HOUR), 6 * HOUR);
        assert_eq!(ttl(10, HOUR), 11 * HOUR);
        assert_eq!(ttl(1_000, HOUR), 11 * HOUR);
        assert_eq!(ttl(10, 5 * HOUR), 3 * HOUR);
        assert_eq!(ttl(1, Duration::ZERO), 11 * HOUR);
        assert_eq!(adaptive.ttl(20 * HOUR, 10, HOUR), 20 * HOUR);
    }
}
