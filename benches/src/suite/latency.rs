//! Latency: one run after the other, with nothing else under way.

use std::time::Duration;

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

/// How long the round that is not measured takes.
const WARM_UP: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The DAG; all of them if not given.
    #[arg(long, value_enum)]
    shape: Option<Shape>,
    /// Seconds of each round.
    #[arg(long, default_value_t = 3.0)]
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
    durability: Durable,
    rounds: u32,
    seconds: f64,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    shape: Shape,
    p50_ms: Figure,
    p99_ms: Figure,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let shapes = match arguments.shape {
        Some(shape) => vec![shape],
        None => Shape::ALL.to_vec(),
    };
    let rows = runtime(1)?.block_on(async {
        let mut rows = Vec::new();
        for shape in shapes {
            rows.push(measure(arguments, shape).await?);
        }
        anyhow::Ok(rows)
    })?;
    let report = Report {
        suite: "latency",
        machine: Machine::describe()?,
        durability: arguments.durability,
        rounds: arguments.common.rounds,
        seconds: arguments.seconds,
        rows,
    };
    let mut lines = vec![format!(
        "latency of one run after the other, {:?}, {} rounds of {} s (median, min–max)",
        report.durability, report.rounds, report.seconds
    )];
    for row in &report.rows {
        lines.push(line(&format!("{:?} p50, ms", row.shape), row.p50_ms));
        lines.push(line(&format!("{:?} p99, ms", row.shape), row.p99_ms));
    }
    arguments.common.print(&report, &lines)
}

async fn measure(arguments: &Arguments, shape: Shape) -> Result<Row> {
    let cluster = Cluster::start(&arguments.common.layout())?;
    let workflow = shape.workflow(arguments.durability);
    let mut client = Client::connect(&cluster.address(), workflow).await?;
    client.keep_in_flight(1, WARM_UP).await?;
    let mut p50 = Vec::new();
    let mut p99 = Vec::new();
    for _ in 0..arguments.common.rounds {
        let time = Duration::from_secs_f64(arguments.seconds);
        let seen = client.keep_in_flight(1, time).await?;
        p50.push(seen.latency.value_at_quantile(0.5) as f64 / 1e3);
        p99.push(seen.latency.value_at_quantile(0.99) as f64 / 1e3);
    }
    Ok(Row {
        shape,
        p50_ms: Figure::of(p50),
        p99_ms: Figure::of(p99),
    })
}
