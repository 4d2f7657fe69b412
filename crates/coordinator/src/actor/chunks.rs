//! Chunks on their way from workers to followers and to the journal.

use levelflow_common::{AttemptResult, Code, FencingToken, RunId, Timestamp};
use levelflow_engine::Rejection;
use levelflow_engine::event::SessionId;
use levelflow_engine::record::RecordedStream;
use levelflow_proto::v1;
use tokio::sync::{mpsc, oneshot};

use super::streams::TooLarge;
use super::{Actor, Watched};
use crate::service::TaskFollowing;

impl Actor {
    /// Takes in what attempts give before they end.
    pub(super) fn take_chunks(&mut self, session: SessionId, chunks: &[v1::Chunk]) {
        for chunks in chunks.chunk_by(|one, next| one.token == next.token) {
            let token = FencingToken(chunks[0].token);
            // Chunks under an old token are stale, as an outcome would be.
            let Some(place) = self.engine.attempt_of(session, token) else {
                continue;
            };
            match self.streams.add(place, token, chunks) {
                Ok(is_first) => {
                    if is_first
                        && self.watchers.is_watched(place.run)
                        && let Some(task) = self.engine.task_ref(place.run_id, place.task)
                    {
                        self.watchers.streaming(place.run, &task);
                    }
                }
                Err(TooLarge) => {
                    tracing::warn!(token = token.0, "attempt gives too many chunks");
                    self.sessions.stop(session, token);
                }
            }
        }
    }

    /// How an attempt that gave as many chunks ended, and what of them is recorded.
    pub(super) fn with_stream(
        &self,
        session: SessionId,
        token: FencingToken,
        chunks: u32,
        result: AttemptResult,
    ) -> (AttemptResult, Option<Box<RecordedStream>>) {
        if chunks == 0 {
            return (result, None);
        }
        let Some(place) = self.engine.attempt_of(session, token) else {
            return (result, None);
        };
        match self.streams.recorded(place, token, chunks) {
            Ok(stream) => {
                let stream = result.is_ok().then_some(stream);
                (result, stream)
            }
            // An attempt with too many chunks was stopped, and says only that.
            Err(failure) if result.is_ok() || failure.code == Code::StreamTooLarge => {
                (Err(failure), None)
            }
            Err(_) => (result, None),
        }
    }

    /// Watches a run; none if it is not open.
    pub(super) fn watch(&mut self, run_id: RunId, chunks: bool) -> Option<mpsc::Receiver<Watched>> {
        let number = self.engine.number(run_id)?;
        let tasks = self.streams.tasks_of(number).filter(|_| chunks);
        let streaming = tasks.filter_map(|task| self.engine.task_ref(run_id, task));
        let streaming = streaming.map(Watched::Streaming).collect();
        Some(self.watchers.watch(number, streaming))
    }

    pub(super) fn follow_task(
        &mut self,
        now: Timestamp,
        run_id: RunId,
        task_id: &str,
        item: Option<u32>,
        reply: oneshot::Sender<Result<TaskFollowing, Rejection>>,
    ) {
        let task = match self.engine.followed_task(run_id, task_id, item) {
            Ok(task) => task,
            Err(rejection) => return drop(reply.send(Err(rejection))),
        };
        match self.streams.follow(run_id, &task) {
            Some(stream) => drop(reply.send(Ok(TaskFollowing::Live(stream)))),
            None => self.answer(now, task.after, move || {
                let _ = reply.send(Ok(TaskFollowing::Recorded));
            }),
        }
    }
}
