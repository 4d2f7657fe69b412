//! Workers.

use std::collections::{BTreeMap, BTreeSet};

use levelflow_common::TaskKind;
use levelflow_common::overview::{
    HeartbeatView, MemoryLevel, PoolView, SessionView, WorkerStatus, WorkerView,
};
use schemars::JsonSchema;
use serde::Serialize;

use super::timestamp;

/// The workers of a coordinator.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WorkerList<'a> {
    /// By their ids.
    pub workers: Vec<Worker<'a>>,
}

/// A worker.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Worker<'a> {
    /// Its name.
    id: &'a str,
    /// How it stands.
    status: WorkerStatus,
    /// Attempts that it runs at once.
    slots: u32,
    /// Slots that are taken.
    busy: u32,
    /// Attempts that it holds: they run, wait for a slot there, or are on their way to it.
    attempts: u32,
    /// More attempts that it would take now.
    credits: u32,
    /// The queues that it subscribes to.
    queues: &'a BTreeSet<String>,
    /// Its labels.
    labels: &'a BTreeMap<String, String>,
    /// The task types that it runs, `handler` excepted.
    kinds: &'a BTreeSet<TaskKind>,
    /// The handlers that it has.
    handlers: &'a BTreeSet<String>,
    /// The versions of those of them that have one.
    handler_versions: &'a BTreeMap<String, String>,
    /// Databases by their names, language models as `chat:NAME`.
    connections: &'a BTreeSet<String>,
    /// Its stream to the coordinator; null while it is lost.
    session: Option<WorkerSession<'a>>,
}

/// A worker's stream to the coordinator.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WorkerSession<'a> {
    /// Of the worker's software.
    version: &'a str,
    /// When it was opened.
    #[schemars(extend("format" = "date-time"))]
    connected_at: String,
    /// The last heartbeat; null until the first came.
    heartbeat: Option<WorkerHeartbeat<'a>>,
}

/// What a worker told with its last heartbeat.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WorkerHeartbeat<'a> {
    /// When it came.
    #[schemars(extend("format" = "date-time"))]
    at: String,
    /// Resident memory of the worker process; null where that is not known.
    resident_bytes: Option<u64>,
    /// How full the memory is; null if the worker does not watch it.
    memory_level: Option<MemoryLevel>,
    /// Growth of the resident memory in bytes per second; 0 if it shrinks.
    growth_per_second: u64,
    /// What attempts share.
    pools: &'a [PoolView],
}

impl<'a> From<&'a WorkerView> for Worker<'a> {
    fn from(view: &'a WorkerView) -> Self {
        Self {
            id: &view.worker.0,
            status: view.status,
            slots: view.slots,
            busy: view.busy(),
            attempts: view.attempts,
            credits: view.credits,
            queues: &view.queues,
            labels: &view.labels,
            kinds: &view.kinds,
            handlers: &view.handlers,
            handler_versions: &view.handler_versions,
            connections: &view.connections,
            session: view.session.as_ref().map(Into::into),
        }
    }
}

impl<'a> From<&'a SessionView> for WorkerSession<'a> {
    fn from(view: &'a SessionView) -> Self {
        Self {
            version: &view.version,
            connected_at: timestamp(view.connected_at),
            heartbeat: view.heartbeat.as_ref().map(Into::into),
        }
    }
}

impl<'a> From<&'a HeartbeatView> for WorkerHeartbeat<'a> {
    fn from(view: &'a HeartbeatView) -> Self {
        Self {
            at: timestamp(view.at),
            resident_bytes: view.resident_bytes,
            memory_level: view.memory_level,
            growth_per_second: view.growth_per_second,
            pools: &view.pools,
        }
    }
}

impl<'a> From<&'a [WorkerView]> for WorkerList<'a> {
    fn from(views: &'a [WorkerView]) -> Self {
        Self {
            workers: views.iter().map(Into::into).collect(),
        }
    }
}
