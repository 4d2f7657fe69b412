//! `levelflow run`: a workflow from start to end, in this process.

use clap::Args;
use levelflow_common::{TaskKind, Workflow};

use crate::arguments::{
    ConnectionsArgument, DataDirArgument, FileArgument, SlotsArgument, SubmissionArguments,
};
use crate::connection::{Connection, Work, data_dir};
use crate::context::{Context, Following};
use crate::embedded::LOCAL_CONNECTION;
use crate::error::CliError;
use crate::exit::Exit;
use crate::follow::OnInterrupt;
use crate::settings::{Flags, Settings};
use crate::source::{read_inputs, read_workflow};

/// Run a workflow to its end, in this process and with nothing else installed
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    file: FileArgument,
    #[command(flatten)]
    submission: SubmissionArguments,
    /// Print only this output of the workflow
    #[arg(long, value_name = "NAME", conflicts_with = "json")]
    output: Option<String>,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    slots: SlotsArgument,
    #[command(flatten)]
    connections: ConnectionsArgument,
    #[command(flatten)]
    data_dir: DataDirArgument,
}

impl Arguments {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        self.slots.flags(flags);
        self.connections.flags(flags);
        self.data_dir.flags(flags);
    }
}

pub(crate) async fn execute(arguments: Arguments, context: &Context) -> Result<Exit, CliError> {
    let workflow = read_workflow(&arguments.file.file)?.workflow;
    check_connections(&workflow, &context.settings)?;
    let inputs = read_inputs(&workflow, &arguments.submission.inputs)?;
    let submission = arguments.submission.submission(workflow, inputs, None);
    let data_dir = data_dir(&context.settings)?;
    let connection = Connection::embedded(&context.settings, &data_dir, Work::Do).await?;
    let result = async {
        let run_id = connection.client.submit(submission).await?.run_id;
        let followed = context
            .follow(
                &connection.client,
                run_id,
                Following {
                    quiet: arguments.quiet,
                    from_start: true,
                    on_interrupt: OnInterrupt::CancelRun,
                },
            )
            .await?;
        context.conclude(run_id, &followed, arguments.output.as_deref())
    }
    .await;
    connection.close().await;
    result
}

/// Only the worker in this process will ever do the tasks, so a database that it does not have would be
/// waited for without end.
fn check_connections(workflow: &Workflow, settings: &Settings) -> Result<(), CliError> {
    let known = &settings.worker.connections;
    for task in &workflow.tasks {
        if task.kind == TaskKind::Sql
            && let Some(name) = task.with["connection"].as_str()
            && name != LOCAL_CONNECTION
            && !known.contains_key(name)
        {
            return Err(CliError::NoConnection {
                task: task.id.clone(),
                name: name.to_owned(),
            });
        }
    }
    Ok(())
}
