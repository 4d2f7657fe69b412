//! How soon the runs of a coordinator that is killed go on.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use levelflow_common::workflow::Workflow;
use levelflow_proto::v1;
use levelflow_proto::v1::run_event::Event;
use levelflow_proto::v1::workflow_service_client::WorkflowServiceClient;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use super::{Arguments, DEADLINE, Shared};

/// Tasks of a run that a kill meets on its way: pairs of a sleep and a task that does nothing.
const STEPS: usize = 60;

/// What came of the kills.
pub(super) struct Failover {
    /// In microseconds.
    pub(super) moved: Histogram<u64>,
    /// Runs that were acknowledged and did not end as they must.
    pub(super) lost: usize,
    /// Tasks with more than one result.
    pub(super) twice: usize,
}

/// What became of one run.
struct Fate {
    moved_after: Duration,
    is_lost: bool,
    twice: usize,
}

/// Kills one coordinator of three after the other, with four workers.
pub(super) async fn failover(arguments: &Arguments) -> Result<Failover> {
    let mut shared = Shared::start(arguments, 3, 4, arguments.nats.as_ref()).await?;
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
