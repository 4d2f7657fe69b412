//! `levelflow resume`: a failed or cancelled run goes on, with what succeeded kept.

use clap::Args;
use levelflow_common::RunId;
use serde_json::json;

use crate::arguments::ConnectionArguments;
use crate::connection::{Connection, Work};
use crate::context::{Context, Following};
use crate::error::CliError;
use crate::exit::Exit;
use crate::follow::OnInterrupt;
use crate::render::counted;

/// Go on from a failed or cancelled run: a new run keeps the results of what succeeded
///
/// Without a coordinator in another process the new run is run to its end here.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The id of the run
    #[arg(value_name = "RUN")]
    run: RunId,
    /// Follow the new run to its end; the exit code is then that of the run
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
}

pub(crate) async fn execute(arguments: Arguments, context: &Context) -> Result<Exit, CliError> {
    let connection = Connection::open(&context.settings, Work::Do).await?;
    let result = resume(&arguments, context, &connection).await;
    connection.close().await;
    result
}

async fn resume(
    arguments: &Arguments,
    context: &Context,
    connection: &Connection,
) -> Result<Exit, CliError> {
    let resumed = connection.client.resume(arguments.run).await?;
    let run_id = resumed.run_id;
    let kept = counted(resumed.kept as usize, "task");
    if arguments.wait || connection.is_embedded() {
        context.remark(&format!("{kept} of run {} kept", arguments.run));
        let on_interrupt = if connection.is_embedded() {
            OnInterrupt::CancelRun
        } else {
            OnInterrupt::Detach
        };
        let followed = context
            .follow(
                &connection.client,
                run_id,
                Following {
                    quiet: false,
                    from_start: true,
                    on_interrupt,
                },
            )
            .await?;
        return context.conclude(run_id, &followed, None);
    }
    if context.json {
        let answer = json!({ "run_id": run_id, "kept": resumed.kept });
        context.print(&answer.to_string())?;
    } else {
        context.print(&run_id.to_string())?;
        context.remark(&format!("{kept} of run {} kept", arguments.run));
    }
    Ok(Exit::Success)
}
