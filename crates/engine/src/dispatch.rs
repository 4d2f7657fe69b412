//! Giving ready tasks to workers.

use std::sync::Arc;
use std::time::Duration;

use levelflow_common::workflow::Durability;
use levelflow_common::{FencingToken, Protection, TaskKind, Timestamp};

use crate::command::{Attempt, Command};
use crate::engine::Engine;
use crate::event::{RunKey, SessionId, Ticket};
use crate::lane::LaneId;
use crate::lease::Lease;
use crate::live::{LiveRun, LiveTask};
use crate::ready::Head;
use crate::record::TaskIndex;
use crate::timer::Timer;
use crate::worker::WorkerKey;

impl Engine {
    /// Gives waiting tasks to workers that take them, the most urgent first.
    ///
    /// Called after a group of events rather than in each, so that the choice is among all of them.
    pub fn assign(&mut self, now: Timestamp) {
        self.carry_out_verdicts(now);
        while let Some((lane, head, worker)) = self.most_urgent(now) {
            let (run, task) = self.lanes.get_mut(lane).queue.take(head);
            if self.run(run).has_limits && !self.pass_limits(now, run, task) {
                continue;
            }
            self.lanes.count(lane, false);
            let stuck_to = self.stuck_to(now, self.lanes.get(lane), run, task);
            let worker = stuck_to.unwrap_or(worker);
            self.grant(now, run, task, lane, worker);
        }
    }

    /// The most urgent head among the lanes that some worker can serve now.
    fn most_urgent(&mut self, now: Timestamp) -> Option<(LaneId, Head, WorkerKey)> {
        let mut best: Option<(LaneId, Head, WorkerKey)> = None;
        for place in 0..self.lanes.ready().len() {
            let lane = self.lanes.ready()[place];
            let Some((worker, least)) = self.place(now, self.lanes.get(lane)) else {
                continue;
            };
            let ageing = self.config.ageing;
            let runs = &self.runs;
            let live = |run: RunKey, task: TaskIndex, ticket: Ticket| {
                is_queued(runs.get(run.0 as usize), task, ticket)
            };
            let Some(head) = self
                .lanes
                .get_mut(lane)
                .queue
                .peek(now, ageing, least, &live)
            else {
                continue;
            };
            if best.as_ref().is_none_or(|(_, most, _)| head < *most) {
                best = Some((lane, head, worker));
            }
        }
        best
    }

    fn grant(
        &mut self,
        now: Timestamp,
        key: RunKey,
        task: TaskIndex,
        lane: LaneId,
        worker: WorkerKey,
    ) {
        let LiveTask::Queued {
            input, ready_in, ..
        } = std::mem::take(self.live_task(key, task))
        else {
            unreachable!("a live head is queued");
        };
        let is_suspect = self.lanes.get(lane).is_for_suspects;
        let passed = self.pass(lane);
        let run = self.run_mut(key);
        run.leases += 1;
        // Relaxed runs need not wait for results, but always for their own submit.
        let after = match run.state.submitted.durability {
            Durability::Strict if Protection::DurableNeeds.holds() => ready_in,
            Durability::Strict | Durability::Relaxed => run.submitted_in,
        };
        let lease = Lease {
            run: key,
            task,
            attempt: run.state.task(task).attempts + 1,
            worker,
            input,
            passed,
            keys: None,
            is_suspect,
            sent: false,
            started_at: now,
            renewed_at: now,
            progressed_at: now,
        };
        let token = self.leases.grant(lease);
        *self.live_task(key, task) = LiveTask::Leased(token);
        let holder = self.workers.get_mut(worker);
        self.placing.given(holder);
        let instance = holder.hello.instance;
        holder.credits -= 1;
        holder.leases += 1;
        holder.suspects += u32::from(is_suspect);
        if let Some(session) = holder.session {
            self.command(after, Command::Dispatch { session, token });
        }
        let run = self.run_mut(key);
        if run.state.is_sticky(task) {
            run.sticks_to = Some((worker, instance));
        }
        if self.sweep_at.is_none() {
            self.arm_sweep(now);
        }
    }

    pub(crate) fn arm_sweep(&mut self, now: Timestamp) {
        let at = now.saturating_add(self.config.sweep_interval);
        self.sweep_at = Some(at);
        self.timers.arm(at, Timer::Sweep);
    }

    /// The attempt to send for a [`Command::Dispatch`]; none if it was taken back in the meantime.
    pub fn start(&mut self, now: Timestamp, token: FencingToken) -> Option<Attempt> {
        let lease = self.leases.get_mut(token)?;
        lease.sent = true;
        lease.started_at = now;
        lease.renewed_at = now;
        lease.progressed_at = now;
        let state = &self.runs[lease.run.0 as usize].state;
        let defined = state.defined(lease.task);
        let spec = &state.definition.tasks[defined.0 as usize];
        self.counters.attempt_started(spec.kind);
        let input = lease
            .input
            .clone()
            .or_else(|| spec.constant_input.clone())
            .unwrap_or_default();
        Some(Attempt {
            token,
            run_id: state.submitted.run_id,
            number: state.number,
            task: lease.task,
            task_id: spec.id.clone(),
            item: state.item(lease.task),
            attempt: lease.attempt,
            kind: spec.kind,
            handler: spec.requirement.handler.clone(),
            tenant: state.submitted.tenant.clone(),
            input,
            secrets: Arc::clone(spec.input.secrets()),
            timeout: spec.run_timeout,
            heartbeat_timeout: spec.heartbeat_timeout,
            upstream: lease
                .passed
                .map(|passed| self.upstreams.get(passed.upstream).name.clone()),
            near_hit: match spec.kind {
                TaskKind::Handler => self.flights.near_hit(lease.run, lease.task),
                _ => None,
            },
        })
    }

    /// Takes a lease back; a worker that has the attempt is told to stop.
    pub(crate) fn revoke(&mut self, now: Timestamp, token: FencingToken) {
        if let Some(lease) = self.end_lease(now, token) {
            if lease.sent {
                self.send_stop(&lease, token);
            } else {
                self.workers.get_mut(lease.worker).credits += 1;
            }
        }
    }

    /// Tells the worker of a lease to stop, once what was decided about the run is durable.
    pub(crate) fn send_stop(&mut self, lease: &Lease, token: FencingToken) {
        if let Some(session) = self.workers.get(lease.worker).session {
            let after = self.run(lease.run).recorded_in.0;
            self.command(after, Command::Stop { session, token });
        }
    }

    /// Forgets a lease, if it is that of the worker with this session.
    pub(crate) fn end_lease_of(
        &mut self,
        now: Timestamp,
        session: SessionId,
        token: FencingToken,
    ) -> Option<Lease> {
        let holder = self.leases.get(token)?.worker;
        if self.workers.get(holder).session != Some(session) {
            return None;
        }
        self.end_lease(now, token)
    }

    /// Forgets a lease, without a word to anyone.
    pub(crate) fn end_lease(&mut self, now: Timestamp, token: FencingToken) -> Option<Lease> {
        let mut lease = self.leases.revoke(token)?;
        let holder = self.workers.get_mut(lease.worker);
        holder.leases -= 1;
        holder.suspects -= u32::from(lease.is_suspect);
        let run = &mut self.runs[lease.run.0 as usize];
        run.leases -= 1;
        if run.has_limits {
            lease.keys = self.unclaim(now, lease.run, lease.task);
        }
        if let Some(passed) = lease.passed {
            self.passed_ended(passed);
        }
        Some(lease)
    }

    /// How long the coordinator waits beyond an attempt's own limit, which the worker keeps.
    pub(crate) fn timeout_slack(&self) -> Duration {
        self.config.heartbeat_interval
    }
}

pub(crate) fn is_queued(run: Option<&LiveRun>, task: TaskIndex, ticket: Ticket) -> bool {
    matches!(
        run.and_then(|run| run.tasks.get(task.0 as usize)),
        Some(LiveTask::Queued { ticket: known, .. }) if *known == ticket
    )
}
