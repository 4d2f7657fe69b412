//! How much may be under way: sent, and not read by the other side.

use std::collections::VecDeque;

use crate::error::SessionError;

/// Messages that may be under way.
pub(super) const WINDOW_MESSAGES: usize = 1024;
/// Bytes that may be under way when one more message is sent.
pub(super) const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// What was sent and is not acknowledged.
#[derive(Default)]
pub(super) struct Window {
    /// The sizes of the messages that are under way, the oldest first.
    under_way: VecDeque<usize>,
    bytes: usize,
    sent: u64,
}

impl Window {
    /// Whether one more message may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.under_way.len() < WINDOW_MESSAGES && self.bytes < WINDOW_BYTES
    }

    /// Takes a message in; gives its number.
    pub(super) fn send(&mut self, bytes: usize) -> u64 {
        self.under_way.push_back(bytes);
        self.bytes += bytes;
        self.sent += 1;
        self.sent
    }

    /// The number of the last message that was sent; 0 before the first.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// The other side has read up to this number.
    pub(super) fn acknowledge(&mut self, number: u64) -> Result<(), SessionError> {
        if number > self.sent {
            return Err(SessionError::Malformed);
        }
        let left = usize::try_from(self.sent - number).unwrap_or(usize::MAX);
        while self.under_way.len() > left {
            self.bytes -= self.under_way.pop_front().unwrap_or_default();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_under_way_are_bounded_in_number_and_bytes() {
        let mut window = Window::default();
        for number in 1..=WINDOW_MESSAGES as u64 {
            assert!(window.has_room());
            assert_eq!(window.send(1), number);
        }
        assert!(!window.has_room());
        window.acknowledge(1).unwrap();
        assert!(window.has_room());

        window.send(WINDOW_BYTES);
        window.acknowledge(window.sent() - 1).unwrap();
        assert!(!window.has_room());
        window.acknowledge(window.sent()).unwrap();
        assert!(window.has_room());
        assert_eq!((window.bytes, window.under_way.len()), (0, 0));
    }

    #[test]
    fn an_old_acknowledgement_changes_nothing_and_one_of_the_future_is_refused() {
        let mut window = Window::default();
        for _ in 0..3 {
            window.send(10);
        }
        window.acknowledge(2).unwrap();
        window.acknowledge(1).unwrap();
        assert_eq!((window.bytes, window.sent()), (10, 3));
        window.acknowledge(4).unwrap_err();
    }
}
