//! Runs and tasks as clients see them.

use std::sync::Arc;
use std::time::Duration;

use levelflow_common::view::{RunSummary, RunView, TaskCounts, TaskView};
use levelflow_common::{
    CacheTier, CachedFrom, RunId, RunStatus, Similar, Similarity, TaskKind, TaskStatus, Timestamp,
    WorkerId, WorkflowDigest,
};

use crate::enumeration::Enumeration as _;
use crate::invalid::{FieldProblem, InvalidField};
use crate::v1;

impl From<RunSummary> for v1::RunSummary {
    fn from(summary: RunSummary) -> Self {
        Self {
            run_id: summary.run_id.to_string(),
            workflow: summary.workflow.as_ref().to_owned(),
            workflow_digest: digest_bytes(&summary.digest),
            tenant: summary.tenant.as_ref().to_owned(),
            status: summary.status.number(),
            priority: summary.priority.number(),
            labels: summary.labels,
            submitted_at_us: summary.submitted_at.as_micros(),
            finished_at_us: micros(summary.finished_at),
            counts: Some(summary.counts.into()),
            failure: summary.failure.map(Into::into),
            resumed_from: run_id_text(summary.resumed_from),
        }
    }
}

impl TryFrom<v1::RunSummary> for RunSummary {
    type Error = InvalidField;

    fn try_from(message: v1::RunSummary) -> Result<Self, InvalidField> {
        Ok(Self {
            run_id: parse_run_id("run_id", &message.run_id)?,
            workflow: message.workflow.into(),
            digest: parse_digest("workflow_digest", &message.workflow_digest)?,
            tenant: message.tenant.into(),
            status: RunStatus::required("status", message.status)?,
            priority: levelflow_common::Priority::optional("priority", message.priority)?
                .unwrap_or_default(),
            labels: message.labels,
            submitted_at: Timestamp::from_micros(message.submitted_at_us),
            finished_at: timestamp(message.finished_at_us),
            counts: message.counts.unwrap_or_default().into(),
            failure: message.failure.map(Into::into),
            resumed_from: parse_optional_run_id("resumed_from", &message.resumed_from)?,
        })
    }
}

impl From<TaskCounts> for v1::TaskCounts {
    fn from(counts: TaskCounts) -> Self {
        Self {
            total: counts.total,
            succeeded: counts.succeeded,
            failed: counts.failed,
            skipped: counts.skipped,
            cancelled: counts.cancelled,
        }
    }
}

impl From<v1::TaskCounts> for TaskCounts {
    fn from(message: v1::TaskCounts) -> Self {
        Self {
            total: message.total,
            succeeded: message.succeeded,
            failed: message.failed,
            skipped: message.skipped,
            cancelled: message.cancelled,
        }
    }
}

impl From<RunView> for v1::Run {
    fn from(run: RunView) -> Self {
        Self {
            summary: Some(run.summary.into()),
            sequence: run.sequence,
            inputs: run.inputs,
            outputs: run.outputs,
            tasks: run.tasks.into_iter().map(Into::into).collect(),
            critical_path: run
                .critical_path
                .iter()
                .map(|id| id.as_ref().to_owned())
                .collect(),
        }
    }
}

impl TryFrom<v1::Run> for RunView {
    type Error = InvalidField;

    fn try_from(message: v1::Run) -> Result<Self, InvalidField> {
        Ok(Self {
            summary: message
                .summary
                .ok_or_else(|| InvalidField::missing("summary"))?
                .try_into()
                .map_err(|error: InvalidField| error.under("summary"))?,
            sequence: message.sequence,
            inputs: message.inputs,
            outputs: message.outputs,
            tasks: message
                .tasks
                .into_iter()
                .enumerate()
                .map(|(index, task)| {
                    TaskView::try_from(task)
                        .map_err(|error| error.under(&format!("tasks[{index}]")))
                })
                .collect::<Result<_, _>>()?,
            critical_path: message.critical_path.into_iter().map(Arc::from).collect(),
        })
    }
}

impl From<CachedFrom> for v1::CachedFrom {
    fn from(from: CachedFrom) -> Self {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Self {
            tier: from.tier.number(),
            age_us: micros(from.age),
            saved_us: micros(from.saved),
        }
    }
}

impl TryFrom<v1::CachedFrom> for CachedFrom {
    type Error = InvalidField;

    fn try_from(message: v1::CachedFrom) -> Result<Self, InvalidField> {
        Ok(Self {
            tier: CacheTier::required("cached.tier", message.tier)?,
            age: Duration::from_micros(message.age_us),
            saved: Duration::from_micros(message.saved_us),
        })
    }
}

impl From<Similar> for v1::Similar {
    fn from(similar: Similar) -> Self {
        Self {
            similarity: similar.similarity.cosine(),
            run_id: similar.run_id.to_string(),
            task_id: similar.task_id.as_ref().to_owned(),
        }
    }
}

impl TryFrom<v1::Similar> for Similar {
    type Error = InvalidField;

    fn try_from(message: v1::Similar) -> Result<Self, InvalidField> {
        Ok(Self {
            similarity: Similarity::new(message.similarity),
            run_id: parse_run_id("similar_to.run_id", &message.run_id)?,
            task_id: message.task_id.into(),
        })
    }
}

impl From<TaskView> for v1::Task {
    fn from(task: TaskView) -> Self {
        Self {
            task_id: task.task_id.as_ref().to_owned(),
            item: task.item,
            kind: task.kind.number(),
            status: task.status.number(),
            level: task.level,
            attempts: task.attempts,
            queued_at_us: micros(task.queued_at),
            started_at_us: micros(task.started_at),
            finished_at_us: micros(task.finished_at),
            wakes_at_us: micros(task.wakes_at),
            worker: task
                .worker
                .map_or_else(String::new, |worker| worker.0.as_ref().to_owned()),
            output: task.output,
            failure: task.failure.map(Into::into),
            reused_from: run_id_text(task.reused_from),
            chunks: task.chunks,
            cached: task.cached.map(Into::into),
            similar_to: task.similar_to.map(Into::into),
        }
    }
}

impl TryFrom<v1::Task> for TaskView {
    type Error = InvalidField;

    fn try_from(message: v1::Task) -> Result<Self, InvalidField> {
        Ok(Self {
            task_id: message.task_id.into(),
            item: message.item,
            kind: TaskKind::required("kind", message.kind)?,
            status: TaskStatus::required("status", message.status)?,
            level: message.level,
            attempts: message.attempts,
            queued_at: timestamp(message.queued_at_us),
            started_at: timestamp(message.started_at_us),
            finished_at: timestamp(message.finished_at_us),
            wakes_at: timestamp(message.wakes_at_us),
            worker: (!message.worker.is_empty()).then(|| WorkerId(message.worker.into())),
            output: message.output,
            failure: message.failure.map(Into::into),
            reused_from: parse_optional_run_id("reused_from", &message.reused_from)?,
            chunks: message.chunks,
            cached: message.cached.map(TryInto::try_into).transpose()?,
            similar_to: message.similar_to.map(TryInto::try_into).transpose()?,
        })
    }
}

fn digest_bytes(digest: &WorkflowDigest) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(digest.as_bytes())
}

fn parse_digest(field: &str, bytes: &[u8]) -> Result<WorkflowDigest, InvalidField> {
    WorkflowDigest::from_slice(bytes)
        .ok_or_else(|| InvalidField::new(field, FieldProblem::NotDigest(bytes.len())))
}

pub(crate) fn run_id_text(id: Option<RunId>) -> String {
    id.map_or_else(String::new, |id| id.to_string())
}

fn parse_run_id(field: &str, text: &str) -> Result<RunId, InvalidField> {
    text.parse()
        .map_err(|error: levelflow_common::id::InvalidRunId| InvalidField::new(field, error))
}

pub(crate) fn parse_optional_run_id(
    field: &str,
    text: &str,
) -> Result<Option<RunId>, InvalidField> {
    if text.is_empty() {
        Ok(None)
    } else {
        parse_run_id(field, text).map(Some)
    }
}

fn micros(time: Option<Timestamp>) -> u64 {
    time.map_or(0, Timestamp::as_micros)
}

fn timestamp(micros: u64) -> Option<Timestamp> {
    (micros > 0).then(|| Timestamp::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use levelflow_common::{Code, Failure, Priority};

    use super::*;

    fn run_id(text: &str) -> RunId {
        text.parse().unwrap()
    }

    fn summary(status: RunStatus) -> RunSummary {
        RunSummary {
            run_id: run_id("01890a5d-ac96-774b-bcce-b302099a8057"),
            workflow: "digest".into(),
            digest: WorkflowDigest::of(b"{}"),
            tenant: "acme".into(),
            status,
            priority: Priority::High,
            labels: [("env".to_owned(), "test".to_owned())].into(),
            submitted_at: Timestamp::from_micros(1_000),
            finished_at: status.is_terminal().then(|| Timestamp::from_micros(2_000)),
            counts: TaskCounts {
                total: 9,
                succeeded: 3,
                failed: 2,
                skipped: 1,
                cancelled: 3,
            },
            failure: (status == RunStatus::Failed)
                .then(|| Failure::permanent(Code::UpstreamFailed, "fetch failed")),
            resumed_from: Some(run_id("01890a5d-ac96-774b-bcce-b302099a8058")),
        }
    }

    fn task(status: TaskStatus, kind: TaskKind) -> TaskView {
        let ended = status.is_terminal().then(|| Timestamp::from_micros(7));
        TaskView {
            task_id: "fetch".into(),
            item: Some(0),
            kind,
            status,
            level: 2,
            attempts: 3,
            queued_at: Some(Timestamp::from_micros(5)),
            started_at: Some(Timestamp::from_micros(6)),
            finished_at: ended,
            wakes_at: (status == TaskStatus::Backoff).then(|| Timestamp::from_micros(8)),
            worker: Some(WorkerId("w1".into())),
            output: (status == TaskStatus::Succeeded).then(|| Bytes::from_static(b"{}")),
            failure: (status == TaskStatus::Failed)
                .then(|| Failure::retryable(Code::HttpStatus, "503")),
            reused_from: Some(run_id("01890a5d-ac96-774b-bcce-b302099a8059")),
            chunks: 17,
            cached: None,
            similar_to: None,
        }
    }

    #[test]
    fn runs_read_back() {
        for status in RunStatus::ALL {
            let tasks = TaskStatus::ALL
                .into_iter()
                .flat_map(|status| TaskKind::ALL.map(|kind| task(status, kind)))
                .collect();
            let run = RunView {
                summary: summary(status),
                sequence: 12,
                inputs: Bytes::from_static(b"{\"a\":1}"),
                outputs: status.is_terminal().then(|| Bytes::from_static(b"{}")),
                tasks,
                critical_path: vec!["fetch".into(), "report".into()],
            };
            assert_eq!(v1::Run::from(run.clone()).try_into(), Ok(run));
        }
    }

    #[test]
    fn what_is_not_there_yet_reads_back() {
        let run = RunView {
            summary: RunSummary {
                resumed_from: None,
                labels: [].into(),
                ..summary(RunStatus::Running)
            },
            sequence: 1,
            inputs: Bytes::from_static(b"{}"),
            outputs: None,
            tasks: vec![TaskView {
                item: None,
                queued_at: None,
                started_at: None,
                worker: None,
                cached: None,
                reused_from: None,
                ..task(TaskStatus::Pending, TaskKind::Handler)
            }],
            critical_path: Vec::new(),
        };
        assert_eq!(v1::Run::from(run.clone()).try_into(), Ok(run));
    }

    #[test]
    fn errors_name_the_path_of_the_field() {
        let mut message = v1::Run::from(RunView {
            summary: summary(RunStatus::Running),
            sequence: 1,
            inputs: Bytes::new(),
            outputs: None,
            tasks: vec![task(TaskStatus::Ready, TaskKind::Http)],
            critical_path: Vec::new(),
        });
        message.tasks[0].status = 77;
        assert_eq!(
            RunView::try_from(message.clone()).unwrap_err().to_string(),
            "tasks[0].status: 77 is not a value of this enumeration"
        );
        message.summary.as_mut().unwrap().workflow_digest = Bytes::from_static(b"short");
        assert_eq!(
            RunView::try_from(message.clone()).unwrap_err().to_string(),
            "summary.workflow_digest: is not a digest: 5 bytes, not 32"
        );
        message.summary.as_mut().unwrap().run_id = "seven".to_owned();
        assert_eq!(
            RunView::try_from(message.clone()).unwrap_err().to_string(),
            "summary.run_id: `seven` is not a run id; \
             a run id looks like 01890a5d-ac96-774b-bcce-b302099a8057"
        );
        message.summary = None;
        assert_eq!(
            RunView::try_from(message).unwrap_err().to_string(),
            "summary: is missing"
        );
    }
}
