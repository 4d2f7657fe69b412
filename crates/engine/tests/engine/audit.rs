//! What is remembered across crashes, to hold the engine to its guarantees.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use levelflow_common::view::{RunView, TaskView};
use levelflow_common::workflow::Durability;
use levelflow_common::{CacheUse, Code, FencingToken, RunId, RunStatus, TaskStatus, Timestamp};
use levelflow_engine::command::Attempt;
use levelflow_engine::task::Place;
use levelflow_engine::{Config, Entry, Fact, RunNumber, RunState, TaskIndex};

/// What was promised to clients and workers.
#[derive(Default)]
pub(crate) struct Audit {
    /// Runs whose submit was acknowledged.
    pub(crate) submitted: BTreeSet<RunId>,
    /// Runs for idempotency keys whose submit was acknowledged.
    pub(crate) keys: BTreeMap<KeyName, (RunId, [u8; 32])>,
    /// Runs whose cancel was acknowledged.
    pub(crate) cancelled: BTreeSet<RunId>,
    /// How runs ended of which that was told.
    pub(crate) ended: BTreeMap<RunId, RunStatus>,
    /// Every token that was ever given out.
    pub(crate) given: BTreeSet<FencingToken>,
    /// The last token of each task.
    last: BTreeMap<(RunNumber, TaskIndex), FencingToken>,
    /// The last attempt of each task that was lost with its worker, as far as the engine knows of it.
    pub(crate) lost: BTreeMap<(RunNumber, TaskIndex), u32>,
    /// The losses with which a task is quarantined; 0 for none.
    pub(crate) quarantine_after: usize,
    /// Tokens whose result was accepted.
    pub(crate) accepted: BTreeSet<FencingToken>,
}

/// Tenant and idempotency key.
type KeyName = (Arc<str>, Arc<str>);

impl Audit {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            quarantine_after: config.quarantine_after as usize,
            ..Self::default()
        }
    }

    /// A worker is given an attempt, with the run as its store and as its engine know it.
    pub(crate) fn started(
        &mut self,
        now: Timestamp,
        attempt: &Attempt,
        durable: Option<&RunState>,
        told: &RunState,
    ) {
        let durable = durable.expect("an attempt started before its submit was durable");
        assert!(self.given.insert(attempt.token), "a token was given twice");
        assert!(
            !self.cancelled.contains(&attempt.run_id),
            "an attempt started after a cancel was acknowledged"
        );
        assert_eq!(
            told.status,
            RunStatus::Running,
            "an attempt of a run that ends"
        );
        let index = told.find(&attempt.task_id, attempt.item).expect("the task");
        let before = self.last.insert((told.number, index), attempt.token);
        assert!(
            before < Some(attempt.token),
            "a token is lower than the one before"
        );
        let lost = self.lost.remove(&(told.number, index));
        assert!(
            lost < Some(attempt.attempt),
            "a lost attempt does not count"
        );
        let task = told.task(index);
        let defined = told.defined(index);
        let spec = &told.definition.tasks[defined.0 as usize];
        assert!(!task.status.is_terminal(), "an attempt of an ended task");
        assert_eq!(
            attempt.attempt,
            task.attempts + 1,
            "an attempt is miscounted"
        );
        assert!(
            attempt.attempt <= spec.retry.max_attempts,
            "an attempt too many"
        );
        assert!(
            task.wakes_at.is_none_or(|at| at <= now),
            "an attempt started before its backoff was over"
        );
        if told.submitted.durability == Durability::Strict {
            for &need in told.definition.plan.needs(defined) {
                let need = durable.task(TaskIndex(need));
                assert!(need.status.is_terminal(), "a need is not durable");
            }
            assert!(
                (index.0 as usize) < durable.tasks.len(),
                "the list is not durable"
            );
            assert_eq!(durable.task(index).attempts, task.attempts);
        }
    }

    /// Entries are written, with the run as it was before.
    pub(crate) fn written(&self, before: &RunState, entry: &Entry) -> RunState {
        let mut state = before.clone();
        assert_eq!(
            entry.first_sequence,
            state.sequence + 1,
            "a gap in the journal"
        );
        assert!(!entry.records.is_empty());
        let status = state.status;
        for record in &entry.records {
            state
                .check(record)
                .expect("the engine writes what it can read");
            self.check_losses(&state, &record.fact);
            match record.fact {
                Fact::Succeeded {
                    task,
                    attempt,
                    cached: Some(_),
                    ..
                } => {
                    let was = state.task(task);
                    assert_eq!(
                        attempt, was.attempts,
                        "a result that was found is no attempt"
                    );
                    assert_ne!(before.submitted.cache, CacheUse::Off);
                }
                Fact::Succeeded { task, attempt, .. } => {
                    let was = state.task(task);
                    if was.status == TaskStatus::Sleeping {
                        assert!(was.wakes_at <= Some(record.at), "it woke too early");
                        assert_eq!(attempt, 0);
                    } else {
                        assert_eq!(attempt, was.attempts + 1, "a second result of an attempt");
                        self.check_attempt(&state, task, attempt);
                    }
                }
                Fact::Failed {
                    task,
                    attempt,
                    retry_at,
                    ..
                } => {
                    let was = state.task(task);
                    assert!(attempt == was.attempts || attempt == was.attempts + 1);
                    self.check_attempt(&state, task, attempt);
                    if let Some(at) = retry_at {
                        assert_eq!(attempt, was.attempts + 1, "a retry of nothing");
                        assert!(at >= record.at);
                    }
                }
                _ => {}
            }
            state.apply(record, &mut Vec::new());
            state.check_invariants();
        }
        if state.status != status || entry.first_sequence == 1 {
            let progress = entry.progress.as_ref().expect("the status changed");
            assert_eq!(progress.status, state.status);
            if state.status.is_terminal() {
                assert_eq!(*progress, state.progress());
            }
        }
        state
    }

    /// A task is quarantined with the loss that is one too many, and neither before nor after.
    fn check_losses(&self, state: &RunState, fact: &Fact) {
        let Fact::Failed { task, failure, .. } = fact else {
            return;
        };
        let limit = self.quarantine_after;
        let losses = state.task(*task).losses.len() + 1;
        if failure.code == Code::Quarantined {
            assert_eq!(losses, limit, "a task is quarantined too early");
        } else if failure.code.is_crash() {
            assert!(limit == 0 || losses < limit, "a task is lost too often");
        }
    }

    fn check_attempt(&self, state: &RunState, task: TaskIndex, attempt: u32) {
        let spec = &state.definition.tasks[state.defined(task).0 as usize];
        assert!(attempt <= spec.retry.max_attempts, "an attempt too many");
        assert!(!matches!(state.task(task).place, Place::List { .. }) || attempt == 0);
    }

    /// A run ended, and that was told.
    pub(crate) fn ended(&mut self, run_id: RunId, status: RunStatus) {
        let before = self.ended.insert(run_id, status);
        assert!(before.is_none(), "a run ended twice");
    }
}

/// Holds the served view against that of the journal: they may differ only in what is under way.
pub(crate) fn compare(journal: &RunView, served: &RunView) {
    let mut served = served.clone();
    assert_eq!(journal.tasks.len(), served.tasks.len());
    for (told, live) in journal.tasks.iter().zip(&mut served.tasks) {
        let TaskView {
            status,
            attempts,
            started_at,
            worker,
            wakes_at,
            ..
        } = told.clone();
        match (status, live.status) {
            (TaskStatus::Backoff, TaskStatus::Ready) => live.status = status,
            (TaskStatus::Ready | TaskStatus::Backoff, TaskStatus::Running) => {
                assert_eq!(live.attempts, attempts + 1);
                assert!(live.worker.is_some() && live.started_at.is_some());
                (live.status, live.attempts) = (status, attempts);
                (live.started_at, live.worker, live.wakes_at) = (started_at, worker, wakes_at);
            }
            _ => {}
        }
    }
    assert_eq!(
        *journal, served,
        "the journal tells something else than was served"
    );
}

/// The runs of a store: their journals and the fold of each.
pub(crate) type Folds = BTreeMap<RunNumber, RunState>;
