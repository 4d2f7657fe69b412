//! A child process and all that it started.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;

use super::guard::Guard;

/// The processes of a child that leads a group of its own. Killed when dropped.
#[derive(Debug)]
pub(super) struct ProcessGroup {
    leader: Option<Pid>,
    guard: Option<Arc<Guard>>,
}

impl ProcessGroup {
    pub(super) fn of(child: &Child) -> Self {
        Self::guarded(child, None)
    }

    /// A group that the guard ends when this process cannot any more.
    pub(super) fn guarded(child: &Child, guard: Option<Arc<Guard>>) -> Self {
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        let leader = pid.map(Pid::from_raw);
        if let (Some(guard), Some(leader)) = (&guard, leader) {
            guard.begin(leader);
        }
        Self { leader, guard }
    }

    pub(super) fn terminate(&self) {
        if let Some(pid) = self.leader {
            // Fails when no process of the group is left.
            let _ = killpg(pid, Signal::SIGTERM);
        }
    }

    /// Ends what is left, once: later the number may belong to others.
    pub(super) fn kill(&mut self) {
        if let Some(pid) = self.leader.take() {
            let _ = killpg(pid, Signal::SIGKILL);
            if let Some(guard) = &self.guard {
                guard.end(pid);
            }
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How a process ended, for people.
pub(super) fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(signal) => format!("was ended by {signal}"),
            Err(_) => format!("was ended by signal {signal}"),
        },
        (None, None) => "ended in an unknown way".to_owned(),
    }
}
