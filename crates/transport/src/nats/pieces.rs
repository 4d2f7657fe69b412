//! A frame on its way out: messages that a server takes.

use bytes::{BufMut as _, Bytes, BytesMut};
use levelflow_common::limits::MAX_MESSAGE_BYTES;
use prost::Message;

use super::envelope::{HEAD_BYTES, Kind, write_head};
use crate::error::SessionError;

/// Bytes of the largest message: a frame that is larger does not hold those of other sessions up.
pub(super) const MAX_PIECE_BYTES: usize = 256 * 1024;

/// A frame of which pieces are left to send.
pub(super) struct Pieces {
    /// The frame, behind room for one head.
    frame: BytesMut,
    piece_bytes: usize,
}

impl Pieces {
    /// A frame, for a server that takes messages of so many bytes.
    pub(super) fn of(frame: &impl Message, max_payload: usize) -> Result<Self, SessionError> {
        let bytes = frame.encoded_len();
        if bytes > MAX_MESSAGE_BYTES {
            return Err(SessionError::TooLarge);
        }
        let mut buffer = BytesMut::with_capacity(HEAD_BYTES + bytes);
        buffer.put_bytes(0, HEAD_BYTES);
        frame
            .encode(&mut buffer)
            .expect("a buffer that grows has room");
        Ok(Self {
            frame: buffer,
            piece_bytes: max_payload.clamp(HEAD_BYTES + 1, MAX_PIECE_BYTES) - HEAD_BYTES,
        })
    }

    /// Bytes of the next message.
    pub(super) fn next_bytes(&self) -> usize {
        (self.frame.len() - HEAD_BYTES).min(self.piece_bytes) + HEAD_BYTES
    }

    /// The next message, and what is left of the frame.
    pub(super) fn next(mut self, sequence: u64, acknowledged: u64) -> (Bytes, Option<Self>) {
        let bytes = self.next_bytes();
        let is_last = bytes == self.frame.len();
        let kind = if is_last { Kind::Frame } else { Kind::Piece };
        write_head(
            kind,
            sequence,
            acknowledged,
            &mut &mut self.frame[..HEAD_BYTES],
        );
        if is_last {
            return (self.frame.freeze(), None);
        }
        // The next head is written over the end of this piece, so the piece is copied.
        let message = Bytes::copy_from_slice(&self.frame[..bytes]);
        let _ = self.frame.split_to(bytes - HEAD_BYTES);
        (message, Some(self))
    }
}

#[cfg(test)]
mod tests {
    use levelflow_proto::v1::WorkerFrame;

    use super::super::envelope::Envelope;
    use super::*;

    fn frame(tokens: u64) -> WorkerFrame {
        WorkerFrame {
            refused: (0..tokens).collect(),
            ..WorkerFrame::default()
        }
    }

    fn messages(frame: &WorkerFrame, max_payload: usize) -> Vec<Envelope> {
        let mut left = Some(Pieces::of(frame, max_payload).unwrap());
        let mut messages = Vec::new();
        while let Some(pieces) = left {
            let announced = pieces.next_bytes();
            let (message, rest) = pieces.next(messages.len() as u64 + 1, 9);
            assert_eq!(message.len(), announced);
            assert!(message.len() <= max_payload);
            messages.push(Envelope::read(message).unwrap());
            left = rest;
        }
        messages
    }

    #[test]
    fn a_small_frame_is_one_message() {
        let small = frame(2);
        let messages = messages(&small, 1024);
        assert_eq!(messages.len(), 1);
        assert_eq!((messages[0].kind, messages[0].sequence), (Kind::Frame, 1));
        assert_eq!(messages[0].acknowledged, 9);
        assert_eq!(WorkerFrame::decode(&messages[0].body[..]).unwrap(), small);
        let empty = WorkerFrame::default();
        assert_eq!(self::messages(&empty, 1024).len(), 1);
    }

    #[test]
    fn a_large_frame_is_the_sum_of_its_pieces() {
        for (tokens, max_payload) in [(1_000, 1024), (1_000, HEAD_BYTES + 1), (40_000, 100_000)] {
            let large = frame(tokens);
            let messages = messages(&large, max_payload);
            let body = max_payload - HEAD_BYTES;
            assert_eq!(messages.len(), large.encoded_len().div_ceil(body));
            let (last, pieces) = messages.split_last().unwrap();
            assert_eq!(last.kind, Kind::Frame);
            assert!(pieces.iter().all(|piece| piece.kind == Kind::Piece));
            let whole: Vec<u8> = messages.iter().flat_map(|it| it.body.to_vec()).collect();
            assert_eq!(WorkerFrame::decode(&whole[..]).unwrap(), large);
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused() {
        let huge = frame(MAX_MESSAGE_BYTES as u64 / 8 + 1);
        let error = Pieces::of(&huge, 1024).err().unwrap();
        assert!(matches!(error, SessionError::TooLarge));
    }
}
