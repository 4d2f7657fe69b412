//! A worker of the simulation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use levelflow_common::{AttemptResult, FencingToken, TaskKind, UpstreamReport, WorkerId};
use levelflow_engine::HandlerVersion;
use levelflow_engine::command::Attempt;
use levelflow_engine::event::{Hello, Intake, SessionId};

pub(crate) struct FakeWorker {
    pub(crate) name: Arc<str>,
    pub(crate) instance: u64,
    pub(crate) slots: u32,
    pub(crate) weight: u32,
    pub(crate) queues: BTreeSet<String>,
    pub(crate) connections: BTreeSet<String>,
    pub(crate) labels: BTreeMap<String, String>,
    /// The versions of its handlers.
    pub(crate) versions: BTreeMap<String, HandlerVersion>,
    pub(crate) session: Option<SessionId>,
    /// Credits granted in this session and not used.
    pub(crate) credits: u32,
    /// What the next heartbeat says that it takes.
    pub(crate) intake: Intake,
    pub(crate) held: BTreeMap<FencingToken, Held>,
}

/// An attempt that a worker runs, or whose outcome it keeps until it is acknowledged.
pub(crate) struct Held {
    pub(crate) attempt: Attempt,
    pub(crate) stopped: bool,
    /// Whether the engine need not know of it.
    pub(crate) is_forgotten: bool,
    pub(crate) outcome: Option<AttemptResult>,
    /// What the outcome tells of upstreams.
    pub(crate) upstreams: UpstreamReport,
}

impl FakeWorker {
    pub(crate) fn new(name: &str, slots: u32) -> Self {
        Self {
            name: name.into(),
            instance: 1,
            slots,
            weight: 1,
            queues: BTreeSet::from(["default".to_owned()]),
            labels: BTreeMap::new(),
            versions: BTreeMap::new(),
            connections: BTreeSet::new(),
            session: None,
            credits: 0,
            intake: Intake::All,
            held: BTreeMap::new(),
        }
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            worker: WorkerId(self.name.clone()),
            instance: self.instance,
            slots: self.slots,
            weight: self.weight,
            queues: self.queues.clone(),
            labels: self.labels.clone(),
            kinds: TaskKind::ALL.into_iter().collect(),
            handlers: self.versions.keys().cloned().collect(),
            handler_versions: self.versions.clone(),
            connections: self.connections.clone(),
            held: self.held.keys().copied().collect(),
        }
    }

    pub(crate) fn running(&self) -> Vec<FencingToken> {
        let runs = |held: &&Held| held.outcome.is_none();
        let running = self.held.iter().filter(|(_, held)| runs(held));
        running.map(|(&token, _)| token).collect()
    }

    pub(crate) fn free_slots(&self) -> u32 {
        self.slots.saturating_sub(self.running().len() as u32)
    }
}
