//! The worker's side: knows which coordinators are there, and opens sessions with them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::{StatusCode, Subscriber};
use futures_util::StreamExt as _;
use levelflow_proto::v1;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::carrier::{Ends, carry, status_of};
use super::connection::{Nats, NatsError};
use super::envelope::{Envelope, Kind};
use super::listener::PRESENCE_INTERVAL;
use super::subject::is_token;
use crate::error::SessionError;
use crate::session::Session;

/// How long a coordinator is there after it said so.
const PRESENT_FOR: Duration = Duration::from_millis(3_500);
/// Coordinators that are known at once.
const MAX_COORDINATORS: usize = 256;
const OPEN_WITHIN: Duration = Duration::from_secs(5);

/// Opens the sessions of one process with coordinators.
pub struct Connector {
    nats: Nats,
    /// The process, in subjects.
    process: String,
    coordinators: watch::Receiver<BTreeSet<String>>,
    _stop: DropGuard,
}

impl Connector {
    /// Begins to listen for coordinators.
    ///
    /// # Errors
    /// When they cannot be listened for.
    pub async fn start(nats: Nats) -> Result<Self, NatsError> {
        let heard = nats.client.subscribe(nats.subjects.presence()).await?;
        let (known, coordinators) = watch::channel(BTreeSet::new());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let presence = Presence {
            nats: nats.clone(),
            heard,
            seen: BTreeMap::new(),
            known,
        };
        levelflow_runtime::task::spawn("nats presence", async move {
            let _ = stopped.run_until_cancelled(presence.follow()).await;
        });
        Ok(Self {
            nats,
            process: Uuid::now_v7().simple().to_string(),
            coordinators,
            _stop: stop.drop_guard(),
        })
    }

    /// The ids of the coordinators that are there.
    pub fn coordinators(&self) -> watch::Receiver<BTreeSet<String>> {
        self.coordinators.clone()
    }

    /// Opens a session with a coordinator.
    ///
    /// # Errors
    /// When it is not there, or refuses.
    pub async fn open<S, R>(&self, coordinator: &str) -> Result<Session<S, R>, SessionError>
    where
        S: Message + 'static,
        R: Message + Default,
    {
        let session = Uuid::now_v7().simple().to_string();
        let subjects = &self.nats.subjects;
        let own = subjects.worker(&self.process, &session);
        let client = &self.nats.client;
        let mut inbox = client
            .subscribe(own.clone())
            .await
            .map_err(SessionError::Subscribe)?;
        let other = subjects.coordinator(coordinator, &session);
        let open = v1::Open { session }.encode_to_vec();
        let opening = async {
            client
                .publish_with_reply(subjects.open(coordinator), own.clone(), open.into())
                .await
                .map_err(SessionError::Publish)?;
            accepted(&mut inbox).await
        };
        timeout(OPEN_WITHIN, opening)
            .await
            .unwrap_or(Err(SessionError::Silent(OPEN_WITHIN)))?;
        let (outbound, frames) = mpsc::channel(1);
        let outgoing = Box::pin(ReceiverStream::new(frames).map(Ok));
        let ends = Ends { inbox, own, other };
        Ok(Session {
            outbound,
            inbound: carry(&self.nats, ends, outgoing, None).into(),
        })
    }
}

async fn accepted(inbox: &mut Subscriber) -> Result<(), SessionError> {
    let answer = inbox.next().await.ok_or(SessionError::Disconnected)?;
    if answer.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(SessionError::Gone);
    }
    let envelope = Envelope::read(answer.payload)?;
    match envelope.kind {
        Kind::Accept => Ok(()),
        Kind::Close => {
            let close = v1::Close::decode(envelope.body)?;
            Err(status_of(close).into())
        }
        _ => Err(SessionError::Malformed),
    }
}

/// Keeps the set of coordinators that are there.
struct Presence {
    nats: Nats,
    heard: Subscriber,
    seen: BTreeMap<String, Instant>,
    known: watch::Sender<BTreeSet<String>>,
}

impl Presence {
    async fn follow(mut self) {
        let mut look = interval(PRESENCE_INTERVAL / 2);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connects = self.nats.connects.clone();
        self.ask().await;
        loop {
            tokio::select! {
                message = self.heard.next() => match message {
                    Some(message) => self.hear(&message.payload),
                    None => return,
                },
                Ok(()) = connects.changed() => self.ask().await,
                _ = look.tick() => {
                    self.seen.retain(|_, seen| seen.elapsed() < PRESENT_FOR);
                }
            }
            let ids: BTreeSet<String> = self.seen.keys().cloned().collect();
            self.known.send_if_modified(|known| {
                let is_new = *known != ids;
                *known = ids;
                is_new
            });
        }
    }

    async fn ask(&self) {
        let query = self
            .nats
            .client
            .publish(self.nats.subjects.query(), "".into());
        // Coordinators say without being asked that they are there, a little later.
        if !matches!(timeout(PRESENCE_INTERVAL, query).await, Ok(Ok(()))) {
            tracing::debug!("nats takes no messages");
        }
    }

    fn hear(&mut self, message: &[u8]) {
        let Ok(presence) = v1::Presence::decode(message) else {
            tracing::debug!("what was heard of a coordinator cannot be read");
            return;
        };
        let id = presence.coordinator_id;
        if presence.leaving {
            self.seen.remove(&id);
        } else if self.seen.len() < MAX_COORDINATORS && is_token(&id) || self.seen.contains_key(&id)
        {
            self.seen.insert(id, Instant::now());
        }
    }
}
