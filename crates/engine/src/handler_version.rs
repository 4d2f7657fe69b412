//! Which version of a handler computes the results of a task.
//!
//! A result belongs to the version of the handler that computed it. So a task is looked up and its result
//! kept under the version that the workers which may run it have when it is prepared. While they have
//! different ones, or there are none, nobody knows which will compute it, and the cache is left alone.

use std::fmt;
use std::sync::Arc;

use levelflow_common::{TaskKind, WorkerId};

use crate::definition::{Requirement, TaskSpec};
use crate::engine::Engine;
use crate::worker::Worker;

/// The version of a handler. Of tasks of other types, and of handlers without a version, the empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HandlerVersion(Option<Arc<str>>);

impl HandlerVersion {
    /// The version that this text says.
    pub fn new(text: &str) -> Self {
        Self((!text.is_empty()).then(|| text.into()))
    }

    /// The text of it.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

/// Why no version is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoVersion {
    /// No connected worker has the handler.
    NoWorker,
    /// Connected workers have different ones.
    Different(HandlerVersion, HandlerVersion),
}

impl Worker {
    fn version_of(&self, requirement: &Requirement) -> HandlerVersion {
        let versions = &self.hello.handler_versions;
        versions
            .get(&*requirement.handler)
            .cloned()
            .unwrap_or_default()
    }
}

impl Engine {
    /// The version that all workers have to which a task may be given now.
    pub(crate) fn handler_version(&self, spec: &TaskSpec) -> Result<HandlerVersion, NoVersion> {
        if spec.kind != TaskKind::Handler {
            return Ok(HandlerVersion::default());
        }
        let requirement = &spec.requirement;
        let mut versions = self.workers.iter().filter_map(|(_, worker)| {
            let counts = worker.session.is_some() && !worker.draining && worker.offers(requirement);
            counts.then(|| worker.version_of(requirement))
        });
        let first = versions.next().ok_or(NoVersion::NoWorker)?;
        match versions.find(|version| *version != first) {
            None => Ok(first),
            Some(other) if other < first => Err(NoVersion::Different(other, first)),
            Some(other) => Err(NoVersion::Different(first, other)),
        }
    }

    /// Whether what a worker just computed for a task is of this version.
    pub(crate) fn is_of_version(
        &self,
        worker: Option<&WorkerId>,
        spec: &TaskSpec,
        version: &HandlerVersion,
    ) -> bool {
        spec.kind != TaskKind::Handler
            || worker
                .and_then(|worker| self.workers.named(&worker.0))
                .is_some_and(|worker| {
                    self.workers.get(worker).version_of(&spec.requirement) == *version
                })
    }
}

impl fmt::Display for NoVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |version: &HandlerVersion| match version.as_str() {
            "" => "none".to_owned(),
            version => format!("`{version}`"),
        };
        match self {
            Self::NoWorker => f.write_str("no connected worker has its handler"),
            Self::Different(one, other) => write!(
                f,
                "connected workers have different versions of its handler, {} and {}",
                named(one),
                named(other)
            ),
        }
    }
}
