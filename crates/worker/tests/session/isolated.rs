//! Handlers in child processes.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use levelflow_proto::v1;
use levelflow_worker::{
    CancellationToken, Context, HandlerError, IsolationOptions, Worker, WorkerBuilder,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::coordinator::{
    Coordinator, Running, Session, attempt, failure_of, outcome_of, session, soon,
};
use crate::process::{pipe, watch};

/// What the handler is to do.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Deed {
    Pid,
    Describe,
    /// Gives so many chunks.
    Emit(u32),
    Chat,
    Abort,
    Exit,
    Panic,
    Refuse,
    /// Holds so many MiB for as long as the process lives.
    Keep(usize),
    /// Takes so many MiB, and goes on for ever.
    Grow(usize),
    /// Says in a pipe that it runs, and goes on for ever.
    Hang(PathBuf),
    /// Says in a pipe that it runs, and goes on until it is told to stop.
    Obey(PathBuf),
    /// Says in a pipe that it runs, and waits for somebody to write into another.
    Wait(PathBuf, PathBuf),
    /// Calls an upstream.
    Call(String, bool),
}

fn perform(ctx: &Context, deed: Deed) -> Result<Value, HandlerError> {
    let say = |pipe: &Path| -> Result<File, HandlerError> {
        let mut pipe = File::options().write(true).open(pipe)?;
        pipe.write_all(b"ready\n")?;
        Ok(pipe)
    };
    match deed {
        Deed::Pid => Ok(json!(std::process::id())),
        Deed::Describe => Ok(json!([
            ctx.run_id().to_string(),
            ctx.task_id(),
            ctx.item(),
            ctx.attempt(),
            ctx.upstream(),
        ])),
        Deed::Emit(count) => {
            for number in 0..count {
                ctx.emit_blocking(&number)?;
            }
            Ok(json!(count))
        }
        Deed::Chat => {
            println!("{{\"not\": \"for the worker\"}}");
            let mut input = String::new();
            std::io::stdin().read_to_string(&mut input)?;
            Ok(json!(input))
        }
        Deed::Abort => std::process::abort(),
        Deed::Exit => std::process::exit(3),
        Deed::Panic => panic!("out of cheese"),
        Deed::Refuse => Err(HandlerError::permanent("never")),
        Deed::Keep(mib) => Ok(json!(keep(mib))),
        Deed::Grow(mib) => {
            keep(mib);
            loop {
                std::thread::park();
            }
        }
        Deed::Hang(pipe) => {
            let _open = say(&pipe)?;
            loop {
                std::thread::park();
            }
        }
        Deed::Obey(pipe) => {
            let _open = say(&pipe)?;
            while !ctx.is_cancelled() {
                ctx.heartbeat();
                std::thread::yield_now();
            }
            Ok(json!("obeyed"))
        }
        Deed::Wait(pipe, gate) => {
            drop(say(&pipe)?);
            Ok(json!(fs::read_to_string(gate)?))
        }
        Deed::Call(upstream, works) => {
            let call = ctx.call(&upstream)?;
            if works {
                call.succeeded();
            } else {
                call.failed();
            }
            Ok(json!(null))
        }
    }
}

fn keep(mib: usize) -> usize {
    let kept = vec![1_u8; mib * 1024 * 1024];
    std::hint::black_box(kept).leak().len()
}

fn options() -> IsolationOptions {
    let arguments = ["--exact", "isolated::serves_other_tests", "--ignored"];
    IsolationOptions {
        children: 2,
        arguments: Some(arguments.map(Into::into).to_vec()),
        ..IsolationOptions::default()
    }
}

fn handlers(builder: WorkerBuilder, options: IsolationOptions) -> WorkerBuilder {
    builder.isolated_handler("perform", options, |ctx, deed| perform(&ctx, deed))
}

/// The `main` of the children.
#[tokio::test]
#[ignore = "the children of other tests run it"]
async fn serves_other_tests() {
    let worker = handlers(Worker::builder(), IsolationOptions::default());
    let stop = CancellationToken::new();
    stop.cancel();
    worker
        .build()
        .unwrap()
        .run(stop)
        .await
        .unwrap()
        .restart_program()
        .unwrap();
}

async fn start(options: IsolationOptions) -> (Session, Running) {
    session(|builder| handlers(builder.cancel_grace(Duration::from_millis(100)), options)).await
}

fn deed(token: u64, deed: &Deed) -> v1::Attempt {
    let input = serde_json::to_string(deed).unwrap();
    attempt(token, "perform", &input)
}

async fn output(session: &mut Session, what: &Deed) -> Value {
    let outcome = outcome_of(session, deed(1, what)).await;
    assert_eq!(outcome.failure, None);
    serde_json::from_slice(&outcome.output).unwrap()
}

/// What is said of the children in the next heartbeat for which `condition` holds.
async fn pool(session: &mut Session, condition: impl Fn(&v1::Pool) -> bool) -> v1::Pool {
    loop {
        if let Some(beat) = session.frame().await.heartbeat {
            let mut pools = beat.pools.into_iter();
            let pool = pools.find(|pool| pool.name == "isolated:perform").unwrap();
            if condition(&pool) {
                return pool;
            }
        }
    }
}

#[tokio::test]
async fn a_child_serves_one_attempt_after_the_other() {
    let (mut session, _worker) = start(options()).await;
    let pid = output(&mut session, &Deed::Pid).await;
    assert_ne!(pid, json!(std::process::id()));
    assert_eq!(output(&mut session, &Deed::Pid).await, pid);
    let described = outcome_of(
        &mut session,
        v1::Attempt {
            item: Some(7),
            attempt: 3,
            upstream: "crm".to_owned(),
            ..deed(1, &Deed::Describe)
        },
    )
    .await;
    assert_eq!(
        serde_json::from_slice::<Value>(&described.output).unwrap(),
        json!(["01010101-0101-0101-0101-010101010101", "task", 7, 3, "crm"])
    );
    assert_eq!(output(&mut session, &Deed::Chat).await, json!(""));
    assert_eq!(output(&mut session, &Deed::Pid).await, pid);
    let pool = pool(&mut session, |pool| pool.used == 5).await;
    assert_eq!((pool.size, pool.busy, pool.idle, pool.opened), (2, 0, 1, 1));
}

#[tokio::test]
async fn a_child_fails_in_every_way() {
    let (mut session, _worker) = start(options()).await;
    for (what, code, message, retryable) in [
        (Deed::Refuse, "handler_failed", "never", false),
        (
            Deed::Panic,
            "handler_panicked",
            "the handler panicked: out of cheese",
            true,
        ),
        (
            Deed::Exit,
            "handler_crashed",
            "the process of the handler exited with status 3",
            true,
        ),
        (
            Deed::Abort,
            "handler_crashed",
            "the process of the handler was ended by SIGABRT",
            true,
        ),
    ] {
        assert_eq!(
            failure_of(&mut session, deed(1, &what)).await,
            (code.to_owned(), message.to_owned(), retryable)
        );
    }
    let (code, _, retryable) = failure_of(&mut session, attempt(1, "perform", "7")).await;
    assert_eq!((code.as_str(), retryable), ("task_input_invalid", false));
}

#[tokio::test]
async fn a_child_that_crashes_disturbs_no_neighbour() {
    let directory = tempfile::tempdir().unwrap();
    let (runs, gate) = (directory.path().join("runs"), directory.path().join("gate"));
    let (is_running, _) = watch(&runs);
    let gate = pipe(gate);
    let (mut session, _worker) = start(options()).await;
    let neighbour = deed(1, &Deed::Wait(runs, gate.clone()));
    session.dispatch(vec![neighbour]).await;
    soon(is_running).await.unwrap();
    for token in 2..5 {
        let (code, _, _) = failure_of(&mut session, deed(token, &Deed::Abort)).await;
        assert_eq!(code, "handler_crashed");
    }
    let opened = tokio::task::spawn_blocking(move || fs::write(gate, "go on"));
    soon(opened).await.unwrap().unwrap();
    let outcome = session.outcome().await;
    assert_eq!((outcome.token, outcome.failure), (1, None));
    assert_eq!(outcome.output, "\"go on\"");
}

#[tokio::test]
async fn a_child_that_takes_too_much_memory_is_killed() {
    let limited = IsolationOptions {
        max_resident_mib: 128,
        ..options()
    };
    let (mut session, _worker) = start(limited).await;
    let first = output(&mut session, &Deed::Pid).await;
    // More than half: it may end its attempt, but gets no other.
    output(&mut session, &Deed::Keep(80)).await;
    let second = output(&mut session, &Deed::Pid).await;
    assert_ne!(first, second);
    let (code, message, retryable) = failure_of(&mut session, deed(1, &Deed::Grow(256))).await;
    assert_eq!((code.as_str(), retryable), ("memory_exceeded", true));
    assert!(message.ends_with(" MiB, its limit is 128 MiB"), "{message}");
    assert_ne!(output(&mut session, &Deed::Pid).await, second);
}

#[tokio::test]
async fn a_child_that_does_not_stop_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let (mut session, _worker) = start(options()).await;
    for (name, timeout_us, code) in [
        ("cancelled", 60_000_000, "cancelled"),
        ("late", 300_000, "run_timeout"),
    ] {
        let runs = directory.path().join(name);
        let (is_running, ended) = watch(&runs);
        let hanging = v1::Attempt {
            timeout_us,
            ..deed(1, &Deed::Hang(runs))
        };
        session.dispatch(vec![hanging]).await;
        soon(is_running).await.unwrap();
        if code == "cancelled" {
            session.cancel(1).await;
        }
        assert_eq!(session.outcome().await.failure.unwrap().code, code);
        soon(ended).await.unwrap();
    }
    pool(&mut session, |pool| pool.busy == 0).await;
}

#[tokio::test]
async fn a_child_that_stops_when_it_is_told_to_goes_on_with_others() {
    let directory = tempfile::tempdir().unwrap();
    let runs = directory.path().join("runs");
    let (mut session, _worker) = session(|builder| handlers(builder, options())).await;
    let pid = output(&mut session, &Deed::Pid).await;
    let (is_running, _) = watch(&runs);
    session
        .dispatch(vec![v1::Attempt {
            heartbeat_timeout_us: 10_000_000,
            ..deed(1, &Deed::Obey(runs))
        }])
        .await;
    soon(is_running).await.unwrap();
    session
        .until(|session| {
            let beat = session.heartbeat.as_ref();
            beat.is_some_and(|beat| beat.progressed == [1])
        })
        .await;
    session.cancel(1).await;
    assert_eq!(session.outcome().await.failure.unwrap().code, "cancelled");
    assert_eq!(output(&mut session, &Deed::Pid).await, pid);
}

#[tokio::test]
async fn a_child_is_replaced_after_its_attempts() {
    let (mut session, _worker) = start(IsolationOptions {
        attempts_per_child: 2,
        ..options()
    })
    .await;
    let mut pids = Vec::new();
    for _ in 0..4 {
        pids.push(output(&mut session, &Deed::Pid).await);
    }
    assert_eq!(pids[0], pids[1]);
    assert_ne!(pids[1], pids[2]);
    assert_eq!(pids[2], pids[3]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_child_that_dies_between_attempts_is_replaced() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    let (mut session, _worker) = start(options()).await;
    let pid = output(&mut session, &Deed::Pid).await;
    let number = i32::try_from(pid.as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(number), Signal::SIGKILL).unwrap();
    // The first thread may be gone while others still end, and until then nobody is told.
    let is_dead = async {
        let (stat, threads) = (
            format!("/proc/{number}/stat"),
            format!("/proc/{number}/task"),
        );
        while !fs::read_to_string(&stat).unwrap().contains(") Z ")
            || fs::read_dir(&threads).unwrap().count() > 1
        {
            tokio::task::yield_now().await;
        }
    };
    soon(is_dead).await;
    assert_ne!(output(&mut session, &Deed::Pid).await, pid);
}

#[tokio::test]
async fn calls_of_a_child_reach_the_coordinator() {
    let mut coordinator = Coordinator::start().await;
    let builder = Worker::builder().address(coordinator.address.as_str());
    let _worker = Running::start(handlers(builder, options()).build().unwrap());
    // No heartbeat comes between, so that outcomes tell of all calls.
    let (mut session, _) = coordinator.welcome().await;
    session.until(|session| session.credits > 0).await;
    for (works, failed) in [(true, false), (false, true)] {
        let call = deed(1, &Deed::Call("crm:eu".to_owned(), works));
        let outcome = outcome_of(&mut session, call).await;
        let upstream = "crm:eu".to_owned();
        assert_eq!(outcome.calls, [v1::UpstreamCall { upstream, failed }]);
    }
    session
        .send(v1::CoordinatorFrame {
            breakers: vec![v1::BreakerChange {
                upstream: "crm:eu".to_owned(),
                open: true,
            }],
            ..v1::CoordinatorFrame::default()
        })
        .await;
    let call = deed(1, &Deed::Call("crm:eu".to_owned(), true));
    let outcome = outcome_of(&mut session, call).await;
    assert_eq!(outcome.parked_on, "crm:eu");
    assert!(outcome.calls.is_empty());
}

#[tokio::test]
async fn a_program_that_does_not_serve_is_said_to_be_one() {
    let (mut session, _worker) = start(IsolationOptions {
        arguments: Some(vec!["--list".into()]),
        ..options()
    })
    .await;
    assert_eq!(
        failure_of(&mut session, deed(1, &Deed::Pid)).await,
        (
            "process_not_started".to_owned(),
            "no process for the handler `perform` could be started: it exited with status 0"
                .to_owned(),
            true
        )
    );
}

#[tokio::test]
async fn chunks_come_from_children_too() {
    let (mut session, _worker) = start(options()).await;
    let outcome = outcome_of(&mut session, deed(1, &Deed::Emit(20_000))).await;
    assert_eq!((outcome.failure, outcome.chunks), (None, 20_000));
    let numbers = session.chunks.iter().map(|chunk| chunk.data.clone());
    assert!(numbers.eq((0..20_000).map(|number: u32| number.to_string())));
    let outcome = outcome_of(&mut session, deed(2, &Deed::Emit(70_000))).await;
    let failure = outcome.failure.unwrap();
    assert_eq!(
        (failure.code.as_str(), failure.retryable),
        ("stream_too_large", false)
    );
}
