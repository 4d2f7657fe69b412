//! Why the engine refuses an event.

use std::sync::Arc;
use std::time::Duration;

use levelflow_common::{Code, RunId, RunStatus, ShardId};

/// How long it may take until a shard has its next owner.
const MOVES_WITHIN: Duration = Duration::from_secs(1);

/// Why the engine refuses an event. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Too many tasks wait.
    #[error("queue `{queue}` is full: {waiting} tasks wait for a worker; try again later")]
    QueueFull {
        /// In which queue.
        queue: Arc<str>,
        /// How many.
        waiting: usize,
        /// When to try again.
        retry_after: Duration,
    },
    /// Too many runs are open.
    #[error("{open} runs are open, which is the limit; try again later")]
    TooManyRuns {
        /// How many.
        open: usize,
        /// When to try again.
        retry_after: Duration,
    },
    /// The key stands for another submit.
    #[error("the idempotency key was used for run {run_id} with another workflow or other inputs")]
    KeyReused {
        /// The run that it stands for.
        run_id: RunId,
    },
    /// The run is not open.
    #[error("no open run {0}")]
    RunNotFound(RunId),
    /// The run has ended.
    #[error("run {run_id} has ended ({})", status.as_str())]
    RunEnded {
        /// The run.
        run_id: RunId,
        /// How it ended.
        status: RunStatus,
    },
    /// The run has no such task.
    #[error("run {run_id} has no task `{task}`")]
    TaskNotFound {
        /// The run.
        run_id: RunId,
        /// The task.
        task: String,
    },
    /// Another process with a live session has the worker's name.
    #[error("another process with a live session has the worker id `{0}`")]
    WorkerIdTaken(Arc<str>),
    /// The run belongs to a shard that this engine has not, or is about to give away.
    #[error("shard {0} belongs to another coordinator, or is about to; try again")]
    ShardElsewhere(ShardId),
}

impl Rejection {
    /// The stable code.
    pub const fn code(&self) -> Code {
        match self {
            Self::QueueFull { .. } => Code::QueueFull,
            Self::TooManyRuns { .. } => Code::TooManyRuns,
            Self::KeyReused { .. } => Code::KeyReused,
            Self::RunNotFound(_) => Code::RunNotFound,
            Self::RunEnded { .. } => Code::RunEnded,
            Self::TaskNotFound { .. } => Code::TaskNotFound,
            Self::WorkerIdTaken(_) => Code::WorkerIdTaken,
            Self::ShardElsewhere(_) => Code::ShardElsewhere,
        }
    }

    /// When trying again may help.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::QueueFull { retry_after, .. } | Self::TooManyRuns { retry_after, .. } => {
                Some(*retry_after)
            }
            Self::ShardElsewhere(_) => Some(MOVES_WITHIN),
            _ => None,
        }
    }
}
