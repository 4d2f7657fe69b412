//! Workers as people see them.

use std::collections::BTreeMap;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use levelflow_common::Timestamp;
use levelflow_common::overview::{HeartbeatView, MemoryLevel, WorkerStatus, WorkerView};

use super::style::Styling;
use super::table::{Align, Cell, Table};
use super::time::duration;

/// Workers, one a line.
pub(crate) fn table(workers: &[WorkerView], now: Timestamp, styling: Styling) -> String {
    let mut table = Table::new(&[
        ("worker", Align::Left),
        ("status", Align::Left),
        ("slots", Align::Right),
        ("load", Align::Right),
        ("attempts", Align::Right),
        ("memory", Align::Right),
        ("growth", Align::Right),
        ("connected", Align::Right),
        ("queues", Align::Left),
        ("labels", Align::Left),
    ]);
    for worker in workers {
        let session = worker.session.as_ref();
        let heartbeat = session.and_then(|session| session.heartbeat.as_ref());
        let connected = session.map(|session| duration(now.since(session.connected_at)));
        let load = 100 * u64::from(worker.busy()) / u64::from(worker.slots.max(1));
        let queues: Vec<&str> = worker.queues.iter().map(String::as_str).collect();
        table.row([
            worker.worker.0.as_ref().into(),
            Cell::styled(worker.status.as_str(), of_status(worker.status)),
            format!("{}/{}", worker.busy(), worker.slots).into(),
            format!("{load}%").into(),
            worker.attempts.to_string().into(),
            heartbeat.map_or_else(|| "".into(), memory),
            heartbeat.map(growth).unwrap_or_default().into(),
            connected.unwrap_or_default().into(),
            queues.join(",").into(),
            pairs(&worker.labels).into(),
        ]);
    }
    table.render(styling)
}

fn of_status(status: WorkerStatus) -> Style {
    match status {
        WorkerStatus::Active => AnsiColor::Green.on_default(),
        WorkerStatus::Draining | WorkerStatus::Silent => AnsiColor::Yellow.on_default(),
        WorkerStatus::Lost => AnsiColor::Red.on_default().bold(),
    }
}

fn memory(heartbeat: &HeartbeatView) -> Cell {
    let Some(resident) = heartbeat.resident_bytes else {
        return "".into();
    };
    let (word, style) = match heartbeat.memory_level {
        None | Some(MemoryLevel::Normal) => ("", Style::new()),
        Some(level @ MemoryLevel::Warning) => (level.as_str(), AnsiColor::Yellow.on_default()),
        Some(level @ MemoryLevel::Critical) => (level.as_str(), AnsiColor::Red.on_default().bold()),
    };
    let space = if word.is_empty() { "" } else { " " };
    Cell::styled(format!("{word}{space}{}", mebibytes(resident)), style)
}

fn growth(heartbeat: &HeartbeatView) -> String {
    match heartbeat.growth_per_second {
        0 => String::new(),
        growth => format!("{}/s", mebibytes(growth)),
    }
}

fn mebibytes(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes < 9.95 {
        format!("{mebibytes:.1} MiB")
    } else {
        format!("{mebibytes:.0} MiB")
    }
}

fn pairs(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join(",")
}

/// What the tasks of each worker share, one a line; none if that is nothing.
pub(crate) fn pools(workers: &[WorkerView], styling: Styling) -> Option<String> {
    let mut table = Table::new(&[
        ("worker", Align::Left),
        ("pool", Align::Left),
        ("busy", Align::Right),
        ("idle", Align::Right),
        ("size", Align::Right),
        ("waiting", Align::Right),
        ("opened", Align::Right),
        ("used", Align::Right),
        ("wait", Align::Right),
    ]);
    let mut is_empty = true;
    for worker in workers {
        let session = worker.session.as_ref();
        let heartbeat = session.and_then(|session| session.heartbeat.as_ref());
        for pool in heartbeat.iter().flat_map(|heartbeat| &heartbeat.pools) {
            is_empty = false;
            let wait = pool.waited_us.checked_div(pool.used);
            let wait = wait.map(|wait| duration(Duration::from_micros(wait)));
            table.row([
                worker.worker.0.as_ref().into(),
                pool.name.as_str().into(),
                pool.busy.to_string().into(),
                pool.idle.to_string().into(),
                pool.size.to_string().into(),
                pool.waiting.to_string().into(),
                pool.opened.to_string().into(),
                pool.used.to_string().into(),
                wait.unwrap_or_default().into(),
            ]);
        }
    }
    (!is_empty).then(|| table.render(styling))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{after, busy_worker, lost_worker};

    #[test]
    fn a_worker_has_a_line() {
        let workers = [busy_worker(), lost_worker()];
        assert_eq!(
            table(&workers, after(60_000), Styling::Plain),
            "\
worker  status  slots  load  attempts           memory     growth  connected  queues       labels
w-1     active  16/16  100%        20  warning 512 MiB  2.5 MiB/s      1m00s  default,gpu  zone=eu
w-2     lost      1/4   25%         1                                         default
"
        );
    }

    #[test]
    fn a_pool_has_a_line() {
        assert_eq!(
            pools(&[busy_worker(), lost_worker()], Styling::Plain).as_deref(),
            Some(
                "\
worker  pool  busy  idle  size  waiting  opened  used   wait
w-1     cpu      2     0     2        7       2     0
w-1     http    12     3   100        0      15  1200  0.5ms
"
            )
        );
        assert_eq!(pools(&[lost_worker()], Styling::Plain), None);
    }
}
