//! Coordinators that are killed while everyone works.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::{Cluster, Coordinator};
use crate::client::Client;
use crate::generated::Shape;
use crate::harness::DEADLINE;
use crate::witness::{Server, Witness, listed, witness};

const RUNS: usize = 60;
/// Runs that are under way at once.
const AT_ONCE: usize = 12;
const KILLS: usize = 4;
const SEED: u64 = 0x636c_7573;

fn shape() -> Shape {
    Shape {
        tasks: 5..=30,
        process: 0.0,
        max_processes: 0,
        command: Vec::new(),
        sleep: 0.1,
    }
}

async fn client_of(coordinator: &Coordinator, generation: usize) -> Server {
    let client = Client::connect(&coordinator.address).await;
    Server { generation, client }
}

#[tokio::test]
async fn nothing_is_lost_when_coordinators_are_killed() {
    let cluster = Cluster::new();
    let mut coordinators = Vec::new();
    for _ in 0..3 {
        coordinators.push(cluster.coordinator().await);
    }
    cluster.is_even(&coordinators[0], 3).await;
    let mut workers = Vec::new();
    for coordinator in &coordinators[..2] {
        workers.push(cluster.worker(coordinator, 8).await);
    }
    let shape = shape();
    let seeds = || (0..RUNS as u64).map(|run| SEED + run);
    let total: usize = seeds().map(|seed| shape.generate(seed).tasks).sum();

    let server = client_of(&coordinators[2], 0).await;
    let (servers, subscriber) = watch::channel(server);
    let (progress, mut seen) = watch::channel(0);
    let witnesses = stream::iter(seeds())
        .map(|seed| witness(&shape, seed, subscriber.clone(), &progress))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<Witness>>();
    let killing = async {
        for kill in 1..=KILLS {
            let threshold = kill * total / (KILLS + 1);
            let reached = seen.wait_for(|succeeded| *succeeded >= threshold);
            let reached = timeout(DEADLINE, reached).await;
            reached.expect("the runs go on").unwrap();
            // Sometimes the one that clients talk to, and otherwise another.
            let victim = if kill % 2 == 0 {
                coordinators.len() - 1
            } else {
                0
            };
            coordinators.remove(victim).process.kill().await;
            coordinators.push(cluster.coordinator().await);
            let newest = &coordinators[coordinators.len() - 1];
            servers.send_replace(client_of(newest, kill).await);
        }
    };
    let (witnesses, ()) = tokio::join!(witnesses, killing);

    let client = &subscriber.borrow().client.clone();
    for witness in &witnesses {
        witness.check(client).await;
    }
    let acknowledged: BTreeSet<String> = witnesses.iter().map(|one| one.run_id.clone()).collect();
    assert_eq!(acknowledged.len(), RUNS);
    let there = listed(client).await;
    assert_eq!(there, acknowledged.into_iter().collect::<Vec<_>>());
}
