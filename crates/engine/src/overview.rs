//! Workers and queues as clients see them.

use std::collections::BTreeMap;
use std::sync::Arc;

use levelflow_common::overview::{EndedTasks, QueueView, WorkerStatus, WorkerView};
use levelflow_common::{TaskKind, TaskStatus, Timestamp};

use crate::engine::Engine;
use crate::event::SessionId;
use crate::worker::Worker;

impl Engine {
    /// The workers by their names, each with its live session. What only the session knows is left out.
    pub fn workers(&self, now: Timestamp) -> Vec<(Option<SessionId>, WorkerView)> {
        let silence = self.silence();
        let mut workers: Vec<_> = self
            .workers
            .iter()
            .map(|(_, worker)| (worker.session, worker.view(worker.is_silent(now, silence))))
            .collect();
        workers.sort_unstable_by(|(_, one), (_, other)| one.worker.cmp(&other.worker));
        workers
    }

    /// The queues in which tasks wait, by their names; of more than `most`, the fullest.
    pub fn queues(&self, most: usize) -> Vec<QueueView> {
        let mut by_name: BTreeMap<&Arc<str>, (u64, u64)> = BTreeMap::new();
        for (_, lane) in self.lanes.iter() {
            if lane.waiting + lane.parked == 0 {
                continue;
            }
            let (ready, parked) = by_name.entry(&lane.requirement.queue).or_default();
            *parked += lane.parked as u64;
            *(if lane.is_held() { parked } else { ready }) += lane.waiting as u64;
        }
        let mut queues: Vec<QueueView> = by_name
            .into_iter()
            .map(|(name, (ready, parked))| QueueView {
                name: name.clone(),
                ready,
                parked,
            })
            .collect();
        if queues.len() > most {
            queues.sort_by_key(|queue| std::cmp::Reverse(queue.ready + queue.parked));
            queues.truncate(most);
            queues.sort_by(|one, other| one.name.cmp(&other.name));
        }
        queues
    }

    /// Tasks that ended since the engine was made.
    pub fn ended_tasks(&self) -> EndedTasks {
        let counters = self.counters();
        let of = |status| {
            let by_kind = TaskKind::ALL.map(|kind| counters.ended_tasks(status, kind));
            by_kind.into_iter().sum()
        };
        EndedTasks {
            succeeded: of(TaskStatus::Succeeded),
            failed: of(TaskStatus::Failed),
        }
    }
}

impl Worker {
    fn view(&self, is_silent: bool) -> WorkerView {
        let hello = &self.hello;
        WorkerView {
            worker: hello.worker.clone(),
            status: match self.session {
                None => WorkerStatus::Lost,
                Some(_) if is_silent => WorkerStatus::Silent,
                Some(_) if self.draining => WorkerStatus::Draining,
                Some(_) => WorkerStatus::Active,
            },
            slots: hello.slots,
            attempts: self.leases,
            credits: self.credits,
            queues: hello.queues.clone(),
            labels: hello.labels.clone(),
            kinds: hello.kinds.clone(),
            handlers: hello.handlers.clone(),
            handler_versions: hello
                .handler_versions
                .iter()
                .map(|(name, version)| (name.clone(), version.as_str().to_owned()))
                .collect(),
            connections: hello.connections.clone(),
            session: None,
        }
    }
}
