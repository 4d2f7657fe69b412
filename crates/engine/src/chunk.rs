//! What the keeper of chunks must know: to which task an attempt's chunks belong, and how the task ends.
//!
//! Chunks themselves pass the engine by. Only those of an attempt that succeeded come here, with its outcome.

use levelflow_common::chunk::TaskEnd;
use levelflow_common::event::TaskRef;
use levelflow_common::{FencingToken, RunId};

use crate::command::BatchNumber;
use crate::engine::Engine;
use crate::event::SessionId;
use crate::live::LiveTask;
use crate::record::{RunNumber, TaskIndex};
use crate::rejection::Rejection;
use crate::run::RunState;

/// The attempt of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptPlace {
    /// The run.
    pub run_id: RunId,
    /// The number of the run in the store.
    pub run: RunNumber,
    /// The task.
    pub task: TaskIndex,
    /// The number of the attempt, from 1.
    pub attempt: u32,
}

/// A task that somebody wants to follow.
#[derive(Clone, Copy, Debug)]
pub struct FollowedTask {
    /// The number of the run in the store.
    pub run: RunNumber,
    /// The task.
    pub task: TaskIndex,
    /// Whether it has ended.
    pub ended: bool,
    /// The batch with the last record of the run.
    pub after: BatchNumber,
    /// The attempt that is under way, with its token.
    pub attempt: Option<(FencingToken, u32)>,
}

impl Engine {
    /// The attempt of a token; none if the worker of that session has no right to it.
    pub fn attempt_of(&self, session: SessionId, token: FencingToken) -> Option<AttemptPlace> {
        let lease = self.leases.get(token)?;
        if self.workers.get(lease.worker).session != Some(session) {
            return None;
        }
        let state = &self.run(lease.run).state;
        Some(AttemptPlace {
            run_id: state.submitted.run_id,
            run: state.number,
            task: lease.task,
            attempt: lease.attempt,
        })
    }

    /// A task of an open run.
    ///
    /// # Errors
    /// When the run is not open, or has no such task.
    pub fn followed_task(
        &self,
        run_id: RunId,
        task_id: &str,
        item: Option<u32>,
    ) -> Result<FollowedTask, Rejection> {
        let not_open = Rejection::RunNotFound(run_id);
        let run = self.run(*self.by_id.get(&run_id).ok_or(not_open)?);
        let state = &run.state;
        let task = state.find(task_id, item).ok_or_else(|| {
            let task = task_id.to_owned();
            Rejection::TaskNotFound { run_id, task }
        })?;
        let attempt = match run.tasks.get(task.0 as usize) {
            Some(&LiveTask::Leased(token)) => {
                let lease = self.leases.get(token).filter(|lease| lease.sent);
                lease.map(|lease| (token, lease.attempt))
            }
            _ => None,
        };
        Ok(FollowedTask {
            run: state.number,
            task,
            ended: state.task(task).status.is_terminal(),
            after: run.recorded_in.0,
            attempt,
        })
    }

    /// How watchers call a task of an open run.
    pub fn task_ref(&self, run_id: RunId, task: TaskIndex) -> Option<TaskRef> {
        let &key = self.by_id.get(&run_id)?;
        Some(self.run(key).state.task_ref(task))
    }

    /// How a task of an open run ended; none if it has not.
    pub fn task_end(&self, run_id: RunId, task: TaskIndex) -> Option<TaskEnd> {
        let &key = self.by_id.get(&run_id)?;
        self.run(key).state.task_end(task)
    }
}

impl RunState {
    /// How a task ended; none if it has not.
    pub fn task_end(&self, task: TaskIndex) -> Option<TaskEnd> {
        let state = self.task(task);
        state.status.is_terminal().then(|| TaskEnd {
            status: state.status,
            attempt: state.attempts,
            chunks: state.chunks,
            output: state.output.clone(),
            failure: state.failure.as_deref().cloned(),
        })
    }
}
