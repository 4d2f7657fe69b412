//! Following the streamed output of one task.
//!
//! [`Backend::follow_task`] is what every way of watching a task stands on, gRPC as well as server-sent events: it
//! gives [`ChunkEvent`]s in order, each with the cursor ([`ChunkEvent::cursor`]) from which a watcher that comes
//! back goes on. A watcher that does not read holds nothing: its place in the stream is all that is kept for it.

use bytes::Bytes;
use futures_util::StreamExt as _;
use levelflow_common::chunk::unpack;
use levelflow_common::{ChunkCursor, ChunkEvent, Code, RunId};
use levelflow_engine::Rejection;
use levelflow_engine::record::RecordedStream;
use levelflow_proto::ApiError;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use super::{Backend, refused};
use crate::actor::{Message, TaskStream};
use crate::cluster::{Patience, Peer};

/// Events that may wait for a watcher that reads slowly.
const BUFFER: usize = 4;
/// Chunks in one event, and their bytes: one more chunk may go beyond.
const MAX_EVENT_CHUNKS: usize = 512;
const MAX_EVENT_BYTES: usize = 64 * 1024;

/// Events of one task, until it has ended.
pub(crate) type ChunkEvents = mpsc::Receiver<Result<ChunkEvent, ApiError>>;

/// Where the chunks of a task are.
pub(crate) enum TaskFollowing {
    /// The task has not ended, or only just.
    Live(watch::Receiver<TaskStream>),
    /// In the store.
    Recorded,
}

/// Follows one task for one watcher.
struct Follower {
    backend: Backend,
    run_id: RunId,
    task_id: String,
    item: Option<u32>,
    /// What the watcher knows.
    cursor: Option<ChunkCursor>,
    events: mpsc::Sender<Result<ChunkEvent, ApiError>>,
}

/// Why a follower does not go on as it did.
enum Stop {
    /// The watcher has gone, or was told everything.
    Over,
    /// What it read from is no longer there, or was let go while the watcher did not read.
    Again,
}

impl Backend {
    /// The chunks of a task: what there is of them after a cursor, then what comes, until the task has ended.
    pub(crate) fn follow_task(
        &self,
        run_id: RunId,
        task_id: String,
        item: Option<u32>,
        after: Option<ChunkCursor>,
    ) -> ChunkEvents {
        let (events, receiver) = mpsc::channel(BUFFER);
        let follower = Follower {
            backend: self.clone(),
            run_id,
            task_id,
            item,
            cursor: after,
            events,
        };
        levelflow_runtime::task::spawn("follow task", follower.run());
        receiver
    }
}

impl Follower {
    async fn run(mut self) {
        if let Err(error) = self.follow().await {
            // A watcher that has gone needs no error.
            let _ = self.events.send(Err(error)).await;
        }
    }

    async fn follow(&mut self) -> Result<(), ApiError> {
        let mut patience = Patience::default();
        loop {
            let (run_id, item) = (self.run_id, self.item);
            if let Some(peer) = self.backend.cluster.peer_of(run_id).await? {
                match self.relay(peer, &mut patience).await? {
                    Stop::Over => return Ok(()),
                    Stop::Again => continue,
                }
            }
            let task_id = self.task_id.clone();
            let following = self
                .backend
                .ask(|reply| Message::FollowTask {
                    run_id,
                    task_id,
                    item,
                    reply,
                })
                .await?;
            match following {
                Ok(TaskFollowing::Live(stream)) => match self.follow_live(stream).await {
                    Stop::Over => return Ok(()),
                    Stop::Again => {}
                },
                Ok(TaskFollowing::Recorded) | Err(Rejection::RunNotFound(_)) => {
                    match self.follow_record().await {
                        // It is on its way to another coordinator.
                        Err(error) if self.backend.cluster.is_shared() => {
                            patience.wait(error).await?;
                        }
                        result => return result,
                    }
                }
                Err(rejection) => return Err(refused(&rejection.into())),
            }
        }
    }

    /// Tells what another coordinator tells of the task.
    async fn relay(&mut self, peer: Peer, patience: &mut Patience) -> Result<Stop, ApiError> {
        let (task_id, cursor) = (self.task_id.clone(), self.cursor);
        let mut events = match peer
            .watch_task(self.run_id, task_id, self.item, cursor)
            .await
        {
            Ok(events) => events,
            Err(error) => return patience.wait(error).await.map(|()| Stop::Again),
        };
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = self.events.closed() => return Ok(Stop::Over),
            };
            match event {
                Some(Ok(event)) => {
                    *patience = Patience::default();
                    let is_last = matches!(event, ChunkEvent::Ended(_));
                    if self.tell(event).await.is_err() || is_last {
                        return Ok(Stop::Over);
                    }
                }
                Some(Err(error)) => return patience.wait(error).await.map(|()| Stop::Again),
                None => return Ok(Stop::Again),
            }
        }
    }

    async fn follow_live(&mut self, mut stream: watch::Receiver<TaskStream>) -> Stop {
        loop {
            let next = next(self.cursor, &stream.borrow_and_update());
            match next {
                Some(event) => {
                    let is_last = matches!(event, ChunkEvent::Ended(_));
                    self.cursor = event.cursor().or(self.cursor);
                    match self.events.try_send(Ok(event)) {
                        Ok(()) if is_last => return Stop::Over,
                        Ok(()) => {}
                        Err(TrySendError::Closed(_)) => return Stop::Over,
                        Err(TrySendError::Full(event)) => {
                            // What the watcher has not read must not be kept for it.
                            drop(stream);
                            let gone = self.events.send(event).await.is_err();
                            return if gone || is_last {
                                Stop::Over
                            } else {
                                Stop::Again
                            };
                        }
                    }
                }
                None => tokio::select! {
                    changed = stream.changed() => if changed.is_err() {
                        return Stop::Again;
                    },
                    () = self.events.closed() => return Stop::Over,
                },
            }
        }
    }

    /// Tells what the journal has of the task, which has ended.
    async fn follow_record(&mut self) -> Result<(), ApiError> {
        let backend = self.backend.clone();
        let mut recorded = backend
            .recorded_task(self.run_id, &self.task_id, self.item)
            .await?;
        if let Some(origin) = recorded.reused_from {
            let original = backend.recorded_task(origin, &self.task_id, self.item);
            match original.await {
                Ok(original) => recorded.stream = original.stream,
                // Runs are kept for a time only.
                Err(error) if error.code() == Code::RunNotFound => {}
                Err(error) => return Err(error),
            }
        }
        let Some(mut end) = recorded.end else {
            return Err(ApiError::new(
                Code::StoreUnavailable,
                "the run is being recovered; watch it again",
            ));
        };
        if let Some(RecordedStream { stream, packed, .. }) = recorded.stream {
            let Some(chunks) = unpack(packed) else {
                let run_id = self.run_id;
                let message = format!("the recorded chunks of a task of run {run_id} are damaged");
                return Err(ApiError::new(Code::StoreCorrupt, message));
            };
            end.chunks = chunks.len() as u32;
            let attempt = end.attempt;
            if self.cursor.is_none_or(|cursor| cursor.stream != stream) {
                let started = ChunkEvent::Started { stream, attempt };
                if self.tell(started).await.is_err() {
                    return Ok(());
                }
            }
            loop {
                let first = self.cursor.map_or(0, |cursor| cursor.chunks);
                let chunks = piece(&chunks, first);
                if chunks.is_empty() {
                    break;
                }
                let event = ChunkEvent::Chunks {
                    stream,
                    attempt,
                    first,
                    chunks,
                };
                if self.tell(event).await.is_err() {
                    return Ok(());
                }
            }
        }
        // A watcher that has gone does not wait for the end.
        let _ = self.tell(ChunkEvent::Ended(Box::new(end))).await;
        Ok(())
    }

    async fn tell(&mut self, event: ChunkEvent) -> Result<(), Stop> {
        self.cursor = event.cursor().or(self.cursor);
        self.events.send(Ok(event)).await.map_err(|_| Stop::Over)
    }
}

/// The next chunks after as many, as far as they fit into one event.
pub(super) fn piece(chunks: &[Bytes], known: u32) -> Vec<Bytes> {
    let new = chunks.get(known as usize..).unwrap_or_default();
    let mut bytes = 0;
    let fits = |chunk: &&Bytes| {
        let fits = bytes < MAX_EVENT_BYTES;
        bytes += chunk.len();
        fits
    };
    new.iter()
        .take(MAX_EVENT_CHUNKS)
        .take_while(fits)
        .cloned()
        .collect()
}

/// What a watcher is told next; none if it knows everything.
pub(super) fn next(cursor: Option<ChunkCursor>, task: &TaskStream) -> Option<ChunkEvent> {
    if let Some(attempt) = &task.attempt {
        let stream = attempt.stream;
        let Some(cursor) = cursor.filter(|cursor| cursor.stream == stream) else {
            if let (Some(known), Some(gone)) = (cursor, task.before)
                && known.stream == gone.stream
                && known.chunks < gone.chunks
            {
                return Some(ChunkEvent::Lagged {
                    stream: gone.stream,
                    first: known.chunks,
                    missed: gone.chunks - known.chunks,
                });
            }
            return Some(ChunkEvent::Started {
                stream,
                attempt: attempt.attempt,
            });
        };
        let chunks = piece(&attempt.chunks, cursor.chunks);
        if !chunks.is_empty() {
            return Some(ChunkEvent::Chunks {
                stream,
                attempt: attempt.attempt,
                first: cursor.chunks,
                chunks,
            });
        }
    }
    let end = task.end.clone()?;
    Some(ChunkEvent::Ended(Box::new(end)))
}
