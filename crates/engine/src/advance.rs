//! The way of a task from ready to its queue.

use std::cmp::Reverse;

use bytes::Bytes;
use levelflow_common::limits::MAX_FOR_EACH_ITEMS;
use levelflow_common::{CacheUse, Code, Failure, RunStatus, TaskKind, TaskStatus, Timestamp};

use crate::command::{BatchNumber, Command, EndedTask, Prepare, RunContext};
use crate::engine::Engine;
use crate::event::{Preparation, RunKey, Ticket};
use crate::lane::LaneId;
use crate::limit::LimitKeys;
use crate::live::LiveTask;
use crate::ready::Ready;
use crate::record::{Fact, TaskIndex};
use crate::run::RunState;
use crate::task::Place;
use crate::timer::Timer;
use crate::upstream::UpstreamKey;

impl Engine {
    /// Lets a task whose needs are met go on, or holds it back at the gate of its run.
    pub(crate) fn admit(&mut self, now: Timestamp, key: RunKey, task: TaskIndex) {
        self.arm_task_timeout(key, task);
        self.readmit(now, key, task);
    }

    /// As [`Engine::admit`], for a task that has been admitted before.
    pub(crate) fn readmit(&mut self, now: Timestamp, key: RunKey, task: TaskIndex) {
        let run = &mut self.runs[key.0 as usize];
        if run.is_leaving {
            return;
        }
        let remaining = run.profile.remaining[run.state.defined(task).0 as usize];
        if run.gate.enter(&run.state, task, remaining) {
            self.begin(now, key, task);
        } else {
            *self.live_task(key, task) = LiveTask::Gated;
        }
    }

    /// Lets tasks go on that the gate of their run held back.
    pub(crate) fn admit_gated(&mut self, now: Timestamp, key: RunKey) {
        loop {
            let run = &mut self.runs[key.0 as usize];
            let (state, profile) = (&run.state, &run.profile);
            let remaining = |task| profile.remaining[state.defined(task).0 as usize];
            let Some(task) = run.gate.next(state, remaining) else {
                return;
            };
            if state.task(task).status.is_terminal() {
                run.gate.leave(state, task);
            } else {
                self.begin(now, key, task);
            }
        }
    }

    /// A task leaves its gate, its queue or its worker: it ended, or waits for a time.
    pub(crate) fn release(&mut self, now: Timestamp, key: RunKey, task: TaskIndex) {
        let live = std::mem::take(self.live_task(key, task));
        let run = &mut self.runs[key.0 as usize];
        match live {
            LiveTask::Idle | LiveTask::Gated | LiveTask::Following(_) => return,
            // A list that is read again after a restart did not pass the gate again.
            LiveTask::Preparing(_) if matches!(run.state.task(task).place, Place::List { .. }) => {
                return;
            }
            LiveTask::Preparing(_) => {}
            LiveTask::Queued { lane, .. } => {
                self.lanes.count(lane, false);
                if run.has_limits {
                    self.unclaim(now, key, task);
                }
            }
            LiveTask::Parked { lane, .. } => {
                self.lanes.count_parked(lane, false);
                self.unclaim(now, key, task);
            }
            LiveTask::Leased(token) => self.revoke(now, token),
        }
        let run = &mut self.runs[key.0 as usize];
        run.gate.leave(&run.state, task);
    }

    /// Takes a task that passed the gate to its queue, over the evaluation of its input where it has
    /// one.
    fn begin(&mut self, now: Timestamp, key: RunKey, task: TaskIndex) {
        let run = self.run(key);
        let defined = run.state.defined(task);
        let spec = &run.state.definition.tasks[defined.0 as usize];
        let list = spec.for_each.is_some() && defined == task;
        if spec.constant_input.is_some() && !list && spec.kind != TaskKind::Sleep {
            let upstream = spec.upstream.clone();
            let upstream = upstream.and_then(|name| self.intern_upstream(now, &name));
            self.enqueue(now, key, task, None, upstream, None);
            return;
        }
        self.prepare(key, task);
    }

    /// Asks for the evaluation of what a task needs before it can start.
    pub(crate) fn prepare(&mut self, key: RunKey, task: TaskIndex) {
        let ticket = self.ticket();
        *self.live_task(key, task) = LiveTask::Preparing(ticket);
        let run = self.run(key);
        let state = &run.state;
        let defined = state.defined(task);
        let needs = state.definition.plan.needs(defined);
        let item = state.item(task).and_then(|position| {
            let list = run.lists.get(&defined)?;
            Some((position, list.get(position as usize)?.clone()))
        });
        let cache = state.submitted.cache;
        let spec = &state.definition.tasks[defined.0 as usize];
        let is_cached = cache != CacheUse::Off && spec.cache.is_some();
        let handler_version = is_cached.then(|| self.handler_version(spec).ok()).flatten();
        let is_looked_up = cache == CacheUse::Use && handler_version.is_some();
        let prepare = Prepare {
            run: key,
            task,
            ticket,
            defined,
            item,
            tenant: state.submitted.tenant.clone(),
            cache,
            handler_version,
            context: context(state, needs.iter().copied().map(TaskIndex)),
        };
        if is_looked_up {
            self.flights.asked(ticket);
        }
        // Evaluation has no effect outside, so it need not wait for what caused it.
        self.command(BatchNumber::default(), Command::Prepare(Box::new(prepare)));
    }

    pub(crate) fn prepared(
        &mut self,
        now: Timestamp,
        key: RunKey,
        task: TaskIndex,
        ticket: Ticket,
        result: Result<Preparation, Failure>,
    ) {
        self.prepare_current(now, key, task, ticket, result);
        self.flights.answered(ticket);
    }

    fn prepare_current(
        &mut self,
        now: Timestamp,
        key: RunKey,
        task: TaskIndex,
        ticket: Ticket,
        result: Result<Preparation, Failure>,
    ) {
        let current = self
            .runs
            .get(key.0 as usize)
            .and_then(|run| run.tasks.get(task.0 as usize));
        if !matches!(current, Some(LiveTask::Preparing(known)) if *known == ticket) {
            return;
        }
        match result {
            Ok(Preparation::Input {
                input,
                upstream,
                keys,
                cache,
            }) => {
                if let Some(lookup) = cache
                    && !self.look_up(now, key, task, *lookup)
                {
                    return;
                }
                let upstream = upstream.and_then(|name| self.intern_upstream(now, &name));
                self.enqueue(now, key, task, Some(input), upstream, keys.as_deref());
            }
            Ok(Preparation::Skip) => self.record(now, key, Fact::Skipped { task }),
            Ok(Preparation::Items(items)) if items.len() > MAX_FOR_EACH_ITEMS => {
                let message = format!(
                    "`for_each` has {} items; the limit is {MAX_FOR_EACH_ITEMS}",
                    items.len()
                );
                self.fail_unstarted(
                    now,
                    key,
                    task,
                    Failure::permanent(Code::TaskInputInvalid, message),
                );
            }
            Ok(Preparation::Items(items)) => self.open_list(now, key, task, items),
            Ok(Preparation::Sleep(span)) => {
                self.release(now, key, task);
                let until = now.saturating_add(span);
                self.record(now, key, Fact::Slept { task, until });
                self.arm(key, until, Timer::Wake(key, task));
                self.admit_gated(now, key);
            }
            Err(failure) => self.fail_unstarted(now, key, task, failure),
        }
    }

    fn open_list(&mut self, now: Timestamp, key: RunKey, task: TaskIndex, list: Vec<Bytes>) {
        let items = list.len() as u32;
        let run = self.run_mut(key);
        if let Place::List { first, count, .. } = run.state.task(task).place {
            // It was opened before a restart, and its items waited for their values.
            if items != count {
                let message = format!("the list has {items} items now, and had {count} before");
                let failure = Failure::permanent(Code::Internal, message);
                self.fail_unstarted(now, key, task, failure);
                return;
            }
            run.lists.insert(task, list);
            *self.live_task(key, task) = LiveTask::Idle;
            for item in (first..first + count).map(TaskIndex) {
                self.resume_item(now, key, item);
            }
        } else {
            run.lists.insert(task, list);
            self.release(now, key, task);
            self.record(now, key, Fact::Expanded { task, items });
            self.admit_gated(now, key);
        }
    }

    fn resume_item(&mut self, now: Timestamp, key: RunKey, item: TaskIndex) {
        let state = self.run(key).state.task(item);
        match (state.status, state.wakes_at) {
            (TaskStatus::Ready, _) => self.admit(now, key, item),
            (TaskStatus::Backoff | TaskStatus::Sleeping, Some(at)) => {
                self.arm_task_timeout(key, item);
                self.arm(key, at, Timer::Wake(key, item));
            }
            _ => {}
        }
    }

    /// Fails a task that no attempt can help.
    pub(crate) fn fail_unstarted(
        &mut self,
        now: Timestamp,
        key: RunKey,
        task: TaskIndex,
        failure: Failure,
    ) {
        let state = self.run(key).state.task(task);
        let fact = Fact::Failed {
            task,
            attempt: state.attempts,
            started_at: state.started_at,
            worker: state.worker.clone(),
            failure,
            retry_at: None,
        };
        self.record(now, key, fact);
    }

    /// Puts a task in its queue, if its limits allow it. `input` is none where it is constant, and so are
    /// the `keys` of its limits.
    pub(crate) fn enqueue(
        &mut self,
        now: Timestamp,
        key: RunKey,
        task: TaskIndex,
        input: Option<Bytes>,
        upstream: Option<UpstreamKey>,
        keys: Option<&LimitKeys>,
    ) {
        let run = &self.runs[key.0 as usize];
        let defined = run.state.defined(task);
        let spec = &run.state.definition.tasks[defined.0 as usize];
        let (queue_timeout, has_limits) = (spec.queue_timeout, spec.limits.is_some());
        let base = run.profile.lanes[defined.0 as usize];
        let ready_in = run.recorded_in.0;
        let is_suspect = self.is_suspect(run.state.task(task));
        let mut lane = match upstream {
            None => base,
            Some(upstream) => self.lane_to(base, upstream),
        };
        if is_suspect {
            lane = self.lane_for_suspects(lane);
        }
        if has_limits && !self.claim(now, key, task, lane, keys) {
            self.lanes.count_parked(lane, true);
            *self.live_task(key, task) = LiveTask::Parked {
                input,
                since: now,
                ready_in,
                lane,
            };
        } else {
            self.push(key, task, lane, input, now, ready_in);
        }
        if let Some(timeout) = queue_timeout {
            let at = now.saturating_add(timeout);
            self.arm(key, at, Timer::QueueTimeout(key, task));
        }
    }

    /// Puts a task in the queue of its lane. Inlined, since every task goes through [`Engine::enqueue`].
    #[inline(always)]
    pub(crate) fn push(
        &mut self,
        key: RunKey,
        task: TaskIndex,
        lane: LaneId,
        input: Option<Bytes>,
        since: Timestamp,
        ready_in: BatchNumber,
    ) {
        let ticket = self.ticket();
        let run = &self.runs[key.0 as usize];
        let state = &run.state;
        let defined = state.defined(task);
        let ready = Ready {
            remaining: run.profile.remaining[defined.0 as usize],
            dependents: state.definition.plan.dependents(defined).len() as u32,
            order: Reverse(ticket),
            run: key,
            task,
            since,
        };
        let queue = &mut self.lanes.get_mut(lane).queue;
        queue.push(state.priority_of(task), &state.submitted.tenant, ready);
        self.lanes.count(lane, true);
        *self.live_task(key, task) = LiveTask::Queued {
            ticket,
            input,
            since,
            ready_in,
            lane,
        };
    }

    /// Puts a task back that was queued before.
    pub(crate) fn requeue(
        &mut self,
        now: Timestamp,
        key: RunKey,
        task: TaskIndex,
        input: Option<Bytes>,
        upstream: Option<UpstreamKey>,
        keys: Option<&LimitKeys>,
    ) {
        let run = self.run(key);
        if run.state.status == RunStatus::Running && !run.is_leaving {
            self.enqueue(now, key, task, input, upstream, keys);
        } else {
            let run = &mut self.runs[key.0 as usize];
            run.gate.leave(&run.state, task);
        }
    }

    pub(crate) fn arm_task_timeout(&mut self, key: RunKey, task: TaskIndex) {
        let state = &self.run(key).state;
        let spec = &state.definition.tasks[state.defined(task).0 as usize];
        if let (Some(timeout), Some(queued_at)) = (spec.total_timeout, state.task(task).queued_at) {
            let at = queued_at.saturating_add(timeout);
            self.arm(key, at, Timer::TaskTimeout(key, task));
        }
    }
}

/// What the expressions of a run can refer to: these tasks, as far as they have ended.
pub(crate) fn context(state: &RunState, tasks: impl Iterator<Item = TaskIndex>) -> RunContext {
    let ended = tasks
        .map(|task| (task, state.task(task)))
        .filter(|(_, task)| task.status.is_terminal())
        .map(|(index, task)| EndedTask {
            id: state.definition.tasks[index.0 as usize].id.clone(),
            status: task.status,
            output: task.output.clone(),
        })
        .collect();
    RunContext {
        run_id: state.submitted.run_id,
        definition: state.definition.clone(),
        inputs: state.submitted.inputs.clone(),
        tasks: ended,
    }
}

/// How a task stands with what the engine knows beyond the journal.
pub(crate) fn served_status(state: &RunState, task: TaskIndex, live: &LiveTask) -> TaskStatus {
    match live {
        LiveTask::Leased(_) => TaskStatus::Running,
        LiveTask::Preparing(_) if matches!(state.task(task).place, Place::List { .. }) => {
            TaskStatus::Running
        }
        LiveTask::Gated
        | LiveTask::Preparing(_)
        | LiveTask::Following(_)
        | LiveTask::Queued { .. }
        | LiveTask::Parked { .. } => TaskStatus::Ready,
        LiveTask::Idle => state.task(task).status,
    }
}
