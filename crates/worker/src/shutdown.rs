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

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Duration = Duration::from_secs(30);
    const GRACE: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn attempts_are_stopped_before_the_worker_ends() {
        let mut shutdown = Shutdown::new(CancellationToken::new(), DRAIN, GRACE);
        assert_eq!(shutdown.next_step(), None);
        let begun_at = Instant::now();
        shutdown.begin();
        assert_eq!(shutdown.next_step(), Some(begun_at + DRAIN));
        tokio::time::advance(DRAIN).await;
        assert!(!shutdown.is_out_of_time());
        shutdown.abandon();
        let end = begun_at + DRAIN + GRACE + ACKNOWLEDGE_WITHIN;
        assert_eq!(shutdown.next_step(), Some(end));
        assert!(!shutdown.is_out_of_time());
        sleep_until(end).await;
        assert!(shutdown.is_out_of_time());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_session_only_what_is_held_is_waited_for() {
        let token = CancellationToken::new();
        token.cancel();
        let begun_at = Instant::now();
        Shutdown::new(token.clone(), DRAIN, GRACE)
            .without_session(true)
            .await;
        assert_eq!(Instant::now(), begun_at);

        let mut shutdown = Shutdown::new(token, DRAIN, GRACE);
        shutdown.without_session(false).await;
        assert!(Instant::now() >= begun_at + DRAIN + GRACE + ACKNOWLEDGE_WITHIN);
    }
}
