//! What happens because time passed.

use levelflow_common::{Code, Failure, FencingToken, Protection, RunStatus, TaskStatus, Timestamp};

use crate::engine::Engine;
use crate::event::RunKey;
use crate::live::LiveTask;
use crate::record::{Fact, TaskIndex};
use crate::timer::Timer;

impl Engine {
    pub(crate) fn tick(&mut self, now: Timestamp) {
        while let Some((at, timer)) = self.timers.pop_due(now) {
            match timer {
                Timer::Wake(run, task) => self.wake(now, at, run, task),
                Timer::QueueTimeout(run, task) => self.queue_timeout(now, run, task),
                Timer::TaskTimeout(run, task) => self.task_timeout(now, run, task),
                Timer::RunTimeout(run) => {
                    if self.run(run).state.status == RunStatus::Running {
                        self.stop_run(now, run, Fact::TimedOut);
                    }
                }
                Timer::Refill(bucket) => self.refill(now, bucket),
                Timer::Sweep => self.sweep(now),
                Timer::Breakers => self.probe_upstreams(now),
            }
        }
    }

    fn wake(&mut self, now: Timestamp, at: Timestamp, key: RunKey, task: TaskIndex) {
        let state = &self.run(key).state;
        if state.status != RunStatus::Running || state.task(task).wakes_at != Some(at) {
            return;
        }
        if !matches!(
            self.run(key).tasks.get(task.0 as usize),
            None | Some(LiveTask::Idle)
        ) {
            return;
        }
        let state = &self.run(key).state;
        match state.task(task).status {
            TaskStatus::Sleeping => {
                let started_at = state.task(task).started_at.unwrap_or(now);
                let fact = Fact::Succeeded {
                    task,
                    attempt: 0,
                    started_at,
                    worker: None,
                    output: bytes::Bytes::from_static(b"null"),
                    stream: None,
                    cached: None,
                    similar_to: None,
                };
                self.record(now, key, fact);
            }
            TaskStatus::Backoff => self.readmit(now, key, task),
            _ => {}
        }
    }

    fn queue_timeout(&mut self, now: Timestamp, key: RunKey, task: TaskIndex) {
        let state = &self.run(key).state;
        let spec = &state.definition.tasks[state.defined(task).0 as usize];
        let limit = spec.queue_timeout.unwrap_or_default();
        let (since, what) = match *self.live_task(key, task) {
            // While an upstream is not to be called, the task does not wait for a worker.
            LiveTask::Queued { since, lane, .. } => {
                let since = self.free_since(now, lane).max(since);
                (since, "no worker took the task")
            }
            LiveTask::Parked { since, .. } => (since, "its limits did not let the task start"),
            _ => return,
        };
        // It may also have been queued anew since.
        if since.saturating_add(limit) > now {
            let at = since.saturating_add(limit.max(self.config.sweep_interval));
            self.arm(key, at, Timer::QueueTimeout(key, task));
            return;
        }
        let waited = now.since(since);
        let failure = Failure::permanent(Code::QueueTimeout, format!("{what} within {waited:?}"));
        self.fail_unstarted(now, key, task, failure);
    }

    fn task_timeout(&mut self, now: Timestamp, key: RunKey, task: TaskIndex) {
        let state = &self.run(key).state;
        if state.status != RunStatus::Running || state.task(task).status.is_terminal() {
            return;
        }
        let limit = state.definition.tasks[state.defined(task).0 as usize]
            .total_timeout
            .unwrap_or_default();
        let failure = Failure::permanent(
            Code::TotalTimeout,
            format!("the task took longer than its total timeout of {limit:?}"),
        );
        self.fail_under_way(now, key, task, failure);
    }

    /// Fails a task, whether an attempt of it is under way or not.
    pub(crate) fn fail_under_way(
        &mut self,
        now: Timestamp,
        key: RunKey,
        task: TaskIndex,
        failure: Failure,
    ) {
        let lease = match *self.live_task(key, task) {
            LiveTask::Leased(token) => self.leases.get(token).filter(|lease| lease.sent),
            _ => None,
        };
        let Some(lease) = lease else {
            self.fail_unstarted(now, key, task, failure);
            return;
        };
        let fact = Fact::Failed {
            task,
            attempt: lease.attempt,
            started_at: Some(lease.started_at),
            worker: Some(self.workers.get(lease.worker).hello.worker.clone()),
            failure,
            retry_at: None,
        };
        self.record(now, key, fact);
    }

    /// Ends leases that were not renewed, and attempts that their worker should have ended by itself.
    fn sweep(&mut self, now: Timestamp) {
        let slack = self.timeout_slack();
        let mut over: Vec<(FencingToken, Failure)> = Vec::new();
        for (token, lease) in self.leases.iter() {
            if !lease.sent {
                continue;
            }
            let state = &self.run(lease.run).state;
            let spec = &state.definition.tasks[state.defined(lease.task).0 as usize];
            let is_silent = now.since(lease.renewed_at) > self.config.lease;
            let failure = if is_silent && Protection::LeaseEnd.holds() {
                let why = format!("no heartbeat for {:?}", self.config.lease);
                let worker = self.workers.get(lease.worker);
                Failure::retryable(Code::WorkerLost, worker.loss(&why))
            } else if now.since(lease.started_at) > spec.run_timeout.saturating_add(slack) {
                Failure::retryable(
                    Code::RunTimeout,
                    format!("the attempt took longer than {:?}", spec.run_timeout),
                )
            } else if let Some(limit) = spec.heartbeat_timeout
                && now.since(lease.progressed_at) > limit.saturating_add(slack)
            {
                Failure::retryable(
                    Code::HeartbeatTimeout,
                    format!("the handler was silent for longer than {limit:?}"),
                )
            } else {
                continue;
            };
            over.push((token, failure));
        }
        for (token, failure) in over {
            self.expire(now, token, failure);
        }
        self.let_go_of_workers(now);
        let is_over =
            self.leases.is_empty() && self.workers.iter().all(|(_, it)| it.session.is_some());
        if is_over {
            self.sweep_at = None;
        } else {
            self.arm_sweep(now);
        }
    }

    /// Tells of workers that lost attempts, and forgets those that have been away for as long as a lease.
    fn let_go_of_workers(&mut self, now: Timestamp) {
        let mut silent = Vec::new();
        let mut gone = Vec::new();
        for (key, worker) in self.workers.iter() {
            if worker.lost > 0 {
                silent.push(key);
            }
            let is_away = worker.session.is_none() && worker.leases == 0;
            if is_away && (worker.draining || now.since(worker.left_at) > self.config.lease) {
                gone.push(key);
            }
        }
        let lease = self.config.lease;
        for key in silent {
            self.tell_lost(key, format!("no heartbeat for {lease:?}"));
        }
        for key in gone {
            self.tell_lost(key, format!("no connection for {lease:?}"));
            self.remove_worker(key);
        }
    }
}
