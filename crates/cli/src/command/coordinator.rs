//! `levelflow coordinator`: a coordinator for workers in other processes.

use std::path::Path;

use clap::Args;
use levelflow_coordinator::{Listen, Storage};
use serde_json::json;

use crate::arguments::{DataDirArgument, ListenArgument};
use crate::connection::{Work, data_dir};
use crate::context::Context;
use crate::embedded::Embedded;
use crate::error::CliError;
use crate::exit::Exit;
use crate::settings::Flags;

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
    serve(context, &data_dir(&context.settings)?, Work::LeaveAlone).await
}

/// Serves until the user interrupts. The first line says where, for people and for programs that
/// started this one.
pub(crate) async fn serve(
    context: &Context,
    data_dir: &Path,
    work: Work,
) -> Result<Exit, CliError> {
    let settings = &context.settings;
    let storage = settings.storage(data_dir.to_owned());
    let is_shared = matches!(storage, Storage::Postgres(_));
    let listen = Some(settings.listen.clone());
    let mut embedded = Embedded::start(settings, storage, listen).await?;
    if work == Work::Do {
        embedded.start_worker(settings, data_dir)?;
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
