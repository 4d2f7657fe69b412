//! Workflows and inputs from files.

use std::io::Read as _;
use std::path::Path;

use bytes::Bytes;
use levelflow_common::document;
use levelflow_common::inputs::{FieldProblem, bind, parse_argument};
use levelflow_common::limits::MAX_FILE_BYTES;
use levelflow_common::workflow::Workflow;
use levelflow_engine::Definition;
use serde_json::{Map, Value};

use crate::arguments::InputArguments;
use crate::error::CliError;

/// Reads a workflow and checks all of it.
pub(crate) fn read_workflow(path: &Path) -> Result<Definition, CliError> {
    let name = name_of(path);
    let text = read_file(path)?;
    Definition::compile(document::read(&name, &text)).map_err(|problems| CliError::Workflow {
        name,
        problems: Box::new(problems),
    })
}

/// The inputs of a run: those of the flags, then those of the file, then the defaults.
pub(crate) fn read_inputs(
    workflow: &Workflow,
    arguments: &InputArguments,
) -> Result<Bytes, CliError> {
    let mut given = match &arguments.inputs_file {
        Some(path) => read_inputs_file(path)?,
        None => Map::new(),
    };
    let mut problems = Vec::new();
    for (name, text) in &arguments.inputs {
        // An input that the workflow does not have is found below, with all others that are wrong.
        let parsed = match workflow.inputs.get(name) {
            Some(spec) => parse_argument(spec, text),
            None => Ok(Value::Null),
        };
        match parsed {
            Ok(value) => {
                given.insert(name.clone(), value);
            }
            Err(message) => problems.push(FieldProblem {
                field: name.clone(),
                message,
            }),
        }
    }
    match bind(workflow, &given) {
        Ok(inputs) if problems.is_empty() => return Ok(inputs),
        Ok(_) => {}
        Err(found) => {
            let known = problems.len();
            for problem in found {
                if problems[..known]
                    .iter()
                    .all(|other| other.field != problem.field)
                {
                    problems.push(problem);
                }
            }
        }
    }
    Err(CliError::Inputs(problems))
}

fn read_inputs_file(path: &Path) -> Result<Map<String, Value>, CliError> {
    let name = name_of(path);
    let text = read_file(path)?;
    document::read_map(&name, &text).map_err(|problems| CliError::InputsFile {
        name,
        problems: Box::new(problems),
    })
}

fn name_of(path: &Path) -> String {
    if is_stdin(path) {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn read_file(path: &Path) -> Result<Vec<u8>, CliError> {
    let unreadable = |source| CliError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut text = Vec::new();
    let limit = MAX_FILE_BYTES as u64 + 1;
    if is_stdin(path) {
        std::io::stdin().lock().take(limit).read_to_end(&mut text)
    } else {
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(limit).read_to_end(&mut text)
    }
    .map_err(unreadable)?;
    if text.len() > MAX_FILE_BYTES {
        return Err(CliError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(text)
}
