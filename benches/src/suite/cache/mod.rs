//! The result cache: what a hit costs beside a run that does nothing, what it saves, and whether identical
//! tasks are executed once.

mod tiers;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use levelflow_common::CacheTier;
use levelflow_common::workflow::Workflow;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::tiers::{Addresses, beside_a_dead_tier, beside_a_silent_tier};
use super::Common;
use super::engine::line;
use super::target::Target;
use crate::client::{Client, Round};
use crate::figure::Figure;
use crate::machine::Machine;
use crate::process::Cluster;
use crate::role::runtime;

/// How many times as long as a no-op a hit may take.
const MOST_OF_NO_OP: f64 = 2.0;
/// How many times faster than what it replaces a hit is to be.
const LEAST_SPEEDUP: f64 = 2_000.0;
/// Milliseconds that a hit may take in Redis and in PostgreSQL.
const MOST_IN_REDIS: f64 = 5.0;
const MOST_IN_POSTGRES: f64 = 10.0;
/// Milliseconds that a tier which does not answer may cost: its budget.
const MOST_SILENT: f64 = 20.0;
/// How many times as long a run may take beside a tier that is not there: as long, but for what two rounds
/// of the same differ by.
const MOST_DEAD: f64 = 1.1;
/// How long the rounds that are not measured take.
const WARM_UP: Duration = Duration::from_millis(500);
/// Clients that submit the same at once, and runs of each.
const CLIENTS: usize = 10;
const RUNS_OF_CLIENT: usize = 10;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Milliseconds that the task takes that a hit replaces.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    work_ms: u64,
    /// Milliseconds that the task takes that is submitted many times at once.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    identical_ms: u64,
    /// Seconds of each part of a round; there are four, and one more for each tier.
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    #[command(flatten)]
    tiers: Addresses,
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Report {
    suite: &'static str,
    machine: Machine,
    rounds: u32,
    seconds: f64,
    work_ms: u64,
    identical_ms: u64,
    /// A run of the task that a hit replaces.
    fresh_run_ms: Figure,
    /// Many identical runs at once, until the last has ended.
    identical_runs_ms: Figure,
    /// What a tier adds to each run that waits for it in vain.
    silent_tier_adds_ms: Figure,
    rows: Vec<Row>,
    targets: Vec<Target>,
}

#[derive(Serialize)]
struct Row {
    run: &'static str,
    p50_ms: Figure,
    p99_ms: Figure,
}

/// One round.
struct Seen {
    no_op: Round,
    miss: Round,
    hit: Round,
    /// As `miss`, beside a tier that is not there.
    dead_tier: Round,
    /// Hits in the tiers.
    tiers: Vec<(CacheTier, Round)>,
    fresh: Duration,
    identical: Duration,
    /// How often the worker was given the identical task.
    executed: u64,
}

/// What a worker is asked for.
#[derive(Deserialize, Serialize)]
pub(crate) struct Work {
    millis: u64,
    /// Work of one name is the same work.
    name: String,
}

/// Takes its time, and gives how often this process was asked for work so far.
pub(crate) async fn work(work: Work) -> u64 {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let asked = ASKED.fetch_add(1, Ordering::Relaxed) + 1;
    tokio::time::sleep(Duration::from_millis(work.millis)).await;
    asked
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        arguments.common.workers == 1,
        "one worker counts what it executes"
    );
    let (rounds, silent) = runtime(1)?.block_on(async {
        // The breaker of the tier opens soon, so this is done once.
        let silent = beside_a_silent_tier(&arguments.common).await?;
        anyhow::Ok((measure(arguments).await?, silent))
    })?;
    let report = Report::of(arguments, &rounds, &silent)?;
    arguments.common.print(&report, &report.lines())
}

async fn measure(arguments: &Arguments) -> Result<Vec<Seen>> {
    let cluster = Cluster::start(&arguments.common.layout())?;
    let address = cluster.address();
    let slow = worth(arguments.work_ms, "slow");
    let mut no_ops = Client::connect(&address, workflow(&no_op(), None)?).await?;
    let mut misses = Client::connect(&address, looked_up_in_vain()?).await?;
    let fresh = Client::open(&address, workflow(&slow, None)?).await?;
    // The first run computes what the others find.
    let mut hits = Client::connect(&address, workflow(&slow, Some(&json!({})))?).await?;
    for client in [&mut no_ops, &mut misses, &mut hits] {
        client.keep_in_flight(1, WARM_UP).await?;
    }
    let (_dead, mut beside_dead) = beside_a_dead_tier(&arguments.common).await?;
    let mut tiers = arguments.tiers.start(&arguments.common).await?;
    let time = Duration::from_secs_f64(arguments.seconds);
    let mut rounds = Vec::new();
    for round in 1..=arguments.common.rounds {
        let no_op = no_ops.keep_in_flight(1, time).await?;
        let hit = hits.keep_in_flight(1, time).await?;
        let miss = misses.keep_in_flight(1, time).await?;
        let dead_tier = beside_dead.keep_in_flight(1, time).await?;
        let mut in_tiers = Vec::new();
        for tier in &mut tiers {
            in_tiers.push((tier.kind, tier.round(time).await?));
        }
        let fresh = fresh.run_once().await?.ended;
        let (identical, executed) = identical_runs(&address, arguments.identical_ms, round).await?;
        let seen = Seen {
            no_op,
            miss,
            hit,
            dead_tier,
            tiers: in_tiers,
            fresh,
            identical,
            executed,
        };
        eprintln!(
            "round {round} of {}: a hit takes {:.2} times a no-op, {:.0} times less than the work",
            arguments.common.rounds,
            seen.of_no_op(),
            seen.speedup()
        );
        rounds.push(seen);
    }
    Ok(rounds)
}

/// Has several clients submit the same at once. How long all took, and how often the worker did it.
async fn identical_runs(address: &str, millis: u64, round: u32) -> Result<(Duration, u64)> {
    let name = format!("identical in round {round}");
    let identical = workflow(&worth(millis, &name), Some(&json!({})))?;
    let opened = (0..CLIENTS).map(|_| Client::open(address, identical.clone()));
    let mut clients = try_join_all(opened).await?;
    let before = asked(address).await?;
    let started = Instant::now();
    let submitted = clients
        .iter_mut()
        .map(|client| client.complete(RUNS_OF_CLIENT, RUNS_OF_CLIENT as u64));
    try_join_all(submitted).await?;
    let took = started.elapsed();
    // The last question was one, too.
    let executed = asked(address).await? - before - 1;
    Ok((took, executed))
}

/// How often the worker was asked for work so far, this time included.
async fn asked(address: &str) -> Result<u64> {
    let client = Client::open(address, workflow(&worth(0, "asked"), None)?).await?;
    let outputs = client.submit_one().await?.ended().await?;
    let outputs: Value = serde_json::from_slice(&outputs)?;
    outputs["output"].as_u64().context("the output is a count")
}

/// A call of the handler that works.
fn worth(millis: u64, name: &str) -> Value {
    let input = Work {
        millis,
        name: name.to_owned(),
    };
    json!({ "name": "work", "input": input })
}

/// A call of the handler that does nothing.
fn no_op() -> Value {
    json!({ "name": "noop" })
}

/// A run of the same, under a key that no other run has.
fn looked_up_in_vain() -> Result<Workflow> {
    workflow(&no_op(), Some(&json!({ "key": "${{ run.id }}" })))
}

/// A workflow of one task.
fn workflow(with: &Value, cache: Option<&Value>) -> Result<Workflow> {
    let mut task = json!({ "id": "task", "type": "handler", "with": with });
    if let Some(policy) = cache {
        task["cache"] = policy.clone();
    }
    let workflow = json!({
        "name": "bench-cache",
        "tasks": [task],
        "outputs": { "output": "${{ tasks.task.output }}" },
    });
    serde_json::from_value(workflow).context("the workflow is one")
}

fn p50_ms(round: &Round) -> f64 {
    quantile_ms(round, 0.5)
}

fn quantile_ms(round: &Round, quantile: f64) -> f64 {
    round.latency.value_at_quantile(quantile) as f64 / 1e3
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Seen {
    fn of_no_op(&self) -> f64 {
        p50_ms(&self.hit) / p50_ms(&self.no_op)
    }

    fn speedup(&self) -> f64 {
        millis(self.fresh) / p50_ms(&self.hit)
    }
}

impl Report {
    fn of(arguments: &Arguments, rounds: &[Seen], silent: &[Duration]) -> Result<Self> {
        let figure = |value: fn(&Seen) -> f64| Figure::of(rounds.iter().map(value));
        let row = |run, of: &dyn Fn(&Seen) -> &Round| {
            let quantile = |quantile| {
                let rounds = rounds.iter().map(|seen| quantile_ms(of(seen), quantile));
                Figure::of(rounds)
            };
            Row {
                run,
                p50_ms: quantile(0.5),
                p99_ms: quantile(0.99),
            }
        };
        let miss_ms = figure(|seen| p50_ms(&seen.miss)).median;
        let silent = Figure::of(silent.iter().map(|&took| millis(took) - miss_ms));
        let mut rows = vec![
            row("no-op", &|seen| &seen.no_op),
            row("no-op that is looked up and kept", &|seen| &seen.miss),
            row("the same beside a dead tier", &|seen| &seen.dead_tier),
            row("hit in memory", &|seen| &seen.hit),
        ];
        let mut targets = vec![
            Target::at_most("hit, times a no-op", figure(Seen::of_no_op), MOST_OF_NO_OP),
            Target::at_least(
                "times faster than what it replaces",
                figure(Seen::speedup),
                LEAST_SPEEDUP,
            ),
            Target::at_most(
                "executions of identical runs",
                figure(|seen| seen.executed as f64),
                1.0,
            ),
            Target::at_most("a silent tier adds, ms", silent, MOST_SILENT),
            Target::at_most(
                "beside a dead tier, times without",
                figure(|seen| p50_ms(&seen.dead_tier) / p50_ms(&seen.miss)),
                MOST_DEAD,
            ),
        ];
        // Each round has the same.
        let tiers = rounds.first().map_or(&[][..], |seen| &seen.tiers);
        for (place, (kind, _)) in tiers.iter().enumerate() {
            let (name, target, most) = match kind {
                CacheTier::Postgres => (
                    "hit in PostgreSQL",
                    "p50 in PostgreSQL, ms",
                    MOST_IN_POSTGRES,
                ),
                _ => ("hit in Redis", "p50 in Redis, ms", MOST_IN_REDIS),
            };
            let hit = row(name, &|seen: &Seen| &seen.tiers[place].1);
            targets.push(Target::at_most(target, hit.p50_ms, most));
            rows.push(hit);
        }
        Ok(Self {
            suite: "cache",
            machine: Machine::describe()?,
            rounds: arguments.common.rounds,
            seconds: arguments.seconds,
            work_ms: arguments.work_ms,
            identical_ms: arguments.identical_ms,
            fresh_run_ms: figure(|seen| millis(seen.fresh)),
            identical_runs_ms: figure(|seen| millis(seen.identical)),
            silent_tier_adds_ms: silent,
            rows,
            targets,
        })
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "runs of one task, strict, one after the other, {} rounds of {} s each (median, min–max)",
            self.rounds, self.seconds
        )];
        for row in &self.rows {
            lines.push(row.run.to_owned());
            lines.push(line("p50, ms", row.p50_ms));
            lines.push(line("p99, ms", row.p99_ms));
        }
        lines.push("the work that a hit replaces".to_owned());
        lines.push(line("run, ms", self.fresh_run_ms));
        lines.push(format!(
            "{} identical runs of {} clients, of {} ms each",
            CLIENTS * RUNS_OF_CLIENT,
            CLIENTS,
            self.identical_ms
        ));
        lines.push(line("all, ms", self.identical_runs_ms));
        lines.push("a tier that does not answer".to_owned());
        lines.push(line("adds, ms", self.silent_tier_adds_ms));
        lines.extend(self.targets.iter().map(Target::line));
        lines
    }
}
