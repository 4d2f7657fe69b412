//! Placement: which of the workers that would take a task gets it.

use std::time::Duration;

use levelflow_common::{Placement, Priority, Timestamp};

use crate::engine::Engine;
use crate::event::{Intake, RunKey};
use crate::lane::Lane;
use crate::mix::mix;
use crate::record::TaskIndex;
use crate::worker::{Worker, WorkerKey};

/// How far one task brings a worker of weight 1. For weights up to 1000 what rounding takes is below a thousandth;
/// the distances of 2^44 tasks fit, five years at 100 000 a second.
const STRIDE: u64 = 1 << 20;

/// Heartbeats may be late by this much, however often they come.
const SLACK: Duration = Duration::from_secs(1);

/// Chooses workers.
///
/// `round-robin` and `weighted` are stride scheduling (Waldspurger and Weihl, "Stride Scheduling: Deterministic
/// Proportional-Share Resource Management", MIT 1995): whoever is given a task pays for it with a distance that
/// is the shorter the more it weighs, and the one that came least far is next. Whoever took nothing for a while
/// starts again where the others are, and does not get all that it missed.
#[derive(Debug)]
pub(crate) struct Placing {
    placement: Placement,
    seed: u64,
    /// Tasks that were given so far.
    given: u64,
    /// How far the one had come that was last given a task.
    distance: u64,
}

impl Placing {
    pub(crate) fn new(placement: Placement, seed: u64) -> Self {
        Self {
            placement,
            seed,
            given: 0,
            distance: 0,
        }
    }

    /// The worker with the lowest gets the next task.
    fn rank(&self, key: WorkerKey, worker: &Worker) -> u64 {
        match self.placement {
            Placement::LeastBusy => worker.load(),
            Placement::RoundRobin | Placement::Weighted => worker.distance,
            // The same until a task is given, so that who is looked at twice is found twice.
            Placement::Random => mix(self.seed, [self.given, key.0.into()]),
        }
    }

    /// A worker was given a task.
    pub(crate) fn given(&mut self, worker: &mut Worker) {
        self.given += 1;
        let stride = match self.placement {
            Placement::Weighted => (STRIDE / u64::from(worker.hello.weight.max(1))).max(1),
            _ => STRIDE,
        };
        self.distance = self.distance.max(worker.distance);
        worker.distance = self.distance + stride;
    }
}

impl Engine {
    /// The worker for the next task of a lane, and the least priority that it takes. One that is short of
    /// memory comes after all others.
    pub(crate) fn place(&self, now: Timestamp, lane: &Lane) -> Option<(WorkerKey, Priority)> {
        lane.workers
            .iter()
            .map(|&key| (key, self.workers.get(key)))
            .filter(|(_, worker)| self.is_open(now, lane, worker))
            .map(|(key, worker)| (key, worker.least(), self.placing.rank(key, worker)))
            .min_by_key(|&(_, least, rank)| (std::cmp::Reverse(least), rank))
            .map(|(key, least, _)| (key, least))
    }

    /// Whether a worker takes a task of a lane now.
    fn is_open(&self, now: Timestamp, lane: &Lane, worker: &Worker) -> bool {
        worker.takes_work()
            && !(lane.is_for_suspects && worker.suspects > 0)
            && !worker.is_silent(now, self.silence())
    }

    /// How long a worker may say nothing before it is given nothing: it has missed a heartbeat then.
    pub(crate) fn silence(&self) -> Duration {
        let interval = self.config.heartbeat_interval;
        interval + (interval / 2).max(SLACK)
    }

    /// The worker that has what a task with `sticky` wants, if it takes the task now.
    pub(crate) fn stuck_to(
        &self,
        now: Timestamp,
        lane: &Lane,
        run: RunKey,
        task: TaskIndex,
    ) -> Option<WorkerKey> {
        let run = self.run(run);
        let (key, instance) = run.sticks_to?;
        if !run.state.is_sticky(task) || !lane.workers.contains(&key) {
            return None;
        }
        let worker = self.workers.get(key);
        let takes = worker.hello.instance == instance
            && self.is_open(now, lane, worker)
            && run.state.priority_of(task) <= worker.least();
        takes.then_some(key)
    }
}

impl Worker {
    /// The least priority that it takes.
    fn least(&self) -> Priority {
        match self.intake {
            Intake::All => Priority::Low,
            Intake::NoLow | Intake::Nothing => Priority::Normal,
        }
    }

    /// Whether it has a session and yet says nothing.
    pub(crate) fn is_silent(&self, now: Timestamp, silence: Duration) -> bool {
        self.session.is_some() && now.since(self.heard_at) > silence
    }
}
