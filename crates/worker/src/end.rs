//! Why a worker ended, and starting its program anew.

use std::convert::Infallible;
use std::env;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Why a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a worker that ended for its memory leaves its work to others until it is started anew"]
pub enum WorkerEnd {
    /// It was told to.
    Stopped,
    /// It held too much memory for too long. It is drained: what it had not finished was given back
    /// without counting as an attempt.
    OutOfMemory,
}

impl WorkerEnd {
    /// Starts this program anew, with the same arguments, environment and process id, if the worker
    /// ended for its memory; all of that memory is given back. Returns only if it was told to end.
    ///
    /// ```no_run
    /// # use levelflow_worker::{Worker, on_signal};
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let worker = Worker::builder().build()?;
    /// worker.run(on_signal()?).await?.restart_program()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn restart_program(self) -> io::Result<()> {
        match self {
            Self::Stopped => Ok(()),
            Self::OutOfMemory => execute_anew().map(|never| match never {}),
        }
    }
}

fn execute_anew() -> io::Result<Infallible> {
    let mut program = env::current_exe()?;
    if !program.exists() {
        // The file has been replaced since; what runs here is still there under this name.
        program = "/proc/self/exe".into();
    }
    let mut command = Command::new(program);
    let mut arguments = env::args_os();
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    tracing::info!("program starts anew");
    Err(command.args(arguments).exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_was_told_to_end_starts_nothing() {
        WorkerEnd::Stopped.restart_program().unwrap();
    }
}
