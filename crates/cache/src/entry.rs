//! What is kept of a task that was computed.

use std::time::Duration;

use bytes::Bytes;
use levelflow_common::limits::MAX_NAME_BYTES;
use levelflow_common::{AttemptResult, CacheKey, Timestamp};

use crate::tier::TierKind;

/// Tags of an entry.
pub const MAX_TAGS: usize = 16;

/// A result, with what was streamed on the way to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Computed {
    /// The output, or the failure where failures are kept.
    pub result: AttemptResult,
    /// The chunks that watchers were sent, in order.
    pub chunks: Vec<Bytes>,
    /// How long computing it took, which is what a hit saves.
    pub took: Duration,
}

impl Computed {
    /// An output without chunks.
    pub fn output(output: impl Into<Bytes>, took: Duration) -> Self {
        Self {
            result: Ok(output.into()),
            chunks: Vec::new(),
            took,
        }
    }

    /// Bytes of the result and of the chunks.
    pub(crate) fn bytes(&self) -> usize {
        let result = match &self.result {
            Ok(output) => output.len(),
            Err(failure) => failure.message.len(),
        };
        result + self.chunks.iter().map(Bytes::len).sum::<usize>()
    }
}

/// Whose an entry is, and what it is invalidated by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Whose it is.
    pub tenant: String,
    /// The workflow that computed it.
    pub workflow: String,
    /// What else it can be invalidated by.
    pub tags: Vec<String>,
}

impl Labels {
    /// Whether they keep to the bounds: [`MAX_TAGS`], and [`MAX_NAME_BYTES`] each, without NUL, which
    /// PostgreSQL does not have in text.
    pub(crate) fn are_within_bounds(&self) -> bool {
        let mut all = [&self.tenant, &self.workflow].into_iter().chain(&self.tags);
        self.tags.len() <= MAX_TAGS
            && all.all(|label| label.len() <= MAX_NAME_BYTES && !label.contains('\0'))
    }
}

/// On which terms a result is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Whose it is, and what it is invalidated by.
    pub labels: Labels,
    /// The version of the handler that computed it; empty if it has none.
    pub handler_version: String,
    /// The longest that it is kept in any tier; by default as long as the tiers keep theirs.
    pub ttl: Option<Duration>,
    /// How long a failure is kept; by default it is not.
    pub failure_ttl: Option<Duration>,
}

/// What is kept of a task that was computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What it gave.
    pub computed: Computed,
    /// Whose it is, and what it is invalidated by.
    pub labels: Labels,
    /// The version of the handler that computed it; empty if it has none.
    pub handler_version: String,
    /// When it was computed.
    pub created_at: Timestamp,
    /// From when on it is served no more, by no tier.
    pub expires_at: Timestamp,
}

/// An entry that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The entry.
    pub entry: Entry,
    /// Where it was found.
    pub tier: TierKind,
    /// How long ago it was computed.
    pub age: Duration,
}

/// Which entries are removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The one with this key.
    Key(CacheKey),
    /// Those of a tenant with this tag.
    Tag {
        /// Whose.
        tenant: String,
        /// The tag.
        tag: String,
    },
    /// Those of a tenant that this workflow computed.
    Workflow {
        /// Whose.
        tenant: String,
        /// The name of the workflow.
        workflow: String,
    },
    /// All of a tenant.
    Tenant(String),
    /// All.
    All,
}

impl Target {
    /// Whether an entry is meant.
    pub(crate) fn names(&self, key: &CacheKey, labels: &Labels) -> bool {
        match self {
            Self::Key(named) => named == key,
            _ => self.names_labels(labels),
        }
    }

    /// Whether all entries with these labels are meant.
    pub(crate) fn names_labels(&self, labels: &Labels) -> bool {
        match self {
            Self::Key(_) => false,
            Self::Tag { tenant, tag } => *tenant == labels.tenant && labels.tags.contains(tag),
            Self::Workflow { tenant, workflow } => {
                *tenant == labels.tenant && *workflow == labels.workflow
            }
            Self::Tenant(tenant) => *tenant == labels.tenant,
            Self::All => true,
        }
    }
}
