//! What the engine knows of an open run beyond its journal.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use levelflow_common::workflow::Dispatch;
use levelflow_common::{CacheKey, FencingToken, RunStatus, Timestamp};

use crate::command::BatchNumber;
use crate::event::Ticket;
use crate::lane::LaneId;
use crate::record::TaskIndex;
use crate::run::RunState;
use crate::task::Place;
use crate::timer::Timer;
use crate::worker::WorkerKey;

/// A run in memory.
#[derive(Debug)]
pub(crate) struct LiveRun {
    pub(crate) state: RunState,
    pub(crate) tasks: Vec<LiveTask>,
    /// The items of opened lists.
    pub(crate) lists: BTreeMap<TaskIndex, Vec<Bytes>>,
    pub(crate) profile: Arc<Profile>,
    /// Whether any of its tasks names limits.
    pub(crate) has_limits: bool,
    /// The batch with its submit.
    pub(crate) submitted_in: BatchNumber,
    /// The batch with its last record, and the place of its entry in that batch.
    pub(crate) recorded_in: (BatchNumber, usize),
    pub(crate) gate: Gate,
    /// Leases under way.
    pub(crate) leases: u32,
    /// Set while the outputs are evaluated.
    pub(crate) rendering: Option<Ticket>,
    /// Whether nothing more of it starts here, because its shard is about to be given away.
    pub(crate) is_leaving: bool,
    /// The worker that had its last task with `sticky`, and the instance of it.
    pub(crate) sticks_to: Option<(WorkerKey, u64)>,
    /// Timers to disarm when the run is evicted; may name some that have gone off.
    pub(crate) timers: Vec<(Timestamp, Timer)>,
}

/// What the engine knows of a task beyond the journal.
#[derive(Clone, Debug, Default)]
pub(crate) enum LiveTask {
    /// Nothing.
    #[default]
    Idle,
    /// It is held back by `max_parallel` or by a level barrier.
    Gated,
    /// Its expressions are being evaluated, and its result looked up.
    Preparing(Ticket),
    /// Another task computes the same, and it waits for that one's result.
    Following(CacheKey),
    /// It waits for a worker.
    Queued {
        ticket: Ticket,
        /// The evaluated input; none where it is constant.
        input: Option<Bytes>,
        since: Timestamp,
        /// The batch that made it ready.
        ready_in: BatchNumber,
        lane: LaneId,
    },
    /// Its limits do not let it start.
    Parked {
        /// As of a queued task.
        input: Option<Bytes>,
        /// When it could first be queued.
        since: Timestamp,
        /// As of a queued task.
        ready_in: BatchNumber,
        /// Where it is queued then.
        lane: LaneId,
    },
    /// An attempt is on a worker, or about to be sent.
    Leased(FencingToken),
}

/// What is the same for all runs of a definition.
#[derive(Debug)]
pub(crate) struct Profile {
    /// Where its measurements are kept.
    pub(crate) measured: usize,
    /// The lane of each task, as far as its upstream does not matter.
    pub(crate) lanes: Vec<LaneId>,
    /// For each task the expected time to the end of the run, in microseconds.
    pub(crate) remaining: Vec<u64>,
}

/// Holds back tasks of one run over its bounds.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    limit: Option<u32>,
    /// Whether levels are a barrier, and up to which it has opened.
    barrier: Option<u32>,
    /// Tasks that passed and have not left.
    inside: u32,
    /// Tasks that wait: the lowest level first, then the longest remaining path.
    outside: BTreeSet<(u32, Reverse<u64>, TaskIndex)>,
    lists: BTreeMap<TaskIndex, ListGate>,
}

/// Holds back items of one list over its bound.
#[derive(Debug)]
struct ListGate {
    limit: u32,
    inside: u32,
    outside: VecDeque<TaskIndex>,
}

impl Gate {
    pub(crate) fn new(state: &RunState) -> Self {
        let workflow = &state.definition.workflow;
        Self {
            limit: workflow.max_parallel,
            barrier: (workflow.dispatch == Dispatch::Level).then_some(0),
            ..Self::default()
        }
    }

    /// Whether a task may go on now; if not, it is kept until [`Gate::next`] gives it.
    pub(crate) fn enter(&mut self, state: &RunState, task: TaskIndex, remaining: u64) -> bool {
        let defined = state.defined(task);
        if defined != task
            && let Some(limit) = state.definition.tasks[defined.0 as usize]
                .for_each
                .as_ref()
                .and_then(|list| list.max_parallel)
        {
            let list = self.lists.entry(defined).or_insert(ListGate {
                limit,
                inside: 0,
                outside: VecDeque::new(),
            });
            if list.inside >= list.limit {
                list.outside.push_back(task);
                return false;
            }
            list.inside += 1;
        }
        self.enter_run(state, task, remaining)
    }

    fn enter_run(&mut self, state: &RunState, task: TaskIndex, remaining: u64) -> bool {
        let level = match self.barrier {
            Some(_) => state.definition.plan.level_of(state.defined(task)),
            None => 0,
        };
        if self.is_open(level) && self.outside.is_empty() {
            self.inside += 1;
            return true;
        }
        self.outside.insert((level, Reverse(remaining), task));
        if self.outside.first().map(|first| first.2) == Some(task) && self.is_open(level) {
            self.outside.pop_first();
            self.inside += 1;
            return true;
        }
        false
    }

    fn is_open(&self, level: u32) -> bool {
        self.limit.is_none_or(|limit| self.inside < limit)
            && self.barrier.is_none_or(|barrier| level <= barrier)
    }

    /// A task that had passed left: it ended, or waits for a time.
    pub(crate) fn leave(&mut self, state: &RunState, task: TaskIndex) {
        self.inside -= 1;
        let defined = state.defined(task);
        if defined != task
            && let Some(list) = self.lists.get_mut(&defined)
        {
            list.inside -= 1;
        }
    }

    /// All tasks of some level have ended.
    pub(crate) fn level_completed(&mut self, state: &RunState) {
        if let Some(barrier) = &mut self.barrier {
            let last = state.definition.plan.levels().len() as u32 - 1;
            while *barrier < last && state.level_has_ended(*barrier) {
                *barrier += 1;
            }
        }
    }

    /// The next task that may go on.
    pub(crate) fn next(
        &mut self,
        state: &RunState,
        remaining: impl Fn(TaskIndex) -> u64,
    ) -> Option<TaskIndex> {
        // Items that their list lets go on wait at the run's gate with the others.
        let mut freed = Vec::new();
        for list in self.lists.values_mut() {
            while list.inside < list.limit
                && let Some(item) = list.outside.pop_front()
            {
                list.inside += 1;
                freed.push(item);
            }
        }
        for item in freed {
            let level = match self.barrier {
                Some(_) => state.definition.plan.level_of(state.defined(item)),
                None => 0,
            };
            self.outside.insert((level, Reverse(remaining(item)), item));
        }
        let &(level, _, task) = self.outside.first()?;
        if !self.is_open(level) {
            return None;
        }
        self.outside.pop_first();
        self.inside += 1;
        Some(task)
    }

    /// Forgets what waits: the run starts nothing more.
    pub(crate) fn close(&mut self) {
        self.outside.clear();
        self.lists.clear();
        self.limit = Some(0);
    }

    /// Forgets what waits, and still counts what is inside.
    pub(crate) fn forget_waiting(&mut self, state: &RunState) {
        for (_, _, task) in std::mem::take(&mut self.outside) {
            let defined = state.defined(task);
            if defined != task
                && let Some(list) = self.lists.get_mut(&defined)
            {
                list.inside -= 1;
            }
        }
        for list in self.lists.values_mut() {
            list.outside.clear();
        }
    }

    /// Checks the gate against the tasks that passed it or wait at it.
    ///
    /// # Panics
    /// When they do not agree.
    pub(crate) fn check_invariants(&self, state: &RunState, tasks: &[LiveTask]) {
        let inside = |task: TaskIndex| match &tasks[task.0 as usize] {
            LiveTask::Idle | LiveTask::Gated | LiveTask::Following(_) => false,
            LiveTask::Preparing(_) => !matches!(state.task(task).place, Place::List { .. }),
            LiveTask::Queued { .. } | LiveTask::Parked { .. } | LiveTask::Leased(_) => true,
        };
        let all = || (0..tasks.len() as u32).map(TaskIndex);
        let count = all().filter(|&task| inside(task)).count();
        assert_eq!(self.inside as usize, count, "the gate is miscounted");
        if state.status != RunStatus::Running {
            return;
        }
        assert!(
            self.limit.is_none_or(|limit| self.inside <= limit),
            "the gate let more pass than `max_parallel`"
        );
        for task in all().filter(|&task| inside(task)) {
            let level = state.definition.plan.level_of(state.defined(task));
            assert!(
                self.barrier.is_none_or(|barrier| level <= barrier),
                "the gate let a task pass before its level"
            );
        }
        if let Some(&(level, _, task)) = self.outside.first() {
            assert!(!self.is_open(level), "{task:?} waits at an open gate");
        }
        for (&of, list) in &self.lists {
            let waits = |task| self.outside.iter().any(|&(_, _, other)| other == task);
            let items = all().filter(|&task| task != of && state.defined(task) == of);
            let count = items.filter(|&task| inside(task) || waits(task)).count();
            assert_eq!(list.inside as usize, count, "the list gate is miscounted");
            assert!(
                list.inside <= list.limit,
                "more items pass than `for_each.max_parallel`"
            );
            assert!(
                list.outside.is_empty() || list.inside == list.limit,
                "items wait at an open list gate"
            );
        }
        for task in all().filter(|task| matches!(tasks[task.0 as usize], LiveTask::Gated)) {
            assert!(
                self.outside.iter().any(|&(_, _, other)| other == task)
                    || self.holds_in_list(state, task),
                "{task:?} is held back and the gate does not know it"
            );
        }
    }

    /// Whether a task waits for another item of its list, rather than for another task of the run.
    pub(crate) fn holds_in_list(&self, state: &RunState, task: TaskIndex) -> bool {
        self.lists
            .get(&state.defined(task))
            .is_some_and(|list| list.outside.contains(&task))
    }

    pub(crate) fn limit(&self) -> Option<u32> {
        self.limit
    }

    pub(crate) fn barrier(&self) -> Option<u32> {
        self.barrier
    }
}
