//! `levelflow.v1.AutoscaleService`.

use std::sync::Arc;
use std::time::Duration;

use levelflow_common::limits::MAX_NAME_BYTES;
use levelflow_common::{Code, Timestamp};
use levelflow_engine::autoscale::{Decision, Demand, Reason, WorkerLoad, Workload};
use levelflow_proto::v1::autoscale_service_server::AutoscaleService;
use levelflow_proto::{ApiError, FieldViolation, v1};
use tonic::{Request, Response, Status};

use super::{Backend, stopping};
use crate::actor::Message;
use crate::autoscale::Decisions;

/// The service that says how many workers there should be.
#[derive(Clone)]
pub(crate) struct Autoscales(pub(crate) Backend);

#[tonic::async_trait]
impl AutoscaleService for Autoscales {
    async fn get_autoscale(
        &self,
        request: Request<v1::GetAutoscaleRequest>,
    ) -> Result<Response<v1::GetAutoscaleResponse>, Status> {
        let queue = request.into_inner().queue;
        Ok(Response::new(self.0.autoscale(&queue).await?))
    }

    async fn get_demand(
        &self,
        _: Request<v1::GetDemandRequest>,
    ) -> Result<Response<v1::GetDemandResponse>, Status> {
        let demand = self.0.ask(|reply| Message::Demand { reply }).await?;
        Ok(Response::new(demand_message(demand)))
    }
}

impl Backend {
    /// What is decided about the workers of a queue; of all if it has no name.
    ///
    /// # Errors
    /// When nothing is decided here, or the queue cannot be watched.
    pub(crate) async fn decisions(&self, queue: &str) -> Result<Decisions, ApiError> {
        let autoscaling = self.autoscaling.as_ref().ok_or_else(|| {
            ApiError::new(
                Code::AutoscaleOff,
                "this coordinator decides nothing about the number of workers; its configuration has no \
                 `coordinator.autoscale`",
            )
        })?;
        if queue.is_empty() {
            return Ok(autoscaling.all());
        }
        if queue.len() > MAX_NAME_BYTES {
            let problem = format!(
                "is {} bytes long; the most is {MAX_NAME_BYTES}",
                queue.len()
            );
            let mut error = ApiError::new(Code::RequestInvalid, format!("`queue` {problem}"));
            error.violations = vec![FieldViolation::new("queue", problem)];
            return Err(error);
        }
        autoscaling.of(queue.into()).await
    }

    /// How many workers there should be for a queue, and why; for all if it has no name.
    pub(crate) async fn autoscale(
        &self,
        queue: &str,
    ) -> Result<v1::GetAutoscaleResponse, ApiError> {
        let decision = decided(&mut self.decisions(queue).await?).await?;
        Ok(decision_message(&decision))
    }
}

/// The last decision; the first if there is none yet.
pub(crate) async fn decided(decisions: &mut Decisions) -> Result<Arc<Decision>, ApiError> {
    let decision = decisions.wait_for(Option::is_some).await;
    decision
        .ok()
        .and_then(|decision| decision.clone())
        .ok_or_else(stopping)
}

fn decision_message(decision: &Decision) -> v1::GetAutoscaleResponse {
    let reason = |it: &Reason| v1::AutoscaleReason {
        rule: it.rule.as_str().to_owned(),
        wants: it.wants,
        text: it.text.clone(),
    };
    v1::GetAutoscaleResponse {
        queue: decision.queue.as_deref().unwrap_or_default().to_owned(),
        at_us: decision.at.as_micros(),
        wanted: decision.wanted,
        current: decision.current,
        is_active: decision.is_active,
        decided_by: decision.decided_by.as_str().to_owned(),
        reasons: decision.reasons.iter().map(reason).collect(),
        next_change_at_us: decision.next_change_at.map_or(0, Timestamp::as_micros),
        workload: Some(workload_message(&decision.workload)),
        workers: decision.workers.iter().map(worker_message).collect(),
        unheard: decision.unheard.clone(),
    }
}

fn workload_message(load: &Workload) -> v1::Workload {
    v1::Workload {
        waiting: load.waiting,
        unserved: load.unserved,
        oldest_wait_us: micros(load.oldest_wait),
        task_time_us: micros(load.task_time),
        slots: load.slots,
        busy: load.busy,
        busy_lately: load.busy_lately,
    }
}

fn worker_message(load: &WorkerLoad) -> v1::WorkerLoad {
    v1::WorkerLoad {
        worker: load.worker.0.as_ref().to_owned(),
        slots: load.slots,
        leases: load.leases,
        is_draining: load.is_draining,
        queues: load.queues.iter().cloned().collect(),
    }
}

fn demand_message(demand: Demand) -> v1::GetDemandResponse {
    let queues = demand.queues.into_iter().map(|queue| v1::QueueDemand {
        name: queue.name.as_ref().to_owned(),
        waiting: queue.waiting,
        unserved: queue.unserved,
        oldest_wait_us: micros(queue.oldest_wait),
        task_time_us: micros(queue.task_time),
    });
    v1::GetDemandResponse {
        queues: queues.collect(),
        workers: demand.workers.iter().map(worker_message).collect(),
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
