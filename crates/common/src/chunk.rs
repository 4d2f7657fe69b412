//! The streamed output of tasks, in chunks: what a watcher of one task is told, and how chunks are kept.
//!
//! The chunks of one start of an attempt are a *stream*. It is named by the fencing token of that start and not
//! by the number of the attempt: after a crash of the coordinator an attempt starts again with the same number.

use std::fmt;
use std::str::FromStr;

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::id::FencingToken;
use crate::outcome::{Failure, TaskStatus};

/// Where a watcher is in the streamed output of a task. As text: `4000000000a-17`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkCursor {
    /// The stream whose chunks it knows.
    pub stream: FencingToken,
    /// How many of them it knows, from the first.
    pub chunks: u32,
}

impl fmt::Display for ChunkCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.stream.0, self.chunks)
    }
}

/// The text is not a cursor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a place in a stream; one looks like 4000000000a-17")]
pub struct InvalidChunkCursor(pub String);

impl FromStr for ChunkCursor {
    type Err = InvalidChunkCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (stream, chunks) = text.split_once('-')?;
            Some(Self {
                stream: FencingToken(u64::from_str_radix(stream, 16).ok()?),
                chunks: chunks.parse().ok()?,
            })
        };
        read().ok_or_else(|| InvalidChunkCursor(text.to_owned()))
    }
}

/// What a watcher of one task's chunks is told, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum ChunkEvent {
    /// An attempt started: what follows is its stream from the first chunk on, in place of an earlier one.
    Started {
        /// The stream.
        stream: FencingToken,
        /// The attempt, from 1.
        attempt: u32,
    },
    /// Chunks, without a gap to those before.
    Chunks {
        /// Their stream.
        stream: FencingToken,
        /// Its attempt.
        attempt: u32,
        /// The place of the first of them in the stream, from 0.
        first: u32,
        /// JSON values; at least one.
        chunks: Vec<Bytes>,
    },
    /// The watcher was so slow that the last chunks of a failed attempt are gone. Nothing that is part of a
    /// result is ever missed.
    Lagged {
        /// The stream.
        stream: FencingToken,
        /// The place of the first chunk that was missed.
        first: u32,
        /// How many were.
        missed: u32,
    },
    /// The task has ended, and all its chunks were told. Always the last.
    Ended(Box<TaskEnd>),
}

/// How a task ended, for those who watch its chunks.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskEnd {
    /// Its terminal status.
    pub status: TaskStatus,
    /// Its last attempt, from 1; 0 if none was made.
    pub attempt: u32,
    /// Chunks that were recorded with its result.
    pub chunks: u32,
    /// Its output, a JSON value.
    pub output: Option<Bytes>,
    /// Why it failed.
    pub failure: Option<Failure>,
}

impl ChunkEvent {
    /// From where to go on after this event; none after the end.
    pub fn cursor(&self) -> Option<ChunkCursor> {
        let (stream, chunks) = match self {
            Self::Started { stream, .. } => (*stream, 0),
            Self::Chunks {
                stream,
                first,
                chunks,
                ..
            } => (*stream, first + chunks.len() as u32),
            Self::Lagged {
                stream,
                first,
                missed,
            } => (*stream, first + missed),
            Self::Ended(_) => return None,
        };
        Some(ChunkCursor { stream, chunks })
    }
}

/// Puts chunks together so that [`unpack`] finds each again: before each stands its length, in groups of
/// seven bits with the lowest first.
pub fn pack(chunks: &[Bytes]) -> Bytes {
    let bytes = chunks.iter().map(|chunk| chunk.len() + 3).sum();
    let mut packed = BytesMut::with_capacity(bytes);
    for chunk in chunks {
        let mut length = chunk.len();
        while length >= 0x80 {
            packed.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        packed.put_u8(length as u8);
        packed.put_slice(chunk);
    }
    packed.freeze()
}

/// The chunks that were put together, as slices of the whole; none if that is damaged.
pub fn unpack(mut packed: Bytes) -> Option<Vec<Bytes>> {
    let mut chunks = Vec::new();
    while !packed.is_empty() {
        let mut length = 0;
        for shift in (0..28).step_by(7) {
            let byte = *packed.first()?;
            let _ = packed.split_to(1);
            length |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        if length > packed.len() {
            return None;
        }
        chunks.push(packed.split_to(length));
    }
    Some(chunks)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_are_found_again(sizes in vec(0_usize..40_000, 0..20)) {
            let chunk = |(place, size): (usize, &usize)| Bytes::from(vec![place as u8; *size]);
            let chunks: Vec<_> = sizes.iter().enumerate().map(chunk).collect();
            prop_assert_eq!(unpack(pack(&chunks)), Some(chunks));
        }

        #[test]
        fn damaged_bytes_never_panic(bytes in vec(any::<u8>(), 0..40)) {
            let size = bytes.len();
            let chunks = unpack(bytes.into()).unwrap_or_default();
            prop_assert!(chunks.iter().map(Bytes::len).sum::<usize>() <= size);
        }

        #[test]
        fn cursors_read_back(stream in any::<u64>(), chunks in any::<u32>()) {
            let cursor = ChunkCursor { stream: FencingToken(stream), chunks };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }

    #[test]
    fn other_texts_are_no_cursors() {
        for text in ["", "7", "-", "x-1", "1-", "1-4294967296", "1-2-3"] {
            assert!(text.parse::<ChunkCursor>().is_err(), "{text}");
        }
    }
}
