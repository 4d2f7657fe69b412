//! The state of a task in a run.

use bytes::Bytes;
use levelflow_common::{
    CachedFrom, Code, Failure, RunId, Similar, TaskStatus, Timestamp, WorkerId,
};

use crate::record::TaskIndex;

/// The state of a task, or of an item of a `for_each`, as the journal tells it.
#[derive(Clone, Debug)]
pub struct TaskState {
    /// How it stands. The journal knows nothing of attempts under way: a task whose attempt is running
    /// is `Ready` here, or `Backoff` after a failed one.
    pub status: TaskStatus,
    /// Attempts that ended.
    pub attempts: u32,
    /// Whether it is a list, or an item of one.
    pub place: Place,
    /// Needs that have not ended.
    pub(crate) needs_left: u32,
    /// When its needs were met.
    pub queued_at: Option<Timestamp>,
    /// When its last attempt started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When it tries again or wakes up.
    pub wakes_at: Option<Timestamp>,
    /// Who ran its last attempt.
    pub worker: Option<WorkerId>,
    /// Its output, a JSON value.
    pub output: Option<Bytes>,
    /// Chunks that were recorded with the output.
    pub chunks: u32,
    /// Why its last attempt failed.
    pub failure: Option<Box<Failure>>,
    /// Its attempts that went down with the process that ran them.
    pub losses: Vec<Loss>,
    /// The task whose end caused the skip.
    pub skipped_by: Option<TaskIndex>,
    /// The run that computed the output, where it was kept from an earlier one.
    pub reused_from: Option<Box<RunId>>,
    /// Where the output was found, if no attempt gave it.
    pub cached: Option<Box<CachedFrom>>,
    /// The result of a nearly equal text: the output itself where that was found, otherwise what the task was shown.
    pub similar_to: Option<Box<Similar>>,
}

/// An attempt that went down with the process that ran it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Its number, from 1.
    pub attempt: u32,
    /// The worker.
    pub worker: WorkerId,
    /// How it went down.
    pub code: Code,
    /// What is known of that.
    pub message: String,
}

/// Whether a task is a list, or an item of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A task by itself, or a list that has not been opened.
    Whole,
    /// A `for_each` whose items are the tasks from `first`.
    List {
        /// The first item.
        first: u32,
        /// How many items there are.
        count: u32,
        /// Items that have not ended.
        open: u32,
    },
    /// An item.
    Item {
        /// The task that lists it.
        of: TaskIndex,
        /// Its place in the list, from 0.
        position: u32,
    },
}

impl TaskState {
    pub(crate) const fn pending(needs_left: u32) -> Self {
        Self {
            status: TaskStatus::Pending,
            attempts: 0,
            place: Place::Whole,
            needs_left,
            queued_at: None,
            started_at: None,
            finished_at: None,
            wakes_at: None,
            worker: None,
            output: None,
            chunks: 0,
            failure: None,
            losses: Vec::new(),
            skipped_by: None,
            reused_from: None,
            cached: None,
            similar_to: None,
        }
    }

    pub(crate) fn make_ready(&mut self, at: Timestamp) {
        self.status = TaskStatus::Ready;
        self.queued_at = Some(at);
    }
}
