//! Several coordinators on one PostgreSQL: what they do together, and how soon the runs of one that dies go on.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use levelflow_common::workflow::Workflow;
use levelflow_proto::v1;
use levelflow_proto::v1::cluster_service_client::ClusterServiceClient;
use levelflow_proto::v1::run_event::Event;
use levelflow_proto::v1::workflow_service_client::WorkflowServiceClient;
use serde::Serialize;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

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
/// Tasks of a run that a kill meets on its way: pairs of a sleep and a task that does nothing.
const STEPS: usize = 60;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The database that the coordinators share.
    #[arg(long, value_name = "URL")]
    postgres: String,
    /// A NATS server: measures one coordinator also with its worker behind it.
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
    one_coordinator_tasks_per_s: Figure,
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
        line("1 coordinator, tasks/s", report.one_coordinator_tasks_per_s),
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
        let micros = std::time::UNIX_EPOCH.elapsed()?.as_micros();
        let name = format!("bench_{micros}");
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
    for round in 1..=rounds {
        one.push(throughput(arguments, 1, None).await?);
        two.push(throughput(arguments, 2, None).await?);
        if let Some(url) = &arguments.nats {
            nats.push(throughput(arguments, 1, Some(url)).await?);
        }
        let rates = [&one, &two, &nats];
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

/// Tasks per second of a closed loop over so many coordinators and as many workers.
async fn throughput(
    arguments: &Arguments,
    coordinators: usize,
    nats: Option<&String>,
) -> Result<f64> {
    let shared = Shared::start(arguments, coordinators, coordinators, nats).await?;
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
    let measured = clients
        .iter_mut()
        .map(|client| client.keep_in_flight(each, time));
    let measured = try_join_all(measured).await?;
    let rate = measured
        .iter()
        .map(|seen| seen.runs as f64 / seen.elapsed.as_secs_f64());
    Ok(rate.sum::<f64>() * Shape::Small.tasks() as f64)
}

struct Failover {
    /// In microseconds.
    moved: Histogram<u64>,
    lost: usize,
    twice: usize,
}

/// What became of one run.
struct Fate {
    moved_after: Duration,
    is_lost: bool,
    twice: usize,
}

async fn failover(arguments: &Arguments) -> Result<Failover> {
    let mut shared = Shared::start(arguments, 3, 4, None).await?;
    let mut result = Failover {
        moved: Histogram::new(3)?,
        lost: 0,
        twice: 0,
    };
    for kill in 1..=arguments.kills {
        // They are in shards of the coordinator that is asked: the oldest.
        let mut victim = WorkflowServiceClient::new(shared.channel(0).await?);
        let mut runs = Vec::new();
        for _ in 0..arguments.runs {
            let request = v1::SubmitWorkflowRequest {
                workflow: Some(v1::WorkflowSource {
                    source: Some(v1::workflow_source::Source::Definition(steps().into())),
                }),
                ..Default::default()
            };
            runs.push(victim.submit_workflow(request).await?.into_inner().run_id);
        }
        sleep(Duration::from_millis(300)).await;
        shared.coordinators[0].kill()?;
        let killed = Instant::now();
        shared.coordinators.remove(0);
        let survivor = WorkflowServiceClient::new(shared.channel(0).await?);
        let fates = runs
            .into_iter()
            .map(|run| fate(survivor.clone(), run, killed));
        let fates = timeout(DEADLINE * 2, try_join_all(fates)).await;
        let fates = fates.context("a run does not go on")??;
        for fate in &fates {
            result.moved.record(fate.moved_after.as_micros() as u64)?;
            result.lost += usize::from(fate.is_lost);
            result.twice += fate.twice;
        }
        let slowest = fates.iter().map(|fate| fate.moved_after).max();
        eprintln!("kill {kill} of {}: {slowest:?}", arguments.kills);
        shared.add_coordinator()?;
        shared.is_even().await?;
    }
    Ok(result)
}

/// Follows a run of a killed coordinator to its end.
async fn fate(
    mut client: WorkflowServiceClient<Channel>,
    run_id: String,
    killed: Instant,
) -> Result<Fate> {
    let before = killed_at_us(killed)?;
    let request = v1::WatchRunRequest {
        run_id,
        ..Default::default()
    };
    let mut updates = client.watch_run(request).await?.into_inner();
    let mut moved_at = None;
    let mut succeeded = std::collections::BTreeMap::<String, usize>::new();
    let mut has_succeeded = false;
    while let Some(update) = updates.message().await? {
        for event in update.events {
            match event.event {
                Some(Event::TaskSucceeded(done)) => {
                    let task = done.task.context("it has a task")?.task_id;
                    *succeeded.entry(task).or_default() += 1;
                    if update.at_us > before {
                        moved_at.get_or_insert(update.at_us);
                    }
                }
                Some(Event::Finished(end)) => {
                    has_succeeded = end.status() == v1::RunStatus::Succeeded;
                }
                _ => {}
            }
        }
    }
    let moved_at = moved_at.context("it had ended before the kill")?;
    Ok(Fate {
        moved_after: Duration::from_micros(moved_at - before),
        is_lost: !has_succeeded || succeeded.len() != 2 * STEPS,
        twice: succeeded.values().filter(|&&times| times > 1).count(),
    })
}

/// The wall time of an instant, in microseconds.
fn killed_at_us(killed: Instant) -> Result<u64> {
    let now = std::time::UNIX_EPOCH.elapsed()?;
    Ok((now - killed.elapsed()).as_micros() as u64)
}

/// A run that sleeps and works in turn.
fn steps() -> Workflow {
    let mut tasks = Vec::new();
    for step in 0..STEPS {
        let needs: Vec<String> = step
            .checked_sub(1)
            .map(|it| format!("t{it}"))
            .into_iter()
            .collect();
        tasks.push(json!({
            "id": format!("s{step}"), "type": "sleep", "needs": needs, "with": { "duration": "50ms" },
        }));
        tasks.push(json!({
            "id": format!("t{step}"), "type": "handler", "needs": [format!("s{step}")],
            "with": { "name": "noop" },
        }));
    }
    let workflow = json!({ "name": "steps", "tasks": tasks });
    serde_json::from_value(workflow).expect("the steps are a workflow")
}
