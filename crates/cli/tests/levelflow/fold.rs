//! The state of a run as whoever watched it knows it, to compare with the state that is served.

use std::collections::BTreeMap;

use bytes::Bytes;
use levelflow_common::event::{RunEvent, RunUpdate, TaskRef};
use levelflow_common::view::RunView;
use levelflow_common::{Failure, RunStatus, TaskStatus, Timestamp};

/// A run that has ended.
#[derive(Debug, PartialEq)]
pub(crate) struct Fold {
    sequence: u64,
    submitted_at: Timestamp,
    finished_at: Timestamp,
    status: RunStatus,
    outputs: Option<Bytes>,
    failure: Option<Failure>,
    /// By id and item.
    tasks: BTreeMap<(String, Option<u32>), FoldedTask>,
}

#[derive(Debug, PartialEq)]
struct FoldedTask {
    status: TaskStatus,
    attempts: Option<u32>,
    started_at: Option<Timestamp>,
    finished_at: Timestamp,
    output: Option<Bytes>,
    failure: Option<Failure>,
}

impl Fold {
    /// Takes in all recorded updates of a run.
    ///
    /// # Panics
    /// When [`Fold::try_of`] fails.
    pub(crate) fn of(updates: &[RunUpdate]) -> Self {
        Self::try_of(updates).unwrap_or_else(|problem| panic!("{problem}: {updates:?}"))
    }

    /// Takes in all recorded updates of a run.
    ///
    /// # Errors
    /// When a sequence number is missing or repeated, a task ends twice, something happens after the end,
    /// or there is no end.
    pub(crate) fn try_of(updates: &[RunUpdate]) -> Result<Self, String> {
        let mut tasks = BTreeMap::new();
        let mut end = None;
        for (expected, update) in (1..).zip(updates) {
            if update.sequence != expected {
                return Err(format!("{} is where {expected} should be", update.sequence));
            }
            if end.is_some() {
                return Err(format!("after the end came {update:?}"));
            }
            for event in &update.events {
                if let Some((task, ended)) = task_end(update.at, event) {
                    let key = key(task);
                    if let Some(earlier) = tasks.insert(key.clone(), ended) {
                        return Err(format!("{key:?} ended twice, first as {earlier:?}"));
                    }
                }
                if let RunEvent::Finished {
                    status,
                    outputs,
                    failure,
                } = event
                {
                    end = Some((*status, outputs.clone(), failure.clone()));
                }
            }
        }
        let Some((status, outputs, failure)) = end else {
            return Err("there is no end".to_owned());
        };
        Ok(Self {
            sequence: updates.len() as u64,
            submitted_at: updates[0].at,
            finished_at: updates[updates.len() - 1].at,
            status,
            outputs,
            failure,
            tasks,
        })
    }

    /// What the server says of a run that has ended.
    pub(crate) fn served(run: &RunView) -> Self {
        let task = |task: &levelflow_common::view::TaskView| {
            let key = (task.task_id.to_string(), task.item);
            // What neither ran nor was computed by another run has no attempt to tell of.
            let ran = matches!(task.status, TaskStatus::Succeeded | TaskStatus::Failed);
            let folded = FoldedTask {
                status: task.status,
                attempts: ran.then_some(task.attempts),
                started_at: task
                    .started_at
                    .filter(|_| task.status == TaskStatus::Succeeded),
                finished_at: task.finished_at.expect("the task has ended"),
                output: task.output.clone(),
                failure: task
                    .failure
                    .clone()
                    .filter(|_| task.status == TaskStatus::Failed),
            };
            (key, folded)
        };
        Self {
            sequence: run.sequence,
            submitted_at: run.summary.submitted_at,
            finished_at: run.summary.finished_at.expect("the run has ended"),
            status: run.summary.status,
            outputs: run.outputs.clone(),
            failure: run.summary.failure.clone(),
            tasks: run.tasks.iter().map(task).collect(),
        }
    }
}

/// How a task ended, where the event is its end.
fn task_end(at: Timestamp, event: &RunEvent) -> Option<(&TaskRef, FoldedTask)> {
    let ended = |status| FoldedTask {
        status,
        attempts: None,
        started_at: None,
        finished_at: at,
        output: None,
        failure: None,
    };
    Some(match event {
        RunEvent::TaskSucceeded {
            task,
            attempt,
            started_at,
            output,
            ..
        } => (
            task,
            FoldedTask {
                attempts: Some(*attempt),
                started_at: Some(*started_at),
                output: Some(output.clone()),
                ..ended(TaskStatus::Succeeded)
            },
        ),
        RunEvent::TaskFailed {
            task,
            attempt,
            failure,
            ..
        } => (
            task,
            FoldedTask {
                attempts: Some(*attempt),
                failure: Some(failure.clone()),
                ..ended(TaskStatus::Failed)
            },
        ),
        RunEvent::TaskSkipped { task, .. } => (task, ended(TaskStatus::Skipped)),
        RunEvent::TaskCancelled { task } => (task, ended(TaskStatus::Cancelled)),
        _ => return None,
    })
}

fn key(task: &TaskRef) -> (String, Option<u32>) {
    (task.task_id.to_string(), task.item)
}
