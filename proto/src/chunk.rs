//! The streamed output of tasks.

use levelflow_common::chunk::TaskEnd;
use levelflow_common::{ChunkCursor, ChunkEvent, FencingToken, TaskStatus};

use crate::enumeration::Enumeration as _;
use crate::invalid::InvalidField;
use crate::v1;
use crate::v1::watch_task_response::Event;

impl From<ChunkCursor> for v1::ChunkCursor {
    fn from(cursor: ChunkCursor) -> Self {
        Self {
            stream: cursor.stream.0,
            chunks: cursor.chunks,
        }
    }
}

impl From<v1::ChunkCursor> for ChunkCursor {
    fn from(message: v1::ChunkCursor) -> Self {
        Self {
            stream: FencingToken(message.stream),
            chunks: message.chunks,
        }
    }
}

impl From<ChunkEvent> for v1::WatchTaskResponse {
    fn from(event: ChunkEvent) -> Self {
        let event = match event {
            ChunkEvent::Started { stream, attempt } => Event::Started(v1::StreamStarted {
                stream: stream.0,
                attempt,
            }),
            ChunkEvent::Chunks {
                stream,
                attempt,
                first,
                chunks,
            } => Event::Chunks(v1::Chunks {
                stream: stream.0,
                attempt,
                first,
                chunks,
            }),
            ChunkEvent::Lagged {
                stream,
                first,
                missed,
            } => Event::Lagged(v1::ChunksLagged {
                stream: stream.0,
                first,
                missed,
            }),
            ChunkEvent::Ended(end) => Event::Ended(v1::TaskEnd {
                status: end.status.number(),
                attempt: end.attempt,
                chunks: end.chunks,
                output: end.output,
                failure: end.failure.map(Into::into),
            }),
        };
        Self { event: Some(event) }
    }
}

impl TryFrom<v1::WatchTaskResponse> for ChunkEvent {
    type Error = InvalidField;

    fn try_from(message: v1::WatchTaskResponse) -> Result<Self, InvalidField> {
        let event = message
            .event
            .ok_or_else(|| InvalidField::missing("event"))?;
        Ok(match event {
            Event::Started(event) => Self::Started {
                stream: FencingToken(event.stream),
                attempt: event.attempt,
            },
            Event::Chunks(event) => Self::Chunks {
                stream: FencingToken(event.stream),
                attempt: event.attempt,
                first: event.first,
                chunks: event.chunks,
            },
            Event::Lagged(event) => Self::Lagged {
                stream: FencingToken(event.stream),
                first: event.first,
                missed: event.missed,
            },
            Event::Ended(event) => Self::Ended(Box::new(TaskEnd {
                status: TaskStatus::required("ended.status", event.status)?,
                attempt: event.attempt,
                chunks: event.chunks,
                output: event.output,
                failure: event.failure.map(Into::into),
            })),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use levelflow_common::{Code, Failure};

    use super::*;

    #[test]
    fn events_read_back() {
        let stream = FencingToken(7 << 44);
        let ended = |status, output, failure| {
            ChunkEvent::Ended(Box::new(TaskEnd {
                status,
                attempt: 2,
                chunks: 3,
                output,
                failure,
            }))
        };
        let failure = Failure::retryable(Code::ChatFailed, "broke off");
        for event in [
            ChunkEvent::Started { stream, attempt: 2 },
            ChunkEvent::Chunks {
                stream,
                attempt: 2,
                first: 9,
                chunks: vec![Bytes::from_static(b"\"a\""), Bytes::from_static(b"1")],
            },
            ChunkEvent::Lagged {
                stream,
                first: 11,
                missed: 4,
            },
            ended(TaskStatus::Succeeded, Some(Bytes::from_static(b"{}")), None),
            ended(TaskStatus::Failed, None, Some(failure)),
        ] {
            let message = v1::WatchTaskResponse::from(event.clone());
            assert_eq!(ChunkEvent::try_from(message), Ok(event));
        }
        let cursor = ChunkCursor { stream, chunks: 11 };
        assert_eq!(ChunkCursor::from(v1::ChunkCursor::from(cursor)), cursor);
    }

    #[test]
    fn an_empty_message_is_no_event() {
        let error = ChunkEvent::try_from(v1::WatchTaskResponse::default()).unwrap_err();
        assert_eq!(error.to_string(), "event: is missing");
    }
}
