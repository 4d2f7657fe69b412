//! Following a run: what happened so far from the store, then what happens.

use std::collections::{BTreeMap, HashMap};

use futures_util::StreamExt as _;
use levelflow_common::event::{RunEvent, RunUpdate, TaskRef};
use levelflow_common::{ChunkCursor, ChunkEvent, Code, Protection, RunId};
use levelflow_engine::record::RecordedStream;
use levelflow_engine::{Fact, Record, RunNumber, RunState};
use levelflow_proto::ApiError;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::run_chunks::RunChunks;
use super::{Backend, PAGE, TaskFollowing, recovery_error, run_not_found, store_error};
use crate::actor::{Message, RunEnding, Watched};
use crate::cluster::{Patience, Peer};

/// Updates that may wait for a client that reads slowly.
const BUFFER: usize = 64;
/// The same, where updates may hold chunks.
const CHUNK_BUFFER: usize = 4;

/// Follows one run for one client.
struct Follower {
    backend: Backend,
    run_id: RunId,
    /// Updates up to this sequence number are known to the client.
    after: u64,
    state: Option<RunState>,
    /// Where chunks come from, for a watcher that asked for them.
    chunks: Option<RunChunks>,
    /// The client did not read, and what comes live was let go.
    was_slow: bool,
    updates: mpsc::Sender<Result<RunUpdate, ApiError>>,
}

/// The client has gone, or was told why it cannot go on.
struct Over;

/// Tasks whose results a run keeps: the attempt of each, and where the number of its chunks is told.
type Kept<'a> = HashMap<&'a TaskRef, (u32, &'a mut u32)>;

/// What a watcher that asks for chunks knows of them.
pub(crate) type KnownChunks = Vec<(TaskRef, ChunkCursor)>;

impl Backend {
    /// Updates of a run after a sequence number, until it ends.
    pub(crate) fn follow(
        &self,
        run_id: RunId,
        after: u64,
    ) -> mpsc::Receiver<Result<RunUpdate, ApiError>> {
        self.follow_with(run_id, after, None)
    }

    /// The same, with the chunks of its tasks if they are asked for.
    pub(crate) fn follow_with(
        &self,
        run_id: RunId,
        after: u64,
        chunks: Option<KnownChunks>,
    ) -> mpsc::Receiver<Result<RunUpdate, ApiError>> {
        let buffer = if chunks.is_some() {
            CHUNK_BUFFER
        } else {
            BUFFER
        };
        let (updates, receiver) = mpsc::channel(buffer);
        let follower = Follower {
            backend: self.clone(),
            run_id,
            after,
            state: None,
            chunks: chunks.map(RunChunks::after),
            was_slow: false,
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
        let mut patience = Patience::default();
        loop {
            if let Some(peer) = self.backend.cluster.peer_of(self.run_id).await? {
                match self.relay(peer, &mut patience).await? {
                    Some(Over) => return Ok(()),
                    None => continue,
                }
            }
            // Subscribing first leaves no gap: what the store does not have yet comes live.
            let run_id = self.run_id;
            let chunks = self.chunks.is_some();
            let live = self
                .backend
                .ask(|reply| Message::Watch {
                    run_id,
                    chunks,
                    reply,
                })
                .await?;
            let is_over = self.catch_up(live.is_some()).await?;
            if is_over || self.has_ended() {
                return Ok(());
            }
            let Some(live) = live else {
                let message = "the run is being recovered; watch it again";
                let error = ApiError::new(Code::StoreUnavailable, message);
                if self.backend.cluster.is_shared() {
                    // It is on its way to another coordinator.
                    patience.wait(error).await?;
                    continue;
                }
                return Err(error);
            };
            if self.follow_live(live).await?.is_some() || self.has_ended() {
                return Ok(());
            }
            // The live updates broke off: this watcher was too slow, or the coordinator reloaded.
        }
    }

    /// Tells what another coordinator tells of the run.
    async fn relay(
        &mut self,
        peer: Peer,
        patience: &mut Patience,
    ) -> Result<Option<Over>, ApiError> {
        if let Some(state) = self.state.take() {
            // That much was told here. Should the run come back, its state is folded anew.
            self.after = self.after.max(state.sequence);
        }
        let chunks = self.chunks.as_ref().map(RunChunks::known);
        let mut updates = match peer.watch(self.run_id, self.after, chunks).await {
            Ok(updates) => updates,
            Err(error) => return patience.wait(error).await.map(|()| None),
        };
        loop {
            let update = tokio::select! {
                update = updates.next() => update,
                () = self.updates.closed() => return Ok(Some(Over)),
            };
            match update {
                Some(Ok(update)) => {
                    *patience = Patience::default();
                    self.after = update.sequence;
                    if let Some(chunks) = &mut self.chunks {
                        chunks.note(&update);
                    }
                    let is_end = |event: &RunEvent| matches!(event, RunEvent::Finished { .. });
                    let is_last = update.events.iter().any(is_end);
                    if self.updates.send(Ok(update)).await.is_err() || is_last {
                        return Ok(Some(Over));
                    }
                }
                Some(Err(error)) => return patience.wait(error).await.map(|()| None),
                None => return Ok(None),
            }
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
                if self.after > 0 && !Protection::ReadJournal.holds() {
                    self.after = self.after.max(sequenced.sequence);
                }
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
                task = chunks_of_any(&mut self.chunks) => {
                    let sequence = self.state.as_ref().map_or(0, |state| state.sequence);
                    if self.tell_chunks(sequence, &task).await.is_some() {
                        return Ok(Some(Over));
                    }
                    if std::mem::take(&mut self.was_slow) {
                        return Ok(None);
                    }
                    continue;
                }
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
                Some(Watched::Streaming(task)) => self.add_chunks(task).await?,
                Some(Watched::Live { at, event }) => {
                    let sequence = self.state.as_ref().map_or(0, |state| state.sequence);
                    let update = RunUpdate {
                        sequence,
                        at,
                        events: vec![event],
                    };
                    if self.tell(update).await.is_some() {
                        return Ok(Some(Over));
                    }
                }
            }
            if std::mem::take(&mut self.was_slow) {
                return Ok(None);
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
        let before = state.sequence;
        let mut update = state.advance(record);
        if update.sequence <= self.after {
            return Ok(None);
        }
        if self.chunks.is_some()
            && (self.tell_chunks_before(before, record).await.is_some()
                || self.tell_kept_chunks(before, &mut update).await?.is_some())
        {
            return Ok(Some(Over));
        }
        Ok(self.tell(update).await)
    }

    async fn tell(&mut self, update: RunUpdate) -> Option<Over> {
        let update = match (self.updates.try_send(Ok(update)), &mut self.chunks) {
            (Ok(()), _) => return None,
            (Err(TrySendError::Closed(_)), _) => return Some(Over),
            (Err(TrySendError::Full(update)), None) => update,
            (Err(TrySendError::Full(update)), Some(chunks)) => {
                // What the client has not read must not be kept for it.
                chunks.let_go();
                self.was_slow = true;
                update
            }
        };
        self.updates.send(update).await.is_err().then_some(Over)
    }

    /// Has the chunks of a task told as they come.
    async fn add_chunks(&mut self, task: TaskRef) -> Result<(), ApiError> {
        let Some(chunks) = &mut self.chunks else {
            return Ok(());
        };
        let following = self.backend.ask(|reply| Message::FollowTask {
            run_id: self.run_id,
            task_id: task.task_id.as_ref().to_owned(),
            item: task.item,
            reply,
        });
        // Chunks of what has ended meanwhile are in the journal.
        if let Ok(TaskFollowing::Live(stream)) = following.await? {
            chunks.add(&task, stream);
        }
        Ok(())
    }

    /// Tells what came of a task after a record.
    async fn tell_chunks(&mut self, sequence: u64, task: &TaskRef) -> Option<Over> {
        while let Some(event) = self.chunks.as_mut().and_then(|chunks| chunks.next(task)) {
            let over = self.tell_event(sequence, task, event).await;
            if over.is_some() || self.was_slow {
                return over;
            }
        }
        None
    }

    /// Tells what belongs before a record: what came of attempts, and the chunks of a result.
    async fn tell_chunks_before(&mut self, sequence: u64, record: &Record) -> Option<Over> {
        let tasks = self.chunks.as_ref().map(RunChunks::tasks);
        for task in tasks.unwrap_or_default() {
            if self.tell_chunks(sequence, &task).await.is_some() {
                return Some(Over);
            }
        }
        let Fact::Succeeded {
            task,
            attempt,
            stream: Some(stream),
            ..
        } = &record.fact
        else {
            return None;
        };
        let task = self.state.as_ref()?.task_ref(*task);
        self.tell_recorded(sequence, &task, *attempt, stream).await
    }

    /// Tells the chunks of results that the run keeps, from the journals of the runs that computed them.
    async fn tell_kept_chunks(
        &mut self,
        sequence: u64,
        update: &mut RunUpdate,
    ) -> Result<Option<Over>, ApiError> {
        let mut origins: BTreeMap<RunId, Kept<'_>> = BTreeMap::new();
        for event in &mut update.events {
            if let RunEvent::TaskSucceeded {
                task,
                attempt,
                reused_from: Some(origin),
                chunks,
                ..
            } = event
            {
                let kept = origins.entry(*origin).or_default();
                kept.insert(task, (*attempt, chunks));
            }
        }
        for (origin, mut kept) in origins {
            let mut journal = self.backend.recorded_streams(origin);
            while !kept.is_empty() {
                let page = match journal.next().await {
                    Ok(Some(page)) => page,
                    Ok(None) => break,
                    // Runs are kept for a time only.
                    Err(error) if error.code() == Code::RunNotFound => break,
                    Err(error) => return Err(error),
                };
                for (index, stream) in page {
                    let task = journal.state()?.task_ref(index);
                    let Some((attempt, chunks)) = kept.remove(&task) else {
                        continue;
                    };
                    *chunks = stream.chunks;
                    let told = self.tell_recorded(sequence, &task, attempt, &stream).await;
                    if told.is_some() {
                        return Ok(Some(Over));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Tells what the watcher does not know of the chunks of a result.
    async fn tell_recorded(
        &mut self,
        sequence: u64,
        task: &TaskRef,
        attempt: u32,
        stream: &RecordedStream,
    ) -> Option<Over> {
        for event in self.chunks.as_mut()?.recorded(task, attempt, stream) {
            if self.tell_event(sequence, task, event).await.is_some() {
                return Some(Over);
            }
        }
        None
    }

    async fn tell_event(
        &mut self,
        sequence: u64,
        task: &TaskRef,
        event: ChunkEvent,
    ) -> Option<Over> {
        let task = task.clone();
        let update = RunUpdate {
            sequence,
            at: self.backend.clock.now(),
            events: vec![RunEvent::Streamed { task, event }],
        };
        self.tell(update).await
    }

    fn has_ended(&self) -> bool {
        self.state
            .as_ref()
            .is_some_and(|state| state.status.is_terminal())
    }
}

/// Waits until more came of a task.
async fn chunks_of_any(chunks: &mut Option<RunChunks>) -> TaskRef {
    match chunks {
        Some(chunks) => chunks.changed().await,
        None => std::future::pending().await,
    }
}
