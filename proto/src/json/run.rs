//! Runs and their tasks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use levelflow_common::view::{RunSummary, RunView, TaskCounts, TaskView};
use levelflow_common::{Failure, Priority, RunStatus, TaskKind, TaskStatus, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;

use super::{JsonText, timestamp};

/// A run with its tasks.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Run<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    /// Its inputs, with defaults filled in.
    inputs: Option<JsonText<'a>>,
    /// Its outputs, when it succeeded.
    outputs: Option<JsonText<'a>>,
    /// Ids of the tasks on the chain that took longest; while it runs, on the one that is expected to.
    #[schemars(with = "Vec<String>")]
    critical_path: &'a [Arc<str>],
    /// The tasks in the order of the definition, then the items of each `for_each`.
    tasks: Vec<Task<'a>>,
}

/// What a list shows of a run.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "RunSummary")]
pub struct Summary<'a> {
    /// Its id.
    #[schemars(extend("format" = "uuid"))]
    run_id: String,
    /// The name of its workflow.
    workflow: &'a str,
    /// The digest of the definition that it runs.
    workflow_digest: String,
    /// How it stands.
    status: RunStatus,
    /// How urgent it is.
    priority: Priority,
    /// Its labels.
    labels: &'a BTreeMap<String, String>,
    /// When its submit was accepted.
    #[schemars(extend("format" = "date-time"))]
    submitted_at: String,
    /// When it ended.
    #[schemars(extend("format" = "date-time"))]
    finished_at: Option<String>,
    /// How long it took.
    duration_ms: Option<f64>,
    /// Its tasks by how they stand.
    counts: TaskCounts,
    /// Why it failed.
    failure: Option<&'a Failure>,
    /// The run from whose results it was resumed.
    #[schemars(extend("format" = "uuid"))]
    resumed_from: Option<String>,
}

/// A task of a run.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "RunTask")]
pub struct Task<'a> {
    /// Its id in the workflow.
    id: &'a str,
    /// Its place in the list of a `for_each`.
    item: Option<u32>,
    /// What runs it.
    #[serde(rename = "type")]
    kind: TaskKind,
    /// How it stands.
    state: TaskStatus,
    /// Its level, from 0.
    level: u32,
    /// Attempts so far; the last may be running.
    attempts: u32,
    /// When its needs were met.
    #[schemars(extend("format" = "date-time"))]
    queued_at: Option<String>,
    /// When its last attempt started.
    #[schemars(extend("format" = "date-time"))]
    started_at: Option<String>,
    /// When it ended.
    #[schemars(extend("format" = "date-time"))]
    finished_at: Option<String>,
    /// How long its last attempt took.
    duration_ms: Option<f64>,
    /// Who ran its last attempt.
    worker: Option<&'a str>,
    /// Why its last attempt failed.
    failure: Option<&'a Failure>,
    /// The run that computed the output, where it was kept from an earlier one.
    #[schemars(extend("format" = "uuid"))]
    reused_from: Option<String>,
    /// Where the output was found, if no attempt gave it.
    cached: Option<CachedFrom>,
    /// The result of a nearly equal text: with `cached` the output itself, otherwise what the task was shown.
    similar_to: Option<SimilarTo>,
    /// Chunks that were recorded with the output.
    chunks: u32,
    /// Its output.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<JsonText<'a>>,
}

/// Where the result of a task came from that did not run.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CachedFrom {
    /// Where it was found: `memory`, `redis`, `postgres` or, with a task that computed it at the same time,
    /// `flight`.
    tier: &'static str,
    /// How long ago it was computed.
    age_ms: f64,
    /// How long that had taken.
    saved_ms: f64,
}

impl CachedFrom {
    /// The form of where a result came from.
    pub fn new(from: levelflow_common::CachedFrom) -> Self {
        let millis = |span: Duration| span.as_micros() as f64 / 1e3;
        Self {
            tier: from.tier.as_str(),
            age_ms: millis(from.age),
            saved_ms: millis(from.saved),
        }
    }
}

/// The result of a task whose text means nearly the same.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SimilarTo {
    /// The cosine of the angle between the vectors of the texts: 1 for the same meaning.
    similarity: f64,
    /// The run that computed it.
    #[schemars(extend("format" = "uuid"))]
    run_id: String,
    /// The task that did.
    task_id: String,
}

impl SimilarTo {
    /// The form of a similar result.
    pub fn new(similar: &levelflow_common::Similar) -> Self {
        Self {
            similarity: similar.similarity.cosine(),
            run_id: similar.run_id.to_string(),
            task_id: similar.task_id.as_ref().to_owned(),
        }
    }
}

/// A page of a list of runs.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RunList<'a> {
    /// The runs, the newest first.
    runs: Vec<Summary<'a>>,
    /// What to ask the next page with; null on the last one.
    next_page_token: Option<&'a str>,
}

/// How tasks stand, and why.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Explanation<'a> {
    /// The tasks.
    pub tasks: Vec<TaskExplanation<'a>>,
}

/// How a task stands, and why.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TaskExplanation<'a> {
    /// The id of the task.
    pub task: &'a str,
    /// Its place in the list of a `for_each`.
    pub item: Option<u32>,
    /// How it stands.
    pub state: TaskStatus,
    /// Why, the most important reason first.
    pub reasons: Vec<Reason<'a>>,
}

/// A reason for which a task stands as it does.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Reason<'a> {
    /// A stable code, such as `backoff`.
    pub code: &'a str,
    /// A sentence for people.
    pub text: &'a str,
}

/// Whether the outputs of tasks are part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskOutputs {
    /// Yes.
    Included,
    /// No.
    LeftOut,
}

impl<'a> Run<'a> {
    /// The form of a run.
    pub fn new(run: &'a RunView, outputs: TaskOutputs) -> Self {
        Self {
            summary: (&run.summary).into(),
            inputs: JsonText::read(&run.inputs),
            outputs: run.outputs.as_deref().and_then(JsonText::read),
            critical_path: &run.critical_path,
            tasks: run
                .tasks
                .iter()
                .map(|task| Task::new(task, outputs))
                .collect(),
        }
    }
}

impl<'a> RunList<'a> {
    /// The form of a page, and the token of the next one.
    pub fn new(runs: &'a [RunSummary], next_page_token: Option<&'a str>) -> Self {
        Self {
            runs: runs.iter().map(Into::into).collect(),
            next_page_token,
        }
    }
}

impl<'a> From<&'a RunSummary> for Summary<'a> {
    fn from(summary: &'a RunSummary) -> Self {
        Self {
            run_id: summary.run_id.to_string(),
            workflow: &summary.workflow,
            workflow_digest: summary.digest.to_string(),
            status: summary.status,
            priority: summary.priority,
            labels: &summary.labels,
            submitted_at: timestamp(summary.submitted_at),
            finished_at: summary.finished_at.map(timestamp),
            duration_ms: millis(Some(summary.submitted_at), summary.finished_at),
            counts: summary.counts,
            failure: summary.failure.as_ref(),
            resumed_from: summary.resumed_from.map(|run| run.to_string()),
        }
    }
}

impl<'a> Task<'a> {
    /// The form of a task.
    pub fn new(task: &'a TaskView, outputs: TaskOutputs) -> Self {
        Self {
            id: &task.task_id,
            item: task.item,
            kind: task.kind,
            state: task.status,
            level: task.level,
            attempts: task.attempts,
            queued_at: task.queued_at.map(timestamp),
            started_at: task.started_at.map(timestamp),
            finished_at: task.finished_at.map(timestamp),
            duration_ms: millis(task.started_at, task.finished_at),
            worker: task.worker.as_ref().map(|worker| worker.0.as_ref()),
            failure: task.failure.as_ref(),
            reused_from: task.reused_from.map(|run| run.to_string()),
            cached: task.cached.map(CachedFrom::new),
            similar_to: task.similar_to.as_ref().map(SimilarTo::new),
            chunks: task.chunks,
            output: match outputs {
                TaskOutputs::Included => task.output.as_deref().and_then(JsonText::read),
                TaskOutputs::LeftOut => None,
            },
        }
    }
}

fn millis(start: Option<Timestamp>, end: Option<Timestamp>) -> Option<f64> {
    Some(end?.since(start?).as_micros() as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use levelflow_common::WorkflowDigest;
    use serde_json::{Value, json};

    use super::*;

    fn run() -> RunView {
        let at = |millis: u64| Timestamp::from_micros(1_700_000_000_000_000 + millis * 1000);
        RunView {
            summary: RunSummary {
                run_id: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
                workflow: "digest".into(),
                digest: WorkflowDigest::of(b"{}"),
                tenant: "default".into(),
                status: RunStatus::Succeeded,
                priority: Priority::Normal,
                labels: [].into(),
                submitted_at: at(0),
                finished_at: Some(at(1_500)),
                counts: TaskCounts {
                    total: 1,
                    succeeded: 1,
                    ..TaskCounts::default()
                },
                failure: None,
                resumed_from: None,
            },
            sequence: 3,
            inputs: Bytes::from_static(b"{}"),
            outputs: Some(Bytes::from_static(b"{\"file\":\"report.md\"}")),
            tasks: vec![TaskView {
                task_id: "report".into(),
                item: None,
                kind: TaskKind::Process,
                status: TaskStatus::Succeeded,
                level: 2,
                attempts: 2,
                queued_at: Some(at(1_405)),
                started_at: Some(at(1_406)),
                finished_at: Some(at(1_499)),
                wakes_at: None,
                worker: None,
                output: Some(Bytes::from_static(b"{\"lines\":3}")),
                failure: None,
                reused_from: None,
                cached: None,
                similar_to: None,
                chunks: 4,
            }],
            critical_path: vec!["report".into()],
        }
    }

    #[test]
    fn a_run_has_its_tasks_with_their_times() {
        let run = run();
        let value = serde_json::to_value(Run::new(&run, TaskOutputs::LeftOut)).unwrap();
        assert_eq!(value["run_id"], "01890a5d-ac96-774b-bcce-b302099a8057");
        assert_eq!(value["status"], "succeeded");
        assert_eq!(value["duration_ms"], 1500.0);
        assert_eq!(value["outputs"], json!({ "file": "report.md" }));
        assert_eq!(
            value["tasks"][0],
            json!({
                "id": "report",
                "item": null,
                "type": "process",
                "state": "succeeded",
                "level": 2,
                "attempts": 2,
                "queued_at": "2023-11-14T22:13:21.405Z",
                "started_at": "2023-11-14T22:13:21.406Z",
                "finished_at": "2023-11-14T22:13:21.499Z",
                "duration_ms": 93.0,
                "worker": null,
                "failure": null,
                "reused_from": null,
                "cached": null,
                "similar_to": null,
                "chunks": 4,
            })
        );
    }

    #[test]
    fn outputs_of_tasks_are_there_when_asked_for() {
        let run = run();
        let value: Value = serde_json::to_value(Run::new(&run, TaskOutputs::Included)).unwrap();
        assert_eq!(value["tasks"][0]["output"], json!({ "lines": 3 }));
    }
}
