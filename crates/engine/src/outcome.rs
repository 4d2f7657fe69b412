//! Outcomes of attempts.

use std::time::Duration;

use levelflow_common::limits::{MAX_OUTPUT_BYTES, MAX_RETRY_AFTER, MAX_RUN_OUTPUT_BYTES};
use levelflow_common::{
    AttemptResult, Code, Failure, FencingToken, RunStatus, Timestamp, UpstreamReport,
};

use crate::command::Command;
use crate::engine::Engine;
use crate::event::{RunKey, SessionId};
use crate::lease::Lease;
use crate::live::LiveTask;
use crate::mix::mix;
use crate::record::{Fact, RecordedStream};
use crate::timer::Timer;

/// How an attempt ended.
pub(crate) struct AttemptEnd {
    pub(crate) result: AttemptResult,
    pub(crate) duration: Duration,
    pub(crate) stream: Option<Box<RecordedStream>>,
}

impl Engine {
    pub(crate) fn outcome(
        &mut self,
        now: Timestamp,
        session: SessionId,
        token: FencingToken,
        ended: AttemptEnd,
        upstreams: Option<&UpstreamReport>,
    ) {
        let AttemptEnd {
            result,
            duration,
            stream,
        } = ended;
        let Some(lease) = self.end_lease_of(now, session, token) else {
            self.stale_results += 1;
            // It may repeat one that was accepted and is not durable yet.
            let after = self.last_batch();
            self.command(after, Command::Acknowledge { session, token });
            return;
        };
        let (key, task) = (lease.run, lease.task);
        if let Some(report) = upstreams {
            self.calls_ended(now, lease.passed, &report.calls);
            if result.is_err()
                && let Some(upstream) = &report.parked_on
            {
                self.park(now, lease, upstream);
                let after = self.run(key).recorded_in.0;
                self.command(after, Command::Acknowledge { session, token });
                return;
            }
        }
        *self.live_task(key, task) = LiveTask::Idle;
        let run = self.run_mut(key);
        run.gate.leave(&run.state, task);
        let started_at = lease.started_at.max(now.saturating_sub(duration));
        let chunk_bytes = stream.as_ref().map_or(0, |stream| stream.packed.len());
        match self.within_bounds(key, result, chunk_bytes) {
            Ok(output) => {
                let worker = Some(self.workers.get(lease.worker).hello.worker.clone());
                let run = &self.runs[key.0 as usize];
                let defined = run.state.defined(task);
                self.lanes
                    .took(run.profile.lanes[defined.0 as usize], duration);
                self.measured.note(run, defined, duration);
                self.keep_stream(key, task, stream.as_deref());
                let fact = Fact::Succeeded {
                    task,
                    attempt: lease.attempt,
                    started_at,
                    worker,
                    output,
                    stream,
                    cached: None,
                    similar_to: self.flights.shown(key, task),
                };
                self.record(now, key, fact);
                self.admit_gated_if_running(now, key);
            }
            Err(failure) => self.attempt_failed(now, &lease, started_at, failure),
        }
        let after = self.run(key).recorded_in.0;
        self.command(after, Command::Acknowledge { session, token });
    }

    /// An attempt did nothing, because it may not call an upstream: its task waits for that.
    fn park(&mut self, now: Timestamp, lease: Lease, upstream: &str) {
        let (key, task) = (lease.run, lease.task);
        *self.live_task(key, task) = LiveTask::Idle;
        let upstream = self.intern_upstream(now, upstream);
        self.requeue(now, key, task, lease.input, upstream, lease.keys.as_deref());
        self.finish_if_done(now, key);
    }

    /// An attempt whose lease was ended failed: the task tries again, or fails.
    pub(crate) fn attempt_failed(
        &mut self,
        now: Timestamp,
        lease: &Lease,
        started_at: Timestamp,
        failure: Failure,
    ) {
        let (key, task) = (lease.run, lease.task);
        let state = &self.run(key).state;
        if state.status != RunStatus::Running {
            // The run is ending: its tasks end with it.
            self.finish_if_done(now, key);
            return;
        }
        if failure.code == Code::Cancelled {
            // The worker stopped it for its own reasons, such as a drain.
            self.readmit(now, key, task);
            self.admit_gated(now, key);
            return;
        }
        if let Some(quarantined) = self.quarantined(lease, &failure) {
            self.quarantine(now, lease, started_at, quarantined, failure.code);
            return;
        }
        let retry = &state.definition.tasks[state.defined(task).0 as usize].retry;
        let retry_at = if retry.retries(lease.attempt, &failure) {
            let asked = failure.retry_after.map_or(Duration::ZERO, |wait| wait.0);
            let wait = retry.backoff(lease.attempt, self.jitter(lease));
            Some(now.saturating_add(wait.max(asked.min(MAX_RETRY_AFTER))))
        } else {
            None
        };
        let fact = Fact::Failed {
            task,
            attempt: lease.attempt,
            started_at: Some(started_at),
            worker: Some(self.workers.get(lease.worker).hello.worker.clone()),
            failure,
            retry_at,
        };
        self.record(now, key, fact);
        if let Some(at) = retry_at {
            self.arm(key, at, Timer::Wake(key, task));
        }
        self.admit_gated_if_running(now, key);
    }

    /// A number that is the same whenever this attempt fails on this engine, and evenly spread over attempts.
    fn jitter(&self, lease: &Lease) -> u64 {
        let run = self.run(lease.run).state.number.0;
        let parts = [run, lease.task.0.into(), lease.attempt.into()];
        mix(self.config.seed, parts)
    }

    pub(crate) fn admit_gated_if_running(&mut self, now: Timestamp, key: RunKey) {
        if self.run(key).state.status == RunStatus::Running {
            self.admit_gated(now, key);
        }
    }

    pub(crate) fn within_bounds(
        &self,
        key: RunKey,
        result: AttemptResult,
        chunk_bytes: usize,
    ) -> AttemptResult {
        let output = result?;
        let in_run = self.run(key).state.output_bytes + output.len() + chunk_bytes;
        let (size, limit, what) = if output.len() > MAX_OUTPUT_BYTES {
            (output.len(), MAX_OUTPUT_BYTES, "the output has")
        } else if in_run > MAX_RUN_OUTPUT_BYTES {
            (in_run, MAX_RUN_OUTPUT_BYTES, "the outputs of the run have")
        } else {
            return Ok(output);
        };
        Err(Failure::permanent(
            Code::OutputTooLarge,
            format!("{what} {size} bytes; the limit is {limit}"),
        ))
    }
}
