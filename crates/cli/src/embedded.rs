//! A coordinator, and where it is wanted a worker, in this process.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use levelflow_coordinator::{Coordinator, Listen, Storage};
use levelflow_runtime::config::FILE_VARIABLE;
use levelflow_runtime::task;
use levelflow_runtime::telemetry::LogFormat;
use levelflow_worker::{SqlConnection, Worker, WorkerBuilder, WorkerEnd, WorkerError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::error::CliError;
use crate::local_workers::{LocalWorkers, WorkerProgram};
use crate::settings::Settings;

/// The database that a worker in this process has without any configuration: a SQLite file beside the
/// runs.
pub(crate) const LOCAL_CONNECTION: &str = "local";

/// What `http` tasks of workers that are started here may call beside the public internet: this machine.
pub(crate) const LOCAL_TARGETS: [&str; 2] = ["127.0.0.0/8", "::1"];

/// The address of the database that workers that are started here have.
pub(crate) fn local_database(data_dir: &Path) -> String {
    format!("sqlite:{}", data_dir.join("local.db").display())
}

/// A coordinator, and where it is wanted a worker, in this process.
pub(crate) struct Embedded {
    coordinator: Coordinator,
    worker: Option<(
        CancellationToken,
        JoinHandle<Result<WorkerEnd, WorkerError>>,
    )>,
    /// Workers in processes of their own.
    processes: Option<LocalWorkers>,
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
            processes: None,
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
            .or_insert_with(|| SqlConnection::at(local_database(data_dir)));
        // The coordinator's memory counts, too, and nobody else is there to take the tasks.
        config.memory.critical_mib = 0;
        config.memory.park_low = false;
        let worker = Worker::builder()
            .config(config)
            .channel(self.coordinator.channel())
            .allow_process(true)
            .guard_programs(true)
            .drain_timeout(self.grace);
        let worker = LOCAL_TARGETS
            .into_iter()
            .fold(worker, WorkerBuilder::allow_http);
        let worker = worker.build()?;
        let stop = CancellationToken::new();
        let handle = task::spawn("worker", worker.run(stop.clone()));
        self.worker = Some((stop, handle));
        Ok(())
    }

    /// Starts processes with workers, as many as the coordinator wants.
    pub(crate) fn start_processes(
        &mut self,
        settings: &Settings,
        arguments: Vec<OsString>,
        config_file: Option<&Path>,
    ) -> Result<(), CliError> {
        let address = self.address().unwrap_or(&settings.listen).to_string();
        let decisions = self.coordinator.autoscale();
        let decisions = decisions.expect("whoever starts processes has set a policy for them");
        let given = ["worker", "--stop-with-stdin", "--address", &address];
        // What workers tell of each task is not for the terminal of the coordinator.
        let log = settings.log.as_deref().unwrap_or("warn");
        let format = match settings.log_format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        let given = given
            .into_iter()
            .chain(["--log", log, "--log-format", format]);
        let mut environment = Vec::new();
        if let Some(file) = config_file {
            environment.push((FILE_VARIABLE.into(), file.into()));
        }
        let program = WorkerProgram {
            path: std::env::current_exe().map_err(CliError::OwnProgram)?,
            arguments: given.map(OsString::from).chain(arguments).collect(),
            environment,
            grace: self.grace,
        };
        self.processes = Some(LocalWorkers::start(program, decisions));
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
        if let Some(processes) = self.processes {
            processes.stop().await;
        }
        self.coordinator.shutdown(self.grace).await;
    }
}
