//! Scale: what work costs as there is more of it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use levelflow_common::workflow::Workflow;
use serde::Serialize;

use super::Common;
use super::engine::line;
use crate::client::{Client, Round};
use crate::figure::Figure;
use crate::machine::Machine;
use crate::process::Cluster;
use crate::role::runtime;
use crate::shape::{Durable, Shape};

const WARM_UP: Duration = Duration::from_millis(300);
/// Runs that are open at once where something else grows.
const STEADY: usize = 64;
/// Runs that are open at once while the history is made.
const FILL: usize = 512;
/// Tasks of the level before that a task of a grown DAG needs.
const NEEDS: usize = 3;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What grows; everything, one after the other, if not given.
    #[arg(long, value_enum, value_delimiter = ',')]
    axis: Vec<Axis>,
    /// Runs in flight.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1_000, 10_000])]
    in_flight: Vec<usize>,
    /// Tasks of a DAG.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1_000, 10_000, 100_000])]
    tasks: Vec<usize>,
    /// Finished runs, each time compared with none.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000])]
    history: Vec<u64>,
    /// KiB of each task's output.
    #[arg(long, value_delimiter = ',', default_values_t = [0.1, 1.0, 4.0, 16.0, 64.0, 256.0])]
    payload: Vec<f64>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    #[command(flatten)]
    common: Common,
}

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Axis {
    /// Runs that are open at once.
    InFlight,
    /// Tasks of one run.
    Dag,
    /// Runs that have ended.
    History,
    /// Output of a task.
    Payload,
}

#[derive(Serialize)]
struct Report {
    suite: &'static str,
    machine: Machine,
    rounds: u32,
    seconds: f64,
    rows: Vec<Row>,
}

#[derive(Serialize)]
#[serde(tag = "axis", rename_all = "snake_case")]
enum Row {
    InFlight {
        in_flight: usize,
        tasks_per_s: Figure,
        p50_ms: Figure,
    },
    Dag {
        tasks: usize,
        edges: usize,
        submit_ms: Figure,
        /// From the submit to the report of the end.
        total_ms: Figure,
        tasks_per_s: Figure,
    },
    History {
        finished_runs: u64,
        tasks_per_s: Figure,
        tasks_per_s_without: Figure,
        /// Of the rate without history.
        relative: Figure,
    },
    Payload {
        kib: f64,
        tasks_per_s: Figure,
        mib_per_s: Figure,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let rows = runtime(1)?.block_on(measure(arguments))?;
    let report = Report {
        suite: "scale",
        machine: Machine::describe()?,
        rounds: arguments.common.rounds,
        seconds: arguments.seconds,
        rows,
    };
    let mut lines = vec![format!(
        "scale, {} rounds of {} s (median, min–max)",
        report.rounds, report.seconds
    )];
    report.rows.iter().for_each(|row| describe(row, &mut lines));
    arguments.common.print(&report, &lines)
}

async fn measure(arguments: &Arguments) -> Result<Vec<Row>> {
    let axes = match &arguments.axis[..] {
        [] => Axis::value_variants(),
        axes => axes,
    };
    let mut rows = Vec::new();
    for axis in axes {
        rows.extend(match axis {
            Axis::InFlight => in_flight(arguments).await?,
            Axis::Dag => dag(arguments).await?,
            Axis::History => history(arguments).await?,
            Axis::Payload => payload(arguments).await?,
        });
    }
    Ok(rows)
}

fn time(arguments: &Arguments) -> Duration {
    Duration::from_secs_f64(arguments.seconds)
}

async fn start(common: &Common, workflow: Workflow) -> Result<(Cluster, Client)> {
    let cluster = Cluster::start(&common.layout())?;
    let client = Client::connect(&cluster.address(), workflow).await?;
    Ok((cluster, client))
}

async fn in_flight(arguments: &Arguments) -> Result<Vec<Row>> {
    let workflow = Shape::Small.workflow(Durable::Strict);
    let (_cluster, mut client) = start(&arguments.common, workflow).await?;
    client.keep_in_flight(STEADY, WARM_UP).await?;
    let mut rates = vec![Vec::new(); arguments.in_flight.len()];
    let mut p50 = vec![Vec::new(); arguments.in_flight.len()];
    for round in 1..=arguments.common.rounds {
        for (place, &in_flight) in arguments.in_flight.iter().enumerate() {
            let seen = client
                .keep_in_flight(in_flight.max(1), time(arguments))
                .await?;
            let rate = tasks_per_s(&seen);
            progress(arguments, round, &format!("{in_flight} in flight"), rate);
            rates[place].push(rate);
            p50[place].push(seen.latency.value_at_quantile(0.5) as f64 / 1e3);
        }
    }
    let figures = rates.into_iter().zip(p50);
    Ok(arguments
        .in_flight
        .iter()
        .zip(figures)
        .map(|(&in_flight, (rates, p50))| Row::InFlight {
            in_flight,
            tasks_per_s: Figure::of(rates),
            p50_ms: Figure::of(p50),
        })
        .collect())
}

async fn dag(arguments: &Arguments) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for &tasks in &arguments.tasks {
        let workflow = layered(tasks)?;
        let edges = workflow.tasks.iter().map(|task| task.needs.len()).sum();
        let cluster = Cluster::start(&arguments.common.layout())?;
        // A client that sends the definition each time.
        let client = Client::open(&cluster.address(), workflow).await?;
        client.run_once().await?;
        let mut rounds = Vec::new();
        for round in 1..=arguments.common.rounds {
            let once = client.run_once().await?;
            let rate = tasks as f64 / once.ended.as_secs_f64();
            progress(arguments, round, &format!("a DAG of {tasks}"), rate);
            rounds.push(once);
        }
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        rows.push(Row::Dag {
            tasks,
            edges,
            submit_ms: Figure::of(rounds.iter().map(|once| millis(once.accepted))),
            total_ms: Figure::of(rounds.iter().map(|once| millis(once.ended))),
            tasks_per_s: Figure::of(
                rounds
                    .iter()
                    .map(|once| tasks as f64 / once.ended.as_secs_f64()),
            ),
        });
    }
    Ok(rows)
}

async fn history(arguments: &Arguments) -> Result<Vec<Row>> {
    let workflow = Shape::Small.workflow(Durable::Strict);
    let mut rows = Vec::new();
    for &finished_runs in &arguments.history {
        let (_cluster, mut client) = start(&arguments.common, workflow.clone()).await?;
        eprintln!("{finished_runs} runs of history");
        client.complete(FILL, finished_runs).await?;
        let mut with = Vec::new();
        let mut without = Vec::new();
        for round in 1..=arguments.common.rounds {
            // Its own rounds would be a history, so each has a new one.
            let (_fresh, mut fresh) = start(&arguments.common, workflow.clone()).await?;
            for (client, rates, what) in [
                (&mut fresh, &mut without, "no history"),
                (&mut client, &mut with, "history"),
            ] {
                client.keep_in_flight(STEADY, WARM_UP).await?;
                let seen = client.keep_in_flight(STEADY, time(arguments)).await?;
                progress(arguments, round, what, tasks_per_s(&seen));
                rates.push(tasks_per_s(&seen));
            }
        }
        let pairs = with.iter().zip(&without);
        rows.push(Row::History {
            finished_runs,
            relative: Figure::of(pairs.map(|(with, without)| with / without)),
            tasks_per_s: Figure::of(with),
            tasks_per_s_without: Figure::of(without),
        });
    }
    Ok(rows)
}

async fn payload(arguments: &Arguments) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for &kib in &arguments.payload {
        let bytes = (kib * 1024.0) as usize;
        let (_cluster, mut client) = start(&arguments.common, returning(bytes)).await?;
        client.keep_in_flight(STEADY, WARM_UP).await?;
        let mut rates = Vec::new();
        for round in 1..=arguments.common.rounds {
            let seen = client.keep_in_flight(STEADY, time(arguments)).await?;
            progress(arguments, round, &format!("{kib} KiB"), tasks_per_s(&seen));
            rates.push(tasks_per_s(&seen));
        }
        rows.push(Row::Payload {
            kib,
            mib_per_s: Figure::of(rates.iter().map(|rate| rate * kib / 1024.0)),
            tasks_per_s: Figure::of(rates),
        });
    }
    Ok(rows)
}

/// Of a round of runs of the small shape.
fn tasks_per_s(round: &Round) -> f64 {
    (round.runs * Shape::Small.tasks() as u64) as f64 / round.elapsed.as_secs_f64()
}

/// The small shape, with tasks that return so many bytes.
fn returning(bytes: usize) -> Workflow {
    let mut workflow = Shape::Small.workflow(Durable::Strict);
    for task in &mut workflow.tasks {
        task.with = serde_json::json!({ "name": "bytes", "input": bytes });
    }
    workflow
}

/// A DAG about as wide as it is deep, each task needing a few of the level before.
fn layered(tasks: usize) -> Result<Workflow> {
    let width = tasks.isqrt().max(1);
    let tasks: Vec<_> = (0..tasks)
        .map(|place| {
            let level = place / width;
            let needs: Vec<String> = match level.checked_sub(1) {
                None => Vec::new(),
                Some(before) => (0..NEEDS.min(width))
                    .map(|step| format!("t{}", before * width + (place + step) % width))
                    .collect(),
            };
            serde_json::json!({
                "id": format!("t{place}"),
                "type": "handler",
                "needs": needs,
                "with": { "name": "noop" },
            })
        })
        .collect();
    serde_json::from_value(serde_json::json!({ "name": "bench-layered", "tasks": tasks }))
        .context("levels are a workflow")
}

fn progress(arguments: &Arguments, round: u32, what: &str, rate: f64) {
    eprintln!(
        "round {round} of {}, {what}: {rate:.0} tasks/s",
        arguments.common.rounds
    );
}

fn describe(row: &Row, lines: &mut Vec<String>) {
    match row {
        Row::InFlight {
            in_flight,
            tasks_per_s,
            ..
        } => lines.push(line(
            &format!("tasks/s, {in_flight} in flight"),
            *tasks_per_s,
        )),
        Row::Dag {
            tasks,
            submit_ms,
            tasks_per_s,
            ..
        } => {
            lines.push(line(&format!("tasks/s, DAG of {tasks}"), *tasks_per_s));
            lines.push(line(&format!("submit of {tasks}, ms"), *submit_ms));
        }
        Row::History {
            finished_runs,
            tasks_per_s,
            relative,
            ..
        } => {
            lines.push(line(
                &format!("tasks/s after {finished_runs} runs"),
                *tasks_per_s,
            ));
            lines.push(line("relative to none", *relative));
        }
        Row::Payload {
            kib,
            tasks_per_s,
            mib_per_s,
        } => {
            lines.push(line(&format!("tasks/s of {kib} KiB"), *tasks_per_s));
            lines.push(line(&format!("MiB/s of {kib} KiB"), *mib_per_s));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layered_dag_needs_only_the_level_before() {
        let workflow = layered(100).unwrap();
        assert_eq!(workflow.tasks.len(), 100);
        assert!(workflow.tasks[9].needs.is_empty());
        assert_eq!(workflow.tasks[19].needs, ["t9", "t0", "t1"]);
        assert_eq!(workflow.tasks[99].needs, ["t89", "t80", "t81"]);
        assert_eq!(layered(2).unwrap().tasks[1].needs, ["t0"]);
    }
}
