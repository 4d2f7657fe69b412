//! What must hold between any two events, for tests and the simulation.

use std::collections::{BTreeMap, BTreeSet};

use levelflow_common::{RunStatus, TaskStatus};

use crate::breaker::BreakerState;
use crate::engine::Engine;
use crate::event::RunKey;
use crate::lease::Lease;
use crate::live::{LiveRun, LiveTask};
use crate::record::TaskIndex;
use crate::run::RunState;
use crate::task::Place;
use crate::timer::Timer;

impl Engine {
    /// Checks that the parts of the engine agree with each other. Linear in everything it holds, so
    /// only for tests and the simulation.
    ///
    /// # Panics
    /// When they do not.
    pub fn check_invariants(&self) {
        self.check_index();
        self.check_leases();
        self.check_workers();
        self.check_lanes();
        self.check_upstreams();
        self.check_limits();
        self.check_flights();
        self.check_timers();
        for (key, run) in &self.runs {
            run.state.check_invariants();
            run.gate.check_invariants(&run.state, &run.tasks);
            self.check_run(RunKey(key as u32), run);
        }
    }

    fn check_index(&self) {
        let open = self
            .runs
            .iter()
            .filter(|(_, run)| !run.state.status.is_terminal())
            .count();
        assert_eq!(self.open_runs, open, "open runs are miscounted");
        assert_eq!(self.by_id.len(), self.runs.len(), "the index has a gap");
        for (run_id, &key) in &self.by_id {
            let run = self.run(key);
            assert_eq!(run.state.submitted.run_id, *run_id, "the index is wrong");
            let shard = self.shard_of(*run_id);
            assert!(
                run.state.status.is_terminal() || self.shards.has(shard),
                "a run is open in a shard of another"
            );
            assert!(
                run.state.status.is_terminal() || run.is_leaving != self.check_shard(shard).is_ok(),
                "a run leaves exactly when its shard does"
            );
        }
    }

    fn check_leases(&self) {
        for (token, lease) in self.leases.iter() {
            let live = self.run(lease.run).tasks.get(lease.task.0 as usize);
            assert!(
                matches!(live, Some(LiveTask::Leased(known)) if *known == token),
                "lease {token:?} is on a task that is {live:?}"
            );
        }
        assert_eq!(
            self.leases.len(),
            self.leases.iter().count(),
            "the leases are miscounted"
        );
        assert!(
            self.leases.is_empty() || self.sweep_at.is_some(),
            "leases are not swept"
        );
    }

    fn check_workers(&self) {
        let mut sessions = BTreeSet::new();
        for (key, worker) in self.workers.iter() {
            match worker.session {
                Some(session) => assert!(sessions.insert(session), "two workers share a session"),
                None => {
                    assert_eq!(worker.credits, 0, "a worker without a session has credits");
                    let sent = |token| self.leases.get(token).is_some_and(|it| it.sent);
                    assert!(
                        self.leases.of(key).into_iter().all(sent),
                        "a worker without a session holds what was never sent"
                    );
                }
            }
            assert_eq!(
                worker.leases as usize,
                self.leases.of(key).len(),
                "the leases of a worker are miscounted"
            );
            let suspects = self.leases.iter().filter(|(_, lease)| {
                let task = self.run(lease.run).state.task(lease.task);
                lease.worker == key && self.is_suspect(task)
            });
            let suspects = suspects.count();
            assert_eq!(
                worker.suspects as usize, suspects,
                "the suspects on a worker are miscounted"
            );
            assert!(
                suspects <= 1,
                "two tasks that were lost with their workers are on one"
            );
            for (_, lane) in self.lanes.iter() {
                let serves = lane.workers.iter().filter(|&&other| other == key).count();
                assert_eq!(
                    serves,
                    usize::from(worker.offers(&lane.requirement)),
                    "a lane has the wrong workers"
                );
            }
        }
    }

    fn check_lanes(&self) {
        let (mut waiting, mut parked) = (BTreeMap::new(), BTreeMap::new());
        for (key, run) in &self.runs {
            for (task, live) in run.tasks.iter().enumerate() {
                let task = TaskIndex(task as u32);
                let (LiveTask::Queued { lane, .. } | LiveTask::Parked { lane, .. }) = *live else {
                    continue;
                };
                let base = run.profile.lanes[run.state.defined(task).0 as usize];
                assert_eq!(
                    self.lanes.get(lane).requirement,
                    self.lanes.get(base).requirement,
                    "a task waits where something else is required"
                );
                assert_eq!(
                    self.lanes.get(lane).is_for_suspects,
                    self.is_suspect(run.state.task(task)),
                    "a task that was lost with its worker waits among the others, or the other way round"
                );
                let LiveTask::Queued { ticket, .. } = *live else {
                    *parked.entry(lane).or_insert(0) += 1;
                    continue;
                };
                *waiting.entry(lane).or_insert(0) += 1;
                assert!(
                    self.lanes
                        .get(lane)
                        .queue
                        .contains(RunKey(key as u32), task, ticket),
                    "a queued task is not in its queue"
                );
            }
        }
        let mut by_queue = BTreeMap::new();
        self.lanes.check_invariants();
        for (id, lane) in self.lanes.iter() {
            let held_back = parked.get(&id).copied().unwrap_or(0);
            assert_eq!(lane.parked, held_back, "parked tasks are miscounted");
            *by_queue.entry(&lane.requirement.queue).or_insert(0) += held_back;
            let count = waiting.get(&id).copied().unwrap_or(0);
            assert_eq!(lane.waiting, count, "the tasks in a lane are miscounted");
            *by_queue.entry(&lane.requirement.queue).or_insert(0) += count;
        }
        for (queue, count) in by_queue {
            assert_eq!(
                self.lanes.waiting_in(queue),
                count,
                "the tasks in a queue are miscounted"
            );
        }
    }

    fn check_upstreams(&self) {
        assert!(
            self.upstreams.iter().count() <= self.config.breaker.max_upstreams,
            "too many upstreams are known"
        );
        let mut lanes = 0;
        for (key, upstream) in self.upstreams.iter() {
            let calls = |lease: &Lease| lease.passed.is_some_and(|it| it.upstream == key);
            let running = self.leases.iter().filter(|(_, lease)| calls(lease)).count();
            assert_eq!(upstream.running as usize, running, "calls are miscounted");
            lanes += upstream.lanes.len();
            for &lane in &upstream.lanes {
                let lane = self.lanes.get(lane);
                assert_eq!(lane.upstream, Some(key), "a lane leads elsewhere");
                assert_eq!(
                    lane.is_held(),
                    !self.upstreams.has_room(key),
                    "a lane is held back exactly while its upstream has no room"
                );
            }
            match upstream.breaker.state() {
                BreakerState::Open { until } => assert!(
                    self.timers.contains(until, Timer::Breakers),
                    "nothing ends the time of an open breaker"
                ),
                _ => assert!(
                    running > 0 || self.upstreams.has_room(key),
                    "an upstream is never called again"
                ),
            }
        }
        let held = self.lanes.iter().filter(|(_, it)| it.upstream.is_some());
        assert_eq!(lanes, held.count(), "a lane has lost its upstream");
    }

    fn check_flights(&self) {
        let following =
            |(key, task): (RunKey, TaskIndex)| match self.run(key).tasks.get(task.0 as usize) {
                Some(LiveTask::Following(cache_key)) => Some(*cache_key),
                _ => None,
            };
        self.flights.check_invariants(following);
        let mut count = 0;
        for (_, run) in &self.runs {
            let follows = |live: &&LiveTask| matches!(live, LiveTask::Following(_));
            count += run.tasks.iter().filter(follows).count();
        }
        assert_eq!(self.flights.followers(), count, "a task waits for nothing");
    }

    fn check_timers(&self) {
        for (at, timer) in self.timers.iter() {
            let (Timer::Wake(key, _)
            | Timer::QueueTimeout(key, _)
            | Timer::TaskTimeout(key, _)
            | Timer::RunTimeout(key)) = timer
            else {
                assert!(
                    timer != Timer::Sweep || self.sweep_at == Some(at),
                    "a sweep is armed that nobody waits for"
                );
                continue;
            };
            let run = self.runs.get(key.0 as usize);
            assert!(
                run.is_some_and(|run| run.timers.contains(&(at, timer))),
                "{timer:?} outlives its run"
            );
        }
    }

    fn check_run(&self, key: RunKey, run: &LiveRun) {
        let live = |task: TaskIndex| run.tasks.get(task.0 as usize).unwrap_or(&LiveTask::Idle);
        let leased = run
            .tasks
            .iter()
            .filter(|live| matches!(live, LiveTask::Leased(_)))
            .count();
        assert_eq!(
            run.leases as usize, leased,
            "the leases of a run are miscounted"
        );
        match run.state.status {
            RunStatus::Running => {
                if let Some(limit) = run.state.definition.workflow.timeout {
                    let at = run.state.submitted_at.saturating_add(limit.0);
                    assert!(
                        self.timers.contains(at, Timer::RunTimeout(key)),
                        "nothing ends the run at its timeout"
                    );
                }
                assert_eq!(
                    run.state.open == 0,
                    run.rendering.is_some(),
                    "outputs are evaluated exactly when every task has ended"
                );
            }
            RunStatus::Cancelling => {
                assert!(leased > 0, "a cancelled run waits for nothing");
                assert!(
                    run.tasks
                        .iter()
                        .all(|live| matches!(live, LiveTask::Idle | LiveTask::Leased(_))),
                    "a cancelled run goes on"
                );
            }
            _ => assert!(
                run.tasks.iter().all(|live| matches!(live, LiveTask::Idle)),
                "an ended run goes on"
            ),
        }
        for (index, task) in run.state.tasks.iter().enumerate() {
            let index = TaskIndex(index as u32);
            let live = live(index);
            if task.status.is_terminal() {
                assert!(matches!(live, LiveTask::Idle), "an ended task is {live:?}");
            }
            // Items wait for the values of their list after a restart.
            if let Place::Item { of, .. } = task.place
                && !run.lists.contains_key(&of)
            {
                continue;
            }
            if run.state.status != RunStatus::Running || run.is_leaving || task.status.is_terminal()
            {
                continue;
            }
            let spec = &run.state.definition.tasks[run.state.defined(index).0 as usize];
            if let (Some(limit), Some(from)) = (spec.total_timeout, task.queued_at) {
                let at = from.saturating_add(limit);
                assert!(
                    self.timers.contains(at, Timer::TaskTimeout(key, index)),
                    "nothing ends task {index:?} at its total timeout"
                );
            }
            if !matches!(live, LiveTask::Idle) {
                continue;
            }
            match task.status {
                TaskStatus::Ready => panic!("task {index:?} is ready and nothing is done about it"),
                TaskStatus::Backoff | TaskStatus::Sleeping => {
                    let at = task.wakes_at.expect("what waits for a time has one");
                    assert!(
                        self.timers.contains(at, Timer::Wake(key, index)),
                        "task {index:?} is {:?} and nothing wakes it",
                        task.status
                    );
                }
                _ => {}
            }
        }
    }
}

impl RunState {
    /// Checks that the parts of the state agree with each other.
    ///
    /// # Panics
    /// When they do not.
    pub fn check_invariants(&self) {
        let defined = self.definition.plan.len();
        let ended = |status| {
            let has = |task: &&crate::task::TaskState| task.status == status;
            self.tasks.iter().filter(has).count() as u32
        };
        assert_eq!(self.counts.total as usize, self.tasks.len());
        assert_eq!(self.counts.succeeded, ended(TaskStatus::Succeeded));
        assert_eq!(self.counts.failed, ended(TaskStatus::Failed));
        assert_eq!(self.counts.skipped, ended(TaskStatus::Skipped));
        assert_eq!(self.counts.cancelled, ended(TaskStatus::Cancelled));
        for (index, task) in self.tasks.iter().enumerate() {
            assert_eq!(
                task.status.is_terminal(),
                task.finished_at.is_some(),
                "task {index} has ended exactly when it has the time of its end"
            );
            match task.place {
                Place::Whole => assert!(index < defined, "an item has no place"),
                Place::List { first, count, open } => {
                    let items = &self.tasks[first as usize..(first + count) as usize];
                    let left = items.iter().filter(|it| !it.status.is_terminal()).count();
                    if task.status.is_terminal() {
                        assert_eq!(left, 0, "an item outlives list {index}");
                    } else {
                        assert_eq!(open as usize, left, "items of list {index} are miscounted");
                    }
                }
                Place::Item { of, position } => {
                    let Place::List { first, .. } = self.task(of).place else {
                        panic!("item {index} is of a task that is no list");
                    };
                    assert_eq!((first + position) as usize, index);
                }
            }
        }
        let open = |task: TaskIndex| !self.task(task).status.is_terminal();
        for (level, tasks) in self.definition.plan.levels().iter().enumerate() {
            let left = tasks.iter().filter(|&&task| open(task)).count();
            assert_eq!(
                self.level_has_ended(level as u32),
                left == 0,
                "level {level} is miscounted"
            );
        }
        if self.status.is_terminal() {
            assert_eq!(self.open, 0);
            assert!(self.tasks.iter().all(|task| task.status.is_terminal()));
            return;
        }
        let tasks = (0..defined as u32).map(TaskIndex);
        assert_eq!(
            self.open as usize,
            tasks.clone().filter(|&it| open(it)).count()
        );
        for task in tasks.filter(|&task| open(task)) {
            let needs = self.definition.plan.needs(task).iter();
            let left = needs.filter(|&&need| open(TaskIndex(need))).count();
            let state = self.task(task);
            assert_eq!(
                state.needs_left as usize, left,
                "needs of {task:?} are miscounted"
            );
            assert_eq!(
                state.status == TaskStatus::Pending,
                left > 0,
                "{task:?} is pending exactly when a need has not ended"
            );
        }
    }
}
