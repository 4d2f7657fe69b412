//! A coordinator, and where it is wanted a worker, in this process.

use std::path::Path;
use std::time::Duration;

use levelflow_coordinator::{Coordinator, Listen, Storage};
use levelflow_runtime::task;
use levelflow_worker::{SqlConnection, Worker, WorkerEnd, WorkerError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::error::CliError;
use crate::settings::Settings;

/// The database that a worker in this process has without any configuration: a SQLite file beside the
/// runs.
pub(crate) const LOCAL_CONNECTION: &str = "local";

/// A coordinator, and where it is wanted a worker, in this process.
pub(crate) struct Embedded {
    coordinator: Coordinator,
    worker: Option<(
        CancellationToken,
        JoinHandle<Result<WorkerEnd, WorkerError>>,
    )>,
    grace: Duration,
}

impl Embedded {
    /// Starts a coordinator.
    pub(crate) async fn start(
        settings: &Settings,
        storage: Storage,
        listen: Option<Listen>,
    ) -> Result<Self, CliError> {
        let coordinator = Coordinator::start(settings.coordinator(listen, storage)).await?;
        Ok(Self {
            coordinator,
            worker: None,
            grace: settings.stop_grace.0,
        })
    }

    /// Starts a worker beside it, which also runs programs and calls this machine: who starts one here
    /// can do so anyway.
    pub(crate) fn start_worker(
        &mut self,
        settings: &Settings,
        data_dir: &Path,
    ) -> Result<(), CliError> {
        let mut config = settings.worker.clone();
        config
            .connections
            .entry(LOCAL_CONNECTION.to_owned())
            .or_insert_with(|| {
                let file = data_dir.join("local.db");
                SqlConnection::at(format!("sqlite:{}", file.display()))
            });
        // The coordinator's memory counts, too, and nobody else is there to take the tasks.
        config.memory.critical_mib = 0;
        config.memory.park_low = false;
        let worker = Worker::builder()
            .config(config)
            .channel(self.coordinator.channel())
            .allow_process(true)
            .guard_programs(true)
            .allow_http("127.0.0.0/8")
            .allow_http("::1")
            .drain_timeout(self.grace)
            .build()?;
        let stop = CancellationToken::new();
        let handle = task::spawn("worker", worker.run(stop.clone()));
        self.worker = Some((stop, handle));
        Ok(())
    }

    /// A client inside the process.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.coordinator.channel())
    }

    /// Where it serves gRPC to other processes.
    pub(crate) fn address(&self) -> Option<&Listen> {
        self.coordinator.address()
    }

    /// Where it serves HTTP.
    pub(crate) fn http_address(&self) -> Option<&Listen> {
        self.coordinator.http_address()
    }

    /// Lets the attempts that run end, within the grace, and stops.
    pub(crate) async fn stop(self) {
        self.coordinator.announce_stop();
        if let Some((stop, handle)) = self.worker {
            stop.cancel();
            match handle.await {
                Ok(Ok(WorkerEnd::Stopped | WorkerEnd::OutOfMemory)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "worker ended with an error"),
                Err(error) => tracing::error!(%error, "worker panicked"),
            }
        }
        self.coordinator.shutdown(self.grace).await;
    }
}
