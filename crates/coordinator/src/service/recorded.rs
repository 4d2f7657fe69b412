//! The chunks that journals hold.

use levelflow_common::chunk::TaskEnd;
use levelflow_common::{Code, RunId};
use levelflow_engine::record::RecordedStream;
use levelflow_engine::{Fact, Rejection, RunNumber, RunState, TaskIndex};
use levelflow_proto::ApiError;

use super::{Backend, PAGE, recovery_error, refused, run_not_found, store_error};

/// What the journal has of a task.
pub(super) struct RecordedTask {
    /// How it ended; none if it has not.
    pub(super) end: Option<TaskEnd>,
    pub(super) stream: Option<RecordedStream>,
    /// The run that computed its result, where that was kept.
    pub(super) reused_from: Option<RunId>,
}

/// Reads the journal of a run for the chunks of its tasks, a page at a time.
pub(super) struct RecordedStreams {
    backend: Backend,
    run_id: RunId,
    state: Option<RunState>,
}

type Streams = Vec<(TaskIndex, Box<RecordedStream>)>;

impl Backend {
    /// How a task of a run that the store knows ended, and its chunks.
    pub(super) async fn recorded_task(
        &self,
        run_id: RunId,
        task_id: &str,
        item: Option<u32>,
    ) -> Result<RecordedTask, ApiError> {
        let mut journal = self.recorded_streams(run_id);
        let mut streams = Vec::new();
        while let Some(page) = journal.next().await? {
            streams.extend(page);
        }
        let state = journal.state()?;
        let task = state.find(task_id, item).ok_or_else(|| {
            let task = task_id.to_owned();
            refused(&Rejection::TaskNotFound { run_id, task }.into())
        })?;
        let stream = streams.into_iter().find(|(of, _)| *of == task);
        Ok(RecordedTask {
            end: state.task_end(task),
            stream: stream.map(|(_, stream)| *stream),
            reused_from: state.task(task).reused_from.as_deref().copied(),
        })
    }

    /// The chunks of all tasks of a run that the store knows.
    pub(super) fn recorded_streams(&self, run_id: RunId) -> RecordedStreams {
        RecordedStreams {
            backend: self.clone(),
            run_id,
            state: None,
        }
    }
}

impl RecordedStreams {
    /// The chunks in the next page of the journal; none at its end.
    pub(super) async fn next(&mut self) -> Result<Option<Streams>, ApiError> {
        let known = self.state.as_ref().map_or(0, |state| state.sequence);
        let page = self.backend.store.journal(self.run_id, known, PAGE).await;
        let page = page
            .map_err(store_error)?
            .ok_or_else(|| run_not_found(self.run_id))?;
        if page.is_empty() {
            return Ok(None);
        }
        let mut streams = Vec::new();
        for sequenced in page {
            let record = sequenced.record;
            let state = match (&mut self.state, &record.fact) {
                (Some(state), _) => state,
                (none, Fact::Submitted(submitted)) => {
                    let definition = self.backend.definition(submitted.digest).await?;
                    // The number only names the run in errors here.
                    none.insert(RunState::new(RunNumber(0), submitted.clone(), definition))
                }
                (None, _) => return Err(headless(self.run_id)),
            };
            state
                .check(&record)
                .map_err(|error| recovery_error(&error.into()))?;
            state.apply(&record, &mut Vec::new());
            if let Fact::Succeeded {
                task,
                stream: Some(stream),
                ..
            } = record.fact
            {
                streams.push((task, stream));
            }
        }
        Ok(Some(streams))
    }

    /// The run after what was read.
    ///
    /// # Errors
    /// When nothing was.
    pub(super) fn state(&self) -> Result<&RunState, ApiError> {
        self.state.as_ref().ok_or_else(|| headless(self.run_id))
    }
}

fn headless(run_id: RunId) -> ApiError {
    let message = format!("the journal of run {run_id} does not begin with a submit");
    ApiError::new(Code::StoreCorrupt, message)
}
