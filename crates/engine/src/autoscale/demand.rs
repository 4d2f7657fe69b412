//! What waits for workers, and what the workers have: the numbers that autoscaling decides on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use levelflow_common::{Timestamp, WorkerId};

use crate::dispatch::is_queued;
use crate::engine::Engine;
use crate::event::{RunKey, Ticket};
use crate::record::TaskIndex;
use crate::worker::Worker;

/// What waits for workers, and what the workers have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// The queues, by name: those with tasks that wait, or with tasks that were measured.
    pub queues: Vec<QueueDemand>,
    /// The workers with a live session that were heard lately, by name.
    pub workers: Vec<WorkerLoad>,
    /// Coordinators that did not say what waits with them.
    pub unheard: Vec<String>,
}

/// What waits in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueDemand {
    /// Its name.
    pub name: Arc<str>,
    /// Tasks that wait for nothing but a slot of a worker that is there.
    pub waiting: u64,
    /// Tasks that none of the workers may take.
    pub unserved: u64,
    /// How long the oldest of those who wait for a slot has waited; if none does, of the others.
    pub oldest_wait: Duration,
    /// How long one of them takes, as measured lately or, until then, as expected.
    pub task_time: Duration,
}

/// What a worker has under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerLoad {
    /// Its name.
    pub worker: WorkerId,
    /// Attempts that it runs at once.
    pub slots: u32,
    /// Attempts that it holds, for all coordinators: one without any can go at once.
    pub leases: u32,
    /// Whether it takes nothing more.
    pub is_draining: bool,
    /// The queues that it subscribes to.
    pub queues: BTreeSet<String>,
}

impl Demand {
    /// The demand of several coordinators together. A worker that works for all of them is one worker.
    pub fn sum(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut queues: BTreeMap<Arc<str>, QueueDemand> = BTreeMap::new();
        let mut workers: BTreeMap<WorkerId, WorkerLoad> = BTreeMap::new();
        let mut unheard = Vec::new();
        for part in parts {
            unheard.extend(part.unheard);
            for queue in part.queues {
                match queues.get_mut(&queue.name) {
                    Some(known) => known.add(&queue),
                    None => drop(queues.insert(queue.name.clone(), queue)),
                }
            }
            for worker in part.workers {
                match workers.get_mut(&worker.worker) {
                    Some(known) => {
                        known.leases = known.leases.saturating_add(worker.leases);
                        known.is_draining |= worker.is_draining;
                    }
                    None => drop(workers.insert(worker.worker.clone(), worker)),
                }
            }
        }
        Self {
            queues: queues.into_values().collect(),
            workers: workers.into_values().collect(),
            unheard,
        }
    }
}

impl QueueDemand {
    /// Tasks that wait, whoever may take them.
    pub fn tasks(&self) -> u64 {
        self.waiting.saturating_add(self.unserved)
    }

    fn add(&mut self, other: &Self) {
        self.task_time = average(
            (self.task_time, self.tasks().max(1)),
            (other.task_time, other.tasks().max(1)),
        );
        self.oldest_wait = match (self.waiting > 0, other.waiting > 0) {
            (true, false) => self.oldest_wait,
            (false, true) => other.oldest_wait,
            _ => self.oldest_wait.max(other.oldest_wait),
        };
        self.waiting = self.waiting.saturating_add(other.waiting);
        self.unserved = self.unserved.saturating_add(other.unserved);
    }
}

/// The average of two times of so many tasks each.
fn average(one: (Duration, u64), other: (Duration, u64)) -> Duration {
    let weight = u128::from(one.1) + u128::from(other.1);
    let sum = one.0.as_micros() * u128::from(one.1) + other.0.as_micros() * u128::from(other.1);
    Duration::from_micros(u64::try_from(sum / weight.max(1)).unwrap_or(u64::MAX))
}

impl Engine {
    /// What waits here for workers, and what they have. Asked after [`Engine::assign`]: before, tasks wait
    /// that a slot is free for.
    pub fn demand(&mut self, now: Timestamp) -> Demand {
        let silence = self.silence();
        let is_here = |it: &Worker| it.session.is_some() && !it.is_silent(now, silence);
        let workers = self.workers.iter().filter(|(_, it)| is_here(it));
        let workers = workers.map(|(_, worker)| WorkerLoad {
            worker: worker.hello.worker.clone(),
            slots: worker.hello.slots,
            leases: worker.leases,
            is_draining: worker.draining,
            queues: worker.hello.queues.clone(),
        });
        let mut workers: Vec<_> = workers.collect();
        workers.sort_unstable_by(|one, other| one.worker.cmp(&other.worker));
        Demand {
            queues: self.queue_demand(now),
            workers,
            unheard: Vec::new(),
        }
    }

    fn queue_demand(&mut self, now: Timestamp) -> Vec<QueueDemand> {
        let silence = self.silence();
        let is_here = |it: &Worker| it.session.is_some() && !it.is_silent(now, silence);
        let mut queues: BTreeMap<Arc<str>, QueueDemand> = BTreeMap::new();
        let ids: Vec<_> = self.lanes.iter().map(|(id, _)| id).collect();
        for id in ids {
            let lane = self.lanes.get(id);
            let waiting = match lane.is_held() {
                true => 0,
                false => lane.waiting as u64,
            };
            let times = self.lanes.times(id);
            let name = lane.requirement.queue.clone();
            if waiting == 0 {
                if let Some(task_time) = times.of_any() {
                    queues.entry(name.clone()).or_insert(QueueDemand {
                        name,
                        waiting: 0,
                        unserved: 0,
                        oldest_wait: Duration::ZERO,
                        task_time,
                    });
                }
                continue;
            }
            let task_time = times.of(lane.requirement.kind);
            let mut serving = lane.workers.iter().map(|&key| self.workers.get(key));
            let is_served = serving.any(|it| is_here(it) && !it.draining);
            let runs = &self.runs;
            let live = |run: RunKey, task: TaskIndex, ticket: Ticket| {
                is_queued(runs.get(run.0 as usize), task, ticket)
            };
            let since = self.lanes.get_mut(id).queue.waits_since(&live);
            let of_lane = QueueDemand {
                name: name.clone(),
                waiting: if is_served { waiting } else { 0 },
                unserved: if is_served { 0 } else { waiting },
                oldest_wait: since.map_or(Duration::ZERO, |since| now.since(since)),
                task_time,
            };
            match queues.get_mut(&name) {
                // What was measured of the queue as a whole is for when nothing waits.
                Some(known) if known.tasks() > 0 => known.add(&of_lane),
                Some(known) => *known = of_lane,
                None => drop(queues.insert(name, of_lane)),
            }
        }
        queues.into_values().collect()
    }
}
