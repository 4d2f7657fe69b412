//! The steps of an orderly end, and when they are due.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// How long the coordinator may take to acknowledge the last outcomes.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(5);

/// When the worker was told to end, running attempts first get time to finish, are then stopped, and
/// at last their outcomes have to be acknowledged.
pub(crate) struct Shutdown {
    token: CancellationToken,
    drain: Duration,
    grace: Duration,
    begun_at: Option<Instant>,
    abandoned: bool,
}

impl Shutdown {
    pub(crate) fn new(token: CancellationToken, drain: Duration, grace: Duration) -> Self {
        Self {
            token,
            drain,
            grace,
            begun_at: None,
            abandoned: false,
        }
    }

    /// Fires when the worker is told to end.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// The time starts to run.
    pub(crate) fn begin(&mut self) {
        self.begun_at.get_or_insert_with(Instant::now);
    }

    /// The running attempts were stopped.
    pub(crate) fn abandon(&mut self) {
        self.abandoned = true;
    }

    /// When running attempts have to be stopped or, after that, when the worker has to end.
    pub(crate) fn next_step(&self) -> Option<Instant> {
        if self.abandoned {
            self.end()
        } else {
            Some(self.begun_at? + self.drain)
        }
    }

    /// Whether the worker has to end now.
    pub(crate) fn is_out_of_time(&self) -> bool {
        self.abandoned && self.next_step().is_some_and(|step| step <= Instant::now())
    }

    /// Ends when a worker without a session has to end: at once if it holds nothing.
    pub(crate) async fn without_session(&mut self, holds_nothing: bool) {
        self.token.cancelled().await;
        self.begin();
        if let (false, Some(end)) = (holds_nothing, self.end()) {
            sleep_until(end).await;
        }
    }

    fn end(&self) -> Option<Instant> {
        Some(self.begun_at? + self.drain + self.grace + ACKNOWLEDGE_WITHIN)
    }
}
