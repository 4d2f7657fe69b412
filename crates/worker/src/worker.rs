//! A worker: it works for its coordinators until it is told to end.

use std::collections::BTreeMap;
use std::sync::Arc;

use levelflow_proto::protocol::{Feature, OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION};
use levelflow_proto::v1;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::builder::WorkerBuilder;
use crate::config::WorkerConfig;
use crate::connection::Target;
use crate::division::Division;
use crate::end::WorkerEnd;
use crate::error::WorkerError;
use crate::executor::batch::Gatherer;
use crate::executor::isolated::Role;
use crate::executor::{Executors, HttpPool, SqlDatabases};
use crate::links::{Links, Parts};
use crate::memory::{Relief, watch_memory};

/// A worker that is ready to run.
pub struct Worker {
    config: WorkerConfig,
    target: Target,
    executors: Executors,
    handler_versions: BTreeMap<String, String>,
    gatherers: Vec<Gatherer>,
    role: Option<Role>,
    reliefs: Vec<Relief>,
}

impl Worker {
    /// Starts to describe a worker.
    pub fn builder() -> WorkerBuilder {
        WorkerBuilder::default()
    }

    pub(crate) fn new(
        config: WorkerConfig,
        target: Target,
        executors: Executors,
        handler_versions: BTreeMap<String, String>,
        gatherers: Vec<Gatherer>,
        role: Option<Role>,
        reliefs: Vec<Relief>,
    ) -> Self {
        Self {
            config,
            target,
            executors,
            handler_versions,
            gatherers,
            role,
            reliefs,
        }
    }

    /// The name by which the coordinator knows the worker.
    pub fn id(&self) -> &str {
        &self.config.id
    }

    /// The connections of the worker's `http` tasks.
    pub fn http_pool(&self) -> HttpPool {
        self.executors.http_pool()
    }

    /// The databases that the worker's `sql` tasks can name.
    pub fn databases(&self) -> SqlDatabases {
        self.executors.databases().clone()
    }

    /// Runs until `shutdown` fires and the worker is drained. Connects, and connects again whenever
    /// the stream is lost, without end.
    ///
    /// It also ends, once it is drained, when its memory stays critical: see
    /// [`MemoryConfig::restart_after`](crate::MemoryConfig::restart_after) and [`WorkerEnd`].
    ///
    /// In a process that runs an [isolated handler](WorkerBuilder::isolated_handler) for another worker
    /// this serves that worker instead, and the process ends here when it is no longer needed.
    ///
    /// # Errors
    /// When the coordinator refuses the worker for good, or outcomes could not be delivered in time
    /// after `shutdown` fired.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<WorkerEnd, WorkerError> {
        if let Some(role) = self.role.take() {
            let lost = role.serve().await;
            return lost.map(|never| match never {}).map_err(WorkerError::Child);
        }
        let stop = shutdown.child_token();
        let served = self.serve(stop.clone()).await;
        if shutdown.is_cancelled() || !stop.is_cancelled() {
            return served.map(|()| WorkerEnd::Stopped);
        }
        match served {
            Ok(()) => {}
            // Their tasks are tried again when the leases end.
            Err(WorkerError::Unacknowledged(outcomes)) => {
                tracing::warn!(outcomes, "outcomes are given up");
            }
            Err(error) => return Err(error),
        }
        Ok(WorkerEnd::OutOfMemory)
    }

    async fn serve(self, shutdown: CancellationToken) -> Result<(), WorkerError> {
        let Self {
            config,
            target,
            executors,
            handler_versions,
            gatherers,
            role: _,
            reliefs,
        } = self;
        for gatherer in gatherers {
            levelflow_runtime::task::spawn("gatherer", gatherer(shutdown.clone()));
        }
        executors.cache().open();
        let hello = hello(&config, &executors, handler_versions);
        let memory = watch_memory(&config.memory, reliefs, shutdown.clone());
        let division = Division::new(config.slots, config.prefetch);
        Links::serve(Parts {
            config,
            target,
            hello,
            executors: Arc::new(executors),
            division,
            memory,
            shutdown,
        })
        .await
    }
}

fn hello(
    config: &WorkerConfig,
    executors: &Executors,
    handler_versions: BTreeMap<String, String>,
) -> v1::Hello {
    v1::Hello {
        worker_id: config.id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL_VERSION,
        oldest_protocol: OLDEST_PROTOCOL_VERSION,
        features: Feature::names(),
        slots: u32::try_from(config.slots).unwrap_or(u32::MAX),
        weight: config.weight,
        queues: config.queues.clone(),
        labels: config.labels.clone(),
        kinds: executors.kinds().iter().map(ToString::to_string).collect(),
        handlers: executors.handlers().map(str::to_owned).collect(),
        handler_versions,
        connections: executors.connections().collect(),
        held: Vec::new(),
        instance: Uuid::now_v7().as_u64_pair().1,
    }
}
