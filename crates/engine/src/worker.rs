//! The workers that the engine knows.

use levelflow_common::Timestamp;
use slab::Slab;

use crate::definition::Requirement;
use crate::event::{Hello, Intake, SessionId};

/// A worker in the memory of one engine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct WorkerKey(pub(crate) u32);

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) hello: Hello,
    /// The live session; none while the stream is lost.
    pub(crate) session: Option<SessionId>,
    /// Attempts that it will still take.
    pub(crate) credits: u32,
    pub(crate) draining: bool,
    /// Attempts that it holds, or that are about to be sent.
    pub(crate) leases: u32,
    /// Those of them whose task was lost with its worker before.
    pub(crate) suspects: u32,
    pub(crate) intake: Intake,
    /// When it last said anything.
    pub(crate) heard_at: Timestamp,
    /// How far it has come in stride scheduling.
    pub(crate) distance: u64,
    /// When its last session ended, while it has none.
    pub(crate) left_at: Timestamp,
    /// Attempts that were lost with it, and of which nobody was told yet.
    pub(crate) lost: usize,
    /// Whether it was told that the worker is lost.
    pub(crate) lost_is_told: bool,
}

impl Worker {
    pub(crate) fn new(now: Timestamp, hello: Hello, session: SessionId) -> Self {
        Self {
            hello,
            session: Some(session),
            credits: 0,
            draining: false,
            leases: 0,
            suspects: 0,
            intake: Intake::All,
            heard_at: now,
            distance: 0,
            left_at: Timestamp::default(),
            lost: 0,
            lost_is_told: false,
        }
    }

    /// What is said of an attempt that is lost with the worker.
    pub(crate) fn loss(&self, why: &str) -> String {
        let name = &self.hello.worker;
        match self.leases.saturating_sub(1) {
            0 => format!("worker `{name}`: {why}"),
            others => format!("worker `{name}`: {why}; it ran {others} other attempts"),
        }
    }

    pub(crate) fn offers(&self, requirement: &Requirement) -> bool {
        let hello = &self.hello;
        hello.queues.contains(&*requirement.queue)
            && (hello.kinds.contains(&requirement.kind)
                || hello.handlers.contains(&*requirement.handler))
            && (requirement.connection.is_empty()
                || hello.connections.contains(&*requirement.connection))
            && requirement
                .labels
                .iter()
                .all(|(name, value)| hello.labels.get(name) == Some(value))
    }

    pub(crate) fn takes_work(&self) -> bool {
        self.session.is_some()
            && !self.draining
            && self.credits > 0
            && self.intake != Intake::Nothing
    }

    /// Attempts under way for each 1024 slots: what least-busy placement compares.
    pub(crate) fn load(&self) -> u64 {
        (u64::from(self.leases) * 1024) / u64::from(self.hello.slots.max(1))
    }
}

/// The workers, live and lately lost.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    all: Slab<Worker>,
}

impl Workers {
    pub(crate) fn insert(&mut self, worker: Worker) -> WorkerKey {
        WorkerKey(self.all.insert(worker) as u32)
    }

    pub(crate) fn remove(&mut self, key: WorkerKey) {
        self.all.remove(key.0 as usize);
    }

    pub(crate) fn get(&self, key: WorkerKey) -> &Worker {
        &self.all[key.0 as usize]
    }

    pub(crate) fn get_mut(&mut self, key: WorkerKey) -> &mut Worker {
        &mut self.all[key.0 as usize]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerKey, &Worker)> {
        self.all
            .iter()
            .map(|(key, worker)| (WorkerKey(key as u32), worker))
    }

    pub(crate) fn named(&self, name: &str) -> Option<WorkerKey> {
        self.iter()
            .find(|(_, worker)| &*worker.hello.worker.0 == name)
            .map(|(key, _)| key)
    }

    /// Linear: there are tens of workers, and outcomes come in frames that look this up once.
    pub(crate) fn of_session(&self, session: SessionId) -> Option<WorkerKey> {
        self.iter()
            .find(|(_, worker)| worker.session == Some(session))
            .map(|(key, _)| key)
    }
}
