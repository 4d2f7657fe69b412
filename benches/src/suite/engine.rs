//! Throughput: no-op tasks through coordinator, journal, worker and back, closed loop.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::Common;
use crate::client::Client;
use crate::figure::Figure;
use crate::machine::Machine;
use crate::process::{Cluster, Transport, cpu_seconds};
use crate::role::runtime;
use crate::shape::{Durable, Shape};

/// How long the round that is not measured takes.
const WARM_UP: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The DAG.
    #[arg(long, value_enum, default_value_t = Shape::Small)]
    shape: Shape,
    /// Runs that are open at once.
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Seconds of each round.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Whether tasks wait for durable results.
    #[arg(long, value_enum, default_value_t = Durable::Strict)]
    durability: Durable,
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Report {
    suite: &'static str,
    machine: Machine,
    shape: Shape,
    durability: Durable,
    in_flight: usize,
    runs_per_s: Figure,
    tasks_per_s: Figure,
    p50_ms: Figure,
    p99_ms: Figure,
    rss_mib: Figure,
    cpu_ms_per_task: Figure,
    rounds: u32,
    seconds: f64,
    workers: usize,
    transport: Transport,
    slots: usize,
}

/// One round.
pub(super) struct Measured {
    pub(super) runs_per_s: f64,
    pub(super) p50_ms: f64,
    p99_ms: f64,
    rss_mib: f64,
    cpu_ms_per_task: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let rounds = runtime(1)?.block_on(measure(arguments))?;
    let figure = |of: fn(&Measured) -> f64| Figure::of(rounds.iter().map(of));
    let tasks = arguments.shape.tasks() as f64;
    let report = Report {
        suite: "engine",
        machine: Machine::describe()?,
        shape: arguments.shape,
        durability: arguments.durability,
        in_flight: arguments.in_flight,
        runs_per_s: figure(|round| round.runs_per_s),
        tasks_per_s: Figure::of(rounds.iter().map(|round| round.runs_per_s * tasks)),
        p50_ms: figure(|round| round.p50_ms),
        p99_ms: figure(|round| round.p99_ms),
        rss_mib: figure(|round| round.rss_mib),
        cpu_ms_per_task: figure(|round| round.cpu_ms_per_task),
        rounds: arguments.common.rounds,
        seconds: arguments.seconds,
        workers: arguments.common.workers,
        transport: arguments.common.transport,
        slots: arguments.common.slots,
    };
    let lines = [
        format!(
            "engine, {:?}, {:?}, {} runs in flight, {} rounds of {} s (median, min–max)",
            report.shape, report.durability, report.in_flight, report.rounds, report.seconds
        ),
        line("runs/s", report.runs_per_s),
        line("tasks/s", report.tasks_per_s),
        line("run p50, ms", report.p50_ms),
        line("run p99, ms", report.p99_ms),
        line("peak resident, MiB", report.rss_mib),
        line("CPU per task, ms", report.cpu_ms_per_task),
    ];
    arguments.common.print(&report, &lines)
}

pub(super) fn line(name: &str, figure: Figure) -> String {
    format!(
        "  {name:<20} {:>10}  ({}–{})",
        figure.median, figure.min, figure.max
    )
}

async fn measure(arguments: &Arguments) -> Result<Vec<Measured>> {
    let cluster = Cluster::start(&arguments.common.layout())?;
    let workflow = arguments.shape.workflow(arguments.durability);
    let mut client = Client::connect(&cluster.address(), workflow).await?;
    client.keep_in_flight(arguments.in_flight, WARM_UP).await?;
    let mut rounds = Vec::new();
    for round in 1..=arguments.common.rounds {
        let time = Duration::from_secs_f64(arguments.seconds);
        let tasks = arguments.shape.tasks();
        let measured =
            measure_round(&cluster, &mut client, arguments.in_flight, tasks, time).await?;
        eprintln!(
            "round {round} of {}: {:.0} tasks/s",
            arguments.common.rounds,
            measured.runs_per_s * arguments.shape.tasks() as f64
        );
        rounds.push(measured);
    }
    Ok(rounds)
}

/// Keeps runs of a number of tasks in flight on a cluster that is warm.
pub(super) async fn measure_round(
    cluster: &Cluster,
    client: &mut Client,
    in_flight: usize,
    tasks: usize,
    time: Duration,
) -> Result<Measured> {
    let cpu = cluster.cpu_seconds()? + cpu_seconds(std::process::id())?;
    let seen = client.keep_in_flight(in_flight, time).await?;
    let cpu = cluster.cpu_seconds()? + cpu_seconds(std::process::id())? - cpu;
    Ok(Measured {
        runs_per_s: seen.runs as f64 / seen.elapsed.as_secs_f64(),
        p50_ms: seen.latency.value_at_quantile(0.5) as f64 / 1e3,
        p99_ms: seen.latency.value_at_quantile(0.99) as f64 / 1e3,
        rss_mib: cluster.peak_resident_bytes()? as f64 / f64::from(1 << 20),
        cpu_ms_per_task: cpu * 1e3 / (seen.runs * tasks as u64) as f64,
    })
}
