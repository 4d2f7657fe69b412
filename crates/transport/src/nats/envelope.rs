//! The head of a message of a session.

use bytes::{Buf as _, BufMut, Bytes};

use crate::error::SessionError;

/// Bytes of the head.
pub(super) const HEAD_BYTES: usize = 17;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A frame, or its last piece.
    Frame,
    /// A piece of a frame; others follow.
    Piece,
    /// No more frames come.
    End,
    /// Tells how far its sender has read and sent.
    Acknowledge,
    /// The same, and asks to be told.
    Probe,
    /// The session is open.
    Accept,
    /// The session has ended.
    Close,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Frame,
        Self::Piece,
        Self::End,
        Self::Acknowledge,
        Self::Probe,
        Self::Accept,
        Self::Close,
    ];

    /// Whether its sequence number is its own, and not that of the last one before it.
    pub(super) const fn is_numbered(self) -> bool {
        matches!(self, Self::Frame | Self::Piece | Self::End)
    }
}

/// A message of a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) kind: Kind,
    pub(super) sequence: u64,
    /// The last number that its sender has read.
    pub(super) acknowledged: u64,
    pub(super) body: Bytes,
}

impl Envelope {
    /// Reads a message.
    pub(super) fn read(mut message: Bytes) -> Result<Self, SessionError> {
        if message.len() < HEAD_BYTES {
            return Err(SessionError::Malformed);
        }
        let kind = Kind::ALL.get(usize::from(message.get_u8()));
        Ok(Self {
            kind: *kind.ok_or(SessionError::Malformed)?,
            sequence: message.get_u64(),
            acknowledged: message.get_u64(),
            body: message,
        })
    }
}

/// Writes the head of a message.
pub(super) fn write_head(kind: Kind, sequence: u64, acknowledged: u64, to: &mut impl BufMut) {
    // Kinds are numbered as they are declared.
    to.put_u8(kind as u8);
    to.put_u64(sequence);
    to.put_u64(acknowledged);
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    #[test]
    fn every_kind_is_read_as_it_was_written() {
        for kind in Kind::ALL {
            let mut message = BytesMut::new();
            write_head(kind, 7, u64::MAX, &mut message);
            assert_eq!(message.len(), HEAD_BYTES);
            message.extend_from_slice(b"body");
            let envelope = Envelope::read(message.freeze()).unwrap();
            let expected = Envelope {
                kind,
                sequence: 7,
                acknowledged: u64::MAX,
                body: Bytes::from_static(b"body"),
            };
            assert_eq!(envelope, expected);
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let unknown_kind = Bytes::from_static(&[7; HEAD_BYTES]);
        let too_short = Bytes::from_static(&[0; HEAD_BYTES - 1]);
        for message in [unknown_kind, too_short, Bytes::new()] {
            let error = Envelope::read(message).unwrap_err();
            assert!(matches!(error, SessionError::Malformed), "{error}");
        }
    }
}
