//! `levelflow list`: runs, the newest first.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use levelflow_common::RunStatus;
use levelflow_proto::json::RunList;

use crate::arguments::{ConnectionArguments, pair};
use crate::client::ListFilter;
use crate::connection::{Connection, Work};
use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;
use crate::render::run;
use crate::render::time::now;

/// List runs, the newest first
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only runs that stand like this; may be given several times
    #[arg(long = "status", value_name = "STATUS", value_parser = status_parser())]
    statuses: Vec<RunStatus>,
    /// Only runs of this workflow
    #[arg(long, value_name = "NAME")]
    workflow: Option<String>,
    /// Only runs with this label; may be given several times
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// The most runs to list
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Go on where an earlier list ended
    #[arg(long, value_name = "TOKEN")]
    page_token: Option<String>,
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
}

fn status_parser() -> impl TypedValueParser<Value = RunStatus> {
    PossibleValuesParser::new(RunStatus::ALL.map(RunStatus::as_str))
        .try_map(|word| RunStatus::parse(&word).ok_or("unknown status"))
}

pub(crate) async fn execute(arguments: Arguments, context: &Context) -> Result<Exit, CliError> {
    let connection = Connection::open(&context.settings, Work::LeaveAlone).await?;
    let page = connection
        .client
        .list(ListFilter {
            statuses: arguments.statuses,
            workflow: arguments.workflow,
            labels: arguments.labels.into_iter().collect(),
            limit: arguments.limit,
            page_token: arguments.page_token,
        })
        .await;
    connection.close().await;
    let page = page?;
    let next = page.next_page_token.as_deref();
    if context.json {
        let list = RunList::new(&page.runs, next);
        context.print(&serde_json::to_string_pretty(&list)?)?;
        return Ok(Exit::Success);
    }
    if page.runs.is_empty() {
        context.remark("no runs");
    } else {
        context.print(&run::list(&page.runs, now(), context.terminal.out))?;
    }
    if let Some(token) = next {
        context.remark(&format!("there are more; go on with --page-token {token}"));
    }
    Ok(Exit::Success)
}
