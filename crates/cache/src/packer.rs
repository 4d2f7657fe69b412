//! The thread that packs results, for callers whose threads have no time for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::{mpsc, oneshot};

use crate::cache::Inner;
use crate::entry::{Computed, Terms};
use crate::error::NotKept;
use levelflow_common::CacheKey;

/// Results that wait to be packed.
const MAX_QUEUED: usize = 1024;
/// Bytes of the results that wait to be packed.
const MAX_QUEUED_BYTES: usize = 32 * 1024 * 1024;

/// The way to the thread. It ends when this is dropped.
pub(crate) struct Packer {
    queue: mpsc::Sender<Job>,
    queued_bytes: Arc<AtomicUsize>,
}

enum Job {
    Put(Box<Put>),
    Flush(oneshot::Sender<()>),
}

struct Put {
    key: CacheKey,
    computed: Computed,
    terms: Terms,
}

impl Packer {
    /// Starts the thread.
    pub(crate) fn start(cache: Weak<Inner>) -> std::io::Result<Self> {
        let (queue, jobs) = mpsc::channel(MAX_QUEUED);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let bytes = Arc::clone(&queued_bytes);
        std::thread::Builder::new()
            .name("cache-packer".to_owned())
            .spawn(move || pack(&cache, jobs, &bytes))?;
        Ok(Self {
            queue,
            queued_bytes,
        })
    }

    /// Has a result packed and kept.
    pub(crate) fn put(
        &self,
        key: &CacheKey,
        computed: Computed,
        terms: Terms,
    ) -> Result<(), NotKept> {
        let bytes = computed.bytes();
        let before = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let job = Job::Put(Box::new(Put {
            key: *key,
            computed,
            terms,
        }));
        if before + bytes > MAX_QUEUED_BYTES || self.queue.try_send(job).is_err() {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(NotKept::Busy);
        }
        Ok(())
    }

    /// Waits until what was given before is packed.
    pub(crate) async fn flush(&self) {
        let (tell, told) = oneshot::channel();
        if self.queue.send(Job::Flush(tell)).await.is_ok() {
            // A thread that has ended has nothing left to pack.
            let _ = told.await;
        }
    }
}

fn pack(cache: &Weak<Inner>, mut jobs: mpsc::Receiver<Job>, queued_bytes: &AtomicUsize) {
    while let Some(job) = jobs.blocking_recv() {
        match job {
            Job::Put(put) => {
                queued_bytes.fetch_sub(put.computed.bytes(), Ordering::Relaxed);
                if let Some(cache) = cache.upgrade() {
                    // It is counted where it is refused.
                    let _ = cache.put(&put.key, put.computed, put.terms);
                }
            }
            Job::Flush(reply) => {
                // Whoever asked may have gone.
                let _ = reply.send(());
            }
        }
    }
}
