//! The task that carries one end of a session: numbers what is sent, checks what comes, and keeps an eye on the
//! other end.

use std::pin::Pin;
use std::sync::Arc;

use async_nats::{Message as Received, StatusCode, Subject, Subscriber};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use levelflow_proto::v1;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tonic::{Code, Status};

use super::connection::Nats;
use super::envelope::{Envelope, HEAD_BYTES, Kind, write_head};
use super::frames::{self, Frames, ReadMark};
use super::pieces::{MAX_PIECE_BYTES, Pieces};
use super::window::{WINDOW_BYTES, WINDOW_MESSAGES, Window};
use crate::error::SessionError;

/// The subjects of a session, seen from one end.
pub(super) struct Ends {
    /// What comes to this end.
    pub(super) inbox: Subscriber,
    pub(super) own: Subject,
    pub(super) other: Subject,
}

/// The frames that are to be sent, or the status to close with.
pub(super) type Outgoing<S> = Pin<Box<dyn Stream<Item = Result<S, Status>> + Send + Sync>>;

/// Carries a session until it ends. Gives the frames that come in it.
pub(super) fn carry<S, R>(
    nats: &Nats,
    ends: Ends,
    outgoing: Outgoing<S>,
    permit: Option<OwnedSemaphorePermit>,
) -> Frames<R>
where
    S: Message + 'static,
    R: Message + Default,
{
    // Beside the messages there is always room for the error at the end.
    let (deliver, received) = mpsc::channel(WINDOW_MESSAGES + 1);
    let mark = Arc::new(ReadMark::default());
    let carrier = Carrier {
        nats: nats.clone(),
        ends,
        outgoing: Some(outgoing),
        unsent: None,
        window: Window::default(),
        deliver: Some(deliver),
        mark: mark.clone(),
        received: 0,
        received_bytes: 0,
        heard: Instant::now(),
        unread_since: None,
        _permit: permit,
    };
    levelflow_runtime::task::spawn("nats session", carrier.run());
    Frames::new(received, mark)
}

struct Carrier<S> {
    nats: Nats,
    ends: Ends,
    /// None when all was sent.
    outgoing: Option<Outgoing<S>>,
    /// What is left of the frame that is being sent.
    unsent: Option<Pieces>,
    window: Window,
    /// None when nothing more comes.
    deliver: Option<mpsc::Sender<Result<frames::Received, SessionError>>>,
    mark: Arc<ReadMark>,
    /// The number of the last message that came.
    received: u64,
    /// Bytes of all that came; wraps around.
    received_bytes: usize,
    heard: Instant,
    /// When it was seen that nobody reads here any more.
    unread_since: Option<Instant>,
    /// Counts the session among those of its listener.
    _permit: Option<OwnedSemaphorePermit>,
}

/// How a session ended.
enum End {
    /// Both sides have said all.
    Finished,
    /// Nobody uses this end any more.
    Dropped,
    /// It was closed at this end.
    Refused(Status),
    /// It was closed at the other end.
    Closed(Status),
    Failed(SessionError),
}

impl From<SessionError> for End {
    fn from(error: SessionError) -> Self {
        Self::Failed(error)
    }
}

impl<S: Message> Carrier<S> {
    async fn run(mut self) {
        let (to_other, to_reader) = match self.serve().await {
            Ok(()) => (None, None),
            Err(End::Finished) => (None, None),
            Err(End::Dropped) => (Some(Status::cancelled("the session was left")), None),
            Err(End::Refused(status)) => (Some(status), None),
            Err(End::Closed(status)) => (None, Some(SessionError::from(status))),
            Err(End::Failed(error)) => {
                let status = Status::unavailable(error.to_string());
                (Some(status), Some(error))
            }
        };
        if let (Some(deliver), Some(error)) = (&self.deliver, to_reader) {
            // Who does not read does not want to know.
            let _ = deliver.try_send(Err(error));
        }
        if let Some(status) = to_other {
            let mut message = self.head(Kind::Close);
            message.extend_from_slice(&close_of(&status).encode_to_vec());
            // If this is lost, too, the other side hears nothing more.
            let _ = self.publish(message.freeze(), false).await;
        }
    }

    async fn serve(&mut self) -> Result<(), End> {
        let keepalive = self.nats.keepalive;
        let mut keepalives = interval_at(Instant::now() + keepalive, keepalive);
        keepalives.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connects = self.nats.connects.clone();
        connects.mark_unchanged();
        loop {
            let is_sent = self.outgoing.is_none() && self.unsent.is_none();
            if is_sent && self.deliver.is_none() {
                return Err(End::Finished);
            }
            if is_sent && self.unread_since.is_some() {
                return Err(End::Dropped);
            }
            let has_room = self.window.has_room();
            tokio::select! {
                biased;
                message = self.ends.inbox.next() => {
                    let message = message.ok_or(SessionError::Disconnected)?;
                    self.receive(message).await?;
                }
                () = self.mark.is_worth_telling() => self.tell(Kind::Acknowledge).await?,
                _ = keepalives.tick() => self.keep_alive().await?,
                // What was under way may be lost, and what the other side has got shows it.
                Ok(()) = connects.changed() => self.tell(Kind::Probe).await?,
                () = std::future::ready(()), if has_room && self.unsent.is_some() => {
                    self.send_piece().await?;
                }
                frame = next(&mut self.outgoing), if has_room && self.unsent.is_none() && self.outgoing.is_some() => {
                    self.send(frame).await?;
                }
                () = closed(self.deliver.as_ref()), if self.unread_since.is_none() && self.deliver.is_some() => {
                    self.unread_since = Some(Instant::now());
                }
            }
        }
    }

    async fn receive(&mut self, message: Received) -> Result<(), End> {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(SessionError::Gone.into());
        }
        let envelope = Envelope::read(message.payload)?;
        self.heard = Instant::now();
        if envelope.kind == Kind::Close {
            let close = v1::Close::decode(envelope.body).map_err(SessionError::from)?;
            return Err(End::Closed(status_of(close)));
        }
        let next = self.received + 1;
        let fits = match envelope.kind.is_numbered() {
            true => envelope.sequence == next,
            false => envelope.sequence < next,
        };
        if !fits {
            return Err(End::Failed(SessionError::Lost {
                expected: next,
                received: envelope.sequence,
            }));
        }
        self.window.acknowledge(envelope.acknowledged)?;
        match envelope.kind {
            Kind::Frame => self.deliver(envelope.body, true)?,
            Kind::Piece => self.deliver(envelope.body, false)?,
            Kind::End => {
                self.received = next;
                self.deliver = None;
            }
            Kind::Probe => self.tell(Kind::Acknowledge).await?,
            Kind::Acknowledge | Kind::Accept | Kind::Close => {}
        }
        Ok(())
    }

    fn deliver(&mut self, body: Bytes, is_last: bool) -> Result<(), SessionError> {
        let deliver = self.deliver.as_ref().ok_or(SessionError::Malformed)?;
        self.received += 1;
        self.received_bytes = self.received_bytes.wrapping_add(body.len());
        if self.unread_since.is_some() {
            return Ok(());
        }
        let messages = self.received - self.mark.messages();
        let bytes = self.received_bytes.wrapping_sub(self.mark.bytes());
        if messages > WINDOW_MESSAGES as u64 || bytes > WINDOW_BYTES + MAX_PIECE_BYTES {
            return Err(SessionError::Overrun);
        }
        // There is room for as many as may be under way; a reader that has gone is noticed elsewhere.
        let _ = deliver.try_send(Ok(frames::Received { body, is_last }));
        Ok(())
    }

    async fn keep_alive(&mut self) -> Result<(), End> {
        let silence = self.nats.silence();
        if self.heard.elapsed() >= silence {
            return Err(SessionError::Silent(silence).into());
        }
        if self.unread_since.is_some_and(|it| it.elapsed() >= silence) {
            // The other side does not read either.
            return Err(End::Dropped);
        }
        Ok(self.tell(Kind::Probe).await?)
    }

    async fn send(&mut self, frame: Option<Result<S, Status>>) -> Result<(), End> {
        match frame {
            Some(Ok(frame)) => {
                self.unsent = Some(Pieces::of(&frame, self.nats.client.max_payload())?);
                Ok(self.send_piece().await?)
            }
            Some(Err(status)) => Err(End::Refused(status)),
            None => {
                self.outgoing = None;
                self.window.send(HEAD_BYTES);
                Ok(self.tell(Kind::End).await?)
            }
        }
    }

    async fn send_piece(&mut self) -> Result<(), SessionError> {
        let Some(pieces) = self.unsent.take() else {
            return Ok(());
        };
        let sequence = self.window.send(pieces.next_bytes());
        let (message, rest) = pieces.next(sequence, self.read());
        self.unsent = rest;
        self.publish(message, false).await
    }

    /// Says how far this end is.
    async fn tell(&self, kind: Kind) -> Result<(), SessionError> {
        self.publish(self.head(kind).freeze(), kind == Kind::Probe)
            .await
    }

    fn head(&self, kind: Kind) -> BytesMut {
        let mut message = BytesMut::with_capacity(HEAD_BYTES);
        write_head(kind, self.window.sent(), self.read(), &mut message);
        message
    }

    /// The number of the last message that needs no room here any more.
    fn read(&self) -> u64 {
        match self.unread_since {
            None => self.mark.messages(),
            Some(_) => self.received,
        }
    }

    /// Gives a message to NATS. With `answered` the server tells if nobody listens at the other end.
    async fn publish(&self, message: Bytes, answered: bool) -> Result<(), SessionError> {
        let client = &self.nats.client;
        let other = self.ends.other.clone();
        let publish = async {
            match answered {
                true => {
                    let own = self.ends.own.clone();
                    client.publish_with_reply(other, own, message).await
                }
                false => client.publish(other, message).await,
            }
        };
        // It waits when the connection is broken and much waits for it already.
        let silence = self.nats.silence();
        match timeout(silence, publish).await {
            Ok(published) => published.map_err(SessionError::Publish),
            Err(_) => Err(SessionError::Silent(silence)),
        }
    }
}

/// What the other side is told with a status.
pub(super) fn close_of(status: &Status) -> v1::Close {
    v1::Close {
        code: i32::from(status.code()).unsigned_abs(),
        message: status.message().to_owned(),
        details: Bytes::copy_from_slice(status.details()),
    }
}

/// The status that the other side has told.
pub(super) fn status_of(close: v1::Close) -> Status {
    let code = Code::from_i32(close.code.cast_signed());
    Status::with_details(code, close.message, close.details)
}

async fn next<S>(outgoing: &mut Option<Outgoing<S>>) -> Option<Result<S, Status>> {
    outgoing.as_mut()?.next().await
}

async fn closed<T>(deliver: Option<&mpsc::Sender<T>>) {
    if let Some(deliver) = deliver {
        deliver.closed().await;
    }
}
