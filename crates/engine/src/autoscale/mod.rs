//! How many workers there should be: a policy over what waits and what workers have.
//!
//! It decides and does nothing: who starts and stops workers follows the [`Decision`]. More workers are wanted
//! at once, fewer only when fewer have been enough for a while.

mod decision;
mod demand;
mod needs;
mod policy;

use std::sync::Arc;
use std::time::Duration;

use levelflow_common::Timestamp;

pub use self::decision::{Decision, Reason, Rule, Workload};
pub use self::demand::{Demand, QueueDemand, WorkerLoad};
pub use self::policy::{AutoscalePolicy, MAX_WORKERS};

use self::decision::brief;
use self::needs::Needs;

/// So many cooldowns workers that were asked for may take to come before they are not waited for.
const PATIENCE: u32 = 12;

/// Applies a policy to the demand of all queues, or of one.
#[derive(Debug)]
pub struct Autoscaler {
    policy: AutoscalePolicy,
    /// None for all.
    queue: Option<Arc<str>>,
    wanted: u32,
    /// When it was first asked.
    began_at: Option<Timestamp>,
    /// The workers that rules count from which want more of them.
    base: u32,
    /// When more workers were last asked for, while those are to show what they can do.
    raised_at: Option<Timestamp>,
    /// Slots that were busy lately, and until when that is known.
    busy: Option<(Timestamp, f64)>,
    /// Slots of a worker.
    worker_slots: u64,
    /// What was needed within the idle time.
    needs: Needs,
}

impl Autoscaler {
    /// A policy for the tasks of a queue and the workers that subscribe to it, or for all.
    pub fn new(policy: AutoscalePolicy, queue: Option<Arc<str>>) -> Self {
        Self {
            queue,
            wanted: policy.min,
            began_at: None,
            base: policy.min,
            raised_at: None,
            busy: None,
            worker_slots: u64::from(policy.worker_slots.max(1)),
            needs: Needs::default(),
            policy,
        }
    }

    /// How many workers there should be now. Asked again and again, with times that do not go back.
    pub fn decide(&mut self, now: Timestamp, demand: &Demand) -> Decision {
        let workers = self.workers(demand);
        let current = count(workers.iter().filter(|it| !it.is_draining).count());
        let load = self.workload(now, demand, &workers, current);
        self.settle(now, current);
        let mut reasons = vec![
            self.queue_depth(&load, current),
            self.oldest_ready(&load),
            self.drain_time(&load),
            self.busy_share(&load),
        ];
        // Of several that want the same, the first.
        let strongest = reasons.iter().rev().max_by_key(|it| it.wants);
        let (rule, asked) = strongest.map_or((Rule::Min, 0), |it| (it.rule, it.wants.unwrap_or(0)));

        let began_at = *self.began_at.get_or_insert(now);
        let idle = self.policy.scale_down_idle;
        let mut need = asked.max(self.kept(&load));
        if current > self.wanted && now.since(began_at) < idle {
            // Somebody asked for them before this was here to be asked, and may have needed them a moment ago.
            self.wanted = self.bounded(current);
            need = need.max(current);
        }
        self.needs.note(now, self.bounded(need), idle);
        let (needed_at, needed) = self.needs.most().unwrap_or((now, self.policy.min));

        let before = self.wanted;
        if self.bounded(asked) > before {
            self.wanted = self.bounded(asked);
            self.raised_at = Some(now);
        } else if needed < before {
            self.wanted = needed;
        }
        reasons.push(self.idle_reason(needed, now.since(needed_at)));
        reasons.extend(self.bounds());
        Decision {
            at: now,
            queue: self.queue.clone(),
            wanted: self.wanted,
            current,
            is_active: load.waiting + load.unserved + load.busy > 0
                || self.wanted > self.policy.min,
            decided_by: self.decided_by(rule, asked),
            reasons,
            next_change_at: self.next_change_at(now, needed_at, asked),
            workload: load,
            workers: least_busy_first(workers),
            unheard: demand.unheard.clone(),
        }
    }

    fn workers(&self, demand: &Demand) -> Vec<WorkerLoad> {
        let concerns = |worker: &&WorkerLoad| match &self.queue {
            Some(queue) => worker.queues.contains(&**queue),
            None => true,
        };
        demand.workers.iter().filter(concerns).cloned().collect()
    }

    fn workload(
        &mut self,
        now: Timestamp,
        demand: &Demand,
        workers: &[WorkerLoad],
        current: u32,
    ) -> Workload {
        let queues = demand.queues.iter();
        let queues = queues.filter(|it| self.queue.as_ref().is_none_or(|name| *name == it.name));
        let mut load = Workload::default();
        let (mut micros, mut weight) = (0_u128, 0_u128);
        for queue in queues {
            load.waiting = load.waiting.saturating_add(queue.waiting);
            load.unserved = load.unserved.saturating_add(queue.unserved);
            // What nobody may take says nothing of how well those who are here do.
            if queue.waiting > 0 || current == 0 {
                load.oldest_wait = load.oldest_wait.max(queue.oldest_wait);
            }
            let tasks = u128::from(queue.tasks().max(1));
            micros += queue.task_time.as_micros() * tasks;
            weight += tasks;
        }
        load.task_time = micros_to_span(micros / weight.max(1));
        if current == 0 {
            // Nobody is here, so nobody can be told from whom it would help.
            load.waiting = load
                .waiting
                .saturating_add(std::mem::take(&mut load.unserved));
        }
        for worker in workers {
            load.busy += u64::from(worker.leases.min(worker.slots));
            load.waiting += u64::from(worker.leases.saturating_sub(worker.slots));
            if !worker.is_draining {
                load.slots += u64::from(worker.slots);
            }
        }
        if current > 0 {
            self.worker_slots = load.slots.div_ceil(u64::from(current)).max(1);
        }
        load.busy_lately = self.busy_lately(now, load.busy);
        load
    }

    /// The busy slots, averaged over about a cooldown.
    fn busy_lately(&mut self, now: Timestamp, busy: u64) -> f64 {
        let average = match self.busy {
            Some((at, average)) => {
                let passed = now.since(at).as_secs_f64();
                let weight = passed / (passed + self.policy.cooldown.as_secs_f64());
                average + (busy as f64 - average) * weight
            }
            None => 0.0,
        };
        self.busy = Some((now, average));
        average
    }

    /// Lets rules count from the workers that there are now, unless some that were asked for are still to come
    /// or to show what they can do.
    fn settle(&mut self, now: Timestamp, current: u32) {
        if let Some(raised_at) = self.raised_at {
            let passed = now.since(raised_at);
            let cooldown = self.policy.cooldown;
            let have_come = current >= self.wanted && passed >= cooldown;
            if !have_come && passed < cooldown * PATIENCE {
                return;
            }
            self.raised_at = None;
        }
        self.base = self.wanted.max(current);
    }

    fn queue_depth(&self, load: &Workload, current: u32) -> Reason {
        let each = self.policy.scale_up_queue_depth;
        let waiting = load.waiting;
        let reason = |wants: Option<u32>, text: String| Reason {
            rule: Rule::QueueDepth,
            wants,
            text: match load.unserved {
                0 => text,
                others => {
                    format!("{text}; {others} more wait for a worker of a kind that is not there")
                }
            },
        };
        if waiting == 0 {
            let text = format!("no task waits for a slot; {each} call for more workers");
            return reason(None, text);
        }
        if current == 0 && self.base == 0 {
            let wants = self.useful(load, count(waiting / each).max(1));
            let text = format!("{waiting} tasks wait, and no worker is there");
            return reason(Some(wants), text);
        }
        if waiting < each {
            let text =
                format!("{waiting} tasks wait for a slot; {each} would call for more workers");
            return reason(None, text);
        }
        let takes = load.takes();
        let least = self.policy.scale_up_backlog;
        if let Some(takes) = takes.filter(|&takes| takes < least) {
            let text = format!(
                "{waiting} tasks wait for a slot, and the workers that are there have done them in {}; \
                 {} would call for more",
                brief(takes),
                brief(least)
            );
            return reason(None, text);
        }
        let more = count(waiting / each);
        let wants = self.useful(load, self.base.saturating_add(more));
        let text = format!(
            "{waiting} tasks wait for a slot: one more worker for each {each} of them, counted from {}",
            self.base
        );
        reason(Some(wants), text)
    }

    fn oldest_ready(&self, load: &Workload) -> Reason {
        let most = self.policy.scale_up_wait;
        let late = load.waiting > 0 && load.oldest_wait >= most;
        let more = count(load.waiting.div_ceil(self.worker_slots));
        let wants = late.then(|| self.useful(load, self.base.saturating_add(more)));
        let waits = match load.waiting {
            0 => "no task waits".to_owned(),
            _ => format!("the oldest task waits for {}", brief(load.oldest_wait)),
        };
        Reason {
            rule: Rule::OldestReady,
            wants,
            text: match late {
                true => format!("{waits}, {} or longer", brief(most)),
                false => format!("{waits}; {} would call for more workers", brief(most)),
            },
        }
    }

    fn drain_time(&self, load: &Workload) -> Reason {
        let within = self.policy.drain_within;
        if load.waiting == 0 {
            return Reason {
                rule: Rule::DrainTime,
                wants: None,
                text: format!("nothing waits that is to be done within {}", brief(within)),
            };
        }
        let tasks = load.waiting.saturating_add(load.busy);
        let work = load.task_time.as_micros() * u128::from(tasks);
        let slots = work.div_ceil(within.as_micros().max(1));
        let workers = slots.div_ceil(u128::from(self.worker_slots));
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        Reason {
            rule: Rule::DrainTime,
            wants: Some(self.useful(load, workers)),
            text: format!(
                "{tasks} tasks of about {} are to be done within {}: {slots} slots",
                brief(load.task_time),
                brief(within)
            ),
        }
    }

    fn busy_share(&self, load: &Workload) -> Reason {
        let percent = self.policy.scale_up_busy_percent;
        let text = format!(
            "{} of {} slots are busy, {:.1} lately; workers are to have at most {percent} % of theirs busy",
            load.busy, load.slots, load.busy_lately
        );
        // A moment alone asks for nobody, and what is over for nobody any more.
        let busy = load.busy_lately.min(load.busy as f64);
        Reason {
            rule: Rule::BusyShare,
            wants: Some(self.workers_for(busy, percent)),
            text,
        }
    }

    /// Workers that have that share of their slots busy when so many are.
    fn workers_for(&self, busy: f64, percent: u32) -> u32 {
        let slots = self.worker_slots as f64 * f64::from(percent) / 100.0;
        // An average comes near to a number, and not quite there. A float is cut to the range of the integer.
        (busy / slots - 0.01).ceil() as u32
    }

    /// No more workers than there are tasks for.
    fn useful(&self, load: &Workload, workers: u32) -> u32 {
        let tasks = load.waiting.saturating_add(load.busy);
        workers.min(count(tasks.div_ceil(self.worker_slots)))
    }

    /// The workers below which it would soon be too few again: less is enough to keep one than to start one.
    fn kept(&self, load: &Workload) -> u32 {
        let busy = self.workers_for(load.busy as f64, self.policy.scale_down_busy_percent);
        let half = |span: Duration| span / 2;
        let is_backlog = load.waiting * 2 >= self.policy.scale_up_queue_depth
            && (load.takes()).is_none_or(|takes| takes >= half(self.policy.scale_up_backlog));
        let is_late = load.waiting > 0 && load.oldest_wait >= half(self.policy.scale_up_wait);
        match is_backlog || is_late {
            true => busy.max(self.wanted),
            // Without any worker it would be unknown again that none may take these.
            false if load.unserved > 0 => busy.max(self.wanted.min(1)),
            false => busy,
        }
    }

    fn idle_reason(&self, needed: u32, ago: Duration) -> Reason {
        let idle = self.policy.scale_down_idle;
        let text = match ago {
            Duration::ZERO => format!("{needed} are needed now"),
            _ => format!(
                "{needed} were needed {} ago; fewer are wanted when fewer have been enough for {}",
                brief(ago),
                brief(idle)
            ),
        };
        Reason {
            rule: Rule::ScaleDownIdle,
            wants: Some(needed),
            text,
        }
    }

    fn bounds(&self) -> [Reason; 2] {
        let (min, max) = (self.policy.min, self.policy.max);
        let bound = |rule, workers, text| Reason {
            rule,
            wants: Some(workers),
            text,
        };
        [
            bound(Rule::Min, min, format!("there are never fewer than {min}")),
            bound(Rule::Max, max, format!("there are never more than {max}")),
        ]
    }

    fn bounded(&self, workers: u32) -> u32 {
        workers.clamp(self.policy.min, self.policy.max)
    }

    fn decided_by(&self, strongest: Rule, asked: u32) -> Rule {
        if asked > self.policy.max {
            Rule::Max
        } else if asked == self.wanted && asked > self.policy.min {
            strongest
        } else if self.wanted == self.policy.min {
            Rule::Min
        } else {
            Rule::ScaleDownIdle
        }
    }

    fn next_change_at(
        &self,
        now: Timestamp,
        needed_at: Timestamp,
        asked: u32,
    ) -> Option<Timestamp> {
        let fewer = (self.wanted > self.policy.min && needed_at < now)
            .then(|| needed_at.saturating_add(self.policy.scale_down_idle));
        let steps = asked > self.base && self.wanted < self.policy.max;
        let raised_at = self.raised_at.filter(|_| steps);
        let cooldown = self.policy.cooldown;
        let more = raised_at.and_then(|at| {
            let ends = [cooldown, cooldown * PATIENCE].map(|span| at.saturating_add(span));
            ends.into_iter().find(|&end| end > now)
        });
        fewer.into_iter().chain(more).min()
    }
}

impl Workload {
    /// How long the workers that are there will have slots busy with what waits; none if there are none.
    fn takes(&self) -> Option<Duration> {
        let work = self.task_time.as_micros() * u128::from(self.waiting);
        Some(micros_to_span(work.checked_div(u128::from(self.slots))?))
    }
}

fn least_busy_first(mut workers: Vec<WorkerLoad>) -> Vec<WorkerLoad> {
    workers.sort_by(|one, other| {
        let rank = |it: &WorkerLoad| (it.is_draining, it.leases);
        rank(one)
            .cmp(&rank(other))
            .then_with(|| one.worker.cmp(&other.worker))
    });
    workers
}

fn micros_to_span(micros: u128) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// A count of workers; what is too much for one is more than there may ever be.
fn count<T: TryInto<u32>>(number: T) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}
