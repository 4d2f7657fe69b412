//! What watchers of a run are told.

use std::sync::Arc;

use bytes::Bytes;

use crate::cache::CachedFrom;
use crate::chunk::ChunkEvent;
use crate::id::{RunId, WorkerId};
use crate::outcome::{Failure, RunStatus};
use crate::similar::Similar;
use crate::time::Timestamp;
use crate::view::TaskCounts;

/// Events that one journal record caused, or live ones that no record stands behind.
///
/// Resuming after `sequence` misses nothing: a record's events are always sent together.
#[derive(Clone, Debug, PartialEq)]
pub struct RunUpdate {
    /// The sequence number of the record; for live events, of the last record before them.
    pub sequence: u64,
    /// When it happened.
    pub at: Timestamp,
    /// What happened, in order.
    pub events: Vec<RunEvent>,
}

/// A task of a run, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskRef {
    /// Its id in the workflow.
    pub task_id: Arc<str>,
    /// Its place in the list of a `for_each`.
    pub item: Option<u32>,
}

/// The output of a task, as the end of its level tells it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelOutput {
    /// The task's id in the workflow.
    pub task_id: Arc<str>,
    /// How long the output is.
    pub bytes: u32,
    /// The output, a JSON value; none where it is too long to be told again.
    pub output: Option<Bytes>,
}

impl RunEvent {
    /// Whether no record stands behind it, so that it is not repeated to watchers who come later.
    pub const fn is_live(&self) -> bool {
        matches!(self, Self::AttemptStarted { .. } | Self::Streamed { .. })
    }
}

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEvent {
    /// The run was accepted.
    Submitted {
        /// The name of its workflow.
        workflow: Arc<str>,
        /// Tasks in the definition.
        tasks: u32,
        /// Levels in the definition.
        levels: u32,
        /// The failed run that it goes on from.
        resumed_from: Option<RunId>,
    },
    /// An attempt was sent to a worker. Live: not repeated to watchers who come later.
    AttemptStarted {
        /// Which task.
        task: TaskRef,
        /// Its number, from 1.
        attempt: u32,
        /// Who runs it.
        worker: WorkerId,
    },
    /// Chunks of a task, for those who asked for them. Those of a result come before its event, also later.
    Streamed {
        /// Which task.
        task: TaskRef,
        /// The chunks; never the end.
        event: ChunkEvent,
    },
    /// An attempt failed and another will follow.
    AttemptFailed {
        /// Which task.
        task: TaskRef,
        /// Its number, from 1.
        attempt: u32,
        /// Why.
        failure: Failure,
        /// When the next may start.
        retry_at: Timestamp,
    },
    /// A list was opened into items.
    Expanded {
        /// Which task.
        task: TaskRef,
        /// How many items.
        items: u32,
    },
    /// A task waits for a time.
    Sleeping {
        /// Which task.
        task: TaskRef,
        /// When it wakes.
        wakes_at: Timestamp,
    },
    /// A task has its output.
    TaskSucceeded {
        /// Which task.
        task: TaskRef,
        /// Its last attempt, from 1; 0 if none was needed.
        attempt: u32,
        /// When the attempt started.
        started_at: Timestamp,
        /// The output, a JSON value.
        output: Bytes,
        /// The run that computed it, where it was kept from an earlier one.
        reused_from: Option<RunId>,
        /// Chunks that were recorded with it. Of a result that was kept, only who asked for chunks is told.
        chunks: u32,
        /// Where it was found, if no attempt gave it.
        cached: Option<CachedFrom>,
        /// The result of a nearly equal text: the output itself where that was found, otherwise what the task
        /// was shown.
        similar_to: Option<Similar>,
    },
    /// A task failed for good.
    TaskFailed {
        /// Which task.
        task: TaskRef,
        /// Its last attempt, from 1; 0 if none was made.
        attempt: u32,
        /// Why.
        failure: Failure,
        /// Whether the run goes on as if it had succeeded.
        tolerated: bool,
    },
    /// A task will not run.
    TaskSkipped {
        /// Which task.
        task: TaskRef,
        /// The task whose end decided it; none if its own `when` did.
        because_of: Option<Arc<str>>,
    },
    /// A task was stopped by the end of its run.
    TaskCancelled {
        /// Which task.
        task: TaskRef,
    },
    /// All tasks of a level have ended, in whatever way.
    LevelCompleted {
        /// Which, from 0.
        level: u32,
        /// Its tasks, and the items of their lists, by how they ended.
        counts: TaskCounts,
        /// What its tasks gave, in the order of the workflow. The output of a list is that of its items.
        outputs: Vec<LevelOutput>,
        /// Tasks with an output that are not in the list for want of room.
        unlisted: u32,
    },
    /// Someone cancelled the run.
    CancelRequested {
        /// What they said.
        reason: String,
    },
    /// The run ended.
    Finished {
        /// How.
        status: RunStatus,
        /// The outputs, a JSON object, when it succeeded.
        outputs: Option<Bytes>,
        /// Why it failed.
        failure: Option<Failure>,
    },
}
