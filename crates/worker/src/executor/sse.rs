//! Server-sent events, as far as answers of language models need them: the data of each event.

/// Bytes of one event.
const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// An event is longer than is taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {MAX_EVENT_BYTES} bytes")]
pub(super) struct EventTooLong;

/// Takes a stream apart, wherever it is cut: lines are read as text only when they are whole.
#[derive(Debug, Default)]
pub(super) struct EventReader {
    line: Vec<u8>,
    data: String,
    has_data: bool,
    /// The last byte was a carriage return, so that a line feed after it ends no line.
    after_return: bool,
}

impl EventReader {
    /// Reads on; `take` gets the data of each event that is complete.
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&str),
    ) -> Result<(), EventTooLong> {
        for &byte in bytes {
            match (
                byte,
                std::mem::replace(&mut self.after_return, byte == b'\r'),
            ) {
                (b'\n', true) => {}
                (b'\n' | b'\r', _) => self.end_line(&mut take),
                _ => {
                    if self.line.len() + self.data.len() >= MAX_EVENT_BYTES {
                        return Err(EventTooLong);
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(())
    }

    fn end_line(&mut self, take: &mut impl FnMut(&str)) {
        if self.line.is_empty() {
            if std::mem::take(&mut self.has_data) {
                take(&self.data);
                self.data.clear();
            }
            return;
        }
        // Other fields, and comments, say nothing of interest.
        if let Some(value) = self.line.strip_prefix(b"data:") {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            if self.has_data {
                self.data.push('\n');
            }
            self.data.push_str(&String::from_utf8_lossy(value));
            self.has_data = true;
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let mut reader = EventReader::default();
        let mut events = Vec::new();
        for piece in pieces {
            reader
                .read(piece, |data| events.push(data.to_owned()))
                .unwrap();
        }
        events
    }

    const STREAM: &str = ": hello\r\ndata: {\"a\":\"ü🦀\"}\r\n\r\nevent: x\rdata:1\rdata: 2\r\rid: 7\n\n\
                          data\n\ndata:  [DONE]\n\ndata: cut";

    #[test]
    fn all_ways_to_end_a_line_are_taken() {
        let all = ["{\"a\":\"ü🦀\"}", "1\n2", " [DONE]"];
        assert_eq!(events(&[STREAM.as_bytes()]), all);
    }

    #[test]
    fn an_event_has_a_bound() {
        let mut reader = EventReader::default();
        let long = vec![b'x'; MAX_EVENT_BYTES];
        assert_eq!(reader.read(&long, |_| ()), Ok(()));
        assert_eq!(reader.read(b"x", |_| ()), Err(EventTooLong));
    }

    proptest! {
        /// However the stream is cut, the same events come out.
        #[test]
        fn cuts_do_not_matter(mut cuts in proptest::collection::vec(0..STREAM.len(), 0..12)) {
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut rest = STREAM.as_bytes();
            for (place, &cut) in cuts.iter().enumerate() {
                let before = if place == 0 { 0 } else { cuts[place - 1] };
                let (piece, after) = rest.split_at(cut - before);
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            prop_assert_eq!(events(&pieces), events(&[STREAM.as_bytes()]));
        }
    }
}
