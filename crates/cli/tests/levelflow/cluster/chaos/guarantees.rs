//! What the design promises, held against what clients were told, what is served and what tasks left behind.
//!
//! One function for each guarantee. None of them asserts: whoever switches a protection off wants to see what
//! is found then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use levelflow_common::event::{RunEvent, RunUpdate, TaskRef};
use levelflow_common::{CacheTier, Fault, RunStatus, TaskStatus, Timestamp};

use super::evidence::{Evidence, Run, mark_of};
use super::starts::Start;
use crate::client::is_recorded;
use crate::fold::Fold;

/// By how much the clocks of two processes of one machine may differ: each follows the clock of the system
/// from its own start on.
const CLOCKS_DIFFER_BY: Duration = Duration::from_millis(50);
/// How long after an acknowledged cancel a start may come that was on its way. A start that a later event has
/// caused may not come at all.
const ON_ITS_WAY: Duration = Duration::from_secs(30);

/// Something that a guarantee excludes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Its number in the list of guarantees.
    pub(crate) guarantee: u8,
    pub(crate) what: String,
}

/// A check of one guarantee.
type Check = fn(&Evidence) -> Vec<Violation>;

/// The checks, in the order of the guarantees from 1 on.
pub(crate) const CHECKS: [Check; 11] = [
    submits_are_kept,
    results_are_accepted_once,
    attempts_are_counted,
    tasks_start_on_durable_results,
    runs_progress,
    cancels_hold,
    timers_are_kept,
    journals_are_what_is_served,
    the_cache_serves_what_fits,
    watchers_miss_nothing,
    all_is_bounded,
];

/// What all of them find.
pub(crate) fn violations(evidence: &Evidence) -> Vec<Violation> {
    CHECKS.iter().flat_map(|check| check(evidence)).collect()
}

/// What one check finds.
struct Findings {
    guarantee: u8,
    found: Vec<Violation>,
}

impl Findings {
    fn of(guarantee: u8) -> Self {
        let found = Vec::new();
        Self { guarantee, found }
    }

    fn add(&mut self, what: String) {
        let guarantee = self.guarantee;
        self.found.push(Violation { guarantee, what });
    }

    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.add(what());
        }
    }
}

/// 1: an acknowledged submit is never lost; the same key gives the same run.
pub(crate) fn submits_are_kept(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings::of(1);
    let mut by_key: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for submit in &evidence.submits {
        let run_id = submit.run_id.as_str();
        let is_served = evidence
            .runs
            .get(run_id)
            .is_some_and(|it| it.view.is_some());
        findings.expect(is_served, || format!("run {run_id} is gone"));
        findings.expect(evidence.listed.contains(run_id), || {
            format!("run {run_id} is not listed")
        });
        if submit.key.is_empty() {
            continue;
        }
        let known = *by_key
            .entry((&submit.tenant, &submit.key))
            .or_insert(run_id);
        findings.expect(known == run_id, || {
            format!("key {} gave the runs {known} and {run_id}", submit.key)
        });
        if let Some(again) = &submit.again {
            let same = (run_id.to_owned(), true);
            findings.expect(*again == Ok(same), || {
                format!("key {} of run {run_id} now gives {again:?}", submit.key)
            });
        }
    }
    let acknowledged: BTreeSet<&str> = evidence.submits.iter().map(|it| &*it.run_id).collect();
    for run_id in &evidence.listed {
        findings.expect(acknowledged.contains(run_id.as_str()), || {
            format!("nobody was told of run {run_id}")
        });
    }
    findings.found
}

/// 2: one result for an attempt at most, and one end for a task.
pub(crate) fn results_are_accepted_once(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings::of(2);
    let starts: BTreeMap<&str, &Start> = evidence.starts.iter().map(|it| (&*it.mark, it)).collect();
    for (run_id, run) in &evidence.runs {
        let mut ends: BTreeMap<&TaskRef, &RunEvent> = BTreeMap::new();
        let mut outcomes: BTreeMap<(&TaskRef, u32), &RunEvent> = BTreeMap::new();
        for event in run.events() {
            if let Some(task) = ended(event) {
                let earlier = ends.insert(task, event);
                findings.expect(earlier.is_none(), || {
                    format!("run {run_id}: {task:?} ended as {earlier:?} and as {event:?}")
                });
            }
            if let Some((task, attempt)) = outcome(event) {
                let earlier = outcomes.insert((task, attempt), event);
                findings.expect(earlier.is_none(), || {
                    format!(
                        "run {run_id}: attempt {attempt} at {task:?} gave {earlier:?} and {event:?}"
                    )
                });
            }
            let RunEvent::TaskSucceeded {
                task,
                attempt,
                output,
                cached: None,
                reused_from: None,
                ..
            } = event
            else {
                continue;
            };
            let Some(mark) = mark_of(output) else {
                continue;
            };
            let from_it = starts.get(mark.as_str()).is_some_and(|start| {
                start.is_of(run_id, task) && start.attempt.is_none_or(|it| it == *attempt)
            });
            findings.expect(from_it, || {
                let start = starts.get(mark.as_str());
                format!("run {run_id}: attempt {attempt} at {task:?} has the result of {start:?}")
            });
        }
    }
    findings.found
}

/// 3: a task starts `max_attempts` times at most, and what has to count counts.
pub(crate) fn attempts_are_counted(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings::of(3);
    let mut started: BTreeMap<(&str, &str, Option<u32>), u32> = BTreeMap::new();
    for start in &evidence.starts {
        *started.entry(start.key()).or_default() += 1;
        let Some(max) = evidence.max_attempts(&start.run_id, &start.task) else {
            continue;
        };
        findings.expect(start.attempt.is_none_or(|it| it <= max), || {
            format!("{start:?} is beyond {max} attempts")
        });
    }
    for (run_id, run) in &evidence.runs {
        let mut failed: BTreeMap<&TaskRef, u32> = BTreeMap::new();
        for event in run.events() {
            let Some((task, attempt)) = outcome(event) else {
                continue;
            };
            let before = failed.entry(task).or_default();
            findings.expect(attempt == *before + 1, || {
                format!("run {run_id}: after {before} failed attempts came {event:?}")
            });
            let max = evidence.max_attempts(run_id, &task.task_id);
            findings.expect(max.is_none_or(|max| attempt <= max), || {
                format!("run {run_id}: more than {max:?} attempts: {event:?}")
            });
            if matches!(event, RunEvent::AttemptFailed { .. }) {
                *before += 1;
            }
        }
        let of_run = started.range((run_id.as_str(), "", None)..);
        for (&(_, task, item), &starts) in of_run.take_while(|it| it.0.0 == run_id) {
            let task = TaskRef {
                task_id: task.into(),
                item,
            };
            let failed = failed.get(&task).copied().unwrap_or_default();
            findings.expect(starts <= failed + 1 + evidence.restarts, || {
                format!(
                    "run {run_id}: {task:?} started {starts} times, and {failed} attempts failed"
                )
            });
            let latest = evidence.starts.iter().filter(|it| it.is_of(run_id, &task));
            let latest = latest.filter_map(|it| it.attempt).max().unwrap_or(1);
            findings.expect(latest <= failed + 1, || {
                format!("run {run_id}: attempt {latest} at {task:?} started, and {failed} failed")
            });
        }
    }
    findings.found
}

/// 4: a task starts on results that are durable, and so on those that are recorded in the end. In a relaxed run that
/// is so of the starts whose results are recorded.
pub(crate) fn tasks_start_on_durable_results(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings::of(4);
    for start in evidence
        .starts
        .iter()
        .filter(|it| evidence.is_on_record(it))
    {
        let Some(run) = evidence.runs.get(&start.run_id) else {
            findings.add(format!("{start:?} is of no known run"));
            continue;
        };
        let recorded: BTreeSet<String> = run.outputs().filter_map(|it| mark_of(it)).collect();
        for need in &start.needs {
            findings.expect(recorded.contains(need), || {
                format!("{start:?} was given {need}, which is in no journal")
            });
        }
    }
    findings.found
}

/// 5: once faults heal, every run goes on and ends.
pub(crate) fn runs_progress(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings::of(5);
    for (run_id, run) in &evidence.runs {
        let Some(view) = &run.view else {
            continue;
        };
        findings.expect(view.summary.status.is_terminal(), || {
            let open = view.tasks.iter().filter(|it| !it.status.is_terminal());
            let open: Vec<String> = open
                .map(|it| format!("{} {}", it.task_id, it.status.as_str()))
                .collect();
            format!("run {run_id} stands still: {open:?}")
        });
    }
    findings.found
}

/// 6: after an acknowledged cancel nothing starts; ends do not change.
pub(crate) fn cancels_hold(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings::of(6);
    let answered: BTreeMap<&str, Timestamp> = evidence
        .starts
        .iter()
        .filter_map(|it| Some((&*it.mark, it.answered_at?)))
        .collect();
    for cancel in &evidence.cancels {
        let run_id = &cancel.run_id;
        for start in evidence.starts.iter().filter(|it| it.run_id == *run_id) {
            let given = start.needs.iter().filter_map(|it| answered.get(&**it));
            let caused_later = given.max().is_some_and(|at| *at > cancel.acknowledged_at);
            let latest = cancel.acknowledged_at.saturating_add(ON_ITS_WAY);
            findings.expect(!caused_later && start.at <= latest, || {
                format!("{start:?} came after {cancel:?}")
            });
        }
        let Some(run) = evidence.runs.get(run_id) else {
            continue;
        };
        let ended = run.view.as_ref().map(|it| it.summary.status);
        findings.expect(ended.is_none_or(|it| it == RunStatus::Cancelled), || {
            format!("run {run_id} is {ended:?} after {cancel:?}")
        });
    }
    for (run_id, run) in &evidence.runs {
        let mut cancelled = false;
        for event in run.seen.iter().flat_map(|update| &update.events) {
            cancelled |= matches!(event, RunEvent::CancelRequested { .. });
            let starts = matches!(event, RunEvent::AttemptStarted { .. });
            findings.expect(!(starts && cancelled), || {
                format!("run {run_id} was cancelled, and then came {event:?}")
            });
        }
        let last = run.view.as_ref().map(|it| it.summary.status);
        for told in &run.ends {
            findings.expect(last == Some(*told), || {
                format!("run {run_id} had ended as {told:?} and is now {last:?}")
            });
        }
    }
    findings.found
}

/// 7: timers outlive restarts and are never early.
pub(crate) fn timers_are_kept(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings::of(7);
    for (run_id, run) in &evidence.runs {
        // By task, and by the attempt that may start then; 0 for a sleep.
        let mut due: BTreeMap<(TaskRef, u32), Timestamp> = BTreeMap::new();
        for update in &run.history {
            for event in &update.events {
                match event {
                    RunEvent::Sleeping { task, wakes_at } => {
                        due.insert((task.clone(), 0), *wakes_at);
                    }
                    RunEvent::AttemptFailed {
                        task,
                        attempt,
                        retry_at,
                        ..
                    } => {
                        due.insert((task.clone(), attempt + 1), *retry_at);
                    }
                    RunEvent::TaskSucceeded { task, .. } => {
                        let wakes_at = due.get(&(task.clone(), 0)).copied().unwrap_or_default();
                        findings.expect(wakes_at <= update.at, || {
                            format!("run {run_id}: {task:?} slept until {wakes_at:?}: {update:?}")
                        });
                    }
                    _ => {}
                }
            }
        }
        let starts = evidence.starts.iter().filter(|it| it.run_id == *run_id);
        for start in starts.filter(|it| evidence.is_on_record(it)) {
            let task = start.task_ref();
            let retry = start
                .attempt
                .and_then(|attempt| due.get(&(task.clone(), attempt)));
            let needs = evidence.needs(run_id, &start.task);
            let slept = needs
                .into_iter()
                .filter_map(|need| due.get(&(task_named(need), 0)));
            for at in retry.into_iter().chain(slept) {
                let earliest = at.saturating_sub(CLOCKS_DIFFER_BY);
                findings.expect(start.at >= earliest, || {
                    format!("{start:?} is before {at:?}")
                });
            }
        }
    }
    findings.found
}

/// 8: the fold of a journal is what is served, without a gap.
pub(crate) fn journals_are_what_is_served(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings::of(8);
    for (run_id, run) in &evidence.runs {
        for (expected, update) in (1..).zip(&run.history) {
            findings.expect(update.sequence == expected, || {
                format!(
                    "run {run_id}: at {expected} its journal has {}",
                    update.sequence
                )
            });
        }
        for other in &run.elsewhere {
            findings.expect(*other == run.history, || {
                format!("run {run_id}: another coordinator gives another journal: {other:?}")
            });
        }
        let Some(view) = &run.view else {
            continue;
        };
        if !view.summary.status.is_terminal() {
            continue;
        }
        match Fold::try_of(&run.history) {
            Err(problem) => findings.add(format!("run {run_id}: {problem}")),
            Ok(folded) => {
                let served = Fold::served(view);
                findings.expect(folded == served, || {
                    format!("run {run_id}: its journal says {folded:?}, and served is {served:?}")
                });
            }
        }
    }
    for view in &evidence.served {
        let run_id = view.summary.run_id.to_string();
        let Some(run) = evidence.runs.get(&run_id) else {
            continue;
        };
        for task in view.tasks.iter().filter(|it| !it.status.is_terminal()) {
            let before = run.history.iter().filter(|it| it.sequence <= view.sequence);
            let failures = before.flat_map(|update| &update.events).filter(|event| {
                matches!(event, RunEvent::AttemptFailed { task: of, .. }
                    if of.task_id == task.task_id && of.item == task.item)
            });
            let known = failures.count() + usize::from(task.status == TaskStatus::Running);
            findings.expect(task.attempts as usize == known, || {
                let sequence = view.sequence;
                format!("run {run_id}: at {sequence} its journal has {known} attempts of {task:?}")
            });
        }
    }
    findings.found
}

/// 9: the cache serves nothing that has expired, is another tenant's or is for another input.
pub(crate) fn the_cache_serves_what_fits(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings::of(9);
    let starts: BTreeMap<&str, &Start> = evidence.starts.iter().map(|it| (&*it.mark, it)).collect();
    for (run_id, run) in &evidence.runs {
        for event in run.events() {
            let RunEvent::TaskSucceeded {
                task,
                output,
                cached: Some(cached),
                ..
            } = event
            else {
                continue;
            };
            let origin = mark_of(output).and_then(|mark| starts.get(mark.as_str()).copied());
            let Some(origin) = origin else {
                findings.add(format!("run {run_id}: nobody computed {event:?}"));
                continue;
            };
            let (own, other) = (evidence.tenant(run_id), evidence.tenant(&origin.run_id));
            findings.expect(own == other, || {
                format!("run {run_id} of {own:?} was given what {other:?} had computed: {event:?}")
            });
            let wanted = evidence.input(run_id, &task.task_id);
            findings.expect(wanted.as_deref() == Some(&*origin.input), || {
                format!("run {run_id}: {task:?} needs {wanted:?} and was given {origin:?}")
            });
            // What was computed while the task waited for it cannot be too old for it.
            let ttl = evidence
                .ttl(run_id, &task.task_id)
                .filter(|_| cached.tier != CacheTier::Flight);
            findings.expect(ttl.is_none_or(|ttl| cached.age <= ttl), || {
                format!(
                    "run {run_id}: {task:?} was given what is {:?} old",
                    cached.age
                )
            });
        }
    }
    findings.found
}

/// 10: who watches a run, and comes back with the last sequence, misses nothing and sees nothing twice.
pub(crate) fn watchers_miss_nothing(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings::of(10);
    for (run_id, run) in &evidence.runs {
        let seen: Vec<&RunUpdate> = run.seen.iter().filter(|it| is_recorded(it)).collect();
        let mut pairs = seen.iter().zip(&run.history);
        if let Some((seen, there)) = pairs.find(|(seen, there)| **seen != *there) {
            findings.add(format!(
                "run {run_id}: a watcher saw {seen:?}, and recorded is {there:?}"
            ));
        }
        let is_whole = seen.len() == run.history.len() || !run.is_watched_to_its_end;
        findings.expect(is_whole, || {
            let (seen, there) = (seen.len(), run.history.len());
            format!("run {run_id}: a watcher saw {seen} of {there} updates")
        });
    }
    findings.found
}

/// 11: what is configured bounds what is accepted, and refusals say so.
pub(crate) fn all_is_bounded(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings::of(11);
    for refusal in &evidence.refusals {
        let is_typed = match refusal.code().fault() {
            Fault::Exhausted => refusal.retry_after.is_some(),
            Fault::Unavailable => true,
            _ => false,
        };
        findings.expect(is_typed, || {
            format!("a submit was refused with {refusal:?}")
        });
    }
    if let Some(max) = evidence.max_open_runs {
        let most = most_open(evidence.runs.values());
        findings.expect(most <= max, || {
            format!("{most} runs were open at once, and {max} may be")
        });
    }
    findings.found
}

/// How many runs were open at once.
fn most_open<'a>(runs: impl Iterator<Item = &'a Run>) -> usize {
    let mut changes: Vec<(Timestamp, isize)> = Vec::new();
    for view in runs.filter_map(|it| it.view.as_ref()) {
        changes.push((view.summary.submitted_at, 1));
        let ended = view.summary.finished_at;
        changes.extend(ended.map(|at| (at, -1)));
    }
    // Of changes at the same time the ends come first.
    changes.sort_unstable();
    let mut open = 0;
    let counts = changes.iter().map(|(_, change)| {
        open += change;
        open
    });
    counts.max().unwrap_or_default().unsigned_abs()
}

/// The task whose end the event is.
fn ended(event: &RunEvent) -> Option<&TaskRef> {
    match event {
        RunEvent::TaskSucceeded { task, .. }
        | RunEvent::TaskFailed { task, .. }
        | RunEvent::TaskSkipped { task, .. }
        | RunEvent::TaskCancelled { task } => Some(task),
        _ => None,
    }
}

/// The attempt whose outcome the event is. A result that was found, after attempts that failed, is none.
fn outcome(event: &RunEvent) -> Option<(&TaskRef, u32)> {
    match event {
        RunEvent::AttemptFailed { task, attempt, .. }
        | RunEvent::TaskSucceeded {
            task,
            attempt,
            cached: None,
            reused_from: None,
            ..
        }
        | RunEvent::TaskFailed { task, attempt, .. }
            if *attempt > 0 =>
        {
            Some((task, *attempt))
        }
        _ => None,
    }
}

fn task_named(task_id: &str) -> TaskRef {
    TaskRef {
        task_id: task_id.into(),
        item: None,
    }
}
