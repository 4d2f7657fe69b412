//! The program that runs here, to be started again.

use std::io;
use std::path::{Path, PathBuf};

/// Where this program is.
pub(super) fn this_program() -> io::Result<PathBuf> {
    // Also right when the file has been replaced since.
    let running = Path::new("/proc/self/exe");
    if running.exists() {
        Ok(running.to_owned())
    } else {
        std::env::current_exe()
    }
}
