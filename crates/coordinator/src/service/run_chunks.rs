//! The chunks of all tasks of a run, for those who watch the run and ask for them.
//!
//! Chunks of attempts under way come from the lists that the actor keeps, those of results from the journal, each
//! before the event that tells of the result.

use std::collections::HashMap;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use levelflow_common::chunk::unpack;
use levelflow_common::event::{RunEvent, RunUpdate, TaskRef};
use levelflow_common::{ChunkCursor, ChunkEvent};
use levelflow_engine::record::RecordedStream;
use tokio::sync::watch;

use super::chunks::{next, piece};
use crate::actor::TaskStream;

/// What a watcher of a run knows of the chunks of its tasks, and where more come from.
#[derive(Default)]
pub(super) struct RunChunks {
    cursors: HashMap<TaskRef, ChunkCursor>,
    live: HashMap<TaskRef, watch::Receiver<TaskStream>>,
    changes: FuturesUnordered<BoxFuture<'static, Change>>,
}

/// More came of a task; none if nothing will.
struct Change {
    task: TaskRef,
    stream: Option<watch::Receiver<TaskStream>>,
}

async fn changed(task: TaskRef, mut stream: watch::Receiver<TaskStream>) -> Change {
    let more = stream.changed().await.is_ok();
    Change {
        task,
        stream: more.then_some(stream),
    }
}

impl RunChunks {
    /// For a watcher that knows this much.
    pub(super) fn after(cursors: Vec<(TaskRef, ChunkCursor)>) -> Self {
        Self {
            cursors: cursors.into_iter().collect(),
            ..Self::default()
        }
    }

    /// What the watcher knows.
    pub(super) fn known(&self) -> Vec<(TaskRef, ChunkCursor)> {
        let known = self.cursors.iter();
        known
            .map(|(task, &cursor)| (task.clone(), cursor))
            .collect()
    }

    /// The watcher was told this by another coordinator.
    pub(super) fn note(&mut self, update: &RunUpdate) {
        for event in &update.events {
            if let RunEvent::Streamed { task, event } = event
                && let Some(cursor) = event.cursor()
            {
                self.cursors.insert(task.clone(), cursor);
            }
        }
    }

    /// A task gives chunks.
    pub(super) fn add(&mut self, task: &TaskRef, mut stream: watch::Receiver<TaskStream>) {
        self.live.insert(task.clone(), stream.clone());
        stream.mark_changed();
        self.changes.push(Box::pin(changed(task.clone(), stream)));
    }

    /// Lets go of all that comes: nothing is kept for a watcher that does not read.
    pub(super) fn let_go(&mut self) {
        self.live.clear();
        self.changes.clear();
    }

    /// Waits until more came of a task. Nothing is lost when this is dropped.
    pub(super) async fn changed(&mut self) -> TaskRef {
        loop {
            match self.changes.next().await {
                None => std::future::pending().await,
                Some(Change { task, stream: None }) => {
                    self.live.remove(&task);
                }
                Some(Change {
                    task,
                    stream: Some(stream),
                }) => {
                    self.changes.push(Box::pin(changed(task.clone(), stream)));
                    return task;
                }
            }
        }
    }

    /// The tasks that give chunks.
    pub(super) fn tasks(&self) -> Vec<TaskRef> {
        self.live.keys().cloned().collect()
    }

    /// What the watcher is told next of a task; none if it knows all that came.
    pub(super) fn next(&mut self, task: &TaskRef) -> Option<ChunkEvent> {
        let cursor = self.cursors.get(task).copied();
        let event = next(cursor, &self.live.get(task)?.borrow())?;
        // The run tells of the end itself.
        let cursor = event.cursor()?;
        self.cursors.insert(task.clone(), cursor);
        Some(event)
    }

    /// What the watcher is still told of a result, in order.
    pub(super) fn recorded(
        &mut self,
        task: &TaskRef,
        attempt: u32,
        recorded: &RecordedStream,
    ) -> Vec<ChunkEvent> {
        let stream = recorded.stream;
        // Whoever asks for the chunks alone is told that they are damaged.
        let chunks = unpack(recorded.packed.clone()).unwrap_or_default();
        let known = self.cursors.get(task).filter(|it| it.stream == stream);
        let mut events = Vec::new();
        if known.is_none() {
            events.push(ChunkEvent::Started { stream, attempt });
        }
        let mut first = known.map_or(0, |cursor| cursor.chunks);
        loop {
            let chunks = piece(&chunks, first);
            if chunks.is_empty() {
                break;
            }
            let next = first + chunks.len() as u32;
            events.push(ChunkEvent::Chunks {
                stream,
                attempt,
                first,
                chunks,
            });
            first = next;
        }
        let known = ChunkCursor {
            stream,
            chunks: first,
        };
        self.cursors.insert(task.clone(), known);
        events
    }
}
