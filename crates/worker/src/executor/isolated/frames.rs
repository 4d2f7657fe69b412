//! The messages between a worker and its children: those of a session, over a socket.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use levelflow_common::limits::MAX_MESSAGE_BYTES;
use prost::Message;
use tokio::net::UnixStream;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// One end of the socket.
#[derive(Debug)]
pub(super) struct Frames(Framed<UnixStream, LengthDelimitedCodec>);

impl Frames {
    pub(super) fn over(socket: StdUnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = UnixStream::from_std(socket)?;
        let codec = LengthDelimitedCodec::builder()
            .max_frame_length(MAX_MESSAGE_BYTES)
            .new_codec();
        Ok(Self(Framed::new(socket, codec)))
    }

    pub(super) async fn send(&mut self, message: &impl Message) -> io::Result<()> {
        self.0.send(Bytes::from(message.encode_to_vec())).await
    }

    /// The next message; none when the other end is gone. Nothing is lost when this is dropped.
    pub(super) async fn receive<M: Message + Default>(&mut self) -> io::Result<Option<M>> {
        match self.0.next().await.transpose()? {
            Some(frame) => Ok(Some(M::decode(frame)?)),
            None => Ok(None),
        }
    }
}
