//! Serving workers over NATS.

use std::error::Error as _;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use levelflow_transport::nats::{Listener, Nats, NatsConfig, NatsError};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::service::{Backend, serve_session};

const SHORTEST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What serves workers over NATS.
pub(crate) struct Server {
    pub(crate) config: NatsConfig,
    pub(crate) coordinator: String,
    pub(crate) backend: Backend,
    /// Fires when the coordinator takes no more sessions; those that are open go on.
    pub(crate) leaving: CancellationToken,
}

impl Server {
    /// Serves as soon as NATS is there.
    ///
    /// # Errors
    /// When NATS is there and refuses, or the settings are wrong.
    pub(crate) async fn start(self) -> Result<JoinHandle<()>, NatsError> {
        let listener = match self.listen().await {
            Ok(listener) => Some(listener),
            Err(error) if error.is_final() => return Err(error),
            Err(error) => {
                warn(&error);
                None
            }
        };
        let server = async move {
            let Some(listener) = self.begin(listener).await else {
                return;
            };
            self.serve(listener).await;
        };
        Ok(levelflow_runtime::task::spawn("nats server", server))
    }

    async fn listen(&self) -> Result<Listener, NatsError> {
        let nats = Nats::connect(&self.config).await?;
        Listener::start(&nats, &self.coordinator).await
    }

    /// Tries until it can listen. None when it is to leave before that.
    async fn begin(&self, listener: Option<Listener>) -> Option<Listener> {
        if listener.is_some() {
            return listener;
        }
        let mut waits = ExponentialBuilder::new()
            .with_min_delay(SHORTEST_WAIT)
            .with_max_delay(LONGEST_WAIT)
            .with_jitter()
            .without_max_times()
            .build();
        let trying = async {
            loop {
                sleep(waits.next().unwrap_or(LONGEST_WAIT)).await;
                match self.listen().await {
                    Ok(listener) => return listener,
                    Err(error) => warn(&error),
                }
            }
        };
        self.leaving.run_until_cancelled(trying).await
    }

    async fn serve(&self, mut listener: Listener) {
        tracing::info!("workers are served over nats");
        loop {
            let session = self.leaving.run_until_cancelled(listener.accept()).await;
            match session {
                Some(Some(session)) => serve_session(&self.backend, session),
                // The connection is made again for as long as the process lives.
                Some(None) => return tracing::error!("the connection to nats was closed"),
                None => return listener.leave().await,
            }
        }
    }
}

fn warn(error: &NatsError) {
    let cause = error.source().map(ToString::to_string);
    tracing::warn!(%error, cause, "workers are not served over nats yet");
}
