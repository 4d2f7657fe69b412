//! A commit: what becomes durable at once, as the log has it and as it is filed from there.
//!
//! The payload of its frame is a row of parts. A definition is `1`, its digest, and its canonical form
//! after a length; an entry is `2`, the number of the run, the first sequence number, and after their
//! lengths the records in the bytes of [`crate::codec`] and the progress, which may be empty. Lengths
//! have four bytes and the other numbers eight, little endian.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};
use levelflow_common::{Timestamp, WorkflowDigest};
use levelflow_engine::{Entry, Fact, Progress, Record, RunNumber, Submitted};

use crate::codec::{self, Encoder};
use crate::error::DecodeError;
use crate::port::Batch;

const DEFINITION: u8 = 1;
const ENTRY: u8 = 2;
const DIGEST_BYTES: usize = 32;

/// What one frame of the log made durable.
#[derive(Debug)]
pub(crate) struct Commit {
    /// The number of its frame.
    pub(crate) number: u64,
    pub(crate) definitions: Vec<(WorkflowDigest, Bytes)>,
    pub(crate) entries: Vec<CommittedEntry>,
    /// How long its frame is.
    pub(crate) bytes: usize,
}

/// An entry whose records are bytes already.
#[derive(Debug)]
pub(crate) struct CommittedEntry {
    pub(crate) run: RunNumber,
    pub(crate) first_sequence: u64,
    pub(crate) records: Bytes,
    /// From the first record, where it is the submit of the run.
    pub(crate) submitted: Option<(Timestamp, Arc<Submitted>)>,
    pub(crate) progress: Option<Progress>,
}

/// Appends the parts of batches to a frame, and tells where the records of each entry are in it.
pub(crate) fn encode<'a>(
    batches: impl Iterator<Item = &'a Batch>,
    encoder: &mut Encoder,
    frame: &mut Vec<u8>,
) -> Vec<Range<usize>> {
    let mut places = Vec::new();
    for batch in batches {
        for (digest, canonical) in &batch.definitions {
            frame.put_u8(DEFINITION);
            frame.put_slice(digest.as_bytes());
            put_bytes(frame, canonical);
        }
        for entry in &batch.entries {
            frame.put_u8(ENTRY);
            frame.put_u64_le(entry.run.0);
            frame.put_u64_le(entry.first_sequence);
            let records = put_length(frame, |frame| encoder.encode(&entry.records, frame));
            places.push(records);
            put_length(frame, |frame| {
                if let Some(progress) = &entry.progress {
                    codec::encode_progress(progress, frame);
                }
            });
        }
    }
    places
}

fn put_bytes(frame: &mut Vec<u8>, bytes: &[u8]) {
    put_length(frame, |frame| frame.put_slice(bytes));
}

/// Writes something after its length, and tells where it is.
fn put_length(frame: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
    let at = frame.len();
    frame.put_u32_le(0);
    let start = frame.len();
    write(frame);
    let length = u32::try_from(frame.len() - start)
        .expect("the limits of payloads keep every part far below 4 GiB");
    frame[at..start].copy_from_slice(&length.to_le_bytes());
    start..frame.len()
}

impl Commit {
    /// What was written as a frame; `places` is what [`encode`] gave.
    pub(crate) fn new(
        number: u64,
        batches: impl Iterator<Item = Batch>,
        frame: &Bytes,
        places: Vec<Range<usize>>,
    ) -> Self {
        let mut definitions = Vec::new();
        let mut entries = Vec::with_capacity(places.len());
        let mut places = places.into_iter();
        for batch in batches {
            definitions.extend(batch.definitions);
            let placed = batch.entries.into_iter().zip(&mut places);
            entries.extend(
                placed.map(|(entry, place)| CommittedEntry::new(entry, frame.slice(place))),
            );
        }
        Self {
            number,
            definitions,
            entries,
            bytes: frame.len(),
        }
    }

    /// Reads the payload of a frame.
    pub(crate) fn decode(number: u64, mut payload: Bytes) -> Result<Self, DecodeError> {
        let mut commit = Self {
            number,
            definitions: Vec::new(),
            entries: Vec::new(),
            bytes: payload.len(),
        };
        while payload.has_remaining() {
            match payload.get_u8() {
                DEFINITION => {
                    let digest = take(&mut payload, DIGEST_BYTES)?;
                    let digest = WorkflowDigest::from_slice(&digest)
                        .ok_or(DecodeError::Missing("digest"))?;
                    let canonical = take_part(&mut payload)?;
                    commit.definitions.push((digest, canonical));
                }
                ENTRY => commit.entries.push(CommittedEntry::decode(&mut payload)?),
                _ => return Err(DecodeError::Missing("part")),
            }
        }
        Ok(commit)
    }
}

impl CommittedEntry {
    /// An entry whose records were encoded.
    pub(crate) fn new(entry: Entry, records: Bytes) -> Self {
        Self {
            run: entry.run,
            first_sequence: entry.first_sequence,
            records,
            submitted: submitted(&entry.records),
            progress: entry.progress,
        }
    }

    fn decode(payload: &mut Bytes) -> Result<Self, DecodeError> {
        let run = RunNumber(take(payload, 8)?.get_u64_le());
        let first_sequence = take(payload, 8)?.get_u64_le();
        let records = take_part(payload)?;
        let progress = take_part(payload)?;
        let submitted = if first_sequence == 1 {
            submitted(&codec::decode_records(records.clone())?)
        } else {
            None
        };
        Ok(Self {
            run,
            first_sequence,
            records,
            submitted,
            progress: (!progress.is_empty())
                .then(|| codec::decode_progress(&progress))
                .transpose()?,
        })
    }
}

/// The submit, where it is the first record of an entry.
fn submitted(records: &[Record]) -> Option<(Timestamp, Arc<Submitted>)> {
    match records.first() {
        Some(Record {
            at,
            fact: Fact::Submitted(submitted),
        }) => Some((*at, submitted.clone())),
        _ => None,
    }
}

/// Whether an entry begins the journal of a run.
pub(crate) fn begins_run(entry: &Entry) -> bool {
    let submit = |record: &Record| matches!(record.fact, Fact::Submitted(_));
    entry.first_sequence == 1 && entry.records.first().is_some_and(submit)
}

fn take(payload: &mut Bytes, bytes: usize) -> Result<Bytes, DecodeError> {
    if payload.len() < bytes {
        return Err(DecodeError::Missing("end of part"));
    }
    Ok(payload.split_to(bytes))
}

fn take_part(payload: &mut Bytes) -> Result<Bytes, DecodeError> {
    let length = take(payload, 4)?.get_u32_le();
    take(payload, length as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::sample;

    #[test]
    fn what_was_written_is_read_back() {
        let batches = [
            sample::batch(vec![sample::submit(1), sample::submit(2)]),
            sample::batch(vec![sample::succeed(1, 2, 3), sample::finish(2, 2)]),
        ];
        let mut frame = vec![0; 16];
        let places = encode(batches.iter(), &mut Encoder::default(), &mut frame);
        let frame = Bytes::from(frame);
        let written = Commit::new(5, batches.into_iter(), &frame, places);
        let read = Commit::decode(5, frame.slice(16..)).unwrap();
        assert_eq!(read.definitions, written.definitions);
        let told = |commit: &Commit| {
            let entries = commit.entries.iter();
            entries
                .map(|entry| {
                    let CommittedEntry {
                        run,
                        first_sequence,
                        records,
                        submitted,
                        progress,
                    } = entry;
                    let (records, progress) = (records.clone(), progress.clone());
                    (*run, *first_sequence, records, submitted.clone(), progress)
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(told(&read), told(&written));
        assert!(read.entries[0].submitted.is_some() && read.entries[3].progress.is_some());
    }

    #[test]
    fn a_payload_that_ends_too_early_is_refused() {
        let batch = sample::batch(vec![sample::submit(1)]);
        let mut frame = Vec::new();
        encode([&batch].into_iter(), &mut Encoder::default(), &mut frame);
        let frame = Bytes::from(frame);
        for length in 1..frame.len() {
            let cut = Commit::decode(1, frame.slice(..length));
            // The first part may be whole.
            assert!(
                cut.is_err() || cut.is_ok_and(|cut| cut.entries.is_empty()),
                "{length}"
            );
        }
    }
}
