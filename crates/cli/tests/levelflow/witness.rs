//! A run as its client saw it, over servers that come and go.

use std::collections::BTreeMap;

use levelflow_common::event::{RunEvent, RunUpdate};
use levelflow_common::{Code, Fault, RunStatus};
use levelflow_proto::{ApiError, v1};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::client::{Client, is_recorded, submission};
use crate::fold::Fold;
use crate::generated::Shape;
use crate::harness::DEADLINE;

/// A server process; the first is generation 0.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) generation: usize,
    pub(crate) client: Client,
}

/// One run, as its client saw it over all crashes.
pub(crate) struct Witness {
    submission: v1::SubmitWorkflowRequest,
    pub(crate) run_id: String,
    last: u64,
    updates: Vec<RunUpdate>,
    /// The generation that said that a task has succeeded, by task.
    pub(crate) succeeded: BTreeMap<String, usize>,
}

/// Submits a run and follows it to its end, over as many servers as it takes.
pub(crate) async fn witness(
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

    /// Holds what it saw against what is served in the end.
    pub(crate) async fn check(&self, client: &Client) {
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
pub(crate) async fn listed(client: &Client) -> Vec<String> {
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
