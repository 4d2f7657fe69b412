//! `levelflow schema`: the JSON Schema of workflow files.

use clap::Args;
use levelflow_common::schema::workflow_schema;

use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;

/// Print the JSON Schema of workflow files, for editors
#[derive(Debug, Args)]
pub(crate) struct Arguments {}

pub(crate) fn execute(context: &Context) -> Result<Exit, CliError> {
    context.print(&serde_json::to_string_pretty(&workflow_schema())?)?;
    Ok(Exit::Success)
}
