//! Runs as clients see them.

use levelflow_common::view::{RunSummary, RunView, TaskView};
use levelflow_common::{RunId, Timestamp, WorkerId};

use crate::advance::served_status;
use crate::command::BatchNumber;
use crate::engine::Engine;
use crate::event::{RunKey, SessionId};
use crate::live::LiveTask;
use crate::measured::expected;
use crate::record::{RunNumber, TaskIndex};
use crate::run::RunState;

impl Engine {
    /// An open run, with what is known beyond the journal, and the batch that must be durable before
    /// it is shown.
    pub fn view(&self, run_id: RunId) -> Option<(BatchNumber, RunView)> {
        let &key = self.by_id.get(&run_id)?;
        let run = self.run(key);
        let mut view = run.state.view();
        for (task, view) in view.tasks.iter_mut().enumerate() {
            self.add_live(key, TaskIndex(task as u32), view);
        }
        Some((run.recorded_in.0, view))
    }

    /// The row of an open run.
    pub fn summary(&self, run_id: RunId) -> Option<(BatchNumber, RunSummary)> {
        let &key = self.by_id.get(&run_id)?;
        let run = self.run(key);
        Some((run.recorded_in.0, run.state.summary()))
    }

    /// The number of an open run.
    pub fn number(&self, run_id: RunId) -> Option<RunNumber> {
        let &key = self.by_id.get(&run_id)?;
        Some(self.run(key).state.number)
    }

    /// The worker behind a live session.
    pub fn worker_of(&self, session: SessionId) -> Option<WorkerId> {
        let key = self.workers.of_session(session)?;
        Some(self.workers.get(key).hello.worker.clone())
    }

    fn add_live(&self, key: RunKey, task: TaskIndex, view: &mut TaskView) {
        let run = self.run(key);
        let Some(live) = run.tasks.get(task.0 as usize) else {
            return;
        };
        view.status = served_status(&run.state, task, live);
        if let LiveTask::Leased(token) = live
            && let Some(lease) = self.leases.get(*token)
        {
            view.attempts = lease.attempt;
            view.started_at = Some(lease.started_at);
            view.worker = Some(self.workers.get(lease.worker).hello.worker.clone());
            view.wakes_at = None;
        }
    }
}

impl RunState {
    /// The run as its journal tells it.
    pub fn view(&self) -> RunView {
        RunView {
            summary: self.summary(),
            sequence: self.sequence,
            inputs: self.submitted.inputs.clone(),
            outputs: self.outputs.clone(),
            tasks: (0..self.tasks.len() as u32)
                .map(|task| self.task_view(TaskIndex(task)))
                .collect(),
            critical_path: self
                .critical_path()
                .into_iter()
                .map(|task| self.definition.tasks[task.0 as usize].id.clone())
                .collect(),
        }
    }

    /// The line of the run in a list.
    pub fn summary(&self) -> RunSummary {
        let submitted = &self.submitted;
        RunSummary {
            run_id: submitted.run_id,
            workflow: submitted.workflow.clone(),
            digest: submitted.digest,
            tenant: submitted.tenant.clone(),
            status: self.status,
            priority: submitted.priority,
            labels: submitted.labels.clone(),
            submitted_at: self.submitted_at,
            finished_at: self.finished_at,
            counts: self.counts,
            failure: self.failure.clone(),
            resumed_from: submitted.resumed_from,
        }
    }

    fn task_view(&self, task: TaskIndex) -> TaskView {
        let state = self.task(task);
        let defined = self.defined(task);
        let spec = &self.definition.tasks[defined.0 as usize];
        TaskView {
            task_id: spec.id.clone(),
            item: self.item(task),
            kind: spec.kind,
            status: state.status,
            level: self.definition.plan.level_of(defined),
            attempts: state.attempts,
            queued_at: state.queued_at,
            started_at: state.started_at,
            finished_at: state.finished_at,
            wakes_at: state.wakes_at,
            worker: state.worker.clone(),
            output: state.output.clone(),
            failure: state.failure.as_deref().cloned(),
            reused_from: state.reused_from.as_deref().copied(),
            chunks: state.chunks,
            cached: state.cached.as_deref().copied(),
            similar_to: state.similar_to.as_deref().cloned(),
        }
    }

    /// The chain of tasks that took longest, from ready to end; tasks that have not ended count with
    /// what is expected of their kind.
    fn critical_path(&self) -> Vec<TaskIndex> {
        let took = |from: Timestamp, to: Timestamp| to.since(from).as_micros() as u64;
        let remaining = self.definition.plan.remaining(|task| {
            let state = self.task(task);
            match (state.queued_at, state.finished_at) {
                (Some(from), Some(to)) => took(from, to),
                (None, Some(_)) => 0,
                _ => expected(self.definition.tasks[task.0 as usize].kind),
            }
        });
        self.definition.plan.critical_path(&remaining)
    }
}
