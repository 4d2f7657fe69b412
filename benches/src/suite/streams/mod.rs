//! Streamed output: chunks on their way from handlers to many watchers, beside some that do not read; and the first
//! chunk of a language model's answer.

mod chat;
mod grpc;
mod model;
mod sse;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use levelflow_common::workflow::Workflow;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinHandle;

use self::chat::Chats;
use self::model::Model;
use super::Common;
use super::engine::line;
use crate::client::Client;
use crate::figure::Figure;
use crate::machine::Machine;
use crate::process::{Cluster, Layout};
use crate::role::runtime;

pub(crate) use self::model::{ModelArguments, serve};

/// Connections that watchers share, where they do.
const CONNECTIONS: usize = 8;
/// What a connection of watchers that do not read takes in, per stream and in all.
const NARROW: (u32, u32) = (1024, 64 * 1024);
/// How long the runs wait for their watchers.
const GATHER: &str = "3s";
const SLOWEST_US: u64 = 60_000_000;
/// Files that a process needs beside the connections of watchers.
const OTHER_FILES: u64 = 256;

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
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=4_000))]
    watchers: u32,
    /// Watchers that do not read, in every second part of a round.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    stalled: u32,
    /// Answers of a model in each round.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    chats: u32,
    /// Milliseconds until the model gives its first piece.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=1_000))]
    model_ms: u64,
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
#[serde(tag = "axis", rename_all = "snake_case")]
enum Row {
    Watchers {
        over: Transport,
        /// Watchers that do not read, beside the others.
        stalled: u32,
        /// From a handler to a watcher.
        p50_ms: Figure,
        p99_ms: Figure,
        max_ms: Figure,
        /// Resident memory of the coordinator after the round.
        coordinator_mib: Figure,
    },
    FirstChunk {
        /// What the model takes until its first piece.
        model_ms: u64,
        /// From the question to the first piece, without Levelflow.
        direct_p50_ms: Figure,
        /// From the submit to the first chunk at a watcher.
        p50_ms: Figure,
        p99_ms: Figure,
        /// By how much the median is over that without Levelflow.
        over_direct_ms: Figure,
        /// Of it, from the model's first piece to the watcher.
        from_model_p50_ms: Figure,
    },
}

/// How watchers are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Transport {
    /// gRPC over a few connections.
    Grpc,
    /// Server-sent events, each over a connection of its own.
    Sse,
}

/// Rounds with one kind of watchers.
struct Side {
    over: Transport,
    stalled: u32,
    seen: Vec<Seen>,
}

/// What the watchers saw in one round.
struct Seen {
    latency: Histogram<u64>,
    coordinator_bytes: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    levelflow_worker::install_tls_provider();
    allow_files(u64::from(arguments.watchers + arguments.stalled) + OTHER_FILES)?;
    let rows = runtime(arguments.common.worker_threads)?.block_on(measure(arguments))?;
    let report = Report {
        suite: "streams",
        machine: Machine::describe()?,
        rounds: arguments.common.rounds,
        runs: arguments.runs,
        chunks: arguments.chunks,
        chunk_bytes: arguments.chunk_bytes,
        every_us: arguments.every_us,
        watchers: arguments.watchers,
        rows,
    };
    let mut lines = vec![format!(
        "{} watchers of {} runs with {} chunks each, {} rounds (median, min–max)",
        report.watchers, report.runs, report.chunks, report.rounds
    )];
    report.rows.iter().for_each(|row| describe(row, &mut lines));
    arguments.common.print(&report, &lines)
}

/// Lets this process and its children have so many files open.
fn allow_files(wanted: u64) -> Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    ensure!(
        maximum.is_none_or(|maximum| maximum >= wanted),
        "the watchers take {wanted} open files, and the system allows {maximum:?}"
    );
    let current = Some(wanted);
    setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
    Ok(())
}

/// Sides take turns, so that all meet the same machine; the first round warms up.
async fn measure(arguments: &Arguments) -> Result<Vec<Row>> {
    let cluster = Cluster::start(&Layout {
        http: true,
        ..arguments.common.layout()
    })?;
    let model = Model::start(arguments.model_ms)?;
    let mut client = Client::open(&cluster.address(), workflow(arguments)?).await?;
    let mut sides = Vec::new();
    for over in [Transport::Grpc, Transport::Sse] {
        for stalled in [0, arguments.stalled] {
            sides.push(Side {
                over,
                stalled,
                seen: Vec::new(),
            });
        }
    }
    let mut chats = Vec::new();
    for round in 0..=arguments.common.rounds {
        for side in &mut sides {
            let one = stream(arguments, &cluster, &mut client, side.over, side.stalled).await?;
            if round > 0 {
                side.seen.push(one);
            }
        }
        let one = Chats::measure(&cluster, &model, arguments.chats).await?;
        if round > 0 {
            chats.push(one);
        }
    }
    let mut rows: Vec<Row> = sides.iter().map(Side::row).collect();
    rows.push(chat::row(arguments.model_ms, &chats));
    Ok(rows)
}

impl Side {
    fn row(&self) -> Row {
        let millis = |value: fn(&Histogram<u64>) -> u64| {
            Figure::of(self.seen.iter().map(|one| value(&one.latency) as f64 / 1e3))
        };
        let bytes = self.seen.iter().map(|one| one.coordinator_bytes as f64);
        Row::Watchers {
            over: self.over,
            stalled: self.stalled,
            p50_ms: millis(|latency| latency.value_at_quantile(0.5)),
            p99_ms: millis(|latency| latency.value_at_quantile(0.99)),
            max_ms: millis(Histogram::max),
            coordinator_mib: Figure::of(bytes.map(|bytes| bytes / (1024.0 * 1024.0))),
        }
    }
}

fn describe(row: &Row, lines: &mut Vec<String>) {
    match row {
        Row::Watchers {
            over,
            stalled,
            p50_ms,
            p99_ms,
            max_ms,
            coordinator_mib,
        } => {
            let over = match over {
                Transport::Grpc => "gRPC",
                Transport::Sse => "server-sent events",
            };
            lines.push(format!("over {over}, {stalled} more do not read"));
            lines.push(line("p50, ms", *p50_ms));
            lines.push(line("p99, ms", *p99_ms));
            lines.push(line("longest, ms", *max_ms));
            lines.push(line("coordinator, MiB", *coordinator_mib));
        }
        Row::FirstChunk {
            model_ms,
            direct_p50_ms,
            p50_ms,
            p99_ms,
            over_direct_ms,
            from_model_p50_ms,
        } => {
            lines.push(format!("first chunk of a model that takes {model_ms} ms"));
            lines.push(line("direct p50, ms", *direct_p50_ms));
            lines.push(line("p50, ms", *p50_ms));
            lines.push(line("p99, ms", *p99_ms));
            lines.push(line("over direct, ms", *over_direct_ms));
            lines.push(line("from the model, ms", *from_model_p50_ms));
        }
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
async fn stream(
    arguments: &Arguments,
    cluster: &Cluster,
    client: &mut Client,
    over: Transport,
    stalled: u32,
) -> Result<Seen> {
    let mut runs = Vec::new();
    for _ in 0..arguments.runs {
        runs.push(client.submit().await?);
    }
    let run_of = |watcher: u32| runs[watcher as usize % runs.len()].as_str();
    let stalled: Vec<&str> = (0..stalled).map(run_of).collect();
    let reading: Vec<&str> = (0..arguments.watchers).map(run_of).collect();
    let seen = match over {
        Transport::Grpc => {
            let held = grpc::stall(&cluster.address(), &stalled).await?;
            let watchers = grpc::watch(&cluster.address(), &reading, arguments.chunks).await?;
            gather(cluster, watchers, held).await
        }
        Transport::Sse => {
            let held = sse::stall(&cluster.http_address()?, &stalled).await?;
            let watchers = sse::watch(&cluster.http_address()?, &reading, arguments.chunks).await?;
            gather(cluster, watchers, held).await
        }
    };
    seen.with_context(|| format!("watchers over {over:?}"))
}

/// Reads a stream to its end, and gives how long each chunk was under way.
type Watcher = JoinHandle<Result<Vec<u64>>>;

/// Waits for those who read, while those who do not are held.
async fn gather<T>(cluster: &Cluster, watchers: Vec<Watcher>, held: Vec<T>) -> Result<Seen> {
    let mut latency = Histogram::new_with_bounds(1, SLOWEST_US, 3)?;
    for watcher in watchers {
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

/// How long the chunks of a watcher were under way.
struct Latencies {
    expected: usize,
    micros: Vec<u64>,
}

impl Latencies {
    fn new(expected: u32) -> Self {
        let expected = expected as usize;
        Self {
            expected,
            micros: Vec::with_capacity(expected),
        }
    }

    /// Takes in chunks, which have to follow those before.
    fn take<'a>(&mut self, first: u32, texts: impl Iterator<Item = &'a str>) -> Result<()> {
        ensure!(first as usize == self.micros.len(), "chunks out of order");
        let now = now_us();
        for text in texts {
            let made_at: u64 = text.trim_end().parse()?;
            self.micros.push(now.saturating_sub(made_at));
        }
        Ok(())
    }

    /// All of them, once the task has ended.
    fn all(self) -> Result<Vec<u64>> {
        let Self { expected, micros } = self;
        ensure!(
            micros.len() == expected,
            "{} of {expected} chunks came",
            micros.len()
        );
        Ok(micros)
    }
}
