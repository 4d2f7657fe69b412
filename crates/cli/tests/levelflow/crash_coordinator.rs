//! A server that is killed again and again while it works.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use futures_util::{StreamExt as _, stream};
use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::client::Client;
use crate::generated::Shape;
use crate::harness::{DEADLINE, Home, Running, text};
use crate::witness::{Server, Witness, listed, witness};

const RUNS: usize = 200;
/// Runs that are under way at once.
const AT_ONCE: usize = 24;
const KILLS: usize = 20;
const SEED: u64 = 0x6c65_7665_6c66;

/// Programs leave their run, their task and the generation that started them.
fn shape(trace: &Path) -> Shape {
    let script = "echo \"$LEVELFLOW_RUN_ID $LEVELFLOW_TASK_ID $GENERATION\" >> \"$0\"";
    let command = ["sh", "-c", script, text(trace)];
    Shape {
        tasks: 5..=30,
        process: 0.1,
        max_processes: 2,
        command: command.map(str::to_owned).to_vec(),
        sleep: 0.1,
    }
}

#[tokio::test]
async fn nothing_is_lost_or_done_twice_when_the_server_is_killed() {
    let home = Home::new();
    let trace = home.file("trace", "");
    let shape = shape(&trace);
    let total: usize = seeds().map(|seed| shape.generate(seed).tasks).sum();

    let (first, server) = start(&home, 0).await;
    let (servers, subscriber) = watch::channel(server);
    let (progress, mut seen) = watch::channel(0);
    let witnesses = stream::iter(seeds())
        .map(|seed| witness(&shape, seed, subscriber.clone(), &progress))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>();
    let killing = async {
        let mut process = first;
        for kill in 1..=KILLS {
            // Every fifth server dies before it has done much.
            if kill % 5 != 0 {
                let threshold = kill * total / (KILLS + 1);
                let reached = seen.wait_for(|succeeded| *succeeded >= threshold);
                let reached = timeout(DEADLINE, reached).await;
                reached.expect("the runs go on").unwrap();
            }
            process.kill().await;
            let (next, server) = start(&home, kill).await;
            process = next;
            servers.send_replace(server);
        }
        process
    };
    let (witnesses, process) = tokio::join!(witnesses, killing);

    let client = &subscriber.borrow().client.clone();
    assert_eq!(witnesses.len(), RUNS);
    for witness in &witnesses {
        witness.check(client).await;
    }
    let acknowledged: BTreeSet<&str> = witnesses.iter().map(|one| one.run_id.as_str()).collect();
    assert_eq!(
        listed(client).await,
        acknowledged
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    );
    check_trace(&std::fs::read_to_string(&trace).unwrap(), &witnesses);

    process.signal(Signal::SIGTERM);
    assert_eq!(process.ended().await.code(), Some(0));
}

fn seeds() -> impl Iterator<Item = u64> {
    (0..RUNS as u64).map(|run| SEED + run)
}

async fn start(home: &Home, generation: usize) -> (Running, Server) {
    let mut command = home.command(&["dev", "--listen", "127.0.0.1:0", "--json"]);
    command.env("GENERATION", generation.to_string());
    let (process, address) = Running::server(command).await;
    let client = Client::connect(&address).await;
    (process, Server { generation, client })
}

/// No program was started by a server after one that had said that its task has succeeded, and none
/// twice by the same.
fn check_trace(trace: &str, witnesses: &[Witness]) {
    let mut started: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for line in trace.lines() {
        let [run, task, generation] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line:?} is not what the program writes");
        };
        started
            .entry((run, task))
            .or_default()
            .push(generation.parse().unwrap());
    }
    let succeeded: BTreeMap<(&str, &str), usize> = witnesses
        .iter()
        .flat_map(|one| {
            let run_id = one.run_id.as_str();
            one.succeeded
                .iter()
                .map(move |(task, generation)| ((run_id, task.as_str()), *generation))
        })
        .collect();
    assert!(started.len() > RUNS, "{} programs", started.len());
    for (task, generations) in &mut started {
        generations.sort_unstable();
        let distinct = generations.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(distinct, "{task:?} was started by {generations:?}");
        let last = generations[generations.len() - 1];
        assert!(
            last <= succeeded[task],
            "{task:?} was started by {generations:?}, but {} had its result",
            succeeded[task]
        );
    }
}
