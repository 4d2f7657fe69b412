use levelflow_common::Code;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn payload() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn time() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp::from_micros)
}

fn run_id() -> impl Strategy<Value = RunId> {
    any::<[u8; 16]>().prop_map(|bytes| RunId::from_slice(&bytes).unwrap())
}

fn task() -> impl Strategy<Value = TaskIndex> {
    any::<u32>().prop_map(TaskIndex)
}

fn worker() -> impl Strategy<Value = Option<WorkerId>> {
    option::of(".{0,20}".prop_map(|name| WorkerId(name.into())))
}

fn failure() -> impl Strategy<Value = Failure> {
    let wait = option::of(0..3_600_000_000_u64);
    (select(Code::ALL), ".{0,40}", any::<bool>(), wait).prop_map(
        |(code, message, retryable, wait)| Failure {
            retry_after: wait.map(|micros| HumanDuration(Duration::from_micros(micros))),
            ..Failure::new(code, message, retryable)
        },
    )
}

fn key() -> impl Strategy<Value = SubmitKey> {
    (".{1,30}", any::<[u8; 32]>(), option::of(time())).prop_map(|(key, content, expires_at)| {
        SubmitKey {
            key: key.into(),
            content,
            expires_at,
        }
    })
}

fn kept() -> impl Strategy<Value = Kept> {
    let end = prop_oneof![
        payload().prop_map(KeptEnd::Succeeded),
        Just(KeptEnd::Skipped)
    ];
    (task(), option::of(any::<u32>()), end, run_id()).prop_map(|(task, item, end, from)| Kept {
        task,
        item,
        end,
        from,
    })
}

fn stream() -> impl Strategy<Value = Box<RecordedStream>> {
    (any::<u64>(), any::<u32>(), payload()).prop_map(|(stream, chunks, packed)| {
        Box::new(RecordedStream {
            stream: FencingToken(stream),
            chunks,
            packed,
        })
    })
}

fn submitted() -> impl Strategy<Value = Submitted> {
    let names = (".{0,20}", ".{0,20}", btree_map(".{0,8}", ".{0,8}", 0..4));
    let settings = (
        select(&Priority::ALL[..]),
        select(&[Durability::Strict, Durability::Relaxed][..]),
        select(&CacheUse::ALL[..]),
    );
    let resumed = (option::of(run_id()), vec(kept(), 0..4));
    (
        run_id(),
        any::<[u8; 32]>(),
        names,
        settings,
        payload(),
        option::of(key()),
        resumed,
    )
        .prop_map(
            |(run_id, digest, names, settings, inputs, key, resumed)| Submitted {
                run_id,
                digest: WorkflowDigest::from_slice(&digest).unwrap(),
                workflow: names.0.into(),
                tenant: names.1.into(),
                labels: names.2,
                priority: settings.0,
                durability: settings.1,
                cache: settings.2,
                inputs,
                key,
                resumed_from: resumed.0,
                kept: resumed.1,
            },
        )
}

fn cached() -> impl Strategy<Value = CachedFrom> {
    (select(&CacheTier::ALL[..]), any::<u32>(), any::<u32>()).prop_map(|(tier, age, saved)| {
        CachedFrom {
            tier,
            age: Duration::from_micros(age.into()),
            saved: Duration::from_micros(saved.into()),
        }
    })
}

fn similar() -> impl Strategy<Value = Similar> {
    (0..=1_000_000u32, run_id(), "[a-z]{1,9}").prop_map(|(similarity, run_id, task_id)| Similar {
        similarity: Similarity::from_millionths(similarity),
        run_id,
        task_id: task_id.into(),
    })
}

fn fact() -> impl Strategy<Value = Fact> {
    prop_oneof![
        submitted().prop_map(|submitted| Fact::Submitted(Arc::new(submitted))),
        (task(), any::<u32>()).prop_map(|(task, items)| Fact::Expanded { task, items }),
        (task(), time()).prop_map(|(task, until)| Fact::Slept { task, until }),
        (
            task(),
            any::<u32>(),
            time(),
            worker(),
            payload(),
            option::of(stream()),
            option::of(cached()),
            option::of(similar())
        )
            .prop_map(
                |(task, attempt, started_at, worker, output, stream, cached, similar)| {
                    Fact::Succeeded {
                        task,
                        attempt,
                        started_at,
                        worker,
                        output,
                        stream,
                        cached: cached.map(Box::new),
                        similar_to: similar.map(Box::new),
                    }
                }
            ),
        (
            task(),
            any::<u32>(),
            option::of(time()),
            worker(),
            failure(),
            option::of(time())
        )
            .prop_map(|(task, attempt, started_at, worker, failure, retry_at)| {
                Fact::Failed {
                    task,
                    attempt,
                    started_at,
                    worker,
                    failure,
                    retry_at,
                }
            }),
        task().prop_map(|task| Fact::Skipped { task }),
        Just(Fact::TimedOut),
        ".{0,40}".prop_map(|reason| Fact::CancelRequested {
            reason: reason.into()
        }),
        (
            select(&RunStatus::ALL[..]),
            option::of(payload()),
            option::of(failure())
        )
            .prop_map(|(status, outputs, failure)| Fact::Finished {
                status,
                outputs,
                failure
            }),
    ]
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    vec(
        (time(), fact()).prop_map(|(at, fact)| Record { at, fact }),
        1..6,
    )
}

const RUN: RunNumber = RunNumber(7);

proptest! {
    #[test]
    fn records_read_back(entries in vec(records(), 1..4)) {
        let mut encoder = Encoder::default();
        for records in entries {
            let mut bytes = Vec::new();
            encoder.encode(&records, &mut bytes);
            prop_assert_eq!(decode(RUN, 1, bytes.into()).unwrap(), records);
        }
    }

    #[test]
    fn entries_are_joined_by_their_bytes(first in records(), second in records()) {
        let mut bytes = Vec::new();
        Encoder::default().encode(&first, &mut bytes);
        Encoder::default().encode(&second, &mut bytes);
        let joined = [first, second].concat();
        prop_assert_eq!(decode(RUN, 1, bytes.into()).unwrap(), joined);
    }

    #[test]
    fn progress_reads_back(
        status in select(&RunStatus::ALL[..]),
        finished_at in option::of(time()),
        counts in any::<[u32; 5]>(),
        failure in option::of(failure()),
    ) {
        let [total, succeeded, failed, skipped, cancelled] = counts;
        let counts = TaskCounts { total, succeeded, failed, skipped, cancelled };
        let progress = Progress { status, finished_at, counts, failure };
        let mut bytes = Vec::new();
        encode_progress(&progress, &mut bytes);
        prop_assert!(!bytes.is_empty());
        prop_assert_eq!(decode_progress(&bytes).unwrap(), progress);
    }

    #[test]
    fn damaged_bytes_never_panic(records in records(), cut in any::<prop::sample::Index>(), flip in any::<u8>()) {
        let mut bytes = Vec::new();
        Encoder::default().encode(&records, &mut bytes);
        let place = cut.index(bytes.len());
        bytes[place] ^= flip;
        if let Err(error) = decode(RUN, 1, bytes.clone().into()) {
            prop_assert_eq!(error.code(), Code::StoreCorrupt);
        }
        bytes.truncate(place);
        if let Err(error) = decode(RUN, 1, bytes.into()) {
            prop_assert_eq!(error.code(), Code::StoreCorrupt);
        }
    }
}

#[test]
fn bytes_that_are_no_records_name_the_run_and_the_sequence() {
    let error = decode(RUN, 41, Bytes::from_static(b"\xff\xff")).unwrap_err();
    assert_eq!(error.code(), Code::StoreCorrupt);
    assert_eq!(error.to_string(), "record 41 of run number 7 is damaged");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "the bytes are not in the format of records");
}

#[test]
fn a_fact_of_a_newer_version_is_refused_with_its_own_sequence() {
    let known = RecordRow::of(&Record {
        at: Timestamp::from_micros(1),
        fact: Fact::Skipped { task: TaskIndex(0) },
    });
    let unknown = RecordRow { at: 2, fact: None };
    let row = EntryRow {
        records: vec![known, unknown],
    };
    let error = decode(RUN, 41, row.encode_to_vec().into()).unwrap_err();
    assert_eq!(error.to_string(), "record 42 of run number 7 is damaged");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "`fact` is missing or unknown");
}

#[test]
fn an_unknown_status_is_refused() {
    let row = EntryRow {
        records: vec![RecordRow {
            at: 1,
            fact: Some(FactRow::Finished(Box::new(FinishedRow {
                status: 99,
                outputs: None,
                failure: None,
            }))),
        }],
    };
    let error = decode(RUN, 1, row.encode_to_vec().into()).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "`status` has the unknown value `99`");
}
