//! `levelflow validate`: every problem of workflow files.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::error::CliError;
use crate::exit::Exit;
use crate::render::{counted, diagnostic};
use crate::source::read_workflow;

/// Check workflow files and print every problem
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The workflows, in YAML or JSON; - for standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

pub(crate) fn execute(arguments: &Arguments, context: &Context) -> Result<Exit, CliError> {
    let mut exit = Exit::Success;
    let mut answers = Vec::new();
    for file in &arguments.files {
        let name = file.display().to_string();
        match read_workflow(file) {
            Ok(definition) => {
                let plan = &definition.plan;
                if context.json {
                    answers.push(json!({
                        "file": name,
                        "valid": true,
                        "name": definition.workflow.name,
                        "digest": definition.digest.to_string(),
                        "tasks": plan.len(),
                        "levels": plan.levels().len(),
                    }));
                } else {
                    context.print(&format!(
                        "{name}: valid, {} in {}",
                        counted(plan.len(), "task"),
                        counted(plan.levels().len(), "level")
                    ))?;
                }
            }
            Err(error) => {
                exit = error.exit();
                let shown = error.diagnostic();
                if context.json {
                    answers.push(json!({ "file": name, "valid": false, "error": shown }));
                } else {
                    context.remark(diagnostic::text(&shown, context.terminal.err).trim_end());
                }
            }
        }
    }
    if context.json {
        context.print(&serde_json::to_string_pretty(&json!({ "files": answers }))?)?;
    }
    Ok(exit)
}
