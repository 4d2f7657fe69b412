//! What every store does: one suite that each implementation runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use levelflow_common::view::{RunSummary, TaskCounts};
use levelflow_common::{Code, Failure, Priority, RunStatus, Timestamp, WorkflowDigest};
use levelflow_engine::record::SubmitKey;
use levelflow_engine::{Entry, Fact, Progress, Record, RunNumber, TaskIndex};

use crate::port::{KnownKey, RunFilter, SequencedRecord, Store};
use crate::{Batch, StoreError};

/// Runs the suite: `$open` is an expression that gives a fresh store with whatever must outlive it.
macro_rules! conformance {
    ($open:expr; $($case:ident)*) => {
        $(
            // Some cases block their thread, beside which a store may need another one.
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let (store, _guard) = $open;
                crate::conformance::$case(&store).await;
            }
        )*
    };
    ($open:expr) => {
        crate::conformance::conformance! { $open;
            journals_are_read_in_order_and_in_pages
            entries_of_many_records_are_read_from_any_sequence
            a_batch_is_all_or_nothing
            after_a_refused_batch_only_a_recovery_helps
            unknown_runs_are_told_from_empty_answers
            summaries_follow_progress
            definitions_are_kept_once
            lists_are_filtered
            pages_are_stable_while_runs_are_added
            keys_are_found_until_they_expire
            recovery_gives_open_runs_only
            large_payloads_are_kept
            concurrent_appends_keep_their_order
            old_runs_are_pruned
            a_closed_store_says_so
        }
    };
}
pub(crate) use conformance;

/// Runs, entries and batches to test with.
pub(crate) mod sample {
    use bytes::Bytes;
    use levelflow_common::workflow::Durability;
    use levelflow_common::{RunId, WorkerId};
    use levelflow_engine::Submitted;
    use uuid::Uuid;

    use super::*;

    pub(crate) const CANONICAL: &[u8] = br#"{"name":"sample","tasks":[]}"#;

    pub(crate) fn digest() -> WorkflowDigest {
        WorkflowDigest::of(CANONICAL)
    }

    pub(crate) fn run_id(number: u64) -> RunId {
        RunId::from_uuid(Uuid::from_u64_pair(0x0190_0000_0000_7000, number))
    }

    /// Records of run `n` happen at `1000 n` and the microseconds after it.
    pub(crate) fn at(number: u64, sequence: u64) -> Timestamp {
        Timestamp::from_micros(number * 1000 + sequence)
    }

    pub(crate) fn submitted(number: u64) -> Submitted {
        Submitted {
            run_id: run_id(number),
            digest: digest(),
            workflow: "sample".into(),
            tenant: "default".into(),
            priority: Priority::Normal,
            durability: Durability::Strict,
            cache: levelflow_common::CacheUse::Use,
            labels: BTreeMap::new(),
            inputs: Bytes::from_static(b"{}"),
            key: None,
            resumed_from: None,
            kept: Vec::new(),
        }
    }

    pub(crate) fn submit(number: u64) -> Entry {
        submit_as(number, submitted(number))
    }

    pub(crate) fn submit_as(number: u64, submitted: Submitted) -> Entry {
        Entry {
            run: RunNumber(number),
            first_sequence: 1,
            records: vec![Record {
                at: at(number, 1),
                fact: Fact::Submitted(Arc::new(submitted)),
            }],
            progress: Some(progress(RunStatus::Running)),
        }
    }

    pub(crate) fn success(number: u64, sequence: u64, output: impl Into<Bytes>) -> Record {
        Record {
            at: at(number, sequence),
            fact: Fact::Succeeded {
                task: TaskIndex(u32::try_from(sequence).unwrap() - 2),
                attempt: 1,
                started_at: at(number, 1),
                worker: Some(WorkerId("worker-1".into())),
                cached: None,
                similar_to: None,
                output: output.into(),
                stream: None,
            },
        }
    }

    /// Successes with the sequences from `first`, in one entry.
    pub(crate) fn succeed(number: u64, first: u64, records: u64) -> Entry {
        Entry {
            run: RunNumber(number),
            first_sequence: first,
            records: (first..first + records)
                .map(|sequence| success(number, sequence, format!("{sequence}")))
                .collect(),
            progress: None,
        }
    }

    pub(crate) fn finish(number: u64, sequence: u64) -> Entry {
        finish_as(number, sequence, RunStatus::Succeeded)
    }

    pub(crate) fn finish_as(number: u64, sequence: u64, status: RunStatus) -> Entry {
        Entry {
            run: RunNumber(number),
            first_sequence: sequence,
            records: vec![Record {
                at: at(number, sequence),
                fact: Fact::Finished {
                    status,
                    outputs: Some(Bytes::from_static(b"{}")),
                    failure: None,
                },
            }],
            progress: Some(Progress {
                finished_at: Some(at(number, sequence)),
                ..progress(status)
            }),
        }
    }

    pub(crate) fn progress(status: RunStatus) -> Progress {
        Progress {
            status,
            finished_at: None,
            counts: TaskCounts {
                total: 3,
                ..TaskCounts::default()
            },
            failure: None,
        }
    }

    pub(crate) fn batch(entries: Vec<Entry>) -> Batch {
        Batch {
            definitions: vec![(digest(), Bytes::from_static(CANONICAL))],
            entries,
        }
    }
}

async fn append(store: &impl Store, entries: Vec<Entry>) -> Result<(), StoreError> {
    store.append(sample::batch(entries)).await.unwrap()
}

async fn records(store: &impl Store, run: u64, after: u64, limit: usize) -> Vec<SequencedRecord> {
    store
        .journal(sample::run_id(run), after, limit)
        .await
        .unwrap()
        .unwrap()
}

fn sequences(records: &[SequencedRecord]) -> Vec<u64> {
    records.iter().map(|record| record.sequence).collect()
}

async fn listed(store: &impl Store, filter: RunFilter) -> Vec<RunSummary> {
    let page = store.list(filter, None, 100).await.unwrap();
    assert_eq!(page.next, None);
    page.runs
}

pub(crate) async fn journals_are_read_in_order_and_in_pages(store: &impl Store) {
    append(store, vec![sample::submit(1), sample::submit(2)])
        .await
        .unwrap();
    append(
        store,
        vec![sample::succeed(2, 2, 1), sample::succeed(1, 2, 1)],
    )
    .await
    .unwrap();
    append(store, vec![sample::succeed(1, 3, 1), sample::finish(1, 4)])
        .await
        .unwrap();
    let all = records(store, 1, 0, 100).await;
    let expected: Vec<_> = [
        sample::submit(1),
        sample::succeed(1, 2, 1),
        sample::succeed(1, 3, 1),
        sample::finish(1, 4),
    ]
    .into_iter()
    .flat_map(|entry| entry.records)
    .collect();
    let read: Vec<_> = all.iter().map(|record| record.record.clone()).collect();
    assert_eq!(read, expected);
    assert_eq!(sequences(&all), [1, 2, 3, 4]);
    assert_eq!(sequences(&records(store, 1, 0, 2).await), [1, 2]);
    assert_eq!(sequences(&records(store, 1, 2, 2).await), [3, 4]);
    assert_eq!(sequences(&records(store, 1, 4, 2).await), [0; 0]);
    assert_eq!(sequences(&records(store, 1, u64::MAX, 2).await), [0; 0]);
    assert_eq!(sequences(&records(store, 1, 0, 0).await), [0; 0]);
}

pub(crate) async fn entries_of_many_records_are_read_from_any_sequence(store: &impl Store) {
    append(store, vec![sample::submit(1)]).await.unwrap();
    append(
        store,
        vec![sample::succeed(1, 2, 5), sample::succeed(1, 7, 3)],
    )
    .await
    .unwrap();
    for after in 0..9 {
        let read = records(store, 1, after, 3).await;
        let expected: Vec<_> = (after + 1..=9).take(3).collect();
        assert_eq!(sequences(&read), expected, "after {after}");
    }
    let read = records(store, 1, 3, 1).await;
    assert_eq!(read[0].record, sample::success(1, 4, "4"));
}

pub(crate) async fn a_batch_is_all_or_nothing(store: &impl Store) {
    append(store, vec![sample::submit(1)]).await.unwrap();
    let mut again = sample::succeed(1, 3, 1);
    again.first_sequence = 1;
    let error = append(
        store,
        vec![sample::submit(2), sample::succeed(1, 2, 1), again],
    )
    .await
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "an entry of run number 1 was refused: its sequence does not follow the journal"
    );
    assert_eq!(error.code(), Code::Internal);
    assert_eq!(sequences(&records(store, 1, 0, 10).await), [1]);
    assert_eq!(store.summary(sample::run_id(2)).await.unwrap(), None);

    store.recover().await.unwrap();
    let mut orphan = sample::finish(7, 1);
    orphan.records = sample::succeed(7, 2, 1).records;
    let error = append(store, vec![sample::succeed(1, 2, 1), orphan])
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "an entry of run number 7 was refused: its run is unknown"
    );
    assert_eq!(sequences(&records(store, 1, 0, 10).await), [1]);
}

pub(crate) async fn after_a_refused_batch_only_a_recovery_helps(store: &impl Store) {
    append(store, vec![sample::submit(1)]).await.unwrap();
    append(store, vec![sample::submit(1)]).await.unwrap_err();
    let error = append(store, vec![sample::succeed(1, 2, 1)])
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Suspended { .. }), "{error}");
    assert_eq!(error.code(), Code::StoreUnavailable);
    assert_eq!(sequences(&records(store, 1, 0, 10).await), [1]);

    let recovery = store.recover().await.unwrap();
    assert_eq!(recovery.open, [(RunNumber(1), sample::submit(1).records)]);
    append(store, vec![sample::succeed(1, 2, 1)]).await.unwrap();
    assert_eq!(sequences(&records(store, 1, 0, 10).await), [1, 2]);
}

pub(crate) async fn unknown_runs_are_told_from_empty_answers(store: &impl Store) {
    append(store, vec![sample::submit(1)]).await.unwrap();
    assert_eq!(store.journal(sample::run_id(9), 0, 10).await.unwrap(), None);
    assert_eq!(
        store.journal(sample::run_id(1), 5, 10).await.unwrap(),
        Some(Vec::new())
    );
    assert_eq!(store.summary(sample::run_id(9)).await.unwrap(), None);
    let unknown = WorkflowDigest::of(b"unknown");
    assert_eq!(store.definition(unknown).await.unwrap(), None);
}

pub(crate) async fn summaries_follow_progress(store: &impl Store) {
    let mut submitted = sample::submitted(1);
    submitted.labels = BTreeMap::from([("team".to_owned(), "größer \"x\"".to_owned())]);
    submitted.priority = Priority::High;
    submitted.resumed_from = Some(sample::run_id(77));
    append(store, vec![sample::submit_as(1, submitted.clone())])
        .await
        .unwrap();
    let mut expected = RunSummary {
        run_id: sample::run_id(1),
        workflow: "sample".into(),
        digest: sample::digest(),
        tenant: "default".into(),
        status: RunStatus::Running,
        priority: Priority::High,
        labels: submitted.labels,
        submitted_at: sample::at(1, 1),
        finished_at: None,
        counts: TaskCounts {
            total: 3,
            ..TaskCounts::default()
        },
        failure: None,
        resumed_from: Some(sample::run_id(77)),
    };
    let read = store.summary(sample::run_id(1)).await.unwrap();
    assert_eq!(read.as_ref(), Some(&expected));

    let progress = Progress {
        status: RunStatus::Failed,
        finished_at: Some(sample::at(1, 2)),
        counts: TaskCounts {
            total: 5,
            succeeded: 1,
            failed: 2,
            skipped: 1,
            cancelled: 1,
        },
        failure: Some(Failure::retryable(Code::ProcessFailed, "exit status 3")),
    };
    let mut finish = sample::finish_as(1, 2, RunStatus::Failed);
    finish.progress = Some(progress.clone());
    append(store, vec![finish]).await.unwrap();
    expected.status = RunStatus::Failed;
    expected.finished_at = progress.finished_at;
    expected.counts = progress.counts;
    expected.failure = progress.failure;
    let read = store.summary(sample::run_id(1)).await.unwrap();
    assert_eq!(read.as_ref(), Some(&expected));

    append(store, vec![sample::submit(2), sample::finish(2, 2)])
        .await
        .unwrap();
    let read = store.summary(sample::run_id(2)).await.unwrap().unwrap();
    assert_eq!(read.status, RunStatus::Succeeded);
    assert_eq!(read.finished_at, Some(sample::at(2, 2)));
}

pub(crate) async fn definitions_are_kept_once(store: &impl Store) {
    append(store, vec![sample::submit(1)]).await.unwrap();
    append(store, vec![sample::submit(2)]).await.unwrap();
    let read = store.definition(sample::digest()).await.unwrap();
    assert_eq!(read.as_deref(), Some(sample::CANONICAL));
}

pub(crate) async fn lists_are_filtered(store: &impl Store) {
    for number in 1..=6 {
        let mut submitted = sample::submitted(number);
        submitted.labels = BTreeMap::from([
            ("parity".to_owned(), format!("{}", number % 2)),
            ("a.b'\"c".to_owned(), format!("{}", number % 3)),
        ]);
        if number <= 3 {
            submitted.workflow = "other".into();
        }
        if number == 6 {
            submitted.tenant = "acme".into();
        }
        let mut entries = vec![sample::submit_as(number, submitted)];
        match number {
            1 | 4 => entries.push(sample::finish(number, 2)),
            2 => entries.push(sample::finish_as(number, 2, RunStatus::Failed)),
            3 => {
                let mut cancel = sample::finish_as(number, 2, RunStatus::Cancelling);
                cancel.records = vec![Record {
                    at: sample::at(number, 2),
                    fact: Fact::CancelRequested {
                        reason: "enough".into(),
                    },
                }];
                entries.push(cancel);
            }
            _ => {}
        }
        append(store, entries).await.unwrap();
    }
    let statuses = |statuses: &[RunStatus]| RunFilter {
        statuses: statuses.to_vec(),
        ..RunFilter::default()
    };
    let labels = |labels: &[(&str, &str)]| RunFilter {
        labels: labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..RunFilter::default()
    };
    let cases = [
        (RunFilter::default(), vec![6, 5, 4, 3, 2, 1]),
        (statuses(&[RunStatus::Running]), vec![6, 5]),
        (
            statuses(&[RunStatus::Running, RunStatus::Cancelling]),
            vec![6, 5, 3],
        ),
        (statuses(&[RunStatus::Succeeded]), vec![4, 1]),
        (
            statuses(&[RunStatus::Failed, RunStatus::Running]),
            vec![6, 5, 2],
        ),
        (statuses(&[RunStatus::Cancelled]), vec![]),
        (
            RunFilter {
                workflow: Some("other".to_owned()),
                ..RunFilter::default()
            },
            vec![3, 2, 1],
        ),
        (
            RunFilter {
                tenant: Some("acme".to_owned()),
                ..RunFilter::default()
            },
            vec![6],
        ),
        (labels(&[("parity", "1")]), vec![5, 3, 1]),
        (labels(&[("parity", "1"), ("a.b'\"c", "0")]), vec![3]),
        (labels(&[("parity", "2")]), vec![]),
        (labels(&[("missing", "1")]), vec![]),
        (
            RunFilter {
                submitted_after: Some(sample::at(3, 1)),
                submitted_before: Some(sample::at(5, 1)),
                ..RunFilter::default()
            },
            vec![4, 3],
        ),
        (
            RunFilter {
                workflow: Some("sample".to_owned()),
                tenant: Some("default".to_owned()),
                statuses: vec![RunStatus::Running],
                labels: BTreeMap::from([("parity".to_owned(), "1".to_owned())]),
                submitted_after: Some(Timestamp::default()),
                submitted_before: Some(Timestamp::MAX),
            },
            vec![5],
        ),
    ];
    for (filter, expected) in cases {
        let ids: Vec<_> = listed(store, filter.clone())
            .await
            .iter()
            .map(|run| run.run_id)
            .collect();
        let expected: Vec<_> = expected.into_iter().map(sample::run_id).collect();
        assert_eq!(ids, expected, "{filter:?}");
    }
}

pub(crate) async fn pages_are_stable_while_runs_are_added(store: &impl Store) {
    for number in 1..=5 {
        append(store, vec![sample::submit(number)]).await.unwrap();
    }
    let filter = RunFilter::default;
    let mut ids = Vec::new();
    let mut cursor = None;
    for added in 6.. {
        let page = store.list(filter(), cursor, 2).await.unwrap();
        ids.extend(page.runs.iter().map(|run| run.run_id));
        append(store, vec![sample::submit(added)]).await.unwrap();
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let expected: Vec<_> = [5, 4, 3, 2, 1].map(sample::run_id).into();
    assert_eq!(ids, expected);

    let whole = store.list(filter(), Some(RunNumber(6)), 5).await.unwrap();
    assert_eq!(whole.runs.len(), 5);
    assert_eq!(whole.next, None);
    let far = store.list(filter(), Some(RunNumber(u64::MAX)), 1).await;
    assert_eq!(far.unwrap().runs.len(), 1);
}

pub(crate) async fn keys_are_found_until_they_expire(store: &impl Store) {
    let with_key = |number: u64, tenant: &str, expires_at: Option<u64>| {
        let mut submitted = sample::submitted(number);
        submitted.tenant = tenant.into();
        submitted.key = Some(SubmitKey {
            key: "order-1".into(),
            content: [u8::try_from(number).unwrap(); 32],
            expires_at: expires_at.map(Timestamp::from_micros),
        });
        sample::submit_as(number, submitted)
    };
    append(
        store,
        vec![
            sample::submit(1),
            with_key(2, "default", Some(100)),
            with_key(3, "default", Some(200)),
            with_key(4, "acme", None),
            with_key(5, "acme", Some(50)),
        ],
    )
    .await
    .unwrap();
    let found = async |tenant: &str, key: &str, now: u64| {
        store
            .find_key(tenant, key, Timestamp::from_micros(now))
            .await
            .unwrap()
    };
    let run = |number: u64| {
        Some(KnownKey {
            run_id: sample::run_id(number),
            content: [u8::try_from(number).unwrap(); 32],
        })
    };
    assert_eq!(found("default", "order-1", 0).await, run(3));
    assert_eq!(found("default", "order-1", 199).await, run(3));
    assert_eq!(found("default", "order-1", 200).await, None);
    assert_eq!(found("acme", "order-1", 49).await, run(5));
    assert_eq!(found("acme", "order-1", 50).await, run(4));
    assert_eq!(found("acme", "order-1", u64::MAX).await, run(4));
    assert_eq!(found("acme", "order-2", 0).await, None);
    assert_eq!(found("other", "order-1", 0).await, None);
    assert_eq!(found("default", "", 0).await, None);
}

pub(crate) async fn recovery_gives_open_runs_only(store: &impl Store) {
    let empty = store.recover().await.unwrap();
    assert_eq!(empty.next_run, RunNumber(1));
    assert_eq!(empty.open, []);
    assert_eq!(empty.definitions, []);

    let mut other = sample::submitted(2);
    let other_form = b"{\"name\":\"other\",\"tasks\":[]}";
    other.digest = WorkflowDigest::of(other_form);
    let mut batch = sample::batch(vec![
        sample::submit(1),
        sample::submit_as(2, other.clone()),
        sample::submit(3),
        sample::submit(4),
    ]);
    batch
        .definitions
        .push((other.digest, other_form.as_slice().into()));
    store.append(batch).await.unwrap().unwrap();
    append(
        store,
        vec![
            sample::succeed(3, 2, 2),
            sample::finish(2, 2),
            sample::succeed(1, 2, 1),
            sample::succeed(3, 4, 1),
            sample::finish_as(4, 2, RunStatus::Failed),
        ],
    )
    .await
    .unwrap();
    let recovery = store.recover().await.unwrap();
    assert!(recovery.epoch > empty.epoch);
    assert_eq!(recovery.next_run, RunNumber(5));
    let journal = |entries: Vec<Entry>| -> Vec<Record> {
        entries
            .into_iter()
            .flat_map(|entry| entry.records)
            .collect()
    };
    assert_eq!(
        recovery.open,
        [
            (
                RunNumber(1),
                journal(vec![sample::submit(1), sample::succeed(1, 2, 1)])
            ),
            (
                RunNumber(3),
                journal(vec![sample::submit(3), sample::succeed(3, 2, 3)])
            ),
        ]
    );
    assert_eq!(
        recovery.definitions,
        [(sample::digest(), sample::CANONICAL.into())]
    );
    assert!(store.recover().await.unwrap().epoch > recovery.epoch);
}

pub(crate) async fn large_payloads_are_kept(store: &impl Store) {
    let large: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut entry = sample::succeed(1, 2, 0);
    entry.records = vec![
        sample::success(1, 2, large.clone()),
        sample::success(1, 3, ""),
        sample::success(1, 4, large),
    ];
    append(store, vec![sample::submit(1), entry.clone()])
        .await
        .unwrap();
    let read = records(store, 1, 1, 10).await;
    let read: Vec<_> = read.into_iter().map(|record| record.record).collect();
    assert!(read == entry.records);
}

pub(crate) async fn concurrent_appends_keep_their_order(store: &impl Store) {
    const RUNS: u64 = 8;
    const ENTRIES: u64 = 100;

    let submits = (1..=RUNS).map(sample::submit).collect();
    append(store, submits).await.unwrap();
    std::thread::scope(|scope| {
        for number in 1..=RUNS {
            scope.spawn(move || {
                let answers: Vec<_> = (0..ENTRIES)
                    .map(|n| store.append(sample::batch(vec![sample::succeed(number, n + 2, 1)])))
                    .collect();
                for answer in answers {
                    answer.blocking_recv().unwrap().unwrap();
                }
            });
        }
    });
    for number in 1..=RUNS {
        let read = records(store, number, 0, usize::MAX).await;
        let expected: Vec<_> = (1..=ENTRIES + 1).collect();
        assert_eq!(sequences(&read), expected);
    }
}

pub(crate) async fn old_runs_are_pruned(store: &impl Store) {
    for number in 1..=4 {
        append(store, vec![sample::submit(number)]).await.unwrap();
        if number != 2 {
            append(store, vec![sample::finish(number, 2)])
                .await
                .unwrap();
        }
    }
    // The end of run 4 is not before itself.
    let before = sample::at(4, 2);
    assert_eq!(store.prune(before, 1).await.unwrap(), 1);
    assert_eq!(store.prune(before, 10).await.unwrap(), 1);
    assert_eq!(store.prune(before, 10).await.unwrap(), 0);
    let left: Vec<_> = listed(store, RunFilter::default()).await;
    let left: Vec<_> = left.into_iter().map(|run| run.run_id).collect();
    assert_eq!(left, [sample::run_id(4), sample::run_id(2)]);
    let pruned = sample::run_id(1);
    assert_eq!(store.journal(pruned, 0, 10).await.unwrap(), None);
    assert_eq!(store.summary(pruned).await.unwrap(), None);
    append(store, vec![sample::finish(2, 2)]).await.unwrap();
}

pub(crate) async fn a_closed_store_says_so(store: &impl Store) {
    let pending = store.append(sample::batch(vec![sample::submit(1)]));
    store.close().await.unwrap();
    pending.await.unwrap().unwrap();
    let error = append(store, vec![sample::submit(2)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Closed), "{error}");
    let error = store.recover().await.unwrap_err();
    assert!(matches!(error, StoreError::Closed), "{error}");
    let error = store.summary(sample::run_id(1)).await.unwrap_err();
    assert_eq!(error.to_string(), "the store is closed");
    store.close().await.unwrap();
}
