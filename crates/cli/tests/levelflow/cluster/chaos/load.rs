//! What clients do, drawn from a seed: workflows of everything, keys, cancels; over coordinators that come and go.

use std::time::Duration;

use levelflow_common::Fault;
use levelflow_proto::{ApiError, v1};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::evidence::Ledger;
use super::starts::{Manner, Starts, Trace, mark_of_task};
use crate::client::{Client, submission};

/// How far back the needs of a task reach.
const REACH: usize = 5;
/// How long a client waits for a word before it asks another coordinator.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it waits after a refusal that says nothing of it.
const PAUSE: Duration = Duration::from_millis(50);
/// The handler that leaves its starts.
pub(crate) const HANDLER: &str = "leave-a-mark";
const TENANTS: [&str; 2] = ["red", "blue"];

/// What one client does.
pub(crate) struct Job {
    pub(crate) workflow: Value,
    request: v1::SubmitWorkflowRequest,
    /// The gate at which its first task waits, where the run is cancelled meanwhile.
    cancelled_at: Option<String>,
    pub(crate) tasks: usize,
}

/// How a task is done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Call,
    Shared,
    List,
    Program,
    Handler,
    Value,
    Nap,
}

impl Way {
    fn draw(random: &mut StdRng) -> Self {
        match random.random_range(0..20) {
            0..8 => Self::Call,
            8..11 => Self::Shared,
            11 => Self::List,
            12..14 => Self::Program,
            14..16 => Self::Handler,
            16..18 => Self::Value,
            _ => Self::Nap,
        }
    }
}

impl Job {
    /// The job of a number, of all that a seed makes.
    pub(crate) fn draw(seed: u64, number: usize, starts: &Starts, trace: &Trace) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ ((number as u64 + 1) << 32));
        let is_cancelled = random.random_range(0..8) == 0;
        let cancelled_at = is_cancelled.then(|| format!("gate-{number}"));
        let count: usize = random.random_range(4..=12);
        let mut ways: Vec<Way> = Vec::new();
        let mut tasks = Vec::new();
        for index in 0..count {
            let gate = cancelled_at.clone().filter(|_| index == 0);
            let way = match gate {
                Some(_) => Way::Call,
                None => Way::draw(&mut random),
            };
            let mut needs: Vec<usize> = (0..random.random_range(0..=2.min(index)))
                .map(|_| random.random_range(index.saturating_sub(REACH)..index))
                .collect();
            // What is cancelled has tasks that may not start any more.
            if is_cancelled && index > 0 {
                needs.push(0);
            }
            needs.sort_unstable();
            needs.dedup();
            tasks.push(task(
                index,
                way,
                &needs,
                &ways,
                gate,
                &mut random,
                starts,
                trace,
            ));
            ways.push(way);
        }
        let mut workflow = json!({ "name": "chaos", "tasks": tasks });
        match random.random_range(0..8) {
            0..2 => workflow["durability"] = json!("relaxed"),
            2 => workflow["dispatch"] = json!("level"),
            3 => workflow["max_parallel"] = json!(2),
            _ => {}
        }
        let tenant = TENANTS[random.random_range(0..TENANTS.len())];
        let request = v1::SubmitWorkflowRequest {
            idempotency_key: format!("job {number}"),
            tenant: tenant.to_owned(),
            priority: random.random_range(1..=4),
            ..submission(&workflow)
        };
        Self {
            workflow,
            request,
            cancelled_at,
            tasks: count,
        }
    }

    /// Does it, over as many coordinators as it takes.
    pub(crate) async fn done(
        &self,
        doors: &[Client],
        first: usize,
        ledger: &Ledger,
        starts: &Starts,
    ) {
        let mut doors = doors.iter().cycle().skip(first);
        let mut next = || doors.next().expect("there are doors");
        let mut door = next();
        let run_id = loop {
            let submitting = door.submit(self.request.clone());
            let Ok(answered) = timeout(PATIENCE, submitting).await else {
                door = next();
                continue;
            };
            match ledger.answered(&self.workflow, self.request.clone(), answered) {
                Ok(run_id) => break run_id,
                Err(refusal) => {
                    sleep(refusal.retry_after.unwrap_or(PAUSE)).await;
                    door = next();
                }
            }
        };
        if let Some(gate) = &self.cancelled_at {
            let has_started = |all: &Vec<_>| {
                all.iter()
                    .any(|it: &super::starts::Start| it.run_id == run_id)
            };
            starts.until("the first task starts", has_started).await;
            loop {
                match timeout(PATIENCE, door.cancel(&run_id)).await {
                    Ok(Ok(_)) => {
                        ledger.cancelled(&run_id);
                        break;
                    }
                    // The answer to an earlier try was lost.
                    Ok(Err(error)) if is_final(&error) => break,
                    Ok(Err(_)) => sleep(PAUSE).await,
                    Err(_) => {}
                }
                door = next();
            }
            starts.open(gate);
        }
        loop {
            match ledger.watch(door, &run_id, PATIENCE).await {
                Ok(()) => return,
                Err(_) => sleep(PAUSE).await,
            }
            door = next();
        }
    }
}

/// Whether another coordinator would say the same.
fn is_final(error: &ApiError) -> bool {
    !matches!(error.code().fault(), Fault::Unavailable | Fault::Exhausted)
}

#[expect(clippy::too_many_arguments, reason = "they are drawn together")]
fn task(
    index: usize,
    way: Way,
    needs: &[usize],
    ways: &[Way],
    gate: Option<String>,
    random: &mut StdRng,
    starts: &Starts,
    trace: &Trace,
) -> Value {
    let marked = |need: &&usize| !matches!(ways[**need], Way::Value | Way::Nap | Way::List);
    let marks: Vec<String> = needs
        .iter()
        .filter(marked)
        .map(|need| mark_of_task(&format!("t{need}")))
        .collect();
    let names: Vec<String> = needs.iter().map(|need| format!("t{need}")).collect();
    let manner = Manner {
        turns_down: random.random_range(0..12_usize).saturating_sub(9),
        takes: Duration::from_millis(random.random_range(5..60)),
        gate,
    };
    let (kind, with) = match way {
        Way::Call => (
            "http",
            starts.call(&format!("call-{index}"), &marks, &manner),
        ),
        Way::Shared => {
            let input = format!("shared-{}", random.random_range(0..3));
            let takes = Duration::from_millis(20);
            let manner = Manner {
                takes,
                ..Manner::default()
            };
            ("http", starts.call(&input, &[], &manner))
        }
        Way::List => (
            "http",
            starts.call(&format!("item-{index}"), &marks, &manner),
        ),
        Way::Handler => ("handler", starts.handled(HANDLER, &marks, &manner)),
        Way::Program => ("process", trace.program(&marks, manner.takes)),
        Way::Value => ("transform", json!({ "value": index })),
        Way::Nap => {
            let duration = format!("{}ms", random.random_range(1..400));
            ("sleep", json!({ "duration": duration }))
        }
    };
    let mut task = json!({
        "id": format!("t{index}"),
        "type": kind,
        "with": with,
        "needs": names,
        "retry": {
            "max_attempts": 30, "initial": "20ms", "max": "200ms", "retryable": ["http_status"],
        },
    });
    let extra = random.random_range(0..6);
    match way {
        Way::Shared => {
            let ttl = if extra < 3 { "500ms" } else { "1h" };
            task["cache"] = json!({ "ttl": ttl });
        }
        Way::List => {
            let items: Vec<usize> = (0..extra).collect();
            task["for_each"] = json!({ "items": items, "max_parallel": 2 });
        }
        Way::Call if extra == 0 => task["concurrency"] = json!({ "key": "few", "limit": 3 }),
        Way::Call if extra == 1 => {
            task["rate_limit"] = json!({ "key": "slow", "limit": 20, "per": "1s" });
        }
        Way::Call | Way::Program if extra == 2 => task["priority"] = json!("critical"),
        _ => {}
    }
    task
}
