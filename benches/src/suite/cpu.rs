//! Handlers that compute: what a second core is worth to them, and what they do to tasks that wait for
//! others.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use levelflow_common::workflow::Workflow;
use serde::Serialize;
use serde_json::json;

use super::Common;
use super::baseline::{Service, ServiceArguments};
use super::engine::line;
use super::target::Target;
use crate::client::{Client, Round};
use crate::figure::Figure;
use crate::machine::Machine;
use crate::process::Cluster;
use crate::role::runtime;

/// What two cores have to be worth, of two.
const LEAST_SPEEDUP: f64 = 1.76;
/// How many times as long the slowest calls may take beside handlers that compute.
const MOST_SLOWDOWN: f64 = 2.0;
/// How long the rounds that are not measured take.
const WARM_UP: Duration = Duration::from_millis(500);
/// Steps by which the speed of the machine is found.
const TRIAL_STEPS: u64 = 20_000_000;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Milliseconds that a handler computes.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    compute_ms: u64,
    /// Handlers that compute at once.
    #[arg(long, default_value_t = 2)]
    handlers: usize,
    /// Calls of the service under way, each in a run of its own.
    #[arg(long, default_value_t = 4)]
    calls: usize,
    /// Milliseconds that the service takes for a call.
    #[arg(long, default_value_t = 5)]
    service_ms: u64,
    /// Seconds of each part of a round; there are six.
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Report {
    suite: &'static str,
    machine: Machine,
    rounds: u32,
    seconds: f64,
    compute_ms: u64,
    handlers: usize,
    calls: usize,
    service_ms: u64,
    /// What the same computation gains on threads alone, without workflows.
    threads_speedup: Figure,
    rows: Vec<Row>,
    targets: Vec<Target>,
}

#[derive(Serialize)]
struct Row {
    load: &'static str,
    computed_per_s: Option<Figure>,
    calls_per_s: Option<Figure>,
    call_p50_ms: Option<Figure>,
    call_p99_ms: Option<Figure>,
}

/// One round.
struct Seen {
    threads_speedup: f64,
    one: Round,
    many: Round,
    alone: Round,
    beside: Round,
    computed_beside: Round,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    levelflow_worker::install_tls_provider();
    let steps = steps_in(Duration::from_millis(arguments.compute_ms));
    let rounds = runtime(1)?.block_on(measure(arguments, steps))?;
    let report = Report::of(arguments, &rounds)?;
    arguments.common.print(&report, &report.lines())
}

/// Computes so many steps, each of which needs the one before.
pub(crate) fn compute(steps: u64) -> u64 {
    let mut state = black_box(steps);
    for _ in 0..steps {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    black_box(state)
}

/// How many steps take so long.
fn steps_in(time: Duration) -> u64 {
    let fastest = (0..5)
        .map(|_| {
            let started = Instant::now();
            compute(TRIAL_STEPS);
            started.elapsed()
        })
        .min()
        .unwrap_or_default();
    let per_step = fastest.as_secs_f64() / TRIAL_STEPS as f64;
    (time.as_secs_f64() / per_step) as u64
}

async fn measure(arguments: &Arguments, steps: u64) -> Result<Vec<Seen>> {
    let service = Service::start(&ServiceArguments::reliable(arguments.service_ms))?;
    let cluster = Cluster::start(&arguments.common.layout())?;
    let address = cluster.address();
    let mut computing = Client::connect(&address, computation(steps)?).await?;
    let mut calling = Client::connect(&address, call(&service)?).await?;
    computing
        .keep_in_flight(arguments.handlers, WARM_UP)
        .await?;
    calling.keep_in_flight(arguments.calls, WARM_UP).await?;
    let time = Duration::from_secs_f64(arguments.seconds);
    let mut rounds = Vec::new();
    for round in 1..=arguments.common.rounds {
        let threads_speedup = {
            let one = on_threads(1, steps, time)?;
            on_threads(arguments.handlers, steps, time)? / one
        };
        let one = computing.keep_in_flight(1, time).await?;
        let many = computing.keep_in_flight(arguments.handlers, time).await?;
        let alone = calling.keep_in_flight(arguments.calls, time).await?;
        let (beside, computed_beside) = tokio::try_join!(
            calling.keep_in_flight(arguments.calls, time),
            computing.keep_in_flight(arguments.handlers, time),
        )?;
        let seen = Seen {
            threads_speedup,
            one,
            many,
            alone,
            beside,
            computed_beside,
        };
        eprintln!(
            "round {round} of {}: {:.2} times with {} handlers, {:.2} times the p99 of calls",
            arguments.common.rounds,
            seen.speedup(),
            arguments.handlers,
            seen.slowdown()
        );
        rounds.push(seen);
    }
    Ok(rounds)
}

/// Computations a second, on so many threads.
fn on_threads(threads: usize, steps: u64, time: Duration) -> Result<f64> {
    let started = Instant::now();
    let threads: Vec<_> = (0..threads)
        .map(|_| {
            thread::spawn(move || {
                let mut computed = 0_u32;
                while started.elapsed() < time {
                    compute(steps);
                    computed += 1;
                }
                f64::from(computed) / started.elapsed().as_secs_f64()
            })
        })
        .collect();
    let mut sum = 0.0;
    for thread in threads {
        sum += thread.join().ok().context("a thread panicked")?;
    }
    Ok(sum)
}

fn computation(steps: u64) -> Result<Workflow> {
    workflow(&json!({
        "id": "compute",
        "type": "handler",
        "with": { "name": "compute", "input": steps },
    }))
}

fn call(service: &Service) -> Result<Workflow> {
    workflow(&json!({ "id": "call", "type": "http", "with": { "url": service.url() } }))
}

fn workflow(task: &serde_json::Value) -> Result<Workflow> {
    let workflow = json!({ "name": format!("bench-cpu-{}", task["id"]), "tasks": [task] });
    serde_json::from_value(workflow).context("the workflow is one")
}

fn per_s(round: &Round) -> f64 {
    round.runs as f64 / round.elapsed.as_secs_f64()
}

fn quantile_ms(round: &Round, quantile: f64) -> f64 {
    round.latency.value_at_quantile(quantile) as f64 / 1e3
}

impl Seen {
    fn speedup(&self) -> f64 {
        per_s(&self.many) / per_s(&self.one)
    }

    fn slowdown(&self) -> f64 {
        quantile_ms(&self.beside, 0.99) / quantile_ms(&self.alone, 0.99)
    }
}

impl Report {
    fn of(arguments: &Arguments, rounds: &[Seen]) -> Result<Self> {
        let figure = |value: fn(&Seen) -> f64| Figure::of(rounds.iter().map(value));
        let speedup = figure(Seen::speedup);
        let slowdown = figure(Seen::slowdown);
        let computing = |load, of: fn(&Seen) -> &Round| Row {
            load,
            computed_per_s: Some(Figure::of(rounds.iter().map(|seen| per_s(of(seen))))),
            calls_per_s: None,
            call_p50_ms: None,
            call_p99_ms: None,
        };
        let calling = |load, of: fn(&Seen) -> &Round| {
            let quantile = |quantile| {
                let rounds = rounds.iter().map(|seen| quantile_ms(of(seen), quantile));
                Some(Figure::of(rounds))
            };
            Row {
                load,
                computed_per_s: None,
                calls_per_s: Some(Figure::of(rounds.iter().map(|seen| per_s(of(seen))))),
                call_p50_ms: quantile(0.5),
                call_p99_ms: quantile(0.99),
            }
        };
        let rows = vec![
            computing("one computes", |seen| &seen.one),
            computing("all compute", |seen| &seen.many),
            calling("calls", |seen| &seen.alone),
            Row {
                computed_per_s: computing("", |seen| &seen.computed_beside).computed_per_s,
                ..calling("calls while all compute", |seen| &seen.beside)
            },
        ];
        Ok(Self {
            suite: "cpu",
            machine: Machine::describe()?,
            rounds: arguments.common.rounds,
            seconds: arguments.seconds,
            compute_ms: arguments.compute_ms,
            handlers: arguments.handlers,
            calls: arguments.calls,
            service_ms: arguments.service_ms,
            threads_speedup: figure(|seen| seen.threads_speedup),
            rows,
            targets: vec![
                Target::at_least("computed/s with all, times one", speedup, LEAST_SPEEDUP),
                Target::at_most("p99 of calls beside, times alone", slowdown, MOST_SLOWDOWN),
            ],
        })
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} handlers that compute for {} ms, {} calls of {} ms, {} rounds of 6 times {} s (median, min–max)",
            self.handlers, self.compute_ms, self.calls, self.service_ms, self.rounds, self.seconds
        )];
        for row in &self.rows {
            lines.push(row.load.to_owned());
            for (name, figure) in [
                ("computed/s", row.computed_per_s),
                ("calls/s", row.calls_per_s),
                ("call p50, ms", row.call_p50_ms),
                ("call p99, ms", row.call_p99_ms),
            ] {
                lines.extend(figure.map(|figure| line(name, figure)));
            }
        }
        lines.push("bare threads".to_owned());
        lines.push(line("times one", self.threads_speedup));
        lines.extend(self.targets.iter().map(Target::line));
        lines
    }
}
