//! Workflows as they are sent: a structure, a text, or the digest of a known one.

use std::sync::Arc;

use levelflow_common::document::{self, Draft, Problems};
use levelflow_common::{Code, Workflow, WorkflowDigest};
use levelflow_engine::Definition;
use levelflow_proto::v1::workflow_source::Source;
use levelflow_proto::{ApiError, FieldViolation, v1};

use super::Backend;

/// The name under which problems of a text are reported.
const TEXT_NAME: &str = "workflow";

impl Backend {
    /// The definition that a request means; new ones are kept for later requests.
    pub(crate) async fn read_source(
        &self,
        source: Option<v1::WorkflowSource>,
    ) -> Result<Arc<Definition>, ApiError> {
        let Some(source) = source.and_then(|source| source.source) else {
            let mut error = ApiError::new(Code::RequestInvalid, "no workflow was sent");
            error.violations = vec![FieldViolation::new(
                "workflow",
                "give a definition, a text or a digest",
            )];
            return Err(error);
        };
        match source {
            Source::Digest(digest) => {
                let digest = WorkflowDigest::from_slice(&digest).ok_or_else(|| {
                    ApiError::new(Code::RequestInvalid, "a workflow digest has 32 bytes")
                })?;
                self.definition(digest).await
            }
            Source::Definition(workflow) => {
                let workflow = Workflow::try_from(workflow).map_err(ApiError::from)?;
                self.compile(move || Draft::from_workflow(&workflow)).await
            }
            Source::Text(text) => self.compile(move || document::read(TEXT_NAME, &text)).await,
        }
    }

    /// Checking a large workflow takes a while, so it is not done on the threads that serve.
    async fn compile(
        &self,
        read: impl FnOnce() -> Draft + Send + 'static,
    ) -> Result<Arc<Definition>, ApiError> {
        let compiled = tokio::task::spawn_blocking(move || Definition::compile(read())).await;
        match compiled {
            Ok(Ok(definition)) => Ok(self.definitions.keep(definition)),
            Ok(Err(problems)) => Err(workflow_invalid(&problems)),
            Err(_) => Err(ApiError::new(
                Code::Internal,
                "checking the workflow failed unexpectedly",
            )),
        }
    }
}

fn workflow_invalid(problems: &Problems) -> ApiError {
    let first = problems.iter().next();
    let more = match problems.len() {
        0 | 1 => String::new(),
        count => format!(" (and {} more problems)", count - 1),
    };
    let message = first.map_or_else(String::new, |problem| problem.message.clone());
    let mut error = ApiError::new(Code::WorkflowInvalid, format!("{message}{more}"));
    error.violations = problems
        .iter()
        .map(|problem| FieldViolation {
            field: problem.path.clone(),
            description: match &problem.help {
                Some(help) => format!("{}; {help}", problem.message),
                None => problem.message.clone(),
            },
            position: problem
                .position
                .map(|position| (position.line, position.column)),
        })
        .collect();
    error
}
