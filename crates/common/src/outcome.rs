//! How tasks and runs stand and end.

use std::time::Duration;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;

use crate::code::Code;
use crate::duration::HumanDuration;
use crate::limits::{MAX_ERROR_BYTES, MAX_RETRY_AFTER};

/// Why an attempt, a task or a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Failure {
    /// What programs match on.
    #[schemars(with = "String")]
    pub code: Code,
    /// What people read.
    pub message: String,
    /// Whether another attempt may help.
    pub retryable: bool,
    /// The next attempt starts no earlier than this after the failure, because the upstream said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<HumanDuration>,
}

impl Failure {
    /// A failure that another attempt may mend.
    pub fn retryable(code: Code, message: impl Into<String>) -> Self {
        Self::new(code, message.into(), true)
    }

    /// A failure that would come again.
    pub fn permanent(code: Code, message: impl Into<String>) -> Self {
        Self::new(code, message.into(), false)
    }

    /// A failure with its message cut to [`MAX_ERROR_BYTES`].
    pub fn new(code: Code, mut message: String, retryable: bool) -> Self {
        if message.len() > MAX_ERROR_BYTES {
            let end = message.floor_char_boundary(MAX_ERROR_BYTES);
            message.truncate(end);
        }
        Self {
            code,
            message,
            retryable,
            retry_after: None,
        }
    }

    /// The same failure, after which the next attempt waits for at least this long; for at most
    /// [`MAX_RETRY_AFTER`].
    #[must_use]
    pub fn with_retry_after(self, wait: Duration) -> Self {
        Self {
            retry_after: Some(HumanDuration(wait.min(MAX_RETRY_AFTER))),
            ..self
        }
    }
}

/// What came of one attempt: a JSON value, or a failure.
pub type AttemptResult = Result<Bytes, Failure>;

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// It has tasks to do.
    Running,
    /// It was cancelled, and attempts are still ending.
    Cancelling,
    /// Every task succeeded, was skipped, or was allowed to fail.
    Succeeded,
    /// A task failed, or the outputs could not be computed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl RunStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [
        Self::Running,
        Self::Cancelling,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Whether it never changes again.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The word on the wire and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

/// How a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// It waits for other tasks.
    Pending,
    /// It could start and waits for a worker.
    Ready,
    /// An attempt is on a worker.
    Running,
    /// An attempt failed, and the next waits for its time.
    Backoff,
    /// It sleeps until its time.
    Sleeping,
    /// It has an output.
    Succeeded,
    /// Its last attempt failed.
    Failed,
    /// Its `when` was false, or a task that it needs did not succeed.
    Skipped,
    /// Its run was cancelled or failed before it ended.
    Cancelled,
}

impl TaskStatus {
    /// Every status.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Ready,
        Self::Running,
        Self::Backoff,
        Self::Sleeping,
        Self::Succeeded,
        Self::Failed,
        Self::Skipped,
        Self::Cancelled,
    ];

    /// Whether it never changes again.
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Skipped | Self::Cancelled
        )
    }

    /// The word on the wire and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Backoff => "backoff",
            Self::Sleeping => "sleeping",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}
