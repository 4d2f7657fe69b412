//! The lock on a data directory: one process at a time, and others can learn which.
//!
//! `<data-dir>/lock` is locked by its owner for as long as the owner lives; the kernel unlocks it even
//! after a SIGKILL. Its first line says in JSON who that is.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::StoreError;

/// The process that uses a data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its process id.
    pub pid: u32,
    /// Where it serves, once it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// Who uses a data directory; none if nobody does.
pub fn owner(data_dir: &Path) -> Option<Owner> {
    let file = File::open(lock_path(data_dir)).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => read_owner(&file),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

fn lock_path(data_dir: &Path) -> PathBuf {
    data_dir.join("lock")
}

/// The bytes of a lock file that are looked at; an owner takes far fewer.
const MAX_LOCK_BYTES: u64 = 4096;

fn read_owner(file: &File) -> Option<Owner> {
    let mut text = String::new();
    file.take(MAX_LOCK_BYTES).read_to_string(&mut text).ok()?;
    serde_json::from_str(text.lines().next()?).ok()
}

/// A held lock.
#[derive(Debug)]
pub(crate) struct DirLock {
    file: File,
    path: PathBuf,
}

impl DirLock {
    /// How often a taken lock is tried again: [`owner`] holds it for a moment to see whether it is free.
    const TRIES: u32 = 5;
    const PAUSE: Duration = Duration::from_millis(20);

    /// Locks a directory that exists.
    pub(crate) fn acquire(data_dir: &Path) -> Result<Self, StoreError> {
        let path = lock_path(data_dir);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| StoreError::io("open", &path, error))?;
        for attempt in 1.. {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => {
                    return Err(StoreError::io("lock", &path, error));
                }
                Err(TryLockError::WouldBlock) if attempt < Self::TRIES => {
                    std::thread::sleep(Self::PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(StoreError::DataDirLocked {
                        path: data_dir.to_owned(),
                        owner: read_owner(&file),
                    });
                }
            }
        }
        let lock = Self { file, path };
        lock.write(None)?;
        Ok(lock)
    }

    /// Says who holds the lock, and where it serves.
    pub(crate) fn write(&self, address: Option<&str>) -> Result<(), StoreError> {
        let owner = Owner {
            pid: std::process::id(),
            address: address.map(str::to_owned),
        };
        let mut line = serde_json::to_vec(&owner).expect("an owner is a number and a text");
        line.push(b'\n');
        // One write, and readers stop at the end of the line: what an earlier owner left behind it
        // does not matter while the file is cut.
        self.file
            .write_all_at(&line, 0)
            .and_then(|()| self.file.set_len(line.len() as u64))
            .map_err(|error| StoreError::io("write", &self.path, error))
    }

    /// Gives the lock back.
    pub(crate) fn release(&self) -> Result<(), StoreError> {
        self.file
            .unlock()
            .map_err(|error| StoreError::io("unlock", &self.path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_known_only_while_it_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(owner(dir.path()), None);
        let lock = DirLock::acquire(dir.path()).unwrap();
        let pid = std::process::id();
        assert_eq!(owner(dir.path()), Some(Owner { pid, address: None }));
        lock.write(Some("127.0.0.1:7070")).unwrap();
        let error = DirLock::acquire(dir.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "the data directory {} is in use by the Levelflow process {pid}, which serves \
                 127.0.0.1:7070; stop it or choose another directory",
                dir.path().display()
            )
        );
        lock.release().unwrap();
        assert_eq!(owner(dir.path()), None);
        DirLock::acquire(dir.path()).unwrap();
    }
}
