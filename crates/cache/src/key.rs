//! What an entry is found by: a digest of all that decides what a task gives.

use std::fmt;
use std::str::FromStr;

use blake3::Hasher;
use levelflow_common::{Task, TaskKind};
use serde_json::{Value, json};

use crate::canonical::CanonicalJson;

/// Tells these digests from all others of BLAKE3; changes with the way they are made.
const KEY_DOMAIN: &str = "levelflow 2026 result cache key v1";
const DEFINITION_DOMAIN: &str = "levelflow 2026 result cache definition v1";

/// The digest of a tenant, a scope, a task's definition and its input.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey([u8; 32]);

/// The digest of the part of a task's definition that decides what it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DefinitionDigest([u8; 32]);

/// What decides which task gave the wanted result.
#[derive(Clone, Copy, Debug)]
pub struct KeyParts<'a> {
    /// Whose results these are.
    pub tenant: &'a str,
    /// The name under which results are shared; what is in one scope is not found from another.
    pub scope: &'a str,
    /// The type of the task.
    pub kind: TaskKind,
    /// The definition of the task.
    pub definition: DefinitionDigest,
    /// What tells its results apart.
    pub subject: Subject<'a>,
    /// The version that the worker gave the handler; empty for other kinds.
    pub handler_version: &'a str,
}

/// What tells the results of one task apart.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// Its resolved input.
    Input(&'a CanonicalJson),
    /// The value of its `cache.key`.
    Explicit(&'a CanonicalJson),
}

impl KeyParts<'_> {
    /// The key.
    pub fn key(&self) -> CacheKey {
        let mut digest = Digest::new(KEY_DOMAIN);
        let (word, subject) = match self.subject {
            Subject::Input(input) => ("input", input),
            Subject::Explicit(key) => ("key", key),
        };
        digest
            .field(self.tenant.as_bytes())
            .field(self.scope.as_bytes())
            .field(self.kind.as_str().as_bytes())
            .field(&self.definition.0)
            .field(word.as_bytes())
            .field(subject.as_bytes())
            .field(self.handler_version.as_bytes());
        CacheKey(digest.finish())
    }
}

impl DefinitionDigest {
    /// Of a task in a workflow: its type, its `with` as it is written, and which workers may run it. Its
    /// id, its edges, its retries and its limits do not count, so that tasks of different workflows share
    /// results.
    pub fn of(task: &Task) -> Self {
        Self::of_parts(task.kind, &task.with, &json!(task.worker))
    }

    /// Of a task of which these parts are known.
    pub(crate) fn of_parts(kind: TaskKind, with: &Value, worker: &Value) -> Self {
        let definition = json!({ "type": kind, "with": with, "worker": worker });
        Self::of_canonical(&CanonicalJson::of(&definition))
    }

    /// Of something else that defines what is computed, such as the name of a handler's own function.
    pub fn of_canonical(definition: &CanonicalJson) -> Self {
        let mut digest = Digest::new(DEFINITION_DOMAIN);
        digest.field(definition.as_bytes());
        Self(digest.finish())
    }
}

/// A digest of fields, each after its length, so that no two lists of fields are one text.
struct Digest(Hasher);

impl Digest {
    fn new(domain: &'static str) -> Self {
        Self(Hasher::new_derive_key(domain))
    }

    fn field(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

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
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a cache key; a key has 64 hexadecimal digits")]
pub struct InvalidKey(pub String);

impl FromStr for CacheKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match blake3::Hash::from_hex(text) {
            Ok(hash) => Ok(Self(*hash.as_bytes())),
            Err(_) => Err(InvalidKey(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn task(text: &str) -> Task {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn only_what_decides_the_result_is_in_the_digest_of_a_definition() {
        let one = DefinitionDigest::of(&task(
            r#"{"id": "a", "type": "http", "with": {"url": "http://x", "method": "GET"}}"#,
        ));
        let same = task(
            r#"{"id": "b", "type": "http", "with": {"method": "GET", "url": "http://x"},
                "needs": ["c"], "timeout": "3s", "priority": "low"}"#,
        );
        assert_eq!(DefinitionDigest::of(&same), one);
        for other in [
            r#"{"id": "a", "type": "http", "with": {"url": "http://y", "method": "GET"}}"#,
            r#"{"id": "a", "type": "handler", "with": {"url": "http://x", "method": "GET"}}"#,
            r#"{"id": "a", "type": "http", "with": {"url": "http://x", "method": "GET"},
                "worker": {"labels": {"zone": "eu"}}}"#,
        ] {
            assert_ne!(DefinitionDigest::of(&task(other)), one, "{other}");
        }
    }

    #[test]
    fn a_key_reads_back() {
        let key = CacheKey::from_bytes([0xa5; 32]);
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!("a5".parse::<CacheKey>(), Err(InvalidKey("a5".to_owned())));
    }

    #[derive(Clone, Debug, PartialEq)]
    struct Parts {
        tenant: String,
        scope: String,
        kind: TaskKind,
        definition: String,
        is_explicit: bool,
        subject: String,
        version: String,
    }

    impl Parts {
        fn key(&self) -> CacheKey {
            let subject = CanonicalJson::of(&Value::from(self.subject.as_str()));
            let definition = CanonicalJson::of(&Value::from(self.definition.as_str()));
            KeyParts {
                tenant: &self.tenant,
                scope: &self.scope,
                kind: self.kind,
                definition: DefinitionDigest::of_canonical(&definition),
                subject: match self.is_explicit {
                    true => Subject::Explicit(&subject),
                    false => Subject::Input(&subject),
                },
                handler_version: &self.version,
            }
            .key()
        }
    }

    fn parts() -> impl Strategy<Value = Parts> {
        let text = || "[ab]{0,2}";
        (
            text(),
            text(),
            prop::sample::select(&TaskKind::ALL[..]),
            text(),
            any::<bool>(),
            text(),
            text(),
        )
            .prop_map(
                |(tenant, scope, kind, definition, is_explicit, subject, version)| Parts {
                    tenant,
                    scope,
                    kind,
                    definition,
                    is_explicit,
                    subject,
                    version,
                },
            )
    }

    proptest! {
        #[test]
        fn keys_are_equal_when_all_parts_are(one in parts(), other in parts()) {
            prop_assert_eq!(one.key() == other.key(), one == other);
        }

        #[test]
        fn text_that_moves_from_one_part_to_the_next_changes_the_key(
            parts in parts(),
            moved in "[ab]{1,2}",
        ) {
            let mut one = parts.clone();
            one.tenant.push_str(&moved);
            let mut other = parts;
            other.scope.insert_str(0, &moved);
            prop_assert_ne!(one.key(), other.key());
        }
    }
}
