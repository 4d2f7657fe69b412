//! The thread that commits: it makes groups of batches durable in the log.

use std::error::Error as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;

use bytes::Bytes;
use levelflow_common::ShardCount;
use tokio::sync::oneshot;

use super::filer::{self, Filed, Filer};
use crate::codec::Encoder;
use crate::commit::{self, Commit};
use crate::error::StoreError;
use crate::group::GroupSize;
use crate::log::{HEADER_BYTES, Log};
use crate::port::{Batch, Recovery};
use crate::sequences::Sequences;

/// Bytes of commits that may wait to be filed before the next commit waits for them.
const MAX_UNFILED_BYTES: usize = 32 * 1024 * 1024;

/// A batch with the way back to who appended it.
pub(super) struct Append {
    pub(super) batch: Batch,
    pub(super) done: oneshot::Sender<Result<(), StoreError>>,
}

/// What the writer is asked to do.
pub(super) enum Request {
    Append(Append),
    Recover(oneshot::Sender<Result<Recovery, StoreError>>),
}

pub(super) struct Writer {
    log: Log,
    place: Place,
    requests: Receiver<Request>,
    /// How many batches wait for their commit.
    waiting: Arc<AtomicUsize>,
    encoder: Encoder,
    /// None until they were read from the database.
    sequences: Option<Sequences>,
    /// Why the store takes no batches until it is recovered.
    suspended: Option<Arc<StoreError>>,
    filer: filer::Sender,
    filed: Arc<Filed>,
}

/// Where the log is.
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) segment_bytes: u64,
}

impl Writer {
    /// Opens the log, and files what the database does not have yet. `filer` leads to the thread that
    /// the filer will run in.
    pub(super) fn open(
        place: Place,
        requests: Receiver<Request>,
        waiting: Arc<AtomicUsize>,
        files: &mut Filer,
        filer: filer::Sender,
    ) -> Result<Self, StoreError> {
        let filed = files.filed();
        let log = place.open(files.last()?, |commit| {
            filed.hand_over(commit.number);
            files.file(&[commit]);
            filed.failure().map_or(Ok(()), Err)
        })?;
        Ok(Self {
            log,
            place,
            requests,
            waiting,
            encoder: Encoder::default(),
            sequences: None,
            suspended: None,
            filer,
            filed,
        })
    }

    /// Serves until every sender is gone and what they sent is done. `files` is the thread of the filer.
    pub(super) fn run(mut self, files: JoinHandle<bool>) {
        let mut group = Vec::new();
        let mut next = None;
        while let Some(request) = next.take().or_else(|| self.requests.recv().ok()) {
            match request {
                Request::Append(append) => {
                    next = self.gather(append, &mut group);
                    self.commit(&mut group);
                }
                Request::Recover(done) => {
                    // Who asked may have gone; the epoch is raised all the same.
                    let _ = done.send(self.recover());
                }
            }
        }
        let Self { log, filer, .. } = self;
        drop(filer);
        // A log whose commits are not all in the database is kept for the next start.
        if files.join().is_ok_and(|is_complete| is_complete)
            && let Err(error) = log.delete()
        {
            tracing::warn!(%error, "could not delete the log of a store that closes");
        }
    }

    /// Takes the batches that wait already, up to a bound; gives back the request that ended it.
    fn gather(&mut self, first: Append, group: &mut Vec<Append>) -> Option<Request> {
        let mut size = GroupSize::default();
        let mut append = first;
        loop {
            size.add(&append.batch);
            group.push(append);
            if size.is_full() {
                return None;
            }
            match self.requests.try_recv() {
                Ok(Request::Append(next)) => append = next,
                Ok(other) => return Some(other),
                Err(_) => return None,
            }
        }
    }

    fn commit(&mut self, group: &mut Vec<Append>) {
        self.notice_failure();
        let result = match &self.suspended {
            Some(source) => Err(StoreError::Suspended {
                source: source.clone(),
            }),
            None => {
                let written = self.write(group);
                if let Err(error) = &written {
                    let cause = error.source().map(tracing::field::display);
                    tracing::error!(%error, cause, "could not commit; the store is suspended");
                    self.suspended = Some(Arc::new(error.clone()));
                }
                written
            }
        };
        self.waiting.fetch_sub(group.len(), Ordering::Relaxed);
        for append in group.drain(..) {
            // Who appended may have gone; the batch is durable all the same.
            let _ = append.done.send(result.clone());
        }
    }

    fn write(&mut self, group: &mut [Append]) -> Result<(), StoreError> {
        if self.sequences.is_none() {
            self.sequences = Some(sequences_of(&self.read(false)?));
        }
        if let Some(sequences) = &mut self.sequences {
            group
                .iter()
                .flat_map(|append| &append.batch.entries)
                .try_for_each(|entry| sequences.follow(entry))?;
        }
        let mut frame = vec![0; HEADER_BYTES];
        let batches = group.iter().map(|append| &append.batch);
        let places = commit::encode(batches, &mut self.encoder, &mut frame);
        if frame.len() == HEADER_BYTES {
            return Ok(());
        }
        self.log.release(self.filed.durable())?;
        let number = self.log.append(&mut frame)?;
        let batches = group
            .iter_mut()
            .map(|append| std::mem::take(&mut append.batch));
        let commit = Commit::new(number, batches, &Bytes::from(frame), places);
        let waiting_bytes = self.filer.commit(commit)?;
        self.filed.hand_over(number);
        if waiting_bytes > MAX_UNFILED_BYTES {
            // What it failed with is told to the next group: this one is durable.
            let _ = self.ask(filer::Request::Flush)?;
        }
        Ok(())
    }

    fn recover(&mut self) -> Result<Recovery, StoreError> {
        // The filer forgets its failure when it reopens, but what it failed to file is only in the log:
        // until that is read, nothing may be appended.
        self.notice_failure();
        if self.suspended.is_some() {
            let last = self.ask(filer::Request::Reopen)??;
            let (filer, filed) = (&self.filer, &self.filed);
            self.log = self.place.open(last, |commit| {
                filed.hand_over(commit.number);
                filer.commit(commit).map(|_| ())
            })?;
        }
        let recovery = self.read(true)?;
        self.sequences = Some(sequences_of(&recovery));
        self.suspended = None;
        Ok(recovery)
    }

    fn notice_failure(&mut self) {
        if self.suspended.is_none() {
            self.suspended = self.filed.failure().map(Arc::new);
        }
    }

    fn read(&self, raise_epoch: bool) -> Result<Recovery, StoreError> {
        self.ask(|done| filer::Request::Recover { raise_epoch, done })?
    }

    /// Asks the filer, and waits until it has done what came before.
    fn ask<T>(
        &self,
        request: impl FnOnce(mpsc::Sender<T>) -> filer::Request,
    ) -> Result<T, StoreError> {
        let (done, answer) = mpsc::channel();
        self.filer.request(request(done))?;
        answer
            .recv()
            .map_err(|_| StoreError::ThreadLost { thread: "filer" })
    }
}

fn sequences_of(recovery: &Recovery) -> Sequences {
    let mut sequences = Sequences::new(ShardCount::ONE);
    sequences.take_up(recovery);
    sequences
}

impl Place {
    fn open(
        &self,
        last: u64,
        mut each: impl FnMut(Commit) -> Result<(), StoreError>,
    ) -> Result<Log, StoreError> {
        Log::open(
            &self.directory,
            self.segment_bytes,
            last,
            |number, payload| {
                let commit =
                    Commit::decode(number, payload).map_err(|source| StoreError::FrameCorrupt {
                        frame: number,
                        source,
                    });
                each(commit?)
            },
        )
    }
}
