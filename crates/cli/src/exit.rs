//! Exit codes of the process.

use levelflow_common::RunStatus;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did what it was asked, and the run that it waited for succeeded.
    Success,
    /// The run that it waited for did not succeed.
    RunFailed,
    /// The file, the usage or the request is wrong.
    Usage,
    /// Something else went wrong: no server, no disk.
    Other,
    /// The user interrupted.
    Interrupted,
}

impl Exit {
    /// How a process ends that waited for a run.
    pub(crate) fn of_run(status: RunStatus, interrupted: bool) -> Self {
        match status {
            RunStatus::Succeeded => Self::Success,
            _ if interrupted => Self::Interrupted,
            _ => Self::RunFailed,
        }
    }

    /// The number of it.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::RunFailed => 1,
            Self::Usage => 2,
            Self::Other => 3,
            Self::Interrupted => 130,
        }
    }
}
