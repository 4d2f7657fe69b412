//! A run that is looked at: its tasks in a table, what it cost, its critical path.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use levelflow_common::event::TaskRef;
use levelflow_common::view::{RunSummary, RunView, TaskView};
use levelflow_common::{RunStatus, TaskStatus, Timestamp};
use levelflow_proto::json::timestamp;

use super::counted;
use super::live::first_line;
use super::style::{self, Styling};
use super::table::{Align, Cell, Table};
use super::time::duration;
use crate::progress::name;

/// Rows of a table of tasks; of more tasks, the failed and the slowest are shown.
const MAX_ROWS: usize = 60;
/// Tasks of a critical path that are named.
const MAX_PATH: usize = 30;
/// Characters of one failure.
const MAX_FAILURE: usize = 400;

/// The whole run: table, outcome, critical path, failures and outputs.
pub(crate) fn summary(run: &RunView, now: Timestamp, styling: Styling) -> String {
    let mut text = String::new();
    text.push_str(&table(run, now, styling));
    text.push('\n');
    text.push_str(&outcome(&run.summary, now, styling));
    text.push('\n');
    text.push_str(&similar_lines(run));
    if let Some(line) = critical_path(run, now) {
        text.push_str(&line);
        text.push('\n');
    }
    if let Some(outputs) = &run.outputs {
        text.push_str(&output_lines(outputs));
    }
    text.push_str(&failures(run, styling));
    text
}

fn task_name(task: &TaskView) -> String {
    name(&TaskRef {
        task_id: task.task_id.clone(),
        item: task.item,
    })
}

/// How long a task's last attempt took, or has taken so far.
fn spent(task: &TaskView, now: Timestamp) -> Option<Duration> {
    let start = task.started_at?;
    match task.finished_at {
        Some(end) => Some(end.since(start)),
        None => (task.status == TaskStatus::Running).then(|| now.since(start)),
    }
}

fn table(run: &RunView, now: Timestamp, styling: Styling) -> String {
    let mut shown: Vec<&TaskView> = run.tasks.iter().collect();
    let left_out = shown.len().saturating_sub(MAX_ROWS);
    if left_out > 0 {
        shown.sort_by_key(|task| {
            (
                task.status != TaskStatus::Failed,
                std::cmp::Reverse(spent(task, now)),
            )
        });
        shown.truncate(MAX_ROWS);
    }
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (place, task) in run.tasks.iter().enumerate() {
        places.entry(&task.task_id).or_insert(place);
    }
    shown.sort_by_key(|task| (task.level, places[task.task_id.as_ref()], task.item));
    let mut table = Table::new(&[
        ("level", Align::Right),
        ("task", Align::Left),
        ("state", Align::Left),
        ("attempts", Align::Right),
        ("waited", Align::Right),
        ("time", Align::Right),
    ]);
    for task in shown {
        let waited = match (task.queued_at, task.started_at) {
            (Some(queued), Some(started)) => duration(started.since(queued)),
            _ => String::new(),
        };
        let state = if task.cached.is_some() && task.similar_to.is_some() {
            "similar"
        } else if task.cached.is_some() {
            "cached"
        } else if task.reused_from.is_some() {
            "kept"
        } else {
            task.status.as_str()
        };
        table.row([
            task.level.to_string().into(),
            task_name(task).into(),
            Cell::styled(state, style::of_task(task.status)),
            if task.attempts > 0 {
                task.attempts.to_string().into()
            } else {
                "".into()
            },
            waited.into(),
            spent(task, now).map_or_else(String::new, duration).into(),
        ]);
    }
    let mut text = table.render(styling);
    if left_out > 0 {
        let _ = writeln!(
            text,
            "{}",
            styling.dim(&format!(
                "… and {left_out} more; shown are the failed and the slowest"
            ))
        );
    }
    text
}

/// The tasks that got or were shown the result of a nearly equal text: a line each.
fn similar_lines(run: &RunView) -> String {
    let mut text = String::new();
    let tasks = run.tasks.iter();
    let similar = tasks.filter_map(|task| Some((task, task.similar_to.as_ref()?)));
    for (task, similar) in similar.take(MAX_ROWS) {
        let word = match task.cached {
            Some(_) => "reused",
            None => "was shown",
        };
        let _ = writeln!(
            text,
            "{} {word} the result of `{}` of run {}, similarity {}",
            task_name(task),
            similar.task_id,
            similar.run_id,
            similar.similarity
        );
    }
    text
}

/// One line: how the run stands, its tasks and its time.
pub(crate) fn outcome(summary: &RunSummary, now: Timestamp, styling: Styling) -> String {
    let counts = summary.counts;
    let mut parts = vec![format!(
        "{} of {} succeeded",
        counts.succeeded,
        counted(counts.total as usize, "task")
    )];
    for (count, word) in [
        (counts.failed, "failed"),
        (counts.skipped, "skipped"),
        (counts.cancelled, "cancelled"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    let end = summary.finished_at.unwrap_or(now);
    format!(
        "run {} {} in {}: {}",
        summary.run_id,
        styling.paint(style::of_run(summary.status), summary.status.as_str()),
        duration(end.since(summary.submitted_at)),
        parts.join(", ")
    )
}

fn critical_path(run: &RunView, now: Timestamp) -> Option<String> {
    if run.critical_path.is_empty() {
        return None;
    }
    let mut times: HashMap<&str, Duration> = HashMap::new();
    for task in &run.tasks {
        if let Some(spent) = spent(task, now) {
            let longest = times.entry(&task.task_id).or_default();
            *longest = spent.max(*longest);
        }
    }
    let step = |id: &str| match times.get(id) {
        Some(time) => format!("{id} {}", duration(*time)),
        None => id.to_owned(),
    };
    let total: Duration = run
        .critical_path
        .iter()
        .filter_map(|id| times.get(id.as_ref()))
        .sum();
    Some(format!(
        "critical path, {}: {}",
        duration(total),
        path(&run.critical_path, step)
    ))
}

/// A path with its middle left out where it is long.
pub(crate) fn path<T: AsRef<str>>(ids: &[T], step: impl Fn(&str) -> String) -> String {
    let named = |ids: &[T]| ids.iter().map(|id| step(id.as_ref())).collect::<Vec<_>>();
    if ids.len() <= MAX_PATH {
        return named(ids).join(" → ");
    }
    let (head, tail) = (MAX_PATH - 5, 5);
    let mut steps = named(&ids[..head]);
    steps.push(format!("… {} more …", ids.len() - head - tail));
    steps.extend(named(&ids[ids.len() - tail..]));
    steps.join(" → ")
}

fn output_lines(outputs: &[u8]) -> String {
    let mut text = String::new();
    let outputs: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(outputs).unwrap_or_default();
    for (name, value) in outputs {
        let value = match value {
            serde_json::Value::String(value) => value,
            value => value.to_string(),
        };
        let mut line = first_line(&value).chars();
        let shown: String = line.by_ref().take(200).collect();
        let more = line.next().is_some() || value.lines().nth(1).is_some();
        let _ = writeln!(
            text,
            "output {name}: {shown}{}",
            if more { " …" } else { "" }
        );
    }
    text
}

/// Why tasks failed, in the way compilers say it, and what can be done.
fn failures(run: &RunView, styling: Styling) -> String {
    const SHOWN: usize = 10;
    let mut text = String::new();
    let failed: Vec<&TaskView> = run
        .tasks
        .iter()
        .filter(|task| task.status == TaskStatus::Failed)
        .collect();
    for task in failed.iter().take(SHOWN) {
        let Some(failure) = &task.failure else {
            continue;
        };
        // A run that succeeded all the same was allowed to go on.
        let (word, style, end) = if run.summary.status == RunStatus::Succeeded {
            (
                "warning",
                style::of_run(RunStatus::Cancelled),
                ", the run went on",
            )
        } else {
            ("error", style::of_run(RunStatus::Failed), "")
        };
        let _ = writeln!(
            text,
            "{}: task `{}` failed after {}{end}",
            styling.paint(style, &format!("{word}[{}]", failure.code)),
            task_name(task),
            counted(task.attempts as usize, "attempt"),
        );
        let mut message: String = failure.message.chars().take(MAX_FAILURE).collect();
        if message.len() < failure.message.len() {
            message.push('…');
        }
        for line in message.lines() {
            let _ = writeln!(text, "  | {line}");
        }
    }
    if failed.len() > SHOWN {
        let _ = writeln!(
            text,
            "… and {} more",
            counted(failed.len() - SHOWN, "failed task")
        );
    }
    if let (true, Some(failure)) = (failed.is_empty(), &run.summary.failure) {
        let _ = writeln!(
            text,
            "{}: {}",
            styling.paint(
                style::of_run(RunStatus::Failed),
                &format!("error[{}]", failure.code)
            ),
            failure.message
        );
    }
    if matches!(run.summary.status, RunStatus::Failed | RunStatus::Cancelled) {
        let _ = writeln!(
            text,
            "help: `levelflow resume {}` goes on from here and keeps what succeeded",
            run.summary.run_id
        );
    }
    text
}

/// A list of runs.
pub(crate) fn list(runs: &[RunSummary], now: Timestamp, styling: Styling) -> String {
    let mut table = Table::new(&[
        ("run", Align::Left),
        ("workflow", Align::Left),
        ("status", Align::Left),
        ("tasks", Align::Right),
        ("submitted", Align::Left),
        ("time", Align::Right),
    ]);
    for run in runs {
        let counts = run.counts;
        let ended = counts.succeeded + counts.failed + counts.skipped + counts.cancelled;
        let end = run.finished_at.unwrap_or(now);
        table.row([
            run.run_id.to_string().into(),
            run.workflow.as_ref().into(),
            Cell::styled(run.status.as_str(), style::of_run(run.status)),
            format!("{ended}/{}", counts.total).into(),
            timestamp(run.submitted_at).into(),
            duration(end.since(run.submitted_at)).into(),
        ]);
    }
    table.render(styling)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{after, failed_run, finished_run, pending_run};

    #[test]
    fn a_run_that_succeeded() {
        assert_eq!(
            summary(&finished_run(), after(9_000), Styling::Plain),
            "level  task     state      attempts  waited   time
    0  fetch    succeeded         1     2ms  1.00s
    1  authors  succeeded         1     1ms  400ms
    1  weeks    skipped
    2  report   succeeded         2     1ms   93ms

run 01890a5d-ac96-774b-bcce-b302099a8057 succeeded in 1.50s: 3 of 4 tasks succeeded, 1 skipped
critical path, 1.49s: fetch 1.00s → authors 400ms → report 93ms
output file: report.md
"
        );
    }

    #[test]
    fn a_run_that_failed_says_why_and_what_to_do() {
        let text = summary(&failed_run(), after(9_000), Styling::Plain);
        let (_, end) = text.split_once("\n\n").unwrap();
        assert_eq!(
            end,
            "run 01890a5d-ac96-774b-bcce-b302099a8057 failed in 1.50s: \
             1 of 4 tasks succeeded, 1 failed, 2 skipped
critical path, 1.40s: fetch 1.00s → authors 400ms → report
error[process_failed]: task `authors` failed after 3 attempts
  | git exited with status 128
help: `levelflow resume 01890a5d-ac96-774b-bcce-b302099a8057` \
             goes on from here and keeps what succeeded
"
        );
    }

    #[test]
    fn a_large_run_shows_the_slowest() {
        let mut run = pending_run();
        let slow = finished_run().tasks[0].clone();
        run.tasks = (0..1_000)
            .map(|n| TaskView {
                task_id: format!("t{n}").into(),
                finished_at: Some(after(if n == 777 { 9_000 } else { 3 })),
                ..slow.clone()
            })
            .collect();
        let text = table(&run, after(1), Styling::Plain);
        assert_eq!(text.lines().count(), 1 + MAX_ROWS + 1);
        assert!(text.contains("  t777  "));
        assert!(text.ends_with("… and 940 more; shown are the failed and the slowest\n"));
    }

    #[test]
    fn a_list_has_a_line_for_each_run() {
        let runs = [finished_run().summary, pending_run().summary];
        assert_eq!(
            list(&runs, after(9_000), Styling::Plain),
            "run                                   workflow  status     tasks  submitted                  time
01890a5d-ac96-774b-bcce-b302099a8057  digest    succeeded    4/4  2023-11-14T22:13:20.000Z  1.50s
01890a5d-ac96-774b-bcce-b302099a8057  digest    running      0/4  2023-11-14T22:13:20.000Z  9.00s
"
        );
    }

    #[test]
    fn long_paths_leave_out_their_middle() {
        let ids: Vec<String> = (0..100).map(|n| format!("t{n}")).collect();
        let text = path(&ids, str::to_owned);
        assert!(text.starts_with("t0 → t1 → "));
        assert!(
            text.ends_with(" → t24 → … 70 more … → t95 → t96 → t97 → t98 → t99"),
            "{text}"
        );
    }
}
