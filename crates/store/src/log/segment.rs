//! One file of the log.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::frame;
use crate::error::StoreError;

/// A segment that is open for writing at its end.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    /// The length of the file.
    bytes: u64,
    /// Where the next frame goes.
    end: u64,
    /// The number of its last frame; 0 if it has none.
    last: u64,
}

/// What a scan of a segment found.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) path: PathBuf,
    /// The number of its first frame; none if it has none.
    pub(super) first: Option<u64>,
    pub(super) last: u64,
    end: u64,
    /// Whether a later frame lies behind a place that is none: what was there was durable once.
    pub(super) is_broken: bool,
}

impl Segment {
    /// Makes a file of zeros: writes that do not change its length are synced faster.
    pub(super) fn create(path: PathBuf, bytes: u64) -> Result<Self, StoreError> {
        let failed = |error| StoreError::io("create", &path, error);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(failed)?;
        std::io::copy(
            &mut std::io::Read::take(std::io::repeat(0), bytes),
            &mut file,
        )
        .and_then(|_| file.sync_all())
        .and_then(|()| file.rewind())
        .map_err(failed)?;
        Ok(Self {
            path,
            file,
            bytes,
            end: 0,
            last: 0,
        })
    }

    /// Opens a segment behind the last frame that a scan found.
    pub(super) fn open(scan: Scan) -> Result<Self, StoreError> {
        let failed = |error| StoreError::io("open", &scan.path, error);
        let mut file = OpenOptions::new()
            .write(true)
            .open(&scan.path)
            .map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        file.seek(SeekFrom::Start(scan.end)).map_err(failed)?;
        Ok(Self {
            file,
            bytes,
            end: scan.end,
            last: scan.last,
            path: scan.path,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.end == 0 || self.end + bytes as u64 <= self.bytes
    }

    /// Writes a frame at the end, durably.
    pub(super) fn append(&mut self, frame: &[u8], number: u64) -> Result<(), StoreError> {
        self.file
            .write_all(frame)
            .and_then(|()| self.file.sync_data())
            .map_err(|error| StoreError::io("write", &self.path, error))?;
        self.end += frame.len() as u64;
        self.bytes = self.bytes.max(self.end);
        self.last = number;
        Ok(())
    }

    /// Makes it ready to be written from its beginning, and no longer than `bytes`.
    pub(super) fn recycle(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.file
            .rewind()
            .and_then(|()| {
                if self.bytes > bytes {
                    self.file.set_len(bytes)?;
                    self.bytes = bytes;
                }
                Ok(())
            })
            .map_err(|error| StoreError::io("write", &self.path, error))?;
        self.end = 0;
        self.last = 0;
        Ok(())
    }
}

impl Scan {
    /// Reads a segment to the end of its frames; those up to `after` are not needed.
    pub(super) fn of(path: PathBuf, after: u64) -> Result<Self, StoreError> {
        let bytes = read(&path)?;
        let mut scan = Self {
            path,
            first: None,
            last: 0,
            end: 0,
            is_broken: false,
        };
        let mut end = 0;
        while let Some((number, payload)) = frame::read(&bytes, end)
            && (scan.first.is_none() || number == scan.last + 1)
        {
            scan.first.get_or_insert(number);
            scan.last = number;
            end = payload.end;
        }
        scan.end = end as u64;
        scan.is_broken = frame::has_later(&bytes, end, scan.last.max(after));
        Ok(scan)
    }

    /// Gives the payloads of frames after a number.
    pub(super) fn replay(
        &self,
        after: u64,
        mut each: impl FnMut(u64, Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let bytes = Bytes::from(read(&self.path)?);
        let mut at = 0;
        while (at as u64) < self.end
            && let Some((number, payload)) = frame::read(&bytes, at)
        {
            at = payload.end;
            if number > after {
                each(number, bytes.slice(payload))?;
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    fs::read(path).map_err(|error| StoreError::io("read", path, error))
}
