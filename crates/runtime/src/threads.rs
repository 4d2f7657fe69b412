//! The threads on which a process serves.

use std::io;
use std::thread::available_parallelism;

use tokio::runtime::{Builder, Runtime};

/// On machines with at most so many cores one thread serves: the journal, evaluation and heavy handlers
/// have threads of their own, and a second one that serves would only take turns with them.
const FEW_CORES: usize = 2;

/// The runtime of a process: with `threads` threads that serve, or for 0 with one per core, but only one
/// where cores are few.
///
/// # Errors
/// When the system gives no threads.
pub fn runtime(threads: usize) -> io::Result<Runtime> {
    let threads = match threads {
        0 => available_parallelism().map_or(1, |cores| match cores.get() {
            few if few <= FEW_CORES => 1,
            many => many,
        }),
        given => given,
    };
    let mut builder = if threads == 1 {
        Builder::new_current_thread()
    } else {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(threads);
        builder
    };
    builder.enable_all().build()
}
