//! The process of a server.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const READY_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A server that was started here, and only such a one is ever stopped here.
pub(super) struct ServerProcess {
    child: Child,
    /// What it takes as the wish to stop soon.
    stop: Signal,
}

/// Where a server says how it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Standard,
    Error,
}

impl ServerProcess {
    /// Starts a server, and waits until a line that it prints says that it is ready.
    pub(super) fn start(
        mut command: Command,
        output: Output,
        ready: &'static str,
        stop: Signal,
    ) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match output {
            Output::Standard => command.stdout(Stdio::piped()),
            Output::Error => command.stderr(Stdio::piped()),
        };
        let mut child = command.spawn().context("its program cannot be started")?;
        let printed: Option<Box<dyn Read + Send>> = match output {
            Output::Standard => child.stdout.take().map(|it| Box::new(it) as _),
            Output::Error => child.stderr.take().map(|it| Box::new(it) as _),
        };
        let lines = BufReader::new(printed.context("it prints nothing")?).lines();
        let process = Self { child, stop };
        let (tell, told) = channel();
        // Reads on after the server is ready, so that the server can go on writing.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // Nobody listens once it is ready.
                let _ = tell.send(line);
            }
        });
        let deadline = Instant::now() + READY_WITHIN;
        let mut said = Vec::new();
        loop {
            match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(ready) => return Ok(process),
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "it is not ready after {READY_WITHIN:?}:\n{}",
                        said.join("\n")
                    )
                }
                Err(RecvTimeoutError::Disconnected) => bail!("it ended:\n{}", said.join("\n")),
            }
        }
    }

    /// Stops the server and waits for its end.
    pub(super) fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        kill(Pid::from_raw(self.child.id().cast_signed()), self.stop)?;
        let deadline = Instant::now() + STOP_WITHIN;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                self.child.kill()?;
                self.child.wait()?;
                bail!("it had to be killed");
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It may have ended, or never have been ready; what went wrong then was told before.
        let _ = self.stop();
    }
}
