//! A client that keeps a number of runs in flight.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use levelflow_common::workflow::Workflow;
use levelflow_proto::v1;
use levelflow_proto::v1::cache_service_client::CacheServiceClient;
use levelflow_proto::v1::submission_answer::Answer;
use levelflow_proto::v1::workflow_service_client::WorkflowServiceClient;
use levelflow_proto::v1::workflow_source::Source;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

const WINDOW: u32 = 4 * 1024 * 1024;
/// Runs in one message of [`Client::submit_many`].
const SUBMIT_BATCH: usize = 1_000;

/// A connected client.
pub(crate) struct Client {
    service: WorkflowServiceClient<Channel>,
    cache: CacheServiceClient<Channel>,
    source: v1::WorkflowSource,
}

/// What a client saw in one round.
pub(crate) struct Round {
    pub(crate) runs: u64,
    pub(crate) elapsed: Duration,
    /// Microseconds from submit to the report of the end.
    pub(crate) latency: Histogram<u64>,
}

/// When one run was acknowledged, and when its end was reported; both since its submit.
pub(crate) struct Once {
    pub(crate) accepted: Duration,
    pub(crate) ended: Duration,
}

/// A run that is under way.
pub(crate) struct Submitted {
    answers: Streaming<v1::SubmitWorkflowsResponse>,
    waiting: VecDeque<v1::SubmissionAnswer>,
    // The stream lasts as long as there may be requests.
    _requests: mpsc::Sender<v1::SubmitWorkflowsRequest>,
}

impl Submitted {
    /// Waits until it has succeeded, and gives its outputs.
    pub(crate) async fn ended(mut self) -> Result<Bytes> {
        match self.next().await? {
            Answer::Ended(end) if end.status() == v1::RunStatus::Succeeded => Ok(end.outputs),
            other => bail!("the run did not succeed: {other:?}"),
        }
    }

    async fn next(&mut self) -> Result<Answer> {
        while self.waiting.is_empty() {
            let response = self.answers.message().await?;
            self.waiting
                .extend(response.context("the stream ended early")?.answers);
        }
        let answer = self.waiting.pop_front().and_then(|answer| answer.answer);
        answer.context("an empty answer")
    }
}

impl Client {
    /// Connects, and runs the workflow once, so that the coordinator knows it and a worker is there.
    pub(crate) async fn connect(address: &str, workflow: Workflow) -> Result<Self> {
        let mut client = Self::open(address, workflow).await?;
        client.submit().await?;
        client.keep_in_flight(1, Duration::ZERO).await?;
        Ok(client)
    }

    /// Connects, and runs nothing.
    pub(crate) async fn open(address: &str, workflow: Workflow) -> Result<Self> {
        let channel = Endpoint::from_shared(address.to_owned())?
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .connect()
            .await
            .context("cannot connect to the coordinator")?;
        Ok(Self {
            cache: CacheServiceClient::new(channel.clone()),
            service: WorkflowServiceClient::new(channel),
            source: v1::WorkflowSource {
                source: Some(Source::Definition(workflow.into())),
            },
        })
    }

    /// Submits one run, and later ones by the digest that comes back. Gives the id of the run.
    pub(crate) async fn submit(&mut self) -> Result<String> {
        let request = v1::SubmitWorkflowRequest {
            workflow: Some(self.source.clone()),
            ..Default::default()
        };
        let response = self.service.submit_workflow(request).await?.into_inner();
        self.source = v1::WorkflowSource {
            source: Some(Source::Digest(response.workflow_digest)),
        };
        Ok(response.run_id)
    }

    /// Submits runs, and waits only until all are durable.
    pub(crate) async fn submit_many(&self, runs: usize) -> Result<()> {
        let (requests, outgoing) = mpsc::channel(16);
        let submit = async {
            for first in (0..runs).step_by(SUBMIT_BATCH) {
                let submissions = (first..runs.min(first + SUBMIT_BATCH))
                    .map(|tag| self.submission(tag as u64, false))
                    .collect();
                requests
                    .send(v1::SubmitWorkflowsRequest { submissions })
                    .await?;
            }
            anyhow::Ok(())
        };
        let accept = async {
            let mut answers = self
                .service
                .clone()
                .submit_workflows(ReceiverStream::new(outgoing))
                .await?
                .into_inner();
            let mut accepted = 0;
            while accepted < runs {
                let response = answers.message().await?.context("the stream ended early")?;
                for answer in response.answers {
                    match answer.answer {
                        Some(Answer::Accepted(_)) => accepted += 1,
                        other => bail!("a run was not accepted: {other:?}"),
                    }
                }
            }
            Ok(())
        };
        tokio::try_join!(submit, accept)?;
        Ok(())
    }

    /// Submits one run, and waits for its end.
    pub(crate) async fn run_once(&self) -> Result<Once> {
        let started = Instant::now();
        let run = self.submit_one().await?;
        let accepted = started.elapsed();
        run.ended().await?;
        Ok(Once {
            accepted,
            ended: started.elapsed(),
        })
    }

    /// Submits one run, and waits until it is durable.
    pub(crate) async fn submit_one(&self) -> Result<Submitted> {
        let request = v1::SubmitWorkflowsRequest {
            submissions: vec![self.submission(1, true)],
        };
        let (requests, outgoing) = mpsc::channel(1);
        requests.send(request).await?;
        let answers = self
            .service
            .clone()
            .submit_workflows(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        let mut run = Submitted {
            answers,
            waiting: VecDeque::new(),
            _requests: requests,
        };
        match run.next().await? {
            Answer::Accepted(_) => Ok(run),
            other => bail!("the run was not accepted: {other:?}"),
        }
    }

    /// What the cache of the coordinator did so far.
    pub(crate) async fn cache_statistics(&self) -> Result<v1::CacheStatistics> {
        let request = v1::GetCacheStatisticsRequest {};
        let response = self.cache.clone().get_cache_statistics(request).await?;
        let statistics = response.into_inner().statistics;
        statistics.context("there are statistics")
    }

    /// Asks for a run by its id, and fails where it is not open.
    pub(crate) async fn expect_open(&self, run_id: String) -> Result<()> {
        let request = v1::GetRunRequest { run_id };
        let response = self.service.clone().get_run(request).await?.into_inner();
        let summary = response.run.and_then(|run| run.summary);
        let status = summary.context("the run has a summary")?.status();
        if status != v1::RunStatus::Running {
            bail!("the run is {status:?}");
        }
        Ok(())
    }

    /// Keeps `in_flight` runs open for a time, and waits for the last of them.
    pub(crate) async fn keep_in_flight(
        &mut self,
        in_flight: usize,
        time: Duration,
    ) -> Result<Round> {
        self.closed_loop(in_flight, |_, elapsed| elapsed < time)
            .await
    }

    /// Runs the workflow at least `runs` times, `in_flight` at once.
    pub(crate) async fn complete(&mut self, in_flight: usize, runs: u64) -> Result<Round> {
        self.closed_loop(in_flight, |submitted, _| submitted < runs)
            .await
    }

    fn submission(&self, tag: u64, report_end: bool) -> v1::Submission {
        v1::Submission {
            tag,
            report_end,
            request: Some(v1::SubmitWorkflowRequest {
                workflow: Some(self.source.clone()),
                ..Default::default()
            }),
        }
    }

    /// Replaces runs that ended as long as `more` says so, of the runs so far and the time.
    async fn closed_loop(
        &mut self,
        in_flight: usize,
        more: impl Fn(u64, Duration) -> bool,
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
                    self.submission(next_tag, true)
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
            if ended > 0 && more(runs + submitted.len() as u64, started.elapsed()) {
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
