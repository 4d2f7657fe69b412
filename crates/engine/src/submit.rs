//! Submits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use levelflow_common::{Protection, Timestamp};

use crate::command::{Answer, BatchNumber, Command};
use crate::definition::Definition;
use crate::engine::{Engine, KnownKey};
use crate::event::{ReplyId, RunKey};
use crate::live::{Gate, LiveRun, LiveTask};
use crate::record::{Fact, RunNumber, Submitted};
use crate::rejection::Rejection;
use crate::run::RunState;
use crate::timer::Timer;

/// What a refused client is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Engine {
    pub(crate) fn submit(
        &mut self,
        now: Timestamp,
        reply: ReplyId,
        submitted: Submitted,
        definition: &Arc<Definition>,
    ) -> Result<(), Rejection> {
        let shard = self.shard_of(submitted.run_id);
        self.check_shard(shard)?;
        self.forget_faded_keys(now);
        if let Some(key) = &submitted.key
            && Protection::KnownKey.holds()
            && let Some(known) = self
                .keys
                .get(&(submitted.tenant.clone(), key.key.clone()))
                .filter(|known| known.expires_at.is_none_or(|at| at > now))
        {
            let run_id = known.run_id;
            if known.content != key.content {
                return Err(Rejection::KeyReused { run_id });
            }
            let answer = Answer::Submitted {
                run_id,
                existing: true,
            };
            self.command(known.submitted_in, Command::Reply { reply, answer });
            return Ok(());
        }
        self.check_bounds(definition)?;

        let run_id = submitted.run_id;
        let submitted = Arc::new(submitted);
        let number = self.number_run(now, shard);
        let batch = self.gathering();
        let (key, new) = self.open(number, submitted.clone(), definition.clone(), batch);
        if new {
            self.define(definition.digest, definition.canonical.clone());
        }
        let answer = Answer::Submitted {
            run_id,
            existing: false,
        };
        let after = match Protection::DurableSubmit.holds() {
            true => self.gathering(),
            false => BatchNumber::default(),
        };
        self.command(after, Command::Reply { reply, answer });
        self.arm_run_timeout(now, key);
        self.record(now, key, Fact::Submitted(submitted));
        Ok(())
    }

    /// Makes room for a run of which nothing is recorded yet. Also says whether its definition is new.
    pub(crate) fn open(
        &mut self,
        number: RunNumber,
        submitted: Arc<Submitted>,
        definition: Arc<Definition>,
        submitted_in: BatchNumber,
    ) -> (RunKey, bool) {
        let run_id = submitted.run_id;
        if let Some(key) = &submitted.key {
            self.keys.insert(
                (submitted.tenant.clone(), key.key.clone()),
                KnownKey {
                    run_id,
                    content: key.content,
                    submitted_in,
                    expires_at: key.expires_at,
                },
            );
        }
        let (profile, new) = self
            .measured
            .profile(&definition, &mut self.lanes, &self.workers);
        let state = RunState::new(number, submitted, definition);
        let run = LiveRun {
            tasks: vec![LiveTask::Idle; state.tasks.len()],
            lists: BTreeMap::new(),
            gate: Gate::new(&state),
            profile,
            has_limits: state.definition.has_limits,
            submitted_in,
            recorded_in: (BatchNumber(0), 0),
            leases: 0,
            rendering: None,
            is_leaving: false,
            sticks_to: None,
            timers: Vec::new(),
            state,
        };
        let key = RunKey(self.runs.insert(run) as u32);
        self.by_id.insert(run_id, key);
        self.open_runs += 1;
        (key, new)
    }

    pub(crate) fn arm_run_timeout(&mut self, submitted_at: Timestamp, key: RunKey) {
        let definition = &self.run(key).state.definition;
        if let Some(timeout) = definition.workflow.timeout {
            let at = submitted_at.saturating_add(timeout.0);
            self.arm(key, at, Timer::RunTimeout(key));
        }
    }

    /// Arms a timer that goes when its run is evicted.
    pub(crate) fn arm(&mut self, key: RunKey, at: Timestamp, timer: Timer) {
        self.timers.arm(at, timer);
        self.run_mut(key).timers.push((at, timer));
    }

    fn check_bounds(&self, definition: &Definition) -> Result<(), Rejection> {
        if self.open_runs >= self.config.max_open_runs && Protection::RunBound.holds() {
            return Err(Rejection::TooManyRuns {
                open: self.open_runs,
                retry_after: RETRY_AFTER,
            });
        }
        for root in definition.plan.levels().first().into_iter().flatten() {
            let queue = &definition.tasks[root.0 as usize].requirement.queue;
            let waiting = self.lanes.waiting_in(queue);
            if waiting >= self.config.max_queue {
                return Err(Rejection::QueueFull {
                    queue: queue.clone(),
                    waiting,
                    retry_after: RETRY_AFTER,
                });
            }
        }
        Ok(())
    }

    fn forget_faded_keys(&mut self, now: Timestamp) {
        while let Some((at, _, _)) = self.fading_keys.front()
            && *at <= now
            && let Some((_, run_id, key)) = self.fading_keys.pop_front()
        {
            // An expired key may stand for a later run by now.
            if self
                .keys
                .get(&key)
                .is_some_and(|known| known.run_id == run_id)
            {
                self.keys.remove(&key);
            }
        }
    }
}
