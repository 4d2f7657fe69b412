//! KEDA's `externalscaler.ExternalScaler`: what is decided about workers, for Kubernetes to carry out.
//!
//! There is one metric, the number of workers that are wanted, with a target of 1 for each: so KEDA's own formula,
//! the metric divided by the target, gives what was decided.

use std::pin::Pin;

use futures_util::Stream;
use levelflow_common::Code;
use levelflow_common::suggest::did_you_mean;
use levelflow_proto::keda::external_scaler_server::ExternalScaler;
use levelflow_proto::keda::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec,
    MetricValue, ScaledObjectRef,
};
use levelflow_proto::{ApiError, FieldViolation};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Backend;
use super::autoscale::decided;
use crate::autoscale::Decisions;

/// The number of workers that are wanted.
const METRIC: &str = "levelflow_workers_wanted";
/// What one worker counts in it.
const TARGET: u8 = 1;

/// What a trigger can say to us.
const QUEUE: &str = "queue";
/// The same where it is read from the environment of the workers.
const QUEUE_FROM_ENVIRONMENT: &str = "queueFromEnv";
/// What it says to KEDA itself, which passes everything on.
const OF_KEDA: [&str; 6] = [
    "scalerAddress",
    "enableTLS",
    "unsafeSsl",
    "caCert",
    "tlsClientCert",
    "tlsClientKey",
];

/// Answers that may wait for a client that reads slowly.
const BUFFER: usize = 4;

/// The service that KEDA asks.
#[derive(Clone)]
pub(crate) struct KedaScaler(pub(crate) Backend);

#[tonic::async_trait]
impl ExternalScaler for KedaScaler {
    type StreamIsActiveStream =
        Pin<Box<dyn Stream<Item = Result<IsActiveResponse, Status>> + Send>>;

    async fn is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<IsActiveResponse>, Status> {
        let mut decisions = self.decisions(Some(request.into_inner())).await?;
        let result = decided(&mut decisions).await?.is_active;
        Ok(Response::new(IsActiveResponse { result }))
    }

    async fn stream_is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        let decisions = self.decisions(Some(request.into_inner())).await?;
        let (answers, receiver) = mpsc::channel(BUFFER);
        levelflow_runtime::task::spawn("tell KEDA", tell(decisions, answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        self.decisions(Some(request.into_inner())).await?;
        let spec = MetricSpec {
            metric_name: METRIC.to_owned(),
            target_size: TARGET.into(),
            target_size_float: TARGET.into(),
        };
        Ok(Response::new(GetMetricSpecResponse {
            metric_specs: vec![spec],
        }))
    }

    async fn get_metrics(
        &self,
        request: Request<GetMetricsRequest>,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        let request = request.into_inner();
        if request.metric_name != METRIC {
            let problem = format!("is `{}`; there is only `{METRIC}`", request.metric_name);
            return Err(invalid("metricName", problem).into());
        }
        let mut decisions = self.decisions(request.scaled_object_ref).await?;
        let wanted = decided(&mut decisions).await?.wanted;
        let value = MetricValue {
            metric_name: METRIC.to_owned(),
            metric_value: wanted.into(),
            metric_value_float: wanted.into(),
        };
        Ok(Response::new(GetMetricsResponse {
            metric_values: vec![value],
        }))
    }
}

impl KedaScaler {
    async fn decisions(&self, scaled: Option<ScaledObjectRef>) -> Result<Decisions, ApiError> {
        let scaled = scaled.unwrap_or_default();
        let queue = queue(&scaled)?;
        self.0.decisions(queue).await
    }
}

/// The queue that a trigger names; empty for all.
fn queue(scaled: &ScaledObjectRef) -> Result<&str, ApiError> {
    let mut queue = "";
    for (key, value) in &scaled.scaler_metadata {
        match key.as_str() {
            QUEUE | QUEUE_FROM_ENVIRONMENT if value.is_empty() => {
                let field = format!("scalerMetadata.{key}");
                return Err(invalid(field, "is empty; leave it away for all queues"));
            }
            QUEUE | QUEUE_FROM_ENVIRONMENT => queue = value,
            key if OF_KEDA.contains(&key) => {}
            key => {
                let known = did_you_mean(key, [QUEUE, QUEUE_FROM_ENVIRONMENT])
                    .unwrap_or_else(|| format!("there is only `{QUEUE}`"));
                let field = format!("scalerMetadata.{key}");
                return Err(invalid(field, format!("is not known; {known}")));
            }
        }
    }
    Ok(queue)
}

fn invalid(field: impl Into<String>, problem: impl Into<String>) -> ApiError {
    let (field, problem) = (field.into(), problem.into());
    let mut error = ApiError::new(Code::RequestInvalid, format!("`{field}` {problem}"));
    error.violations = vec![FieldViolation::new(field, problem)];
    error
}

/// Tells how it is, and then each change, until the client or the coordinator goes.
async fn tell(mut decisions: Decisions, answers: mpsc::Sender<Result<IsActiveResponse, Status>>) {
    let mut told = None;
    loop {
        let active = (decisions.borrow_and_update().as_ref()).map(|decision| decision.is_active);
        if let Some(result) = active
            && told != active
        {
            if answers.send(Ok(IsActiveResponse { result })).await.is_err() {
                return;
            }
            told = active;
        }
        tokio::select! {
            changed = decisions.changed() => if changed.is_err() {
                return;
            },
            () = answers.closed() => return,
        }
    }
}
