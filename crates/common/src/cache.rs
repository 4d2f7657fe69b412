//! The words of the result cache.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::duration::HumanDuration;
use crate::id::WorkflowDigest;
use crate::similar::SemanticPolicy;
use crate::workflow::{TaskKind, WorkerSelector};

/// That results of a task may be used again, and for what they hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CachePolicy {
    /// How long a result may be used; as long as the cache keeps it if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
    /// What the result depends on, in place of the whole input; may hold expressions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Value>,
    /// Which tasks share results.
    #[serde(skip_serializing_if = "is_default")]
    pub scope: CacheScope,
    /// What makes no difference between two inputs.
    #[serde(skip_serializing_if = "is_default")]
    pub normalize: Normalize,
    /// Raise it when the same input is to give another result from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// By what results can be made invalid together.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// How long a failure that no retry can help is remembered; by default not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_error: Option<HumanDuration>,
    /// That results of tasks whose text means nearly the same may be used as well; by default not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub semantic: Option<SemanticPolicy>,
}

/// Which tasks share results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheScope {
    /// Those of all workflows of the tenant.
    #[default]
    Tenant,
    /// Those of workflows with this name.
    Workflow,
}

impl CacheScope {
    /// Every scope.
    pub const ALL: [Self; 2] = [Self::Tenant, Self::Workflow];
}

/// What makes no difference between two inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalize {
    /// Everything makes one.
    #[default]
    Exact,
    /// Case and white space in texts.
    Words,
}

impl Normalize {
    /// Every way.
    pub const ALL: [Self; 2] = [Self::Exact, Self::Words];
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What the tasks of a run do with the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheUse {
    /// They look in it, and put their results there.
    #[default]
    Use,
    /// They put their results there, in place of what was.
    Refresh,
    /// Nothing.
    Off,
}

impl CacheUse {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::Use, Self::Refresh, Self::Off];

    /// The word in commands and requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Use => "use",
            Self::Refresh => "refresh",
            Self::Off => "off",
        }
    }
}

/// What a result is found by: the digest of everything that it depends on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// A key from its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({self})")
    }
}

/// The text is not a cache key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a cache key; a key has 64 hexadecimal digits")]
pub struct InvalidCacheKey(pub String);

impl FromStr for CacheKey {
    type Err = InvalidCacheKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match blake3::Hash::from_hex(text) {
            Ok(hash) => Ok(Self::from_bytes(*hash.as_bytes())),
            Err(_) => Err(InvalidCacheKey(text.to_owned())),
        }
    }
}

/// Where a result was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheTier {
    /// In the memory of the coordinator.
    Memory,
    /// In Redis.
    Redis,
    /// In PostgreSQL.
    Postgres,
    /// With a task that computed it at the same time.
    Flight,
}

impl CacheTier {
    /// Every place.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Redis, Self::Postgres, Self::Flight];

    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Flight => "flight",
        }
    }
}

/// Where the result of a task came from that did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedFrom {
    /// Where it was found.
    pub tier: CacheTier,
    /// How long ago it was computed.
    pub age: Duration,
    /// How long that had taken.
    pub saved: Duration,
}

/// The part of a task on which its result depends beside its input.
#[derive(Serialize)]
struct Depends<'a> {
    kind: TaskKind,
    with: &'a Value,
    worker: Option<&'a WorkerSelector>,
    version: Option<&'a str>,
}

/// The digest of what the result of a task depends on beside its resolved input: its type, the handler, where
/// it may run, and its version. The rest of `with` is part of it where something else stands for the input,
/// and where it names secrets, whose values nobody but the worker knows.
pub fn definition_digest(
    kind: TaskKind,
    with: &Value,
    worker: Option<&WorkerSelector>,
    policy: &CachePolicy,
) -> WorkflowDigest {
    let with = match kind {
        _ if policy.key.is_some() || names_secrets(with) => with,
        TaskKind::Handler => &with["name"],
        _ => &Value::Null,
    };
    // Where else the run is does not change what a task gives.
    let worker = worker.map(|selector| WorkerSelector {
        sticky: false,
        ..selector.clone()
    });
    let depends = Depends {
        kind,
        with,
        worker: worker
            .as_ref()
            .filter(|it| **it != WorkerSelector::default()),
        version: policy.version.as_deref(),
    };
    let json = serde_json::to_vec(&depends)
        .expect("the parts of a task have only string keys and finite numbers");
    WorkflowDigest::of(&json)
}

/// Whether a value may refer to secrets. One that only looks so does no harm here.
fn names_secrets(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("secrets"),
        Value::Array(items) => items.iter().any(names_secrets),
        Value::Object(fields) => fields.values().any(names_secrets),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::Task;

    fn digest(text: &str) -> WorkflowDigest {
        let task: Task = serde_json::from_str(text).unwrap();
        let policy = task.cache.unwrap_or_default();
        definition_digest(task.kind, &task.with, task.worker.as_ref(), &policy)
    }

    #[test]
    fn a_definition_is_what_decides_the_result_beside_the_input() {
        let one = digest(r#"{"id":"a","type":"http","with":{"url":"http://x"},"cache":{}}"#);
        for same in [
            r#"{"id":"b","type":"http","with":{"url":"${{ inputs.url }}"},"cache":{"ttl":"1h"}}"#,
            r#"{"id":"a","type":"http","with":{},"needs":["c"],"timeout":"3s","priority":"low"}"#,
        ] {
            assert_eq!(digest(same), one, "{same}");
        }
        let others = [
            r#"{"id":"a","type":"process","with":{"url":"http://x"},"cache":{}}"#,
            r#"{"id":"a","type":"http","with":{"url":"http://x"},"cache":{"version":"2"}}"#,
            r#"{"id":"a","type":"http","with":{"url":"http://x"},"cache":{"key":"k"}}"#,
            r#"{"id":"a","type":"http","with":{"url":"http://y"},"cache":{"key":"k"}}"#,
            r#"{"id":"a","type":"http","with":{"url":"${{ secrets.URL }}"},"cache":{}}"#,
            r#"{"id":"a","type":"http","with":{"url":"${{ secrets.OTHER }}"},"cache":{}}"#,
            r#"{"id":"a","type":"http","with":{},"worker":{"labels":{"zone":"eu"}},"cache":{}}"#,
            r#"{"id":"a","type":"handler","with":{"name":"h"},"cache":{}}"#,
            r#"{"id":"a","type":"handler","with":{"name":"g"},"cache":{}}"#,
        ];
        let mut digests: Vec<_> = others.map(digest).into();
        digests.push(one);
        for (place, digest) in digests.iter().enumerate() {
            assert!(
                !digests[..place].contains(digest),
                "{:?}",
                others.get(place)
            );
        }
    }
}
