//! Seeds: each decides the load, the faults and their order.

use std::pin::pin;

use futures_util::{StreamExt as _, stream};
use tokio::time::timeout;

use super::evidence::{Evidence, Ledger};
use super::faults::{Plan, strike};
use super::guarantees::violations;
use super::load::Job;
use super::rig::{COORDINATORS, MAX_OPEN_RUNS, Rig};
use crate::harness::DEADLINE;
use crate::nats_server::variable;

const JOBS: usize = 70;
/// Jobs that are under way at once: more than two coordinators take.
const AT_ONCE: usize = 30;
const FAULTS: usize = 6;

#[tokio::test]
async fn what_is_promised_holds_with_workers_over_grpc() {
    holds(0).await;
}

#[tokio::test]
async fn what_is_promised_holds_with_workers_over_nats() {
    holds(1).await;
}

#[tokio::test]
#[ignore = "`cargo xtask chaos` says which seeds"]
async fn what_is_promised_holds_with_the_seed_that_is_asked_for() {
    let seed = variable("TEST_CHAOS_SEED");
    holds(seed.parse().unwrap()).await;
}

/// Runs a seed: does what it decides, and holds the guarantees against what comes of it.
async fn holds(seed: u64) {
    let is_over_nats = seed % 2 == 1;
    let plan = Plan::draw(seed, FAULTS, is_over_nats);
    let transport = if is_over_nats { "NATS" } else { "gRPC" };
    println!("seed {seed}: workers over {transport}, {plan:?}");

    let mut rig = Rig::start(is_over_nats).await;
    let jobs: Vec<Job> = (0..JOBS)
        .map(|number| Job::draw(seed, number, &rig.starts, &rig.trace))
        .collect();
    let total: usize = jobs.iter().map(|job| job.tasks).sum();
    let ledger = Ledger::default();
    let (clients, starts) = (rig.clients(), rig.starts.clone());
    let working = stream::iter(jobs.iter().enumerate())
        .map(|(number, job)| {
            let first = number % COORDINATORS;
            job.done(&clients, first, &ledger, &starts)
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<()>>();
    {
        let failing = fail(&plan, total, &mut rig, &ledger);
        let (mut working, mut failing) = (pin!(working), pin!(failing));
        let is_done = tokio::select! {
            _ = &mut working => {
                failing.await;
                true
            }
            () = &mut failing => false,
        };
        if !is_done {
            // What goes on for longer stands still, which the evidence shows.
            let _ = timeout(DEADLINE, working).await;
        }
    }
    let starts = rig.starts.all().into_iter().chain(rig.trace.all());
    let mut evidence = Evidence::gather(&ledger, &clients[0], starts.collect()).await;
    for other in &clients[1..] {
        evidence.ask(other).await;
    }
    evidence.restarts = rig.moves().await;
    evidence.max_open_runs = Some(MAX_OPEN_RUNS * (COORDINATORS + FAULTS));
    let (runs, starts) = (evidence.runs.len(), evidence.starts.len());
    let found = violations(&evidence);
    println!(
        "seed {seed}: {runs} runs, {starts} starts, {} cancels, {} refusals, {} violations",
        evidence.cancels.len(),
        evidence.refusals.len(),
        found.len()
    );
    assert_eq!(found, [], "seed {seed} with {plan:?}");
    assert_eq!(runs, JOBS);
}

/// Does what a plan says while some of all tasks succeed, and waits until the shards are spread again.
async fn fail(plan: &Plan, total: usize, rig: &mut Rig, ledger: &Ledger) {
    let steps = plan.steps.len();
    for (number, step) in (1..).zip(&plan.steps) {
        ledger.until_succeeded(number * total / (2 * steps)).await;
        strike(step, rig).await;
        if !plan.is_hasty {
            rig.is_even().await;
        }
    }
    rig.is_even().await;
}
