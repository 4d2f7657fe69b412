//! A client of the gRPC API that speaks the vocabulary and waits with a deadline.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::TaskStatus;
use levelflow_common::event::{RunEvent, RunUpdate};
use levelflow_common::limits::MAX_MESSAGE_BYTES;
use levelflow_common::view::RunView;
use levelflow_proto::v1::workflow_service_client::WorkflowServiceClient;
use levelflow_proto::v1::workflow_source::Source;
use levelflow_proto::{ApiError, from_status, v1};
use serde_json::Value;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

use crate::harness::DEADLINE;

/// How often to look where no event tells.
const POLL: Duration = Duration::from_millis(10);

/// A client of one server.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) service: WorkflowServiceClient<Channel>,
}

impl Client {
    pub(crate) async fn connect(address: &str) -> Self {
        Self::over(channel(address).await)
    }

    pub(crate) fn over(channel: Channel) -> Self {
        let service = WorkflowServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(usize::MAX);
        Self { service }
    }

    pub(crate) async fn submit(
        &self,
        request: v1::SubmitWorkflowRequest,
    ) -> Result<v1::SubmitWorkflowResponse, ApiError> {
        answer(self.service.clone().submit_workflow(request)).await
    }

    /// Submits a workflow and gives the id of its run.
    pub(crate) async fn start(&self, workflow: &Value) -> String {
        self.submit(submission(workflow)).await.unwrap().run_id
    }

    pub(crate) async fn get(&self, run_id: &str) -> Result<RunView, ApiError> {
        let run_id = run_id.to_owned();
        let request = v1::GetRunRequest { run_id };
        let response = answer(self.service.clone().get_run(request)).await?;
        Ok(response.run.unwrap().try_into().unwrap())
    }

    pub(crate) async fn list(
        &self,
        request: v1::ListRunsRequest,
    ) -> Result<v1::ListRunsResponse, ApiError> {
        answer(self.service.clone().list_runs(request)).await
    }

    pub(crate) async fn cancel(&self, run_id: &str) -> Result<v1::CancelRunResponse, ApiError> {
        let request = v1::CancelRunRequest {
            run_id: run_id.to_owned(),
            reason: "enough".to_owned(),
        };
        answer(self.service.clone().cancel_run(request)).await
    }

    pub(crate) async fn resume(&self, run_id: &str) -> Result<v1::ResumeRunResponse, ApiError> {
        let run_id = run_id.to_owned();
        answer(
            self.service
                .clone()
                .resume_run(v1::ResumeRunRequest { run_id }),
        )
        .await
    }

    /// How a task stands, and why.
    pub(crate) async fn explain(
        &self,
        run_id: &str,
        task_id: &str,
    ) -> (v1::TaskStatus, Vec<v1::Reason>) {
        let request = v1::ExplainTaskRequest {
            run_id: run_id.to_owned(),
            task_id: task_id.to_owned(),
            item: None,
        };
        let response = answer(self.service.clone().explain_task(request))
            .await
            .unwrap();
        (response.status(), response.reasons)
    }

    pub(crate) async fn watch(&self, run_id: &str, after: u64) -> Result<Updates, ApiError> {
        let request = v1::WatchRunRequest {
            run_id: run_id.to_owned(),
            after_sequence: after,
            ..Default::default()
        };
        let stream = answer(self.service.clone().watch_run(request)).await?;
        Ok(Updates(stream))
    }

    /// Every recorded update of a run that has ended or is about to.
    pub(crate) async fn history(&self, run_id: &str) -> Vec<RunUpdate> {
        let mut updates = self.watch(run_id, 0).await.unwrap();
        let mut history: Vec<RunUpdate> = Vec::new();
        while let Some(update) = updates.next().await.unwrap() {
            if is_recorded(&update) {
                history.push(update);
            }
        }
        history
    }

    /// Waits for the end of a run.
    pub(crate) async fn ended(&self, run_id: &str) -> RunView {
        self.history(run_id).await;
        self.get(run_id).await.unwrap()
    }

    /// Waits until something has happened in a run, according to its journal.
    pub(crate) async fn until(&self, run_id: &str, happened: impl Fn(&RunEvent) -> bool) {
        let mut updates = self.watch(run_id, 0).await.unwrap();
        while let Some(update) = updates.next().await.unwrap() {
            if update.events.iter().any(&happened) {
                return;
            }
        }
        panic!("run {run_id} ended first");
    }

    /// Waits until the first task runs on a worker. The journal does not tell.
    pub(crate) async fn until_running(&self, run_id: &str, worker: &str) {
        let is_running = async || {
            let run = self.get(run_id).await.unwrap();
            let task = &run.tasks[0];
            let on = task.worker.as_ref().is_some_and(|on| *on.0 == *worker);
            on && task.status == TaskStatus::Running
        };
        eventually("the worker has the task", is_running).await;
    }
}

/// What happens in a run.
pub(crate) struct Updates(Streaming<v1::WatchRunResponse>);

impl Updates {
    pub(crate) async fn next(&mut self) -> Result<Option<RunUpdate>, ApiError> {
        let update = timeout(DEADLINE, self.0.message())
            .await
            .expect("something happens before the deadline")
            .map_err(|status| from_status(&status))?;
        Ok(update.map(|update| update.try_into().unwrap()))
    }
}

/// Live updates have no record of their own, and are not repeated.
pub(crate) fn is_recorded(update: &RunUpdate) -> bool {
    !update
        .events
        .iter()
        .any(|event| matches!(event, RunEvent::AttemptStarted { .. }))
}

pub(crate) async fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    timeout(DEADLINE, endpoint.tcp_nodelay(true).connect())
        .await
        .expect("the server takes the connection before the deadline")
        .unwrap()
}

/// A workflow as a file that is sent.
pub(crate) fn submission(workflow: &Value) -> v1::SubmitWorkflowRequest {
    v1::SubmitWorkflowRequest {
        workflow: Some(source(workflow.to_string())),
        ..Default::default()
    }
}

pub(crate) fn source(text: impl Into<Bytes>) -> v1::WorkflowSource {
    v1::WorkflowSource {
        source: Some(Source::Text(text.into())),
    }
}

/// Waits for what no event tells of.
pub(crate) async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let poll = async {
        while !holds().await {
            tokio::time::sleep(POLL).await;
        }
    };
    if timeout(DEADLINE, poll).await.is_err() {
        panic!("not before the deadline: {what}");
    }
}

/// Waits for an answer.
pub(crate) async fn answer<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, ApiError> {
    timeout(DEADLINE, call)
        .await
        .expect("the server answers before the deadline")
        .map(Response::into_inner)
        .map_err(|status| from_status(&status))
}
