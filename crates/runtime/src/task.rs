//! Supervised tasks: named, and loud when they panic.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::Instrument as _;

/// Spawns a task under a name, inside the current span. A panic in it is logged with the name, and
/// reaches whoever awaits the handle.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    struct PanicLog(&'static str);

    impl Drop for PanicLog {
        fn drop(&mut self) {
            if std::thread::panicking() {
                tracing::error!(task = self.0, "task panicked");
            }
        }
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place that wraps it"
    )]
    tokio::spawn(
        async move {
            let _log = PanicLog(name);
            future.await
        }
        .in_current_span(),
    )
}
