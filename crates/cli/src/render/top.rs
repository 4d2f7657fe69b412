//! What a coordinator and its workers do now, as people see it.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use levelflow_common::Timestamp;
use levelflow_common::overview::{AlertView, EndedTasks, Overview, QueueView, WorkerView};
use levelflow_common::view::{BreakerStatus, BreakerView};

use super::style::{self, Styling};
use super::table::{Align, Cell, Table, printable};
use super::time::duration;
use super::{breaker, counted, worker};

/// Queues that the line of them names.
const QUEUES: usize = 6;

/// How everything stood at one time.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) overview: Overview,
    pub(crate) workers: Vec<WorkerView>,
    pub(crate) breakers: Vec<BreakerView>,
    /// The last ones, the oldest first.
    pub(crate) alerts: Vec<AlertView>,
}

/// Tasks that ended in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    succeeded: f64,
    failed: f64,
}

impl Rate {
    /// The rate from one time to another; none if no time has passed.
    pub(crate) fn between(before: &Overview, after: &Overview) -> Option<Self> {
        let seconds = after.at.since(before.at).as_secs_f64();
        let rate = |count: fn(&EndedTasks) -> u64| {
            // The count starts anew with the coordinator.
            count(&after.ended).saturating_sub(count(&before.ended)) as f64 / seconds
        };
        (seconds > 0.0).then(|| Self {
            succeeded: rate(|ended| ended.succeeded),
            failed: rate(|ended| ended.failed),
        })
    }
}

/// The lines of a snapshot, what is urgent first.
pub(crate) fn lines(snapshot: &Snapshot, rate: Option<Rate>, styling: Styling) -> Vec<String> {
    let overview = &snapshot.overview;
    let mut lines = header(overview, rate, styling);
    let mut section = |text: &str| {
        lines.push(String::new());
        lines.extend(text.lines().map(str::to_owned));
    };
    if !snapshot.alerts.is_empty() {
        section(&alerts(&snapshot.alerts, overview.at, styling));
    }
    let not_closed: Vec<BreakerView> = snapshot
        .breakers
        .iter()
        .filter(|breaker| breaker.status != BreakerStatus::Closed)
        .cloned()
        .collect();
    if !not_closed.is_empty() {
        section(&breaker::table(&not_closed, overview.at, styling));
    }
    if snapshot.workers.is_empty() {
        section("no worker is connected");
    } else {
        section(&worker::table(&snapshot.workers, overview.at, styling));
    }
    if let Some(pools) = worker::pools(&snapshot.workers, styling) {
        section(&pools);
    }
    lines
}

/// Alerts, one a line, the newest first.
fn alerts(alerts: &[AlertView], now: Timestamp, styling: Styling) -> String {
    let mut table = Table::new(&[("since", Align::Right), ("alert", Align::Left)]);
    for alert in alerts.iter().rev() {
        let style = if alert.is_all_clear {
            Style::new().dimmed()
        } else {
            AnsiColor::Yellow.on_default()
        };
        table.row([
            duration(now.since(alert.at)).into(),
            Cell::styled(alert.text.as_str(), style),
        ]);
    }
    table.render(styling)
}

fn header(overview: &Overview, rate: Option<Rate>, styling: Styling) -> Vec<String> {
    let up = duration(overview.at.since(overview.started_at));
    let ended = overview.ended;
    let tasks = match rate {
        Some(rate) => format!("{:.0} tasks/s, {:.0} failed/s", rate.succeeded, rate.failed),
        None => format!(
            "{} succeeded, {} failed",
            counted(ended.succeeded as usize, "task"),
            ended.failed
        ),
    };
    let mut lines = vec![
        format!(
            "{}  version {}, up {up}",
            styling.bold(&format!("coordinator {}", overview.coordinator_id)),
            overview.version
        ),
        format!(
            "{} open, {} on workers, {tasks}",
            counted(overview.open_runs as usize, "run"),
            counted(overview.attempts as usize, "attempt"),
        ),
        waiting("ready", &overview.queues, |queue| queue.ready),
    ];
    if overview.queues.iter().any(|queue| queue.parked > 0) {
        lines.push(waiting("parked", &overview.queues, |queue| queue.parked));
    }
    lines
}

/// How many tasks wait in which queues, the fullest first.
fn waiting(word: &str, queues: &[QueueView], count: fn(&QueueView) -> u64) -> String {
    let mut named: Vec<&QueueView> = queues.iter().filter(|queue| count(queue) > 0).collect();
    named.sort_by_key(|queue| std::cmp::Reverse(count(queue)));
    let total: u64 = queues.iter().map(count).sum();
    let mut parts: Vec<String> = named
        .iter()
        .take(QUEUES)
        .map(|queue| {
            let name = printable(queue.name.as_ref().to_owned());
            format!("{} in {name}", count(queue))
        })
        .collect();
    if named.len() > QUEUES {
        parts.push(format!("in {} more", named.len() - QUEUES));
    }
    let places = if parts.is_empty() {
        String::new()
    } else {
        format!(": {}", parts.join(", "))
    };
    format!("{} {word}{places}", counted(total as usize, "task"))
}

/// That the last snapshot is old.
pub(crate) fn stale(error: &str, since: Duration, styling: Styling) -> String {
    let text = format!("no answer for {}: {error}", duration(since));
    styling.paint(style::of_task(levelflow_common::TaskStatus::Failed), &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{after, snapshot};

    #[test]
    fn a_snapshot_tells_what_is_urgent_first() {
        assert_eq!(
            lines(&snapshot(), None, Styling::Plain).join("\n"),
            "\
coordinator c-1  version 0.1.0, up 1m00s
2 runs open, 21 attempts on workers, 1000 tasks succeeded, 1 failed
30 tasks ready: 20 in gpu, 10 in default
5 tasks parked: 5 in default

since  alert
1.00s  worker `w-2` was lost
2.00s  it is well

upstream   breaker         failures  running  limit  waiting
http:b:80  open for 1m00s         5        0      0        5

worker  status  slots  load  attempts           memory     growth  connected  queues       labels
w-1     active  16/16  100%        20  warning 512 MiB  2.5 MiB/s      1m00s  default,gpu  zone=eu
w-2     lost      1/4   25%         1                                         default

worker  pool  busy  idle  size  waiting  opened  used   wait
w-1     cpu      2     0     2        7       2     0
w-1     http    12     3   100        0      15  1200  0.5ms"
        );
    }

    #[test]
    fn a_rate_is_over_the_time_between() {
        let before = snapshot().overview;
        let mut now = before.clone();
        assert_eq!(Rate::between(&before, &now), None);
        now.at = after(62_000);
        now.ended.succeeded += 501;
        now.ended.failed += 3;
        let rate = Rate::between(&before, &now);
        let shown = lines(
            &Snapshot {
                overview: now.clone(),
                ..snapshot()
            },
            rate,
            Styling::Plain,
        );
        assert_eq!(
            shown[1],
            "2 runs open, 21 attempts on workers, 250 tasks/s, 2 failed/s"
        );
        // The coordinator started again.
        now.ended = EndedTasks::default();
        let rate = Rate::between(&before, &now).unwrap();
        assert_eq!((rate.succeeded, rate.failed), (0.0, 0.0));
    }

    #[test]
    fn few_queues_are_named() {
        let queue = |index: u32| QueueView {
            name: format!("q{index}").into(),
            ready: index.into(),
            parked: 0,
        };
        let queues: Vec<QueueView> = (0..10).map(queue).collect();
        assert_eq!(
            waiting("ready", &queues, |queue| queue.ready),
            "45 tasks ready: 9 in q9, 8 in q8, 7 in q7, 6 in q6, 5 in q5, 4 in q4, in 3 more"
        );
        assert_eq!(waiting("ready", &[], |queue| queue.ready), "0 tasks ready");
    }
}
