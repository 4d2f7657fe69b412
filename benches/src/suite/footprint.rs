//! What a cluster takes when it does nothing, and when it has many open runs.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::Common;
use super::engine::line;
use crate::client::Client;
use crate::figure::Figure;
use crate::machine::Machine;
use crate::process::Cluster;
use crate::role::runtime;
use crate::shape::{Durable, Shape};

/// What start-up left to do is done after this.
const SETTLE: Duration = Duration::from_secs(2);
const MIB: f64 = (1 << 20) as f64;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Seconds of each idle round.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Runs of 30 tasks that are open at once.
    #[arg(long, default_value_t = 10_000)]
    open_runs: usize,
    #[command(flatten)]
    common: Common,
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
#[serde(tag = "state", rename_all = "snake_case")]
enum Row {
    /// A coordinator and its workers after one run.
    Idle {
        coordinator_mib: Figure,
        workers_mib: Figure,
        /// Less than the sum: what the processes share counts once.
        together_mib: Figure,
        /// Of one core, all processes together.
        cpu_percent: Figure,
    },
    /// All of these runs were open at once; the most memory of all processes together.
    Open { runs: usize, peak_mib: Figure },
}

#[derive(Default)]
struct Idle {
    coordinator: Vec<f64>,
    workers: Vec<f64>,
    together: Vec<f64>,
    cpu: Vec<f64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let rows = runtime(1)?
        .block_on(async { anyhow::Ok(vec![idle(arguments).await?, open(arguments).await?]) })?;
    let report = Report {
        suite: "footprint",
        machine: Machine::describe()?,
        rounds: arguments.common.rounds,
        seconds: arguments.seconds,
        rows,
    };
    let mut lines = vec![format!(
        "footprint, {} rounds (median, min–max)",
        report.rounds
    )];
    for row in &report.rows {
        match row {
            Row::Idle {
                coordinator_mib,
                workers_mib,
                together_mib,
                cpu_percent,
            } => {
                lines.push(line("idle coordinator, MiB", *coordinator_mib));
                lines.push(line("idle workers, MiB", *workers_mib));
                lines.push(line("idle together, MiB", *together_mib));
                lines.push(line("idle, % of a core", *cpu_percent));
            }
            Row::Open { runs, peak_mib } => {
                lines.push(line(&format!("{runs} open runs, peak MiB"), *peak_mib));
            }
        }
    }
    arguments.common.print(&report, &lines)
}

async fn idle(arguments: &Arguments) -> Result<Row> {
    let mut idle = Idle::default();
    for round in 1..=arguments.common.rounds {
        eprintln!("round {round} of {}: idle", arguments.common.rounds);
        let cluster = Cluster::start(&arguments.common.layout())?;
        let workflow = Shape::Small.workflow(Durable::Strict);
        let mut client = Client::connect(&cluster.address(), workflow).await?;
        client.keep_in_flight(1, Duration::ZERO).await?;
        tokio::time::sleep(SETTLE).await;
        let (cpu, started) = (cluster.cpu_seconds()?, Instant::now());
        tokio::time::sleep(Duration::from_secs_f64(arguments.seconds)).await;
        let cpu = (cluster.cpu_seconds()? - cpu) / started.elapsed().as_secs_f64();
        let coordinator = cluster.coordinator.resident_bytes()? as f64 / MIB;
        let (mut workers, mut together) = (0, cluster.coordinator.proportional_bytes()?);
        for worker in &cluster.workers {
            workers += worker.resident_bytes()?;
            together += worker.proportional_bytes()?;
        }
        idle.coordinator.push(coordinator);
        idle.workers.push(workers as f64 / MIB);
        idle.together.push(together as f64 / MIB);
        idle.cpu.push(cpu * 100.0);
    }
    Ok(Row::Idle {
        coordinator_mib: Figure::of(idle.coordinator),
        workers_mib: Figure::of(idle.workers),
        together_mib: Figure::of(idle.together),
        cpu_percent: Figure::of(idle.cpu),
    })
}

async fn open(arguments: &Arguments) -> Result<Row> {
    let runs = arguments.open_runs;
    let mut peak = Vec::new();
    for round in 1..=arguments.common.rounds {
        eprintln!(
            "round {round} of {}: {runs} open runs",
            arguments.common.rounds
        );
        let cluster = Cluster::start(&arguments.common.layout())?;
        let workflow = Shape::Large.workflow(Durable::Strict);
        let mut client = Client::connect(&cluster.address(), workflow).await?;
        let time = Duration::from_secs_f64(arguments.seconds);
        client.keep_in_flight(runs, time).await?;
        peak.push(cluster.peak_resident_bytes()? as f64 / MIB);
    }
    Ok(Row::Open {
        runs,
        peak_mib: Figure::of(peak),
    })
}
