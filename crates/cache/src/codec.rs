//! The bytes of an entry, as every tier keeps them.
//!
//! ```text
//! version u8 | flags u8 | expires_at u64 | body bytes before compression u32 | labels | body | checksum
//! labels:  bytes u32 | tenant | workflow | count u8 | tags
//! body:    created_at u64 | expires_at u64 | took u64 | handler version | result | count u32 | chunks
//! result:  0 | output                      or  1 | code | message | retryable u8 | retry after u64
//! ```
//!
//! Numbers are little-endian; a text is its bytes after their number. The body alone is compressed, so
//! that entries can be chosen by their labels without inflating them. The first expiry is that of the
//! copy in one tier, the second that of the entry. The checksum is a BLAKE3 hash keyed with the cache
//! key, so that an entry under another's key is as corrupt as a damaged one.

use std::cell::RefCell;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use levelflow_common::{Code, Failure, HumanDuration, Timestamp};
use zstd::bulk::{Compressor, Decompressor};

use crate::entry::{Computed, Entry, Labels};
use levelflow_common::CacheKey;

const VERSION: u8 = 1;
const COMPRESSED: u8 = 1;
/// Level 1: a third of the time of the default for nearly its ratio.
const LEVEL: i32 = 1;
const CHECKSUM_BYTES: usize = 16;
/// What comes before the labels.
const HEAD_BYTES: usize = 14;
const OUTPUT: u8 = 0;
const FAILURE: u8 = 1;
/// Stands for no wait.
const NO_WAIT: u64 = u64::MAX;

/// Why sealed bytes are not an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CorruptEntry {
    /// They are too short or too long for what they say they hold.
    #[error("the entry has the wrong length")]
    Length,
    /// Another version wrote them.
    #[error("the entry has version {0}")]
    Version(u8),
    /// They were damaged, or belong to another key.
    #[error("the entry is damaged or belongs to another key")]
    Checksum,
    /// They say that they hold more than may be inflated.
    #[error("the entry would have {bytes} bytes, and {limit} are allowed")]
    TooLarge {
        /// How many they say.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The compressed part cannot be inflated to the size that they say.
    #[error("the entry cannot be inflated")]
    Compression,
    /// A value in them makes no sense.
    #[error("the entry has a value that makes no sense")]
    Value,
}

/// An entry as bytes, without what depends on where it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    labels: Bytes,
    body: Bytes,
    is_compressed: bool,
    raw_bytes: u32,
}

/// The entry is larger than any may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the entry has {bytes} bytes, and {limit} are allowed")]
pub struct EntryTooLarge {
    /// Its size before compression.
    pub bytes: usize,
    /// The limit.
    pub limit: usize,
}

impl Packed {
    /// Packs an entry, compressed if it has over `compress_over` bytes and gets smaller by it.
    ///
    /// # Errors
    /// When it has over `limit` bytes.
    pub(crate) fn pack(
        entry: &Entry,
        compress_over: usize,
        limit: usize,
    ) -> Result<Self, EntryTooLarge> {
        let bytes = body_bytes(entry);
        if bytes > limit {
            return Err(EntryTooLarge { bytes, limit });
        }
        let raw_bytes = u32::try_from(bytes).map_err(|_| EntryTooLarge { bytes, limit })?;
        let mut body = BytesMut::with_capacity(bytes);
        put_body(entry, &mut body);
        let compressed = match bytes > compress_over {
            true => compress(&body).filter(|compressed| compressed.len() < bytes),
            false => None,
        };
        let mut labels = BytesMut::new();
        put_labels(&entry.labels, &mut labels);
        Ok(Self {
            labels: labels.freeze(),
            is_compressed: compressed.is_some(),
            body: compressed.map_or_else(|| body.freeze(), Bytes::from),
            raw_bytes,
        })
    }

    /// Bytes that compression saved.
    pub(crate) fn saved(&self) -> usize {
        self.raw_bytes as usize - self.body.len().min(self.raw_bytes as usize)
    }

    /// The bytes that a tier keeps under a key until `expires_at`.
    pub(crate) fn seal(&self, key: &CacheKey, expires_at: Timestamp) -> Bytes {
        let size = HEAD_BYTES + 4 + self.labels.len() + self.body.len() + CHECKSUM_BYTES;
        let mut sealed = BytesMut::with_capacity(size);
        sealed.put_u8(VERSION);
        sealed.put_u8(if self.is_compressed { COMPRESSED } else { 0 });
        sealed.put_u64_le(expires_at.as_micros());
        sealed.put_u32_le(self.raw_bytes);
        put_bytes(&self.labels, &mut sealed);
        sealed.put_slice(&self.body);
        let checksum = checksum(key, &sealed);
        sealed.put_slice(&checksum);
        sealed.freeze()
    }

    /// Checks sealed bytes, and says until when they are valid. Nothing is inflated yet.
    ///
    /// # Errors
    /// When they are not what was sealed under this key.
    pub(crate) fn open(key: &CacheKey, sealed: &Bytes) -> Result<(Self, Timestamp), CorruptEntry> {
        let content = sealed
            .len()
            .checked_sub(CHECKSUM_BYTES)
            .ok_or(CorruptEntry::Length)?;
        match sealed.first() {
            Some(&VERSION) => {}
            Some(&other) => return Err(CorruptEntry::Version(other)),
            None => return Err(CorruptEntry::Length),
        }
        if checksum(key, &sealed[..content]) != sealed[content..] {
            return Err(CorruptEntry::Checksum);
        }
        let mut rest = sealed.slice(1..content);
        let flags = u8_of(&mut rest)?;
        let expires_at = Timestamp::from_micros(u64_of(&mut rest)?);
        let raw_bytes = u32_of(&mut rest)?;
        let labels = bytes_of(&mut rest)?;
        let packed = Self {
            labels,
            body: rest,
            is_compressed: flags & COMPRESSED != 0,
            raw_bytes,
        };
        Ok((packed, expires_at))
    }

    /// The entry.
    ///
    /// # Errors
    /// When it would have over `limit` bytes, or is not an entry.
    pub(crate) fn unpack(&self, limit: usize) -> Result<Entry, CorruptEntry> {
        let bytes = self.raw_bytes as usize;
        if bytes > limit {
            return Err(CorruptEntry::TooLarge { bytes, limit });
        }
        let body = match self.is_compressed {
            true => inflate(&self.body, bytes).ok_or(CorruptEntry::Compression)?,
            false => self.body.clone(),
        };
        if body.len() != bytes {
            return Err(CorruptEntry::Length);
        }
        let labels = labels_of(self.labels.clone())?;
        entry_of(body, labels)
    }
}

/// Until when sealed bytes say that they are valid, which is not checked against the checksum.
pub(crate) fn peek_expiry(sealed: &Bytes) -> Option<Timestamp> {
    let micros = sealed.get(2..10)?.try_into().ok()?;
    Some(Timestamp::from_micros(u64::from_le_bytes(micros)))
}

/// The labels of sealed bytes, or of as many of their first bytes as hold the labels. What they say is
/// not checked against the checksum.
///
/// # Errors
/// When they are too short, or make no sense.
pub(crate) fn peek_labels(sealed: &Bytes) -> Result<Labels, CorruptEntry> {
    if sealed.first() != Some(&VERSION) || sealed.len() < HEAD_BYTES {
        return Err(CorruptEntry::Length);
    }
    labels_of(bytes_of(&mut sealed.slice(HEAD_BYTES..))?)
}

fn checksum(key: &CacheKey, content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::keyed_hash(key.as_bytes(), content);
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&hash.as_bytes()[..CHECKSUM_BYTES]);
    checksum
}

/// None where zstd has no memory for its work: the entry is kept as it is then.
fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    thread_local! {
        static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    }
    COMPRESSOR.with_borrow_mut(|compressor| {
        if compressor.is_none() {
            *compressor = Compressor::new(LEVEL).ok();
        }
        compressor.as_mut()?.compress(bytes).ok()
    })
}

fn inflate(bytes: &[u8], size: usize) -> Option<Bytes> {
    thread_local! {
        static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    DECOMPRESSOR.with_borrow_mut(|decompressor| {
        if decompressor.is_none() {
            *decompressor = Decompressor::new().ok();
        }
        let inflated = decompressor.as_mut()?.decompress(bytes, size).ok()?;
        Some(inflated.into())
    })
}

/// How many bytes [`put_body`] writes.
fn body_bytes(entry: &Entry) -> usize {
    let result = match &entry.computed.result {
        Ok(output) => 4 + output.len(),
        Err(failure) => 4 + failure.code.as_str().len() + 4 + failure.message.len() + 1 + 8,
    };
    let chunks = entry.computed.chunks.iter();
    let chunks: usize = chunks.map(|chunk| 4 + chunk.len()).sum();
    3 * 8 + 4 + entry.handler_version.len() + 1 + result + 4 + chunks
}

fn put_body(entry: &Entry, body: &mut BytesMut) {
    body.put_u64_le(entry.created_at.as_micros());
    body.put_u64_le(entry.expires_at.as_micros());
    body.put_u64_le(micros(entry.computed.took));
    put_bytes(entry.handler_version.as_bytes(), body);
    match &entry.computed.result {
        Ok(output) => {
            body.put_u8(OUTPUT);
            put_bytes(output, body);
        }
        Err(failure) => {
            body.put_u8(FAILURE);
            put_bytes(failure.code.as_str().as_bytes(), body);
            put_bytes(failure.message.as_bytes(), body);
            body.put_u8(failure.retryable.into());
            body.put_u64_le(failure.retry_after.map_or(NO_WAIT, |wait| micros(wait.0)));
        }
    }
    put_count(entry.computed.chunks.len(), body);
    for chunk in &entry.computed.chunks {
        put_bytes(chunk, body);
    }
}

fn put_labels(labels: &Labels, bytes: &mut BytesMut) {
    put_bytes(labels.tenant.as_bytes(), bytes);
    put_bytes(labels.workflow.as_bytes(), bytes);
    put_count(labels.tags.len(), bytes);
    for tag in &labels.tags {
        put_bytes(tag.as_bytes(), bytes);
    }
}

fn put_bytes(text: &[u8], bytes: &mut BytesMut) {
    put_count(text.len(), bytes);
    bytes.put_slice(text);
}

fn put_count(count: usize, bytes: &mut BytesMut) {
    bytes.put_u32_le(u32::try_from(count).expect("entries are bounded far below 4 GiB"));
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn entry_of(mut body: Bytes, labels: Labels) -> Result<Entry, CorruptEntry> {
    let rest = &mut body;
    let created_at = Timestamp::from_micros(u64_of(rest)?);
    let expires_at = Timestamp::from_micros(u64_of(rest)?);
    let took = Duration::from_micros(u64_of(rest)?);
    let handler_version = text_of(rest)?;
    let result = match u8_of(rest)? {
        OUTPUT => Ok(bytes_of(rest)?),
        FAILURE => Err(failure_of(rest)?),
        _ => return Err(CorruptEntry::Value),
    };
    let count = count_of(rest)?;
    let chunks = (0..count)
        .map(|_| bytes_of(rest))
        .collect::<Result<_, _>>()?;
    ended(rest)?;
    Ok(Entry {
        computed: Computed {
            result,
            chunks,
            took,
        },
        labels,
        handler_version,
        created_at,
        expires_at,
    })
}

fn failure_of(rest: &mut Bytes) -> Result<Failure, CorruptEntry> {
    let code = Code::parse(&text_of(rest)?).ok_or(CorruptEntry::Value)?;
    let message = text_of(rest)?;
    let retryable = u8_of(rest)? != 0;
    let retry_after = match u64_of(rest)? {
        NO_WAIT => None,
        wait => Some(HumanDuration(Duration::from_micros(wait))),
    };
    Ok(Failure {
        code,
        message,
        retryable,
        retry_after,
    })
}

fn labels_of(mut bytes: Bytes) -> Result<Labels, CorruptEntry> {
    let rest = &mut bytes;
    let tenant = text_of(rest)?;
    let workflow = text_of(rest)?;
    let count = count_of(rest)?;
    let tags = (0..count)
        .map(|_| text_of(rest))
        .collect::<Result<_, _>>()?;
    ended(rest)?;
    Ok(Labels {
        tenant,
        workflow,
        tags,
    })
}

/// A number of things of at least four bytes each, which is checked before there is room made for them.
fn count_of(rest: &mut Bytes) -> Result<usize, CorruptEntry> {
    let count = u32_of(rest)? as usize;
    match count <= rest.len() / 4 {
        true => Ok(count),
        false => Err(CorruptEntry::Length),
    }
}

fn ended(rest: &Bytes) -> Result<(), CorruptEntry> {
    match rest.is_empty() {
        true => Ok(()),
        false => Err(CorruptEntry::Length),
    }
}

fn u8_of(rest: &mut Bytes) -> Result<u8, CorruptEntry> {
    rest.try_get_u8().map_err(|_| CorruptEntry::Length)
}

fn u32_of(rest: &mut Bytes) -> Result<u32, CorruptEntry> {
    rest.try_get_u32_le().map_err(|_| CorruptEntry::Length)
}

fn u64_of(rest: &mut Bytes) -> Result<u64, CorruptEntry> {
    rest.try_get_u64_le().map_err(|_| CorruptEntry::Length)
}

fn bytes_of(rest: &mut Bytes) -> Result<Bytes, CorruptEntry> {
    let length = u32_of(rest)? as usize;
    match length <= rest.len() {
        true => Ok(rest.split_to(length)),
        false => Err(CorruptEntry::Length),
    }
}

fn text_of(rest: &mut Bytes) -> Result<String, CorruptEntry> {
    String::from_utf8(bytes_of(rest)?.into()).map_err(|_| CorruptEntry::Value)
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
