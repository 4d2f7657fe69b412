//! `levelflow completions`: completion scripts for shells.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use serde_json::json;

use crate::arguments::CommandLine;
use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
}

pub(crate) fn execute(arguments: &Arguments, context: &Context) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut CommandLine::command(),
        "levelflow",
        &mut script,
    );
    let script = String::from_utf8_lossy(&script);
    if context.json {
        let answer = json!({ "shell": arguments.shell.to_string(), "script": script });
        context.print(&answer.to_string())?;
    } else {
        context.print(&script)?;
    }
    Ok(Exit::Success)
}
