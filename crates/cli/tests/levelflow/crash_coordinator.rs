//! A server that is killed again and again while it works.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use futures_util::{StreamExt as _, stream};
use levelflow_common::event::{RunEvent, RunUpdate};
use levelflow_common::{Code, Fault, RunStatus};
use levelflow_proto::{ApiError, v1};
use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::client::{Client, is_recorded, submission};
use crate::fold::Fold;
use crate::generated::Shape;
use crate::harness::{DEADLINE, Home, Running, text};

const RUNS: usize = 200;
/// Runs that are under way at once.
const AT_ONCE: usize = 24;
const KILLS: usize = 20;
const SEED: u64 = 0x6c65_7665_6c66;

/// A server process; the first is generation 0.
#[derive(Clone)]
struct Server {
    generation: usize,
    client: Client,
}

/// One run, as its client saw it over all crashes.
struct Witness {
    submission: v1::SubmitWorkflowRequest,
    run_id: String,
    last: u64,
    updates: Vec<RunUpdate>,
    /// The generation that said that a task has succeeded, by task.
    succeeded: BTreeMap<String, usize>,
}

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

/// Submits a run and follows it to its end, over as many servers as it takes.
async fn witness(
    shape: &Shape,
    seed: u64,
    mut servers: watch::Receiver<Server>,
    progress: &watch::Sender<usize>,
) -> Witness {
    let generated = shape.generate(seed);
    let submission = v1::SubmitWorkflowRequest {
        idempotency_key: format!("run {seed}"),
        ..submission(&generated.workflow)
    };
    let mut server = servers.borrow().clone();
    let run_id = loop {
        match server.client.submit(submission.clone()).await {
            Ok(accepted) => break accepted.run_id,
            Err(error) => server = next_server(&mut servers, &server, &error).await,
        }
    };
    let mut witness = Witness {
        submission,
        run_id,
        last: generated.last,
        updates: Vec::new(),
        succeeded: BTreeMap::new(),
    };
    while let Err(error) = witness.follow(&server, progress).await {
        server = next_server(&mut servers, &server, &error).await;
    }
    witness
}

/// The server after one that was killed.
async fn next_server(
    servers: &mut watch::Receiver<Server>,
    killed: &Server,
    error: &ApiError,
) -> Server {
    assert_eq!(error.code().fault(), Fault::Unavailable, "{error:?}");
    let next = servers.wait_for(|server| server.generation > killed.generation);
    timeout(DEADLINE, next)
        .await
        .expect("the server was killed, and is started again")
        .unwrap()
        .clone()
}

impl Witness {
    async fn follow(
        &mut self,
        server: &Server,
        progress: &watch::Sender<usize>,
    ) -> Result<(), ApiError> {
        let known = self.updates.len() as u64;
        let mut updates = server.client.watch(&self.run_id, known).await?;
        while let Some(update) = updates.next().await? {
            if !is_recorded(&update) {
                continue;
            }
            for event in &update.events {
                if let RunEvent::TaskSucceeded { task, .. } = event {
                    let task = task.task_id.to_string();
                    self.succeeded.entry(task).or_insert(server.generation);
                    progress.send_modify(|succeeded| *succeeded += 1);
                }
            }
            self.updates.push(update);
        }
        match self.updates.last().and_then(|update| update.events.last()) {
            Some(RunEvent::Finished { .. }) => Ok(()),
            _ => Err(ApiError::new(
                Code::ServerUnreachable,
                "the stream ended early",
            )),
        }
    }

    async fn check(&self, client: &Client) {
        let again = client.submit(self.submission.clone()).await.unwrap();
        assert_eq!((&again.run_id, again.existing), (&self.run_id, true));

        let run = client.get(&self.run_id).await.unwrap();
        assert_eq!(run.summary.status, RunStatus::Succeeded, "{run:?}");
        let expected = format!("{{\"last\":{}}}", self.last);
        assert_eq!(run.outputs.as_deref(), Some(expected.as_bytes()));

        // What was watched over the crashes is what is in the journal, and what is served.
        assert_eq!(client.history(&self.run_id).await, self.updates);
        assert_eq!(Fold::of(&self.updates), Fold::served(&run));

        // No sleep ended early, although servers died meanwhile.
        let mut wakes = BTreeMap::new();
        for update in &self.updates {
            for event in &update.events {
                match event {
                    RunEvent::Sleeping { task, wakes_at } => {
                        wakes.insert(&task.task_id, *wakes_at);
                    }
                    RunEvent::TaskSucceeded { task, .. } => {
                        let woke = wakes.get(&task.task_id).is_none_or(|at| *at <= update.at);
                        assert!(woke, "{update:?} is before {wakes:?}");
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The ids of all runs, in order, page by page.
async fn listed(client: &Client) -> Vec<String> {
    let mut run_ids = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListRunsRequest {
            page_size: 64,
            page_token,
            ..Default::default()
        };
        let page = client.list(request).await.unwrap();
        run_ids.extend(page.runs.into_iter().map(|run| run.run_id));
        if page.next_page_token.is_empty() {
            run_ids.sort_unstable();
            return run_ids;
        }
        page_token = page.next_page_token;
    }
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
