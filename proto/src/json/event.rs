//! What happens in a run.

use levelflow_common::event::{LevelOutput, RunEvent, RunUpdate, TaskRef};
use levelflow_common::view::TaskCounts;
use levelflow_common::{Failure, RunStatus};
use schemars::JsonSchema;
use serde::Serialize;

use super::run::{CachedFrom, SimilarTo};
use super::{Chunk, JsonText, timestamp};

/// Something that happened in a run.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "RunEvent")]
pub struct Event<'a> {
    #[serde(flatten)]
    body: Body<'a>,
    /// The sequence number of the journal record; for live events, of the last record before them.
    sequence: u64,
    /// When it happened.
    #[schemars(extend("format" = "date-time"))]
    at: String,
}

impl<'a> Event<'a> {
    /// The events of an update, in order.
    pub fn all(update: &'a RunUpdate) -> impl Iterator<Item = Self> {
        update.events.iter().map(|event| Self {
            body: event.into(),
            sequence: update.sequence,
            at: timestamp(update.at),
        })
    }
}

impl Event<'_> {
    /// The word for what happened, as in `event`.
    pub fn name(&self) -> &'static str {
        match self.body {
            Body::Submitted { .. } => "submitted",
            Body::AttemptStarted { .. } => "attempt_started",
            Body::Streamed { .. } => "streamed",
            Body::AttemptFailed { .. } => "attempt_failed",
            Body::Expanded { .. } => "expanded",
            Body::Sleeping { .. } => "sleeping",
            Body::TaskSucceeded { .. } => "task_succeeded",
            Body::TaskFailed { .. } => "task_failed",
            Body::TaskSkipped { .. } => "task_skipped",
            Body::TaskCancelled { .. } => "task_cancelled",
            Body::LevelCompleted { .. } => "level_completed",
            Body::CancelRequested { .. } => "cancel_requested",
            Body::Finished { .. } => "finished",
        }
    }
}

/// A task of the run.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EventTask")]
struct Task<'a> {
    /// Its id in the workflow.
    id: &'a str,
    /// Its place in the list of a `for_each`.
    item: Option<u32>,
}

/// The output of a task, told again at the end of its level.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "LevelOutput")]
struct Output<'a> {
    /// The task's id in the workflow.
    id: &'a str,
    /// How long the output is.
    bytes: u32,
    /// The output; left out where it is too long to be told again.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<JsonText<'a>>,
}

/// What happened.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Body<'a> {
    /// The run was accepted.
    Submitted {
        /// The name of its workflow.
        workflow: &'a str,
        /// Tasks in the definition.
        tasks: u32,
        /// Levels in the definition.
        levels: u32,
        /// The failed run that it goes on from.
        resumed_from: Option<String>,
    },
    /// An attempt was sent to a worker. Live: not repeated to watchers who come later.
    AttemptStarted {
        /// Which task.
        task: Task<'a>,
        /// Its number, from 1.
        attempt: u32,
        /// Who runs it.
        worker: &'a str,
    },
    /// Chunks of a task, for those who asked for them.
    Streamed {
        /// Which task.
        task: Task<'a>,
        /// The chunks.
        stream: Chunk<'a>,
    },
    /// An attempt failed and another will follow.
    AttemptFailed {
        /// Which task.
        task: Task<'a>,
        /// Its number, from 1.
        attempt: u32,
        /// Why.
        failure: &'a Failure,
        /// When the next may start.
        retry_at: String,
    },
    /// A list was opened into items.
    Expanded {
        /// Which task.
        task: Task<'a>,
        /// How many items.
        items: u32,
    },
    /// A task waits for a time.
    Sleeping {
        /// Which task.
        task: Task<'a>,
        /// When it wakes.
        wakes_at: String,
    },
    /// A task has its output.
    TaskSucceeded {
        /// Which task.
        task: Task<'a>,
        /// Its last attempt, from 1; 0 if none was needed.
        attempt: u32,
        /// When the attempt started.
        started_at: String,
        /// The output.
        output: Option<JsonText<'a>>,
        /// The run that computed it, where it was kept from an earlier one.
        reused_from: Option<String>,
        /// Where it was found, if no attempt gave it.
        cached: Option<CachedFrom>,
        /// The result of a nearly equal text: with `cached` the output itself, otherwise what the task was shown.
        similar_to: Option<SimilarTo>,
        /// Chunks that were recorded with it.
        chunks: u32,
    },
    /// A task failed for good.
    TaskFailed {
        /// Which task.
        task: Task<'a>,
        /// Its last attempt, from 1; 0 if none was made.
        attempt: u32,
        /// Why.
        failure: &'a Failure,
        /// Whether the run goes on as if it had succeeded.
        tolerated: bool,
    },
    /// A task will not run.
    TaskSkipped {
        /// Which task.
        task: Task<'a>,
        /// The task whose end decided it; null if its own `when` did.
        because_of: Option<&'a str>,
    },
    /// A task was stopped by the end of its run.
    TaskCancelled {
        /// Which task.
        task: Task<'a>,
    },
    /// All tasks of a level have ended, in whatever way.
    LevelCompleted {
        /// Which, from 0.
        level: u32,
        /// Its tasks, and the items of their lists, by how they ended.
        counts: TaskCounts,
        /// What its tasks gave, in the order of the workflow. The output of a list is that of its items.
        outputs: Vec<Output<'a>>,
        /// Tasks with an output that are not in the list for want of room.
        unlisted: u32,
    },
    /// Someone cancelled the run.
    CancelRequested {
        /// What they said.
        reason: &'a str,
    },
    /// The run ended.
    Finished {
        /// How.
        status: RunStatus,
        /// The outputs, when it succeeded.
        outputs: Option<JsonText<'a>>,
        /// Why it failed.
        failure: Option<&'a Failure>,
    },
}

impl<'a> From<&'a TaskRef> for Task<'a> {
    fn from(task: &'a TaskRef) -> Self {
        Self {
            id: &task.task_id,
            item: task.item,
        }
    }
}

impl<'a> From<&'a LevelOutput> for Output<'a> {
    fn from(output: &'a LevelOutput) -> Self {
        Self {
            id: &output.task_id,
            bytes: output.bytes,
            output: output.output.as_deref().and_then(JsonText::read),
        }
    }
}

impl<'a> From<&'a RunEvent> for Body<'a> {
    fn from(event: &'a RunEvent) -> Self {
        match event {
            RunEvent::Submitted {
                workflow,
                tasks,
                levels,
                resumed_from,
            } => Self::Submitted {
                workflow,
                tasks: *tasks,
                levels: *levels,
                resumed_from: resumed_from.map(|run| run.to_string()),
            },
            RunEvent::AttemptStarted {
                task,
                attempt,
                worker,
            } => Self::AttemptStarted {
                task: task.into(),
                attempt: *attempt,
                worker: &worker.0,
            },
            RunEvent::Streamed { task, event } => Self::Streamed {
                task: task.into(),
                stream: event.into(),
            },
            RunEvent::AttemptFailed {
                task,
                attempt,
                failure,
                retry_at,
            } => Self::AttemptFailed {
                task: task.into(),
                attempt: *attempt,
                failure,
                retry_at: timestamp(*retry_at),
            },
            RunEvent::Expanded { task, items } => Self::Expanded {
                task: task.into(),
                items: *items,
            },
            RunEvent::Sleeping { task, wakes_at } => Self::Sleeping {
                task: task.into(),
                wakes_at: timestamp(*wakes_at),
            },
            RunEvent::TaskSucceeded {
                task,
                attempt,
                started_at,
                output,
                reused_from,
                cached,
                similar_to,
                chunks,
            } => Self::TaskSucceeded {
                task: task.into(),
                attempt: *attempt,
                started_at: timestamp(*started_at),
                output: JsonText::read(output),
                reused_from: reused_from.map(|run| run.to_string()),
                cached: cached.map(CachedFrom::new),
                similar_to: similar_to.as_ref().map(SimilarTo::new),
                chunks: *chunks,
            },
            RunEvent::TaskFailed {
                task,
                attempt,
                failure,
                tolerated,
            } => Self::TaskFailed {
                task: task.into(),
                attempt: *attempt,
                failure,
                tolerated: *tolerated,
            },
            RunEvent::TaskSkipped { task, because_of } => Self::TaskSkipped {
                task: task.into(),
                because_of: because_of.as_deref(),
            },
            RunEvent::TaskCancelled { task } => Self::TaskCancelled { task: task.into() },
            RunEvent::LevelCompleted {
                level,
                counts,
                outputs,
                unlisted,
            } => Self::LevelCompleted {
                level: *level,
                counts: *counts,
                outputs: outputs.iter().map(Into::into).collect(),
                unlisted: *unlisted,
            },
            RunEvent::CancelRequested { reason } => Self::CancelRequested { reason },
            RunEvent::Finished {
                status,
                outputs,
                failure,
            } => Self::Finished {
                status: *status,
                outputs: outputs.as_deref().and_then(JsonText::read),
                failure: failure.as_ref(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use levelflow_common::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_event_is_one_line_with_its_place() {
        let update = RunUpdate {
            sequence: 7,
            at: Timestamp::from_micros(1_700_000_000_000_000),
            events: vec![
                RunEvent::LevelCompleted {
                    level: 0,
                    counts: TaskCounts {
                        total: 3,
                        succeeded: 2,
                        failed: 1,
                        ..TaskCounts::default()
                    },
                    outputs: vec![
                        LevelOutput {
                            task_id: "null".into(),
                            bytes: 4,
                            output: Some(Bytes::from_static(b"null")),
                        },
                        LevelOutput {
                            task_id: "long".into(),
                            bytes: 70_000,
                            output: None,
                        },
                    ],
                    unlisted: 0,
                },
                RunEvent::Finished {
                    status: RunStatus::Succeeded,
                    outputs: Some(Bytes::from_static(b"{\n \"n\": 1\n}")),
                    failure: None,
                },
            ],
        };
        let lines: Vec<String> = Event::all(&update)
            .map(|event| serde_json::to_string(&event).unwrap())
            .collect();
        assert!(lines.iter().all(|line| !line.contains('\n')), "{lines:?}");
        let events: Vec<Value> = lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            events,
            [
                json!({
                    "event": "level_completed",
                    "level": 0,
                    "counts": { "total": 3, "succeeded": 2, "failed": 1, "skipped": 0, "cancelled": 0 },
                    "outputs": [
                        { "id": "null", "bytes": 4, "output": null },
                        { "id": "long", "bytes": 70_000 },
                    ],
                    "unlisted": 0,
                    "sequence": 7,
                    "at": "2023-11-14T22:13:20.000Z",
                }),
                json!({
                    "event": "finished",
                    "status": "succeeded",
                    "outputs": { "n": 1 },
                    "failure": null,
                    "sequence": 7,
                    "at": "2023-11-14T22:13:20.000Z",
                }),
            ]
        );
    }
}
