//! How much of what waits one commit takes.

use bytes::Bytes;
use levelflow_engine::Fact;

use crate::port::Batch;

/// A commit takes what waits, up to so many entries ...
const MAX_ENTRIES: usize = 1_000;
/// ... and about so many bytes of payload.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// How many batches may wait for their commit: far more than a store that works ever leaves waiting.
pub(crate) const MAX_WAITING: usize = 16 * 1024;

/// How large a group of batches is.
#[derive(Debug, Default)]
pub(crate) struct GroupSize {
    entries: usize,
    bytes: usize,
}

impl GroupSize {
    /// Counts a batch.
    pub(crate) fn add(&mut self, batch: &Batch) {
        self.entries += batch.entries.len();
        self.bytes += payload_bytes(batch);
    }

    /// Whether no more should join.
    pub(crate) fn is_full(&self) -> bool {
        self.entries >= MAX_ENTRIES || self.bytes >= MAX_BYTES
    }
}

/// About how much memory a batch takes: the parts of it that may be large.
fn payload_bytes(batch: &Batch) -> usize {
    let definitions = batch
        .definitions
        .iter()
        .map(|(_, canonical)| canonical.len());
    let records = batch.entries.iter().flat_map(|entry| &entry.records);
    let payloads = records.map(|record| match &record.fact {
        Fact::Submitted(submitted) => submitted.inputs.len(),
        Fact::Succeeded { output, stream, .. } => {
            output.len() + stream.as_ref().map_or(0, |stream| stream.packed.len())
        }
        Fact::Finished { outputs, .. } => outputs.as_ref().map_or(0, Bytes::len),
        _ => 0,
    });
    definitions.chain(payloads).sum()
}
