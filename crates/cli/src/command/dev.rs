//! `levelflow dev`: a coordinator that stays up, with a worker in the same process or in others.

use std::ffi::OsString;

use clap::Args;

use super::coordinator::{self, Workers};
use crate::arguments::{ConnectionsArgument, DataDirArgument, ListenArgument, SlotsArgument};
use crate::connection::data_dir;
use crate::context::Context;
use crate::embedded::{LOCAL_CONNECTION, LOCAL_TARGETS, local_database};
use crate::error::CliError;
use crate::exit::Exit;
use crate::local_workers::WorkerRange;
use crate::settings::Flags;

/// Serve a coordinator with workers that also run programs, on this machine
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Start processes for the workers, such as 4, or 2..16 for as many as the load needs. Without this there is
    /// one worker in the process of the coordinator [env: LEVELFLOW_DEV__WORKERS]
    #[arg(long, value_name = "COUNT|MIN..MAX")]
    workers: Option<WorkerRange>,
    #[command(flatten)]
    listen: ListenArgument,
    #[command(flatten)]
    slots: SlotsArgument,
    #[command(flatten)]
    connections: ConnectionsArgument,
    #[command(flatten)]
    data_dir: DataDirArgument,
}

impl Arguments {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        let workers = self.workers.map(|range| range.to_string());
        flags.text("dev.workers", workers.as_deref());
        self.listen.flags(flags);
        self.slots.flags(flags);
        self.connections.flags(flags);
        self.data_dir.flags(flags);
    }

    /// What a worker process is given so that it is as one in this process would be. The rest it finds where
    /// this process did: in the configuration file and in the environment.
    fn of_worker(&self, context: &Context) -> Result<Vec<OsString>, CliError> {
        let settings = &context.settings;
        let worker = &settings.worker;
        let mut arguments: Vec<OsString> = vec!["--allow-process".into()];
        let mut give = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
        give("--slots", worker.slots.to_string().into());
        for target in worker
            .http
            .allow
            .iter()
            .map(String::as_str)
            .chain(LOCAL_TARGETS)
        {
            give("--allow-http", target.into());
        }
        for (name, url) in self.connections.pairs() {
            give("--connection", format!("{name}={url}").into());
        }
        if !worker.connections.contains_key(LOCAL_CONNECTION) {
            let url = local_database(&data_dir(settings)?);
            give("--connection", format!("{LOCAL_CONNECTION}={url}").into());
        }
        Ok(arguments)
    }
}

pub(crate) async fn execute(arguments: &Arguments, context: &Context) -> Result<Exit, CliError> {
    let mut settings = context.settings.clone();
    let workers = match settings.dev.workers {
        None => Workers::Here,
        Some(range) => {
            let autoscale = settings.coordinator.autoscale.get_or_insert_default();
            (autoscale.min, autoscale.max) = (range.min, range.max);
            Workers::Processes(arguments.of_worker(context)?)
        }
    };
    Box::pin(coordinator::serve(context, &settings, workers)).await
}
