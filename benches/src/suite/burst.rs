//! A burst of tasks: how soon `levelflow dev` has as many worker processes as it may, and how soon they go.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use levelflow_common::workflow::Workflow;
use levelflow_proto::v1;
use levelflow_proto::v1::run_event::Event;
use levelflow_proto::v1::workflow_service_client::WorkflowServiceClient;
use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use super::Common;
use super::engine::line;
use crate::figure::Figure;
use crate::machine::Machine;
use crate::process::Process;
use crate::role::runtime;

/// The longest that anything is waited for.
const DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The program whose `levelflow dev` is started.
    #[arg(long, value_name = "PATH")]
    levelflow: PathBuf,
    /// Tasks of the burst.
    #[arg(long, default_value_t = 2_000)]
    tasks: usize,
    /// Milliseconds that the service takes which each of them calls.
    #[arg(long, default_value_t = 50)]
    task_ms: u64,
    /// Worker processes at least.
    #[arg(long, default_value_t = 2)]
    min: usize,
    /// Worker processes at most.
    #[arg(long, default_value_t = 16)]
    max: usize,
    /// Slots of each of them.
    #[arg(long, default_value_t = 16)]
    worker_slots: usize,
    /// Seconds for which fewer workers must have been enough.
    #[arg(long, default_value_t = 5)]
    idle: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Report {
    suite: &'static str,
    machine: Machine,
    rounds: u32,
    tasks: usize,
    task_ms: u64,
    worker_slots: usize,
    workers: [usize; 2],
    /// From the submit until so many workers have a session as there may be.
    to_most_s: Figure,
    /// From the submit until the end of the run.
    run_s: Figure,
    /// From the end of the run until as few workers are left as there may be.
    back_s: Figure,
    idle_s: u64,
    /// From the start of the process of a worker until its first attempt is sent to it: the median and the most
    /// of the new workers of a round.
    first_attempt_p50_ms: Figure,
    first_attempt_max_ms: Figure,
    /// New workers that got an attempt, of all rounds.
    new_workers_with_work: usize,
    /// Attempts that failed, of all rounds.
    disturbed_tasks: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let report = runtime(1)?.block_on(measure(arguments))?;
    let [min, max] = report.workers;
    let lines = [
        format!(
            "burst of {} tasks of {} ms, {min} to {max} workers with {} slots, {} rounds (median, min–max)",
            report.tasks, report.task_ms, report.worker_slots, report.rounds
        ),
        line(&format!("{max} workers after, s"), report.to_most_s),
        line("run ended after, s", report.run_s),
        line(
            &format!("{min} workers after that, idle {} s, s", report.idle_s),
            report.back_s,
        ),
        line(
            "process start to first attempt, p50, ms",
            report.first_attempt_p50_ms,
        ),
        line(
            "process start to first attempt, max, ms",
            report.first_attempt_max_ms,
        ),
        format!(
            "  {} new workers got attempts; {} attempts failed",
            report.new_workers_with_work, report.disturbed_tasks
        ),
    ];
    arguments.common.print(&report, &lines)
}

async fn measure(arguments: &Arguments) -> Result<Report> {
    let url = serve(Duration::from_millis(arguments.task_ms)).await?;
    let mut bursts = Vec::new();
    for round in 1..=arguments.common.rounds {
        let burst = burst(arguments, &url).await?;
        eprintln!(
            "round {round} of {}: {:.2?} to {} workers, {:.2?} in all",
            arguments.common.rounds, burst.to_most, arguments.max, burst.run
        );
        bursts.push(burst);
    }
    let figure = |of: fn(&Burst) -> f64| Figure::of(bursts.iter().map(of));
    Ok(Report {
        suite: "burst",
        machine: Machine::describe()?,
        rounds: arguments.common.rounds,
        tasks: arguments.tasks,
        task_ms: arguments.task_ms,
        worker_slots: arguments.worker_slots,
        workers: [arguments.min, arguments.max],
        to_most_s: figure(|it| it.to_most.as_secs_f64()),
        run_s: figure(|it| it.run.as_secs_f64()),
        back_s: figure(|it| it.back.as_secs_f64()),
        idle_s: arguments.idle,
        first_attempt_p50_ms: figure(|it| it.first_attempts[it.first_attempts.len() / 2]),
        first_attempt_max_ms: figure(|it| it.first_attempts[it.first_attempts.len() - 1]),
        new_workers_with_work: bursts.iter().map(|it| it.first_attempts.len()).sum(),
        disturbed_tasks: bursts.iter().map(|it| it.disturbed).sum(),
    })
}

struct Burst {
    to_most: Duration,
    run: Duration,
    back: Duration,
    /// Of each new worker with an attempt, in milliseconds, the shortest first.
    first_attempts: Vec<f64>,
    disturbed: usize,
}

async fn burst(arguments: &Arguments, url: &str) -> Result<Burst> {
    let data_dir = tempfile::Builder::new()
        .prefix("levelflow-bench-")
        .tempdir()?;
    let server = start(arguments, data_dir.path())?;
    let client = Client::connect(&server.ready).await?;
    client.workers_are(arguments.min).await?;
    let before = client.workers().await?;

    let started = Instant::now();
    let run = client.submit(flow(arguments.tasks, url)).await?;
    let followed = client.follow(run);
    let grown = async {
        client.workers_are(arguments.max).await?;
        let to_most = started.elapsed();
        anyhow::Ok((to_most, process_starts(server.id())?))
    };
    let (followed, (to_most, starts)) = tokio::try_join!(followed, grown)?;
    let run = started.elapsed();
    let ended = Instant::now();
    client.workers_are(arguments.min).await?;
    let back = ended.elapsed();

    let new = followed.first_attempts.iter();
    let new = new.filter(|(worker, _)| !before.contains(worker));
    let mut first_attempts = Vec::new();
    for (worker, &at_us) in new {
        let start_us = starts.get(worker).context("a worker has a process")?;
        first_attempts.push((at_us as f64 - *start_us as f64) / 1e3);
    }
    ensure!(!first_attempts.is_empty(), "no new worker got an attempt");
    first_attempts.sort_by(f64::total_cmp);
    Ok(Burst {
        to_most,
        run,
        back,
        first_attempts,
        disturbed: followed.disturbed,
    })
}

fn start(arguments: &Arguments, data_dir: &Path) -> Result<Process> {
    let workers = format!("{}..{}", arguments.min, arguments.max);
    let slots = arguments.worker_slots.to_string();
    let idle = format!("{}s", arguments.idle);
    let mut command = Command::new(&arguments.levelflow);
    command
        .args(["dev", "--json", "--no-http", "--log", "warn"])
        .args(["--listen", "127.0.0.1:0", "--workers", &workers])
        .args(["--slots", &slots, "--data-dir"])
        .arg(data_dir)
        .env("LEVELFLOW_COORDINATOR__AUTOSCALE__SCALE_DOWN_IDLE", idle);
    Process::spawn(&mut command, |line| {
        let ready: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(format!("http://{}", ready.get("address")?.as_str()?))
    })
}

fn flow(tasks: usize, url: &str) -> Workflow {
    let workflow = json!({
        "name": "burst",
        "tasks": [{
            "id": "call",
            "type": "http",
            "for_each": { "items": format!("${{{{ range({tasks}) | list }}}}") },
            "with": { "url": url },
        }],
    });
    serde_json::from_value(workflow).expect("the burst is a workflow")
}

struct Client(WorkflowServiceClient<Channel>);

/// What was seen of a run.
struct Followed {
    /// When the first attempt was sent to a worker, in microseconds since the Unix epoch.
    first_attempts: BTreeMap<String, u64>,
    disturbed: usize,
}

impl Client {
    async fn connect(address: &str) -> Result<Self> {
        let endpoint = tonic::transport::Endpoint::from_shared(address.to_owned())?;
        let channel = endpoint.tcp_nodelay(true).connect().await?;
        Ok(Self(WorkflowServiceClient::new(channel)))
    }

    /// The workers that take tasks.
    async fn workers(&self) -> Result<Vec<String>> {
        let request = v1::ListWorkersRequest {};
        let workers = self.0.clone().list_workers(request).await?.into_inner();
        let active = workers.workers.into_iter();
        let active = active.filter(|it| it.status() == v1::WorkerStatus::Active);
        Ok(active.map(|it| it.worker_id).collect())
    }

    async fn workers_are(&self, count: usize) -> Result<()> {
        let reached = async {
            while self.workers().await?.len() != count {
                sleep(POLL).await;
            }
            Ok(())
        };
        timeout(DEADLINE, reached)
            .await
            .with_context(|| format!("there are never {count} workers"))?
    }

    async fn submit(&self, workflow: Workflow) -> Result<String> {
        let request = v1::SubmitWorkflowRequest {
            workflow: Some(v1::WorkflowSource {
                source: Some(v1::workflow_source::Source::Definition(workflow.into())),
            }),
            ..Default::default()
        };
        Ok(self
            .0
            .clone()
            .submit_workflow(request)
            .await?
            .into_inner()
            .run_id)
    }

    /// Follows a run to its end.
    async fn follow(&self, run_id: String) -> Result<Followed> {
        let request = v1::WatchRunRequest {
            run_id,
            ..Default::default()
        };
        let mut updates = self.0.clone().watch_run(request).await?.into_inner();
        let mut followed = Followed {
            first_attempts: BTreeMap::new(),
            disturbed: 0,
        };
        let mut has_succeeded = false;
        while let Some(update) = timeout(DEADLINE, updates.message()).await?? {
            for event in update.events {
                match event.event {
                    Some(Event::AttemptStarted(it)) => {
                        let first = followed.first_attempts.entry(it.worker);
                        first.or_insert(update.at_us);
                    }
                    Some(Event::AttemptFailed(_)) => followed.disturbed += 1,
                    Some(Event::Finished(end)) => {
                        has_succeeded = end.status() == v1::RunStatus::Succeeded;
                    }
                    _ => {}
                }
            }
        }
        ensure!(has_succeeded, "the run did not succeed");
        Ok(followed)
    }
}

/// When the worker processes of a server were started, in microseconds since the Unix epoch, by their names.
fn process_starts(server: u32) -> Result<BTreeMap<String, u64>> {
    let mut starts = BTreeMap::new();
    for thread in std::fs::read_dir(format!("/proc/{server}/task"))? {
        let children = std::fs::read_to_string(thread?.path().join("children"))?;
        for pid in children.split_whitespace() {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
            let mut arguments = line.split('\0').skip_while(|it| *it != "--id");
            if let Some(worker) = arguments.nth(1) {
                starts.insert(worker.to_owned(), started_at_us(pid)?);
            }
        }
    }
    Ok(starts)
}

/// When a process was started, to a hundredth of a second.
fn started_at_us(pid: &str) -> Result<u64> {
    // proc_pid_stat(5): starttime is field 22, in ticks of 10 ms since the machine was started.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').context("stat has a name")?.1;
    let start = after_name.split_whitespace().nth(19);
    let start: f64 = start.context("stat has a start time")?.parse()?;
    let uptime = std::fs::read_to_string("/proc/uptime")?;
    let uptime: f64 = uptime
        .split_whitespace()
        .next()
        .context("the machine has an uptime")?
        .parse()?;
    let ago = Duration::from_secs_f64((uptime - start / 100.0).max(0.0));
    Ok((std::time::UNIX_EPOCH.elapsed()? - ago).as_micros() as u64)
}

/// Serves HTTP, and takes this long for every answer.
async fn serve(each: Duration) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    levelflow_runtime::task::spawn("service", async move {
        while let Ok((stream, _)) = listener.accept().await {
            levelflow_runtime::task::spawn("connection", answer(stream, each));
        }
    });
    Ok(format!("http://{address}/"))
}

async fn answer(stream: TcpStream, each: Duration) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    // Until the other end closes the connection.
    while let Ok(1..) = stream.read_line(&mut line).await {
        if line == "\r\n" {
            sleep(each).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1";
            if stream.get_mut().write_all(answer).await.is_err() {
                return;
            }
        }
        line.clear();
    }
}
