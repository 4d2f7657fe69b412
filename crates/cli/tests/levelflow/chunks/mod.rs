//! The streamed output of tasks: live, late, again, and after crashes.

mod crash;
mod faults;
mod run;
mod watchers;

use bytes::Bytes;
use levelflow_common::chunk::TaskEnd;
use levelflow_common::{ChunkCursor, ChunkEvent, FencingToken, TaskStatus};
use levelflow_proto::{ApiError, from_status, v1};
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::Streaming;

use crate::client::{Client, answer};
use crate::harness::{DEADLINE, Home};

/// What a watcher of one task's chunks is told.
struct Chunks(Streaming<v1::WatchTaskResponse>);

impl Chunks {
    async fn watch(
        client: &Client,
        run_id: &str,
        task_id: &str,
        after: Option<ChunkCursor>,
    ) -> Result<Self, ApiError> {
        Self::watch_item(client, run_id, task_id, None, after).await
    }

    async fn watch_item(
        client: &Client,
        run_id: &str,
        task_id: &str,
        item: Option<u32>,
        after: Option<ChunkCursor>,
    ) -> Result<Self, ApiError> {
        let request = v1::WatchTaskRequest {
            run_id: run_id.to_owned(),
            task_id: task_id.to_owned(),
            item,
            after: after.map(Into::into),
        };
        let stream = answer(client.service.clone().watch_task(request)).await?;
        Ok(Self(stream))
    }

    async fn next(&mut self) -> Result<Option<ChunkEvent>, ApiError> {
        let event = timeout(DEADLINE, self.0.message())
            .await
            .expect("something comes before the deadline")
            .map_err(|status| from_status(&status))?;
        Ok(event.map(|event| event.try_into().unwrap()))
    }

    /// The next chunks, until there are so many.
    async fn take(&mut self, seen: &mut Seen, count: usize) {
        while seen.chunks.len() < count {
            let event = self.next().await.unwrap().expect("more comes");
            seen.take(event);
        }
    }

    /// Everything until the end.
    async fn rest(mut self, mut seen: Seen) -> (Seen, TaskEnd) {
        while let Some(event) = self.next().await.unwrap() {
            if let ChunkEvent::Ended(end) = event {
                assert_eq!(self.next().await.unwrap(), None, "nothing follows the end");
                return (seen, *end);
            }
            seen.take(event);
        }
        panic!("the stream ends without the end of the task");
    }
}

/// What a watcher has seen of a task.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    stream: Option<FencingToken>,
    /// The attempt of each stream, in order.
    attempts: Vec<u32>,
    /// The chunks of the last stream.
    chunks: Vec<Bytes>,
    /// Chunks of failed attempts that were missed.
    missed: u32,
}

impl Seen {
    fn take(&mut self, event: ChunkEvent) {
        match event {
            ChunkEvent::Started { stream, attempt } => {
                assert_ne!(self.stream, Some(stream));
                self.stream = Some(stream);
                self.attempts.push(attempt);
                self.chunks.clear();
            }
            ChunkEvent::Chunks {
                stream,
                first,
                chunks,
                ..
            } => {
                assert_eq!(self.stream, Some(stream));
                assert_eq!(first as usize, self.chunks.len(), "without a gap");
                self.chunks.extend(chunks);
            }
            ChunkEvent::Lagged { missed, .. } => self.missed += missed,
            ChunkEvent::Ended(end) => panic!("the task ended: {end:?}"),
        }
    }

    fn cursor(&self) -> ChunkCursor {
        ChunkCursor {
            stream: self.stream.unwrap(),
            chunks: self.chunks.len() as u32,
        }
    }

    fn values(&self) -> Vec<Value> {
        let read = |chunk: &Bytes| serde_json::from_slice(chunk).unwrap();
        self.chunks.iter().map(read).collect()
    }
}

/// All chunks of a task that has ended, from its end on.
async fn replay(client: &Client, run_id: &str, task_id: &str) -> (Seen, TaskEnd) {
    let chunks = Chunks::watch(client, run_id, task_id, None).await.unwrap();
    chunks.rest(Seen::default()).await
}

/// A workflow with one program whose lines are its chunks.
fn program(home: &Home, script: &str) -> Value {
    json!({
        "name": "lines",
        "tasks": [{
            "id": "lines",
            "type": "process",
            "with": {
                "command": ["sh", "-c", script],
                "cwd": home.path(""),
                "stream": "lines",
                "output": "lines",
            },
            "retry": { "max_attempts": 3, "initial": "1ms", "jitter": false },
        }],
    })
}

/// Writes two lines, and two more when the file `gate` is there.
const GATED: &str =
    "echo one; echo two; while ! test -e gate; do sleep 0.02; done; echo three; echo four";
const GATED_LINES: [&str; 4] = ["one", "two", "three", "four"];

fn succeeded(end: &TaskEnd) -> bool {
    end.status == TaskStatus::Succeeded && end.failure.is_none() && end.output.is_some()
}
