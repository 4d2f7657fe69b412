//! The client of the API: requests and answers in the words of the vocabulary.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use levelflow_common::event::RunUpdate;
use levelflow_common::limits::MAX_MESSAGE_BYTES;
use levelflow_common::overview::{AlertView, Overview, WorkerView};
use levelflow_common::view::{BreakerView, RunSummary, RunView};
use levelflow_common::{
    CacheUse, ChunkCursor, ChunkEvent, Code, Priority, RunId, RunStatus, TaskStatus, Workflow,
};
use levelflow_proto::v1::autoscale_service_client::AutoscaleServiceClient;
use levelflow_proto::v1::cache_service_client::CacheServiceClient;
use levelflow_proto::v1::cluster_service_client::ClusterServiceClient;
use levelflow_proto::v1::invalidate_cache_request::Target;
use levelflow_proto::v1::workflow_service_client::WorkflowServiceClient;
use levelflow_proto::{ApiError, Enumeration as _, InvalidField, from_status, v1};
use tonic::transport::{Channel, Endpoint};

use crate::chunks::FollowedTask;
use crate::connection::url;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an idle connection is probed, and how long a probe may take.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Bytes of a file of results that are sent at once.
const WARM_UP_PIECE: usize = 1024 * 1024;

/// A connection to the API of a coordinator, in this process or another.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    service: WorkflowServiceClient<Channel>,
    caches: CacheServiceClient<Channel>,
    clusters: ClusterServiceClient<Channel>,
    autoscales: AutoscaleServiceClient<Channel>,
}

/// A run to submit.
#[derive(Clone, Debug)]
pub(crate) struct Submission {
    pub(crate) workflow: Workflow,
    /// A JSON object.
    pub(crate) inputs: Bytes,
    pub(crate) priority: Option<Priority>,
    pub(crate) labels: BTreeMap<String, String>,
    /// What the tasks do with the cache.
    pub(crate) cache: CacheUse,
    pub(crate) idempotency_key: Option<String>,
}

/// A run that was accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepted {
    pub(crate) run_id: RunId,
    /// The idempotency key had been used before: this is the run of that time.
    pub(crate) existing: bool,
}

/// Which runs to list.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListFilter {
    pub(crate) statuses: Vec<RunStatus>,
    pub(crate) workflow: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) limit: u32,
    pub(crate) page_token: Option<String>,
}

/// A page of a list of runs.
#[derive(Clone, Debug)]
pub(crate) struct RunPage {
    pub(crate) runs: Vec<RunSummary>,
    pub(crate) next_page_token: Option<String>,
}

/// The run that goes on from another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resumed {
    pub(crate) run_id: RunId,
    /// Tasks whose results were kept.
    pub(crate) kept: u32,
}

/// Why a task stands as it does.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Explanation {
    pub(crate) status: TaskStatus,
    /// The most important first.
    pub(crate) reasons: Vec<Reason>,
}

/// One reason.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Reason {
    /// A stable code, such as `backoff`.
    pub(crate) code: String,
    /// A sentence for people.
    pub(crate) text: String,
}

impl Client {
    /// The client over a channel that is there.
    pub(crate) fn new(channel: Channel) -> Self {
        let caches = CacheServiceClient::new(channel.clone());
        let clusters = ClusterServiceClient::new(channel.clone());
        let autoscales = AutoscaleServiceClient::new(channel.clone());
        let service = WorkflowServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self {
            service,
            caches,
            clusters,
            autoscales,
        }
    }

    /// Connects to a server at `host:port`, at a URL, or at `unix:` and the path of a socket.
    pub(crate) async fn connect(address: &str) -> Result<Self, ApiError> {
        let endpoint = Endpoint::from_shared(url(address)).map_err(|_| {
            ApiError::new(
                Code::ConfigInvalid,
                format!("`{address}` is not an address; write for example 127.0.0.1:7400"),
            )
        })?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|error| {
                ApiError::new(
                    Code::ServerUnreachable,
                    format!("no server answers at {address}: {}", root_cause(&error)),
                )
            })?;
        Ok(Self::new(channel))
    }

    pub(crate) async fn submit(&self, submission: Submission) -> Result<Accepted, ApiError> {
        let request = v1::SubmitWorkflowRequest {
            workflow: Some(v1::WorkflowSource {
                source: Some(v1::workflow_source::Source::Definition(
                    submission.workflow.into(),
                )),
            }),
            inputs: submission.inputs,
            priority: submission
                .priority
                .map(Priority::number)
                .unwrap_or_default(),
            labels: submission.labels,
            cache: submission.cache.number(),
            idempotency_key: submission.idempotency_key.unwrap_or_default(),
            ..Default::default()
        };
        let response = self
            .service
            .clone()
            .submit_workflow(request)
            .await
            .map_err(|status| from_status(&status))?
            .into_inner();
        Ok(Accepted {
            run_id: answered_run_id(&response.run_id)?,
            existing: response.existing,
        })
    }

    pub(crate) async fn get(&self, run_id: RunId) -> Result<RunView, ApiError> {
        let request = v1::GetRunRequest {
            run_id: run_id.to_string(),
        };
        self.service
            .clone()
            .get_run(request)
            .await
            .map_err(|status| from_status(&status))?
            .into_inner()
            .run
            .ok_or_else(|| InvalidField::missing("run"))
            .and_then(RunView::try_from)
            .map_err(|error| unreadable(&error))
    }

    pub(crate) async fn list(&self, filter: ListFilter) -> Result<RunPage, ApiError> {
        let request = v1::ListRunsRequest {
            statuses: filter.statuses.into_iter().map(RunStatus::number).collect(),
            workflow: filter.workflow.unwrap_or_default(),
            labels: filter.labels,
            page_size: filter.limit,
            page_token: filter.page_token.unwrap_or_default(),
            ..Default::default()
        };
        let response = self
            .service
            .clone()
            .list_runs(request)
            .await
            .map_err(|status| from_status(&status))?
            .into_inner();
        Ok(RunPage {
            runs: response
                .runs
                .into_iter()
                .map(RunSummary::try_from)
                .collect::<Result<_, _>>()
                .map_err(|error| unreadable(&error))?,
            next_page_token: Some(response.next_page_token).filter(|token| !token.is_empty()),
        })
    }

    /// What happens to a run after a sequence number, until it ends.
    pub(crate) async fn watch(
        &self,
        run_id: RunId,
        after_sequence: u64,
    ) -> Result<impl Stream<Item = Result<RunUpdate, ApiError>> + Unpin + use<>, ApiError> {
        let request = v1::WatchRunRequest {
            run_id: run_id.to_string(),
            after_sequence,
            ..Default::default()
        };
        let stream = self
            .service
            .clone()
            .watch_run(request)
            .await
            .map_err(|status| from_status(&status))?
            .into_inner();
        Ok(stream.map(|response| {
            let response = response.map_err(|status| from_status(&status))?;
            RunUpdate::try_from(response).map_err(|error| unreadable(&error))
        }))
    }

    /// The chunks of a task after a cursor, until it ends.
    pub(crate) async fn watch_task(
        &self,
        task: FollowedTask<'_>,
        after: Option<ChunkCursor>,
    ) -> Result<impl Stream<Item = Result<ChunkEvent, ApiError>> + Unpin + use<>, ApiError> {
        let request = v1::WatchTaskRequest {
            run_id: task.run_id.to_string(),
            task_id: task.task_id.to_owned(),
            item: task.item,
            after: after.map(Into::into),
        };
        let stream = self
            .service
            .clone()
            .watch_task(request)
            .await
            .map_err(|status| from_status(&status))?
            .into_inner();
        Ok(stream.map(|response| {
            let response = response.map_err(|status| from_status(&status))?;
            ChunkEvent::try_from(response).map_err(|error| unreadable(&error))
        }))
    }

    pub(crate) async fn cancel(
        &self,
        run_id: RunId,
        reason: String,
    ) -> Result<RunStatus, ApiError> {
        let request = v1::CancelRunRequest {
            run_id: run_id.to_string(),
            reason,
        };
        let response = self
            .service
            .clone()
            .cancel_run(request)
            .await
            .map_err(|status| from_status(&status))?
            .into_inner();
        RunStatus::required("status", response.status).map_err(|error| unreadable(&error))
    }

    pub(crate) async fn resume(&self, run_id: RunId) -> Result<Resumed, ApiError> {
        let request = v1::ResumeRunRequest {
            run_id: run_id.to_string(),
        };
        let response = self
            .service
            .clone()
            .resume_run(request)
            .await
            .map_err(|status| from_status(&status))?
            .into_inner();
        Ok(Resumed {
            run_id: answered_run_id(&response.run_id)?,
            kept: response.kept,
        })
    }

    pub(crate) async fn explain(
        &self,
        run_id: RunId,
        task_id: &str,
        item: Option<u32>,
    ) -> Result<Explanation, ApiError> {
        let request = v1::ExplainTaskRequest {
            run_id: run_id.to_string(),
            task_id: task_id.to_owned(),
            item,
        };
        let response = self
            .service
            .clone()
            .explain_task(request)
            .await
            .map_err(|status| from_status(&status))?
            .into_inner();
        Ok(Explanation {
            status: TaskStatus::required("status", response.status)
                .map_err(|error| unreadable(&error))?,
            reasons: response
                .reasons
                .into_iter()
                .map(|reason| Reason {
                    code: reason.code,
                    text: reason.text,
                })
                .collect(),
        })
    }
}

/// The coordinator, its workers and its breakers.
impl Client {
    pub(crate) async fn overview(&self) -> Result<Overview, ApiError> {
        let response = self
            .service
            .clone()
            .get_overview(v1::GetOverviewRequest {})
            .await
            .map_err(|status| from_status(&status))?;
        Ok(response.into_inner().into())
    }

    /// The newest alerts, the oldest of them first.
    pub(crate) async fn alerts(&self, limit: u32) -> Result<Vec<AlertView>, ApiError> {
        let request = v1::ListAlertsRequest {
            after_number: 0,
            limit,
        };
        let response = self
            .service
            .clone()
            .list_alerts(request)
            .await
            .map_err(|status| from_status(&status))?;
        let alerts = response.into_inner().alerts.into_iter();
        Ok(alerts.map(Into::into).collect())
    }

    pub(crate) async fn workers(&self) -> Result<Vec<WorkerView>, ApiError> {
        let response = self
            .service
            .clone()
            .list_workers(v1::ListWorkersRequest {})
            .await
            .map_err(|status| from_status(&status))?
            .into_inner();
        let workers = response.workers.into_iter().map(WorkerView::try_from);
        workers
            .collect::<Result<_, _>>()
            .map_err(|error| unreadable(&error))
    }

    pub(crate) async fn breakers(&self) -> Result<Vec<BreakerView>, ApiError> {
        let response = self
            .service
            .clone()
            .list_breakers(v1::ListBreakersRequest {})
            .await
            .map_err(|status| from_status(&status))?
            .into_inner();
        let breakers = response.breakers.into_iter().map(BreakerView::try_from);
        breakers
            .collect::<Result<_, _>>()
            .map_err(|error| unreadable(&error))
    }

    pub(crate) async fn reset_breaker(&self, upstream: String) -> Result<BreakerView, ApiError> {
        self.service
            .clone()
            .reset_breaker(v1::ResetBreakerRequest { upstream })
            .await
            .map_err(|status| from_status(&status))?
            .into_inner()
            .breaker
            .ok_or_else(|| InvalidField::missing("breaker"))
            .and_then(BreakerView::try_from)
            .map_err(|error| unreadable(&error))
    }
}

/// The coordinators that share a store.
impl Client {
    pub(crate) async fn cluster(&self) -> Result<v1::GetClusterResponse, ApiError> {
        let mut clusters = self.clusters.clone();
        let response = clusters.get_cluster(v1::GetClusterRequest {}).await;
        let response = response.map_err(|status| from_status(&status))?;
        Ok(response.into_inner())
    }
}

/// The number of workers.
impl Client {
    pub(crate) async fn autoscale(
        &self,
        queue: String,
    ) -> Result<v1::GetAutoscaleResponse, ApiError> {
        let request = v1::GetAutoscaleRequest { queue };
        let response = self.autoscales.clone().get_autoscale(request).await;
        Ok(response
            .map_err(|status| from_status(&status))?
            .into_inner())
    }
}

/// The cache of the coordinator.
impl Client {
    pub(crate) async fn cache_statistics(&self) -> Result<v1::CacheStatistics, ApiError> {
        self.caches
            .clone()
            .get_cache_statistics(v1::GetCacheStatisticsRequest {})
            .await
            .map_err(|status| from_status(&status))?
            .into_inner()
            .statistics
            .ok_or_else(|| unreadable(&InvalidField::missing("statistics")))
    }

    /// Removes results; says how many there were.
    pub(crate) async fn invalidate_cache(
        &self,
        tenant: String,
        target: Target,
    ) -> Result<u64, ApiError> {
        let target = Some(target);
        let request = v1::InvalidateCacheRequest { tenant, target };
        let answer = self.caches.clone().invalidate_cache(request).await;
        let answer = answer.map_err(|status| from_status(&status))?;
        Ok(answer.into_inner().removed)
    }

    pub(crate) async fn warm_up_cache(
        &self,
        lines: Vec<u8>,
    ) -> Result<v1::WarmUpCacheResponse, ApiError> {
        let lines = Bytes::from(lines);
        let pieces = (0..lines.len()).step_by(WARM_UP_PIECE).map(move |from| {
            let to = lines.len().min(from + WARM_UP_PIECE);
            v1::WarmUpCacheRequest {
                lines: lines.slice(from..to),
            }
        });
        let pieces = futures_util::stream::iter(pieces);
        let answer = self.caches.clone().warm_up_cache(pieces).await;
        Ok(answer.map_err(|status| from_status(&status))?.into_inner())
    }
}

fn answered_run_id(text: &str) -> Result<RunId, ApiError> {
    text.parse()
        .map_err(|error: levelflow_common::id::InvalidRunId| {
            unreadable(&InvalidField::new("run_id", error))
        })
}

/// An answer that makes no sense is not the fault of who asked.
fn unreadable(error: &InvalidField) -> ApiError {
    ApiError::new(
        Code::ProtocolUnsupported,
        format!("the server's answer cannot be read: {error}"),
    )
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
