//! Child processes, and what the kernel says of them.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use tempfile::TempDir;

use crate::role::READY;

/// A child of this program. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    /// What it said when it was ready.
    pub(crate) ready: String,
}

impl Process {
    /// Starts this program in another role.
    pub(crate) fn start(role: &str, arguments: &[String]) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        Self::spawn(Command::new(program).arg(role).args(arguments), |line| {
            line.strip_prefix(READY.trim_end())
                .map(|rest| rest.trim().to_owned())
        })
    }

    /// Starts a program, and reads from its first line how it is reached.
    pub(crate) fn spawn(
        command: &mut Command,
        ready: impl FnOnce(&str) -> Option<String>,
    ) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let stdout = child.stdout.take().context("its output is a pipe")?;
        let mut process = Self {
            child,
            ready: String::new(),
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let Some(ready) = ready(&line) else {
            bail!("it did not get ready: {command:?}");
        };
        process.ready = ready;
        Ok(process)
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// User and system time so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.child.id())
    }

    /// The memory that is resident now, in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        memory(&format!("/proc/{}/status", self.child.id()), "VmRSS:")
    }

    /// The same, where a page that several processes share counts as a part for each, in bytes: summed
    /// up, it is what they take together.
    pub(crate) fn proportional_bytes(&self) -> Result<u64> {
        memory(&format!("/proc/{}/smaps_rollup", self.child.id()), "Pss:")
    }

    /// The most memory that was resident so far, in bytes.
    pub(crate) fn peak_resident_bytes(&self) -> Result<u64> {
        peak_resident_bytes(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time of a process, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    // proc_pid_stat(5): utime and stime are fields 14 and 15, in ticks; Linux reports 100 a second to
    // user space on every architecture.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').context("stat has a name")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / 100.0)
}

/// The most memory of a process that was resident so far, in bytes.
pub(crate) fn peak_resident_bytes(pid: u32) -> Result<u64> {
    memory(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// A line of a file of proc(5) that is an amount of memory, in bytes.
fn memory(file: &str, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(file)?;
    let kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .with_context(|| format!("the kernel reports {name}"))?
        .trim()
        .parse()?;
    Ok(kib * 1024)
}

/// A coordinator with its store, and workers.
pub(crate) struct Cluster {
    pub(crate) coordinator: Process,
    pub(crate) workers: Vec<Process>,
    layout: Layout,
    data_dir: TempDir,
}

/// How a cluster is laid out.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) workers: usize,
    pub(crate) slots: usize,
    pub(crate) coordinator_threads: usize,
    pub(crate) worker_threads: usize,
    pub(crate) transport: Transport,
    /// Tasks that may wait before submits are refused.
    pub(crate) max_queue: usize,
    /// Whether the coordinator serves HTTP, too.
    pub(crate) http: bool,
    /// The settings of the result cache as JSON; the defaults if not given.
    pub(crate) cache: Option<String>,
    /// The database that coordinators share, in place of a data directory.
    pub(crate) shared: Option<SharedStore>,
    /// What workers reach coordinators over, in place of gRPC.
    pub(crate) nats: Option<NatsServer>,
}

/// A NATS server, and a prefix that nobody else uses there.
#[derive(Clone, Debug)]
pub(crate) struct NatsServer {
    pub(crate) url: String,
    pub(crate) prefix: String,
}

impl Layout {
    fn nats_arguments(&self) -> impl Iterator<Item = String> {
        let nats = self.nats.clone();
        nats.into_iter().flat_map(|it| {
            let (url, prefix) = ("--nats".to_owned(), "--nats-prefix".to_owned());
            [url, it.url, prefix, it.prefix]
        })
    }
}

/// A database that coordinators share.
#[derive(Clone, Debug)]
pub(crate) struct SharedStore {
    pub(crate) url: String,
    pub(crate) schema: String,
}

/// What carries gRPC between the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Transport {
    /// TCP over loopback.
    Tcp,
    /// A Unix socket.
    Unix,
}

impl Cluster {
    pub(crate) fn start(layout: &Layout) -> Result<Self> {
        let mut cluster = Self::without_workers(layout)?;
        while cluster.workers.len() < layout.workers {
            cluster.add_worker()?;
        }
        Ok(cluster)
    }

    /// Starts the coordinator alone.
    pub(crate) fn without_workers(layout: &Layout) -> Result<Self> {
        let data_dir = tempfile::Builder::new()
            .prefix("levelflow-bench-")
            .tempdir()?;
        let coordinator = start_coordinator(Some(data_dir.path()), layout)?;
        Ok(Self {
            coordinator,
            workers: Vec::new(),
            layout: layout.clone(),
            data_dir,
        })
    }

    /// Starts another coordinator over what a killed one left.
    pub(crate) fn replace_coordinator(&mut self) -> Result<()> {
        self.coordinator = start_coordinator(Some(self.data_dir.path()), &self.layout)?;
        Ok(())
    }

    /// Starts one more worker.
    pub(crate) fn add_worker(&mut self) -> Result<()> {
        let worker = start_worker(&self.address(), &self.layout)?;
        self.workers.push(worker);
        Ok(())
    }

    pub(crate) fn address(&self) -> String {
        url(self.addresses().0)
    }

    /// Where it serves HTTP.
    pub(crate) fn http_address(&self) -> Result<String> {
        let (_, http) = self.addresses();
        Ok(url(http.context("the coordinator serves no HTTP")?))
    }

    fn addresses(&self) -> (&str, Option<&str>) {
        let ready = &self.coordinator.ready;
        match ready.split_once(' ') {
            Some((grpc, http)) => (grpc, Some(http)),
            None => (ready, None),
        }
    }

    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let mut total = self.coordinator.cpu_seconds()?;
        for worker in &self.workers {
            total += worker.cpu_seconds()?;
        }
        Ok(total)
    }

    pub(crate) fn peak_resident_bytes(&self) -> Result<u64> {
        let mut total = self.coordinator.peak_resident_bytes()?;
        for worker in &self.workers {
            total += worker.peak_resident_bytes()?;
        }
        Ok(total)
    }
}

/// The URL of what a coordinator says that it serves at.
fn url(ready: &str) -> String {
    match ready.strip_prefix("unix:") {
        Some(_) => ready.to_owned(),
        None => format!("http://{ready}"),
    }
}

pub(crate) fn start_worker(address: &str, layout: &Layout) -> Result<Process> {
    let mut arguments = vec![
        "--address".to_owned(),
        address.to_owned(),
        "--slots".to_owned(),
        layout.slots.to_string(),
        "--threads".to_owned(),
        layout.worker_threads.to_string(),
    ];
    arguments.extend(layout.nats_arguments());
    Process::start("worker", &arguments)
}

/// Starts a coordinator over a directory, or over the database that the layout names.
pub(crate) fn start_coordinator(data_dir: Option<&Path>, layout: &Layout) -> Result<Process> {
    let listen = match (layout.transport, data_dir) {
        (Transport::Unix, Some(data_dir)) => {
            format!("unix:{}", data_dir.join("socket").display())
        }
        _ => "127.0.0.1:0".to_owned(),
    };
    let mut arguments = vec![
        "--listen".to_owned(),
        listen,
        "--threads".to_owned(),
        layout.coordinator_threads.to_string(),
        "--max-queue".to_owned(),
        layout.max_queue.to_string(),
    ];
    if let Some(data_dir) = data_dir {
        arguments.extend(["--data-dir".to_owned(), data_dir.display().to_string()]);
    }
    if let Some(shared) = &layout.shared {
        let (url, schema) = (shared.url.clone(), shared.schema.clone());
        arguments.extend(["--postgres".to_owned(), url, "--schema".to_owned(), schema]);
    }
    if layout.http {
        arguments.extend(["--http".to_owned(), "127.0.0.1:0".to_owned()]);
    }
    if let Some(cache) = &layout.cache {
        arguments.extend(["--cache".to_owned(), cache.clone()]);
    }
    arguments.extend(layout.nats_arguments());
    Process::start("coordinator", &arguments)
}
