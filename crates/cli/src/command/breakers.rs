//! `levelflow breakers`: the breakers of upstreams, and closing one by hand.

use clap::{Args, Subcommand};
use levelflow_proto::json::BreakerList;

use crate::arguments::ConnectionArguments;
use crate::connection::{Connection, Work};
use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;
use crate::render::breaker;
use crate::render::time::now;

/// Show which upstreams may be called, or close a breaker by hand
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the breakers of all upstreams that were called lately; this is the default
    List,
    /// Close the breaker of an upstream: a few attempts find out whether it is back
    Reset {
        /// The upstream, as it is listed, such as http:api.example.com:443
        #[arg(value_name = "UPSTREAM")]
        upstream: String,
    },
}

pub(crate) async fn execute(arguments: Arguments, context: &Context) -> Result<Exit, CliError> {
    let connection = Connection::open(&context.settings, Work::LeaveAlone).await?;
    let client = &connection.client;
    let answer = match arguments.action {
        None | Some(Action::List) => client.breakers().await,
        Some(Action::Reset { upstream }) => {
            let breaker = client.reset_breaker(upstream).await;
            breaker.map(|breaker| vec![breaker])
        }
    };
    connection.close().await;
    let breakers = answer?;
    if context.json {
        let list = BreakerList::from(&breakers[..]);
        context.print(&serde_json::to_string_pretty(&list)?)?;
    } else if breakers.is_empty() {
        context.remark("no upstream was called lately");
    } else {
        context.print(&breaker::table(&breakers, now(), context.terminal.out))?;
    }
    Ok(Exit::Success)
}
