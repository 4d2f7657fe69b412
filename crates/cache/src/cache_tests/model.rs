//! The cache against a map that never loses anything.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::{Code, Failure, TaskKind, Timestamp, WorkflowDigest};
use proptest::prelude::*;
use serde_json::json;

use super::fake::{DAY, FakeTier, TestClock, cache_over};
use super::*;
use crate::canonical::CanonicalJson;
use crate::config::CacheConfig;
use crate::entry::Target;
use crate::key::{KeyParts, Subject};
use crate::tier::TierKind;

/// What a result is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Work {
    tenant: u8,
    input: u8,
    definition: u8,
    version: u8,
}

impl Work {
    fn key(&self) -> CacheKey {
        let input = CanonicalJson::of(&json!({ "n": self.input }));
        let definition = CanonicalJson::of(&json!(self.definition));
        KeyParts {
            tenant: &self.tenant.to_string(),
            scope: "s",
            kind: TaskKind::Handler,
            definition: WorkflowDigest::of(definition.as_bytes()),
            subject: Subject::Input(&input),
            handler_version: &self.version.to_string(),
        }
        .key()
    }

    fn terms(&self, ttl: Option<u64>) -> Terms {
        Terms {
            labels: Labels {
                tenant: self.tenant.to_string(),
                workflow: self.definition.to_string(),
                tags: vec![self.input.to_string()],
            },
            handler_version: self.version.to_string(),
            ttl: ttl.map(Duration::from_secs),
            failure_ttl: Some(Duration::from_secs(100)),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        work: Work,
        size: usize,
        ttl: Option<u64>,
        fails: bool,
        in_background: bool,
    },
    Lookup(Work),
    Pass(u64),
    /// Another process looks, with a memory of its own.
    LookupElsewhere(Work),
    Invalidate(Work, u8),
    /// A bit of the work's entry in a shared tier is flipped.
    Damage(Work, usize),
}

struct Expected {
    result: Result<Bytes, Failure>,
    chunks: Vec<Bytes>,
    expires_at: Timestamp,
}

fn work() -> impl Strategy<Value = Work> {
    (0..2u8, 0..2u8, 0..2u8, 0..2u8).prop_map(|(tenant, input, definition, version)| Work {
        tenant,
        input,
        definition,
        version,
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ttl = proptest::option::of(0..200_000u64);
    let put = (
        work(),
        0..3_000usize,
        ttl,
        prop::bool::weighted(0.2),
        any::<bool>(),
    )
        .prop_map(|(work, size, ttl, fails, in_background)| Step::Put {
            work,
            size,
            ttl,
            fails,
            in_background,
        });
    let step = prop_oneof![
        4 => put,
        6 => work().prop_map(Step::Lookup),
        2 => work().prop_map(Step::LookupElsewhere),
        2 => prop_oneof![0..100u64, 3_000..4_000u64, 80_000..90_000u64].prop_map(Step::Pass),
        1 => (work(), 0..5u8).prop_map(|(work, target)| Step::Invalidate(work, target)),
        1 => (work(), any::<usize>()).prop_map(|(work, bit)| Step::Damage(work, bit)),
    ];
    prop::collection::vec(step, 0..60)
}

fn target(work: &Work, which: u8) -> Target {
    let tenant = work.tenant.to_string();
    match which {
        0 => Target::Key(work.key()),
        1 => Target::Tag {
            tenant,
            tag: work.input.to_string(),
        },
        2 => Target::Workflow {
            tenant,
            workflow: work.definition.to_string(),
        },
        3 => Target::Tenant(tenant),
        _ => Target::All,
    }
}

fn is_meant(one: &Work, other: &Work, which: u8) -> bool {
    let same_tenant = one.tenant == other.tenant;
    match which {
        0 => one == other,
        1 => same_tenant && one.input == other.input,
        2 => same_tenant && one.definition == other.definition,
        3 => same_tenant,
        _ => true,
    }
}

async fn check(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let clock = TestClock::default();
    let shared = FakeTier::new(TierKind::Postgres);
    let open = || cache_over(&clock, CacheConfig::default(), &[&shared]);
    let cache = open();
    let mut model: HashMap<Work, Expected> = HashMap::new();
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Put {
                work,
                size,
                ttl,
                fails,
                in_background,
            } => {
                let result = match fails {
                    true => Err(Failure::permanent(Code::HandlerFailed, number.to_string())),
                    false => Ok(Bytes::from(format!("{number} ").repeat(size / 2))),
                };
                let computed = Computed {
                    result: result.clone(),
                    chunks: vec![Bytes::from(number.to_string()); number % 3],
                    took: Duration::from_secs(1),
                };
                let ttl = if fails {
                    100
                } else {
                    ttl.unwrap_or(u64::MAX).min(DAY.as_secs())
                };
                let expected = Expected {
                    result,
                    chunks: computed.chunks.clone(),
                    expires_at: clock.now().saturating_add(Duration::from_secs(ttl)),
                };
                let terms = work.terms((!fails).then_some(ttl));
                let is_kept = match in_background {
                    true => {
                        cache
                            .put_in_background(&work.key(), computed, terms)
                            .is_ok()
                            && ttl > 0
                    }
                    false => cache.put(&work.key(), computed, terms).is_ok(),
                };
                prop_assert_eq!(is_kept, ttl > 0);
                cache.flush().await;
                if is_kept {
                    model.insert(work, expected);
                }
            }
            Step::Lookup(work) | Step::LookupElsewhere(work) if number % 7 == 6 => {
                // Looked up as another's: the tenant is part of the key.
                let other = Work {
                    tenant: work.tenant + 2,
                    ..work
                };
                prop_assert_eq!(cache.lookup(&other.key()).await, None);
            }
            Step::Lookup(work) => {
                let found = cache.lookup(&work.key()).await;
                let live = model
                    .get(&work)
                    .filter(|expected| clock.now() < expected.expires_at);
                prop_assert_eq!(found.is_some(), live.is_some());
                if let (Some(found), Some(live)) = (found, live) {
                    prop_assert_eq!(&found.entry.computed.result, &live.result);
                    prop_assert_eq!(&found.entry.computed.chunks, &live.chunks);
                    prop_assert_eq!(&found.entry.labels.tenant, &work.tenant.to_string());
                }
                cache.flush().await;
            }
            Step::LookupElsewhere(work) => {
                let elsewhere = open();
                if let Some(found) = elsewhere.lookup(&work.key()).await {
                    let live = &model[&work];
                    prop_assert!(clock.now() < live.expires_at);
                    prop_assert_eq!(&found.entry.computed.result, &live.result);
                    prop_assert_eq!(found.tier, TierKind::Postgres);
                }
            }
            Step::Pass(seconds) => clock.pass(Duration::from_secs(seconds)),
            Step::Invalidate(work, which) => {
                cache.invalidate(&target(&work, which)).await.unwrap();
                model.retain(|other, _| !is_meant(&work, other, which));
            }
            Step::Damage(work, bit) => {
                let key = work.key();
                if let Some(sound) = shared.sealed(&key) {
                    let mut sealed = sound.to_vec();
                    let bit = bit % (sealed.len() * 8);
                    sealed[bit / 8] ^= 1 << (bit % 8);
                    shared.smuggle(&key, sealed.into(), work.terms(None).labels);
                    let fresh = open();
                    prop_assert_eq!(fresh.lookup(&key).await, None);
                    fresh.flush().await;
                    prop_assert!(!shared.has(&key));
                    shared.smuggle(&key, sound, work.terms(None).labels);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_hit_is_what_was_put_last_and_there_is_one_until_it_expires(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(steps))?;
    }
}
