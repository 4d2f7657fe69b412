//! Levelflow against executors that keep nothing: the same workflows of HTTP calls, of which some fail.

mod executor;
mod levelflow;
mod outcome;
mod report;
mod service;
mod workload;

use std::time::Duration;

use anyhow::Result;

use super::Common;
use crate::machine::Machine;
use crate::role::runtime;
use crate::shape::Shape;
use executor::Rung;
pub(crate) use executor::{ExecutorArguments, execute};
use levelflow::Levelflow;
use report::{Report, Round, Row, Seen};
pub(super) use service::Service;
pub(crate) use service::{ServiceArguments, serve};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The DAG; all of them if not given.
    #[arg(long, value_enum)]
    shape: Option<Shape>,
    /// Runs that are open at once, on both sides.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    in_flight: u32,
    /// Seconds of each round of each executor.
    #[arg(long, default_value_t = 0.7)]
    seconds: f64,
    /// Seconds before that, which are not measured.
    #[arg(long, default_value_t = 0.3)]
    warm_up: f64,
    /// Threads of the executors that Levelflow is compared with.
    #[arg(long, default_value_t = 2)]
    executor_threads: usize,
    #[command(flatten)]
    service: ServiceArguments,
    #[command(flatten)]
    common: Common,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    levelflow_worker::install_tls_provider();
    let shapes = match arguments.shape {
        Some(shape) => vec![shape],
        None => Shape::ALL.to_vec(),
    };
    let rows = runtime(1)?.block_on(async {
        let mut rows = Vec::new();
        for shape in shapes {
            let mut rounds = Vec::new();
            for number in 1..=arguments.common.rounds {
                let round = round(arguments, shape).await?;
                eprintln!(
                    "{shape:?}, round {number} of {}: {:.0} executions/s, baseline {:.0}",
                    arguments.common.rounds,
                    round.levelflow.outcome.executions_per_s(),
                    round.ladder[0].outcome.executions_per_s(),
                );
                rounds.push(round);
            }
            rows.push(Row::of(shape, &rounds));
        }
        anyhow::Ok(rows)
    })?;
    let report = Report {
        suite: "baseline",
        machine: Machine::describe()?,
        in_flight: arguments.in_flight,
        rounds: arguments.common.rounds,
        seconds: arguments.seconds,
        workers: arguments.common.workers,
        executor_threads: arguments.executor_threads,
        service: arguments.service.clone(),
        rows,
        notes: report::NOTES,
    };
    arguments.common.print(&report, &report.lines())
}

/// Each of the executors in turn, then Levelflow; each with a service of its own, so that all meet the
/// same failures.
async fn round(arguments: &Arguments, shape: Shape) -> Result<Round> {
    let mut ladder = Vec::new();
    for rung in Rung::ALL {
        let service = Service::start(&arguments.service)?;
        let outcome = executor::measure(&ExecutorArguments {
            url: service.url(),
            shape,
            rung,
            in_flight: arguments.in_flight as usize,
            warm_up_ms: (arguments.warm_up * 1e3) as u64,
            measured_ms: (arguments.seconds * 1e3) as u64,
            threads: arguments.executor_threads,
        })
        .await?;
        let counts = service.counts().await?;
        ladder.push(Seen { outcome, counts });
    }
    let service = Service::start(&arguments.service)?;
    let layout = arguments.common.layout();
    let mut levelflow = Levelflow::start(&layout, shape, &service.url()).await?;
    let in_flight = arguments.in_flight as usize;
    let warm_up = Duration::from_secs_f64(arguments.warm_up);
    levelflow.keep_in_flight(in_flight, warm_up).await?;
    let time = Duration::from_secs_f64(arguments.seconds);
    let outcome = levelflow.keep_in_flight(in_flight, time).await?;
    let counts = service.counts().await?;
    Ok(Round {
        ladder,
        levelflow: Seen { outcome, counts },
        worker_start: levelflow.worker_start,
    })
}
