//! What watchers of a run are told.

use levelflow_common::event::{LevelOutput, RunEvent, RunUpdate, TaskRef};
use levelflow_common::{Failure, RunStatus, Timestamp, WorkerId};

use crate::enumeration::Enumeration as _;
use crate::invalid::InvalidField;
use crate::run::{parse_optional_run_id, run_id_text};
use crate::v1;
use crate::v1::run_event as message;

impl From<RunUpdate> for v1::WatchRunResponse {
    fn from(update: RunUpdate) -> Self {
        Self {
            sequence: update.sequence,
            at_us: update.at.as_micros(),
            events: update.events.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::WatchRunResponse> for RunUpdate {
    type Error = InvalidField;

    fn try_from(response: v1::WatchRunResponse) -> Result<Self, InvalidField> {
        Ok(Self {
            sequence: response.sequence,
            at: Timestamp::from_micros(response.at_us),
            events: response
                .events
                .into_iter()
                .enumerate()
                .map(|(index, event)| {
                    RunEvent::try_from(event)
                        .map_err(|error| error.under(&format!("events[{index}]")))
                })
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<RunEvent> for v1::RunEvent {
    fn from(event: RunEvent) -> Self {
        Self {
            event: Some(event.into()),
        }
    }
}

impl From<RunEvent> for message::Event {
    fn from(event: RunEvent) -> Self {
        match event {
            RunEvent::Submitted {
                workflow,
                tasks,
                levels,
                resumed_from,
            } => Self::Submitted(message::Submitted {
                workflow: workflow.as_ref().to_owned(),
                tasks,
                levels,
                resumed_from: run_id_text(resumed_from),
            }),
            RunEvent::AttemptStarted {
                task,
                attempt,
                worker,
            } => Self::AttemptStarted(message::AttemptStarted {
                task: Some(task.into()),
                attempt,
                worker: worker.0.as_ref().to_owned(),
            }),
            RunEvent::Streamed { task, event } => Self::Streamed(message::Streamed {
                task: Some(task.into()),
                event: Some(event.into()),
            }),
            RunEvent::AttemptFailed {
                task,
                attempt,
                failure,
                retry_at,
            } => Self::AttemptFailed(message::AttemptFailed {
                task: Some(task.into()),
                attempt,
                failure: Some(failure.into()),
                retry_at_us: retry_at.as_micros(),
            }),
            RunEvent::Expanded { task, items } => Self::Expanded(message::Expanded {
                task: Some(task.into()),
                items,
            }),
            RunEvent::Sleeping { task, wakes_at } => Self::Sleeping(message::Sleeping {
                task: Some(task.into()),
                wakes_at_us: wakes_at.as_micros(),
            }),
            RunEvent::TaskSucceeded {
                task,
                attempt,
                started_at,
                output,
                reused_from,
                chunks,
                cached,
                similar_to,
            } => Self::TaskSucceeded(message::TaskSucceeded {
                task: Some(task.into()),
                attempt,
                started_at_us: started_at.as_micros(),
                output,
                reused_from: run_id_text(reused_from),
                chunks,
                cached: cached.map(Into::into),
                similar_to: similar_to.map(Into::into),
            }),
            RunEvent::TaskFailed {
                task,
                attempt,
                failure,
                tolerated,
            } => Self::TaskFailed(message::TaskFailed {
                task: Some(task.into()),
                attempt,
                failure: Some(failure.into()),
                tolerated,
            }),
            RunEvent::TaskSkipped { task, because_of } => Self::TaskSkipped(message::TaskSkipped {
                task: Some(task.into()),
                because_of: because_of.map_or_else(String::new, |id| id.as_ref().to_owned()),
            }),
            RunEvent::TaskCancelled { task } => Self::TaskCancelled(message::TaskCancelled {
                task: Some(task.into()),
            }),
            RunEvent::LevelCompleted {
                level,
                counts,
                outputs,
                unlisted,
            } => Self::LevelCompleted(message::LevelCompleted {
                level,
                counts: Some(counts.into()),
                outputs: outputs.into_iter().map(Into::into).collect(),
                unlisted,
            }),
            RunEvent::CancelRequested { reason } => {
                Self::CancelRequested(message::CancelRequested { reason })
            }
            RunEvent::Finished {
                status,
                outputs,
                failure,
            } => Self::Finished(v1::RunEnd {
                status: status.number(),
                outputs: outputs.unwrap_or_default(),
                failure: failure.map(Into::into),
            }),
        }
    }
}

impl TryFrom<v1::RunEvent> for RunEvent {
    type Error = InvalidField;

    fn try_from(event: v1::RunEvent) -> Result<Self, InvalidField> {
        use message::Event;

        Ok(
            match event.event.ok_or_else(|| InvalidField::missing("event"))? {
                Event::Submitted(event) => Self::Submitted {
                    workflow: event.workflow.into(),
                    tasks: event.tasks,
                    levels: event.levels,
                    resumed_from: parse_optional_run_id("resumed_from", &event.resumed_from)?,
                },
                Event::AttemptStarted(event) => Self::AttemptStarted {
                    task: task_ref(event.task)?,
                    attempt: event.attempt,
                    worker: WorkerId(event.worker.into()),
                },
                Event::Streamed(event) => Self::Streamed {
                    task: task_ref(event.task)?,
                    event: event
                        .event
                        .ok_or_else(|| InvalidField::missing("event"))?
                        .try_into()
                        .map_err(|error: InvalidField| error.under("event"))?,
                },
                Event::AttemptFailed(event) => Self::AttemptFailed {
                    task: task_ref(event.task)?,
                    attempt: event.attempt,
                    failure: required_failure(event.failure)?,
                    retry_at: Timestamp::from_micros(event.retry_at_us),
                },
                Event::Expanded(event) => Self::Expanded {
                    task: task_ref(event.task)?,
                    items: event.items,
                },
                Event::Sleeping(event) => Self::Sleeping {
                    task: task_ref(event.task)?,
                    wakes_at: Timestamp::from_micros(event.wakes_at_us),
                },
                Event::TaskSucceeded(event) => Self::TaskSucceeded {
                    task: task_ref(event.task)?,
                    attempt: event.attempt,
                    started_at: Timestamp::from_micros(event.started_at_us),
                    output: event.output,
                    reused_from: parse_optional_run_id("reused_from", &event.reused_from)?,
                    chunks: event.chunks,
                    cached: event.cached.map(TryInto::try_into).transpose()?,
                    similar_to: event.similar_to.map(TryInto::try_into).transpose()?,
                },
                Event::TaskFailed(event) => Self::TaskFailed {
                    task: task_ref(event.task)?,
                    attempt: event.attempt,
                    failure: required_failure(event.failure)?,
                    tolerated: event.tolerated,
                },
                Event::TaskSkipped(event) => Self::TaskSkipped {
                    task: task_ref(event.task)?,
                    because_of: (!event.because_of.is_empty()).then(|| event.because_of.into()),
                },
                Event::TaskCancelled(event) => Self::TaskCancelled {
                    task: task_ref(event.task)?,
                },
                Event::LevelCompleted(event) => Self::LevelCompleted {
                    level: event.level,
                    counts: event.counts.unwrap_or_default().into(),
                    outputs: event.outputs.into_iter().map(Into::into).collect(),
                    unlisted: event.unlisted,
                },
                Event::CancelRequested(event) => Self::CancelRequested {
                    reason: event.reason,
                },
                Event::Finished(event) => Self::Finished {
                    status: RunStatus::required("status", event.status)?,
                    outputs: (!event.outputs.is_empty()).then_some(event.outputs),
                    failure: event.failure.map(Into::into),
                },
            },
        )
    }
}

impl From<TaskRef> for message::TaskRef {
    fn from(task: TaskRef) -> Self {
        Self {
            task_id: task.task_id.as_ref().to_owned(),
            item: task.item,
        }
    }
}

fn task_ref(task: Option<message::TaskRef>) -> Result<TaskRef, InvalidField> {
    let task = task.ok_or_else(|| InvalidField::missing("task"))?;
    Ok(TaskRef {
        task_id: task.task_id.into(),
        item: task.item,
    })
}

impl From<LevelOutput> for message::LevelOutput {
    fn from(output: LevelOutput) -> Self {
        Self {
            task_id: output.task_id.as_ref().to_owned(),
            bytes: output.bytes,
            output: output.output.unwrap_or_default(),
        }
    }
}

impl From<message::LevelOutput> for LevelOutput {
    fn from(message: message::LevelOutput) -> Self {
        Self {
            task_id: message.task_id.into(),
            bytes: message.bytes,
            output: Some(message.output).filter(|output| !output.is_empty()),
        }
    }
}

fn required_failure(failure: Option<v1::Failure>) -> Result<Failure, InvalidField> {
    failure
        .map(Into::into)
        .ok_or_else(|| InvalidField::missing("failure"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use levelflow_common::view::TaskCounts;
    use levelflow_common::{
        CacheTier, CachedFrom, ChunkEvent, Code, FencingToken, Similar, Similarity,
    };

    use super::*;

    fn every_event() -> Vec<RunEvent> {
        let task = TaskRef {
            task_id: "fetch".into(),
            item: None,
        };
        let item = TaskRef {
            task_id: "fetch".into(),
            item: Some(0),
        };
        let failure = Failure::retryable(Code::RunTimeout, "took too long");
        let time = Timestamp::from_micros(99);
        let run = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let mut events = vec![
            RunEvent::Submitted {
                workflow: "digest".into(),
                tasks: 5,
                levels: 3,
                resumed_from: None,
            },
            RunEvent::Submitted {
                workflow: "digest".into(),
                tasks: 5,
                levels: 3,
                resumed_from: Some(run),
            },
            RunEvent::AttemptStarted {
                task: item.clone(),
                attempt: 1,
                worker: WorkerId("w1".into()),
            },
            RunEvent::Streamed {
                task: item.clone(),
                event: ChunkEvent::Started {
                    stream: FencingToken(7),
                    attempt: 1,
                },
            },
            RunEvent::AttemptFailed {
                task: item.clone(),
                attempt: 1,
                failure: failure.clone(),
                retry_at: time,
            },
            RunEvent::Expanded {
                task: task.clone(),
                items: 0,
            },
            RunEvent::Sleeping {
                task: task.clone(),
                wakes_at: time,
            },
            RunEvent::TaskSucceeded {
                task: item,
                attempt: 2,
                started_at: time,
                output: Bytes::from_static(b"[1]"),
                reused_from: None,
                chunks: 3,
                cached: Some(CachedFrom {
                    tier: CacheTier::Redis,
                    age: Duration::from_secs(3),
                    saved: Duration::from_millis(7),
                }),
                similar_to: Some(Similar {
                    similarity: Similarity::from_millionths(912_345),
                    run_id: run,
                    task_id: "fetch".into(),
                }),
            },
            RunEvent::TaskSucceeded {
                task: task.clone(),
                attempt: 0,
                started_at: time,
                output: Bytes::from_static(b"null"),
                reused_from: Some(run),
                chunks: 0,
                cached: None,
                similar_to: None,
            },
            RunEvent::TaskSkipped {
                task: task.clone(),
                because_of: None,
            },
            RunEvent::TaskSkipped {
                task: task.clone(),
                because_of: Some("other".into()),
            },
            RunEvent::TaskCancelled { task: task.clone() },
            RunEvent::LevelCompleted {
                level: 0,
                counts: TaskCounts {
                    total: 2,
                    succeeded: 2,
                    ..TaskCounts::default()
                },
                outputs: vec![
                    LevelOutput {
                        task_id: "fetch".into(),
                        bytes: 3,
                        output: Some(Bytes::from_static(b"[1]")),
                    },
                    LevelOutput {
                        task_id: "long".into(),
                        bytes: 100_000,
                        output: None,
                    },
                ],
                unlisted: 1,
            },
            RunEvent::CancelRequested {
                reason: String::new(),
            },
            RunEvent::Finished {
                status: RunStatus::Succeeded,
                outputs: Some(Bytes::from_static(b"{}")),
                failure: None,
            },
            RunEvent::Finished {
                status: RunStatus::Failed,
                outputs: None,
                failure: Some(failure.clone()),
            },
        ];
        events.extend([true, false].map(|tolerated| RunEvent::TaskFailed {
            task: task.clone(),
            attempt: 5,
            failure: failure.clone(),
            tolerated,
        }));
        events
    }

    #[test]
    fn updates_read_back() {
        let update = RunUpdate {
            sequence: 7,
            at: Timestamp::from_micros(1_700_000_000_000_000),
            events: every_event(),
        };
        assert_eq!(
            v1::WatchRunResponse::from(update.clone()).try_into(),
            Ok(update)
        );
    }

    #[test]
    fn errors_name_the_path_of_the_field() {
        let response = v1::WatchRunResponse {
            sequence: 1,
            at_us: 1,
            events: vec![
                RunEvent::TaskCancelled {
                    task: TaskRef {
                        task_id: "fetch".into(),
                        item: None,
                    },
                }
                .into(),
                v1::RunEvent {
                    event: Some(message::Event::Expanded(message::Expanded::default())),
                },
            ],
        };
        assert_eq!(
            RunUpdate::try_from(response).unwrap_err().to_string(),
            "events[1].task: is missing"
        );
    }
}
