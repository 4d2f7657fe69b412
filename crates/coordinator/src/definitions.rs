//! Definitions that were lately used, ready to run.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use levelflow_common::document::Draft;
use levelflow_common::{Workflow, WorkflowDigest};
use levelflow_engine::Definition;
use levelflow_store::Store;

use crate::error::RecoveryError;

/// Definitions that are kept ready; further ones are read from the store again.
const MAX_KEPT: usize = 4096;

/// A cache of definitions: read by every submit, written for every new workflow.
#[derive(Default)]
pub(crate) struct Definitions {
    ready: RwLock<BTreeMap<WorkflowDigest, Arc<Definition>>>,
}

impl Definitions {
    pub(crate) fn get(&self, digest: WorkflowDigest) -> Option<Arc<Definition>> {
        let ready = self.ready.read().unwrap_or_else(PoisonError::into_inner);
        ready.get(&digest).cloned()
    }

    pub(crate) fn keep(&self, definition: Definition) -> Arc<Definition> {
        let mut ready = self.ready.write().unwrap_or_else(PoisonError::into_inner);
        if ready.len() >= MAX_KEPT {
            ready.pop_first();
        }
        ready
            .entry(definition.digest)
            .or_insert_with(|| Arc::new(definition))
            .clone()
    }

    /// The definition, from the store if it is not kept; none if the store does not know it.
    pub(crate) async fn find(
        &self,
        store: &dyn Store,
        digest: WorkflowDigest,
    ) -> Result<Option<Arc<Definition>>, RecoveryError> {
        if let Some(definition) = self.get(digest) {
            return Ok(Some(definition));
        }
        match store.definition(digest).await? {
            Some(canonical) => self.read(digest, &canonical).map(Some),
            None => Ok(None),
        }
    }

    /// Makes a stored workflow ready to run.
    pub(crate) fn read(
        &self,
        digest: WorkflowDigest,
        canonical: &[u8],
    ) -> Result<Arc<Definition>, RecoveryError> {
        if let Some(definition) = self.get(digest) {
            return Ok(definition);
        }
        let damaged = |problem: String| RecoveryError::Definition {
            digest: digest.to_string(),
            problem,
        };
        let workflow: Workflow =
            serde_json::from_slice(canonical).map_err(|error| damaged(error.to_string()))?;
        let definition = Definition::compile(Draft::from_workflow(&workflow))
            .map_err(|problems| damaged(problems.to_string()))?;
        Ok(self.keep(definition))
    }
}
