//! `levelflow submit`: a run for a coordinator in another process.

use clap::Args;
use serde_json::json;

use crate::arguments::{ConnectionArguments, FileArgument, SubmissionArguments};
use crate::connection::Connection;
use crate::context::{Context, Following};
use crate::error::CliError;
use crate::exit::Exit;
use crate::follow::OnInterrupt;
use crate::source::{read_inputs, read_workflow};

/// Submit a run to a coordinator; when this ends, the run is durable
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    file: FileArgument,
    #[command(flatten)]
    submission: SubmissionArguments,
    /// The same key gives the same run, however often it is submitted
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Follow the run to its end; the exit code is then that of the run
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
}

pub(crate) async fn execute(arguments: Arguments, context: &Context) -> Result<Exit, CliError> {
    let workflow = read_workflow(&arguments.file.file)?.workflow;
    let inputs = read_inputs(&workflow, &arguments.submission.inputs)?;
    let submission = arguments
        .submission
        .submission(workflow, inputs, arguments.idempotency_key);
    let connection = Connection::open_remote(&context.settings).await?;
    let accepted = connection.client.submit(submission).await?;
    let run_id = accepted.run_id;
    if arguments.wait {
        let followed = context
            .follow(
                &connection.client,
                run_id,
                Following {
                    quiet: false,
                    from_start: true,
                    on_interrupt: OnInterrupt::Detach,
                },
            )
            .await?;
        return context.conclude(run_id, &followed, None);
    }
    if context.json {
        let answer = json!({ "run_id": run_id, "existing": accepted.existing });
        context.print(&answer.to_string())?;
    } else {
        context.print(&run_id.to_string())?;
        if accepted.existing {
            context.remark("the idempotency key was used before: this is the run of that time");
        }
    }
    Ok(Exit::Success)
}
