//! The streamed output of a task.

use levelflow_common::{ChunkEvent, Failure, TaskStatus};
use schemars::JsonSchema;
use serde::Serialize;

use super::JsonText;

/// Something that a watcher of one task's chunks is told.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ChunkEvent")]
pub struct Chunk<'a> {
    #[serde(flatten)]
    body: Body<'a>,
    /// From where to go on after this event; null after the last one.
    cursor: Option<String>,
}

/// What it is told.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Body<'a> {
    /// An attempt started: what follows takes the place of the chunks before.
    Started {
        /// Its number, from 1. After a crash of the coordinator it may start again with the same one.
        attempt: u32,
    },
    /// Chunks, without a gap to those before.
    Chunks {
        /// The attempt that gave them.
        attempt: u32,
        /// The place of the first of them, from 0.
        first: u32,
        /// Any JSON values.
        chunks: Vec<Option<JsonText<'a>>>,
    },
    /// The watcher was so slow that the last chunks of a failed attempt are gone.
    Lagged {
        /// The place of the first chunk that was missed.
        first: u32,
        /// How many were.
        missed: u32,
    },
    /// The task has ended, and all chunks were told.
    Ended {
        /// How.
        state: TaskStatus,
        /// Its last attempt; 0 if none was made.
        attempt: u32,
        /// Chunks that were recorded with the output.
        chunks: u32,
        /// The output, when it succeeded.
        output: Option<JsonText<'a>>,
        /// Why it failed.
        failure: Option<&'a Failure>,
    },
}

impl Chunk<'_> {
    /// The word for what is told, as in `event`.
    pub fn name(&self) -> &'static str {
        match self.body {
            Body::Started { .. } => "started",
            Body::Chunks { .. } => "chunks",
            Body::Lagged { .. } => "lagged",
            Body::Ended { .. } => "ended",
        }
    }
}

impl<'a> From<&'a ChunkEvent> for Chunk<'a> {
    fn from(event: &'a ChunkEvent) -> Self {
        let body = match event {
            ChunkEvent::Started { attempt, .. } => Body::Started { attempt: *attempt },
            ChunkEvent::Chunks {
                attempt,
                first,
                chunks,
                ..
            } => Body::Chunks {
                attempt: *attempt,
                first: *first,
                chunks: chunks.iter().map(|chunk| JsonText::read(chunk)).collect(),
            },
            ChunkEvent::Lagged { first, missed, .. } => Body::Lagged {
                first: *first,
                missed: *missed,
            },
            ChunkEvent::Ended(end) => Body::Ended {
                state: end.status,
                attempt: end.attempt,
                chunks: end.chunks,
                output: end.output.as_deref().and_then(JsonText::read),
                failure: end.failure.as_ref(),
            },
        };
        Self {
            body,
            cursor: event.cursor().map(|cursor| cursor.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use levelflow_common::FencingToken;
    use levelflow_common::chunk::TaskEnd;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_says_from_where_to_go_on() {
        let event = ChunkEvent::Chunks {
            stream: FencingToken(0xa0),
            attempt: 2,
            first: 7,
            chunks: vec![
                Bytes::from_static(b"\"a\""),
                Bytes::from_static(b"{\"n\":1.0}"),
            ],
        };
        assert_eq!(
            serde_json::to_string(&Chunk::from(&event)).unwrap(),
            r#"{"event":"chunks","attempt":2,"first":7,"chunks":["a",{"n":1.0}],"cursor":"a0-9"}"#
        );
        let end = ChunkEvent::Ended(Box::new(TaskEnd {
            status: TaskStatus::Succeeded,
            attempt: 2,
            chunks: 9,
            output: Some(Bytes::from_static(b"null")),
            failure: None,
        }));
        assert_eq!(
            serde_json::to_value(Chunk::from(&end)).unwrap(),
            json!({
                "event": "ended",
                "state": "succeeded",
                "attempt": 2,
                "chunks": 9,
                "output": null,
                "failure": null,
                "cursor": null,
            })
        );
    }
}
