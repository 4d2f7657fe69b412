//! `levelflow workers`: the workers of a coordinator.

use clap::Args;
use levelflow_proto::json::WorkerList;

use crate::arguments::ConnectionArguments;
use crate::connection::Connection;
use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;
use crate::render::time::now;
use crate::render::worker;

/// Show the workers of a coordinator, how busy they are and what their tasks share
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
}

pub(crate) async fn execute(context: &Context) -> Result<Exit, CliError> {
    let connection = Connection::open_remote(&context.settings).await?;
    let workers = connection.client.workers().await;
    connection.close().await;
    let workers = workers?;
    if context.json {
        let list = WorkerList::from(&workers[..]);
        context.print(&serde_json::to_string_pretty(&list)?)?;
    } else if workers.is_empty() {
        context.remark("no worker is connected");
    } else {
        let styling = context.terminal.out;
        let mut text = worker::table(&workers, now(), styling);
        if let Some(pools) = worker::pools(&workers, styling) {
            text.push('\n');
            text.push_str(&pools);
        }
        context.print(&text)?;
    }
    Ok(Exit::Success)
}
