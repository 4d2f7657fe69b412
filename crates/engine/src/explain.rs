//! Exactly why a task waits.

use std::borrow::Cow;

use levelflow_common::{CacheKey, CacheUse, Priority, RunId, Similar, TaskStatus, Timestamp};

use crate::advance::served_status;
use crate::breaker::BreakerState;
use crate::command::BatchNumber;
use crate::engine::Engine;
use crate::event::{Intake, RunKey};
use crate::lane::LaneId;
use crate::live::LiveTask;
use crate::record::TaskIndex;
use crate::rejection::Rejection;
use crate::run::RunState;
use crate::task::Place;
use crate::upstream::UpstreamKey;
use crate::worker::Worker;

/// How a task stands and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// How it stands.
    pub status: TaskStatus,
    /// The reasons, the most important first.
    pub reasons: Vec<Reason>,
}

/// A reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What programs match on.
    pub code: Cow<'static, str>,
    /// What people read.
    pub text: String,
}

pub(crate) fn reason(code: &'static str, text: impl Into<String>) -> Reason {
    Reason {
        code: code.into(),
        text: text.into(),
    }
}

impl Engine {
    /// Why a task of an open run stands as it does, and the batch that must be durable before it is
    /// told.
    ///
    /// # Errors
    /// When the run is not open or has no such task.
    pub fn explain(
        &self,
        now: Timestamp,
        run_id: RunId,
        task_id: &str,
        item: Option<u32>,
    ) -> Result<(BatchNumber, Explanation), Rejection> {
        let &key = self
            .by_id
            .get(&run_id)
            .ok_or(Rejection::RunNotFound(run_id))?;
        let run = self.run(key);
        let task = run
            .state
            .find(task_id, item)
            .ok_or_else(|| Rejection::TaskNotFound {
                run_id,
                task: task_id.to_owned(),
            })?;
        let idle = LiveTask::Idle;
        let live = run.tasks.get(task.0 as usize).unwrap_or(&idle);
        let status = served_status(&run.state, task, live);
        let mut reasons = match live {
            LiveTask::Idle => run.state.reasons(now, task),
            LiveTask::Gated => vec![self.why_gated(key, task)],
            LiveTask::Preparing(_) => {
                vec![reason("preparing", "its expressions are being evaluated")]
            }
            LiveTask::Queued { since, lane, .. } => {
                self.why_queued(now, *lane, run.state.priority_of(task), *since)
            }
            LiveTask::Following(cache_key) => vec![self.why_following(*cache_key)],
            LiveTask::Parked { since, .. } => self.why_parked(now, key, task, *since),
            LiveTask::Leased(token) => {
                let lease = self.leases.get(*token);
                lease
                    .map(|lease| {
                        let worker = self.workers.get(lease.worker);
                        let since = now.since(lease.started_at);
                        let place = if worker.session.is_some() {
                            format!("on worker `{}`", worker.hello.worker)
                        } else {
                            format!(
                                "on worker `{}`, which is not connected; its lease ends {:?} after its last heartbeat",
                                worker.hello.worker, self.config.lease
                            )
                        };
                        reason(
                            "running",
                            format!("attempt {} has run for {since:.1?} {place}", lease.attempt),
                        )
                    })
                    .into_iter()
                    .collect()
            }
        };
        reasons.extend(self.why_not_cached(key, task, live));
        Ok((run.recorded_in.0, Explanation { status, reasons }))
    }

    fn why_following(&self, cache_key: CacheKey) -> Reason {
        let leader = self.flights.leader_of(cache_key);
        let text = leader.map_or_else(String::new, |(key, task)| {
            let state = &self.run(key).state;
            let id = &state.definition.tasks[state.defined(task).0 as usize].id;
            format!(": task `{id}` of run {}", state.submitted.run_id)
        });
        reason(
            "same_result",
            format!("another task computes the same result{text}"),
        )
    }

    /// Why the result of a task is neither looked up nor kept, although it names the cache.
    fn why_not_cached(&self, key: RunKey, task: TaskIndex, live: &LiveTask) -> Option<Reason> {
        let is_prepared = matches!(
            live,
            LiveTask::Queued { .. } | LiveTask::Parked { .. } | LiveTask::Leased(_)
        );
        let state = &self.run(key).state;
        let spec = &state.definition.tasks[state.defined(task).0 as usize];
        let is_cached = spec.cache.is_some() && state.submitted.cache != CacheUse::Off;
        if !is_prepared || !is_cached || self.flights.has(key, task) {
            return None;
        }
        let why = self.handler_version(spec).err()?;
        Some(reason(
            "version_unknown",
            format!("its result is neither taken from the cache nor kept there: {why}"),
        ))
    }

    fn why_gated(&self, key: RunKey, task: TaskIndex) -> Reason {
        let run = self.run(key);
        let definition = &run.state.definition;
        let level = definition.plan.level_of(run.state.defined(task));
        match run.gate.barrier() {
            Some(barrier) if barrier < level => reason(
                "level_barrier",
                format!(
                    "it is in level {level}, and `dispatch: level` holds it until level {barrier} has ended"
                ),
            ),
            _ if run.gate.holds_in_list(&run.state, task) => reason(
                "max_parallel",
                "as many items of its list are under way as `for_each.max_parallel` allows",
            ),
            _ => reason(
                "max_parallel",
                format!(
                    "`max_parallel: {}` tasks of the run are under way",
                    run.gate.limit().unwrap_or_default()
                ),
            ),
        }
    }

    fn why_queued(
        &self,
        now: Timestamp,
        lane: LaneId,
        priority: Priority,
        since: Timestamp,
    ) -> Vec<Reason> {
        let lane = self.lanes.get(lane);
        let requirement = &lane.requirement;
        let waited = now.since(since);
        let what = if !requirement.handler.is_empty() {
            format!("handler `{}`", requirement.handler)
        } else if !requirement.connection.is_empty() {
            format!(
                "`{}` tasks with `{}`",
                requirement.kind, requirement.connection
            )
        } else {
            format!("`{}` tasks", requirement.kind)
        };
        let labels = if requirement.labels.is_empty() {
            String::new()
        } else {
            format!(" with labels {:?}", requirement.labels)
        };
        let wanted = format!("queue `{}` that runs {what}{labels}", requirement.queue);
        let live: Vec<_> = lane
            .workers
            .iter()
            .map(|&worker| self.workers.get(worker))
            .filter(|worker| worker.session.is_some())
            .collect();
        let first = if lane.is_held()
            && let Some(upstream) = lane.upstream
        {
            self.why_held(now, upstream)
        } else if live.is_empty() {
            reason("no_worker", format!("no connected worker serves {wanted}"))
        } else if let Some(reason) = self.why_silent(now, &live, &wanted) {
            reason
        } else if live.iter().all(|worker| worker.draining) {
            reason(
                "draining",
                format!("all {} workers for {wanted} are draining", live.len()),
            )
        } else if let Some(reason) = why_short_of_memory(&live, priority, &wanted) {
            reason
        } else if lane.is_for_suspects && live.iter().all(|worker| worker.suspects > 0) {
            reason(
                "suspect",
                format!(
                    "it was lost with its worker before, and each of the {} workers for {wanted} runs another such task: one at a time, so that the one to blame is found",
                    live.len()
                ),
            )
        } else {
            reason(
                "workers_busy",
                format!(
                    "none of the {} workers for {wanted} has a free slot",
                    live.len()
                ),
            )
        };
        let place = reason(
            "queued",
            format!(
                "it has waited for {waited:.1?} among {} tasks that require the same",
                lane.waiting
            ),
        );
        vec![first, place]
    }
}

impl Engine {
    /// Why no worker takes a task, if that is because none of them says anything.
    fn why_silent(&self, now: Timestamp, live: &[&Worker], wanted: &str) -> Option<Reason> {
        let silence = self.silence();
        let last = live.iter().map(|worker| worker.heard_at).max()?;
        let is_silent = live.iter().all(|worker| worker.is_silent(now, silence));
        is_silent.then(|| {
            reason(
                "silent",
                format!(
                    "all {} workers for {wanted} are connected and silent, the last for {:.1?}: they get nothing until one is heard again",
                    live.len(),
                    now.since(last)
                ),
            )
        })
    }
}

/// Why no worker takes a task of this priority, if that is because of their memory.
fn why_short_of_memory(live: &[&Worker], priority: Priority, wanted: &str) -> Option<Reason> {
    let refuses = |worker: &&Worker| match worker.intake {
        Intake::All => false,
        Intake::NoLow => priority == Priority::Low,
        Intake::Nothing => true,
    };
    if !live.iter().filter(|it| !it.draining).all(refuses) {
        return None;
    }
    let what = if priority == Priority::Low {
        "and take no tasks of low priority until they hold less"
    } else {
        "and take nothing until they hold less"
    };
    Some(reason(
        "memory_pressure",
        format!(
            "all {} workers for {wanted} are short of memory, {what}",
            live.len()
        ),
    ))
}

impl Engine {
    /// Why no more attempts may call an upstream now.
    fn why_held(&self, now: Timestamp, upstream: UpstreamKey) -> Reason {
        let upstream = self.upstreams.get(upstream);
        let (name, running) = (&upstream.name, upstream.running);
        let failures = upstream.breaker.failures();
        match upstream.breaker.state() {
            BreakerState::Open { until } => reason(
                "breaker_open",
                format!(
                    "its upstream `{name}` failed: the breaker is open for another {:.1?}, and the task is parked without using up attempts",
                    until.since(now)
                ),
            ),
            BreakerState::HalfOpen { .. } => reason(
                "breaker_half_open",
                format!(
                    "its upstream `{name}` failed before: {running} attempts probe it, and the task is parked until they succeed"
                ),
            ),
            BreakerState::Closed if failures > 0 => reason(
                "upstream_failing",
                format!(
                    "the last {failures} calls to its upstream `{name}` failed: {running} attempts are under way, and no more are started until one succeeds"
                ),
            ),
            BreakerState::Closed => reason(
                "upstream_unproven",
                format!(
                    "its upstream `{name}` has not answered yet: {running} attempts are under way, and no more are started until one succeeds"
                ),
            ),
        }
    }
}

impl RunState {
    /// The task of that name.
    pub fn find(&self, task_id: &str, item: Option<u32>) -> Option<TaskIndex> {
        let task = self
            .definition
            .tasks
            .iter()
            .position(|spec| &*spec.id == task_id)? as u32;
        match (item, self.tasks[task as usize].place) {
            (None, _) => Some(TaskIndex(task)),
            (Some(item), Place::List { first, count, .. }) if item < count => {
                Some(TaskIndex(first + item))
            }
            (Some(_), _) => None,
        }
    }

    /// Why a task stands as it does, as the journal tells it.
    pub fn reasons(&self, now: Timestamp, task: TaskIndex) -> Vec<Reason> {
        let state = self.task(task);
        let id = |task: TaskIndex| &self.definition.tasks[task.0 as usize].id;
        let in_time = |at: Option<Timestamp>| at.map_or_else(Default::default, |at| at.since(now));
        let mut reasons = match state.status {
            TaskStatus::Pending => self.why_pending(task),
            TaskStatus::Ready => vec![reason("ready", "its needs are met")],
            TaskStatus::Running => match state.place {
                Place::List { count, open, .. } => vec![reason(
                    "items",
                    format!("{open} of its {count} items have not ended"),
                )],
                Place::Whole | Place::Item { .. } => vec![],
            },
            TaskStatus::Backoff => vec![reason(
                "backoff",
                format!(
                    "attempt {} failed; the next starts in {:.1?}",
                    state.attempts,
                    in_time(state.wakes_at)
                ),
            )],
            TaskStatus::Sleeping => vec![reason(
                "sleeping",
                format!("it wakes in {:.1?}", in_time(state.wakes_at)),
            )],
            TaskStatus::Succeeded => match (&state.reused_from, &state.cached) {
                (_, Some(from)) => vec![reason(
                    "cached",
                    format!(
                        "its result was found: {}, computed {:.1?} ago in {:.1?}{}",
                        from.tier.as_str(),
                        from.age,
                        from.saved,
                        source(state.similar_to.as_deref()),
                    ),
                )],
                (Some(run), None) => vec![reason(
                    "succeeded",
                    format!("its output was kept from run {run}"),
                )],
                (None, None) => vec![reason("succeeded", "it has ended with an output")],
            },
            TaskStatus::Failed => vec![reason(
                "failed",
                format!("it failed after {} attempts", state.attempts),
            )],
            TaskStatus::Skipped => match state.skipped_by {
                Some(cause) => vec![reason(
                    "upstream",
                    format!(
                        "it needs `{}`, which {}",
                        id(cause),
                        ended_as(self.task(cause).status)
                    ),
                )],
                None => vec![reason("when", "its `when` was false")],
            },
            TaskStatus::Cancelled => vec![reason("cancelled", "its run ended before it could")],
        };
        if let Some(failure) = &state.failure {
            reasons.push(reason(
                failure.code.as_str(),
                format!("the last attempt failed: {}", failure.message),
            ));
        }
        reasons
    }

    fn why_pending(&self, task: TaskIndex) -> Vec<Reason> {
        let needs = self.definition.plan.needs(self.defined(task));
        let waits: Vec<String> = needs
            .iter()
            .map(|&need| TaskIndex(need))
            .filter(|&need| !self.task(need).status.is_terminal())
            .map(|need| format!("`{}`", self.definition.tasks[need.0 as usize].id))
            .collect();
        const SHOWN: usize = 10;
        let more = match waits.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let shown = waits[..waits.len().min(SHOWN)].join(", ");
        vec![reason("needs", format!("it waits for {shown}{more}"))]
    }
}

/// Whose result it is, where it is that of a nearly equal text.
fn source(similar: Option<&Similar>) -> String {
    similar.map_or_else(String::new, |similar| {
        format!(
            ", for a text of similarity {}, by task `{}` of run {}",
            similar.similarity, similar.task_id, similar.run_id
        )
    })
}

fn ended_as(status: TaskStatus) -> &'static str {
    match status {
        TaskStatus::Failed => "failed",
        TaskStatus::Skipped => "was skipped",
        TaskStatus::Cancelled => "was cancelled",
        _ => "has not succeeded",
    }
}
