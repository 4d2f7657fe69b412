//! What the actor tells of the coordinator as a whole.

use levelflow_common::Timestamp;
use levelflow_common::limits::MAX_QUEUES_LISTED;
use levelflow_common::overview::{Overview, WorkerStatus, WorkerView};
use levelflow_common::view::BreakerStatus;

use super::Actor;
use super::measures::{Measures, WorkerMeasures};

impl Actor {
    pub(super) fn workers(&self, now: Timestamp) -> Vec<WorkerView> {
        let mut workers = self.engine.workers(now);
        for (session, worker) in &mut workers {
            worker.session = session.and_then(|session| self.sessions.view(session));
        }
        workers.into_iter().map(|(_, worker)| worker).collect()
    }

    pub(super) fn overview(&self, now: Timestamp) -> Overview {
        let load = self.engine.load();
        Overview {
            coordinator_id: self.coordinator_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: now,
            started_at: self.clock.started_at(),
            open_runs: load.open_runs as u64,
            attempts: load.leases as u64,
            ended: self.engine.ended_tasks(),
            queues: self.engine.queues(MAX_QUEUES_LISTED),
        }
    }

    /// Tells what waits for workers, now that all was given to them that they take.
    pub(super) fn tell_demand(&mut self, now: Timestamp) {
        if self.asking_demand.is_empty() {
            return;
        }
        let demand = self.engine.demand(now);
        for reply in self.asking_demand.drain(..) {
            let _ = reply.send(demand.clone());
        }
    }

    pub(super) fn measures(&self, now: Timestamp) -> Measures {
        let breakers = self.engine.breakers();
        let breakers_that_are = |status| {
            let breakers = breakers.iter();
            breakers.filter(|breaker| breaker.status == status).count()
        };
        let workers = self.engine.workers(now);
        let workers_that_are = |status| {
            let mut measures = WorkerMeasures::default();
            for (_, worker) in workers.iter().filter(|(_, worker)| worker.status == status) {
                measures.workers += 1;
                measures.slots += worker.slots as usize;
                measures.credits += worker.credits as usize;
            }
            measures
        };
        Measures {
            counters: self.engine.counters().clone(),
            load: self.engine.load(),
            queues: self.engine.queues(MAX_QUEUES_LISTED),
            workers: WorkerStatus::ALL
                .map(|status| (status, workers_that_are(status)))
                .into(),
            inbox: self.inbox.len(),
            commits: self.commits.clone(),
            watchers: self.watchers.count(),
            breakers: BreakerStatus::ALL
                .map(|status| (status, breakers_that_are(status)))
                .into(),
            alerts: self.alerts.counts(),
        }
    }
}
