//! How many workers are wanted, over a simulated fleet, and the demand that an engine tells of.

use std::collections::BTreeSet;
use std::time::Duration;

use levelflow_common::{Timestamp, WorkerId};
use levelflow_engine::Config;
use levelflow_engine::autoscale::{
    AutoscalePolicy, Autoscaler, Decision, Demand, QueueDemand, Rule, WorkerLoad,
};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use crate::definitions::{define, flow, task};
use crate::shell::Shell;
use crate::worker::FakeWorker;

const TICK: Duration = Duration::from_millis(250);

fn worker(name: &str, slots: u32, leases: u32) -> WorkerLoad {
    WorkerLoad {
        worker: WorkerId(name.into()),
        slots,
        leases,
        is_draining: false,
        queues: BTreeSet::from(["default".to_owned()]),
    }
}

fn queue(waiting: u64, oldest_wait: Duration, task_time: Duration) -> QueueDemand {
    QueueDemand {
        name: "default".into(),
        waiting,
        unserved: 0,
        oldest_wait,
        task_time,
    }
}

/// Workers that are all as busy, and tasks that wait for them.
fn demand(workers: u32, slots: u32, leases: u32, waiting: u64, task_time: Duration) -> Demand {
    let workers = (0..workers).map(|number| worker(&format!("w{number}"), slots, leases));
    Demand {
        queues: vec![queue(waiting, Duration::ZERO, task_time)],
        workers: workers.collect(),
        unheard: Vec::new(),
    }
}

fn at(span: Duration) -> Timestamp {
    Timestamp::from_micros(1_000_000_000).saturating_add(span)
}

fn autoscaler() -> Autoscaler {
    Autoscaler::new(AutoscalePolicy::default(), None)
}

fn reason(decision: &Decision, rule: Rule) -> (Option<u32>, &str) {
    let found = decision.reasons.iter().find(|it| it.rule == rule);
    let found = found.expect("every rule is told of");
    (found.wants, &found.text)
}

/// Workers that come some time after they are asked for and go at once, and a steady stream of tasks.
struct Fleet {
    autoscaler: Autoscaler,
    slots: u32,
    start_time: Duration,
    task_time: Duration,
    passed: Duration,
    workers: u32,
    /// When each that starts will be there.
    starting: Vec<Duration>,
    /// Tasks that wait or run.
    tasks: f64,
}

impl Fleet {
    fn new(slots: u32, start_time: Duration, task_time: Duration) -> Self {
        Self {
            autoscaler: autoscaler(),
            slots,
            start_time,
            task_time,
            passed: Duration::ZERO,
            workers: 2,
            starting: Vec::new(),
            tasks: 0.0,
        }
    }

    /// Lets a tick pass in which so many tasks come.
    fn tick(&mut self, come: f64) -> Decision {
        self.passed += TICK;
        let capacity = f64::from(self.workers * self.slots);
        let steps = (4.0 * TICK.as_secs_f64() / self.task_time.as_secs_f64()).ceil();
        let each = TICK.as_secs_f64() / steps / self.task_time.as_secs_f64();
        for _ in 0..steps as u32 {
            self.tasks += come / steps;
            self.tasks -= self.tasks.min(capacity) * each;
        }
        let busy = self.tasks.min(capacity);
        let waiting = (self.tasks - busy) as u64;
        let mut told = demand(self.workers, self.slots, 0, waiting, self.task_time);
        for lease in 0..busy.round() as u32 {
            told.workers[(lease % self.workers) as usize].leases += 1;
        }
        let decision = self.autoscaler.decide(at(self.passed), &told);

        let (now, before) = (self.passed, self.starting.len());
        self.starting.retain(|&ready| ready > now);
        self.workers += (before - self.starting.len()) as u32;
        while self.workers + (self.starting.len() as u32) < decision.wanted {
            self.starting.push(now + self.start_time);
        }
        self.workers = self.workers.min(decision.wanted.max(1));
        decision
    }
}

#[test]
fn a_burst_wants_the_most_workers_in_the_first_decision() {
    let told = demand(2, 16, 16, 1968, Duration::from_millis(50));
    let decision = autoscaler().decide(at(Duration::ZERO), &told);
    assert_eq!((decision.wanted, decision.current), (16, 2));
    assert_eq!(decision.decided_by, Rule::Max);
    assert_eq!(reason(&decision, Rule::QueueDepth).0, Some(125));
    assert!(decision.is_active);
}

#[test]
fn nothing_to_do_wants_the_fewest() {
    let told = demand(2, 16, 0, 0, Duration::from_millis(50));
    let decision = autoscaler().decide(at(Duration::ZERO), &told);
    assert_eq!((decision.wanted, decision.decided_by), (2, Rule::Min));
    assert!(!decision.is_active);
    assert_eq!(decision.next_change_at, None);
}

#[test]
fn each_ten_tasks_that_wait_want_one_more_worker() {
    for (waiting, wanted) in [(9, 2), (10, 3), (19, 3), (25, 4)] {
        let told = demand(2, 4, 4, waiting, Duration::from_secs(1));
        let decision = autoscaler().decide(at(Duration::ZERO), &told);
        assert_eq!(decision.wanted, wanted, "{waiting} wait: {decision:?}");
    }
}

#[test]
fn a_backlog_that_is_gone_before_a_worker_has_started_wants_none() {
    let told = demand(2, 16, 16, 100, Duration::from_micros(200));
    let decision = autoscaler().decide(at(Duration::ZERO), &told);
    assert_eq!(decision.wanted, 2);
    let (wants, text) = reason(&decision, Rule::QueueDepth);
    assert!(wants.is_none() && text.contains("100 tasks"), "{text}");
}

#[test]
fn a_few_tasks_that_wait_for_long_want_workers_too() {
    let mut told = demand(2, 1, 1, 3, Duration::from_secs(1));
    told.queues[0].oldest_wait = Duration::from_secs(6);
    let decision = autoscaler().decide(at(Duration::ZERO), &told);
    assert_eq!(
        (decision.wanted, decision.decided_by),
        (5, Rule::OldestReady)
    );
}

#[test]
fn long_tasks_want_workers_before_there_are_many_of_them() {
    let told = demand(2, 1, 1, 8, Duration::from_secs(60));
    let decision = autoscaler().decide(at(Duration::ZERO), &told);
    assert_eq!(
        (decision.wanted, decision.decided_by),
        (10, Rule::DrainTime)
    );
}

#[test]
fn slots_that_are_all_busy_want_another_worker_after_a_while() {
    let mut autoscaler = autoscaler();
    let told = demand(2, 16, 16, 0, Duration::from_secs(1));
    let first = autoscaler.decide(at(Duration::ZERO), &told);
    assert_eq!(first.wanted, 2);
    for second in 1..60 {
        autoscaler.decide(at(Duration::from_secs(second)), &told);
    }
    let decision = autoscaler.decide(at(Duration::from_secs(60)), &told);
    assert_eq!((decision.wanted, decision.decided_by), (3, Rule::BusyShare));
}

#[test]
fn the_same_backlog_wants_more_only_after_the_cooldown_and_when_those_asked_for_have_come() {
    let mut autoscaler = autoscaler();
    let of = |workers| demand(workers, 4, 4, 25, Duration::from_secs(1));
    let mut wanted = |second, workers| {
        let decision = autoscaler.decide(at(Duration::from_secs(second)), &of(workers));
        (decision.wanted, decision.next_change_at)
    };
    assert_eq!(wanted(0, 2).0, 4);
    assert_eq!(wanted(4, 4), (4, Some(at(Duration::from_secs(5)))));
    // Only three have come.
    assert_eq!(wanted(6, 3).0, 4);
    assert_eq!(wanted(7, 4).0, 6);
}

#[test]
fn a_burst_that_comes_right_after_another_is_not_held_back() {
    let mut autoscaler = autoscaler();
    let first = demand(2, 16, 16, 20, Duration::from_secs(1));
    assert_eq!(autoscaler.decide(at(Duration::ZERO), &first).wanted, 4);
    let second = demand(2, 16, 16, 1968, Duration::from_secs(1));
    assert_eq!(autoscaler.decide(at(TICK), &second).wanted, 16);
}

#[test]
fn tasks_that_no_worker_may_take_want_none_unless_there_is_no_worker_at_all() {
    let mut told = demand(2, 16, 0, 0, Duration::from_secs(1));
    told.queues[0].unserved = 500;
    let decision = autoscaler().decide(at(Duration::ZERO), &told);
    assert_eq!(decision.wanted, 2);
    let (_, text) = reason(&decision, Rule::QueueDepth);
    assert!(text.contains("500 more wait"), "{text}");

    told.workers.clear();
    let policy = AutoscalePolicy {
        min: 0,
        ..AutoscalePolicy::default()
    };
    let mut autoscaler = Autoscaler::new(policy, None);
    assert_eq!(autoscaler.decide(at(Duration::ZERO), &told).wanted, 16);
    told.queues[0].unserved = 0;
    told.queues[0].waiting = 0;
    let idle = Duration::from_secs(60);
    assert_eq!(autoscaler.decide(at(idle), &told).wanted, 0);
    told.queues[0].unserved = 1;
    assert_eq!(autoscaler.decide(at(idle + TICK), &told).wanted, 1);

    // One has come and may not take it. Without it, that would be found out again and again.
    told.workers.push(worker("a", 16, 0));
    for minute in 2..5 {
        let decision = autoscaler.decide(at(idle * minute), &told);
        assert!(decision.is_active && decision.wanted == 1, "{decision:?}");
    }
    told.queues[0].unserved = 0;
    assert_eq!(autoscaler.decide(at(idle * 6), &told).wanted, 0);
}

#[test]
fn a_policy_for_a_queue_looks_at_its_tasks_and_workers_only() {
    let mut told = demand(2, 16, 16, 0, Duration::from_secs(1));
    told.queues.push(QueueDemand {
        name: "gpu".into(),
        ..queue(40, Duration::ZERO, Duration::from_secs(5))
    });
    told.workers.push(WorkerLoad {
        queues: BTreeSet::from(["gpu".to_owned()]),
        ..worker("g", 1, 1)
    });
    let of = |queue: &str| {
        let mut autoscaler = Autoscaler::new(AutoscalePolicy::default(), Some(queue.into()));
        autoscaler.decide(at(Duration::ZERO), &told)
    };
    let gpu = of("gpu");
    assert_eq!((gpu.current, gpu.workload.waiting), (1, 40));
    assert_eq!(gpu.wanted, 16);
    assert_eq!(of("default").wanted, 2);
    assert!(!of("other").is_active);
}

#[test]
fn the_least_busy_workers_come_first_and_those_that_drain_last() {
    let mut told = demand(0, 0, 0, 0, Duration::ZERO);
    let drains = WorkerLoad {
        is_draining: true,
        ..worker("a", 4, 0)
    };
    told.workers = vec![drains, worker("b", 4, 3), worker("c", 4, 0)];
    let decision = autoscaler().decide(at(Duration::ZERO), &told);
    let names: Vec<_> = decision.workers.iter().map(|it| &*it.worker.0).collect();
    assert_eq!(names, ["c", "b", "a"]);
    assert_eq!(decision.current, 2);
}

#[test]
fn workers_that_were_there_at_the_start_stay_for_the_idle_time() {
    let mut autoscaler = autoscaler();
    let told = demand(16, 16, 0, 0, Duration::from_secs(1));
    // They come back one after the other to a coordinator that has just started.
    let some = demand(3, 16, 0, 0, Duration::from_secs(1));
    autoscaler.decide(at(Duration::ZERO), &some);
    let mut fleet = |second| {
        let decision = autoscaler.decide(at(Duration::from_secs(second)), &told);
        decision.wanted
    };
    assert_eq!((fleet(1), fleet(30), fleet(59)), (16, 16, 16));
    assert_eq!((fleet(60), fleet(61)), (16, 2));
}

#[test]
fn a_burst_takes_a_fleet_to_the_most_and_back_to_the_fewest_after_the_idle_time() {
    let mut fleet = Fleet::new(16, Duration::from_millis(500), Duration::from_millis(50));
    assert_eq!(fleet.tick(2000.0).wanted, 16);
    let mut idle_since = None;
    for _ in 0..400 {
        let decision = fleet.tick(0.0);
        if decision.workload.busy == 0 {
            idle_since.get_or_insert(fleet.passed);
        }
        let idle = idle_since.map_or(Duration::ZERO, |since| fleet.passed - since);
        if decision.wanted < 16 {
            assert!(idle >= Duration::from_secs(59), "it shrinks after {idle:?}");
            assert!(idle <= Duration::from_secs(61), "it shrinks after {idle:?}");
            assert_eq!(decision.wanted, 2);
            assert_eq!(fleet.workers, 2);
            return;
        }
    }
    panic!("it never shrinks");
}

#[test]
fn what_several_coordinators_tell_is_summed_and_each_worker_counts_once() {
    let one = Demand {
        queues: vec![queue(
            30,
            Duration::from_secs(1),
            Duration::from_millis(100),
        )],
        workers: vec![worker("a", 8, 3), worker("b", 8, 0)],
        unheard: Vec::new(),
    };
    let other = Demand {
        queues: vec![queue(
            10,
            Duration::from_secs(4),
            Duration::from_millis(500),
        )],
        workers: vec![worker("a", 8, 2)],
        unheard: vec!["c".to_owned()],
    };
    let sum = Demand::sum([one, other]);
    let expected = queue(40, Duration::from_secs(4), Duration::from_millis(200));
    assert_eq!(sum.queues, [expected]);
    assert_eq!(sum.workers, [worker("a", 8, 5), worker("b", 8, 0)]);
    assert_eq!(sum.unheard, ["c"]);
}

#[test]
fn an_engine_tells_what_no_slot_takes_and_what_workers_hold() {
    let mut shell = Shell::new(Config::default());
    for name in ["b", "a"] {
        shell.workers.push(FakeWorker::new(name, 2));
    }
    shell.join(0).unwrap();
    shell.join(1).unwrap();
    let gpu = json!({ "worker": { "queue": "gpu" } });
    let tasks = (0..6).map(|number| task(&format!("t{number}"), &[], json!({})));
    let tasks: Vec<_> = tasks.chain([task("g", &[], gpu)]).collect();
    shell.run(&define(json!({ "name": "flow", "tasks": tasks })));
    shell.pass(Duration::from_secs(2));
    let now = shell.now;
    let told = shell.engine.demand(now);
    let held = told.workers.iter().map(|it| (&*it.worker.0, it.leases));
    assert_eq!(held.collect::<Vec<_>>(), [("a", 2), ("b", 2)]);
    let counts = |demand: &Demand| {
        let queues = demand.queues.iter();
        let counts = queues.map(|it| (it.name.to_string(), it.waiting, it.unserved));
        counts.collect::<Vec<_>>()
    };
    assert_eq!(
        counts(&told),
        [("default".to_owned(), 2, 0), ("gpu".to_owned(), 0, 1)]
    );
    assert!(told.queues[0].oldest_wait >= Duration::from_secs(2));
    // Expected until one was measured.
    assert_eq!(told.queues[0].task_time, Duration::from_millis(1));

    shell.leave(0);
    shell.leave(1);
    let now = shell.now;
    let told = shell.engine.demand(now);
    assert!(told.workers.is_empty());
    assert_eq!(counts(&told)[0].1, 0);
}

#[test]
fn an_engine_tells_how_long_tasks_take() {
    let mut shell = Shell::with_worker(1);
    shell.run(&flow([
        task("a", &[], json!({})),
        task("b", &[], json!({})),
    ]));
    shell.succeed("a");
    let now = shell.now;
    let measured = shell.engine.demand(now).queues[0].task_time;
    assert_ne!(measured, Duration::from_millis(1));
}

#[test]
fn a_policy_that_cannot_be_followed_is_refused() {
    let policy = AutoscalePolicy::default;
    assert_eq!(policy().problem(), None);
    let wrong = [
        ("max", AutoscalePolicy { max: 0, ..policy() }),
        (
            "max",
            AutoscalePolicy {
                max: 1001,
                ..policy()
            },
        ),
        (
            "min",
            AutoscalePolicy {
                min: 17,
                ..policy()
            },
        ),
        (
            "scale_up_queue_depth",
            AutoscalePolicy {
                scale_up_queue_depth: 0,
                ..policy()
            },
        ),
        (
            "scale_up_busy_percent",
            AutoscalePolicy {
                scale_up_busy_percent: 101,
                ..policy()
            },
        ),
        (
            "scale_down_busy_percent",
            AutoscalePolicy {
                scale_down_busy_percent: 81,
                ..policy()
            },
        ),
        (
            "cooldown",
            AutoscalePolicy {
                cooldown: Duration::ZERO,
                ..policy()
            },
        ),
    ];
    for (field, policy) in wrong {
        assert_eq!(policy.problem().map(|(field, _)| field), Some(field));
    }
}

#[test]
fn more_is_asked_for_again_when_workers_do_not_come() {
    let mut autoscaler = autoscaler();
    let told = demand(2, 4, 4, 25, Duration::from_secs(1));
    let mut wanted = |second| {
        let decision = autoscaler.decide(at(Duration::from_secs(second)), &told);
        decision.wanted
    };
    // Those that were asked for have twelve cooldowns to come.
    assert_eq!((wanted(0), wanted(30), wanted(59)), (4, 4, 4));
    assert_eq!(wanted(60), 6);
}

#[test]
fn silent_workers_are_not_counted() {
    let mut shell = Shell::with_worker(1);
    let silence = shell.config.heartbeat_interval * 2;
    let workers = |shell: &mut Shell| {
        let now = shell.now;
        shell.engine.demand(now).workers.len()
    };
    assert_eq!(workers(&mut shell), 1);
    shell.now = shell.now.saturating_add(silence);
    assert_eq!(workers(&mut shell), 0);
    shell.heartbeat(0);
    assert_eq!(workers(&mut shell), 1);
}

/// One look at a fleet.
fn look() -> impl Strategy<Value = (Duration, Demand)> {
    let workers = vec((0..40_u32, 0..40_u32, any::<bool>()), 0..20);
    let waiting = prop_oneof![3 => Just(0), 2 => 0..30_u64, 1 => 0..5000_u64];
    let times = (0..20_000_u64, 0..120_000_u64);
    (0..90_u64, workers, waiting, times).prop_map(|(seconds, workers, waiting, (age, takes))| {
        let span = Duration::from_millis;
        let workers = workers.into_iter().enumerate();
        let workers = workers.map(|(number, (slots, leases, is_draining))| WorkerLoad {
            is_draining,
            ..worker(&format!("w{number}"), slots, leases)
        });
        let told = Demand {
            queues: vec![queue(waiting, span(age), span(takes))],
            workers: workers.collect(),
            unheard: Vec::new(),
        };
        (Duration::from_millis(seconds * 250), told)
    })
}

proptest! {
    #[test]
    fn it_stays_within_its_bounds_and_shrinks_only_after_the_idle_time(
        looks in vec(look(), 1..200), min in 0..5_u32, more in 1..20_u32,
    ) {
        let max = min + more;
        let policy = AutoscalePolicy { min, max, ..AutoscalePolicy::default() };
        let idle = policy.scale_down_idle;
        let mut autoscaler = Autoscaler::new(policy, None);
        let mut passed = Duration::ZERO;
        // When each number was last wanted by some rule.
        let mut asked: Vec<(Duration, u32)> = Vec::new();
        let mut before = min;
        for (span, told) in looks {
            passed += span;
            let decision = autoscaler.decide(at(passed), &told);
            prop_assert!((min..=max).contains(&decision.wanted));
            let told: Vec<_> = decision.reasons.iter().map(|it| it.rule).collect();
            prop_assert_eq!(told, Rule::ALL);
            let decides = reason(&decision, decision.decided_by).0;
            prop_assert!(decides.is_some());
            let up = [Rule::QueueDepth, Rule::OldestReady, Rule::DrainTime, Rule::BusyShare];
            let most = up.into_iter().filter_map(|rule| reason(&decision, rule).0).max();
            asked.push((passed, most.unwrap_or(0).min(max)));
            prop_assert!(decision.wanted >= most.unwrap_or(0).min(max));
            if decision.wanted < before {
                let lately = asked.iter().filter(|(at, _)| passed - *at < idle);
                prop_assert!(lately.map(|(_, asked)| *asked).max() <= Some(decision.wanted));
            }
            if let Some(change) = decision.next_change_at {
                prop_assert!(change > at(passed));
            }
            before = decision.wanted;
        }
        // With nothing to do it comes back to the fewest, and stays there.
        let nothing = demand(0, 0, 0, 0, Duration::ZERO);
        for _ in 0..2 {
            for _ in 0..=idle.as_secs() + 60 {
                passed += Duration::from_secs(1);
                before = autoscaler.decide(at(passed), &nothing).wanted;
            }
            prop_assert_eq!(before, min);
        }
    }

}

proptest! {
    // Each lives through a quarter of an hour.
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_constant_load_settles_on_a_number_that_serves_it(
        share in 0.01..0.75_f64, slots in 1..32_u32, start in 0..5_000_u64, takes in 20..5_000_u64,
        noise in vec(0.8..1.2_f64, 64),
    ) {
        let task_time = Duration::from_millis(takes);
        let mut fleet = Fleet::new(slots, Duration::from_millis(start), task_time);
        let busy = share * f64::from(16 * slots);
        let come = busy * TICK.as_secs_f64() / task_time.as_secs_f64();
        let mut step = {
            let mut noise = noise.into_iter().cycle();
            move || come * noise.next().unwrap()
        };
        for _ in 0..4 * 60 * 5 {
            fleet.tick(step());
        }
        let mut wanted: Vec<u32> = (0..4 * 60 * 10).map(|_| fleet.tick(step()).wanted).collect();
        prop_assert!(f64::from(fleet.workers * slots) >= busy * 0.99, "{} workers", fleet.workers);
        wanted.dedup();
        prop_assert!(wanted.len() == 1 || wanted.is_sorted_by(|a, b| a > b), "{wanted:?}");
    }
}
