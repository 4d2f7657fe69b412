//! Startup: from the start of processes to the first finished task, and recovery.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use levelflow_common::workflow::Workflow;
use serde::Serialize;

use super::Common;
use super::engine::line;
use crate::client::Client;
use crate::figure::Figure;
use crate::machine::Machine;
use crate::process::{Cluster, Process};
use crate::role::runtime;

/// Tasks of a run that waits.
const TASKS_PER_RUN: usize = 10;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also start `levelflow dev` of this program.
    #[arg(long, value_name = "PATH")]
    levelflow: Option<PathBuf>,
    /// Open tasks to recover, rounded up to runs of 10; several with commas.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000])]
    open_tasks: Vec<usize>,
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Report {
    suite: &'static str,
    machine: Machine,
    rounds: u32,
    rows: Vec<Row>,
}

#[derive(Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
enum Row {
    /// Coordinator and worker, from nothing.
    Cluster {
        coordinator_ready_ms: Figure,
        first_task_ms: Figure,
    },
    /// A worker beside a coordinator with a run that waits for it.
    Worker { first_task_ms: Figure },
    /// `levelflow dev`, from nothing.
    Dev {
        ready_ms: Figure,
        first_task_ms: Figure,
    },
    /// A coordinator over what a killed one left.
    Recovery {
        open_tasks: usize,
        open_runs: usize,
        ready_ms: Figure,
        /// Until it has answered about a run that was open.
        answer_ms: Figure,
    },
}

/// When something was ready, and when it was of use; both since its start.
struct Times {
    ready: Duration,
    done: Duration,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let rows = runtime(1)?.block_on(measure(arguments))?;
    let report = Report {
        suite: "startup",
        machine: Machine::describe()?,
        rounds: arguments.common.rounds,
        rows,
    };
    let mut lines = vec![format!(
        "startup, {} rounds (median, min–max)",
        report.rounds
    )];
    report.rows.iter().for_each(|row| describe(row, &mut lines));
    arguments.common.print(&report, &lines)
}

async fn measure(arguments: &Arguments) -> Result<Vec<Row>> {
    // Programs and libraries come into the page cache.
    cold_start(&arguments.common).await?;
    let mut cluster = Vec::new();
    let mut worker = Vec::new();
    let mut dev = Vec::new();
    for round in 1..=arguments.common.rounds {
        eprintln!("round {round} of {}: starts", arguments.common.rounds);
        cluster.push(cold_start(&arguments.common).await?);
        worker.push(worker_start(&arguments.common).await?);
        if let Some(levelflow) = &arguments.levelflow {
            dev.push(dev_start(levelflow).await?);
        }
    }
    let mut rows = vec![
        Row::Cluster {
            coordinator_ready_ms: figure(&cluster, |times| times.ready),
            first_task_ms: figure(&cluster, |times| times.done),
        },
        Row::Worker {
            first_task_ms: Figure::of(worker.into_iter().map(millis)),
        },
    ];
    if !dev.is_empty() {
        rows.push(Row::Dev {
            ready_ms: figure(&dev, |times| times.ready),
            first_task_ms: figure(&dev, |times| times.done),
        });
    }
    for &open_tasks in &arguments.open_tasks {
        let open_runs = open_tasks.div_ceil(TASKS_PER_RUN).max(1);
        let recoveries = recover(&arguments.common, open_runs).await?;
        rows.push(Row::Recovery {
            open_tasks: open_runs * TASKS_PER_RUN,
            open_runs,
            ready_ms: figure(&recoveries, |times| times.ready),
            answer_ms: figure(&recoveries, |times| times.done),
        });
    }
    Ok(rows)
}

async fn cold_start(common: &Common) -> Result<Times> {
    let started = Instant::now();
    let mut cluster = Cluster::without_workers(&common.layout())?;
    let ready = started.elapsed();
    cluster.add_worker()?;
    let client = Client::open(&cluster.address(), tasks(1, "noop")?).await?;
    client.run_once().await?;
    Ok(Times {
        ready,
        done: started.elapsed(),
    })
}

async fn worker_start(common: &Common) -> Result<Duration> {
    let mut cluster = Cluster::without_workers(&common.layout())?;
    let client = Client::open(&cluster.address(), tasks(1, "noop")?).await?;
    let run = client.submit_one().await?;
    let started = Instant::now();
    cluster.add_worker()?;
    run.ended().await?;
    Ok(started.elapsed())
}

async fn dev_start(levelflow: &Path) -> Result<Times> {
    let data_dir = tempfile::Builder::new()
        .prefix("levelflow-bench-")
        .tempdir()?;
    let workflow = serde_json::json!({
        "name": "bench-startup",
        "tasks": [{ "id": "t0", "type": "transform", "with": { "value": 1 } }],
    });
    let workflow = serde_json::from_value(workflow)?;
    let mut command = Command::new(levelflow);
    command
        .args([
            "dev",
            "--json",
            "--log",
            "warn",
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
        ])
        .arg(data_dir.path());
    let started = Instant::now();
    let process = Process::spawn(&mut command, |line| {
        let ready: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(format!("http://{}", ready.get("address")?.as_str()?))
    })?;
    let ready = started.elapsed();
    let client = Client::open(&process.ready, workflow).await?;
    client.run_once().await?;
    Ok(Times {
        ready,
        done: started.elapsed(),
    })
}

async fn recover(common: &Common, open_runs: usize) -> Result<Vec<Times>> {
    let mut cluster = Cluster::without_workers(&common.layout())?;
    let workflow = tasks(TASKS_PER_RUN, "nobody-has-this")?;
    let mut client = Client::open(&cluster.address(), workflow.clone()).await?;
    let run_id = client.submit().await?;
    client.submit_many(open_runs - 1).await?;
    let mut recoveries = Vec::new();
    for round in 1..=common.rounds {
        cluster.coordinator.kill()?;
        let started = Instant::now();
        cluster.replace_coordinator()?;
        let ready = started.elapsed();
        let client = Client::open(&cluster.address(), workflow.clone()).await?;
        client.expect_open(run_id.clone()).await?;
        let done = started.elapsed();
        eprintln!(
            "round {round} of {}: {open_runs} runs recovered in {:.1} ms",
            common.rounds,
            millis(done)
        );
        recoveries.push(Times { ready, done });
    }
    Ok(recoveries)
}

/// A workflow of tasks that need nothing.
fn tasks(count: usize, handler: &str) -> Result<Workflow> {
    ensure!(count > 0, "a workflow has a task");
    let tasks: Vec<_> = (0..count)
        .map(|place| {
            serde_json::json!({
                "id": format!("t{place}"),
                "type": "handler",
                "with": { "name": handler },
            })
        })
        .collect();
    serde_json::from_value(serde_json::json!({ "name": "bench-startup", "tasks": tasks }))
        .context("tasks without needs are a workflow")
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn figure(times: &[Times], of: fn(&Times) -> Duration) -> Figure {
    Figure::of(times.iter().map(|times| millis(of(times))))
}

fn describe(row: &Row, lines: &mut Vec<String>) {
    match row {
        Row::Cluster {
            coordinator_ready_ms,
            first_task_ms,
        } => {
            lines.push(line("coordinator ready, ms", *coordinator_ready_ms));
            lines.push(line("cluster to first task, ms", *first_task_ms));
        }
        Row::Worker { first_task_ms } => {
            lines.push(line("worker to first task, ms", *first_task_ms));
        }
        Row::Dev {
            ready_ms,
            first_task_ms,
        } => {
            lines.push(line("dev ready, ms", *ready_ms));
            lines.push(line("dev to first task, ms", *first_task_ms));
        }
        Row::Recovery {
            open_tasks,
            ready_ms,
            answer_ms,
            ..
        } => {
            lines.push(line(
                &format!("ready with {open_tasks} open, ms"),
                *ready_ms,
            ));
            lines.push(line(
                &format!("answer with {open_tasks} open, ms"),
                *answer_ms,
            ));
        }
    }
}
