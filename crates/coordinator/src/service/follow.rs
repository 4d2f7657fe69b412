//! Following a run: what happened so far from the store, then what happens.

use levelflow_common::event::{RunEvent, RunUpdate};
use levelflow_common::{Code, RunId};
use levelflow_engine::{Fact, Record, RunNumber, RunState};
use levelflow_proto::ApiError;
use tokio::sync::mpsc;

use super::{Backend, PAGE, recovery_error, run_not_found, store_error};
use crate::actor::{Message, RunEnding, Watched};

/// Updates that may wait for a client that reads slowly.
const BUFFER: usize = 64;

/// Follows one run for one client.
struct Follower {
    backend: Backend,
    run_id: RunId,
    /// Updates up to this sequence number are known to the client.
    after: u64,
    state: Option<RunState>,
    updates: mpsc::Sender<Result<RunUpdate, ApiError>>,
}

/// The client has gone, or was told why it cannot go on.
struct Over;

impl Backend {
    /// Updates of a run after a sequence number, until it ends.
    pub(crate) fn follow(
        &self,
        run_id: RunId,
        after: u64,
    ) -> mpsc::Receiver<Result<RunUpdate, ApiError>> {
        let (updates, receiver) = mpsc::channel(BUFFER);
        let follower = Follower {
            backend: self.clone(),
            run_id,
            after,
            state: None,
            updates,
        };
        levelflow_runtime::task::spawn("follow run", follower.run());
        receiver
    }

    /// How a run ends.
    pub(crate) async fn wait_for_end(&self, run_id: RunId) -> Result<RunEnding, ApiError> {
        let mut updates = self.follow(run_id, 0);
        while let Some(update) = updates.recv().await {
            for event in update?.events {
                if let RunEvent::Finished {
                    status,
                    outputs,
                    failure,
                } = event
                {
                    return Ok(RunEnding {
                        status,
                        outputs,
                        failure,
                    });
                }
            }
        }
        Err(ApiError::new(
            Code::ShuttingDown,
            "the coordinator stopped before the run ended",
        ))
    }
}

impl Follower {
    async fn run(mut self) {
        if let Err(error) = self.follow().await {
            // A client that has gone needs no error.
            let _ = self.updates.send(Err(error)).await;
        }
    }

    async fn follow(&mut self) -> Result<(), ApiError> {
        loop {
            // Subscribing first leaves no gap: what the store does not have yet comes live.
            let run_id = self.run_id;
            let live = self
                .backend
                .ask(|reply| Message::Watch { run_id, reply })
                .await?;
            let is_over = self.catch_up(live.is_some()).await?;
            if is_over || self.has_ended() {
                return Ok(());
            }
            let Some(live) = live else {
                return Err(ApiError::new(
                    Code::StoreUnavailable,
                    "the run is being recovered; watch it again",
                ));
            };
            if self.follow_live(live).await?.is_some() || self.has_ended() {
                return Ok(());
            }
            // The live updates broke off: this watcher was too slow, or the coordinator reloaded.
        }
    }

    /// Takes in what the store has. True if the client has gone.
    async fn catch_up(&mut self, is_open: bool) -> Result<bool, ApiError> {
        loop {
            let known = self.state.as_ref().map_or(0, |state| state.sequence);
            let page = self
                .backend
                .store
                .journal(self.run_id, known, PAGE)
                .await
                .map_err(store_error)?;
            let Some(page) = page else {
                return if is_open {
                    Ok(false)
                } else {
                    Err(run_not_found(self.run_id))
                };
            };
            let is_last = page.len() < PAGE;
            for sequenced in page {
                if self.take(&sequenced.record).await?.is_some() {
                    return Ok(true);
                }
            }
            if is_last {
                return Ok(false);
            }
        }
    }

    async fn follow_live(
        &mut self,
        mut live: mpsc::Receiver<Watched>,
    ) -> Result<Option<Over>, ApiError> {
        loop {
            let watched = tokio::select! {
                watched = live.recv() => watched,
                () = self.updates.closed() => return Ok(Some(Over)),
            };
            match watched {
                None => return Ok(None),
                Some(Watched::Records {
                    first_sequence,
                    records,
                }) => {
                    for (sequence, record) in (first_sequence..).zip(&records) {
                        let known = self.state.as_ref().map_or(0, |state| state.sequence);
                        if sequence > known + 1 {
                            return Ok(None);
                        }
                        if sequence == known + 1 && self.take(record).await?.is_some() {
                            return Ok(Some(Over));
                        }
                    }
                    if self.has_ended() {
                        return Ok(None);
                    }
                }
                Some(Watched::Stored) => {
                    if self.catch_up(true).await? {
                        return Ok(Some(Over));
                    }
                    if self.has_ended() {
                        return Ok(None);
                    }
                }
                Some(Watched::Live { at, event }) => {
                    let sequence = self.state.as_ref().map_or(0, |state| state.sequence);
                    let update = RunUpdate {
                        sequence,
                        at,
                        events: vec![event],
                    };
                    if self.updates.send(Ok(update)).await.is_err() {
                        return Ok(Some(Over));
                    }
                }
            }
        }
    }

    async fn take(&mut self, record: &Record) -> Result<Option<Over>, ApiError> {
        if self.state.is_none()
            && let Fact::Submitted(submitted) = &record.fact
        {
            let definition = self.backend.definition(submitted.digest).await?;
            // The number only names the run in errors here.
            self.state = Some(RunState::new(RunNumber(0), submitted.clone(), definition));
        }
        let Some(state) = &mut self.state else {
            return Err(ApiError::new(
                Code::StoreCorrupt,
                format!(
                    "the journal of run {} does not begin with a submit",
                    self.run_id
                ),
            ));
        };
        state
            .check(record)
            .map_err(|error| recovery_error(&error.into()))?;
        let update = state.advance(record);
        if update.sequence > self.after && self.updates.send(Ok(update)).await.is_err() {
            return Ok(Some(Over));
        }
        Ok(None)
    }

    fn has_ended(&self) -> bool {
        self.state
            .as_ref()
            .is_some_and(|state| state.status.is_terminal())
    }
}
