//! The way to one coordinator: sessions, one after the other, and what the worker holds for it.

use std::time::Duration;

use levelflow_proto::v1;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::connection::{OpenError, Target, waits};
use crate::error::WorkerError;
use crate::session::{Held, Session, SessionEnd};
use crate::shutdown::Shutdown;

/// Tells the links of a worker apart.
pub(crate) type LinkId = u64;

/// What a link tells of its coordinator.
#[derive(Debug)]
pub(crate) enum News {
    /// A session opened, with the coordinator that has this id.
    Opened(String),
    /// The session is lost.
    Lost,
    /// The coordinators that there are now.
    Coordinators(Vec<v1::CoordinatorAddress>),
}

/// Sends the news of one link.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    link: LinkId,
    news: mpsc::UnboundedSender<(LinkId, News)>,
}

impl Reporter {
    pub(crate) fn new(link: LinkId, news: mpsc::UnboundedSender<(LinkId, News)>) -> Self {
        Self { link, news }
    }

    pub(crate) fn tell(&self, news: News) {
        // A worker that has ended wants no news.
        let _ = self.news.send((self.link, news));
    }
}

/// The way to one coordinator.
pub(crate) struct Link {
    pub(crate) target: Target,
    pub(crate) hello: v1::Hello,
    pub(crate) held: Held,
    pub(crate) shutdown: Shutdown,
    pub(crate) reporter: Reporter,
}

impl Link {
    /// Connects, and connects again whenever the session is lost, until the worker has ended.
    pub(crate) async fn run(mut self) -> Result<(), WorkerError> {
        let mut next_waits = waits();
        loop {
            self.held.collect();
            let hello = v1::Hello {
                held: self.held.tokens(),
                ..self.hello.clone()
            };
            let opened = tokio::select! {
                biased;
                () = self.shutdown.without_session(self.held.is_empty()) => return self.finished(),
                opened = self.target.open(hello) => opened,
            };
            let wait = match opened {
                Ok(streams) => {
                    let coordinator = streams.welcome.coordinator_id.clone();
                    tracing::info!(coordinator, "session opened");
                    self.reporter.tell(News::Opened(coordinator.clone()));
                    let session =
                        Session::run(&mut self.held, streams, &mut self.shutdown, &self.reporter);
                    match Box::pin(session).await {
                        SessionEnd::Drained => return Ok(()),
                        SessionEnd::OutOfTime => return self.finished(),
                        SessionEnd::Lost(error) => {
                            let reason = error
                                .map_or_else(|| "closed".to_owned(), |error| error.to_string());
                            tracing::warn!(coordinator, reason, "session lost");
                        }
                    }
                    self.held.slots.void_credits();
                    self.reporter.tell(News::Lost);
                    next_waits = waits();
                    next_waits.next()
                }
                Err(OpenError::Final(error)) => return Err(error),
                Err(OpenError::Passing(status)) => {
                    let wait = next_waits.next();
                    tracing::warn!(
                        reason = status.message(),
                        retry_in = ?wait,
                        "coordinator not reached"
                    );
                    wait
                }
            };
            self.held.collect();
            tokio::select! {
                biased;
                () = self.shutdown.without_session(self.held.is_empty()) => return self.finished(),
                () = sleep(wait.unwrap_or(Duration::ZERO)) => {}
            }
        }
    }

    fn finished(&self) -> Result<(), WorkerError> {
        match self.held.tokens().len() {
            0 => Ok(()),
            left => Err(WorkerError::Unacknowledged(left)),
        }
    }
}
