//! What an entry is found by: a digest of all that decides what a task gives.

use blake3::Hasher;
use levelflow_common::{CacheKey, Protection, TaskKind, WorkflowDigest};

use crate::canonical::CanonicalJson;

/// Tells these digests from all others of BLAKE3; changes with the way they are made.
const KEY_DOMAIN: &str = "levelflow 2026 result cache key v1";

/// What decides which task gave the wanted result.
#[derive(Clone, Copy, Debug)]
pub struct KeyParts<'a> {
    /// Whose results these are.
    pub tenant: &'a str,
    /// The name under which results are shared; what is in one scope is not found from another.
    pub scope: &'a str,
    /// The type of the task.
    pub kind: TaskKind,
    /// What the result depends on beside: see [`levelflow_common::cache::definition_digest`].
    pub definition: WorkflowDigest,
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
    /// What is left of either without a text, with the model that compares texts: the scope of results by text,
    /// and no key of a result.
    Frame(&'a CanonicalJson),
}

impl KeyParts<'_> {
    /// The key.
    pub fn key(&self) -> CacheKey {
        let mut digest = Digest::new(KEY_DOMAIN);
        let (word, subject) = match self.subject {
            Subject::Input(input) => ("input", input),
            Subject::Explicit(key) => ("key", key),
            Subject::Frame(frame) => ("frame", frame),
        };
        let tenant = match Protection::TenantInKey.holds() {
            true => self.tenant,
            false => "",
        };
        digest
            .field(tenant.as_bytes())
            .field(self.scope.as_bytes())
            .field(self.kind.as_str().as_bytes())
            .field(self.definition.as_bytes())
            .field(word.as_bytes())
            .field(subject.as_bytes())
            .field(self.handler_version.as_bytes());
        CacheKey::from_bytes(digest.finish())
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use proptest::prelude::*;

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
            KeyParts {
                tenant: &self.tenant,
                scope: &self.scope,
                kind: self.kind,
                definition: WorkflowDigest::of(self.definition.as_bytes()),
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
