//! The least that runs durable tasks on another process: a scheduler that only counts, one stream,
//! and a thread that commits. No product code.

use std::sync::mpsc as thread_channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use levelflow_proto::v1;
use tokio::sync::mpsc;

use super::disk;
use super::wire::{Link, attempt};

/// Rows of one commit at most.
const MAX_GROUP: usize = 1_000;
/// Outcome batches on their way to or from the journal; the runs in flight bound them further.
const WAITING: usize = 64 * 1024;
/// A token is the place of its run, and the number of the task below these bits.
const TASK_BITS: u32 = 8;

/// What a round gave.
pub(super) struct Measured {
    pub(super) runs_per_s: f64,
    pub(super) p50_ms: f64,
}

pub(super) struct BareLoop {
    link: Link,
    journal: Journal,
}

struct Run {
    level: usize,
    /// Tasks of the level that are not durable yet.
    open: usize,
    started: Instant,
}

impl BareLoop {
    pub(super) async fn start() -> Result<Self> {
        Ok(Self {
            link: Link::open().await?,
            journal: Journal::start()?,
        })
    }

    /// Keeps runs of a shape open for a time, and waits for the last of them.
    pub(super) async fn keep_in_flight(
        &mut self,
        levels: &[usize],
        in_flight: usize,
        time: Duration,
    ) -> Result<Measured> {
        let started = Instant::now();
        let mut latency = Histogram::<u64>::new(3)?;
        let mut runs: Vec<Run> = (0..in_flight)
            .map(|_| Run {
                level: 0,
                open: levels[0],
                started,
            })
            .collect();
        let mut frame = v1::CoordinatorFrame::default();
        for place in 0..in_flight {
            dispatch(&mut frame, place, 0, levels[0]);
        }
        let mut open = in_flight;
        let mut durable = Vec::new();
        while open > 0 {
            if !frame.attempts.is_empty() {
                self.link
                    .outbound
                    .send(Ok(std::mem::take(&mut frame)))
                    .await?;
            }
            tokio::select! {
                answer = self.link.inbound.message() => {
                    let outcomes = answer?.context("the far end went away")?.outcomes;
                    let tokens = outcomes.iter().map(|outcome| outcome.token).collect();
                    self.journal.append(tokens)?;
                }
                batches = self.journal.durable.recv_many(&mut durable, MAX_GROUP) => {
                    if batches == 0 {
                        return Err(self.journal.failure());
                    }
                    for token in durable.drain(..).flatten() {
                        let place = (token >> TASK_BITS) as usize;
                        let run = &mut runs[place];
                        run.open -= 1;
                        if run.open > 0 {
                            continue;
                        }
                        run.level += 1;
                        if run.level == levels.len() {
                            latency.record(run.started.elapsed().as_micros() as u64)?;
                            if started.elapsed() >= time {
                                open -= 1;
                                continue;
                            }
                            run.level = 0;
                            run.started = Instant::now();
                        }
                        run.open = levels[run.level];
                        dispatch(&mut frame, place, run.level, run.open);
                    }
                }
            }
        }
        Ok(Measured {
            runs_per_s: latency.len() as f64 / started.elapsed().as_secs_f64(),
            p50_ms: latency.value_at_quantile(0.5) as f64 / 1e3,
        })
    }
}

fn dispatch(frame: &mut v1::CoordinatorFrame, place: usize, level: usize, tasks: usize) {
    frame.attempts.extend((0..tasks).map(|task| {
        let token = (place as u64) << TASK_BITS | task as u64;
        attempt(token, LEVEL_IDS[level])
    }));
}

/// As long as the ids of the shapes.
const LEVEL_IDS: [&str; 7] = ["t0_0", "t1_0", "t2_0", "t3_0", "t4_0", "t5_0", "t6_0"];

/// A thread that appends one row for each batch of outcomes; a commit takes all that wait.
struct Journal {
    batches: Option<thread_channel::SyncSender<Vec<u64>>>,
    durable: mpsc::Receiver<Vec<u64>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Journal {
    fn start() -> Result<Self> {
        let (batches, waiting) = thread_channel::sync_channel::<Vec<u64>>(WAITING);
        let (done, durable) = mpsc::channel(WAITING);
        let directory = tempfile::tempdir()?;
        let mut journal = disk::open_journal(&directory.path().join("journal.db"))?;
        let commit = move || {
            // Moved in, so that it lives as long as the database in it.
            let _directory = directory;
            while let Ok(first) = waiting.recv() {
                let mut group = vec![first];
                group.extend(waiting.try_iter().take(MAX_GROUP - 1));
                let rows: Vec<Vec<u8>> = group.iter().map(|tokens| row(tokens)).collect();
                disk::append(&mut journal, rows.iter().map(Vec::as_slice))?;
                for tokens in group {
                    if done.blocking_send(tokens).is_err() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        };
        Ok(Self {
            batches: Some(batches),
            durable,
            thread: Some(
                thread::Builder::new()
                    .name("journal".into())
                    .spawn(commit)?,
            ),
        })
    }

    fn append(&mut self, tokens: Vec<u64>) -> Result<()> {
        let sent = self.batches.as_ref().map(|batches| batches.send(tokens));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(self.failure()),
        }
    }

    /// Why the thread has ended.
    fn failure(&mut self) -> anyhow::Error {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => error,
            _ => anyhow::anyhow!("the journal has ended"),
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        drop(self.batches.take());
        self.durable.close();
        if let Some(thread) = self.thread.take() {
            // What it failed with was reported when its rows did not come back.
            let _ = thread.join();
        }
    }
}

fn row(tokens: &[u64]) -> Vec<u8> {
    tokens
        .iter()
        .flat_map(|token| token.to_le_bytes())
        .collect()
}
