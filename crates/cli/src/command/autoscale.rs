//! `levelflow autoscale`: how many workers there should be, and why.

use clap::{Args, Subcommand};
use levelflow_proto::json::Autoscale;

use crate::arguments::ConnectionArguments;
use crate::connection::Connection;
use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;
use crate::render::autoscale;
use crate::settings::Flags;

/// Show how many workers there should be, and which rule says so
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the number of workers that is wanted, what each rule says with its numbers, which one decided, and
    /// when the number may change next
    Explain {
        /// Look only at the tasks of one queue and the workers that subscribe to it
        #[arg(long, value_name = "NAME")]
        queue: Option<String>,
        #[command(flatten)]
        connection: ConnectionArguments,
    },
}

impl Arguments {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        let Action::Explain { connection, .. } = &self.action;
        connection.flags(flags);
    }
}

pub(crate) async fn execute(arguments: Arguments, context: &Context) -> Result<Exit, CliError> {
    let Action::Explain { queue, .. } = arguments.action;
    let connection = Connection::open_remote(&context.settings).await?;
    let answer = connection.client.autoscale(queue.unwrap_or_default()).await;
    connection.close().await;
    let answer = answer?;
    if context.json {
        let decided = Autoscale::from(&answer);
        context.print(&serde_json::to_string_pretty(&decided)?)?;
    } else {
        context.print(&autoscale::explanation(&answer, context.terminal.out))?;
    }
    if !answer.unheard.is_empty() {
        let silent = answer.unheard.join(", ");
        context.remark(&format!(
            "what waits with these coordinators is not counted, since they do not answer: {silent}"
        ));
    }
    Ok(Exit::Success)
}
