//! A worker that holds too much memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use levelflow_common::HumanDuration;
use levelflow_proto::v1;
use levelflow_worker::{Context, MemoryConfig, Worker, WorkerConfig};
use tokio::sync::watch;

use crate::coordinator::{Coordinator, Running, Session, attempt, soon};

const MIB: usize = 1024 * 1024;

pub(crate) fn resident_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() / 1024
}

#[tokio::test]
async fn takes_nothing_while_its_memory_is_critical() {
    let mut coordinator = Coordinator::start().await;
    let (open, gate) = watch::channel(false);
    let critical_mib = resident_mib() + 128;
    let config = WorkerConfig {
        address: coordinator.address.clone(),
        slots: 2,
        memory: MemoryConfig {
            critical_mib,
            warning_mib: critical_mib - 1,
            interval: HumanDuration(Duration::from_millis(10)),
            ..MemoryConfig::default()
        },
        ..WorkerConfig::default()
    };
    let builder = Worker::builder()
        .config(config)
        .handler("double", async |_, number: u64| Ok(number * 2))
        .handler("hold", move |_: Context, (): ()| {
            let mut gate = gate.clone();
            async move {
                let held = vec![1_u8; 256 * MIB];
                gate.wait_for(|open| *open).await?;
                Ok(held.len())
            }
        });
    let _worker = Running::start(builder.build().unwrap());
    let (mut session, _) = coordinator.welcome().await;
    session.until(|session| session.credits == 2).await;

    session.dispatch(vec![attempt(1, "hold", "null")]).await;
    // The credit that it has given is worth nothing once it has seen what it holds.
    let mut given = 1;
    soon(async {
        while session.credits > 0 {
            given += 1;
            session.dispatch(vec![attempt(given, "double", "1")]).await;
            let mut frame = session.frame().await;
            while frame.outcomes.is_empty() && frame.refused.is_empty() {
                frame = session.frame().await;
            }
        }
    })
    .await;

    open.send(true).unwrap();
    session.until(|session| session.credits == 2).await;
    let done = given as usize - session.refused.len();
    assert_eq!(session.outcomes(done).await.len(), done);
}

#[tokio::test]
async fn tells_of_its_level_and_of_alerts_at_once() {
    let mut coordinator = Coordinator::start().await;
    let (open, gate) = watch::channel(false);
    let warning_mib = resident_mib() + 128;
    let config = WorkerConfig {
        address: coordinator.address.clone(),
        memory: MemoryConfig {
            warning_mib,
            critical_mib: 0,
            interval: HumanDuration(Duration::from_millis(10)),
            ..MemoryConfig::default()
        },
        ..WorkerConfig::default()
    };
    let builder = Worker::builder()
        .config(config)
        .handler("hold", move |_: Context, (): ()| {
            let mut gate = gate.clone();
            async move {
                let held = vec![1_u8; 256 * MIB];
                gate.wait_for(|open| *open).await?;
                Ok(held.len())
            }
        });
    let _worker = Running::start(builder.build().unwrap());
    // Which asks for no heartbeats.
    let (mut session, _) = coordinator.welcome().await;
    session.until(|session| session.credits > 0).await;
    session.dispatch(vec![attempt(1, "hold", "null")]).await;
    for (over, level) in [
        (false, v1::MemoryLevel::Warning),
        (true, v1::MemoryLevel::Normal),
    ] {
        let (mut alert, mut heartbeat) = (None, None);
        while alert.is_none() || heartbeat.is_none() {
            let frame = session.frame().await;
            alert = alert.or(frame.alerts.first().copied());
            // One that tells more of the level before may be on its way.
            let of_level = frame.heartbeat.filter(|it| it.memory_level() == level);
            heartbeat = heartbeat.or(of_level);
        }
        let alert = alert.unwrap();
        assert_eq!(
            (alert.cause(), alert.over),
            (v1::MemoryAlertCause::Warning, over)
        );
        assert_eq!(alert.limit, (warning_mib * MIB) as u64);
        assert_eq!(alert.resident_bytes < alert.limit, over);
        assert!(over || alert.growth_per_second > 0);
        open.send(true).unwrap();
    }
}

#[tokio::test]
async fn gives_back_what_it_can_and_then_takes_half() {
    let mut coordinator = Coordinator::start().await;
    let (open, gate) = watch::channel(false);
    let warning_mib = resident_mib() + 128;
    let asked = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&asked);
    let config = WorkerConfig {
        address: coordinator.address.clone(),
        slots: 5,
        prefetch: 4,
        memory: MemoryConfig {
            warning_mib,
            critical_mib: 0,
            interval: HumanDuration(Duration::from_millis(10)),
            ..MemoryConfig::default()
        },
        ..WorkerConfig::default()
    };
    let builder = Worker::builder()
        .config(config)
        .on_memory_pressure(move || {
            counts.fetch_add(1, Ordering::Relaxed);
        })
        .handler("hold", move |_: Context, mib: usize| {
            let mut gate = gate.clone();
            async move {
                let held = vec![1_u8; mib * MIB];
                gate.wait_for(|open| *open).await?;
                Ok(held.len())
            }
        });
    let _worker = Running::start(builder.build().unwrap());
    let (mut session, _) = coordinator.welcome().await;
    session.until(|session| session.credits == 9).await;
    session.dispatch(vec![attempt(1, "hold", "256")]).await;
    let sheds = |session: &Session| session.heartbeat.as_ref().is_some_and(|it| it.refuses_low);
    session.until(sheds).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);

    // It has given credits for nine, and now has two slots left of the three that it uses.
    let more = (2..=9).map(|token| attempt(token, "hold", "0"));
    session.dispatch(more.collect()).await;
    session.until(|session| session.refused.len() == 6).await;
    assert_eq!(session.refused, [4, 5, 6, 7, 8, 9]);
    assert_eq!(session.credits, 0);

    open.send(true).unwrap();
    session.until(|session| session.credits == 9).await;
    assert_eq!(session.outcomes(3).await.len(), 3);
}

#[tokio::test]
async fn drains_and_ends_when_its_memory_stays_critical() {
    let mut coordinator = Coordinator::start().await;
    let critical_mib = resident_mib() + 128;
    let config = WorkerConfig {
        address: coordinator.address.clone(),
        slots: 2,
        drain_timeout: HumanDuration(Duration::from_millis(10)),
        cancel_grace: HumanDuration(Duration::from_millis(10)),
        memory: MemoryConfig {
            critical_mib,
            warning_mib: critical_mib - 1,
            interval: HumanDuration(Duration::from_millis(10)),
            restart_after: HumanDuration(Duration::from_millis(50)),
            restart_interval: HumanDuration(Duration::ZERO),
            ..MemoryConfig::default()
        },
        ..WorkerConfig::default()
    };
    let builder = Worker::builder()
        .config(config)
        .handler("hold", async |_: Context, (): ()| {
            let held = vec![1_u8; 256 * MIB];
            std::future::pending::<()>().await;
            Ok(held.len())
        });
    let worker = Running::start(builder.build().unwrap());
    let (mut session, _) = coordinator.welcome().await;
    session.until(|session| session.credits == 2).await;
    session.dispatch(vec![attempt(1, "hold", "null")]).await;

    let mut causes = Vec::new();
    while !session.draining {
        let alerts = session.frame().await.alerts;
        causes.extend(alerts.iter().map(v1::MemoryAlert::cause));
    }
    let expected = [
        v1::MemoryAlertCause::Warning,
        v1::MemoryAlertCause::Critical,
        v1::MemoryAlertCause::Restart,
    ];
    assert_eq!(causes, expected);
    // The attempt did not end, and does not count.
    let failure = session.outcome().await.failure.unwrap();
    assert_eq!(failure.code, "cancelled");
    session.closed().await;
    worker.out_of_memory().await;
}
