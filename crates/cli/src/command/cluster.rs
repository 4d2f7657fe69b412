//! `levelflow cluster`: the coordinators that share a store.

use clap::Args;
use levelflow_proto::json::Cluster;

use crate::arguments::ConnectionArguments;
use crate::connection::Connection;
use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;
use crate::render::cluster;

/// Show the coordinators that share a store, who has which shard, and how far behind they are
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// List every shard
    #[arg(long)]
    shards: bool,
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
}

pub(crate) async fn execute(arguments: &Arguments, context: &Context) -> Result<Exit, CliError> {
    let connection = Connection::open_remote(&context.settings).await?;
    let answer = connection.client.cluster().await;
    connection.close().await;
    let answer = answer?;
    if context.json {
        let cluster = Cluster::from(&answer);
        context.print(&serde_json::to_string_pretty(&cluster)?)?;
        return Ok(Exit::Success);
    }
    let styling = context.terminal.out;
    let mut text = cluster::coordinators(&answer, styling);
    if arguments.shards {
        text.push('\n');
        text.push_str(&cluster::shards(&answer, styling));
    }
    context.print(&text)?;
    let orphans = answer.shards.iter().filter(|it| it.owner.is_empty());
    let orphans = orphans.count();
    if orphans > 0 {
        context.remark(&format!("{orphans} shards have no owner just now"));
    }
    Ok(Exit::Success)
}
