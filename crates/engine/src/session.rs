//! Workers coming, going and telling how they are.

use std::collections::BTreeSet;

use levelflow_common::{Code, Failure, FencingToken, Protection, Timestamp};

use crate::command::{BatchNumber, Command};
use crate::engine::Engine;
use crate::event::{Hello, Intake, SessionId};
use crate::lease::Lease;
use crate::live::LiveTask;
use crate::rejection::Rejection;
use crate::worker::{Worker, WorkerKey};

impl Engine {
    pub(crate) fn joined(
        &mut self,
        now: Timestamp,
        session: SessionId,
        mut hello: Hello,
    ) -> Result<(), Rejection> {
        let held: BTreeSet<FencingToken> = std::mem::take(&mut hello.held).into_iter().collect();
        let known = self.workers.named(&hello.worker.0);
        let key = match known {
            Some(key) if self.workers.get(key).hello.instance == hello.instance => {
                self.rejoin(now, key, session, &held);
                key
            }
            Some(key) if self.workers.get(key).session.is_some() => {
                return Err(Rejection::WorkerIdTaken(hello.worker.0));
            }
            replaced => {
                if let Some(key) = replaced {
                    let why = "the worker process was replaced";
                    self.lose_leases(now, key, why);
                    self.tell_lost(key, why.to_owned());
                    self.remove_worker(key);
                }
                let key = self.workers.insert(Worker::new(now, hello, session));
                self.lanes.worker_joined(key, self.workers.get(key));
                key
            }
        };
        let holds = |token| self.leases.get(token).is_some_and(|it| it.worker == key);
        let revoked = held.into_iter().filter(|&token| !holds(token)).collect();
        self.command(
            BatchNumber::default(),
            Command::Welcome { session, revoked },
        );
        Ok(())
    }

    /// The same process has a new stream: what it holds goes on, what it never got is taken back.
    fn rejoin(
        &mut self,
        now: Timestamp,
        key: WorkerKey,
        session: SessionId,
        held: &BTreeSet<FencingToken>,
    ) {
        let worker = self.workers.get_mut(key);
        let replaced = worker.session.replace(session);
        worker.credits = 0;
        worker.draining = false;
        worker.intake = Intake::All;
        worker.heard_at = now;
        worker.lost_is_told = false;
        if let Some(session) = replaced {
            let code = Code::WorkerIdTaken;
            self.command(BatchNumber::default(), Command::Close { session, code });
        }
        for token in self.leases.of(key) {
            if held.contains(&token) {
                if let Some(lease) = self.leases.get_mut(token) {
                    lease.renewed_at = now;
                }
            } else {
                self.take_back(now, token);
            }
        }
    }

    /// A stream is lost: nothing new goes to the worker, and what it never got is taken back. The
    /// leases decide about what it runs. It is not lost before they would be, since it may come back.
    pub(crate) fn left(&mut self, now: Timestamp, session: SessionId) {
        let Some(key) = self.workers.of_session(session) else {
            return;
        };
        let worker = self.workers.get_mut(key);
        worker.session = None;
        worker.credits = 0;
        worker.left_at = now;
        for token in self.leases.of(key) {
            if self.leases.get(token).is_some_and(|lease| !lease.sent) {
                self.take_back(now, token);
            }
        }
        let worker = self.workers.get(key);
        if worker.leases == 0 && worker.draining {
            self.remove_worker(key);
        } else if self.sweep_at.is_none() {
            self.arm_sweep(now);
        }
    }

    /// Says that a worker is lost: with attempts, or without having drained.
    pub(crate) fn tell_lost(&mut self, key: WorkerKey, reason: String) {
        let worker = self.workers.get_mut(key);
        let attempts = std::mem::take(&mut worker.lost);
        if attempts == 0 && (worker.draining || worker.lost_is_told) {
            return;
        }
        worker.lost_is_told = true;
        let worker = worker.hello.worker.clone();
        self.command(
            self.last_batch(),
            Command::WorkerLost {
                worker,
                reason,
                attempts,
            },
        );
    }

    pub(crate) fn remove_worker(&mut self, key: WorkerKey) {
        self.lanes.worker_removed(key);
        self.workers.remove(key);
    }

    pub(crate) fn granted(&mut self, now: Timestamp, session: SessionId, credits: u32) {
        if let Some(key) = self.workers.of_session(session) {
            let worker = self.workers.get_mut(key);
            worker.credits = worker.credits.saturating_add(credits);
            worker.heard_at = now;
        }
    }

    /// Takes credits back that a worker has granted, as far as they are not used; says how many.
    pub fn reclaim(&mut self, session: SessionId, credits: u32) -> u32 {
        let Some(key) = self.workers.of_session(session) else {
            return 0;
        };
        let worker = self.workers.get_mut(key);
        let returned = worker.credits.min(credits);
        worker.credits -= returned;
        returned
    }

    /// For each session, whether tasks wait for credits of its worker.
    pub fn wanting(&self) -> impl Iterator<Item = (SessionId, bool)> {
        self.workers.iter().filter_map(|(key, worker)| {
            let mut ready = self.lanes.ready().iter();
            let wants = worker.credits == 0
                && !worker.draining
                && ready.any(|&lane| self.lanes.get(lane).workers.contains(&key));
            Some((worker.session?, wants))
        })
    }

    pub(crate) fn draining(&mut self, session: SessionId) {
        if let Some(key) = self.workers.of_session(session) {
            self.workers.get_mut(key).draining = true;
        }
    }

    pub(crate) fn refused(&mut self, now: Timestamp, session: SessionId, token: FencingToken) {
        if let Some(lease) = self.end_lease_of(now, session, token) {
            self.give_back(now, lease);
        }
    }

    /// Puts the task of a lease back in its queue: the attempt was never started.
    fn take_back(&mut self, now: Timestamp, token: FencingToken) {
        if let Some(lease) = self.end_lease(now, token) {
            self.give_back(now, lease);
        }
    }

    fn give_back(&mut self, now: Timestamp, lease: Lease) {
        *self.live_task(lease.run, lease.task) = LiveTask::Idle;
        let upstream = lease.passed.map(|passed| passed.upstream);
        self.requeue(
            now,
            lease.run,
            lease.task,
            lease.input,
            upstream,
            lease.keys.as_deref(),
        );
        self.finish_if_done(now, lease.run);
    }

    pub(crate) fn heartbeat(
        &mut self,
        now: Timestamp,
        session: SessionId,
        running: &[FencingToken],
        progressed: &[FencingToken],
        intake: Intake,
    ) {
        let Some(worker) = self.workers.of_session(session) else {
            return;
        };
        let known = self.workers.get_mut(worker);
        known.intake = intake;
        known.heard_at = now;
        for &token in running {
            if let Some(lease) = self.leases.get_mut(token)
                && lease.worker == worker
            {
                lease.renewed_at = now;
            }
        }
        for &token in progressed {
            if let Some(lease) = self.leases.get_mut(token)
                && lease.worker == worker
            {
                lease.progressed_at = now;
            }
        }
    }

    /// Ends the leases of a worker: each that may have been running counts as a failed attempt.
    pub(crate) fn lose_leases(&mut self, now: Timestamp, key: WorkerKey, why: &str) {
        let message = self.workers.get(key).loss(why);
        for token in self.leases.of(key) {
            let message = message.clone();
            let failure = Failure::retryable(Code::WorkerLost, message);
            self.expire(now, token, failure);
        }
    }

    /// Ends a lease whose attempt may be running: it counts as failed.
    pub(crate) fn expire(&mut self, now: Timestamp, token: FencingToken, failure: Failure) {
        let Some(lease) = self.end_lease(now, token) else {
            return;
        };
        let (key, task) = (lease.run, lease.task);
        if !lease.sent || !Protection::CountedLoss.holds() {
            self.give_back(now, lease);
            return;
        }
        if failure.code == Code::WorkerLost {
            self.workers.get_mut(lease.worker).lost += 1;
        }
        *self.live_task(key, task) = LiveTask::Idle;
        let run = self.run_mut(key);
        run.gate.leave(&run.state, task);
        self.attempt_failed(now, &lease, lease.started_at, failure);
        self.send_stop(&lease, token);
    }
}
