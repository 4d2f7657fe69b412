//! Seeds: each decides the load, the faults and their order.

use futures_util::{StreamExt as _, stream};

use super::evidence::{Evidence, Ledger};
use super::faults::{Plan, strike};
use super::guarantees::violations;
use super::load::Job;
use super::rig::{COORDINATORS, MAX_OPEN_RUNS, Rig};

/// Which seeds to run, such as `0..20`: these two have workers over gRPC and over NATS.
const SEEDS: std::ops::Range<u64> = 0..2;
const JOBS: usize = 70;
/// Jobs that are under way at once: more than two coordinators take.
const AT_ONCE: usize = 30;
const FAULTS: usize = 6;

fn seeds() -> std::ops::Range<u64> {
    let Ok(chosen) = std::env::var("TEST_CHAOS_SEEDS") else {
        return SEEDS;
    };
    let (first, end) = chosen.split_once("..").expect("it is a range");
    first.parse().unwrap()..end.parse().unwrap()
}

#[tokio::test]
async fn what_is_promised_holds_under_faults() {
    for seed in seeds() {
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
        let failing = async {
            let steps = plan.steps.len();
            for (number, step) in (1..).zip(&plan.steps) {
                ledger.until_succeeded(number * total / (2 * steps)).await;
                strike(step, &mut rig).await;
                if !plan.is_hasty {
                    rig.is_even().await;
                }
            }
            rig.is_even().await;
        };
        tokio::join!(working, failing);

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
}
