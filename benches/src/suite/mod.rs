//! The suites.

pub(crate) mod baseline;
pub(crate) mod burst;
pub(crate) mod cache;
pub(crate) mod cluster;
pub(crate) mod cpu;
pub(crate) mod engine;
pub(crate) mod footprint;
pub(crate) mod http_pool;
pub(crate) mod latency;
pub(crate) mod limits;
pub(crate) mod scale;
pub(crate) mod startup;
pub(crate) mod streams;

mod target;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::machine;
use crate::process::{Layout, Transport};

/// Tasks that may wait at a coordinator: far more than any suite has open.
const MAX_QUEUE: usize = 4_000_000;

/// What all suites take.
#[derive(clap::Args)]
pub(crate) struct Common {
    /// Print the result as JSON; to FILE if one is given.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub(crate) json: Option<PathBuf>,
    /// Rounds that are measured, after one that is not.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Worker processes.
    #[arg(long, default_value_t = 1)]
    pub(crate) workers: usize,
    /// Slots of each worker.
    #[arg(long, default_value_t = 512)]
    pub(crate) slots: usize,
    /// Threads of the coordinator that serve; 0 for what the product chooses.
    #[arg(long, default_value_t = 0)]
    pub(crate) coordinator_threads: usize,
    /// Threads of each worker that serve; 0 for what the product chooses.
    #[arg(long, default_value_t = 0)]
    pub(crate) worker_threads: usize,
    /// What carries gRPC between the processes.
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    pub(crate) transport: Transport,
}

impl Common {
    pub(crate) fn layout(&self) -> Layout {
        Layout {
            workers: self.workers,
            slots: self.slots,
            coordinator_threads: self.coordinator_threads,
            worker_threads: self.worker_threads,
            transport: self.transport,
            max_queue: MAX_QUEUE,
            http: false,
            cache: None,
            shared: None,
            nats: None,
        }
    }

    /// Writes the result where it was asked for, and otherwise as lines for people.
    pub(crate) fn print(&self, result: &impl Serialize, lines: &[String]) -> Result<()> {
        print(self.json.as_deref(), result, lines)
    }
}

/// The JSON of a suite: what it reports, and how to measure it again.
#[derive(Serialize)]
struct Document<'a, T> {
    #[serde(flatten)]
    result: &'a T,
    command: String,
    stolen_percent: f64,
}

/// Writes a result as JSON to a file, or to standard output for `-`, or as lines for people.
pub(crate) fn print(json: Option<&Path>, result: &impl Serialize, lines: &[String]) -> Result<()> {
    let Some(file) = json else {
        lines.iter().for_each(|line| println!("{line}"));
        println!(
            "  taken by the host    {:>10} %",
            machine::stolen_percent()?
        );
        return Ok(());
    };
    let document = serde_json::to_string_pretty(&Document {
        result,
        command: command(std::env::args().skip(1)),
        stolen_percent: machine::stolen_percent()?,
    })?;
    if file.as_os_str() == "-" {
        println!("{document}");
        return Ok(());
    }
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    fs::write(file, document).with_context(|| format!("cannot write {}", file.display()))
}

/// What to type to measure the same again.
fn command(arguments: impl Iterator<Item = String>) -> String {
    let mut command = "cargo run --release -p levelflow-bench --".to_owned();
    for argument in arguments {
        command.push(' ');
        command.push_str(&argument);
    }
    command
}
