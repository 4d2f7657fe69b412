//! The coordinator's side: says that it is there, and takes sessions.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message as Received, Subject, Subscriber};
use futures_util::{FutureExt as _, StreamExt as _};
use levelflow_proto::v1;
use prost::Message;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::carrier::{Ends, carry, close_of};
use super::connection::{Nats, NatsError};
use super::envelope::{Kind, write_head};
use super::subject::is_token;
use crate::session::Session;

/// How often a coordinator says that it is there.
pub(super) const PRESENCE_INTERVAL: Duration = Duration::from_secs(1);
/// Sessions that may be open.
const MAX_SESSIONS: usize = 10_000;
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// Takes the sessions that workers open with one coordinator.
pub struct Listener {
    nats: Nats,
    coordinator: String,
    opens: Subscriber,
    queries: Subscriber,
    connects: watch::Receiver<u64>,
    presence: Interval,
    sessions: Arc<Semaphore>,
}

/// A coordinator's end of a session.
type Accepted<S, R> = Session<Result<S, Status>, R>;

impl Listener {
    /// Listens for a coordinator, which has another id each time it starts. It is found while
    /// [`Listener::accept`] is waited for.
    ///
    /// # Errors
    /// When the subjects cannot be listened at.
    ///
    /// # Panics
    /// When the id is no part of a subject.
    pub async fn start(nats: &Nats, coordinator: &str) -> Result<Self, NatsError> {
        assert!(is_token(coordinator), "ids of coordinators are UUIDs");
        let mut presence = interval(PRESENCE_INTERVAL);
        presence.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            opens: nats
                .client
                .subscribe(nats.subjects.open(coordinator))
                .await?,
            queries: nats.client.subscribe(nats.subjects.query()).await?,
            connects: nats.connects.clone(),
            nats: nats.clone(),
            coordinator: coordinator.to_owned(),
            presence,
            sessions: Arc::new(Semaphore::new(MAX_SESSIONS)),
        })
    }

    /// The next session; none when the connection was closed.
    pub async fn accept<S, R>(&mut self) -> Option<Accepted<S, R>>
    where
        S: Message + 'static,
        R: Message + Default,
    {
        loop {
            tokio::select! {
                _ = self.presence.tick() => self.announce(false).await,
                Ok(()) = self.connects.changed() => self.presence.reset_immediately(),
                query = self.queries.next() => {
                    query?;
                    // One answer is enough for all who asked.
                    while let Some(Some(_)) = self.queries.next().now_or_never() {}
                    self.announce(false).await;
                }
                open = self.opens.next() => {
                    if let Some(session) = self.open(open?).await {
                        return Some(session);
                    }
                }
            }
        }
    }

    /// Says that the coordinator takes no more sessions.
    pub async fn leave(self) {
        self.announce(true).await;
        if !matches!(
            timeout(LEAVE_WITHIN, self.nats.client.flush()).await,
            Ok(Ok(()))
        ) {
            tracing::debug!("nats was not told that the coordinator leaves");
        }
    }

    async fn announce(&self, leaving: bool) {
        let presence = v1::Presence {
            coordinator_id: self.coordinator.clone(),
            leaving,
        };
        let subject = self.nats.subjects.presence();
        self.say(subject, presence.encode_to_vec()).await;
    }

    async fn open<S, R>(&self, message: Received) -> Option<Accepted<S, R>>
    where
        S: Message + 'static,
        R: Message + Default,
    {
        let open = v1::Open::decode(message.payload).ok()?;
        let subjects = &self.nats.subjects;
        let other = message.reply?;
        if !subjects.is_worker(&other, &open.session) {
            tracing::warn!("a session was asked for without a place to answer to");
            return None;
        }
        let Ok(permit) = self.sessions.clone().try_acquire_owned() else {
            tracing::warn!(limit = MAX_SESSIONS, "too many sessions are open");
            let refusal = format!("the coordinator has {MAX_SESSIONS} sessions open");
            let close = close_of(&Status::resource_exhausted(refusal));
            self.say(other, head(Kind::Close, &close.encode_to_vec()))
                .await;
            return None;
        };
        let own = subjects.coordinator(&self.coordinator, &open.session);
        let inbox = match self.nats.client.subscribe(own.clone()).await {
            Ok(inbox) => inbox,
            Err(error) => {
                tracing::warn!(%error, "a session cannot be listened to");
                return None;
            }
        };
        // NATS is told of the subject before it is told that the session is open.
        self.say(other.clone(), head(Kind::Accept, &[])).await;
        let (outbound, frames) = mpsc::channel(1);
        let outgoing = Box::pin(ReceiverStream::new(frames));
        let ends = Ends { inbox, own, other };
        Some(Session {
            outbound,
            inbound: carry(&self.nats, ends, outgoing, Some(permit)).into(),
        })
    }

    async fn say(&self, subject: Subject, message: Vec<u8>) {
        let publish = self.nats.client.publish(subject, message.into());
        // Whoever misses it asks again, or hears the next one.
        match timeout(PRESENCE_INTERVAL, publish).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "nats does not take messages"),
            Err(_) => tracing::debug!("nats takes no messages"),
        }
    }
}

/// A message before the first frame.
fn head(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    write_head(kind, 0, 0, &mut message);
    message.extend_from_slice(body);
    message
}
