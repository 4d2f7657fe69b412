//! Worker processes on this machine, as many as the coordinator in this process wants.

mod pool;
mod range;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use levelflow_coordinator::Decisions;
use levelflow_engine::autoscale::Decision;
use levelflow_runtime::task;
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use self::pool::{Number, Pool, Seen, Step};
pub(crate) use self::range::WorkerRange;

/// How a worker process is started.
pub(crate) struct WorkerProgram {
    /// This program.
    pub(crate) path: PathBuf,
    /// What it is given beside its name.
    pub(crate) arguments: Vec<OsString>,
    /// What it finds in its environment beside that of this process.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// How long it has to end what it runs when all of them are to go.
    pub(crate) grace: Duration,
}

/// Worker processes on this machine.
pub(crate) struct LocalWorkers {
    stop: CancellationToken,
    supervisor: JoinHandle<()>,
}

impl LocalWorkers {
    /// Starts as many as are wanted, and keeps it so.
    pub(crate) fn start(program: WorkerProgram, decisions: Decisions) -> Self {
        let stop = CancellationToken::new();
        let supervisor = Supervisor {
            // Another server on this machine has workers, too.
            prefix: format!("local-{}-", std::process::id()),
            program,
            pool: Pool::default(),
            there: BTreeMap::new(),
            running: JoinSet::new(),
        };
        let run = supervisor.run(decisions, stop.clone());
        Self {
            stop,
            supervisor: task::spawn("local workers", run),
        }
    }

    /// Lets all of them end what they run, within their grace.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        // A panic of it was logged, and dropping what it held has killed the processes.
        let _ = self.supervisor.await;
    }
}

struct Supervisor {
    prefix: String,
    program: WorkerProgram,
    pool: Pool,
    there: BTreeMap<Number, Handle>,
    running: JoinSet<(Number, io::Result<ExitStatus>)>,
}

/// A process that runs.
struct Handle {
    /// It ends what it runs, and then itself, when this closes: also when this process is killed.
    until: Option<ChildStdin>,
    kill: CancellationToken,
}

impl Supervisor {
    async fn run(mut self, mut decisions: Decisions, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(Ok((number, status))) = self.running.join_next() => self.ended(number, status),
                changed = decisions.changed() => if changed.is_err() {
                    break;
                },
            }
            let decision = decisions.borrow_and_update().clone();
            if let Some(decision) = decision {
                self.follow(&decision);
            }
        }
        self.end_all().await;
    }

    fn follow(&mut self, decision: &Arc<Decision>) {
        let seen: Vec<Seen> = decision
            .workers
            .iter()
            .filter_map(|it| {
                Some(Seen {
                    number: it.worker.0.strip_prefix(&self.prefix)?.parse().ok()?,
                    leases: it.leases,
                    is_draining: it.is_draining,
                })
            })
            .collect();
        for step in self
            .pool
            .steps(Instant::now(), decision.wanted as usize, &seen)
        {
            match step {
                Step::Start(number) => self.start(number),
                Step::LetGo(number) => {
                    tracing::info!(worker = self.name(number), "worker process may go");
                    if let Some(handle) = self.there.get_mut(&number) {
                        handle.until = None;
                    }
                }
                Step::Kill(number) => {
                    tracing::warn!(
                        worker = self.name(number),
                        "worker process has no session and is replaced"
                    );
                    if let Some(handle) = self.there.get(&number) {
                        handle.kill.cancel();
                    }
                }
            }
        }
    }

    fn name(&self, number: Number) -> String {
        format!("{}{number}", self.prefix)
    }

    fn start(&mut self, number: Number) {
        let worker = self.name(number);
        let started = Command::new(&self.program.path)
            .args(&self.program.arguments)
            .args(["--id", &worker])
            .envs(self.program.environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) => return self.ended(number, Err(error)),
        };
        tracing::info!(worker, pid = child.id(), "worker process started");
        let handle = Handle {
            until: child.stdin.take(),
            kill: CancellationToken::new(),
        };
        self.running
            .spawn(watch(number, child, handle.kill.clone()));
        self.there.insert(number, handle);
    }

    fn ended(&mut self, number: Number, status: io::Result<ExitStatus>) {
        self.there.remove(&number);
        let worker = self.name(number);
        let was_left = self.pool.ended(Instant::now(), number);
        match (was_left, status) {
            (None, Ok(status)) => tracing::info!(worker, %status, "worker process ended"),
            (Some(wait), Ok(status)) => {
                tracing::warn!(worker, %status, next_in = ?wait, "worker process ended by itself");
            }
            (_, Err(error)) => tracing::error!(worker, %error, "worker process cannot be run"),
        }
    }

    /// Ends all of them: those that take longer than their grace are killed.
    async fn end_all(mut self) {
        for handle in self.there.values_mut() {
            handle.until = None;
        }
        let ends = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(self.program.grace, ends)
            .await
            .is_err()
        {
            tracing::warn!(left = self.running.len(), "worker processes are killed");
            for handle in self.there.values() {
                handle.kill.cancel();
            }
            while self.running.join_next().await.is_some() {}
        }
    }
}

/// Waits for the end of a process, which may be hastened.
async fn watch(
    number: Number,
    mut child: Child,
    kill: CancellationToken,
) -> (Number, io::Result<ExitStatus>) {
    tokio::select! {
        status = child.wait() => return (number, status),
        () = kill.cancelled() => {}
    }
    // It may have ended meanwhile, and then that is found next.
    let _ = child.start_kill();
    (number, child.wait().await)
}
