//! A coordinator and its workers as clients see them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;

use crate::id::WorkerId;
use crate::time::Timestamp;
use crate::workflow::TaskKind;

/// How much a coordinator has under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    /// Drawn when its process started.
    pub coordinator_id: String,
    /// Of its software.
    pub version: String,
    /// When this was so.
    pub at: Timestamp,
    /// When its process started.
    pub started_at: Timestamp,
    /// Runs that have not ended.
    pub open_runs: u64,
    /// Attempts that workers hold.
    pub attempts: u64,
    /// Tasks that ended since it started, or since it last read its store again.
    pub ended: EndedTasks,
    /// The queues in which tasks wait, by their names.
    pub queues: Vec<QueueView>,
}

/// Tasks that ended, items of `for_each` included. Those that were skipped or cancelled do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct EndedTasks {
    /// With an output.
    pub succeeded: u64,
    /// Failed, also where the run goes on.
    pub failed: u64,
}

/// A queue in which tasks wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Queue")]
pub struct QueueView {
    /// Its name.
    pub name: Arc<str>,
    /// Tasks that wait for nothing but a worker.
    pub ready: u64,
    /// Tasks that a breaker or a limit holds back.
    pub parked: u64,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Its name.
    pub worker: WorkerId,
    /// How it stands.
    pub status: WorkerStatus,
    /// Attempts that it runs at once.
    pub slots: u32,
    /// Attempts that it holds: they run, wait for a slot there, or are on their way to it.
    pub attempts: u32,
    /// More attempts that it would take now.
    pub credits: u32,
    /// The queues that it subscribes to.
    pub queues: BTreeSet<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The task kinds that it runs, `handler` excepted.
    pub kinds: BTreeSet<TaskKind>,
    /// The handlers that it has.
    pub handlers: BTreeSet<String>,
    /// The versions of those of them that have one.
    pub handler_versions: BTreeMap<String, String>,
    /// The databases and language models that it can ask.
    pub connections: BTreeSet<String>,
    /// Its stream to the coordinator; none while it is lost.
    pub session: Option<SessionView>,
}

impl WorkerView {
    /// Slots that are taken.
    pub fn busy(&self) -> u32 {
        self.attempts.min(self.slots)
    }
}

/// How a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerStatus {
    /// It takes attempts.
    Active,
    /// It finishes what it holds and takes no more.
    Draining,
    /// It has a stream and missed a heartbeat: it gets nothing until it is heard again.
    Silent,
    /// Its stream is gone; what it holds is kept for it until the leases end.
    Lost,
}

impl WorkerStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Active, Self::Draining, Self::Silent, Self::Lost];

    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Silent => "silent",
            Self::Lost => "lost",
        }
    }
}

/// A worker's stream to the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Of the worker's software.
    pub version: String,
    /// When it was opened.
    pub connected_at: Timestamp,
    /// The last heartbeat; none until the first came.
    pub heartbeat: Option<HeartbeatView>,
}

/// What a worker told with its last heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatView {
    /// When it came.
    pub at: Timestamp,
    /// Resident memory of the worker process, where that is known.
    pub resident_bytes: Option<u64>,
    /// How full the memory is; none if the worker does not watch it.
    pub memory_level: Option<MemoryLevel>,
    /// Growth of the resident memory in bytes per second; 0 if it shrinks.
    pub growth_per_second: u64,
    /// What attempts share.
    pub pools: Vec<PoolView>,
}

/// How full the memory of a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemoryLevel {
    /// Below every limit.
    Normal,
    /// At the warning limit.
    Warning,
    /// At the critical limit: the worker takes no attempts.
    Critical,
}

impl MemoryLevel {
    /// Every level.
    pub const ALL: [Self; 3] = [Self::Normal, Self::Warning, Self::Critical];

    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A set of connections, threads or child processes that the attempts of a worker share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Pool")]
pub struct PoolView {
    /// Such as `http`, `sql:main`, `cpu` or `blocking`.
    pub name: String,
    /// The most that there can be.
    pub size: u32,
    /// In use now.
    pub busy: u32,
    /// Open, but not in use.
    pub idle: u32,
    /// Attempts that wait for one.
    pub waiting: u32,
    /// How many were opened since the worker started.
    pub opened: u64,
    /// How often one was used.
    pub used: u64,
    /// How long attempts waited in all, in microseconds.
    pub waited_us: u64,
}

/// An alert of a coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertView {
    /// Its number: from 1 since the coordinator started.
    pub number: u64,
    /// When it came.
    pub at: Timestamp,
    /// What programs match on, such as `memory_critical`.
    pub kind: String,
    /// Whether something is well again, rather than wrong.
    pub is_all_clear: bool,
    /// What people read.
    pub text: String,
    /// What it is about, a JSON object.
    pub subject: Bytes,
}
