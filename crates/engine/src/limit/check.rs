//! What must hold of limits between any two events, for tests and the simulation.

use std::collections::BTreeMap;

use crate::engine::Engine;
use crate::event::RunKey;
use crate::limit::{Name, Stage};
use crate::live::LiveTask;
use crate::record::TaskIndex;
use crate::timer::Timer;

impl Engine {
    /// Checks that limits agree with leases and queues.
    ///
    /// # Panics
    /// When they do not.
    pub(crate) fn check_limits(&self) {
        self.check_claims();
        self.check_concurrency();
        self.check_slots();
        self.check_buckets();
    }

    fn check_claims(&self) {
        for (&(key, task), claim) in &self.limits.claims {
            let live = &self.run(key).tasks[task.0 as usize];
            let fits = match claim.stage {
                Stage::Queued => matches!(live, LiveTask::Queued { .. }),
                Stage::Started => matches!(live, LiveTask::Leased(_)),
                _ => matches!(live, LiveTask::Parked { .. }),
            };
            if let LiveTask::Queued { lane, .. } | LiveTask::Parked { lane, .. } = live {
                assert_eq!(*lane, claim.lane, "a claim is for another lane");
            }
            assert!(
                fits,
                "a claim is {:?} of a task that is {live:?}",
                claim.stage
            );
            let ticket = claim.turn.1;
            let judged = |it: &crate::limit::Verdict| (it.task, it.ticket) == ((key, task), ticket);
            assert!(
                claim.stage != Stage::Rejected || self.limits.verdicts.iter().any(judged),
                "a rejected task waits for nothing"
            );
        }
        for (key, run) in &self.runs {
            for (task, live) in (0..).map(TaskIndex).zip(&run.tasks) {
                let under_way = matches!(
                    live,
                    LiveTask::Queued { .. } | LiveTask::Parked { .. } | LiveTask::Leased(_)
                );
                let spec = &run.state.definition.tasks[run.state.defined(task).0 as usize];
                let claim = self.limits.claims.get(&(RunKey(key as u32), task));
                assert_eq!(
                    claim.is_some(),
                    under_way && spec.limits.is_some(),
                    "what has limits has a claim exactly while it is queued or running"
                );
            }
        }
    }

    /// From the leases alone: no more attempts run than each of them allows.
    fn check_concurrency(&self) {
        let mut running: BTreeMap<Name, Vec<u32>> = BTreeMap::new();
        for (_, lease) in self.leases.iter() {
            let state = &self.run(lease.run).state;
            let spec = &state.definition.tasks[state.defined(lease.task).0 as usize];
            let Some(limits) = &spec.limits else { continue };
            let constant = limits.constant_keys().and_then(|it| it.concurrency.clone());
            if let (Some(key), Some(concurrency)) = (constant, &limits.concurrency) {
                let name = (state.submitted.tenant.clone(), key);
                running.entry(name).or_default().push(concurrency.limit);
            }
        }
        for (name, mut limits) in running {
            limits.sort_unstable();
            for (others, limit) in limits.into_iter().enumerate() {
                assert!(
                    others < limit as usize,
                    "too many attempts run with {name:?}"
                );
            }
        }
    }

    fn check_slots(&self) {
        for (name, slots) in &self.limits.slots {
            let of_key = || {
                let claims = self.limits.claims.iter();
                claims.filter(|(_, it)| it.concurrency.as_ref().is_some_and(|it| it.0 == *name))
            };
            let at = |stage| of_key().filter(move |(_, it)| it.stage == stage);
            assert!(
                !slots.is_unused() && of_key().next().is_some(),
                "{name:?} is known and nobody uses it"
            );
            let mut queued = BTreeMap::new();
            for (_, claim) in at(Stage::Queued) {
                *queued.entry(claim.lane).or_insert(0) += 1;
            }
            for (lane, _) in self.lanes.iter() {
                let count = queued.get(&lane).copied().unwrap_or(0);
                assert_eq!(slots.queued_in(lane), count, "miscounted {name:?}");
            }
            let holders: Vec<_> = at(Stage::Started).map(|(&task, _)| task).collect();
            assert!(
                slots.holders().len() == holders.len()
                    && slots.holders().all(|task| holders.contains(&task)),
                "a slot of {name:?} is held by no lease, or the other way round"
            );
            let waiting = at(Stage::WaitsForSlot).count();
            assert_eq!(slots.waiting.len(), waiting, "miscounted {name:?}");
            for (limit, lane) in slots.waiting.limits() {
                assert!(
                    slots.holders().len() + slots.queued_in(lane) >= limit as usize,
                    "a task waits for a slot of {name:?} and one is free"
                );
            }
        }
        for claim in self.limits.claims.values() {
            if let Some((name, _)) = &claim.concurrency {
                assert!(self.limits.slots.contains_key(name), "{name:?} is unknown");
            }
        }
    }

    fn check_buckets(&self) {
        assert_eq!(self.limits.buckets.len(), self.limits.bucket_keys.len());
        for (name, &key) in &self.limits.bucket_keys {
            let bucket = &self.limits.buckets[key.0 as usize];
            let claims = self.limits.claims.iter();
            let of_key = claims.filter(|(_, it)| it.rate.is_some_and(|it| it.0 == key));
            let (mut tasks, mut waiting) = (0, Vec::new());
            for (&task, claim) in of_key {
                tasks += 1;
                if claim.stage == Stage::WaitsForToken {
                    waiting.push(task);
                }
            }
            assert_eq!(bucket.tasks, tasks, "the tasks of {name:?} are miscounted");
            let mut known: Vec<_> = bucket.waiting.iter().map(|(_, task)| task).collect();
            known.sort_unstable();
            assert_eq!(
                known, waiting,
                "the wrong tasks wait for tokens of {name:?}"
            );
            assert!(
                bucket.armed.is_some() || bucket.tasks > 0 && waiting.is_empty(),
                "nothing wakes what waits for {name:?}, or forgets it"
            );
            if let Some(at) = bucket.armed {
                assert!(
                    self.timers.contains(at, Timer::Refill(key)),
                    "{name:?} has no timer"
                );
            }
        }
    }
}
