//! Texts that come piece by piece, as chunks.

use levelflow_common::Failure;
use serde::Serialize;

use super::output::write_chunk;
use super::sse::{EventReader, EventTooLong};
use crate::context::Context;

/// Bytes of text in one chunk: as JSON, that may be six times as many.
const PIECE_BYTES: usize = 10_000;
/// A text in ever so small pieces would have more chunks than there may be: after so many chunks, the next
/// have at least one byte more.
const CHUNKS_PER_BYTE: usize = 1024;

/// A text without bounds in it. Its chunks are `{"text": …}`.
pub(super) struct TextStream<'c> {
    context: &'c Context,
    /// Whose text it is, where that is part of the chunks.
    model: Option<&'c str>,
    /// What came and was not given on yet: it may be the beginning of a secret.
    held: String,
    /// The beginning of a character.
    cut: Vec<u8>,
    chunks: usize,
}

/// A piece of a text: to be put together with those before and after it.
#[derive(Serialize)]
struct Piece<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    text: &'a str,
}

impl<'c> TextStream<'c> {
    pub(super) fn new(context: &'c Context) -> Self {
        Self {
            context,
            model: None,
            held: String::new(),
            cut: Vec::new(),
            chunks: 0,
        }
    }

    /// The text of a model: its chunks are `{"model": …, "text": …}`.
    pub(super) fn of_model(context: &'c Context, model: &'c str) -> Self {
        Self {
            model: Some(model),
            ..Self::new(context)
        }
    }

    /// Takes in bytes, which may end within a character.
    pub(super) async fn push_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.cut.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.cut) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.cut.len(),
        };
        let rest = self.cut.split_off(whole);
        let bytes = std::mem::replace(&mut self.cut, rest);
        self.push(&String::from_utf8_lossy(&bytes)).await
    }

    /// Takes in more of the text.
    pub(super) async fn push(&mut self, text: &str) -> Result<(), Failure> {
        self.held.push_str(text);
        let settled = match self.context.redactor() {
            Some(redactor) => redactor.settled(&self.held),
            None => self.held.len(),
        };
        if settled <= self.chunks / CHUNKS_PER_BYTE {
            return Ok(());
        }
        let rest = self.held.split_off(settled);
        let text = std::mem::replace(&mut self.held, rest);
        self.emit(&text).await
    }

    /// The text has come to its end.
    pub(super) async fn end(mut self) -> Result<(), Failure> {
        let cut = std::mem::take(&mut self.cut);
        self.held.push_str(&String::from_utf8_lossy(&cut));
        let text = std::mem::take(&mut self.held);
        if text.is_empty() {
            return Ok(());
        }
        self.emit(&text).await
    }

    async fn emit(&mut self, text: &str) -> Result<(), Failure> {
        let text = self.context.redact_whole(text);
        for text in pieces(&text) {
            let model = self.model;
            let chunk = write_chunk(&Piece { model, text })?;
            self.context.emit_json(chunk).await?;
            self.chunks += 1;
        }
        Ok(())
    }
}

/// A text line by line: each is a chunk as soon as its end has come.
pub(super) struct LineStream<'c> {
    context: &'c Context,
    line: Vec<u8>,
}

impl<'c> LineStream<'c> {
    pub(super) const fn new(context: &'c Context) -> Self {
        Self {
            context,
            line: Vec::new(),
        }
    }

    pub(super) async fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        self.line
            .extend_from_slice(lines.next().unwrap_or_default());
        for next in lines {
            let line = std::mem::replace(&mut self.line, next.to_vec());
            self.emit(&line).await?;
        }
        Ok(())
    }

    /// The text has come to its end, perhaps in the midst of a line.
    pub(super) async fn end(self) -> Result<(), Failure> {
        if self.line.is_empty() {
            return Ok(());
        }
        self.emit(&self.line).await
    }

    async fn emit(&self, line: &[u8]) -> Result<(), Failure> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        emit_text(self.context, &String::from_utf8_lossy(line)).await
    }
}

/// Server-sent events: the data of each is a chunk.
pub(super) struct EventStream<'c> {
    context: &'c Context,
    events: EventReader,
}

/// Why an event is not given on.
pub(super) enum EventProblem {
    /// It has no bound.
    TooLong(EventTooLong),
    /// The chunk is not taken.
    NotTaken(Failure),
}

impl<'c> EventStream<'c> {
    pub(super) fn new(context: &'c Context) -> Self {
        Self {
            context,
            events: EventReader::default(),
        }
    }

    pub(super) async fn push(&mut self, bytes: &[u8]) -> Result<(), EventProblem> {
        let mut events = Vec::new();
        self.events
            .read(bytes, |data| events.push(data.to_owned()))
            .map_err(EventProblem::TooLong)?;
        for data in events {
            emit_text(self.context, &data)
                .await
                .map_err(EventProblem::NotTaken)?;
        }
        Ok(())
    }
}

/// Gives a text that is whole: as one chunk, unless it is very long.
async fn emit_text(context: &Context, text: &str) -> Result<(), Failure> {
    let text = context.redact_whole(text);
    if text.is_empty() {
        return context.emit_json(write_chunk("")?).await;
    }
    for piece in pieces(&text) {
        context.emit_json(write_chunk(piece)?).await?;
    }
    Ok(())
}

/// The text in pieces that fit into chunks.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest.floor_char_boundary(PIECE_BYTES);
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}
