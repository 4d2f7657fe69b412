//! What the pool of connections saves `http` tasks: the same calls with connections that are kept, and
//! with one for each call.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use levelflow_common::HumanDuration;
use levelflow_common::workflow::Workflow;
use levelflow_worker::{CancellationToken, HttpConfig, HttpPoolStatistics, Worker};
use serde::Serialize;
use serde_json::json;

use super::Common;
use super::baseline::{Service, ServiceArguments};
use super::engine::line;
use crate::client::Client;
use crate::figure::Figure;
use crate::machine::Machine;
use crate::process::Cluster;
use crate::role::runtime;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Calls of each round, to one host.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    calls: u32,
    /// Milliseconds that the service takes for a call.
    #[arg(long, default_value_t = 2)]
    service_ms: u64,
    /// Connections that the worker may have to the host.
    #[arg(long, default_value_t = 100)]
    connections: usize,
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Report {
    suite: &'static str,
    machine: Machine,
    rounds: u32,
    calls: u32,
    /// Of the time that it takes to be connected, what keeping connections saves.
    saved_percent: Figure,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    connections: &'static str,
    /// Connections that were opened.
    opened: Figure,
    /// How long it took to open them, all together.
    connect_ms: Figure,
    /// How long calls waited for room, all together.
    wait_ms: Figure,
    /// The run, from submit to its end.
    run_ms: Figure,
}

/// One round of one side.
struct Seen {
    statistics: HttpPoolStatistics,
    run: Duration,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    levelflow_worker::install_tls_provider();
    let (kept, single) = runtime(arguments.common.worker_threads)?.block_on(async {
        let service = Service::start(&ServiceArguments::reliable(arguments.service_ms))?;
        let cluster = Cluster::without_workers(&arguments.common.layout())?;
        let client = Client::open(&cluster.address(), workflow(arguments, &service)?).await?;
        let (mut kept, mut single) = (Vec::new(), Vec::new());
        // Sides take turns, so that both meet the same machine; the first round warms up.
        for round in 0..=arguments.common.rounds {
            for (seen, keep_alive) in [(&mut kept, 30), (&mut single, 0)] {
                let keep_alive = Duration::from_secs(keep_alive);
                let one = measure(arguments, &cluster, &client, keep_alive).await?;
                if round > 0 {
                    seen.push(one);
                }
            }
        }
        anyhow::Ok((kept, single))
    })?;
    let saved = kept.iter().zip(&single).map(|(kept, single)| {
        let share = |seen: &Seen| seen.statistics.connect_time.as_secs_f64();
        100.0 * (1.0 - share(kept) / share(single))
    });
    let report = Report {
        suite: "http_pool",
        machine: Machine::describe()?,
        rounds: arguments.common.rounds,
        calls: arguments.calls,
        saved_percent: Figure::of(saved),
        rows: vec![row("kept", &kept), row("one for each call", &single)],
    };
    let mut lines = vec![format!(
        "{} http tasks to one host, {} rounds (median, min–max)",
        report.calls, report.rounds
    )];
    for row in &report.rows {
        lines.push(format!("connections {}", row.connections));
        lines.push(line("opened", row.opened));
        lines.push(line("connecting, ms", row.connect_ms));
        lines.push(line("waiting, ms", row.wait_ms));
        lines.push(line("run, ms", row.run_ms));
    }
    lines.push(line("connecting saved, %", report.saved_percent));
    arguments.common.print(&report, &lines)
}

fn row(connections: &'static str, seen: &[Seen]) -> Row {
    let figure = |value: fn(&Seen) -> f64| Figure::of(seen.iter().map(value));
    Row {
        connections,
        opened: figure(|seen| seen.statistics.opened as f64),
        connect_ms: figure(|seen| seen.statistics.connect_time.as_secs_f64() * 1e3),
        wait_ms: figure(|seen| seen.statistics.wait_time.as_secs_f64() * 1e3),
        run_ms: figure(|seen| seen.run.as_secs_f64() * 1e3),
    }
}

fn workflow(arguments: &Arguments, service: &Service) -> Result<Workflow> {
    let workflow = json!({
        "name": "http-pool",
        "tasks": [{
            "id": "call",
            "type": "http",
            "for_each": { "items": format!("${{{{ range({}) | list }}}}", arguments.calls) },
            "with": { "url": service.url() },
        }],
    });
    serde_json::from_value(workflow).context("the workflow is one")
}

/// Runs the workflow once on a fresh worker, which is in this process: its pool is read directly.
async fn measure(
    arguments: &Arguments,
    cluster: &Cluster,
    client: &Client,
    keep_alive: Duration,
) -> Result<Seen> {
    let worker = Worker::builder()
        .address(cluster.address())
        .slots(arguments.common.slots)
        .http(HttpConfig {
            allow: vec!["127.0.0.1".to_owned()],
            connections: arguments.connections,
            keep_alive: HumanDuration(keep_alive),
            ..HttpConfig::default()
        })
        .build()?;
    let pool = worker.http_pool();
    let stop = CancellationToken::new();
    let running = levelflow_runtime::task::spawn("worker", worker.run(stop.clone()));
    let started = Instant::now();
    client.run_once().await?;
    let run = started.elapsed();
    let statistics = pool.statistics();
    stop.cancel();
    let _ended = running.await??;
    let calls = statistics.opened + statistics.reused;
    ensure!(
        calls >= u64::from(arguments.calls),
        "only {calls} calls were made"
    );
    Ok(Seen { statistics, run })
}
