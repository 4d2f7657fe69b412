//! The row of a run as the records make it.

use std::collections::BTreeMap;

use levelflow_common::view::{RunSummary, TaskCounts};
use levelflow_common::{Priority, RunStatus, Timestamp};
use levelflow_engine::{Progress, Submitted};

use crate::error::DecodeError;

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

/// A priority from its column.
pub(crate) fn read_priority(text: &str) -> Result<Priority, DecodeError> {
    Priority::ALL
        .into_iter()
        .find(|known| known.as_str() == text)
        .ok_or_else(|| unknown("priority", text))
}

/// A status from its column.
pub(crate) fn read_status(text: &str) -> Result<RunStatus, DecodeError> {
    RunStatus::parse(text).ok_or_else(|| unknown("status", text))
}

/// Labels from their column, a JSON object.
pub(crate) fn read_labels(text: &str) -> Result<BTreeMap<String, String>, DecodeError> {
    serde_json::from_str(text).map_err(|_| unknown("labels", text))
}

fn unknown(field: &'static str, value: &str) -> DecodeError {
    DecodeError::Unknown {
        field,
        value: value.to_owned(),
    }
}
