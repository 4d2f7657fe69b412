//! What a task says of the cache.

use levelflow_common::WorkflowDigest;
use levelflow_common::cache::{CachePolicy, definition_digest};
use levelflow_common::expression::{ExpressionError, Template};
use levelflow_common::workflow::Task;
use serde_json::Value;

/// What a task says of the cache.
#[derive(Debug)]
pub struct CacheSpec {
    /// As it was written.
    pub policy: CachePolicy,
    /// What stands for the input, where that is not the input.
    pub key: Option<Template>,
    /// The text by which a result may be used that is not the same, if any may.
    pub text: Option<Template>,
    /// The digest of what the result depends on beside the input and its tenant.
    pub definition: WorkflowDigest,
}

impl CacheSpec {
    /// What a task says of the cache, if anything.
    pub(crate) fn new(task: &Task) -> Result<Option<Self>, ExpressionError> {
        let Some(policy) = &task.cache else {
            return Ok(None);
        };
        Ok(Some(Self {
            policy: policy.clone(),
            key: policy.key.as_ref().map(Template::compile).transpose()?,
            text: match &policy.semantic {
                Some(semantic) => Some(Template::compile(&Value::from(semantic.text.as_str()))?),
                None => None,
            },
            definition: definition_digest(task.kind, &task.with, task.worker.as_ref(), policy),
        }))
    }
}
