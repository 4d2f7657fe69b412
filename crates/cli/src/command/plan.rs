//! `levelflow plan`: levels and critical path of a workflow, without running it.

use clap::Args;

use crate::arguments::FileArgument;
use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;
use crate::render::plan;
use crate::source::read_workflow;

/// Draw the levels and the critical path of a workflow, without running it
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    file: FileArgument,
}

pub(crate) fn execute(arguments: &Arguments, context: &Context) -> Result<Exit, CliError> {
    let view = read_workflow(&arguments.file.file)?.plan_view();
    if context.json {
        context.print(&serde_json::to_string_pretty(&view)?)?;
    } else {
        context.print(&plan::draw(&view, context.terminal.out))?;
    }
    Ok(Exit::Success)
}
