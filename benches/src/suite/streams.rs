//! Chunks on their way from handlers to many watchers, beside some that do not read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use levelflow_common::ChunkEvent;
use levelflow_common::workflow::Workflow;
use levelflow_proto::v1;
use levelflow_proto::v1::workflow_service_client::WorkflowServiceClient;
use serde::Serialize;
use serde_json::json;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::Common;
use super::engine::line;
use crate::client::Client;
use crate::figure::Figure;
use crate::machine::Machine;
use crate::process::Cluster;
use crate::role::runtime;

/// Connections that the watchers share.
const CONNECTIONS: usize = 8;
/// What a connection of watchers that do not read takes in, per stream and in all.
const NARROW: (u32, u32) = (1024, 64 * 1024);
/// How long the runs wait for their watchers.
const GATHER: &str = "3s";
const SLOWEST_US: u64 = 60_000_000;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Runs that stream at the same time.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: u32,
    /// Chunks of each run.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    chunks: u32,
    /// Bytes of each chunk.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(32..=10_000))]
    chunk_bytes: u32,
    /// Microseconds between the chunks of a run.
    #[arg(long, default_value_t = 20_000)]
    every_us: u64,
    /// Watchers, spread over the runs.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    watchers: u32,
    /// Watchers that do not read, in the second half of each round.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    stalled: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Report {
    suite: &'static str,
    machine: Machine,
    rounds: u32,
    runs: u32,
    chunks: u32,
    chunk_bytes: u32,
    every_us: u64,
    watchers: u32,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    /// Watchers that do not read.
    stalled: u32,
    /// From a handler to a watcher.
    p50_ms: Figure,
    p99_ms: Figure,
    max_ms: Figure,
    /// Resident memory of the coordinator after the round.
    coordinator_mib: Figure,
}

/// One round of one side.
struct Seen {
    latency: Histogram<u64>,
    coordinator_bytes: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let sides = runtime(arguments.common.worker_threads)?.block_on(async {
        let cluster = Cluster::start(&arguments.common.layout())?;
        let mut client = Client::open(&cluster.address(), workflow(arguments)?).await?;
        let mut sides = [(0, Vec::new()), (arguments.stalled, Vec::new())];
        // Sides take turns, so that both meet the same machine; the first round warms up.
        for round in 0..=arguments.common.rounds {
            for (stalled, seen) in &mut sides {
                let one = measure(arguments, &cluster, &mut client, *stalled).await?;
                if round > 0 {
                    seen.push(one);
                }
            }
        }
        anyhow::Ok(sides)
    })?;
    let report = Report {
        suite: "streams",
        machine: Machine::describe()?,
        rounds: arguments.common.rounds,
        runs: arguments.runs,
        chunks: arguments.chunks,
        chunk_bytes: arguments.chunk_bytes,
        every_us: arguments.every_us,
        watchers: arguments.watchers,
        rows: sides
            .iter()
            .map(|(stalled, seen)| row(*stalled, seen))
            .collect(),
    };
    let mut lines = vec![format!(
        "{} watchers of {} runs with {} chunks each, {} rounds (median, min–max)",
        report.watchers, report.runs, report.chunks, report.rounds
    )];
    for row in &report.rows {
        lines.push(format!("{} more watchers that do not read", row.stalled));
        lines.push(line("p50, ms", row.p50_ms));
        lines.push(line("p99, ms", row.p99_ms));
        lines.push(line("longest, ms", row.max_ms));
        lines.push(line("coordinator, MiB", row.coordinator_mib));
    }
    arguments.common.print(&report, &lines)
}

fn row(stalled: u32, seen: &[Seen]) -> Row {
    let millis = |value: fn(&Histogram<u64>) -> u64| {
        Figure::of(seen.iter().map(|one| value(&one.latency) as f64 / 1e3))
    };
    Row {
        stalled,
        p50_ms: millis(|latency| latency.value_at_quantile(0.5)),
        p99_ms: millis(|latency| latency.value_at_quantile(0.99)),
        max_ms: millis(Histogram::max),
        coordinator_mib: Figure::of(
            seen.iter()
                .map(|one| one.coordinator_bytes as f64 / (1024.0 * 1024.0)),
        ),
    }
}

fn workflow(arguments: &Arguments) -> Result<Workflow> {
    let input = [
        u64::from(arguments.chunks),
        u64::from(arguments.chunk_bytes),
        arguments.every_us,
    ];
    let workflow = json!({
        "name": "streams",
        "tasks": [
            { "id": "gather", "type": "sleep", "with": { "duration": GATHER } },
            { "id": "stream", "type": "handler", "needs": ["gather"],
              "with": { "name": "stream", "input": input } },
        ],
    });
    serde_json::from_value(workflow).context("the workflow is one")
}

/// Microseconds by a clock that all processes of the machine share.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// A chunk of so many bytes that says when it was made.
pub(crate) fn chunk(bytes: usize) -> String {
    format!("{:<1$}", now_us(), bytes.saturating_sub(2))
}

/// Streams all runs once, to all watchers.
async fn measure(
    arguments: &Arguments,
    cluster: &Cluster,
    client: &mut Client,
    stalled: u32,
) -> Result<Seen> {
    let mut runs = Vec::new();
    for _ in 0..arguments.runs {
        runs.push(client.submit().await?);
    }
    let (mut wide, mut narrow) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        wide.push(connect(&cluster.address(), None).await?);
        narrow.push(connect(&cluster.address(), Some(NARROW)).await?);
    }
    let run_of = |watcher: u32| runs[watcher as usize % runs.len()].clone();
    let mut held = Vec::new();
    for watcher in 0..stalled {
        let service = &narrow[watcher as usize % CONNECTIONS];
        held.push(watch(service, run_of(watcher)).await?);
    }
    let mut watching = Vec::new();
    for watcher in 0..arguments.watchers {
        let service = &wide[watcher as usize % CONNECTIONS];
        let events = watch(service, run_of(watcher)).await?;
        let read = read(events, arguments.chunks);
        watching.push(levelflow_runtime::task::spawn("watcher", read));
    }
    let mut latency = Histogram::new_with_bounds(1, SLOWEST_US, 3)?;
    for watcher in watching {
        for micros in watcher.await?? {
            latency.saturating_record(micros.max(1));
        }
    }
    let coordinator_bytes = cluster.coordinator.resident_bytes()?;
    drop(held);
    Ok(Seen {
        latency,
        coordinator_bytes,
    })
}

async fn connect(
    address: &str,
    windows: Option<(u32, u32)>,
) -> Result<WorkflowServiceClient<Channel>> {
    let mut endpoint = Endpoint::from_shared(address.to_owned())?
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5));
    if let Some((stream, connection)) = windows {
        endpoint = endpoint
            .initial_stream_window_size(stream)
            .initial_connection_window_size(connection);
    }
    let channel = endpoint.connect().await;
    let channel = channel.context("cannot connect to the coordinator")?;
    Ok(WorkflowServiceClient::new(channel))
}

async fn watch(
    service: &WorkflowServiceClient<Channel>,
    run_id: String,
) -> Result<Streaming<v1::WatchTaskResponse>> {
    let request = v1::WatchTaskRequest {
        run_id,
        task_id: "stream".to_owned(),
        ..Default::default()
    };
    Ok(service.clone().watch_task(request).await?.into_inner())
}

/// Reads a stream to its end, and gives how long each chunk was under way.
async fn read(mut events: Streaming<v1::WatchTaskResponse>, expected: u32) -> Result<Vec<u64>> {
    let mut latencies = Vec::with_capacity(expected as usize);
    while let Some(event) = events.message().await? {
        match ChunkEvent::try_from(event)? {
            ChunkEvent::Chunks { first, chunks, .. } => {
                ensure!(first as usize == latencies.len(), "chunks out of order");
                let now = now_us();
                for chunk in chunks {
                    let text: String = serde_json::from_slice(&chunk)?;
                    let made_at: u64 = text.trim_end().parse()?;
                    latencies.push(now.saturating_sub(made_at));
                }
            }
            ChunkEvent::Ended(end) => {
                ensure!(end.chunks == expected, "the task ended: {end:?}");
                break;
            }
            ChunkEvent::Started { .. } => {}
            ChunkEvent::Lagged { .. } => ensure!(false, "a watcher was too slow"),
        }
    }
    ensure!(
        latencies.len() == expected as usize,
        "{} of {expected} chunks came",
        latencies.len()
    );
    Ok(latencies)
}
