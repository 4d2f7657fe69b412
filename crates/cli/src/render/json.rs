//! What programs get to read.

use std::collections::BTreeMap;

use levelflow_common::event::{RunEvent, RunUpdate, TaskRef};
use levelflow_common::view::{RunSummary, RunView, TaskCounts, TaskView};
use levelflow_common::{Failure, Timestamp};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::time::timestamp;

#[derive(Serialize)]
struct Run<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    inputs: Option<&'a RawValue>,
    outputs: Option<&'a RawValue>,
    critical_path: &'a [std::sync::Arc<str>],
    tasks: Vec<Task<'a>>,
}

#[derive(Serialize)]
struct Summary<'a> {
    run_id: String,
    workflow: &'a str,
    workflow_digest: String,
    status: &'static str,
    priority: &'static str,
    labels: &'a BTreeMap<String, String>,
    submitted_at: String,
    finished_at: Option<String>,
    duration_ms: Option<f64>,
    counts: TaskCounts,
    failure: Option<&'a Failure>,
    resumed_from: Option<String>,
}

#[derive(Serialize)]
struct Task<'a> {
    id: &'a str,
    item: Option<u32>,
    #[serde(rename = "type")]
    kind: &'static str,
    state: &'static str,
    level: u32,
    attempts: u32,
    queued_at: Option<String>,
    started_at: Option<String>,
    finished_at: Option<String>,
    duration_ms: Option<f64>,
    worker: Option<&'a str>,
    failure: Option<&'a Failure>,
    reused_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a RawValue>,
}

/// Whether the outputs of tasks are part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskOutputs {
    /// Yes.
    Included,
    /// No.
    LeftOut,
}

/// A run with its tasks.
pub(crate) fn run(run: &RunView, outputs: TaskOutputs) -> serde_json::Result<String> {
    serde_json::to_string_pretty(&Run {
        summary: summary_of(&run.summary),
        inputs: raw(&run.inputs),
        outputs: run.outputs.as_deref().and_then(raw),
        critical_path: &run.critical_path,
        tasks: run
            .tasks
            .iter()
            .map(|task| task_of(task, outputs))
            .collect(),
    })
}

/// A page of a list of runs.
pub(crate) fn list(runs: &[RunSummary], next: Option<&str>) -> serde_json::Result<String> {
    let runs: Vec<Summary<'_>> = runs.iter().map(summary_of).collect();
    serde_json::to_string_pretty(&json!({ "runs": runs, "next_page_token": next }))
}

fn summary_of(summary: &RunSummary) -> Summary<'_> {
    Summary {
        run_id: summary.run_id.to_string(),
        workflow: &summary.workflow,
        workflow_digest: summary.digest.to_string(),
        status: summary.status.as_str(),
        priority: summary.priority.as_str(),
        labels: &summary.labels,
        submitted_at: timestamp(summary.submitted_at),
        finished_at: summary.finished_at.map(timestamp),
        duration_ms: millis(Some(summary.submitted_at), summary.finished_at),
        counts: summary.counts,
        failure: summary.failure.as_ref(),
        resumed_from: summary.resumed_from.map(|run| run.to_string()),
    }
}

fn task_of(task: &TaskView, outputs: TaskOutputs) -> Task<'_> {
    Task {
        id: &task.task_id,
        item: task.item,
        kind: task.kind.as_str(),
        state: task.status.as_str(),
        level: task.level,
        attempts: task.attempts,
        queued_at: task.queued_at.map(timestamp),
        started_at: task.started_at.map(timestamp),
        finished_at: task.finished_at.map(timestamp),
        duration_ms: millis(task.started_at, task.finished_at),
        worker: task.worker.as_ref().map(|worker| worker.0.as_ref()),
        failure: task.failure.as_ref(),
        reused_from: task.reused_from.map(|run| run.to_string()),
        output: match outputs {
            TaskOutputs::Included => task.output.as_deref().and_then(raw),
            TaskOutputs::LeftOut => None,
        },
    }
}

fn millis(start: Option<Timestamp>, end: Option<Timestamp>) -> Option<f64> {
    Some(end?.since(start?).as_micros() as f64 / 1e3)
}

/// A value that the server sent as JSON; none if it is not.
fn raw(bytes: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(bytes).ok()
}

/// What happened, as one line for each event.
pub(crate) fn events(update: &RunUpdate) -> Vec<serde_json::Value> {
    update
        .events
        .iter()
        .map(|event| {
            let mut line = event_body(event);
            line["sequence"] = update.sequence.into();
            line["at"] = timestamp(update.at).into();
            line
        })
        .collect()
}

fn event_body(event: &RunEvent) -> serde_json::Value {
    let task = |task: &TaskRef| json!({ "id": task.task_id, "item": task.item });
    match event {
        RunEvent::Submitted {
            workflow,
            tasks,
            levels,
            resumed_from,
        } => json!({
            "event": "submitted",
            "workflow": workflow,
            "tasks": tasks,
            "levels": levels,
            "resumed_from": resumed_from,
        }),
        RunEvent::AttemptStarted {
            task: reference,
            attempt,
            worker,
        } => json!({
            "event": "attempt_started",
            "task": task(reference),
            "attempt": attempt,
            "worker": worker,
        }),
        RunEvent::AttemptFailed {
            task: reference,
            attempt,
            failure,
            retry_at,
        } => json!({
            "event": "attempt_failed",
            "task": task(reference),
            "attempt": attempt,
            "failure": failure,
            "retry_at": timestamp(*retry_at),
        }),
        RunEvent::Expanded {
            task: reference,
            items,
        } => json!({ "event": "expanded", "task": task(reference), "items": items }),
        RunEvent::Sleeping {
            task: reference,
            wakes_at,
        } => json!({
            "event": "sleeping",
            "task": task(reference),
            "wakes_at": timestamp(*wakes_at),
        }),
        RunEvent::TaskSucceeded {
            task: reference,
            attempt,
            started_at,
            output,
            reused_from,
        } => json!({
            "event": "task_succeeded",
            "task": task(reference),
            "attempt": attempt,
            "started_at": timestamp(*started_at),
            "output": raw(output),
            "reused_from": reused_from,
        }),
        RunEvent::TaskFailed {
            task: reference,
            attempt,
            failure,
            tolerated,
        } => json!({
            "event": "task_failed",
            "task": task(reference),
            "attempt": attempt,
            "failure": failure,
            "tolerated": tolerated,
        }),
        RunEvent::TaskSkipped {
            task: reference,
            because_of,
        } => json!({
            "event": "task_skipped",
            "task": task(reference),
            "because_of": because_of,
        }),
        RunEvent::TaskCancelled { task: reference } => {
            json!({ "event": "task_cancelled", "task": task(reference) })
        }
        RunEvent::LevelCompleted { level } => {
            json!({ "event": "level_completed", "level": level })
        }
        RunEvent::CancelRequested { reason } => {
            json!({ "event": "cancel_requested", "reason": reason })
        }
        RunEvent::Finished {
            status,
            outputs,
            failure,
        } => json!({
            "event": "finished",
            "status": status,
            "outputs": outputs.as_deref().and_then(raw),
            "failure": failure,
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::sample::{after, finished_run};

    #[test]
    fn a_run_has_its_tasks_with_their_times() {
        let text = run(&finished_run(), TaskOutputs::LeftOut).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["run_id"], "01890a5d-ac96-774b-bcce-b302099a8057");
        assert_eq!(value["status"], "succeeded");
        assert_eq!(value["duration_ms"], 1500.0);
        assert_eq!(value["outputs"], json!({ "file": "report.md" }));
        assert_eq!(
            value["tasks"][3],
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
            })
        );
    }

    #[test]
    fn outputs_of_tasks_are_there_when_asked_for() {
        let text = run(&finished_run(), TaskOutputs::Included).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["tasks"][0]["output"], json!({ "lines": 3 }));
    }

    #[test]
    fn an_event_is_one_line_with_its_place() {
        let update = RunUpdate {
            sequence: 7,
            at: after(0),
            events: vec![
                RunEvent::LevelCompleted { level: 0 },
                RunEvent::CancelRequested {
                    reason: "enough".to_owned(),
                },
            ],
        };
        assert_eq!(
            events(&update),
            [
                json!({
                    "event": "level_completed",
                    "level": 0,
                    "sequence": 7,
                    "at": "2023-11-14T22:13:20.000Z",
                }),
                json!({
                    "event": "cancel_requested",
                    "reason": "enough",
                    "sequence": 7,
                    "at": "2023-11-14T22:13:20.000Z",
                }),
            ]
        );
    }
}
