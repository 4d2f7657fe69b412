//! Concurrency and rate limits by key.
//!
//! A task with limits has a claim while it is queued or running. It takes its slot and its token when it
//! is given to a worker, and not before, so that none is taken by a task that waits for something else.
//! A slot belongs to the lease of the attempt: whatever ends the lease frees it. Nothing here is recorded:
//! after a restart no lease is left and so no slot, and the claims are made again from the journals.
//!
//! A task that must wait is parked, outside the queues of workers, and queued again when its turn comes.
//! Whether it may start is only decided when it is given to a worker.

mod bucket;
mod check;
mod explain;
mod slots;
mod spec;
mod waiting;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use levelflow_common::workflow::OnFull;
use levelflow_common::{Code, Failure, Priority, RunStatus, Timestamp};
use slab::Slab;

use crate::engine::Engine;
use crate::event::{RunKey, Ticket};
use crate::lane::LaneId;
use crate::limit::bucket::Bucket;
use crate::limit::slots::Slots;
use crate::limit::spec::Rate;
use crate::live::LiveTask;
use crate::record::TaskIndex;
use crate::timer::Timer;

pub use spec::{LimitKeys, LimitSpec};

pub(crate) type LimitedTask = (RunKey, TaskIndex);

/// The turn of a task among those that wait for the same: the lower goes first.
pub(crate) type Turn = (Priority, Ticket);

/// Tenant and key.
type Name = (Arc<str>, Arc<str>);

/// The bucket of a rate limit key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct BucketKey(u32);

/// The limits of what is queued or running.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    claims: BTreeMap<LimitedTask, Claim>,
    slots: BTreeMap<Name, Slots>,
    buckets: Slab<Bucket>,
    bucket_keys: BTreeMap<Name, BucketKey>,
    /// Tasks to fail before anything is given to a worker. Not at once, since a failure may let further
    /// tasks fail, and so on.
    verdicts: VecDeque<Verdict>,
    /// Tasks that were ready before wait where later ones fail or displace others: they may have had
    /// their slot before the restart.
    recovered_at: Option<Timestamp>,
}

/// What a task with limits holds or waits for.
#[derive(Debug)]
struct Claim {
    turn: Turn,
    /// Where it is queued.
    lane: LaneId,
    concurrency: Option<(Name, u32)>,
    rate: Option<(BucketKey, Rate)>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// In the queue of a lane.
    Queued,
    /// Parked until a slot is free.
    WaitsForSlot,
    /// Parked until a token is there.
    WaitsForToken,
    /// Parked until its verdict is carried out.
    Rejected,
    /// It has a lease, and with it its slot.
    Started,
}

#[derive(Debug)]
struct Verdict {
    task: LimitedTask,
    ticket: Ticket,
    failure: Failure,
}

impl Engine {
    /// Makes the claim of a task with limits. True if it may be queued; otherwise it is to be parked.
    pub(crate) fn claim(
        &mut self,
        now: Timestamp,
        key: RunKey,
        task: TaskIndex,
        lane: LaneId,
        keys: Option<&LimitKeys>,
    ) -> bool {
        let ticket = self.ticket();
        let state = &self.runs[key.0 as usize].state;
        let spec = &state.definition.tasks[state.defined(task).0 as usize];
        let Some(limits) = &spec.limits else {
            return true;
        };
        let keys = keys
            .or(limits.constant_keys())
            .expect("keys with expressions come with the input");
        let tenant = &state.submitted.tenant;
        let recovered = self
            .limits
            .recovered_at
            .is_some_and(|at| state.task(task).queued_at <= Some(at));
        let wanted = limits.concurrency.as_ref().map(|it| (it.limit, it.on_full));
        let concurrency = keys.concurrency.clone().zip(wanted);
        let rate = keys
            .rate
            .clone()
            .zip(limits.rate.as_ref().map(|it| it.rate));
        let mut claim = Claim {
            turn: (state.priority_of(task), ticket),
            lane,
            concurrency: None,
            rate: None,
            stage: Stage::Queued,
        };
        let names = |key: Arc<str>| (tenant.clone(), key);
        let concurrency = concurrency.map(|(key, wanted)| (names(key), wanted));
        let rate = rate.map(|(key, rate)| (names(key), rate));

        let entered = self
            .enter_bucket(rate, &mut claim)
            .and_then(|()| self.enter_slots((key, task), concurrency, recovered, &mut claim));
        let stage = match entered {
            Ok(()) => self
                .limits
                .lacks(now, &claim, true)
                .unwrap_or(Stage::Queued),
            Err(failure) => {
                self.limits.verdicts.push_back(Verdict {
                    task: (key, task),
                    ticket,
                    failure,
                });
                Stage::Rejected
            }
        };
        self.settle(now, (key, task), claim, stage);
        stage == Stage::Queued
    }

    /// Keeps a claim at its new stage.
    fn settle(&mut self, now: Timestamp, task: LimitedTask, mut claim: Claim, stage: Stage) {
        claim.stage = stage;
        let rate = claim.rate;
        self.limits.enter(task, &claim);
        self.limits.claims.insert(task, claim);
        if let (Stage::WaitsForToken, Some((bucket, _))) = (stage, rate) {
            let at = self.limits.bucket(bucket).wakes_at(now);
            self.arm_bucket(bucket, at);
        }
    }

    fn enter_bucket(
        &mut self,
        rate: Option<(Name, Rate)>,
        claim: &mut Claim,
    ) -> Result<(), Failure> {
        let Some((name, rate)) = rate else {
            return Ok(());
        };
        let limits = &mut self.limits;
        let bucket = match limits.bucket_keys.get(&name) {
            Some(&bucket) => bucket,
            None if limits.buckets.len() >= self.config.max_rate_keys => {
                let message = format!(
                    "tasks with {} different `rate_limit` keys have started lately; no more are known at once",
                    limits.buckets.len()
                );
                return Err(Failure::permanent(Code::RateKeysExhausted, message));
            }
            None => {
                let bucket = BucketKey(limits.buckets.insert(Bucket::new(name.clone())) as u32);
                limits.bucket_keys.insert(name, bucket);
                bucket
            }
        };
        limits.bucket(bucket).tasks += 1;
        claim.rate = Some((bucket, rate));
        Ok(())
    }

    fn enter_slots(
        &mut self,
        task: LimitedTask,
        concurrency: Option<(Name, (u32, OnFull))>,
        recovered: bool,
        claim: &mut Claim,
    ) -> Result<(), Failure> {
        let Some((name, (limit, on_full))) = concurrency else {
            return Ok(());
        };
        let slots = self.limits.slots.entry(name.clone()).or_default();
        let on_full = if recovered { OnFull::Queue } else { on_full };
        if on_full == OnFull::Fail && slots.is_full(limit) {
            let message = format!(
                "`concurrency` lets {limit} tasks with key `{}` run at once, and as many wait or run",
                name.1
            );
            return Err(Failure::permanent(Code::ConcurrencyFull, message));
        }
        let displace = on_full == OnFull::CancelOldest;
        for (ticket, task) in slots.enter(claim.turn.1, task, limit, displace) {
            let message = format!("a newer task with the `concurrency` key `{}` came", name.1);
            self.limits.verdicts.push_back(Verdict {
                task,
                ticket,
                failure: Failure::permanent(Code::ConcurrencyDisplaced, message),
            });
        }
        claim.concurrency = Some((name, limit));
        Ok(())
    }

    /// Fails the tasks that their limits or newer tasks do not let go on.
    pub(crate) fn carry_out_verdicts(&mut self, now: Timestamp) {
        while let Some(verdict) = self.limits.verdicts.pop_front() {
            let (key, task) = verdict.task;
            let claim = self.limits.claims.get(&verdict.task);
            if claim.is_some_and(|claim| claim.turn.1 == verdict.ticket)
                && self.run(key).state.status == RunStatus::Running
            {
                self.fail_under_way(now, key, task, verdict.failure);
            }
        }
    }

    /// Whether a queued task may start. Then it has its slot and its token; otherwise it is parked.
    pub(crate) fn pass_limits(&mut self, now: Timestamp, key: RunKey, task: TaskIndex) -> bool {
        let Some(claim) = self.limits.claims.remove(&(key, task)) else {
            return true;
        };
        self.limits.exit(&claim);
        let Some(stage) = self.limits.lacks(now, &claim, false) else {
            if let Some((bucket, rate)) = claim.rate {
                self.limits.bucket(bucket).take(now, rate);
            }
            self.settle(now, (key, task), claim, Stage::Started);
            return true;
        };
        let name = claim.concurrency.as_ref().map(|(name, _)| name.clone());
        self.settle(now, (key, task), claim, stage);
        self.take_out(key, task);
        if let Some(name) = name {
            self.call_for_slots(&name);
        }
        false
    }

    /// Ends the claim of a task that left its queue, its place or its worker; gives the keys that it had.
    pub(crate) fn unclaim(
        &mut self,
        now: Timestamp,
        key: RunKey,
        task: TaskIndex,
    ) -> Option<Box<LimitKeys>> {
        let claim = self.limits.claims.remove(&(key, task))?;
        let keys = LimitKeys {
            concurrency: claim.concurrency.as_ref().map(|(name, _)| name.1.clone()),
            rate: claim
                .rate
                .map(|(bucket, _)| self.limits.bucket(bucket).name.1.clone()),
        };
        self.limits.exit(&claim);
        if let Some((bucket, _)) = claim.rate {
            let it = self.limits.bucket(bucket);
            it.tasks -= 1;
            if it.tasks == 0 {
                self.forget_when_full(now, bucket);
            }
        }
        if let Some((name, _)) = &claim.concurrency {
            self.limits.slots(name).leave(claim.turn.1);
            self.call_for_slots(name);
            if self.limits.slots(name).is_unused() {
                self.limits.slots.remove(name);
            }
        }
        Some(Box::new(keys))
    }

    /// Queues tasks that wait for a slot, as many as may get one.
    fn call_for_slots(&mut self, name: &Name) {
        while let Some(task) = self.limits.slots(name).call() {
            self.limits.move_to(task, Stage::Queued);
            self.put_in(task);
        }
    }

    /// The bucket has tokens for those that wait, or nobody needs it any more.
    pub(crate) fn refill(&mut self, now: Timestamp, bucket: BucketKey) {
        let it = self.limits.bucket(bucket);
        it.armed = None;
        if it.tasks == 0 {
            self.forget_when_full(now, bucket);
            return;
        }
        let mut called = Vec::new();
        let rates: Vec<Rate> = it.waiting.limits().collect();
        for rate in rates {
            for _ in 0..it.tokens(now, rate) {
                called.extend(it.waiting.take(rate));
            }
        }
        if !it.waiting.is_empty() {
            let at = it.wakes_at(now);
            self.arm_bucket(bucket, at);
        }
        for task in called {
            if self.limits.is_next_for_slot(&self.limits.claims[&task]) {
                self.limits.move_to(task, Stage::Queued);
                self.put_in(task);
            } else {
                self.limits.move_to(task, Stage::WaitsForSlot);
            }
        }
    }

    /// Forgets a bucket that no task knows, now or when it is full.
    fn forget_when_full(&mut self, now: Timestamp, bucket: BucketKey) {
        let full_at = self.limits.bucket(bucket).full_at();
        if full_at > now {
            self.arm_bucket(bucket, full_at);
            return;
        }
        let forgotten = self.limits.buckets.remove(bucket.0 as usize);
        self.limits.bucket_keys.remove(&forgotten.name);
        if let Some(armed) = forgotten.armed {
            self.timers.disarm(armed, Timer::Refill(bucket));
        }
    }

    /// Makes the timer of a bucket go off at a time, if it does not before.
    fn arm_bucket(&mut self, bucket: BucketKey, at: Timestamp) {
        let it = self.limits.bucket(bucket);
        if it.armed.is_some_and(|armed| armed <= at) {
            return;
        }
        if let Some(armed) = it.armed.replace(at) {
            self.timers.disarm(armed, Timer::Refill(bucket));
        }
        self.timers.arm(at, Timer::Refill(bucket));
    }

    /// Takes a queued task out of its queue, until its limits let it go on.
    fn take_out(&mut self, key: RunKey, task: TaskIndex) {
        let live = self.live_task(key, task);
        let LiveTask::Queued {
            input,
            since,
            ready_in,
            lane,
            ..
        } = std::mem::take(live)
        else {
            unreachable!("only queued tasks are parked");
        };
        *live = LiveTask::Parked {
            input,
            since,
            ready_in,
            lane,
        };
        self.lanes.count(lane, false);
        self.lanes.count_parked(lane, true);
    }

    /// Puts a parked task in its queue.
    fn put_in(&mut self, (key, task): LimitedTask) {
        let LiveTask::Parked {
            input,
            since,
            ready_in,
            lane,
        } = std::mem::take(self.live_task(key, task))
        else {
            unreachable!("only parked tasks wait for their limits");
        };
        self.lanes.count_parked(lane, false);
        self.push(key, task, lane, input, since, ready_in);
    }
}

impl Limits {
    /// Remembers that everything which is ready by now may have started before a restart.
    pub(crate) fn recovered(&mut self, now: Timestamp) {
        self.recovered_at = Some(now);
    }

    fn slots(&mut self, name: &Name) -> &mut Slots {
        self.slots
            .get_mut(name)
            .expect("slots are kept as long as a claim names them")
    }

    fn bucket(&mut self, bucket: BucketKey) -> &mut Bucket {
        &mut self.buckets[bucket.0 as usize]
    }

    /// What a claim waits for, if it may not start: first its slot, since a token is only taken with it.
    /// A new claim also waits where others do that came before.
    fn lacks(&self, now: Timestamp, claim: &Claim, is_new: bool) -> Option<Stage> {
        if let Some((name, limit)) = &claim.concurrency {
            let has_room = self.slots[name].has_room(*limit);
            if !has_room || is_new && !self.is_next_for_slot(claim) {
                return Some(Stage::WaitsForSlot);
            }
        }
        let (bucket, rate) = claim.rate?;
        let bucket = &self.buckets[bucket.0 as usize];
        let has_token = bucket.has_token(now, rate);
        (!has_token || is_new && !bucket.waiting.is_empty()).then_some(Stage::WaitsForToken)
    }

    /// Whether a task that is queued now gets a slot before those that wait for one.
    fn is_next_for_slot(&self, claim: &Claim) -> bool {
        let slots = claim.concurrency.as_ref();
        slots.is_none_or(|(name, limit)| self.slots[name].admits(*limit, claim.lane))
    }

    /// Notes a claim where its stage is counted.
    fn enter(&mut self, task: LimitedTask, claim: &Claim) {
        match (claim.stage, &claim.concurrency, claim.rate) {
            (Stage::Queued, Some((name, _)), _) => self.slots(name).queue(claim.lane),
            (Stage::WaitsForSlot, Some((name, limit)), _) => {
                self.slots(name)
                    .waiting
                    .insert((*limit, claim.lane), claim.turn, task);
            }
            (Stage::Started, Some((name, _)), _) => self.slots(name).take(claim.turn.1, task),
            (Stage::WaitsForToken, _, Some((bucket, rate))) => {
                self.bucket(bucket).waiting.insert(rate, claim.turn, task);
            }
            _ => {}
        }
    }

    /// The reverse of [`Limits::enter`].
    fn exit(&mut self, claim: &Claim) {
        match (claim.stage, &claim.concurrency, claim.rate) {
            (Stage::Queued, Some((name, _)), _) => self.slots(name).unqueue(claim.lane),
            (Stage::WaitsForSlot, Some((name, limit)), _) => {
                self.slots(name)
                    .waiting
                    .remove((*limit, claim.lane), claim.turn);
            }
            (Stage::Started, Some((name, _)), _) => self.slots(name).free(claim.turn.1),
            (Stage::WaitsForToken, _, Some((bucket, rate))) => {
                self.bucket(bucket).waiting.remove(rate, claim.turn);
            }
            _ => {}
        }
    }

    /// Brings a claim that was called to its next stage.
    fn move_to(&mut self, task: LimitedTask, stage: Stage) {
        if let Some(mut claim) = self.claims.remove(&task) {
            claim.stage = stage;
            self.enter(task, &claim);
            self.claims.insert(task, claim);
        }
    }
}
