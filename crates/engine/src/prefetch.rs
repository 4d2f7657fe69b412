//! What is computed ahead after a run.

use std::sync::Arc;

use levelflow_common::{CacheUse, RunStatus};

use crate::advance::context;
use crate::command::RunContext;
use crate::engine::Engine;
use crate::event::RunKey;
use crate::record::TaskIndex;

/// The label of runs that compute results ahead; its value is the run after which they do.
pub const PREFETCH_LABEL: &str = "levelflow.prefetch-after";

/// A run after which results are computed ahead.
#[derive(Debug)]
pub struct Prefetch {
    /// What the inputs of the runs ahead can refer to.
    pub context: RunContext,
    /// Whose it was.
    pub tenant: Arc<str>,
}

impl Engine {
    /// What is to be computed ahead after a run that has ended and was not evicted, if anything.
    pub fn prefetch(&self, key: RunKey) -> Option<Prefetch> {
        let state = &self.run(key).state;
        let submitted = &state.submitted;
        let is_wanted = !state.definition.prefetch.is_empty()
            && state.status == RunStatus::Succeeded
            && submitted.cache != CacheUse::Off
            // They would never come to an end.
            && !submitted.labels.contains_key(PREFETCH_LABEL);
        is_wanted.then(|| Prefetch {
            context: context(
                state,
                (0..state.definition.plan.len() as u32).map(TaskIndex),
            ),
            tenant: submitted.tenant.clone(),
        })
    }
}
