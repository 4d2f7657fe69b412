//! `levelflow.v1.WorkflowService`.

use levelflow_common::event::TaskRef;
use levelflow_proto::v1;
use levelflow_proto::v1::workflow_service_server::WorkflowService;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::plan::plan;
use super::stream::SubmitStream;
use super::{Backend, parse_run_id};
use levelflow_proto::Enumeration as _;

/// The service of clients.
#[derive(Clone)]
pub(crate) struct Workflows(pub(crate) Backend);

type Stream<T> = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl WorkflowService for Workflows {
    async fn submit_workflow(
        &self,
        request: Request<v1::SubmitWorkflowRequest>,
    ) -> Result<Response<v1::SubmitWorkflowResponse>, Status> {
        let backend = self.0.of(request.metadata());
        Ok(Response::new(backend.submit(request.into_inner()).await?))
    }

    type SubmitWorkflowsStream = ReceiverStream<Result<v1::SubmitWorkflowsResponse, Status>>;

    async fn submit_workflows(
        &self,
        request: Request<Streaming<v1::SubmitWorkflowsRequest>>,
    ) -> Result<Response<Self::SubmitWorkflowsStream>, Status> {
        let responses = SubmitStream::serve(self.0.clone(), request.into_inner());
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn get_run(
        &self,
        request: Request<v1::GetRunRequest>,
    ) -> Result<Response<v1::GetRunResponse>, Status> {
        let backend = self.0.of(request.metadata());
        let run_id = parse_run_id(&request.get_ref().run_id)?;
        let view = backend.view(run_id).await?;
        Ok(Response::new(v1::GetRunResponse {
            run: Some(view.into()),
        }))
    }

    async fn list_runs(
        &self,
        request: Request<v1::ListRunsRequest>,
    ) -> Result<Response<v1::ListRunsResponse>, Status> {
        let backend = self.0.of(request.metadata());
        let page = backend.list(request.into_inner()).await?;
        Ok(Response::new(v1::ListRunsResponse {
            runs: page.runs.into_iter().map(Into::into).collect(),
            next_page_token: page.next.unwrap_or_default(),
        }))
    }

    type WatchRunStream = Stream<v1::WatchRunResponse>;

    async fn watch_run(
        &self,
        request: Request<v1::WatchRunRequest>,
    ) -> Result<Response<Self::WatchRunStream>, Status> {
        let backend = self.0.of(request.metadata());
        let request = request.into_inner();
        let run_id = parse_run_id(&request.run_id)?;
        let known = request.cursors.into_iter().filter_map(|known| {
            let task_id = known.task_id.into();
            let item = known.item;
            Some((TaskRef { task_id, item }, known.after?.into()))
        });
        let chunks = request.chunks.then(|| known.collect());
        let updates = backend.follow_with(run_id, request.after_sequence, chunks);
        let messages =
            ReceiverStream::new(updates).map(|update| update.map(Into::into).map_err(Status::from));
        Ok(Response::new(Box::pin(messages)))
    }

    type WatchTaskStream = Stream<v1::WatchTaskResponse>;

    async fn watch_task(
        &self,
        request: Request<v1::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        let backend = self.0.of(request.metadata());
        let request = request.into_inner();
        let run_id = parse_run_id(&request.run_id)?;
        let after = request.after.map(Into::into);
        let events = backend.follow_task(run_id, request.task_id, request.item, after);
        let messages =
            ReceiverStream::new(events).map(|event| event.map(Into::into).map_err(Status::from));
        Ok(Response::new(Box::pin(messages)))
    }

    async fn cancel_run(
        &self,
        request: Request<v1::CancelRunRequest>,
    ) -> Result<Response<v1::CancelRunResponse>, Status> {
        let backend = self.0.of(request.metadata());
        let request = request.into_inner();
        let run_id = parse_run_id(&request.run_id)?;
        let status = backend.cancel(run_id, request.reason).await?;
        Ok(Response::new(v1::CancelRunResponse {
            status: status.number(),
        }))
    }

    async fn resume_run(
        &self,
        request: Request<v1::ResumeRunRequest>,
    ) -> Result<Response<v1::ResumeRunResponse>, Status> {
        let backend = self.0.of(request.metadata());
        let run_id = parse_run_id(&request.get_ref().run_id)?;
        Ok(Response::new(backend.resume(run_id).await?))
    }

    async fn plan_workflow(
        &self,
        request: Request<v1::PlanWorkflowRequest>,
    ) -> Result<Response<v1::PlanWorkflowResponse>, Status> {
        let definition = self.0.read_source(request.into_inner().workflow).await?;
        Ok(Response::new(plan(&definition)))
    }

    async fn explain_task(
        &self,
        request: Request<v1::ExplainTaskRequest>,
    ) -> Result<Response<v1::ExplainTaskResponse>, Status> {
        let backend = self.0.of(request.metadata());
        let request = request.into_inner();
        let run_id = parse_run_id(&request.run_id)?;
        let explanation = backend
            .explain(run_id, request.task_id, request.item)
            .await?;
        Ok(Response::new(v1::ExplainTaskResponse {
            status: explanation.status.number(),
            reasons: explanation
                .reasons
                .into_iter()
                .map(|reason| v1::Reason {
                    code: reason.code.into_owned(),
                    text: reason.text,
                })
                .collect(),
        }))
    }

    async fn list_breakers(
        &self,
        _: Request<v1::ListBreakersRequest>,
    ) -> Result<Response<v1::ListBreakersResponse>, Status> {
        let breakers = self.0.breakers().await?;
        Ok(Response::new(v1::ListBreakersResponse {
            breakers: breakers.into_iter().map(Into::into).collect(),
        }))
    }

    async fn reset_breaker(
        &self,
        request: Request<v1::ResetBreakerRequest>,
    ) -> Result<Response<v1::ResetBreakerResponse>, Status> {
        let breaker = self.0.reset_breaker(request.into_inner().upstream).await?;
        Ok(Response::new(v1::ResetBreakerResponse {
            breaker: Some(breaker.into()),
        }))
    }

    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let workers = self.0.workers().await?;
        Ok(Response::new(v1::ListWorkersResponse {
            workers: workers.into_iter().map(Into::into).collect(),
        }))
    }

    async fn get_overview(
        &self,
        _: Request<v1::GetOverviewRequest>,
    ) -> Result<Response<v1::GetOverviewResponse>, Status> {
        Ok(Response::new(self.0.overview().await?.into()))
    }

    async fn list_alerts(
        &self,
        request: Request<v1::ListAlertsRequest>,
    ) -> Result<Response<v1::ListAlertsResponse>, Status> {
        let request = request.into_inner();
        let alerts = self.0.alerts(request.after_number, request.limit).await?;
        Ok(Response::new(v1::ListAlertsResponse {
            alerts: alerts.into_iter().map(Into::into).collect(),
        }))
    }
}
