//! Ends the programs of tasks when the worker is killed, which can then end nothing itself.
//!
//! A small process, the guard, holds the other end of a socket of the worker. It is told of each group of
//! processes that begins or ends, and kills those that are left when the socket closes.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::program::this_program;

/// The `argv[0]` of a guard.
const NAME: &str = "levelflow-guard";

/// The worker's side of a guard.
#[derive(Debug)]
pub(super) struct Guard(UnixStream);

impl Guard {
    /// Starts a guard: this program, which has to call [`serve_as_guard`] before anything else.
    pub(super) fn start() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        // A guard that reads nothing must not hold up the worker.
        ours.set_nonblocking(true)?;
        // It is not waited for: it outlives this process.
        Command::new(this_program()?)
            .arg0(NAME)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What a terminal sends to this process is not for the guard.
            .process_group(0)
            .spawn()?;
        Ok(Self(ours))
    }

    pub(super) fn begin(&self, group: Pid) {
        self.tell('+', group);
    }

    pub(super) fn end(&self, group: Pid) {
        self.tell('-', group);
    }

    fn tell(&self, what: char, group: Pid) {
        let line = format!("{what}{group}\n");
        if let Err(error) = (&self.0).write_all(line.as_bytes()) {
            tracing::warn!(%error, "the guard of programs cannot be told");
        }
    }
}

/// Serves as the guard of another process, if this one was started for that, and then gives true: there
/// is nothing else for it to do.
///
/// Has to come first in `main` for [`WorkerBuilder::guard_programs`](crate::WorkerBuilder::guard_programs).
pub fn serve_as_guard() -> bool {
    if std::env::args_os().next().is_none_or(|name| name != NAME) {
        return false;
    }
    for group in left_behind(io::stdin().lock()) {
        // Fails when no process of the group is left.
        let _ = killpg(group, Signal::SIGKILL);
    }
    true
}

/// The groups that began and did not end, when there is nothing more to read.
fn left_behind(input: impl BufRead) -> BTreeSet<Pid> {
    let mut groups = BTreeSet::new();
    for line in input.lines().map_while(Result::ok) {
        let (what, number) = line.split_at_checked(1).unwrap_or_default();
        // Neither everyone nor the first process is a group of ours.
        let Some(number) = number.parse().ok().filter(|&number: &i32| number > 1) else {
            continue;
        };
        let group = Pid::from_raw(number);
        match what {
            "+" => drop(groups.insert(group)),
            "-" => drop(groups.remove(&group)),
            _ => {}
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_did_not_end_are_left_behind() {
        let left = |text: &str| -> Vec<i32> {
            let left = left_behind(text.as_bytes()).into_iter();
            left.map(Pid::as_raw).collect()
        };
        assert_eq!(left("+10\n+20\n-10\n+30\n"), [20, 30]);
        assert_eq!(left("+10\n-10\n+10\n"), [10]);
        assert_eq!(left("+0\n+1\n+-5\n+x\n\n20\n"), [] as [i32; 0]);
    }
}
