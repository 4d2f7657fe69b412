//! The benchmark harness: measures Levelflow as its users run it, a coordinator and a worker in
//! processes of their own.

mod client;
mod figure;
mod machine;
mod process;
mod report;
mod role;
mod shape;
mod suite;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Levelflow on this machine.
#[derive(Parser)]
#[command(name = "levelflow-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Workflows of HTTP calls, against executors that keep nothing.
    Baseline(suite::baseline::Arguments),
    /// A burst of tasks: how soon `levelflow dev` has more worker processes.
    Burst(suite::burst::Arguments),
    /// What the result cache saves.
    Cache(suite::cache::Arguments),
    /// Several coordinators on one PostgreSQL.
    Cluster(suite::cluster::Arguments),
    /// Handlers that compute, and calls beside them.
    Cpu(suite::cpu::Arguments),
    /// Throughput of no-op tasks, closed loop.
    Engine(suite::engine::Arguments),
    /// Memory and processor time of a cluster that is idle, and memory with many open runs.
    Footprint(suite::footprint::Arguments),
    /// What keeping connections saves http tasks.
    HttpPool(suite::http_pool::Arguments),
    /// Time of one run after the other.
    Latency(suite::latency::Arguments),
    /// What the disk, SQLite, the wire and a bare loop over them allow.
    Limits(suite::limits::Arguments),
    /// Time from the start of processes to the first finished task, and of a recovery.
    Startup(suite::startup::Arguments),
    /// Chunks on their way to many watchers, and the first chunk of a model.
    Streams(suite::streams::Arguments),
    /// Cost as work grows.
    Scale(suite::scale::Arguments),
    /// Turns the JSON files of suites into Markdown and plots.
    Report(report::Arguments),
    /// Serves a coordinator for a suite.
    #[command(hide = true)]
    Coordinator(role::CoordinatorArguments),
    /// Runs a worker for a suite.
    #[command(hide = true)]
    Worker(role::WorkerArguments),
    /// Runs an executor that Levelflow is compared with.
    #[command(hide = true)]
    Executor(suite::baseline::ExecutorArguments),
    /// Serves what HTTP tasks call.
    #[command(hide = true)]
    HttpServer(suite::baseline::ServiceArguments),
    /// Answers what chat tasks ask.
    #[command(hide = true)]
    ModelServer(suite::streams::ModelArguments),
    /// Answers attempts over a bare stream, for the limits.
    #[command(hide = true)]
    Echo(suite::limits::EchoArguments),
}

fn main() -> Result<()> {
    machine::watch()?;
    match Arguments::parse().command {
        Command::Baseline(arguments) => suite::baseline::run(&arguments),
        Command::Burst(arguments) => suite::burst::run(&arguments),
        Command::Cache(arguments) => suite::cache::run(&arguments),
        Command::Cluster(arguments) => suite::cluster::run(&arguments),
        Command::Cpu(arguments) => suite::cpu::run(&arguments),
        Command::Engine(arguments) => suite::engine::run(&arguments),
        Command::Footprint(arguments) => suite::footprint::run(&arguments),
        Command::HttpPool(arguments) => suite::http_pool::run(&arguments),
        Command::Latency(arguments) => suite::latency::run(&arguments),
        Command::Limits(arguments) => suite::limits::run(&arguments),
        Command::Startup(arguments) => suite::startup::run(&arguments),
        Command::Streams(arguments) => suite::streams::run(&arguments),
        Command::Scale(arguments) => suite::scale::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Coordinator(arguments) => role::coordinator(&arguments),
        Command::Worker(arguments) => role::worker(&arguments),
        Command::Executor(arguments) => suite::baseline::execute(&arguments),
        Command::HttpServer(arguments) => suite::baseline::serve(&arguments),
        Command::ModelServer(arguments) => suite::streams::serve(arguments),
        Command::Echo(arguments) => suite::limits::echo(&arguments),
    }
}
