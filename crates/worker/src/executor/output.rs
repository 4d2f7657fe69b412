//! JSON in, JSON out, with bounds.

use std::io;

use bytes::Bytes;
use levelflow_common::limits::{MAX_CHUNK_BYTES, MAX_OUTPUT_BYTES};
use levelflow_common::{Code, Failure};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::attempt::output_too_large;

/// Reads the input of an attempt; none at all is read as `null`.
pub(crate) fn read_input<I: DeserializeOwned>(input: &[u8]) -> Result<I, Failure> {
    let input = if input.is_empty() { b"null" } else { input };
    serde_json::from_slice(input).map_err(|error| {
        Failure::permanent(
            Code::TaskInputInvalid,
            format!("the input does not fit the task: {error}"),
        )
    })
}

/// Writes an output as JSON, and stops at the limit instead of filling the memory.
pub(crate) fn write_output<O: Serialize + ?Sized>(output: &O) -> Result<Bytes, Failure> {
    write(output, MAX_OUTPUT_BYTES, output_too_large)
}

/// Writes a chunk as JSON.
pub(crate) fn write_chunk<C: Serialize + ?Sized>(chunk: &C) -> Result<Bytes, Failure> {
    write(chunk, MAX_CHUNK_BYTES, || {
        let message = format!("a chunk is larger than {MAX_CHUNK_BYTES} bytes");
        Failure::permanent(Code::StreamTooLarge, message)
    })
}

fn write<O: Serialize + ?Sized>(
    output: &O,
    most: usize,
    too_large: impl Fn() -> Failure,
) -> Result<Bytes, Failure> {
    let mut bounded = Bounded {
        bytes: Vec::new(),
        most,
    };
    match serde_json::to_writer(&mut bounded, output) {
        Ok(()) => Ok(Bytes::from(bounded.bytes)),
        Err(error) if error.is_io() => Err(too_large()),
        Err(error) => Err(Failure::permanent(
            Code::HandlerFailed,
            format!("the output cannot be written as JSON: {error}"),
        )),
    }
}

struct Bounded {
    bytes: Vec<u8>,
    most: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_may_be_as_large_as_the_limit_and_no_larger() {
        let text = "x".repeat(MAX_OUTPUT_BYTES - 2);
        assert_eq!(write_output(&text).unwrap().len(), MAX_OUTPUT_BYTES);
        let failure = write_output(&format!("{text}x")).unwrap_err();
        assert_eq!(failure.code, Code::OutputTooLarge);
        assert!(!failure.retryable);
    }

    #[test]
    fn an_input_that_does_not_fit_is_a_permanent_failure() {
        let failure = read_input::<Vec<u32>>(br#"{"a": 1}"#).unwrap_err();
        assert_eq!(failure.code, Code::TaskInputInvalid);
        assert!(!failure.retryable);
        assert_eq!(
            failure.message,
            "the input does not fit the task: invalid type: map, expected a sequence at line 1 column 0"
        );
        assert_eq!(read_input::<Option<u32>>(b"").unwrap(), None);
    }
}
