//! A fixed workload of the journal's codec for an instruction counter: the records of small runs, to
//! bytes and back. `cargo xtask instructions` counts it and compares.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use levelflow_common::workflow::{Durability, Priority};
use levelflow_common::{RunId, RunStatus, Timestamp, WorkerId, WorkflowDigest};
use levelflow_engine::{Fact, Record, RunNumber, Submitted, TaskIndex};
use levelflow_store::codec::{Encoder, decode};

const RUNS: u64 = 2_000;

fn main() {
    let commits = commits();
    let mut encoder = Encoder::default();
    let mut bytes = Vec::new();
    for run in (1..=RUNS).map(RunNumber) {
        let mut sequence = 1;
        for records in &commits {
            bytes.clear();
            encoder.encode(records, &mut bytes);
            let row = Bytes::copy_from_slice(&bytes);
            let read = decode(run, sequence, row).expect("it was just encoded");
            assert_eq!(read.len(), records.len());
            sequence += read.len() as u64;
        }
    }
}

/// What a run of the shape 1→3→1 records, by the commits that it takes.
fn commits() -> [Vec<Record>; 4] {
    [
        vec![record(Fact::Submitted(Arc::new(submitted())))],
        vec![succeeded(0)],
        (1..=3).map(succeeded).collect(),
        vec![
            succeeded(4),
            record(Fact::Finished {
                status: RunStatus::Succeeded,
                outputs: Some(Bytes::from_static(br#"{"answer":42}"#)),
                failure: None,
            }),
        ],
    ]
}

fn succeeded(task: u32) -> Record {
    record(Fact::Succeeded {
        task: TaskIndex(task),
        attempt: 1,
        started_at: Timestamp::from_micros(1_700_000_000_000_000),
        worker: Some(WorkerId("worker-1".into())),
        cached: None,
        similar_to: None,
        output: Bytes::from_static(br#"{"status":200,"body":"ok"}"#),
        stream: None,
    })
}

fn record(fact: Fact) -> Record {
    Record {
        at: Timestamp::from_micros(1_700_000_000_000_100),
        fact,
    }
}

fn submitted() -> Submitted {
    Submitted {
        run_id: RunId::from_slice(&[7; 16]).expect("sixteen bytes are an id"),
        digest: WorkflowDigest::from_slice(&[9; 32]).expect("32 bytes are a digest"),
        workflow: "small".into(),
        tenant: "default".into(),
        priority: Priority::Normal,
        durability: Durability::Strict,
        cache: levelflow_common::CacheUse::Use,
        labels: BTreeMap::from([("team".to_owned(), "data".to_owned())]),
        inputs: Bytes::from_static(br#"{"since":"2026-01-01"}"#),
        key: None,
        resumed_from: None,
        kept: Vec::new(),
    }
}
