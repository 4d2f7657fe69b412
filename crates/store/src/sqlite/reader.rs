//! Threads that read beside the filer.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::mpsc;

use super::connection;
use super::filer::{self, Filed};
use super::query::Database;
use crate::error::StoreError;

/// A question with the way back to who asked. It is asked when everything is visible that was durable
/// before; or is told why it cannot be.
pub(super) type Job = Box<dyn FnOnce(Result<&Database<'_>, StoreError>) + Send>;

/// How many questions may wait; more make their callers wait.
const QUEUE: usize = 256;

/// Starts so many readers. They end when the sender is dropped and all questions are answered.
pub(super) fn start(
    path: &Arc<Path>,
    readers: usize,
    filer: &filer::Sender,
    filed: &Arc<Filed>,
) -> Result<(mpsc::Sender<Job>, Vec<JoinHandle<()>>), StoreError> {
    let (sender, jobs) = mpsc::channel(QUEUE);
    let jobs = Arc::new(Mutex::new(jobs));
    let threads = (0..readers)
        .map(|_| {
            let connection = connection::open_reader(path)?;
            let file = path.clone();
            let jobs = jobs.clone();
            let barrier = Barrier {
                filer: filer.clone(),
                filed: filed.clone(),
            };
            thread::Builder::new()
                .name("store-reader".to_owned())
                .spawn(move || read(&connection, &file, &jobs, &barrier))
                .map_err(|error| StoreError::io("start a thread to read", path, error))
        })
        .collect::<Result<_, _>>()?;
    Ok((sender, threads))
}

/// Lets the filer catch up.
struct Barrier {
    filer: filer::Sender,
    filed: Arc<Filed>,
}

impl Barrier {
    fn pass(&self) -> Result<(), StoreError> {
        if self.filed.is_complete() {
            return Ok(());
        }
        let (done, answer) = std::sync::mpsc::channel();
        self.filer.request(filer::Request::Flush(done))?;
        answer
            .recv()
            .map_err(|_| StoreError::ThreadLost { thread: "filer" })?
    }
}

fn read(
    connection: &Connection,
    path: &Arc<Path>,
    jobs: &Mutex<mpsc::Receiver<Job>>,
    barrier: &Barrier,
) {
    let database = Database { connection, path };
    loop {
        // The guard is dropped before the job runs: one reader waits here, the others behind it.
        let job = jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocking_recv();
        match job {
            Some(job) => job(barrier.pass().map(|()| &database)),
            None => return,
        }
    }
}
