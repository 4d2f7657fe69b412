//! Levelflow's side: a coordinator and workers in processes of their own, fresh for each round.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use levelflow_common::workflow::Workflow;
use levelflow_proto::v1;
use levelflow_proto::v1::submission_answer::Answer;
use levelflow_proto::v1::workflow_service_client::WorkflowServiceClient;
use levelflow_proto::v1::workflow_source::Source;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::outcome::Outcome;
use super::workload::{inputs, workflow};
use crate::client::Client;
use crate::process::{Cluster, Layout};
use crate::shape::Shape;

/// A cluster that is ready for runs of one shape.
pub(super) struct Levelflow {
    cluster: Cluster,
    service: WorkflowServiceClient<Channel>,
    source: v1::WorkflowSource,
    shape: Shape,
    next_run: u64,
    /// From the start of the first worker's process until a task that it ran was reported to a client
    /// that connected after that start.
    pub(super) worker_start: Duration,
}

impl Levelflow {
    pub(super) async fn start(layout: &Layout, shape: Shape, url: &str) -> Result<Self> {
        let mut cluster = Cluster::without_workers(layout)?;
        let address = cluster.address();
        let started = Instant::now();
        cluster.add_worker()?;
        Client::connect(&address, one_task()).await?;
        let worker_start = started.elapsed();
        while cluster.workers.len() < layout.workers {
            cluster.add_worker()?;
        }
        let channel = Endpoint::from_shared(address)?
            .tcp_nodelay(true)
            .connect()
            .await
            .context("cannot connect to the coordinator")?;
        let mut service = WorkflowServiceClient::new(channel);
        let definition = v1::WorkflowSource {
            source: Some(Source::Definition(workflow(shape, url).into())),
        };
        let first = v1::SubmitWorkflowRequest {
            workflow: Some(definition),
            inputs: inputs(shape, 0).into(),
            ..Default::default()
        };
        let digest = service
            .submit_workflow(first)
            .await?
            .into_inner()
            .workflow_digest;
        Ok(Self {
            cluster,
            service,
            source: v1::WorkflowSource {
                source: Some(Source::Digest(digest)),
            },
            shape,
            next_run: 1,
            worker_start,
        })
    }

    /// Keeps `in_flight` runs open for a time, and waits for the last of them. Runs may fail.
    pub(super) async fn keep_in_flight(
        &mut self,
        in_flight: usize,
        time: Duration,
    ) -> Result<Outcome> {
        let (requests, outgoing) = mpsc::channel(16);
        let started = Instant::now();
        let mut submitted = BTreeMap::new();
        requests.send(self.batch(in_flight, &mut submitted)).await?;
        let mut answers = self
            .service
            .submit_workflows(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        let mut latency = Histogram::new(3)?;
        let mut runs = 0;
        while !submitted.is_empty() {
            let response = answers.message().await?.context("the stream ended early")?;
            let mut ended = 0;
            for answer in response.answers {
                match answer.answer {
                    Some(Answer::Accepted(_)) => {}
                    Some(Answer::Ended(end)) => {
                        let since: Instant =
                            submitted.remove(&answer.tag).context("an unknown tag")?;
                        if end.status() == v1::RunStatus::Succeeded {
                            latency.record(since.elapsed().as_micros() as u64)?;
                        }
                        ended += 1;
                    }
                    Some(Answer::Refused(error)) => bail!("a run was refused: {}", error.message),
                    None => bail!("an empty answer"),
                }
            }
            runs += ended as u64;
            if ended > 0 && started.elapsed() < time {
                requests.send(self.batch(ended, &mut submitted)).await?;
            }
        }
        let elapsed = started.elapsed();
        let peak = self.cluster.peak_resident_bytes()?;
        Ok(Outcome::new(runs, elapsed, &latency, peak))
    }

    fn batch(
        &mut self,
        count: usize,
        submitted: &mut BTreeMap<u64, Instant>,
    ) -> v1::SubmitWorkflowsRequest {
        let submissions = (0..count)
            .map(|_| {
                let run = self.next_run;
                self.next_run += 1;
                submitted.insert(run, Instant::now());
                v1::Submission {
                    tag: run,
                    report_end: true,
                    request: Some(v1::SubmitWorkflowRequest {
                        workflow: Some(self.source.clone()),
                        inputs: inputs(self.shape, run).into(),
                        ..Default::default()
                    }),
                }
            })
            .collect();
        v1::SubmitWorkflowsRequest { submissions }
    }
}

fn one_task() -> Workflow {
    let workflow = serde_json::json!({
        "name": "one-task",
        "tasks": [{ "id": "task", "type": "handler", "with": { "name": "noop" } }],
    });
    serde_json::from_value(workflow).expect("it is a workflow")
}
