//! Several coordinators on one PostgreSQL: what they do together, and how soon the runs of one that dies go on.

mod failover;
mod limit;

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use levelflow_proto::v1;
use levelflow_proto::v1::cluster_service_client::ClusterServiceClient;
use serde::Serialize;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use self::failover::failover;
use self::limit::{BATCHES, Limit};
use super::Common;
use super::engine::line;
use crate::client::Client;
use crate::figure::{Figure, rounded};
use crate::machine::Machine;
use crate::process::{Layout, NatsServer, Process, SharedStore, start_coordinator, start_worker};
use crate::role::runtime;
use crate::shape::{Durable, Shape};

/// How long the round that is not measured takes.
const WARM_UP: Duration = Duration::from_secs(1);
/// The longest that anything is waited for.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The database that the coordinators share.
    #[arg(long, value_name = "URL")]
    postgres: String,
    /// A NATS server: measures one coordinator also with its worker behind it, and the kills with all workers
    /// behind it.
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    /// Runs that are open at once, over all coordinators.
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Seconds of each round.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Coordinators that are killed, one after the other, of three.
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Open runs of each of them.
    #[arg(long, default_value_t = 20)]
    runs: usize,
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Report {
    suite: &'static str,
    machine: Machine,
    rounds: u32,
    seconds: f64,
    in_flight: usize,
    slots: usize,
    /// Rows of a journal per second that a bare loop writes, in transactions of 64 and of 256.
    limit_rows_per_s: [Figure; BATCHES.len()],
    one_coordinator_tasks_per_s: Figure,
    /// Of the rows per second of the bare loop with the larger transactions: a task is a row of the journal.
    one_over_limit: Figure,
    /// Time of a core that coordinators spend on a task, with one and with two, in microseconds.
    one_coordinator_cpu_us: Figure,
    two_coordinators_cpu_us: Figure,
    two_coordinators_tasks_per_s: Figure,
    two_over_one: Figure,
    /// One coordinator, with its worker behind NATS.
    nats_tasks_per_s: Option<Figure>,
    nats_over_grpc: Option<Figure>,
    kills: u32,
    runs_per_kill: usize,
    /// From the kill of their coordinator until the next record of a run, over all runs.
    moves_again_p50_s: f64,
    moves_again_p99_s: f64,
    moves_again_max_s: f64,
    /// Runs that were acknowledged and did not end as they must.
    lost_runs: usize,
    /// Tasks with more than one result in the journal of their run.
    tasks_done_twice: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let report = runtime(1)?.block_on(measure(arguments))?;
    let lines = [
        format!(
            "cluster, small, strict, PostgreSQL, {} runs in flight, {} rounds of {} s (median, min–max)",
            report.in_flight, report.rounds, report.seconds
        ),
        line(
            "bare loop, 64 rows a commit, rows/s",
            report.limit_rows_per_s[0],
        ),
        line(
            "bare loop, 256 rows a commit, rows/s",
            report.limit_rows_per_s[1],
        ),
        line("1 coordinator, tasks/s", report.one_coordinator_tasks_per_s),
        line("1 coordinator over the limit", report.one_over_limit),
        line(
            "1 coordinator, CPU us a task",
            report.one_coordinator_cpu_us,
        ),
        line(
            "2 coordinators, CPU us a task",
            report.two_coordinators_cpu_us,
        ),
        line(
            "2 coordinators, tasks/s",
            report.two_coordinators_tasks_per_s,
        ),
        line("2 over 1", report.two_over_one),
        match (report.nats_tasks_per_s, report.nats_over_grpc) {
            (Some(rate), Some(share)) => format!(
                "{}\n{}",
                line("1 coordinator over NATS, tasks/s", rate),
                line("NATS over gRPC", share)
            ),
            _ => "  NATS was not measured".to_owned(),
        },
        format!(
            "  {} kills of one of 3 coordinators, {} open runs each, 4 workers: next record after \
             {} s (p50), {} s (p99), {} s (max); {} runs lost, {} tasks done twice",
            report.kills,
            report.runs_per_kill,
            report.moves_again_p50_s,
            report.moves_again_p99_s,
            report.moves_again_max_s,
            report.lost_runs,
            report.tasks_done_twice
        ),
    ];
    arguments.common.print(&report, &lines)
}

/// Coordinators on one store, and workers that were told of the first.
struct Shared {
    coordinators: Vec<Process>,
    workers: Vec<Process>,
    layout: Layout,
}

impl Shared {
    async fn start(
        arguments: &Arguments,
        coordinators: usize,
        workers: usize,
        nats: Option<&String>,
    ) -> Result<Self> {
        let mut layout = arguments.common.layout();
        let name = unique_name()?;
        layout.nats = nats.map(|url| NatsServer {
            url: url.clone(),
            prefix: name.clone(),
        });
        layout.shared = Some(SharedStore {
            url: arguments.postgres.clone(),
            schema: name,
        });
        let mut shared = Self {
            coordinators: Vec::new(),
            workers: Vec::new(),
            layout,
        };
        for _ in 0..coordinators {
            shared.add_coordinator()?;
        }
        shared.is_even().await?;
        for _ in 0..workers {
            let address = shared.address(0);
            shared.workers.push(start_worker(&address, &shared.layout)?);
        }
        Ok(shared)
    }

    fn add_coordinator(&mut self) -> Result<()> {
        self.coordinators
            .push(start_coordinator(None, &self.layout)?);
        Ok(())
    }

    /// User and system time of the coordinators so far.
    fn cpu_seconds(&self) -> Result<f64> {
        self.coordinators.iter().map(Process::cpu_seconds).sum()
    }

    fn address(&self, coordinator: usize) -> String {
        format!("http://{}", self.coordinators[coordinator].ready)
    }

    async fn channel(&self, coordinator: usize) -> Result<Channel> {
        let endpoint = tonic::transport::Endpoint::from_shared(self.address(coordinator))?;
        Ok(endpoint.tcp_nodelay(true).connect().await?)
    }

    /// Waits until every coordinator has its share of the shards.
    async fn is_even(&self) -> Result<()> {
        let last = self.coordinators.len() - 1;
        let mut client = ClusterServiceClient::new(self.channel(last).await?);
        let even = async {
            loop {
                let view = client
                    .get_cluster(v1::GetClusterRequest {})
                    .await?
                    .into_inner();
                let counts: Vec<u32> = view.coordinators.iter().map(|it| it.shards).collect();
                let (most, least) = (counts.iter().max(), counts.iter().min());
                let all: u32 = counts.iter().sum();
                let is_even = most
                    .zip(least)
                    .is_some_and(|(most, least)| most - least <= 1);
                if counts.len() == self.coordinators.len()
                    && is_even
                    && all as usize == view.shards.len()
                {
                    return Ok(());
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(DEADLINE, even)
            .await
            .context("the shards do not spread")?
    }
}

async fn measure(arguments: &Arguments) -> Result<Report> {
    let rounds = arguments.common.rounds;
    let (mut one, mut two, mut nats) = (Vec::new(), Vec::new(), Vec::new());
    let (mut one_cpu, mut two_cpu) = (Vec::new(), Vec::new());
    let mut limits = [const { Vec::new() }; BATCHES.len()];
    let time = Duration::from_secs_f64(arguments.seconds / 2.0);
    for round in 1..=rounds {
        let mut limit = Limit::open(&arguments.postgres, unique_name()?).await?;
        for (batch, rates) in BATCHES.into_iter().zip(&mut limits) {
            rates.push(limit.rows_per_s(batch, time).await?);
        }
        limit.close().await?;
        for (coordinators, rates, cpu) in [(1, &mut one, &mut one_cpu), (2, &mut two, &mut two_cpu)]
        {
            let seen = throughput(arguments, coordinators, None).await?;
            rates.push(seen.tasks_per_s);
            cpu.push(seen.cpu_us);
        }
        if let Some(url) = &arguments.nats {
            nats.push(throughput(arguments, 1, Some(url)).await?.tasks_per_s);
        }
        let [_, limit] = &limits;
        let rates = [limit, &one, &two, &nats];
        let rates = rates.map(|rates| rates.last().map(|rate| rate.round()));
        let rates = rates.into_iter().flatten();
        eprintln!(
            "round {round} of {rounds}: {:?} tasks/s",
            rates.collect::<Vec<_>>()
        );
    }
    let failover = failover(arguments).await?;
    let seconds = |micros: u64| rounded(micros as f64 / 1e6);
    let over =
        |rates: &[f64]| -> Vec<f64> { one.iter().zip(rates).map(|(one, it)| it / one).collect() };
    let has_nats = arguments.nats.is_some();
    Ok(Report {
        suite: "cluster",
        machine: Machine::describe()?,
        rounds,
        seconds: arguments.seconds,
        in_flight: arguments.in_flight,
        slots: arguments.common.slots,
        two_over_one: Figure::of(over(&two)),
        one_over_limit: Figure::of(one.iter().zip(&limits[1]).map(|(one, limit)| one / limit)),
        limit_rows_per_s: limits.map(Figure::of),
        one_coordinator_cpu_us: Figure::of(one_cpu),
        two_coordinators_cpu_us: Figure::of(two_cpu),
        nats_over_grpc: has_nats.then(|| Figure::of(over(&nats))),
        nats_tasks_per_s: has_nats.then(|| Figure::of(nats)),
        one_coordinator_tasks_per_s: Figure::of(one),
        two_coordinators_tasks_per_s: Figure::of(two),
        kills: arguments.kills,
        runs_per_kill: arguments.runs,
        moves_again_p50_s: seconds(failover.moved.value_at_quantile(0.5)),
        moves_again_p99_s: seconds(failover.moved.value_at_quantile(0.99)),
        moves_again_max_s: seconds(failover.moved.max()),
        lost_runs: failover.lost,
        tasks_done_twice: failover.twice,
    })
}

/// A closed loop.
struct Throughput {
    tasks_per_s: f64,
    /// Time of a core that the coordinators spent on a task, in microseconds.
    cpu_us: f64,
}

/// A closed loop over so many coordinators and the same workers.
async fn throughput(
    arguments: &Arguments,
    coordinators: usize,
    nats: Option<&String>,
) -> Result<Throughput> {
    let workers = arguments.common.workers;
    let shared = Shared::start(arguments, coordinators, workers, nats).await?;
    let mut clients = Vec::new();
    for coordinator in 0..coordinators {
        let workflow = Shape::Small.workflow(Durable::Strict);
        clients.push(Client::connect(&shared.address(coordinator), workflow).await?);
    }
    let each = (arguments.in_flight / coordinators).max(1);
    let warm = clients
        .iter_mut()
        .map(|client| client.keep_in_flight(each, WARM_UP));
    try_join_all(warm).await?;
    let time = Duration::from_secs_f64(arguments.seconds);
    let before = shared.cpu_seconds()?;
    let measured = clients
        .iter_mut()
        .map(|client| client.keep_in_flight(each, time));
    let measured = try_join_all(measured).await?;
    let cpu_seconds = shared.cpu_seconds()? - before;
    let tasks = Shape::Small.tasks() as f64;
    let runs: f64 = measured.iter().map(|seen| seen.runs as f64).sum();
    let rate = measured
        .iter()
        .map(|seen| seen.runs as f64 / seen.elapsed.as_secs_f64());
    Ok(Throughput {
        tasks_per_s: rate.sum::<f64>() * tasks,
        cpu_us: cpu_seconds * 1e6 / (runs * tasks),
    })
}

/// A name that nobody else uses.
fn unique_name() -> Result<String> {
    let micros = std::time::UNIX_EPOCH.elapsed()?.as_micros();
    Ok(format!("bench_{micros}"))
}
