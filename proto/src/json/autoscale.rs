//! How many workers there should be, and why.

use levelflow_common::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::timestamp;
use crate::v1;

/// How many workers there should be, and why.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Autoscale<'a> {
    /// The queue that it is about; null for all.
    queue: Option<&'a str>,
    /// When it was decided.
    #[schemars(extend("format" = "date-time"))]
    at: String,
    /// Workers that there should be.
    wanted: u32,
    /// Workers that there are and that take tasks.
    current: u32,
    /// Whether anything waits or runs, or more workers are wanted than there always are.
    is_active: bool,
    /// The rule that the number comes from.
    decided_by: &'a str,
    /// Every rule with its numbers.
    reasons: Vec<AutoscaleReason<'a>>,
    /// When the number may change by itself, if the load does not; null if it will not.
    #[schemars(extend("format" = "date-time"))]
    next_change_at: Option<String>,
    /// What the rules looked at.
    workload: Workload,
    /// The workers, the least busy first.
    workers: Vec<WorkerLoad<'a>>,
    /// Coordinators that did not say what waits with them, so that it is not in the numbers.
    unheard: &'a [String],
}

/// What a rule says.
#[derive(Debug, Serialize, JsonSchema)]
struct AutoscaleReason<'a> {
    /// Such as `queue_depth`.
    rule: &'a str,
    /// The workers that it wants or, of a bound, lets be; null if it wants none in particular.
    wants: Option<u32>,
    /// Its numbers, for people.
    text: &'a str,
}

/// What the rules look at.
#[derive(Debug, Serialize, JsonSchema)]
struct Workload {
    /// Tasks that wait for a slot, with the coordinator or with a worker.
    waiting: u64,
    /// Tasks that none of the workers may take.
    unserved: u64,
    /// How long the oldest has waited.
    oldest_wait_seconds: f64,
    /// How long a task takes.
    task_seconds: f64,
    /// Slots of all workers that take tasks.
    slots: u64,
    /// Slots that are busy.
    busy: u64,
    /// The same as an average of the last seconds.
    busy_lately: f64,
}

/// What a worker has under way.
#[derive(Debug, Serialize, JsonSchema)]
struct WorkerLoad<'a> {
    /// Its id.
    worker_id: &'a str,
    /// Attempts that it runs at once.
    slots: u32,
    /// Attempts that it holds.
    attempts: u32,
    /// It takes nothing more.
    is_draining: bool,
    /// The queues that it subscribes to.
    queues: &'a [String],
}

impl<'a> From<&'a v1::GetAutoscaleResponse> for Autoscale<'a> {
    fn from(message: &'a v1::GetAutoscaleResponse) -> Self {
        let time = |micros| timestamp(Timestamp::from_micros(micros));
        let reasons = message.reasons.iter().map(|it| AutoscaleReason {
            rule: &it.rule,
            wants: it.wants,
            text: &it.text,
        });
        let workers = message.workers.iter().map(|it| WorkerLoad {
            worker_id: &it.worker,
            slots: it.slots,
            attempts: it.leases,
            is_draining: it.is_draining,
            queues: &it.queues,
        });
        let workload = message.workload.unwrap_or_default();
        Self {
            queue: (!message.queue.is_empty()).then_some(&message.queue),
            at: time(message.at_us),
            wanted: message.wanted,
            current: message.current,
            is_active: message.is_active,
            decided_by: &message.decided_by,
            reasons: reasons.collect(),
            next_change_at: (message.next_change_at_us > 0)
                .then(|| time(message.next_change_at_us)),
            workload: Workload {
                waiting: workload.waiting,
                unserved: workload.unserved,
                oldest_wait_seconds: workload.oldest_wait_us as f64 / 1e6,
                task_seconds: workload.task_time_us as f64 / 1e6,
                slots: workload.slots,
                busy: workload.busy,
                busy_lately: workload.busy_lately,
            },
            workers: workers.collect(),
            unheard: &message.unheard,
        }
    }
}
