//! What the journal keeps: the only truth about a run.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use levelflow_common::view::TaskCounts;
use levelflow_common::workflow::{Durability, Priority};
use levelflow_common::{
    CacheUse, CachedFrom, Failure, FencingToken, RunId, RunStatus, Similar, Timestamp, WorkerId,
    WorkflowDigest,
};

/// The number of a run in one store: runs are numbered from 1 in the order of their submits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RunNumber(pub u64);

/// A task of a run: below the number of tasks in the definition the task itself, above it an item of
/// a `for_each`, in the order in which lists were opened.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TaskIndex(pub u32);

/// Consecutive records of one run that are written together.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The run.
    pub run: RunNumber,
    /// The sequence number of the first record; a run's records are numbered from 1 without a gap.
    pub first_sequence: u64,
    /// The records; at least one.
    pub records: Vec<Record>,
    /// How the run stands after them, where its status changed.
    pub progress: Option<Progress>,
}

/// How a run stands, for its row in the list of runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Its status.
    pub status: RunStatus,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Its tasks by how they stand.
    pub counts: TaskCounts,
    /// Why it failed.
    pub failure: Option<Failure>,
}

/// One record of a run's journal.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub fact: Fact,
}

/// Something that happened to a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// The run was accepted. Always the first.
    Submitted(Arc<Submitted>),
    /// The list of a `for_each` was opened.
    Expanded {
        /// The task.
        task: TaskIndex,
        /// How many items it has.
        items: u32,
    },
    /// A `sleep` task began to wait.
    Slept {
        /// The task.
        task: TaskIndex,
        /// When it ends.
        until: Timestamp,
    },
    /// A task ended with an output.
    Succeeded {
        /// The task.
        task: TaskIndex,
        /// The attempt that gave it, from 1; 0 if none was needed.
        attempt: u32,
        /// When that attempt started.
        started_at: Timestamp,
        /// Who ran it.
        worker: Option<WorkerId>,
        /// A JSON value.
        output: Bytes,
        /// The chunks that the attempt gave before it, if any.
        stream: Option<Box<RecordedStream>>,
        /// Where it was found, if no attempt gave it; `attempt` counts those before.
        cached: Option<Box<CachedFrom>>,
        /// The result of a nearly equal text: the output itself where that was found, otherwise what the task
        /// was shown.
        similar_to: Option<Box<Similar>>,
    },
    /// An attempt failed, or a task failed before an attempt could start.
    Failed {
        /// The task.
        task: TaskIndex,
        /// The attempt, from 1; 0 if none was made.
        attempt: u32,
        /// When that attempt started.
        started_at: Option<Timestamp>,
        /// Who ran it.
        worker: Option<WorkerId>,
        /// Why.
        failure: Failure,
        /// When the next attempt may start; none if the task failed for good.
        retry_at: Option<Timestamp>,
    },
    /// The `when` of a task was false. Skips that follow from the end of another task are not
    /// recorded: they are part of what that record means.
    Skipped {
        /// The task.
        task: TaskIndex,
    },
    /// A client cancelled the run: no attempt starts after this.
    CancelRequested {
        /// What the client said.
        reason: Arc<str>,
    },
    /// The run took longer than its timeout: no attempt starts after this.
    TimedOut,
    /// The run ended. Always the last. Tasks that had not ended are cancelled.
    Finished {
        /// How; a terminal status.
        status: RunStatus,
        /// A JSON object, when it succeeded.
        outputs: Option<Bytes>,
        /// Why it failed.
        failure: Option<Failure>,
    },
}

/// The chunks of an attempt that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedStream {
    /// The name of the stream: the token of the attempt.
    pub stream: FencingToken,
    /// How many chunks there are.
    pub chunks: u32,
    /// The chunks, as [`levelflow_common::chunk::pack`] puts them together.
    pub packed: Bytes,
}

/// Everything that a run starts from.
#[derive(Clone, Debug, PartialEq)]
pub struct Submitted {
    /// The id that clients know.
    pub run_id: RunId,
    /// The definition.
    pub digest: WorkflowDigest,
    /// The name of the workflow.
    pub workflow: Arc<str>,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// How urgent it is.
    pub priority: Priority,
    /// When its tasks may start on the results they need.
    pub durability: Durability,
    /// What its tasks do with the cache.
    pub cache: CacheUse,
    /// Labels of the workflow and of the submit.
    pub labels: BTreeMap<String, String>,
    /// A JSON object with defaults filled in.
    pub inputs: Bytes,
    /// By what a repeated submit is known.
    pub key: Option<SubmitKey>,
    /// The ended run whose results are kept.
    pub resumed_from: Option<RunId>,
    /// The results that are kept.
    pub kept: Vec<Kept>,
}

/// By what a repeated submit is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubmitKey {
    /// The client's idempotency key, or the digest of the submit where it asked to be deduplicated.
    pub key: Arc<str>,
    /// Digest of workflow and inputs: the same key for something else is an error.
    pub content: [u8; 32],
    /// Until when the key is known; idempotency keys are known as long as the run is kept.
    pub expires_at: Option<Timestamp>,
}

/// The result of a task that a resumed run keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The task of the definition.
    pub task: TaskIndex,
    /// Its place in the list, where only some items of a `for_each` are kept.
    pub item: Option<u32>,
    /// What its end was.
    pub end: KeptEnd,
    /// The run that computed it.
    pub from: RunId,
}

/// How a kept task ended.
#[derive(Clone, Debug, PartialEq)]
pub enum KeptEnd {
    /// With an output, a JSON value.
    Succeeded(Bytes),
    /// Its `when` was false.
    Skipped,
}
