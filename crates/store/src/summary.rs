//! The row of a run as the records make it.

use levelflow_common::view::{RunSummary, TaskCounts};
use levelflow_common::{RunStatus, Timestamp};
use levelflow_engine::{Progress, Submitted};

/// The row of a run that was just accepted.
pub(crate) fn of(submitted: &Submitted, at: Timestamp) -> RunSummary {
    RunSummary {
        run_id: submitted.run_id,
        workflow: submitted.workflow.clone(),
        digest: submitted.digest,
        tenant: submitted.tenant.clone(),
        status: RunStatus::Running,
        priority: submitted.priority,
        labels: submitted.labels.clone(),
        submitted_at: at,
        finished_at: None,
        counts: TaskCounts::default(),
        failure: None,
        resumed_from: submitted.resumed_from,
    }
}

/// Takes over how the run stands now.
pub(crate) fn advance(row: &mut RunSummary, progress: &Progress) {
    row.status = progress.status;
    row.finished_at = progress.finished_at;
    row.counts = progress.counts;
    row.failure.clone_from(&progress.failure);
}
