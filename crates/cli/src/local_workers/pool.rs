//! Which worker processes to start, to let go and to replace.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The interval of health checks.
pub(super) const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
/// For how long a process may be without a session before it is replaced.
const WITHOUT_SESSION: Duration = HEALTH_INTERVAL.saturating_mul(2);
/// Processes that ended sooner than this are started again with a wait.
const SHORT_LIFE: Duration = Duration::from_secs(10);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Tells the processes of a pool apart; never given twice.
pub(super) type Number = u64;

/// What the coordinator knows of a process by its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) number: Number,
    /// Attempts that it holds.
    pub(super) leases: u32,
    /// It takes nothing more.
    pub(super) is_draining: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Start this process.
    Start(Number),
    /// Let it end what it runs, and end.
    LetGo(Number),
    /// End it at once.
    Kill(Number),
}

/// The worker processes of a pool.
#[derive(Debug, Default)]
pub(super) struct Pool {
    processes: BTreeMap<Number, Process>,
    last: Number,
    /// Processes that ended soon after their start, one after the other.
    short_lives: u32,
    /// No process is started before this.
    start_at: Option<Instant>,
    /// When somebody last looked who has a session.
    looked_at: Option<Instant>,
}

#[derive(Debug)]
struct Process {
    started_at: Instant,
    /// When it last had a session.
    seen_at: Instant,
    /// It was told to go, or is being killed.
    is_leaving: bool,
}

impl Pool {
    /// What is to be done so that there are as many processes as wanted, for those that have a session now. One
    /// that runs something is not let go.
    pub(super) fn steps(&mut self, now: Instant, wanted: usize, seen: &[Seen]) -> Vec<Step> {
        self.see(now, seen);
        let mut steps = Vec::new();
        for (&number, process) in &mut self.processes {
            if !process.is_leaving && now - process.seen_at > WITHOUT_SESSION {
                process.is_leaving = true;
                steps.push(Step::Kill(number));
            }
        }
        let there = self.staying();
        if there < wanted && self.start_at.is_none_or(|at| at <= now) {
            for _ in there..wanted {
                steps.push(Step::Start(self.start(now)));
            }
        }
        let idle = seen.iter().filter(|it| it.leases == 0 && !it.is_draining);
        let mut idle: Vec<Number> = idle.map(|it| it.number).collect();
        // The oldest have most to lose, such as open connections.
        idle.sort_unstable_by_key(|&number| Reverse(number));
        let mut surplus = there.saturating_sub(wanted);
        for number in idle {
            let process = self.processes.get_mut(&number);
            if let Some(process) = process.filter(|it| surplus > 0 && !it.is_leaving) {
                process.is_leaving = true;
                surplus -= 1;
                steps.push(Step::LetGo(number));
            }
        }
        steps
    }

    fn see(&mut self, now: Instant, seen: &[Seen]) {
        let unseen = now - self.looked_at.replace(now).unwrap_or(now);
        if unseen > HEALTH_INTERVAL {
            // The coordinator was away, which is not the fault of workers.
            for process in self.processes.values_mut() {
                process.seen_at += unseen;
            }
        }
        for it in seen {
            if let Some(process) = self.processes.get_mut(&it.number) {
                process.seen_at = now;
            }
        }
    }

    fn start(&mut self, now: Instant) -> Number {
        self.last += 1;
        let process = Process {
            started_at: now,
            seen_at: now,
            is_leaving: false,
        };
        self.processes.insert(self.last, process);
        self.last
    }

    /// Processes that were not told to go.
    pub(super) fn staying(&self) -> usize {
        let all = self.processes.values();
        all.filter(|process| !process.is_leaving).count()
    }

    /// A process has ended, or could not be started. Gives the wait before the next start if nobody had told it
    /// to go.
    pub(super) fn ended(&mut self, now: Instant, number: Number) -> Option<Duration> {
        let process = self.processes.remove(&number)?;
        if process.is_leaving {
            return None;
        }
        let is_short = now - process.started_at < SHORT_LIFE;
        self.short_lives = if is_short { self.short_lives + 1 } else { 0 };
        // The first time may be an accident.
        let wait = match self.short_lives {
            0 | 1 => Duration::ZERO,
            lives => LONGEST_WAIT.min(FIRST_WAIT.saturating_mul(1 << (lives - 2).min(16))),
        };
        self.start_at = Some(now + wait);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn idle(number: Number) -> Seen {
        busy(number, 0)
    }

    fn busy(number: Number, leases: u32) -> Seen {
        Seen {
            number,
            leases,
            is_draining: false,
        }
    }

    #[test]
    fn as_many_are_started_as_are_wanted() {
        let (mut pool, now) = (Pool::default(), Instant::now());
        assert_eq!(pool.steps(now, 2, &[]), [Step::Start(1), Step::Start(2)]);
        assert_eq!(pool.steps(now, 2, &[]), []);
        assert_eq!(pool.steps(now, 3, &[idle(1)]), [Step::Start(3)]);
    }

    #[test]
    fn only_those_go_that_run_nothing() {
        let (mut pool, now) = (Pool::default(), Instant::now());
        pool.steps(now, 4, &[]);
        let seen = [idle(2), busy(1, 3), busy(3, 7), idle(4)];
        assert_eq!(pool.steps(now, 3, &seen), [Step::LetGo(4)]);
        // It is not told twice, and does not count any more.
        assert_eq!(pool.steps(now, 3, &seen), []);
        assert_eq!(pool.steps(now, 1, &seen), [Step::LetGo(2)]);
        assert_eq!(pool.steps(now, 1, &[busy(1, 1), busy(3, 7)]), []);
        assert_eq!(pool.steps(now, 1, &[idle(3), busy(1, 1)]), [Step::LetGo(3)]);
        assert_eq!(pool.ended(now, 3), None);
    }

    #[test]
    fn one_that_crashed_is_replaced_at_once_and_then_with_waits() {
        let (mut pool, mut now) = (Pool::default(), Instant::now());
        pool.steps(now, 1, &[]);
        assert_eq!(pool.ended(now, 1), Some(Duration::ZERO));
        assert_eq!(pool.steps(now, 1, &[]), [Step::Start(2)]);
        let mut waits = Vec::new();
        for number in 2..12 {
            let wait = pool.ended(now, number).unwrap();
            waits.push(wait.as_millis());
            assert_eq!(pool.steps(now, 1, &[]).len(), usize::from(wait.is_zero()));
            now += wait;
            assert_eq!(pool.steps(now, 1, &[]), [Step::Start(number + 1)]);
        }
        let expected = [
            100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000, 10_000,
        ];
        assert_eq!(waits, expected);
        now += SHORT_LIFE;
        assert_eq!(pool.ended(now, 12), Some(Duration::ZERO));
    }

    #[test]
    fn one_without_a_session_is_replaced() {
        let (mut pool, mut now) = (Pool::default(), Instant::now());
        pool.steps(now, 2, &[]);
        for _ in 0..2 {
            now += HEALTH_INTERVAL;
            assert_eq!(pool.steps(now, 2, &[idle(2)]), []);
        }
        now += Duration::from_secs(1);
        let replaced = [Step::Kill(1), Step::Start(3)];
        assert_eq!(pool.steps(now, 2, &[idle(2)]), replaced);
        assert_eq!(pool.ended(now, 1), None);
        // While nobody looked, nobody was seen.
        now += WITHOUT_SESSION * 2;
        assert_eq!(pool.steps(now, 2, &[]), []);
    }

    proptest! {
        /// Whatever is wanted and whoever ends: never more than the most that was wanted stay, nobody goes who
        /// runs something, and in the end there are as many as wanted.
        #[test]
        fn there_are_never_too_many_and_in_the_end_enough(
            rounds in proptest::collection::vec((1..8_usize, 0..20_u64, 0..3_u32), 1..60),
        ) {
            let (mut pool, mut now) = (Pool::default(), Instant::now());
            let mut there: BTreeMap<Number, u32> = BTreeMap::new();
            let mut most = 0;
            let mut wanted = 0;
            for (number, &(next, dies, leases)) in rounds.iter().enumerate() {
                wanted = next;
                most = most.max(wanted);
                let dead = there.keys().copied().find(|it| it % 20 == dies);
                if let Some(dead) = dead {
                    there.remove(&dead);
                    pool.ended(now, dead);
                }
                for (&it, held) in &mut there {
                    *held = (leases + it as u32 + number as u32) % 3;
                }
                settle(&mut pool, now, wanted, &mut there);
                prop_assert!(there.len() <= most);
                now += Duration::from_millis(250);
            }
            for held in there.values_mut() {
                *held = 0;
            }
            now += LONGEST_WAIT;
            settle(&mut pool, now, wanted, &mut there);
            prop_assert_eq!(there.len(), wanted);
        }
    }

    fn settle(pool: &mut Pool, now: Instant, wanted: usize, there: &mut BTreeMap<Number, u32>) {
        let seen: Vec<_> = there
            .iter()
            .map(|(&it, &leases)| busy(it, leases))
            .collect();
        for step in pool.steps(now, wanted, &seen) {
            match step {
                Step::Start(number) => drop(there.insert(number, 0)),
                Step::LetGo(number) | Step::Kill(number) => {
                    assert_eq!(there.remove(&number), Some(0), "it runs nothing");
                    pool.ended(now, number);
                }
            }
        }
    }
}
