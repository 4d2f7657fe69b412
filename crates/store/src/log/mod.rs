//! The log: frames appended to files, each durable before the next is written.
//!
//! A commit is one write and one `fdatasync`. Files (*segments*) are filled with zeros once and then
//! written again and again, because a sync is faster when it changes no length. Frames are numbered
//! without a gap, over all segments. What the log holds is moved elsewhere soon; [`Log::release`] says
//! up to which frame that is durable, and the segments of these frames are free.

mod frame;
mod segment;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bytes::Bytes;

pub(crate) use self::frame::HEADER_BYTES;
use self::segment::{Scan, Segment};
use crate::error::StoreError;

const EXTENSION: &str = "log";

/// The log of a directory.
#[derive(Debug)]
pub(crate) struct Log {
    directory: PathBuf,
    segment_bytes: u64,
    /// The one that is written; none before the first frame.
    current: Option<Segment>,
    /// Those that are full, the oldest first.
    full: VecDeque<Segment>,
    free: Vec<Segment>,
    /// The number of the next frame.
    next: u64,
    /// The number in the name of the next new file.
    next_file: u64,
}

impl Log {
    /// Opens the log of a directory, which is made if it is missing, and gives the payloads of all
    /// frames after `after`, in their order.
    ///
    /// # Errors
    /// When frames are missing or damaged that once were durable; when the system refuses; or what
    /// `each` gives. A last frame that was not written to its end was never durable, and is left out.
    pub(crate) fn open(
        directory: &Path,
        segment_bytes: u64,
        after: u64,
        mut each: impl FnMut(u64, Bytes) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        let failed = |error| StoreError::io("open", directory, error);
        fs::create_dir_all(directory).map_err(failed)?;
        let mut log = Self {
            directory: directory.to_owned(),
            segment_bytes,
            current: None,
            full: VecDeque::new(),
            free: Vec::new(),
            next: after + 1,
            next_file: 1,
        };
        let mut scans = Vec::new();
        for file in fs::read_dir(directory).map_err(failed)? {
            let path = file.map_err(failed)?.path();
            if let Some(number) = file_number(&path) {
                log.next_file = log.next_file.max(number + 1);
                scans.push(Scan::of(path, after)?);
            }
        }
        scans.sort_by_key(|scan| scan.first);
        for scan in scans {
            log.take(scan, after, &mut each)?;
        }
        let goes_on = |segment: &mut Segment| segment.last() + 1 == log.next;
        log.current = log.full.pop_back_if(goes_on);
        Ok(log)
    }

    fn take(
        &mut self,
        scan: Scan,
        after: u64,
        each: &mut impl FnMut(u64, Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let continues = match scan.first {
            Some(first) if first < self.next => self.next == after + 1,
            Some(first) => first == self.next,
            None => true,
        };
        if scan.is_broken || (scan.last > after && !continues) {
            return Err(StoreError::LogCorrupt {
                frame: self.next.max(scan.last + 1),
                path: scan.path,
            });
        }
        if scan.first.is_none() {
            self.free.push(Segment::open(scan)?);
            return Ok(());
        }
        if scan.last > after {
            scan.replay(after, each)?;
            self.next = scan.last + 1;
        }
        // Also the oldest wait for their release: that a frame is not asked for does not mean that
        // it is durable elsewhere.
        self.full.push_back(Segment::open(scan)?);
        Ok(())
    }

    /// Makes a frame durable and gives its number. Its first [`HEADER_BYTES`] are filled in here.
    ///
    /// # Errors
    /// When the system refuses. Whether the frame is there is known after the log was opened again.
    pub(crate) fn append(&mut self, frame: &mut [u8]) -> Result<u64, StoreError> {
        let number = self.next;
        frame::seal(frame, number);
        if self
            .current
            .as_ref()
            .is_none_or(|segment| !segment.has_room(frame.len()))
        {
            let next = self.fresh()?;
            self.full.extend(self.current.replace(next));
        }
        if let Some(segment) = &mut self.current {
            segment.append(frame, number)?;
        }
        self.next = number + 1;
        Ok(number)
    }

    /// A segment to write from its beginning.
    fn fresh(&mut self) -> Result<Segment, StoreError> {
        if let Some(segment) = self.free.pop() {
            return Ok(segment);
        }
        let name = format!("{:08}.{EXTENSION}", self.next_file);
        self.next_file += 1;
        let segment = Segment::create(self.directory.join(name), self.segment_bytes)?;
        sync_directory(&self.directory)?;
        Ok(segment)
    }

    /// Frees the segments of frames up to a number: they are durable elsewhere.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn release(&mut self, through: u64) -> Result<(), StoreError> {
        while self
            .full
            .front()
            .is_some_and(|segment| segment.last() <= through)
            && let Some(mut segment) = self.full.pop_front()
        {
            segment.recycle(self.segment_bytes)?;
            self.free.push(segment);
        }
        Ok(())
    }

    /// Deletes the log: every frame is durable elsewhere.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn delete(self) -> Result<(), StoreError> {
        // The newest goes last: what is left after a crash in between has no gap.
        for segment in self.free.iter().chain(&self.full).chain(&self.current) {
            fs::remove_file(segment.path())
                .map_err(|error| StoreError::io("delete", segment.path(), error))?;
        }
        fs::remove_dir(&self.directory)
            .map_err(|error| StoreError::io("delete", &self.directory, error))
    }
}

/// Makes the names of new files durable.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| StoreError::io("sync the directory", directory, error))
}

fn file_number(path: &Path) -> Option<u64> {
    let is_segment = path
        .extension()
        .is_some_and(|extension| extension == EXTENSION);
    let stem = path.file_stem().filter(|_| is_segment)?;
    stem.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests;
