//! Cancels and ends of runs.

use std::sync::Arc;

use bytes::Bytes;
use levelflow_common::{Failure, Protection, RunId, RunStatus, Timestamp};

use crate::advance::context;
use crate::command::{Answer, BatchNumber, Command, Ended, RenderOutputs};
use crate::engine::Engine;
use crate::event::{ReplyId, RunKey, Ticket};
use crate::live::LiveTask;
use crate::record::{Fact, TaskIndex};
use crate::rejection::Rejection;

impl Engine {
    pub(crate) fn cancel(
        &mut self,
        now: Timestamp,
        reply: ReplyId,
        run_id: RunId,
        reason: Arc<str>,
    ) -> Result<(), Rejection> {
        let Some(&key) = self.by_id.get(&run_id) else {
            return Err(Rejection::RunNotFound(run_id));
        };
        let status = self.run(key).state.status;
        if status.is_terminal() {
            return Err(Rejection::RunEnded { run_id, status });
        }
        if status == RunStatus::Running {
            self.stop_run(now, key, Fact::CancelRequested { reason });
        }
        let run = self.run(key);
        let (status, after) = (run.state.status, run.recorded_in.0);
        let answer = Answer::Cancelling { status };
        self.command(after, Command::Reply { reply, answer });
        Ok(())
    }

    /// Starts nothing more of a run, and stops what runs. It ends when the workers have let go.
    pub(crate) fn stop_run(&mut self, now: Timestamp, key: RunKey, fact: Fact) {
        let run = self.run_mut(key);
        run.gate.close();
        run.rendering = None;
        let tasks = run.tasks.len() as u32;
        let mut stops = Vec::new();
        for task in (0..tasks).map(TaskIndex) {
            if let &LiveTask::Leased(token) = &self.run(key).tasks[task.0 as usize]
                && let Some(lease) = self.leases.get(token)
                && lease.sent
            {
                let session = self.workers.get(lease.worker).session;
                stops.extend(session.map(|session| (session, token)));
            } else if Protection::EmptiedQueue.holds() {
                self.release(now, key, task);
            }
        }
        self.record(now, key, fact);
        if !self.flights.is_empty() {
            for task in (0..tasks).map(TaskIndex) {
                self.land(now, key, task);
            }
        }
        let after = self.run(key).recorded_in.0;
        for (session, token) in stops {
            self.command(after, Command::Stop { session, token });
        }
    }

    /// Ends a run of which nothing is left to do.
    pub(crate) fn finish_if_done(&mut self, now: Timestamp, key: RunKey) {
        let run = self.run(key);
        let state = &run.state;
        match state.status {
            RunStatus::Running if state.open == 0 && run.rendering.is_none() => {
                if let Some(failure) = state.failure.clone() {
                    self.finish(now, key, RunStatus::Failed, None, Some(failure));
                } else if let Some(outputs) = state.definition.constant_outputs.clone() {
                    self.finish(now, key, RunStatus::Succeeded, Some(outputs), None);
                } else {
                    self.render_outputs(key);
                }
            }
            RunStatus::Cancelling if run.leases == 0 => {
                if state.timed_out {
                    let failure = state.failure.clone();
                    self.finish(now, key, RunStatus::Failed, None, failure);
                } else {
                    self.finish(now, key, RunStatus::Cancelled, None, None);
                }
            }
            _ => {}
        }
    }

    fn render_outputs(&mut self, key: RunKey) {
        let ticket = self.ticket();
        let run = self.run_mut(key);
        run.rendering = Some(ticket);
        let tasks = (0..run.state.definition.plan.len() as u32).map(TaskIndex);
        let render = RenderOutputs {
            run: key,
            ticket,
            context: context(&run.state, tasks),
        };
        self.command(
            BatchNumber::default(),
            Command::RenderOutputs(Box::new(render)),
        );
    }

    pub(crate) fn outputs_rendered(
        &mut self,
        now: Timestamp,
        key: RunKey,
        ticket: Ticket,
        result: Result<Bytes, Failure>,
    ) {
        let current = self
            .runs
            .get(key.0 as usize)
            .is_some_and(|run| run.rendering == Some(ticket));
        if !current {
            return;
        }
        match result {
            Ok(outputs) => self.finish(now, key, RunStatus::Succeeded, Some(outputs), None),
            Err(failure) => self.finish(now, key, RunStatus::Failed, None, Some(failure)),
        }
    }

    fn finish(
        &mut self,
        now: Timestamp,
        key: RunKey,
        status: RunStatus,
        outputs: Option<Bytes>,
        failure: Option<Failure>,
    ) {
        self.open_runs -= 1;
        self.record(
            now,
            key,
            Fact::Finished {
                status,
                outputs: outputs.clone(),
                failure: failure.clone(),
            },
        );
        let run = self.run(key);
        let ended = Ended {
            run: key,
            number: run.state.number,
            run_id: run.state.submitted.run_id,
            status,
            outputs,
            failure,
        };
        self.measured.run_ended(&self.runs[key.0 as usize]);
        let after = self.gathering();
        self.command(after, Command::Ended(Box::new(ended)));
    }

    /// Forgets an ended run: its journal is durable, and the store serves it from now on. Its submit
    /// key stays known for the dedup window, so that a submit that looked in the store before it was
    /// there still finds it.
    ///
    /// # Panics
    /// When the run is unknown or has not ended.
    pub fn evict(&mut self, now: Timestamp, key: RunKey) {
        let run = self.runs.remove(key.0 as usize);
        assert!(
            run.state.status.is_terminal(),
            "only ended runs are evicted"
        );
        for (at, timer) in run.timers {
            self.timers.disarm(at, timer);
        }
        let submitted = &run.state.submitted;
        self.by_id.remove(&submitted.run_id);
        if let Some(key) = &submitted.key {
            let until = now.saturating_add(self.config.dedup_window);
            let name = (submitted.tenant.clone(), key.key.clone());
            self.fading_keys.push_back((until, submitted.run_id, name));
        }
    }
}
