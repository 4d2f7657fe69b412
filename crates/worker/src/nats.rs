//! Reaching coordinators over NATS.

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;

use levelflow_proto::v1;
use levelflow_transport::Session;
use levelflow_transport::nats::{Connector, Nats, NatsConfig, NatsError};
use tokio::sync::OnceCell;
use tonic::Status;

use crate::connection::OpenError;
use crate::error::WorkerError;

/// A coordinator, or any, over NATS.
#[derive(Clone)]
pub(crate) struct NatsTarget {
    shared: Arc<Shared>,
    /// The id of the coordinator; any if not given.
    coordinator: Option<String>,
}

/// One connection for all sessions of the worker.
struct Shared {
    config: NatsConfig,
    connector: OnceCell<Connector>,
}

impl fmt::Debug for NatsTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsTarget")
            .field("config", &self.shared.config)
            .field("coordinator", &self.coordinator)
            .finish_non_exhaustive()
    }
}

impl NatsTarget {
    /// Any coordinator.
    pub(crate) fn any(config: NatsConfig) -> Self {
        let shared = Shared {
            config,
            connector: OnceCell::new(),
        };
        Self {
            shared: Arc::new(shared),
            coordinator: None,
        }
    }

    /// One coordinator, over the same connection.
    pub(crate) fn towards(&self, coordinator: &str) -> Self {
        Self {
            shared: self.shared.clone(),
            coordinator: Some(coordinator.to_owned()),
        }
    }

    /// Opens a session with a first frame.
    pub(crate) async fn open(
        &self,
        first: v1::WorkerFrame,
    ) -> Result<Session<v1::WorkerFrame, v1::CoordinatorFrame>, OpenError> {
        let connector = self.shared.connector().await?;
        let session = match &self.coordinator {
            Some(coordinator) => connector.open(coordinator).await?,
            None => connector.open(&any_of(connector).await?).await?,
        };
        let closed = |_| Status::unavailable("the session closed during the handshake");
        session.outbound.send(first).await.map_err(closed)?;
        Ok(session)
    }
}

impl Shared {
    async fn connector(&self) -> Result<&Connector, NatsError> {
        let connect = async || Connector::start(Nats::connect(&self.config).await?).await;
        self.connector.get_or_try_init(connect).await
    }
}

/// One of the coordinators that are there; waits for one.
async fn any_of(connector: &Connector) -> Result<String, Status> {
    let mut there = connector.coordinators();
    let there = there.wait_for(|ids| !ids.is_empty()).await;
    let ids = there.map_err(|_| Status::unavailable("the connection to NATS was closed"))?;
    let place = rand::random_range(0..ids.len());
    Ok(ids.iter().nth(place).cloned().unwrap_or_default())
}

impl From<NatsError> for OpenError {
    fn from(error: NatsError) -> Self {
        if error.is_final() {
            return Self::Final(WorkerError::Nats(error));
        }
        let cause = error.source().map(|cause| format!(": {cause}"));
        let message = format!("{error}{}", cause.unwrap_or_default());
        Self::Passing(Box::new(Status::unavailable(message)))
    }
}
