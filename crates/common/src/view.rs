//! Runs, breakers and plans as clients see them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;

use crate::cache::CachedFrom;
use crate::id::{RunId, WorkerId, WorkflowDigest};
use crate::outcome::{Failure, RunStatus, TaskStatus};
use crate::similar::Similar;
use crate::time::Timestamp;
use crate::workflow::{Priority, TaskKind};

/// A line in a list of runs.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSummary {
    /// Its id.
    pub run_id: RunId,
    /// The name of its workflow.
    pub workflow: Arc<str>,
    /// The definition that it runs.
    pub digest: WorkflowDigest,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// How it stands.
    pub status: RunStatus,
    /// How urgent it is.
    pub priority: Priority,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When its submit was accepted.
    pub submitted_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Tasks by how they stand.
    pub counts: TaskCounts,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// The run from whose results it was resumed.
    pub resumed_from: Option<RunId>,
}

/// Tasks of a run, items of `for_each` included, by how they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TaskCounts {
    /// All of them.
    pub total: u32,
    /// With an output.
    pub succeeded: u32,
    /// Failed, also where the run goes on.
    pub failed: u32,
    /// Skipped.
    pub skipped: u32,
    /// Cancelled.
    pub cancelled: u32,
}

/// A run with its tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct RunView {
    /// What a list shows of it.
    pub summary: RunSummary,
    /// The sequence number of the last journal record that this view includes.
    pub sequence: u64,
    /// Its inputs with defaults filled in, a JSON object.
    pub inputs: Bytes,
    /// Its outputs, a JSON object, when it succeeded.
    pub outputs: Option<Bytes>,
    /// The tasks in the order of the definition, then the items of each `for_each`.
    pub tasks: Vec<TaskView>,
    /// Ids of the tasks on the chain that took longest (while it runs: that is expected to).
    pub critical_path: Vec<Arc<str>>,
}

/// A task of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskView {
    /// Its id in the workflow.
    pub task_id: Arc<str>,
    /// Its place in the list of a `for_each`.
    pub item: Option<u32>,
    /// What runs it.
    pub kind: TaskKind,
    /// How it stands.
    pub status: TaskStatus,
    /// Its level, from 0.
    pub level: u32,
    /// Attempts so far; the last may be running.
    pub attempts: u32,
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
    /// Why its last attempt failed.
    pub failure: Option<Failure>,
    /// The run that computed the output, where it was kept from an earlier one.
    pub reused_from: Option<RunId>,
    /// Chunks that were recorded with the output.
    pub chunks: u32,
    /// Where the output was found, if no attempt gave it.
    pub cached: Option<CachedFrom>,
    /// The result of a nearly equal text: the output itself where that was found, otherwise what the task was shown.
    pub similar_to: Option<Similar>,
}

/// The breaker of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerView {
    /// The upstream, such as `http:api.example.com:443`.
    pub upstream: Arc<str>,
    /// How it stands.
    pub status: BreakerStatus,
    /// Calls that failed in a row.
    pub failures: u32,
    /// When probes may start, while it is open.
    pub probes_at: Option<Timestamp>,
    /// Attempts that may be under way at once; none for any number.
    pub limit: Option<u32>,
    /// Attempts that are.
    pub running: u32,
    /// Tasks that wait to call it.
    pub waiting: u32,
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerStatus {
    /// The upstream may be called.
    Closed,
    /// It may not.
    Open,
    /// A few probes may call it.
    HalfOpen,
}

impl BreakerStatus {
    /// Every status.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The layout of a workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Plan")]
pub struct PlanView {
    /// The name of the workflow.
    pub name: String,
    /// Its digest.
    pub digest: String,
    /// How many tasks it has.
    pub tasks: usize,
    /// How many edges it has.
    pub edges: usize,
    /// The most tasks of one level.
    pub width: usize,
    /// The levels, from the roots on.
    pub levels: Vec<PlanLevel>,
    /// The ids on the longest path.
    pub critical_path: Vec<String>,
}

/// A level of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PlanLevel {
    /// Its number, from 0.
    pub level: usize,
    /// Its tasks, in the order of the file.
    pub tasks: Vec<PlanTask>,
}

/// A task of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PlanTask {
    /// Its id.
    pub id: String,
    /// What runs it.
    #[serde(rename = "type")]
    pub kind: TaskKind,
    /// Runs once for each item of a list.
    pub for_each: bool,
    /// May be skipped by its `when`.
    pub conditional: bool,
    /// Lies on the critical path.
    pub critical: bool,
    /// The ids of the tasks that it waits for.
    pub needs: Vec<String>,
}
