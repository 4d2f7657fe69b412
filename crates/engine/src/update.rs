//! What watchers are told of a record.

use levelflow_common::TaskStatus;
use levelflow_common::event::{RunEvent, RunUpdate, TaskRef};

use crate::level::Room;
use crate::record::{Fact, Record, TaskIndex};
use crate::run::{Change, RunState};

impl RunState {
    /// Applies the next record, and says what watchers are told of it.
    pub fn advance(&mut self, record: &Record) -> RunUpdate {
        let mut changes = Vec::new();
        self.apply(record, &mut changes);
        let mut events = Vec::new();
        let mut room = Room::default();
        self.tell_fact(&record.fact, &mut events);
        for change in changes {
            match change {
                Change::Ready(_) => {}
                Change::Ended(task) => events.push(self.tell_end(task)),
                Change::LevelCompleted(level) => events.push(self.tell_level(level, &mut room)),
            }
        }
        if let Fact::Finished {
            status,
            outputs,
            failure,
        } = &record.fact
        {
            events.push(RunEvent::Finished {
                status: *status,
                outputs: outputs.clone(),
                failure: failure.clone(),
            });
        }
        RunUpdate {
            sequence: self.sequence,
            at: record.at,
            events,
        }
    }

    /// How watchers call a task.
    pub fn task_ref(&self, task: TaskIndex) -> TaskRef {
        TaskRef {
            task_id: self.definition.tasks[self.defined(task).0 as usize]
                .id
                .clone(),
            item: self.item(task),
        }
    }

    fn tell_fact(&self, fact: &Fact, events: &mut Vec<RunEvent>) {
        let event = match fact {
            Fact::Submitted(submitted) => RunEvent::Submitted {
                workflow: submitted.workflow.clone(),
                tasks: self.definition.plan.len() as u32,
                levels: self.definition.plan.levels().len() as u32,
                resumed_from: submitted.resumed_from,
            },
            &Fact::Expanded { task, items } => RunEvent::Expanded {
                task: self.task_ref(task),
                items,
            },
            &Fact::Slept { task, until } => RunEvent::Sleeping {
                task: self.task_ref(task),
                wakes_at: until,
            },
            Fact::Failed {
                task,
                attempt,
                failure,
                retry_at: Some(retry_at),
                ..
            } => RunEvent::AttemptFailed {
                task: self.task_ref(*task),
                attempt: *attempt,
                failure: failure.clone(),
                retry_at: *retry_at,
            },
            Fact::CancelRequested { reason } => RunEvent::CancelRequested {
                reason: reason.as_ref().to_owned(),
            },
            Fact::TimedOut => RunEvent::CancelRequested {
                reason: "the run took longer than its timeout".to_owned(),
            },
            // These are told as the ends of tasks and of the run.
            Fact::Failed { retry_at: None, .. }
            | Fact::Succeeded { .. }
            | Fact::Skipped { .. }
            | Fact::Finished { .. } => return,
        };
        events.push(event);
    }

    fn tell_end(&self, index: TaskIndex) -> RunEvent {
        let state = self.task(index);
        let task = self.task_ref(index);
        match state.status {
            TaskStatus::Succeeded => RunEvent::TaskSucceeded {
                task,
                attempt: state.attempts,
                started_at: state.started_at.unwrap_or(self.submitted_at),
                output: state.output.clone().unwrap_or_default(),
                reused_from: state.reused_from.as_deref().copied(),
                chunks: state.chunks,
                cached: state.cached.as_deref().copied(),
                similar_to: state.similar_to.as_deref().cloned(),
            },
            TaskStatus::Failed => RunEvent::TaskFailed {
                task,
                attempt: state.attempts,
                failure: state
                    .failure
                    .as_deref()
                    .cloned()
                    .expect("a failed task has a failure"),
                tolerated: self.tolerates_failure_of(index),
            },
            TaskStatus::Skipped => RunEvent::TaskSkipped {
                task,
                because_of: state
                    .skipped_by
                    .map(|cause| self.definition.tasks[cause.0 as usize].id.clone()),
            },
            _ => RunEvent::TaskCancelled { task },
        }
    }
}
