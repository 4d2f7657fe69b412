//! `levelflow coordinator`: a coordinator for workers in other processes.

use std::ffi::OsString;

use clap::Args;
use levelflow_coordinator::{Listen, Storage};
use serde_json::json;

use crate::arguments::{DataDirArgument, ListenArgument};
use crate::connection::data_dir;
use crate::context::Context;
use crate::embedded::Embedded;
use crate::error::CliError;
use crate::exit::Exit;
use crate::settings::{Flags, Settings};

/// Serve a coordinator for workers in other processes
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    listen: ListenArgument,
    #[command(flatten)]
    data_dir: DataDirArgument,
}

impl Arguments {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        self.listen.flags(flags);
        self.data_dir.flags(flags);
    }
}

pub(crate) async fn execute(context: &Context) -> Result<Exit, CliError> {
    serve(context, &context.settings, Workers::Elsewhere).await
}

/// The workers that a coordinator starts.
pub(crate) enum Workers {
    /// None.
    Elsewhere,
    /// One in this process.
    Here,
    /// Processes of this program with these arguments, as many as are wanted.
    Processes(Vec<OsString>),
}

/// Serves until the user interrupts. The first line says where, for people and for programs that
/// started this one.
pub(crate) async fn serve(
    context: &Context,
    settings: &Settings,
    workers: Workers,
) -> Result<Exit, CliError> {
    let data_dir = &data_dir(settings)?;
    let storage = settings.storage(data_dir.clone());
    let is_shared = matches!(storage, Storage::Postgres(_));
    let listen = Some(settings.listen.clone());
    let mut embedded = Embedded::start(settings, storage, listen).await?;
    match workers {
        Workers::Elsewhere => {}
        Workers::Here => embedded.start_worker(settings, data_dir)?,
        Workers::Processes(arguments) => {
            let config = context.config_file.as_deref();
            embedded.start_processes(settings, arguments, config)?;
        }
    }
    let address = embedded.address().unwrap_or(&settings.listen).clone();
    if context.json {
        let answer = json!({
            "address": address,
            "http": embedded.http_address(),
            "data_dir": (!is_shared).then_some(data_dir),
            "pid": std::process::id(),
        });
        context.print(&answer.to_string())?;
    } else {
        let http = embedded.http_address().map(|http| match http {
            Listen::Tcp(http) => format!(", HTTP on http://{http}"),
            Listen::Unix(_) => format!(", HTTP on {http}"),
        });
        context.print(&format!(
            "serving gRPC on {address}{}, data in {}",
            http.unwrap_or_default(),
            match is_shared {
                true => "PostgreSQL".into(),
                false => data_dir.to_string_lossy(),
            }
        ))?;
    }
    context.interrupt.cancelled().await;
    tracing::info!("stopping");
    embedded.stop().await;
    Ok(Exit::Success)
}
