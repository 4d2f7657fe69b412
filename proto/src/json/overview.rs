//! A coordinator and all that it has under way.

use levelflow_common::overview::{self, AlertView, EndedTasks, QueueView, WorkerView};
use levelflow_common::view::BreakerView;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Alert, Breaker, Worker, timestamp};

/// A coordinator, its queues, workers, breakers and last alerts.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Overview<'a> {
    /// Drawn when its process started.
    #[schemars(extend("format" = "uuid"))]
    coordinator_id: &'a str,
    /// Of its software.
    version: &'a str,
    /// When this was so.
    #[schemars(extend("format" = "date-time"))]
    at: String,
    /// When its process started.
    #[schemars(extend("format" = "date-time"))]
    started_at: String,
    /// Runs that have not ended.
    open_runs: u64,
    /// Attempts that workers hold.
    attempts: u64,
    /// Tasks that ended since it started, or since it last read its store again.
    ended_tasks: EndedTasks,
    /// The queues in which tasks wait, by their names.
    queues: &'a [QueueView],
    /// The workers by their ids.
    workers: Vec<Worker<'a>>,
    /// The breakers by the names of their upstreams.
    breakers: Vec<Breaker<'a>>,
    /// The last alerts, the oldest first.
    alerts: Vec<Alert<'a>>,
}

impl<'a> Overview<'a> {
    /// Puts the parts together.
    pub fn new(
        view: &'a overview::Overview,
        workers: &'a [WorkerView],
        breakers: &'a [BreakerView],
        alerts: &'a [AlertView],
    ) -> Self {
        Self {
            coordinator_id: &view.coordinator_id,
            version: &view.version,
            at: timestamp(view.at),
            started_at: timestamp(view.started_at),
            open_runs: view.open_runs,
            attempts: view.attempts,
            ended_tasks: view.ended,
            queues: &view.queues,
            workers: workers.iter().map(Into::into).collect(),
            breakers: breakers.iter().map(Into::into).collect(),
            alerts: alerts.iter().map(Into::into).collect(),
        }
    }
}
