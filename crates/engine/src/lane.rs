//! Lanes: ready tasks by what they require of a worker.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::definition::Requirement;
use crate::ready::ReadyQueue;
use crate::worker::{Worker, WorkerKey, Workers};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct LaneId(pub(crate) u32);

#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) requirement: Requirement,
    /// Workers that can serve it.
    pub(crate) workers: Vec<WorkerKey>,
    pub(crate) queue: ReadyQueue,
    /// Tasks that wait in it.
    pub(crate) waiting: usize,
    /// The place of its queue among [`Lanes::queues`].
    queue_number: usize,
}

/// All lanes that were ever asked for; their number is bounded by that of distinct requirements.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    all: Vec<Lane>,
    by_requirement: BTreeMap<Requirement, LaneId>,
    /// Tasks that wait in each queue, in all its lanes.
    queues: Vec<usize>,
    queue_numbers: BTreeMap<Arc<str>, usize>,
}

impl Lanes {
    /// The lane for a requirement.
    pub(crate) fn intern(&mut self, requirement: &Requirement, workers: &Workers) -> LaneId {
        if let Some(&lane) = self.by_requirement.get(requirement) {
            return lane;
        }
        let lane = LaneId(self.all.len() as u32);
        let queue_number = *self
            .queue_numbers
            .entry(requirement.queue.clone())
            .or_insert(self.queues.len());
        if queue_number == self.queues.len() {
            self.queues.push(0);
        }
        self.all.push(Lane {
            requirement: requirement.clone(),
            workers: workers
                .iter()
                .filter(|(_, worker)| worker.offers(requirement))
                .map(|(key, _)| key)
                .collect(),
            queue: ReadyQueue::default(),
            waiting: 0,
            queue_number,
        });
        self.by_requirement.insert(requirement.clone(), lane);
        lane
    }

    pub(crate) fn get(&self, lane: LaneId) -> &Lane {
        &self.all[lane.0 as usize]
    }

    pub(crate) fn get_mut(&mut self, lane: LaneId) -> &mut Lane {
        &mut self.all[lane.0 as usize]
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = LaneId> + use<> {
        (0..self.all.len() as u32).map(LaneId)
    }

    pub(crate) fn worker_joined(&mut self, key: WorkerKey, worker: &Worker) {
        for lane in &mut self.all {
            if worker.offers(&lane.requirement) {
                lane.workers.push(key);
            }
        }
    }

    pub(crate) fn worker_removed(&mut self, key: WorkerKey) {
        for lane in &mut self.all {
            lane.workers.retain(|&other| other != key);
        }
    }

    pub(crate) fn count(&mut self, lane: LaneId, entered: bool) {
        let lane = &mut self.all[lane.0 as usize];
        let queue = &mut self.queues[lane.queue_number];
        if entered {
            lane.waiting += 1;
            *queue += 1;
        } else {
            lane.waiting -= 1;
            *queue -= 1;
        }
    }

    /// Tasks that wait in a queue, in all its lanes.
    pub(crate) fn waiting_in(&self, queue: &str) -> usize {
        self.queue_numbers
            .get(queue)
            .map_or(0, |&number| self.queues[number])
    }
}
