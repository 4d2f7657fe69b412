//! The state of a run: the fold of its journal.
//!
//! [`RunState::apply`] is the only way in which a run changes, live as in recovery, so what is served
//! cannot differ from what the journal says.

use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use levelflow_common::view::TaskCounts;
use levelflow_common::{Code, Failure, Priority, RunStatus, TaskStatus, Timestamp};

use crate::definition::Definition;
use crate::record::{Fact, KeptEnd, Progress, Record, RunNumber, Submitted, TaskIndex};
use crate::task::{Loss, Place, TaskState};

/// What applying a record led to, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The needs of a task are met.
    Ready(TaskIndex),
    /// A task reached its terminal status.
    Ended(TaskIndex),
    /// All tasks of a level have ended.
    LevelCompleted(u32),
}

/// A journal is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal of run number {} is damaged at record {sequence}: {problem}", run.0)]
pub struct ReplayError {
    /// The run.
    pub run: RunNumber,
    /// The record.
    pub sequence: u64,
    /// What is wrong.
    pub problem: &'static str,
}

/// The state of a run.
#[derive(Clone, Debug)]
pub struct RunState {
    /// Its number in the store.
    pub number: RunNumber,
    /// What it started from.
    pub submitted: Arc<Submitted>,
    /// When that was.
    pub submitted_at: Timestamp,
    /// The workflow.
    pub definition: Arc<Definition>,
    /// The sequence number of the last record.
    pub sequence: u64,
    /// How it stands.
    pub status: RunStatus,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// The tasks of the definition, then the items of each opened list.
    pub tasks: Vec<TaskState>,
    /// Tasks by how they ended.
    pub counts: TaskCounts,
    /// Tasks of the definition that have not ended.
    pub open: u32,
    /// The failure that decides the run: of the first task that failed and may not, or of the run.
    pub failure: Option<Failure>,
    /// Whether it took longer than its timeout.
    pub timed_out: bool,
    /// The outputs, when it succeeded.
    pub outputs: Option<Bytes>,
    /// Bytes of the outputs of its tasks, and of the chunks that were recorded with them.
    pub output_bytes: usize,
    open_by_level: Vec<u32>,
}

impl RunState {
    /// A run of which nothing has been applied yet; the first record must be its submit.
    pub fn new(number: RunNumber, submitted: Arc<Submitted>, definition: Arc<Definition>) -> Self {
        let plan = &definition.plan;
        let tasks: Vec<TaskState> = (0..plan.len() as u32)
            .map(|task| TaskState::pending(plan.needs(TaskIndex(task)).len() as u32))
            .collect();
        Self {
            number,
            submitted,
            submitted_at: Timestamp::default(),
            sequence: 0,
            status: RunStatus::Running,
            finished_at: None,
            counts: TaskCounts {
                total: tasks.len() as u32,
                ..TaskCounts::default()
            },
            open: tasks.len() as u32,
            failure: None,
            timed_out: false,
            outputs: None,
            output_bytes: 0,
            open_by_level: plan
                .levels()
                .iter()
                .map(|level| level.len() as u32)
                .collect(),
            tasks,
            definition,
        }
    }

    /// The state after the records of a journal, from the first.
    ///
    /// # Errors
    /// When the records cannot be the beginning of a journal of this definition.
    pub fn replay<'a>(
        number: RunNumber,
        definition: Arc<Definition>,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Result<Self, ReplayError> {
        let mut records = records.into_iter().peekable();
        let Some(Fact::Submitted(submitted)) = records.peek().map(|record| &record.fact) else {
            return Err(ReplayError {
                run: number,
                sequence: 1,
                problem: "the first record is not a submit",
            });
        };
        let mut state = Self::new(number, submitted.clone(), definition);
        let mut changes = Vec::new();
        for record in records {
            state.check(record)?;
            state.apply(record, &mut changes);
            changes.clear();
        }
        Ok(state)
    }

    /// Whether a record that was read from a store can come next.
    ///
    /// # Errors
    /// When it cannot; applying it would panic or break an invariant.
    pub fn check(&self, record: &Record) -> Result<(), ReplayError> {
        let problem = match &record.fact {
            _ if self.status.is_terminal() => Some("a record follows the end of the run"),
            Fact::Submitted(submitted)
                if self.sequence > 0 || submitted.digest != self.definition.digest =>
            {
                Some("a second submit, or one of another workflow")
            }
            Fact::Submitted(submitted) => submitted
                .kept
                .iter()
                .any(|kept| kept.task.0 as usize >= self.definition.plan.len())
                .then_some("a kept task is not in the workflow"),
            Fact::Expanded { task, .. }
            | Fact::Slept { task, .. }
            | Fact::Succeeded { task, .. }
            | Fact::Failed { task, .. }
            | Fact::Skipped { task } => match self.tasks.get(task.0 as usize) {
                None => Some("the task is not in the run"),
                Some(state) if state.status.is_terminal() => Some("the task has ended before"),
                Some(state) if state.status == TaskStatus::Pending => {
                    Some("the task was not ready")
                }
                Some(state)
                    if matches!(record.fact, Fact::Expanded { .. })
                        && state.place != Place::Whole =>
                {
                    Some("the list was opened before")
                }
                Some(_) => None,
            },
            Fact::Finished { status, .. } if !status.is_terminal() => {
                Some("the run ends without an end")
            }
            Fact::CancelRequested { .. } | Fact::TimedOut | Fact::Finished { .. } => None,
        };
        match problem {
            None => Ok(()),
            Some(problem) => Err(ReplayError {
                run: self.number,
                sequence: self.sequence + 1,
                problem,
            }),
        }
    }

    /// The state after the next record of the journal. What it leads to is added to `changes`.
    pub fn apply(&mut self, record: &Record, changes: &mut Vec<Change>) {
        self.sequence += 1;
        let at = record.at;
        match &record.fact {
            Fact::Submitted(submitted) => {
                let submitted = submitted.clone();
                self.start(&submitted, at, changes);
            }
            &Fact::Expanded { task, items } => self.expand(task, items, at, changes),
            &Fact::Slept { task, until } => {
                let state = self.task_mut(task);
                state.status = TaskStatus::Sleeping;
                state.started_at = Some(at);
                state.wakes_at = Some(until);
            }
            Fact::Succeeded {
                task,
                attempt,
                started_at,
                worker,
                output,
                stream,
                cached,
                similar_to,
            } => {
                let stream = stream.as_deref();
                self.output_bytes += output.len() + stream.map_or(0, |it| it.packed.len());
                let state = self.task_mut(*task);
                state.attempts = *attempt;
                state.started_at = Some(*started_at);
                state.worker.clone_from(worker);
                state.output = Some(output.clone());
                state.chunks = stream.map_or(0, |it| it.chunks);
                state.cached.clone_from(cached);
                state.similar_to.clone_from(similar_to);
                state.failure = None;
                self.end(*task, TaskStatus::Succeeded, at, changes);
            }
            Fact::Failed {
                task,
                attempt,
                started_at,
                worker,
                failure,
                retry_at,
            } => {
                let state = self.task_mut(*task);
                if failure.code.is_crash()
                    && let Some(worker) = worker
                {
                    state.losses.push(Loss {
                        attempt: *attempt,
                        worker: worker.clone(),
                        code: failure.code,
                        message: failure.message.clone(),
                    });
                }
                state.attempts = *attempt;
                state.started_at = started_at.or(state.started_at);
                state.worker.clone_from(worker);
                state.failure = Some(Box::new(failure.clone()));
                state.wakes_at = *retry_at;
                if retry_at.is_some() {
                    state.status = TaskStatus::Backoff;
                } else {
                    self.end(*task, TaskStatus::Failed, at, changes);
                }
            }
            &Fact::Skipped { task } => self.end(task, TaskStatus::Skipped, at, changes),
            Fact::CancelRequested { .. } => self.status = RunStatus::Cancelling,
            Fact::TimedOut => {
                self.status = RunStatus::Cancelling;
                self.timed_out = true;
                self.failure = Some(Failure::permanent(
                    Code::TotalTimeout,
                    "the run took longer than its timeout",
                ));
            }
            Fact::Finished {
                status,
                outputs,
                failure,
            } => {
                self.cancel_open(0..self.tasks.len() as u32, at, changes);
                self.open = 0;
                for (level, open) in (0..).zip(&mut self.open_by_level) {
                    if std::mem::take(open) > 0 {
                        changes.push(Change::LevelCompleted(level));
                    }
                }
                self.status = *status;
                self.finished_at = Some(at);
                self.outputs.clone_from(outputs);
                self.failure.clone_from(failure);
            }
        }
    }

    /// The state of a task.
    ///
    /// # Panics
    /// When the run has no such task.
    pub fn task(&self, task: TaskIndex) -> &TaskState {
        &self.tasks[task.0 as usize]
    }

    fn task_mut(&mut self, task: TaskIndex) -> &mut TaskState {
        &mut self.tasks[task.0 as usize]
    }

    /// The task of the definition that this is, or of which this is an item.
    pub fn defined(&self, task: TaskIndex) -> TaskIndex {
        match self.task(task).place {
            Place::Item { of, .. } => of,
            Place::Whole | Place::List { .. } => task,
        }
    }

    /// The place in its list, for an item.
    pub fn item(&self, task: TaskIndex) -> Option<u32> {
        match self.task(task).place {
            Place::Item { position, .. } => Some(position),
            Place::Whole | Place::List { .. } => None,
        }
    }

    /// Whether all tasks of the level, and so of those that a barrier holds back, have ended.
    pub fn level_has_ended(&self, level: u32) -> bool {
        self.open_by_level[level as usize] == 0
    }

    /// Whether a task of the definition may fail without failing the run.
    pub fn tolerates_failure_of(&self, task: TaskIndex) -> bool {
        self.definition.tasks[self.defined(task).0 as usize].continue_on_error
    }

    /// How urgent a task is.
    pub(crate) fn priority_of(&self, task: TaskIndex) -> Priority {
        let spec = &self.definition.tasks[self.defined(task).0 as usize];
        spec.priority.unwrap_or(self.submitted.priority)
    }

    /// Whether a task wants the worker of those like it in the run.
    pub(crate) fn is_sticky(&self, task: TaskIndex) -> bool {
        self.definition.tasks[self.defined(task).0 as usize].sticky
    }

    /// How the run stands, for its row in the list of runs.
    pub fn progress(&self) -> Progress {
        Progress {
            status: self.status,
            finished_at: self.finished_at,
            counts: self.counts,
            failure: self.failure.clone(),
        }
    }

    fn start(&mut self, submitted: &Submitted, at: Timestamp, changes: &mut Vec<Change>) {
        self.submitted_at = at;
        let whole = || submitted.kept.iter().filter(|kept| kept.item.is_none());
        for kept in whole() {
            let state = self.task_mut(kept.task);
            state.queued_at = Some(at);
            match &kept.end {
                KeptEnd::Succeeded(output) => {
                    state.status = TaskStatus::Succeeded;
                    state.output = Some(output.clone());
                    state.reused_from = Some(Box::new(kept.from));
                    self.output_bytes += output.len();
                }
                KeptEnd::Skipped => state.status = TaskStatus::Skipped,
            }
        }
        // Their ends are told only now, so that a kept task never counts as ready on the way.
        for kept in whole() {
            let status = self.task(kept.task).status;
            self.end(kept.task, status, at, changes);
        }
        for task in (0..self.definition.plan.len() as u32).map(TaskIndex) {
            let state = self.task_mut(task);
            if state.status == TaskStatus::Pending && state.needs_left == 0 {
                state.make_ready(at);
                changes.push(Change::Ready(task));
            }
        }
    }

    fn expand(&mut self, task: TaskIndex, items: u32, at: Timestamp, changes: &mut Vec<Change>) {
        let first = self.tasks.len() as u32;
        let state = self.task_mut(task);
        state.status = TaskStatus::Running;
        state.started_at = Some(at);
        state.place = Place::List {
            first,
            count: items,
            open: items,
        };
        self.counts.total += items;
        for position in 0..items {
            let mut item = TaskState::pending(0);
            item.place = Place::Item { of: task, position };
            item.make_ready(at);
            self.tasks.push(item);
        }
        if items == 0 {
            self.end_list(task, at, changes);
            return;
        }
        let submitted = self.submitted.clone();
        for kept in &submitted.kept {
            if let (Some(position), KeptEnd::Succeeded(output)) = (kept.item, &kept.end)
                && kept.task == task
                && position < items
            {
                self.output_bytes += output.len();
                let item = self.task_mut(TaskIndex(first + position));
                item.output = Some(output.clone());
                item.reused_from = Some(Box::new(kept.from));
                self.end(
                    TaskIndex(first + position),
                    TaskStatus::Succeeded,
                    at,
                    changes,
                );
            }
        }
        for item in (first..first + items).map(TaskIndex) {
            if self.task(item).status == TaskStatus::Ready {
                changes.push(Change::Ready(item));
            }
        }
    }

    /// Ends a task, and with it every task whose end follows from it.
    fn end(
        &mut self,
        task: TaskIndex,
        status: TaskStatus,
        at: Timestamp,
        changes: &mut Vec<Change>,
    ) {
        // A list instead of recursion: a skip may run down a chain of any length.
        let mut ends = Vec::new();
        let mut next = Some((task, status));
        while let Some((task, status)) = next {
            let state = &mut self.tasks[task.0 as usize];
            state.status = status;
            state.finished_at = Some(at);
            state.wakes_at = None;
            changes.push(Change::Ended(task));
            match status {
                TaskStatus::Succeeded => self.counts.succeeded += 1,
                TaskStatus::Failed => self.counts.failed += 1,
                _ => self.counts.skipped += 1,
            }
            if let Place::Item { of, .. } = state.place {
                let Place::List { open, .. } = &mut self.tasks[of.0 as usize].place else {
                    unreachable!("an item's task is a list");
                };
                *open -= 1;
                if *open == 0 {
                    self.end_list(of, at, changes);
                }
                // Nothing needs an item.
                return;
            }
            if let Place::List { first, count, .. } = state.place {
                // A list may end before its items: it has a total timeout of its own.
                self.cancel_open(first..first + count, at, changes);
            }
            if status == TaskStatus::Failed
                && self.failure.is_none()
                && !self.tolerates_failure_of(task)
            {
                self.failure = self.failure_of_run(task);
            }
            self.open -= 1;
            let level = self.definition.plan.level_of(task);
            let open = &mut self.open_by_level[level as usize];
            *open -= 1;
            if *open == 0 {
                changes.push(Change::LevelCompleted(level));
            }
            let goes_on = status == TaskStatus::Succeeded
                || status == TaskStatus::Failed && self.tolerates_failure_of(task);
            for &dependent in self.definition.plan.dependents(task) {
                let state = &mut self.tasks[dependent as usize];
                if state.status != TaskStatus::Pending {
                    continue;
                }
                if goes_on {
                    state.needs_left -= 1;
                    if state.needs_left == 0 {
                        state.make_ready(at);
                        changes.push(Change::Ready(TaskIndex(dependent)));
                    }
                } else {
                    // Marked now, so that a second failing need does not end it twice.
                    state.status = TaskStatus::Skipped;
                    state.skipped_by = Some(task);
                    ends.push((TaskIndex(dependent), TaskStatus::Skipped));
                }
            }
            next = ends.pop();
        }
    }

    /// Cancels those of the tasks that have not ended.
    fn cancel_open(&mut self, tasks: Range<u32>, at: Timestamp, changes: &mut Vec<Change>) {
        for task in tasks {
            let state = &mut self.tasks[task as usize];
            if !state.status.is_terminal() {
                state.status = TaskStatus::Cancelled;
                state.finished_at = Some(at);
                state.wakes_at = None;
                self.counts.cancelled += 1;
                changes.push(Change::Ended(TaskIndex(task)));
            }
        }
    }

    /// Ends a `for_each` whose items have all ended: with the list of their outputs, or as its first
    /// failed item did.
    fn end_list(&mut self, task: TaskIndex, at: Timestamp, changes: &mut Vec<Change>) {
        let Place::List { first, count, .. } = self.task(task).place else {
            unreachable!("only lists end as lists");
        };
        let items = &self.tasks[first as usize..(first + count) as usize];
        let failed = items
            .iter()
            .position(|item| item.status == TaskStatus::Failed);
        if let Some(position) = failed
            && !self.tolerates_failure_of(task)
        {
            let failure = items[position].failure.clone();
            self.task_mut(task).failure = failure.map(|failure| {
                Box::new(Failure::permanent(
                    failure.code,
                    format!("item {position}: {}", failure.message),
                ))
            });
            self.end(task, TaskStatus::Failed, at, changes);
            return;
        }
        let output = json_list(items.iter().map(|item| item.output.as_ref()));
        self.task_mut(task).output = Some(output);
        self.end(task, TaskStatus::Succeeded, at, changes);
    }

    fn failure_of_run(&self, task: TaskIndex) -> Option<Failure> {
        let id = &self.definition.tasks[task.0 as usize].id;
        let failure = self.task(task).failure.as_ref()?;
        Some(Failure::permanent(
            failure.code,
            format!("task `{id}` failed: {}", failure.message),
        ))
    }
}

fn json_list<'a>(values: impl Iterator<Item = Option<&'a Bytes>>) -> Bytes {
    let mut list = BytesMut::from(&b"["[..]);
    for value in values {
        if list.len() > 1 {
            list.put_u8(b',');
        }
        list.put_slice(value.map_or(b"null", |value| &value[..]));
    }
    list.put_u8(b']');
    list.freeze()
}
