//! How far a run has come, by level: made from a view of the run and kept up to date by its events.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use levelflow_common::event::{RunEvent, RunUpdate, TaskRef};
use levelflow_common::view::RunView;
use levelflow_common::{TaskStatus, Timestamp};

/// How far a run has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The levels, from the roots on.
    pub(crate) levels: Vec<LevelProgress>,
    level_of: HashMap<Arc<str>, usize>,
    ended: HashSet<(Arc<str>, Option<u32>)>,
    expanded: HashSet<Arc<str>>,
}

/// How far a level has come. Items of a `for_each` count beside their task.
#[derive(Debug, Default)]
pub(crate) struct LevelProgress {
    /// Tasks and items.
    pub(crate) total: u32,
    /// With an output.
    pub(crate) succeeded: u32,
    /// Failed, also where the run goes on.
    pub(crate) failed: u32,
    /// Skipped.
    pub(crate) skipped: u32,
    /// Cancelled.
    pub(crate) cancelled: u32,
    /// What is under way, by name, with the time of its start or the reason of its wait.
    pub(crate) active: BTreeMap<String, Activity>,
    /// When its first attempt started.
    pub(crate) started_at: Option<Timestamp>,
    /// When a task of it last ended.
    pub(crate) finished_at: Option<Timestamp>,
}

/// What a task does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// An attempt runs.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// It waits to be tried again.
    Backoff {
        /// Until when.
        until: Timestamp,
    },
    /// It sleeps.
    Sleeping {
        /// Until when.
        until: Timestamp,
    },
}

impl LevelProgress {
    /// Tasks and items that have ended.
    pub(crate) fn ended(&self) -> u32 {
        self.succeeded + self.failed + self.skipped + self.cancelled
    }

    /// Whether all have.
    pub(crate) fn is_done(&self) -> bool {
        self.ended() == self.total
    }

    fn count(&mut self, status: TaskStatus, at: Timestamp) {
        match status {
            TaskStatus::Succeeded => self.succeeded += 1,
            TaskStatus::Failed => self.failed += 1,
            TaskStatus::Skipped => self.skipped += 1,
            TaskStatus::Cancelled => self.cancelled += 1,
            _ => return,
        }
        self.finished_at = self.finished_at.max(Some(at));
    }
}

impl Progress {
    /// How far a run had come at the time of a view.
    pub(crate) fn of(run: &RunView) -> Self {
        let mut progress = Self::default();
        for task in &run.tasks {
            let index = task.level as usize;
            if progress.levels.len() <= index {
                progress
                    .levels
                    .resize_with(index + 1, LevelProgress::default);
            }
            if task.item.is_none() {
                progress.level_of.insert(Arc::clone(&task.task_id), index);
            } else {
                progress.expanded.insert(Arc::clone(&task.task_id));
            }
            let level = &mut progress.levels[index];
            level.total += 1;
            level.started_at = earliest(level.started_at, task.started_at);
        }
        for task in &run.tasks {
            let reference = TaskRef {
                task_id: Arc::clone(&task.task_id),
                item: task.item,
            };
            let at = task.finished_at.unwrap_or(run.summary.submitted_at);
            match task.status {
                status if status.is_terminal() => progress.end(&reference, status, at),
                TaskStatus::Running => progress.activate(
                    &reference,
                    Activity::Running {
                        since: task.started_at.unwrap_or(at),
                    },
                ),
                TaskStatus::Backoff => progress.activate(
                    &reference,
                    Activity::Backoff {
                        until: task.wakes_at.unwrap_or(at),
                    },
                ),
                TaskStatus::Sleeping => progress.activate(
                    &reference,
                    Activity::Sleeping {
                        until: task.wakes_at.unwrap_or(at),
                    },
                ),
                _ => {}
            }
        }
        progress
    }

    /// Takes in what happened, also where the view told it before.
    pub(crate) fn apply(&mut self, update: &RunUpdate) {
        for event in &update.events {
            match event {
                RunEvent::AttemptStarted { task, .. } => {
                    if let Some(level) = self.level_mut(task) {
                        level.started_at = earliest(level.started_at, Some(update.at));
                    }
                    self.activate(task, Activity::Running { since: update.at });
                }
                RunEvent::AttemptFailed { task, retry_at, .. } => {
                    self.activate(task, Activity::Backoff { until: *retry_at });
                }
                RunEvent::Sleeping { task, wakes_at } => {
                    self.activate(task, Activity::Sleeping { until: *wakes_at });
                }
                RunEvent::Expanded { task, items } => {
                    if self.expanded.insert(Arc::clone(&task.task_id))
                        && let Some(level) = self.level_mut(task)
                    {
                        level.total += items;
                    }
                }
                RunEvent::TaskSucceeded {
                    task, started_at, ..
                } => {
                    if let Some(level) = self.level_mut(task) {
                        level.started_at = earliest(level.started_at, Some(*started_at));
                    }
                    self.end(task, TaskStatus::Succeeded, update.at);
                }
                RunEvent::TaskFailed { task, .. } => {
                    self.end(task, TaskStatus::Failed, update.at);
                }
                RunEvent::TaskSkipped { task, .. } => {
                    self.end(task, TaskStatus::Skipped, update.at);
                }
                RunEvent::TaskCancelled { task } => {
                    self.end(task, TaskStatus::Cancelled, update.at);
                }
                RunEvent::Submitted { .. }
                | RunEvent::Streamed { .. }
                | RunEvent::LevelCompleted { .. }
                | RunEvent::CancelRequested { .. }
                | RunEvent::Finished { .. } => {}
            }
        }
    }

    /// The level of a task, from 0.
    pub(crate) fn level_of(&self, task: &TaskRef) -> Option<usize> {
        self.level_of.get(&task.task_id).copied()
    }

    /// The level of a task.
    fn level_mut(&mut self, task: &TaskRef) -> Option<&mut LevelProgress> {
        let index = *self.level_of.get(&task.task_id)?;
        self.levels.get_mut(index)
    }

    fn activate(&mut self, task: &TaskRef, activity: Activity) {
        if self.ended.contains(&key(task)) {
            return;
        }
        let name = name(task);
        if let Some(level) = self.level_mut(task) {
            level.active.insert(name, activity);
        }
    }

    fn end(&mut self, task: &TaskRef, status: TaskStatus, at: Timestamp) {
        if !self.ended.insert(key(task)) {
            return;
        }
        let name = name(task);
        if let Some(level) = self.level_mut(task) {
            level.active.remove(&name);
            level.count(status, at);
        }
    }
}

fn key(task: &TaskRef) -> (Arc<str>, Option<u32>) {
    (Arc::clone(&task.task_id), task.item)
}

/// What people call a task: its id, with the place in the list for an item.
pub(crate) fn name(task: &TaskRef) -> String {
    match task.item {
        Some(item) => format!("{}[{item}]", task.task_id),
        None => task.task_id.as_ref().to_owned(),
    }
}

fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use levelflow_common::{Code, Failure, WorkerId};

    use super::*;
    use crate::sample;

    fn reference(id: &str, item: Option<u32>) -> TaskRef {
        TaskRef {
            task_id: id.into(),
            item,
        }
    }

    fn succeeded(id: &str, item: Option<u32>) -> RunEvent {
        RunEvent::TaskSucceeded {
            task: reference(id, item),
            attempt: 1,
            started_at: Timestamp::from_micros(500),
            output: bytes::Bytes::from_static(b"null"),
            reused_from: None,
            chunks: 0,
            cached: None,
            similar_to: None,
        }
    }

    fn update(at: u64, events: Vec<RunEvent>) -> RunUpdate {
        RunUpdate {
            sequence: at,
            at: Timestamp::from_micros(at),
            events,
        }
    }

    #[test]
    fn events_move_tasks_through_their_level() {
        let mut progress = Progress::of(&sample::pending_run());
        assert_eq!(
            progress
                .levels
                .iter()
                .map(|level| level.total)
                .collect::<Vec<_>>(),
            [1, 2, 1]
        );
        progress.apply(&update(
            1_000,
            vec![RunEvent::AttemptStarted {
                task: reference("fetch", None),
                attempt: 1,
                worker: WorkerId("w".into()),
            }],
        ));
        let since = Timestamp::from_micros(1_000);
        assert_eq!(
            progress.levels[0].active.get("fetch"),
            Some(&Activity::Running { since })
        );
        progress.apply(&update(2_000, vec![succeeded("fetch", None)]));
        let level = &progress.levels[0];
        assert!(level.is_done() && level.active.is_empty());
        assert_eq!(level.finished_at, Some(Timestamp::from_micros(2_000)));
        assert_eq!(level.started_at, Some(Timestamp::from_micros(500)));
    }

    #[test]
    fn items_count_beside_their_task() {
        let mut progress = Progress::of(&sample::pending_run());
        progress.apply(&update(
            1,
            vec![RunEvent::Expanded {
                task: reference("authors", None),
                items: 2,
            }],
        ));
        progress.apply(&update(
            2,
            vec![succeeded("authors", Some(0)), succeeded("authors", Some(1))],
        ));
        let level = &progress.levels[1];
        assert_eq!((level.total, level.succeeded), (4, 2));
        assert!(!level.is_done());
    }

    #[test]
    fn what_is_told_twice_counts_once() {
        let mut run = sample::finished_run();
        run.tasks.push(levelflow_common::view::TaskView {
            item: Some(0),
            ..run.tasks[1].clone()
        });
        let mut progress = Progress::of(&run);
        let retry_at = Timestamp::from_micros(7);
        progress.apply(&update(
            9,
            vec![
                RunEvent::AttemptFailed {
                    task: reference("fetch", None),
                    attempt: 1,
                    failure: Failure::retryable(Code::RunTimeout, "slow"),
                    retry_at,
                },
                succeeded("fetch", None),
                RunEvent::Expanded {
                    task: reference("authors", None),
                    items: 1,
                },
                succeeded("authors", Some(0)),
            ],
        ));
        let (first, second) = (&progress.levels[0], &progress.levels[1]);
        assert_eq!((first.total, first.succeeded), (1, 1));
        assert!(first.active.is_empty());
        assert_eq!((second.total, second.succeeded), (3, 2));
    }
}
