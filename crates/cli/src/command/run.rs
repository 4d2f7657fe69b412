//! `levelflow run`: a workflow from start to end, in this process.

use clap::Args;
use levelflow_common::expression::has_expression;
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

/// Only the worker in this process will ever do the tasks, so a database or a language model that it does
/// not have would be waited for without end.
fn check_connections(workflow: &Workflow, settings: &Settings) -> Result<(), CliError> {
    let Settings { worker, .. } = settings;
    for task in &workflow.tasks {
        let named = |key: &str| task.with[key].as_str().filter(|name| !has_expression(name));
        let missing = match task.kind {
            TaskKind::Sql => named("connection")
                .filter(|&name| name != LOCAL_CONNECTION && !worker.connections.contains_key(name)),
            TaskKind::Chat if task.with["base_url"].is_null() => {
                named("model").filter(|&name| !worker.models.contains_key(name))
            }
            _ => None,
        };
        if let Some(name) = missing {
            return Err(CliError::NotConfigured {
                task: task.id.clone(),
                kind: task.kind,
                name: name.to_owned(),
            });
        }
    }
    Ok(())
}
