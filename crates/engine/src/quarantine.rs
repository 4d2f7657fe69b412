//! Tasks with which workers go down.
//!
//! A worker takes all its attempts with it, so one that kills workers puts the blame on those beside it,
//! too. Therefore a worker gets only one task at a time that was lost with its worker before: the next
//! worker that goes down has just one of them, and the others are not counted a second time.

use levelflow_common::{Code, Failure, Timestamp, WorkerId};

use crate::command::{Command, Quarantined};
use crate::engine::Engine;
use crate::lease::Lease;
use crate::record::Fact;
use crate::task::TaskState;

impl Engine {
    /// Whether a task was lost with its worker before, and next to which others it runs matters.
    #[inline]
    pub(crate) fn is_suspect(&self, task: &TaskState) -> bool {
        !task.losses.is_empty()
            && self.config.quarantine_after > 0
            && task.losses.iter().any(|it| it.code == Code::WorkerLost)
    }

    /// Why the task of a lease is not tried again after a failure, if that is one too many of its kind.
    pub(crate) fn quarantined(&self, lease: &Lease, failure: &Failure) -> Option<Failure> {
        let limit = self.config.quarantine_after as usize;
        if limit == 0 || !failure.code.is_crash() {
            return None;
        }
        let losses = &self.run(lease.run).state.task(lease.task).losses;
        if losses.len() + 1 < limit {
            return None;
        }
        let mut known: Vec<String> = losses
            .iter()
            .map(|loss| told(loss.attempt, &loss.worker, loss.code, &loss.message))
            .collect();
        let worker = &self.workers.get(lease.worker).hello.worker;
        known.push(told(lease.attempt, worker, failure.code, &failure.message));
        let message = format!(
            "{} attempts were lost with the process that ran them: {}",
            known.len(),
            known.join("; ")
        );
        Some(Failure::permanent(Code::Quarantined, message))
    }

    /// Fails the task of a lease for good; `code` is how its last attempt went down.
    pub(crate) fn quarantine(
        &mut self,
        now: Timestamp,
        lease: &Lease,
        started_at: Timestamp,
        failure: Failure,
        code: Code,
    ) {
        let (key, task) = (lease.run, lease.task);
        let state = &self.run(key).state;
        let defined = state.defined(task);
        let quarantined = Quarantined {
            run_id: state.submitted.run_id,
            task_id: state.definition.tasks[defined.0 as usize].id.clone(),
            item: state.item(task),
            code,
            reason: failure.message.clone(),
        };
        let fact = Fact::Failed {
            task,
            attempt: lease.attempt,
            started_at: Some(started_at),
            worker: Some(self.workers.get(lease.worker).hello.worker.clone()),
            failure,
            retry_at: None,
        };
        self.record(now, key, fact);
        let after = self.run(key).recorded_in.0;
        self.command(after, Command::Quarantined(Box::new(quarantined)));
        self.admit_gated_if_running(now, key);
    }
}

fn told(attempt: u32, worker: &WorkerId, code: Code, message: &str) -> String {
    let named = format!("worker `{worker}`: ");
    let message = message.strip_prefix(&named).unwrap_or(message);
    format!("attempt {attempt} on worker `{worker}` ({code}): {message}")
}
