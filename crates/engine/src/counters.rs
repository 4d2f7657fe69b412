//! What an engine has done, in plain numbers that whoever owns it may look at.

use levelflow_common::{RunStatus, TaskKind, TaskStatus};

use crate::engine::Engine;
use crate::event::RunKey;
use crate::record::{Fact, TaskIndex};

/// The task kinds that there are.
const KINDS: usize = TaskKind::ALL.len();

/// What an engine has done since it was made. What it was restored with does not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Runs that were accepted.
    pub submitted_runs: u64,
    ended_runs: [u64; RunStatus::ALL.len()],
    ended_tasks: [[u64; KINDS]; TaskStatus::ALL.len()],
    started_attempts: [u64; KINDS],
    retried_attempts: [u64; KINDS],
}

impl Counters {
    /// Runs that ended so.
    pub fn ended_runs(&self, status: RunStatus) -> u64 {
        self.ended_runs[status as usize]
    }

    /// Tasks of a kind that ended so, items of `for_each` included.
    pub fn ended_tasks(&self, status: TaskStatus, kind: TaskKind) -> u64 {
        self.ended_tasks[status as usize][kind as usize]
    }

    /// Attempts at tasks of a kind that were given to workers.
    pub fn started_attempts(&self, kind: TaskKind) -> u64 {
        self.started_attempts[kind as usize]
    }

    /// Attempts at tasks of a kind that failed and are followed by another.
    pub fn retried_attempts(&self, kind: TaskKind) -> u64 {
        self.retried_attempts[kind as usize]
    }

    pub(crate) fn attempt_started(&mut self, kind: TaskKind) {
        self.started_attempts[kind as usize] += 1;
    }
}

impl Engine {
    /// What it has done.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn count_fact(&mut self, key: RunKey, fact: &Fact) {
        match fact {
            Fact::Submitted(_) => self.counters.submitted_runs += 1,
            Fact::Finished { status, .. } => self.counters.ended_runs[*status as usize] += 1,
            Fact::Failed {
                task,
                retry_at: Some(_),
                ..
            } => {
                let kind = self.kind(key, *task);
                self.counters.retried_attempts[kind as usize] += 1;
            }
            _ => {}
        }
    }

    pub(crate) fn count_end(&mut self, key: RunKey, task: TaskIndex) {
        let status = self.run(key).state.task(task).status;
        let kind = self.kind(key, task);
        self.counters.ended_tasks[status as usize][kind as usize] += 1;
    }

    fn kind(&self, key: RunKey, task: TaskIndex) -> TaskKind {
        let state = &self.run(key).state;
        state.definition.tasks[state.defined(task).0 as usize].kind
    }
}
