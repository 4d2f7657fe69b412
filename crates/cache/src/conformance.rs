//! What every tier does: one suite that each implementation runs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::Timestamp;
use tokio::time::{Instant, timeout};

use crate::codec::Packed;
use crate::entry::{Computed, Entry, Labels, Target};
use crate::tier::{LeaseToken, Record, SharedTier, Tier};
use levelflow_common::CacheKey;

/// Runs the suite: `$open` is an expression that gives a pointer to an empty tier, with
/// whatever must outlive it.
macro_rules! conformance {
    (shared $open:expr) => {
        crate::conformance::conformance! { $open }
        crate::conformance::conformance! { $open;
            a_lease_has_one_holder
            a_lease_that_is_not_lengthened_ends
            everything_can_be_removed_at_once
        }
    };
    ($open:expr; $($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                let (tier, _guard) = $open;
                crate::conformance::$case(&*tier).await;
            }
        )*
    };
    ($open:expr) => {
        crate::conformance::conformance! { $open;
            what_is_put_is_found_until_it_is_replaced
            what_has_expired_is_not_found
            what_has_expired_is_removed_in_time
            many_and_large_entries_are_kept
            only_what_is_meant_is_removed
            strange_labels_are_kept
        }
    };
}
pub(crate) use conformance;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

/// The time now, as servers with clocks of their own see it.
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::default().saturating_add(since.unwrap())
}

fn key(number: u8) -> CacheKey {
    CacheKey::from_bytes([number; 32])
}

pub(crate) fn record(number: u8, output: &str, labels: Labels, expires_at: Timestamp) -> Record {
    let entry = Entry {
        computed: Computed::output(output.to_owned(), Duration::ZERO),
        labels: labels.clone(),
        handler_version: String::new(),
        created_at: now(),
        expires_at,
    };
    let key = key(number);
    let packed = Packed::pack(&entry, usize::MAX, usize::MAX).unwrap();
    Record {
        key,
        sealed: packed.seal(&key, expires_at),
        labels: Arc::new(labels),
        expires_at,
    }
}

fn labels(tenant: &str, workflow: &str, tags: &[&str]) -> Labels {
    Labels {
        tenant: tenant.to_owned(),
        workflow: workflow.to_owned(),
        tags: tags.iter().map(ToString::to_string).collect(),
    }
}

fn lasting(number: u8, output: &str, labels: Labels) -> Record {
    record(number, output, labels, now().saturating_add(DEADLINE))
}

async fn find(tier: &impl Tier, number: u8) -> Option<Bytes> {
    tier.get(&key(number), now()).await.unwrap()
}

pub(crate) async fn what_is_put_is_found_until_it_is_replaced(tier: &impl Tier) {
    assert_eq!(find(tier, 1).await, None);
    let first = lasting(1, "first", Labels::default());
    tier.put(std::slice::from_ref(&first), now()).await.unwrap();
    assert_eq!(find(tier, 1).await, Some(first.sealed));
    assert_eq!(find(tier, 2).await, None);
    let second = lasting(1, "second", Labels::default());
    tier.put(std::slice::from_ref(&second), now())
        .await
        .unwrap();
    assert_eq!(find(tier, 1).await, Some(second.sealed));
    assert_eq!(tier.usage().await.unwrap().entries, 1);
}

pub(crate) async fn what_has_expired_is_not_found(tier: &impl Tier) {
    let put_at = now();
    let expires_at = put_at.saturating_add(Duration::from_secs(20));
    let record = record(1, "x", Labels::default(), expires_at);
    tier.put(&[record], put_at).await.unwrap();
    let before = expires_at.saturating_sub(Duration::from_micros(1));
    assert!(tier.get(&key(1), before).await.unwrap().is_some());
    assert_eq!(tier.get(&key(1), expires_at).await.unwrap(), None);
    let after = expires_at.saturating_add(DEADLINE);
    assert_eq!(tier.get(&key(1), after).await.unwrap(), None);
}

pub(crate) async fn what_has_expired_is_removed_in_time(tier: &impl Tier) {
    let put_at = now();
    let soon = put_at.saturating_add(Duration::from_millis(1));
    let passing: Vec<Record> = (0..50)
        .map(|number| record(number, "x", Labels::default(), soon))
        .collect();
    tier.put(&passing, put_at).await.unwrap();
    let stays = lasting(100, "x", Labels::default());
    tier.put(&[stays], put_at).await.unwrap();
    let gone = async {
        while tier.usage().await.unwrap().entries > 1 {
            tier.sweep(now()).await.unwrap();
        }
    };
    timeout(DEADLINE, gone).await.unwrap();
    assert!(find(tier, 100).await.is_some());
}

pub(crate) async fn many_and_large_entries_are_kept(tier: &impl Tier) {
    let mut records: Vec<Record> = (0..200)
        .map(|number| lasting(number, &number.to_string(), Labels::default()))
        .collect();
    records.push(lasting(200, &"large".repeat(400_000), Labels::default()));
    tier.put(&records, now()).await.unwrap();
    for record in &records {
        let found = tier.get(&record.key, now()).await.unwrap();
        assert_eq!(found.as_ref(), Some(&record.sealed));
    }
    let usage = tier.usage().await.unwrap();
    assert_eq!(usage.entries, 201);
    assert!(usage.bytes >= 2_000_000, "{usage:?}");
}

pub(crate) async fn only_what_is_meant_is_removed(tier: &impl Tier) {
    let records = [
        lasting(0, "x", labels("a", "one", &["red"])),
        lasting(1, "x", labels("a", "one", &["blue", "red"])),
        lasting(2, "x", labels("a", "two", &["blue"])),
        lasting(3, "x", labels("b", "one", &["red"])),
        lasting(4, "x", labels("b", "two", &[])),
    ];
    let tenant = || "a".to_owned();
    for (target, removed) in [
        (Target::Key(key(2)), &[2][..]),
        (Target::Key(key(9)), &[]),
        (
            Target::Tag {
                tenant: tenant(),
                tag: "red".to_owned(),
            },
            &[0, 1],
        ),
        (
            Target::Workflow {
                tenant: tenant(),
                workflow: "one".to_owned(),
            },
            &[0, 1],
        ),
        (
            Target::Workflow {
                tenant: tenant(),
                workflow: "red".to_owned(),
            },
            &[],
        ),
        (Target::Tenant(tenant()), &[0, 1, 2]),
        (Target::All, &[0, 1, 2, 3, 4]),
    ] {
        tier.put(&records, now()).await.unwrap();
        let count = tier.remove(&target).await.unwrap();
        assert_eq!(count, removed.len() as u64, "{target:?}");
        for number in 0..5 {
            let is_there = find(tier, number).await.is_some();
            assert_eq!(is_there, !removed.contains(&number), "{target:?} {number}");
        }
    }
}

pub(crate) async fn strange_labels_are_kept(tier: &impl Tier) {
    let tag = "a'b\"c{d},\\é\n:*?[x]";
    let record = lasting(1, "x", labels("te'nant", "w{o}rk\\flow", &[tag, ""]));
    let plain = lasting(2, "x", labels("te'nant", "w", &["a"]));
    tier.put(&[record, plain], now()).await.unwrap();
    let target = Target::Tag {
        tenant: "te'nant".to_owned(),
        tag: tag.to_owned(),
    };
    assert_eq!(tier.remove(&target).await.unwrap(), 1);
    assert!(find(tier, 1).await.is_none());
    assert!(find(tier, 2).await.is_some());
}

pub(crate) async fn everything_can_be_removed_at_once(tier: &impl SharedTier) {
    let others = labels("b", "w", &[]);
    for start in (0..240u8).step_by(60) {
        let records: Vec<Record> = (start..start + 60)
            .map(|number| lasting(number, "x", labels("a", "w", &["t"])))
            .collect();
        tier.put(&records, now()).await.unwrap();
    }
    tier.put(&[lasting(250, "x", others)], now()).await.unwrap();
    assert_eq!(
        tier.remove(&Target::Tenant("a".to_owned())).await.unwrap(),
        240
    );
    assert_eq!(tier.remove(&Target::All).await.unwrap(), 1);
    assert_eq!(tier.usage().await.unwrap().entries, 0);
}

pub(crate) async fn a_lease_has_one_holder(tier: &impl SharedTier) {
    let [one, other] = [LeaseToken::now_v7(), LeaseToken::now_v7()];
    let lease = async |number: u8, token| tier.lease(&key(number), token, DEADLINE).await.unwrap();
    assert!(lease(1, one).await);
    assert!(!lease(1, other).await);
    assert!(lease(1, one).await, "the holder lengthens it");
    assert!(lease(2, other).await, "other keys are free");
    tier.release(&key(1), other).await.unwrap();
    assert!(!lease(1, other).await, "only the holder ends it");
    tier.release(&key(1), one).await.unwrap();
    assert!(lease(1, other).await);
    assert_eq!(
        tier.remove(&Target::All).await.unwrap(),
        0,
        "a lease is no entry"
    );
}

pub(crate) async fn a_lease_that_is_not_lengthened_ends(tier: &impl SharedTier) {
    let [one, other] = [LeaseToken::now_v7(), LeaseToken::now_v7()];
    let short = Duration::from_millis(30);
    let started = Instant::now();
    assert!(tier.lease(&key(1), one, short).await.unwrap());
    let taken = async {
        while !tier.lease(&key(1), other, DEADLINE).await.unwrap() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, taken).await.unwrap();
    assert!(started.elapsed() >= short);
    assert!(!tier.lease(&key(1), one, short).await.unwrap());
}
