//! `levelflow get`: a run with its tasks.

use clap::Args;
use levelflow_common::RunId;
use levelflow_proto::json::{self, TaskOutputs};

use crate::arguments::ConnectionArguments;
use crate::connection::{Connection, Work};
use crate::context::{Context, output_text};
use crate::error::CliError;
use crate::exit::Exit;
use crate::render::run;
use crate::render::time::now;

/// Show a run with its tasks; with --json also their outputs
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The id of the run
    #[arg(value_name = "RUN")]
    run: RunId,
    /// Print only this output of the workflow
    #[arg(long, value_name = "NAME", conflicts_with = "json")]
    output: Option<String>,
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
}

pub(crate) async fn execute(arguments: Arguments, context: &Context) -> Result<Exit, CliError> {
    let connection = Connection::open(&context.settings, Work::LeaveAlone).await?;
    let view = connection.client.get(arguments.run).await;
    connection.close().await;
    let view = view?;
    match arguments.output {
        Some(name) => context.print(&output_text(&view, &name)?)?,
        None if context.json => {
            let run = json::Run::new(&view, TaskOutputs::Included);
            context.print(&serde_json::to_string_pretty(&run)?)?;
        }
        None => context.print(&run::summary(&view, now(), context.terminal.out))?,
    }
    Ok(Exit::Success)
}
