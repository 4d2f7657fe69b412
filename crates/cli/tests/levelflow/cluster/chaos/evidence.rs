//! What clients were told, in a ledger of their own, and what is there in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::event::{RunEvent, RunUpdate};
use levelflow_common::view::RunView;
use levelflow_common::{Code, Fault, HumanDuration, RunStatus, Timestamp};
use levelflow_proto::{ApiError, v1};
use serde_json::Value;

use super::starts::{Start, now};
use crate::client::{Client, is_recorded};
use crate::harness::DEADLINE;
use crate::witness::listed;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// An acknowledged submit.
#[derive(Clone, Debug)]
pub(crate) struct Submit {
    pub(crate) tenant: String,
    /// Empty if it had none.
    pub(crate) key: String,
    pub(crate) workflow: Value,
    pub(crate) run_id: String,
    /// The run that the same submit gives in the end, and whether it was there.
    pub(crate) again: Option<Result<(String, bool), ApiError>>,
    request: v1::SubmitWorkflowRequest,
}

/// An acknowledged cancel.
#[derive(Clone, Debug)]
pub(crate) struct Cancel {
    pub(crate) run_id: String,
    pub(crate) acknowledged_at: Timestamp,
}

/// What the watcher of a run was told.
#[derive(Clone, Debug, Default)]
struct Watched {
    updates: Vec<RunUpdate>,
    ends: Vec<RunStatus>,
    to_its_end: bool,
}

/// What clients were told.
#[derive(Default)]
pub(crate) struct Ledger {
    entries: Mutex<Entries>,
    /// Tasks of which watchers know that they have succeeded.
    succeeded: watch::Sender<usize>,
}

#[derive(Default)]
struct Entries {
    submits: Vec<Submit>,
    cancels: Vec<Cancel>,
    refusals: Vec<ApiError>,
    watched: BTreeMap<String, Watched>,
}

impl Ledger {
    /// Submits, and remembers the answer.
    pub(crate) async fn submit(
        &self,
        client: &Client,
        workflow: &Value,
        request: v1::SubmitWorkflowRequest,
    ) -> Result<String, ApiError> {
        let answered = client.submit(request.clone()).await;
        self.answered(workflow, request, answered)
    }

    /// Remembers what a submit was answered with.
    pub(crate) fn answered(
        &self,
        workflow: &Value,
        request: v1::SubmitWorkflowRequest,
        answered: Result<v1::SubmitWorkflowResponse, ApiError>,
    ) -> Result<String, ApiError> {
        let mut entries = self.entries.lock().unwrap();
        match answered {
            Ok(accepted) => {
                let submit = Submit {
                    tenant: request.tenant.clone(),
                    key: request.idempotency_key.clone(),
                    workflow: workflow.clone(),
                    run_id: accepted.run_id.clone(),
                    again: None,
                    request,
                };
                entries.submits.push(submit);
                Ok(accepted.run_id)
            }
            Err(refusal) => {
                entries.refusals.push(refusal.clone());
                Err(refusal)
            }
        }
    }

    /// Remembers that a cancel is acknowledged, now.
    pub(crate) fn cancelled(&self, run_id: &str) {
        let cancel = Cancel {
            run_id: run_id.to_owned(),
            acknowledged_at: now(),
        };
        self.entries.lock().unwrap().cancels.push(cancel);
    }

    /// The last sequence that the watcher of a run has seen.
    pub(crate) fn last_sequence(&self, run_id: &str) -> u64 {
        let entries = self.entries.lock().unwrap();
        let watched = entries.watched.get(run_id);
        let mut updates = watched.into_iter().flat_map(|it| it.updates.iter().rev());
        let last = updates.find(|it| is_recorded(it));
        last.map_or(0, |update| update.sequence)
    }

    /// Remembers what a watcher was told.
    pub(crate) fn told(&self, run_id: &str, update: RunUpdate) {
        let mut entries = self.entries.lock().unwrap();
        let watched = entries.watched.entry(run_id.to_owned()).or_default();
        if let Some(RunEvent::Finished { status, .. }) = update.events.last() {
            watched.ends.push(*status);
            watched.to_its_end = true;
        }
        let succeeded = |event: &&RunEvent| matches!(event, RunEvent::TaskSucceeded { .. });
        let count = update.events.iter().filter(succeeded).count();
        self.succeeded.send_modify(|succeeded| *succeeded += count);
        watched.updates.push(update);
    }

    /// Watches a run, from where it was last seen on, until it ends.
    ///
    /// # Errors
    /// When the stream ends earlier, or nothing comes for as long as is waited for a word.
    pub(crate) async fn watch(
        &self,
        client: &Client,
        run_id: &str,
        patience: Duration,
    ) -> Result<(), ApiError> {
        let early = |_| ApiError::new(Code::ServerUnreachable, "nothing came for long");
        let watching = client.watch(run_id, self.last_sequence(run_id));
        let mut updates = timeout(patience, watching).await.map_err(early)??;
        while let Some(update) = timeout(patience, updates.next()).await.map_err(early)?? {
            self.told(run_id, update);
        }
        if self.is_watched_to_its_end(run_id) {
            return Ok(());
        }
        let early = "the stream ended early";
        Err(ApiError::new(Code::ServerUnreachable, early))
    }

    pub(crate) fn is_watched_to_its_end(&self, run_id: &str) -> bool {
        let entries = self.entries.lock().unwrap();
        entries.watched.get(run_id).is_some_and(|it| it.to_its_end)
    }

    /// Waits until so many tasks have succeeded, as far as watchers know.
    pub(crate) async fn until_succeeded(&self, tasks: usize) {
        let mut succeeded = self.succeeded.subscribe();
        let reached = timeout(DEADLINE, succeeded.wait_for(|count| *count >= tasks)).await;
        reached.expect("the runs go on").unwrap();
    }

    /// The runs of all submits.
    pub(crate) fn runs(&self) -> BTreeSet<String> {
        let entries = self.entries.lock().unwrap();
        entries.submits.iter().map(|it| it.run_id.clone()).collect()
    }
}

/// A run as it was seen, and as it is in the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// What its watcher was told, live updates included.
    pub(crate) seen: Vec<RunUpdate>,
    pub(crate) is_watched_to_its_end: bool,
    /// The ends that someone was told of.
    pub(crate) ends: Vec<RunStatus>,
    /// Its journal.
    pub(crate) history: Vec<RunUpdate>,
    /// Its journal as other coordinators give it.
    pub(crate) elsewhere: Vec<Vec<RunUpdate>>,
    /// What is served; none if it is not there.
    pub(crate) view: Option<RunView>,
}

impl Run {
    pub(crate) fn events(&self) -> impl Iterator<Item = &RunEvent> {
        self.history.iter().flat_map(|update| &update.events)
    }

    /// The outputs that are recorded.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = &Bytes> {
        self.events().filter_map(|event| match event {
            RunEvent::TaskSucceeded { output, .. } => Some(output),
            _ => None,
        })
    }
}

/// All that the guarantees are held against.
#[derive(Clone, Default)]
pub(crate) struct Evidence {
    pub(crate) submits: Vec<Submit>,
    pub(crate) cancels: Vec<Cancel>,
    pub(crate) refusals: Vec<ApiError>,
    pub(crate) starts: Vec<Start>,
    pub(crate) runs: BTreeMap<String, Run>,
    /// Runs as they were served before their ends.
    pub(crate) served: Vec<RunView>,
    /// The ids of all runs.
    pub(crate) listed: BTreeSet<String>,
    /// How often coordinators forgot what was under way, so that attempts start again under their number.
    pub(crate) restarts: u32,
    /// How many runs may be open.
    pub(crate) max_open_runs: Option<usize>,
}

impl Evidence {
    /// What a server says in the end, which the ledger is held against. Waits for the ends of runs, up to the
    /// deadline in all.
    pub(crate) async fn gather(ledger: &Ledger, client: &Client, starts: Vec<Start>) -> Self {
        Self::within(DEADLINE, ledger, client, starts).await
    }

    /// As [`Evidence::gather`], with another deadline.
    pub(crate) async fn within(
        patience: Duration,
        ledger: &Ledger,
        client: &Client,
        starts: Vec<Start>,
    ) -> Self {
        let mut evidence = {
            let entries = ledger.entries.lock().unwrap();
            let watched = entries.watched.iter().map(|(run_id, watched)| {
                let run = Run {
                    seen: watched.updates.clone(),
                    is_watched_to_its_end: watched.to_its_end,
                    ends: watched.ends.clone(),
                    ..Run::default()
                };
                (run_id.clone(), run)
            });
            Self {
                submits: entries.submits.clone(),
                cancels: entries.cancels.clone(),
                refusals: entries.refusals.clone(),
                runs: watched.collect(),
                starts,
                ..Self::default()
            }
        };
        let until = Instant::now() + patience;
        for run_id in ledger.runs() {
            let run = evidence.runs.entry(run_id.clone()).or_default();
            // What has not ended by then stands still, and is told of as it stands.
            let ended = wait_for_end(client, &run_id);
            let _ = timeout_at(until, ended).await;
            run.view = client.get(&run_id).await.ok();
            let sequence = run.view.as_ref().map_or(0, |view| view.sequence);
            run.history = history(client, &run_id, sequence).await;
        }
        for submit in &mut evidence.submits {
            if !submit.key.is_empty() {
                let again = client.submit(submit.request.clone()).await;
                submit.again = Some(again.map(|it| (it.run_id, it.existing)));
            }
        }
        evidence.listed = listed(client).await.into_iter().collect();
        evidence
    }

    /// Adds what another coordinator says of the journals.
    pub(crate) async fn ask(&mut self, other: &Client) {
        for (run_id, run) in &mut self.runs {
            let history = history(other, run_id, run.history.len() as u64).await;
            run.elsewhere.push(history);
        }
    }

    fn submit(&self, run_id: &str) -> Option<&Submit> {
        self.submits.iter().find(|it| it.run_id == run_id)
    }

    fn task(&self, run_id: &str, task: &str) -> Option<&Value> {
        let workflow = &self.submit(run_id)?.workflow;
        let mut tasks = workflow["tasks"].as_array()?.iter();
        tasks.find(|it| it["id"] == task)
    }

    pub(crate) fn tenant(&self, run_id: &str) -> Option<&str> {
        self.submit(run_id).map(|it| &*it.tenant)
    }

    /// Whether a start was on what is recorded. In a relaxed run a task may start on what is not durable yet, and
    /// if that is lost, so is what came of the start.
    pub(crate) fn is_on_record(&self, start: &Start) -> bool {
        let submit = self.submit(&start.run_id);
        let is_relaxed = submit.is_some_and(|it| it.workflow["durability"] == "relaxed");
        let run = self.runs.get(&start.run_id);
        let mut outputs = run.into_iter().flat_map(Run::outputs);
        !is_relaxed || outputs.any(|it| mark_of(it).as_ref() == Some(&start.mark))
    }

    /// The most attempts of a task.
    pub(crate) fn max_attempts(&self, run_id: &str, task: &str) -> Option<u32> {
        let max = &self.task(run_id, task)?["retry"]["max_attempts"];
        max.as_u64().and_then(|it| it.try_into().ok())
    }

    /// The tasks that a task names as needed.
    pub(crate) fn needs(&self, run_id: &str, task: &str) -> Vec<&str> {
        let needs = self.task(run_id, task).map(|it| &it["needs"]);
        let needs = needs.and_then(Value::as_array).into_iter().flatten();
        needs.filter_map(Value::as_str).collect()
    }

    /// What a task asks for: the path of its address.
    pub(crate) fn input(&self, run_id: &str, task: &str) -> Option<String> {
        let url = self.task(run_id, task)?["with"]["url"].as_str()?;
        url.splitn(4, '/').nth(3).map(str::to_owned)
    }

    /// How old a result may be that a task takes from the cache.
    pub(crate) fn ttl(&self, run_id: &str, task: &str) -> Option<Duration> {
        let ttl = &self.task(run_id, task)?["cache"]["ttl"];
        let ttl: HumanDuration = serde_json::from_value(ttl.clone()).ok()?;
        Some(ttl.0)
    }
}

/// Follows a run to its end, over streams that break off.
async fn wait_for_end(client: &Client, run_id: &str) {
    loop {
        match client.get(run_id).await {
            Ok(run) if run.summary.status.is_terminal() => return,
            Err(error) if error.code().fault() != Fault::Unavailable => return,
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is recorded of a run, up to a sequence.
async fn history(client: &Client, run_id: &str, sequence: u64) -> Vec<RunUpdate> {
    let mut history: Vec<RunUpdate> = Vec::new();
    if sequence == 0 {
        return history;
    }
    let mut updates = client.watch(run_id, 0).await.unwrap();
    while history.last().is_none_or(|it| it.sequence < sequence) {
        match updates.next().await.unwrap() {
            Some(update) if is_recorded(&update) => history.push(update),
            Some(_) => {}
            None => break,
        }
    }
    history
}

/// The mark in the output of a task, if it has one.
pub(crate) fn mark_of(output: &[u8]) -> Option<String> {
    let output: Value = serde_json::from_slice(output).ok()?;
    output["body"]["mark"].as_str().map(str::to_owned)
}
