//! Lanes: ready tasks by what they require before they can start.
//!
//! A task requires a worker of some kind, and that nothing else holds it back. Tasks for which both are
//! the same wait in one lane, so that a lane that is held back costs nothing until it is free again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use crate::definition::Requirement;
use crate::measured::TaskTimes;
use crate::ready::ReadyQueue;
use crate::upstream::UpstreamKey;
use crate::worker::{Worker, WorkerKey, Workers};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct LaneId(pub(crate) u32);

/// What can hold back a lane whatever workers there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Hold {
    /// The breaker of its upstream lets nothing more through.
    Breaker = 1,
}

#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) requirement: Arc<Requirement>,
    /// What its tasks call, where that is known.
    pub(crate) upstream: Option<UpstreamKey>,
    /// Whether it is for tasks that were lost with their worker before.
    pub(crate) is_for_suspects: bool,
    /// The lane for such tasks that otherwise require the same, if there is one.
    pub(crate) for_suspects: Option<LaneId>,
    /// Workers that can serve it.
    pub(crate) workers: Vec<WorkerKey>,
    pub(crate) queue: ReadyQueue,
    /// Tasks that wait in it.
    pub(crate) waiting: usize,
    /// Tasks whose limits do not let them wait in it yet.
    pub(crate) parked: usize,
    /// The [`Hold`]s on it, as bits.
    holds: u8,
    /// Its place among [`Lanes::ready`], if it has one.
    place: Option<usize>,
    /// The place of its queue among [`Lanes::queues`].
    queue_number: usize,
}

impl Lane {
    pub(crate) fn is_held(&self) -> bool {
        self.holds != 0
    }
}

/// What is known of a queue as a whole.
#[derive(Debug, Default)]
struct Queue {
    /// Tasks that wait in all its lanes, those that are parked included.
    waiting: usize,
    times: TaskTimes,
}

/// All lanes. The number of those that hold tasks of unknown upstream is bounded by that of distinct
/// requirements, the number of the others by that and by the number of upstreams; for each there may be one
/// more, for tasks that were lost with their worker before.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    all: Slab<Lane>,
    by_requirement: BTreeMap<Arc<Requirement>, LaneId>,
    /// The lanes in which tasks wait that nothing but workers holds back.
    ready: Vec<LaneId>,
    queues: Vec<Queue>,
    queue_numbers: BTreeMap<Arc<str>, usize>,
}

impl Lanes {
    /// The lane for a requirement alone.
    pub(crate) fn intern(&mut self, requirement: &Requirement, workers: &Workers) -> LaneId {
        if let Some(&lane) = self.by_requirement.get(requirement) {
            return lane;
        }
        let requirement = Arc::new(requirement.clone());
        let queue_number = *self
            .queue_numbers
            .entry(requirement.queue.clone())
            .or_insert(self.queues.len());
        if queue_number == self.queues.len() {
            self.queues.push(Queue::default());
        }
        let lane = self.all.insert(Lane {
            workers: workers
                .iter()
                .filter(|(_, worker)| worker.offers(&requirement))
                .map(|(key, _)| key)
                .collect(),
            requirement: requirement.clone(),
            upstream: None,
            is_for_suspects: false,
            for_suspects: None,
            queue: ReadyQueue::default(),
            waiting: 0,
            parked: 0,
            holds: 0,
            place: None,
            queue_number,
        });
        let lane = LaneId(lane as u32);
        self.by_requirement.insert(requirement, lane);
        lane
    }

    /// A new lane with the requirement of another, for tasks that call an upstream.
    pub(crate) fn add_for(&mut self, like: LaneId, upstream: UpstreamKey) -> LaneId {
        self.add_like(like, Some(upstream), false)
    }

    /// A new lane like another, for those of its tasks that were lost with their worker before.
    pub(crate) fn add_for_suspects(&mut self, like: LaneId) -> LaneId {
        let lane = self.add_like(like, self.get(like).upstream, true);
        self.get_mut(like).for_suspects = Some(lane);
        lane
    }

    fn add_like(
        &mut self,
        like: LaneId,
        upstream: Option<UpstreamKey>,
        is_for_suspects: bool,
    ) -> LaneId {
        let like = self.get(like);
        let lane = Lane {
            requirement: like.requirement.clone(),
            upstream,
            is_for_suspects,
            for_suspects: None,
            workers: like.workers.clone(),
            queue: ReadyQueue::default(),
            waiting: 0,
            parked: 0,
            holds: 0,
            place: None,
            queue_number: like.queue_number,
        };
        LaneId(self.all.insert(lane) as u32)
    }

    /// Forgets a lane in which nothing waits.
    pub(crate) fn remove(&mut self, lane: LaneId) {
        let lane = self.all.remove(lane.0 as usize);
        assert!(
            lane.waiting + lane.parked == 0,
            "only empty lanes are removed"
        );
    }

    pub(crate) fn get(&self, lane: LaneId) -> &Lane {
        &self.all[lane.0 as usize]
    }

    pub(crate) fn get_mut(&mut self, lane: LaneId) -> &mut Lane {
        &mut self.all[lane.0 as usize]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LaneId, &Lane)> {
        self.all.iter().map(|(lane, it)| (LaneId(lane as u32), it))
    }

    /// The lanes in which tasks wait that nothing but workers holds back.
    pub(crate) fn ready(&self) -> &[LaneId] {
        &self.ready
    }

    pub(crate) fn worker_joined(&mut self, key: WorkerKey, worker: &Worker) {
        for (_, lane) in &mut self.all {
            if worker.offers(&lane.requirement) {
                lane.workers.push(key);
            }
        }
    }

    pub(crate) fn worker_removed(&mut self, key: WorkerKey) {
        for (_, lane) in &mut self.all {
            lane.workers.retain(|&other| other != key);
        }
    }

    /// A task entered a lane, or left it.
    pub(crate) fn count(&mut self, id: LaneId, entered: bool) {
        let lane = &mut self.all[id.0 as usize];
        let queue = &mut self.queues[lane.queue_number];
        if entered {
            lane.waiting += 1;
            queue.waiting += 1;
        } else {
            lane.waiting -= 1;
            queue.waiting -= 1;
        }
        // Only the first and the last task change whether the lane is ready.
        if lane.waiting == usize::from(entered) {
            self.place(id);
        }
    }

    /// Holds a lane back, or lets it go on as far as that reason goes.
    pub(crate) fn hold(&mut self, id: LaneId, hold: Hold, held: bool) {
        let lane = &mut self.all[id.0 as usize];
        if held {
            lane.holds |= hold as u8;
        } else {
            lane.holds &= !(hold as u8);
        }
        self.place(id);
    }

    /// Puts a lane among those that are ready, or takes it out, as it now stands.
    fn place(&mut self, id: LaneId) {
        let lane = &mut self.all[id.0 as usize];
        let is_ready = lane.waiting > 0 && lane.holds == 0;
        match lane.place {
            None if is_ready => {
                lane.place = Some(self.ready.len());
                self.ready.push(id);
            }
            Some(place) if !is_ready => {
                lane.place = None;
                self.ready.swap_remove(place);
                if let Some(&moved) = self.ready.get(place) {
                    self.all[moved.0 as usize].place = Some(place);
                }
            }
            _ => {}
        }
    }

    /// A task of a lane was parked outside its queue, or is not any more.
    pub(crate) fn count_parked(&mut self, id: LaneId, entered: bool) {
        let lane = &mut self.all[id.0 as usize];
        let queue = &mut self.queues[lane.queue_number];
        if entered {
            lane.parked += 1;
            queue.waiting += 1;
        } else {
            lane.parked -= 1;
            queue.waiting -= 1;
        }
    }

    /// An attempt at a task of a lane took that long.
    pub(crate) fn took(&mut self, id: LaneId, span: Duration) {
        let lane = &self.all[id.0 as usize];
        let times = &mut self.queues[lane.queue_number].times;
        times.note(lane.requirement.kind, span);
    }

    /// How long tasks of the queue of a lane take.
    pub(crate) fn times(&self, id: LaneId) -> &TaskTimes {
        &self.queues[self.get(id).queue_number].times
    }

    /// Tasks that wait in a queue, in all its lanes, those that are parked included.
    pub(crate) fn waiting_in(&self, queue: &str) -> usize {
        self.queue_numbers
            .get(queue)
            .map_or(0, |&number| self.queues[number].waiting)
    }

    /// Checks that the lanes agree with each other.
    ///
    /// # Panics
    /// When they do not.
    pub(crate) fn check_invariants(&self) {
        let mut ready = 0;
        for (id, lane) in self.iter() {
            let is_ready = lane.waiting > 0 && !lane.is_held();
            ready += usize::from(is_ready);
            let place = lane.place.map(|place| self.ready[place]);
            assert_eq!(place, is_ready.then_some(id), "a lane is out of place");
        }
        assert_eq!(self.ready.len(), ready, "a lane is ready that is not");
    }
}
