//! The words of semantic reuse: results of tasks whose texts mean nearly the same.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::RunId;

/// From which similarity on a result is reused, if a task does not say.
pub const DEFAULT_REUSE: f64 = 0.95;
/// From which similarity on a result is shown to the task, if it does not say.
pub const DEFAULT_NEAR: f64 = 0.85;

/// That results of tasks like this one may be used again whose text means nearly the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SemanticPolicy {
    /// The text that is compared, such as `${{ inputs.question }}`. Everything else in the input must be equal.
    pub text: String,
    /// The embedding model of the coordinator; its only one, or that with the name `default`, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// From which similarity on a result is reused: 1 for the same meaning, 0 for nothing in common.
    #[serde(default = "default_reuse")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub reuse: f64,
    /// From which similarity on a result is shown to the task as `near_hit`; 0.85, or `reuse` where that is
    /// lower, if not given. As high as `reuse` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub near: Option<f64>,
}

const fn default_reuse() -> f64 {
    DEFAULT_REUSE
}

impl SemanticPolicy {
    /// From which similarity on a result is reused.
    pub fn reuse(&self) -> Similarity {
        Similarity::new(self.reuse)
    }

    /// From which similarity on a result is shown to the task.
    pub fn near(&self) -> Similarity {
        Similarity::new(self.near.unwrap_or(DEFAULT_NEAR)).min(self.reuse())
    }
}

/// How nearly two texts mean the same, in millionths: the cosine of the angle between their vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Similarity(u32);

impl Similarity {
    /// The similarity of that cosine; opposites are as unlike as what has nothing in common.
    pub fn new(cosine: f64) -> Self {
        // A NaN becomes 0.
        Self((cosine.clamp(0.0, 1.0) * 1e6).round() as u32)
    }

    /// The similarity of so many millionths; at most all of them.
    pub fn from_millionths(millionths: u32) -> Self {
        Self(millionths.min(1_000_000))
    }

    /// Millionths.
    pub const fn millionths(self) -> u32 {
        self.0
    }

    /// 0 to 1.
    pub fn cosine(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

impl fmt::Display for Similarity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is below a bound is not to be shown as if it had reached it.
        write!(f, "{}.{:03}", self.0 / 1_000_000, self.0 / 1_000 % 1_000)
    }
}

/// A result of a task whose text means nearly the same: the source of one that was reused, or what the task was
/// shown that computed its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Similar {
    /// How nearly.
    pub similarity: Similarity,
    /// The run that computed it.
    pub run_id: RunId,
    /// The task that did, by its id in the workflow.
    pub task_id: Arc<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_have_defaults_that_are_in_order() {
        let policy = |json: &str| serde_json::from_str::<SemanticPolicy>(json).unwrap();
        let bounds = |json: &str| {
            let policy = policy(json);
            (policy.reuse().cosine(), policy.near().cosine())
        };
        assert_eq!(bounds(r#"{"text":"a"}"#), (0.95, 0.85));
        assert_eq!(bounds(r#"{"text":"a","reuse":0.7}"#), (0.7, 0.7));
        assert_eq!(bounds(r#"{"text":"a","near":0.5}"#), (0.95, 0.5));
    }

    #[test]
    fn a_similarity_is_never_shown_as_more_than_it_is() {
        assert_eq!(Similarity::new(0.949_999).to_string(), "0.949");
        assert_eq!(Similarity::new(1.0).to_string(), "1.000");
        assert_eq!(Similarity::new(-0.3).to_string(), "0.000");
        assert_eq!(Similarity::new(f64::NAN).cosine(), 0.0);
        assert!(Similarity::new(0.99999999) >= Similarity::new(1.0));
    }
}
