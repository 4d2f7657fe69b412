//! Retry policy and its backoff.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::code::Code;
use crate::duration::HumanDuration;
use crate::outcome::Failure;

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
    /// Failures that are tried again even where they say that this would not help.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub retryable: Vec<AttemptCode>,
    /// Failures that are not tried again whatever they say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub non_retryable: Vec<AttemptCode>,
}

/// The code of a failure of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct AttemptCode(Code);

impl AttemptCode {
    /// Every such code.
    pub fn all() -> impl Iterator<Item = Self> {
        let codes = Code::ALL.iter().copied();
        codes.filter(|code| code.is_of_attempt()).map(Self)
    }

    /// The code of that text.
    pub fn parse(text: &str) -> Option<Self> {
        Code::parse(text)
            .filter(|code| code.is_of_attempt())
            .map(Self)
    }

    /// The text of the code.
    pub const fn as_str(self) -> &'static str {
        self.0.as_str()
    }
}

impl<'de> Deserialize<'de> for AttemptCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let unknown = || D::Error::custom(format!("attempts do not fail with the code `{text}`"));
        Self::parse(&text).ok_or_else(unknown)
    }
}

impl JsonSchema for AttemptCode {
    fn schema_name() -> Cow<'static, str> {
        "AttemptCode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let codes = Self::all().map(|code| json_schema!({ "const": code.as_str() }));
        json_schema!({
            "description": "The code of a failure of an attempt.",
            "oneOf": codes.collect::<Vec<_>>(),
        })
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            initial: HumanDuration(Duration::from_secs(1)),
            factor: 2.0,
            max: HumanDuration(Duration::from_secs(16)),
            jitter: true,
            retryable: Vec::new(),
            non_retryable: Vec::new(),
        }
    }
}

impl RetryPolicy {
    /// Whether another attempt may be made after attempt number `attempt` (from 1) failed so.
    pub fn retries(&self, attempt: u32, failure: &Failure) -> bool {
        let is_in = |codes: &[AttemptCode]| codes.contains(&AttemptCode(failure.code));
        attempt < self.max_attempts
            && !is_in(&self.non_retryable)
            && (failure.retryable || is_in(&self.retryable))
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(value: &serde_json::Value) -> Result<RetryPolicy, String> {
        serde_json::from_value(value.clone()).map_err(|error| error.to_string())
    }

    #[test]
    fn codes_decide_over_what_the_failure_says() {
        let policy = policy(&serde_json::json!({
            "max_attempts": 3,
            "retryable": ["http_status"],
            "non_retryable": ["run_timeout"],
        }))
        .unwrap();
        for (code, says, retries) in [
            (Code::HttpStatus, false, true),
            (Code::HttpStatus, true, true),
            (Code::RunTimeout, true, false),
            (Code::HandlerFailed, true, true),
            (Code::HandlerFailed, false, false),
        ] {
            let failure = Failure::new(code, String::new(), says);
            assert_eq!(policy.retries(2, &failure), retries, "{code} {says}");
            assert!(!policy.retries(3, &failure), "the attempts are used up");
        }
    }

    #[test]
    fn only_codes_of_attempts_are_taken() {
        for code in ["queue_full", "total_timeout", "cancelled", "no_such_code"] {
            let error = policy(&serde_json::json!({ "retryable": [code] })).unwrap_err();
            let expected = format!("attempts do not fail with the code `{code}`");
            assert!(error.contains(&expected), "{error}");
        }
        for code in AttemptCode::all() {
            assert_eq!(AttemptCode::parse(code.as_str()), Some(code));
        }
    }

    #[test]
    fn the_backoff_is_exact_and_full_jitter_spreads_from_zero_to_it() {
        let mut policy = RetryPolicy {
            jitter: false,
            ..RetryPolicy::default()
        };
        let seconds = |policy: &RetryPolicy, random| {
            [1, 2, 3, 4, 5, 6, 1000].map(|it| policy.backoff(it, random).as_secs_f64())
        };
        let exact = [1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0];
        assert_eq!(seconds(&policy, 7), exact);
        policy.jitter = true;
        assert_eq!(seconds(&policy, 0), [0.0; 7]);
        assert_eq!(seconds(&policy, u64::MAX), exact);
        assert_eq!(seconds(&policy, 1 << 63), exact.map(|wait| wait / 2.0));
    }
}
