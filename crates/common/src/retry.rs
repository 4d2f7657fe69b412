//! Retry policy and its backoff.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::HumanDuration;

/// When a failed attempt is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// Attempts in all, the first included; 1 means no retry.
    #[schemars(range(min = 1, max = 1000))]
    pub max_attempts: u32,
    /// The wait before the second attempt.
    pub initial: HumanDuration,
    /// What each further wait is multiplied by.
    #[schemars(range(min = 1.0, max = 100.0))]
    pub factor: f64,
    /// The longest wait.
    pub max: HumanDuration,
    /// Full jitter: the wait is drawn evenly from zero to the computed one.
    pub jitter: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            initial: HumanDuration(Duration::from_secs(1)),
            factor: 2.0,
            max: HumanDuration(Duration::from_secs(16)),
            jitter: true,
        }
    }
}

impl RetryPolicy {
    /// The wait after failed attempt number `attempt` (from 1): `min(max, initial × factor^(attempt-1))`,
    /// with full jitter scaled by `random / 2^64` (AWS Architecture Blog, "Exponential Backoff And
    /// Jitter", 2015).
    pub fn backoff(&self, attempt: u32, random: u64) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let max = self.max.0.as_secs_f64();
        let wait = (self.initial.0.as_secs_f64() * self.factor.powi(exponent)).min(max);
        let wait = if self.jitter {
            wait * (random as f64 / (u64::MAX as f64))
        } else {
            wait
        };
        Duration::try_from_secs_f64(wait).unwrap_or(self.max.0)
    }
}
