//! The gRPC services. Each call turns wire messages into the vocabulary, asks the actor or the store,
//! and turns the answer back.

mod autoscale;
mod breakers;
mod cache;
mod chunks;
mod cluster;
mod control;
mod follow;
mod keda;
mod listing;
mod overview;
mod plan;
mod recorded;
mod run_chunks;
mod session;
mod source;
mod stream;
mod submit;
mod workflow;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use levelflow_cache::Cache;
use levelflow_common::{Code, RunId};
use levelflow_engine::{Definition, RunNumber, RunState};
use levelflow_proto::ApiError;
use levelflow_store::{SequencedRecord, Shards, Store, StoreError};
use tokio::sync::{mpsc, oneshot};
use tonic::metadata::MetadataMap;

use crate::actor::{Message, Refused};
use crate::autoscale::Autoscaling;
use crate::clock::Clock;
use crate::cluster::{Cluster, FORWARDED};
use crate::definitions::Definitions;
use crate::error::RecoveryError;
use crate::semantic::Semantic;

pub(crate) use self::autoscale::Autoscales;
pub(crate) use self::cache::Caches;
pub(crate) use self::chunks::TaskFollowing;
pub(crate) use self::cluster::Clusters;
pub(crate) use self::keda::KedaScaler;
pub(crate) use self::overview::alert_view;
pub(crate) use self::session::{Sessions, serve as serve_session};
pub(crate) use self::submit::bind_inputs;
pub(crate) use self::workflow::Workflows;

/// What every call needs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Backend {
    pub(crate) actor: mpsc::Sender<Message>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) definitions: Arc<Definitions>,
    /// Where runs are.
    pub(crate) cluster: Cluster,
    /// Who has which shard, where coordinators share the store.
    pub(crate) shards: Option<Arc<dyn Shards>>,
    /// How long a shard is owned without a word from its owner.
    pub(crate) shard_lease: Duration,
    pub(crate) clock: Clock,
    /// The result cache, if results are kept.
    pub(crate) cache: Option<Cache>,
    /// Results by the meaning of a text, if results are kept.
    pub(crate) semantic: Option<Arc<Semantic>>,
    /// How many workers are wanted, if that is decided here.
    pub(crate) autoscaling: Option<Autoscaling>,
    pub(crate) dedup_window: Duration,
    pub(crate) next_session: Arc<AtomicU64>,
}

/// Records that are read from the store at once.
const PAGE: usize = 1000;

impl Backend {
    /// The same for a request, which may come from another coordinator.
    pub(crate) fn of(&self, metadata: &MetadataMap) -> Self {
        let mut backend = self.clone();
        if metadata.contains_key(FORWARDED) {
            backend.cluster = self.cluster.forwarded();
        }
        backend
    }

    /// Asks the actor and waits for its answer.
    pub(crate) async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.send(message(reply)).await?;
        answer.await.map_err(|_| stopping())
    }

    pub(crate) async fn send(&self, message: Message) -> Result<(), ApiError> {
        self.actor.send(message).await.map_err(|_| stopping())
    }

    /// The state of a run that the store knows, from its journal.
    pub(crate) async fn stored_state(&self, run_id: RunId) -> Result<RunState, ApiError> {
        let summary = self
            .store
            .summary(run_id)
            .await
            .map_err(store_error)?
            .ok_or_else(|| run_not_found(run_id))?;
        let definition = self.definition(summary.digest).await?;
        let mut records = Vec::new();
        loop {
            let after = records
                .last()
                .map_or(0, |last: &SequencedRecord| last.sequence);
            let page = self
                .store
                .journal(run_id, after, PAGE)
                .await
                .map_err(store_error)?
                .ok_or_else(|| run_not_found(run_id))?;
            let is_last = page.len() < PAGE;
            records.extend(page);
            if is_last {
                break;
            }
        }
        // The number only names the run in errors here.
        let journal = records.iter().map(|sequenced| &sequenced.record);
        RunState::replay(RunNumber(0), definition, journal)
            .map_err(|error| recovery_error(&error.into()))
    }

    pub(crate) async fn definition(
        &self,
        digest: levelflow_common::WorkflowDigest,
    ) -> Result<Arc<Definition>, ApiError> {
        self.definitions
            .find(&*self.store, digest)
            .await
            .map_err(|error| recovery_error(&error))?
            .ok_or_else(|| {
                ApiError::new(
                    Code::WorkflowUnknown,
                    format!("workflow {digest} is not known; send its definition"),
                )
            })
    }
}

pub(crate) fn parse_run_id(text: &str) -> Result<RunId, ApiError> {
    text.parse()
        .map_err(|error: levelflow_common::id::InvalidRunId| {
            let mut api = ApiError::new(Code::RequestInvalid, error.to_string());
            api.violations = vec![levelflow_proto::FieldViolation::new(
                "run_id",
                error.to_string(),
            )];
            api
        })
}

pub(crate) fn run_not_found(run_id: RunId) -> ApiError {
    ApiError::new(Code::RunNotFound, format!("no run {run_id}"))
}

pub(crate) fn refused(refused: &Refused) -> ApiError {
    let mut error = ApiError::new(refused.code(), refused.to_string());
    error.retry_after = refused.retry_after();
    error
}

pub(crate) fn stopping() -> ApiError {
    refused(&Refused::Stopping)
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "its callers map errors with it"
)]
pub(crate) fn store_error(error: StoreError) -> ApiError {
    tracing::error!(error = %error, code = %error.code(), "store did not answer");
    ApiError::new(error.code(), error.to_string())
}

pub(crate) fn recovery_error(error: &RecoveryError) -> ApiError {
    tracing::error!(error = %error, code = %error.code(), "run could not be read");
    ApiError::new(error.code(), error.to_string())
}
