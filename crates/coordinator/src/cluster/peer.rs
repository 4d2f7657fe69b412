//! Another coordinator, as a client of its API.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use levelflow_common::event::{RunUpdate, TaskRef};
use levelflow_common::limits::MAX_MESSAGE_BYTES;
use levelflow_common::overview::Overview;
use levelflow_common::view::{RunSummary, RunView};
use levelflow_common::{ChunkCursor, ChunkEvent, Code, RunId, RunStatus, TaskStatus, WorkerId};
use levelflow_engine::autoscale::{Demand, QueueDemand, WorkerLoad};
use levelflow_engine::{Explanation, Reason};
use levelflow_proto::v1::autoscale_service_client::AutoscaleServiceClient;
use levelflow_proto::v1::workflow_service_client::WorkflowServiceClient;
use levelflow_proto::{ApiError, Enumeration as _, InvalidField, from_status, v1};
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Says that a request was passed on, and is not to be again.
pub(crate) const FORWARDED: &str = "levelflow-forwarded";

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often an idle connection is probed, and how long a probe may take.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// How long a request that is answered at once may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Another coordinator. Cheap to clone; connects when it is first asked, and again when it must.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    service: WorkflowServiceClient<InterceptedService<Channel, Forward>>,
    /// Shared, since it is seldom used and a peer is often copied.
    autoscale: Arc<AutoscaleServiceClient<InterceptedService<Channel, Forward>>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Forward;

impl Interceptor for Forward {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let one = MetadataValue::from_static("1");
        request.metadata_mut().insert(FORWARDED, one);
        Ok(request)
    }
}

impl Peer {
    /// The coordinator that serves gRPC at `host:port`; none if that is no address.
    pub(crate) fn new(address: &str) -> Option<Self> {
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .ok()?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .connect_lazy();
        let autoscale = AutoscaleServiceClient::with_interceptor(channel.clone(), Forward);
        let service = WorkflowServiceClient::with_interceptor(channel, Forward)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Some(Self {
            service,
            autoscale: Arc::new(autoscale),
        })
    }

    pub(crate) async fn submit(
        &self,
        request: v1::SubmitWorkflowRequest,
    ) -> Result<v1::SubmitWorkflowResponse, ApiError> {
        let response = self.service.clone().submit_workflow(soon(request)).await;
        answered(response)
    }

    pub(crate) async fn view(&self, run_id: RunId) -> Result<RunView, ApiError> {
        let request = v1::GetRunRequest {
            run_id: run_id.to_string(),
        };
        let response = answered(self.service.clone().get_run(soon(request)).await)?;
        let run = response.run.ok_or_else(|| InvalidField::missing("run"));
        run.and_then(RunView::try_from)
            .map_err(|error| unreadable(&error))
    }

    /// A page of a listing, with what this coordinator knows of the runs that it has.
    pub(crate) async fn list(
        &self,
        request: v1::ListRunsRequest,
    ) -> Result<Vec<RunSummary>, ApiError> {
        let response = answered(self.service.clone().list_runs(soon(request)).await)?;
        let runs = response.runs.into_iter().map(RunSummary::try_from);
        runs.collect::<Result<_, _>>()
            .map_err(|error| unreadable(&error))
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
        let response = answered(self.service.clone().cancel_run(soon(request)).await)?;
        RunStatus::required("status", response.status).map_err(|error| unreadable(&error))
    }

    pub(crate) async fn resume(&self, run_id: RunId) -> Result<v1::ResumeRunResponse, ApiError> {
        let request = v1::ResumeRunRequest {
            run_id: run_id.to_string(),
        };
        answered(self.service.clone().resume_run(soon(request)).await)
    }

    pub(crate) async fn explain(
        &self,
        run_id: RunId,
        task_id: String,
        item: Option<u32>,
    ) -> Result<Explanation, ApiError> {
        let request = v1::ExplainTaskRequest {
            run_id: run_id.to_string(),
            task_id,
            item,
        };
        let response = answered(self.service.clone().explain_task(soon(request)).await)?;
        let status = TaskStatus::required("status", response.status);
        let reasons = response.reasons.into_iter().map(|reason| Reason {
            code: reason.code.into(),
            text: reason.text,
        });
        Ok(Explanation {
            status: status.map_err(|error| unreadable(&error))?,
            reasons: reasons.collect(),
        })
    }

    pub(crate) async fn overview(&self) -> Result<Overview, ApiError> {
        let request = soon(v1::GetOverviewRequest {});
        answered(self.service.clone().get_overview(request).await).map(Into::into)
    }

    /// What waits with it for workers.
    pub(crate) async fn demand(&self) -> Result<Demand, ApiError> {
        let request = soon(v1::GetDemandRequest {});
        let mut autoscale = AutoscaleServiceClient::clone(&self.autoscale);
        let demand = answered(autoscale.get_demand(request).await)?;
        let queues = demand.queues.into_iter().map(|queue| QueueDemand {
            name: queue.name.into(),
            waiting: queue.waiting,
            unserved: queue.unserved,
            oldest_wait: Duration::from_micros(queue.oldest_wait_us),
            task_time: Duration::from_micros(queue.task_time_us),
        });
        let workers = demand.workers.into_iter().map(|worker| WorkerLoad {
            worker: WorkerId(worker.worker.into()),
            slots: worker.slots,
            leases: worker.leases,
            is_draining: worker.is_draining,
            queues: worker.queues.into_iter().collect(),
        });
        Ok(Demand {
            queues: queues.collect(),
            workers: workers.collect(),
            unheard: Vec::new(),
        })
    }

    /// The updates of a run after a sequence number, with the chunks of its tasks if what is known of
    /// them is given.
    pub(crate) async fn watch(
        &self,
        run_id: RunId,
        after_sequence: u64,
        chunks: Option<Vec<(TaskRef, ChunkCursor)>>,
    ) -> Result<impl Stream<Item = Result<RunUpdate, ApiError>> + Unpin + use<>, ApiError> {
        let with_chunks = chunks.is_some();
        let known = chunks.into_iter().flatten();
        let cursors = known.map(|(task, after)| v1::TaskCursor {
            task_id: task.task_id.as_ref().to_owned(),
            item: task.item,
            after: Some(after.into()),
        });
        let request = v1::WatchRunRequest {
            run_id: run_id.to_string(),
            after_sequence,
            chunks: with_chunks,
            cursors: cursors.collect(),
        };
        let updates = answered(self.service.clone().watch_run(request).await)?;
        Ok(updates.map(|update| {
            let update = update.map_err(|status| from_status(&status))?;
            RunUpdate::try_from(update).map_err(|error| unreadable(&error))
        }))
    }

    /// The chunks of a task after a cursor, until it ends.
    pub(crate) async fn watch_task(
        &self,
        run_id: RunId,
        task_id: String,
        item: Option<u32>,
        after: Option<ChunkCursor>,
    ) -> Result<impl Stream<Item = Result<ChunkEvent, ApiError>> + Unpin + use<>, ApiError> {
        let request = v1::WatchTaskRequest {
            run_id: run_id.to_string(),
            task_id,
            item,
            after: after.map(Into::into),
        };
        let events = answered(self.service.clone().watch_task(request).await)?;
        Ok(events.map(|event| {
            let event = event.map_err(|status| from_status(&status))?;
            ChunkEvent::try_from(event).map_err(|error| unreadable(&error))
        }))
    }
}

fn soon<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ANSWER_WITHIN);
    request
}

fn answered<T>(response: Result<tonic::Response<T>, Status>) -> Result<T, ApiError> {
    match response {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(from_status(&status)),
    }
}

fn unreadable(error: &InvalidField) -> ApiError {
    let message = format!("the answer of another coordinator cannot be read: {error}");
    ApiError::new(Code::ProtocolUnsupported, message)
}
