//! Getting memory back that is kept for later.

use std::hint::black_box;
use std::sync::Arc;
use std::thread;

/// Something that keeps memory which it can do without, such as a cache, and gives it back when called.
pub(crate) type Relief = Arc<dyn Fn() + Send + Sync>;

/// Asks all of them.
pub(super) fn relieve(sources: &[Relief]) {
    for give_back in sources {
        give_back();
    }
}

/// Lets the allocator give free memory back to the system, as far as ending a thread makes it do so:
/// mimalloc then looks through all that it has, which it otherwise does only when the threads that freed
/// the memory are busy again. With other allocators it does nothing.
pub(super) fn purge() {
    let touch = || drop(black_box(vec![1_u8; 1024]));
    let toucher = thread::Builder::new().name("purge".to_owned()).spawn(touch);
    match toucher {
        Ok(toucher) => drop(toucher.join()),
        Err(error) => tracing::debug!(%error, "no thread to purge the allocator with"),
    }
}
