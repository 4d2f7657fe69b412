//! `levelflow cancel`: no attempt of a run starts any more.

use clap::Args;
use levelflow_common::RunId;
use serde_json::json;

use crate::arguments::ConnectionArguments;
use crate::connection::{Connection, Work};
use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;

/// Cancel a run: when this ends, no task of it starts any more
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The id of the run
    #[arg(value_name = "RUN")]
    run: RunId,
    /// Why, for who looks at the run later
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
}

pub(crate) async fn execute(arguments: Arguments, context: &Context) -> Result<Exit, CliError> {
    let connection = Connection::open(&context.settings, Work::LeaveAlone).await?;
    let status = connection
        .client
        .cancel(arguments.run, arguments.reason)
        .await;
    connection.close().await;
    let status = status?;
    if context.json {
        let answer = json!({ "run_id": arguments.run, "status": status });
        context.print(&answer.to_string())?;
    } else {
        context.print(&format!("run {} {}", arguments.run, status.as_str()))?;
    }
    Ok(Exit::Success)
}
