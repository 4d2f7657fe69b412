//! A client that keeps a number of runs in flight.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use levelflow_common::workflow::Workflow;
use levelflow_proto::v1;
use levelflow_proto::v1::submission_answer::Answer;
use levelflow_proto::v1::workflow_service_client::WorkflowServiceClient;
use levelflow_proto::v1::workflow_source::Source;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

const WINDOW: u32 = 4 * 1024 * 1024;

/// A connected client.
pub(crate) struct Client {
    service: WorkflowServiceClient<Channel>,
    source: v1::WorkflowSource,
}

/// What a client saw in one round.
pub(crate) struct Round {
    pub(crate) runs: u64,
    pub(crate) elapsed: Duration,
    /// Microseconds from submit to the report of the end.
    pub(crate) latency: Histogram<u64>,
}

impl Client {
    /// Connects, and runs the workflow once, so that the coordinator knows it and a worker is there.
    pub(crate) async fn connect(address: &str, workflow: Workflow) -> Result<Self> {
        let channel = Endpoint::from_shared(address.to_owned())?
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .connect()
            .await
            .context("cannot connect to the coordinator")?;
        let mut client = Self {
            service: WorkflowServiceClient::new(channel),
            source: v1::WorkflowSource {
                source: Some(Source::Definition(workflow.into())),
            },
        };
        let response = client
            .service
            .submit_workflow(v1::SubmitWorkflowRequest {
                workflow: Some(client.source.clone()),
                ..Default::default()
            })
            .await?
            .into_inner();
        client.source = v1::WorkflowSource {
            source: Some(Source::Digest(response.workflow_digest)),
        };
        client.keep_in_flight(1, Duration::ZERO).await?;
        Ok(client)
    }

    /// Keeps `in_flight` runs open for a time, and waits for the last of them.
    pub(crate) async fn keep_in_flight(
        &mut self,
        in_flight: usize,
        time: Duration,
    ) -> Result<Round> {
        let (requests, outgoing) = mpsc::channel(16);
        let started = Instant::now();
        let mut submitted = BTreeMap::new();
        let mut next_tag = 0;
        let mut batch = |count: usize, submitted: &mut BTreeMap<u64, Instant>| {
            let now = Instant::now();
            let submissions = (0..count)
                .map(|_| {
                    next_tag += 1;
                    submitted.insert(next_tag, now);
                    v1::Submission {
                        tag: next_tag,
                        report_end: true,
                        request: Some(v1::SubmitWorkflowRequest {
                            workflow: Some(self.source.clone()),
                            inputs: Bytes::new(),
                            ..Default::default()
                        }),
                    }
                })
                .collect();
            v1::SubmitWorkflowsRequest { submissions }
        };
        requests.send(batch(in_flight, &mut submitted)).await?;
        let mut answers = self
            .service
            .clone()
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
                        if end.status() != v1::RunStatus::Succeeded {
                            bail!("a run ended as {:?}: {:?}", end.status(), end.failure);
                        }
                        let since = submitted.remove(&answer.tag).context("an unknown tag")?;
                        latency.record(since.elapsed().as_micros() as u64)?;
                        ended += 1;
                    }
                    Some(Answer::Refused(error)) => bail!("a run was refused: {}", error.message),
                    None => bail!("an empty answer"),
                }
            }
            runs += ended as u64;
            if ended > 0 && started.elapsed() < time {
                requests.send(batch(ended, &mut submitted)).await?;
            }
        }
        Ok(Round {
            runs,
            elapsed: started.elapsed(),
            latency,
        })
    }
}
