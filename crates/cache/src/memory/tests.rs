use levelflow_common::HumanDuration;
use proptest::prelude::*;

use super::*;
use crate::adaptive::AdaptiveTtl;

const TTL: Duration = Duration::from_secs(100);
const MIB: usize = 1024 * 1024;

fn key(number: u8) -> CacheKey {
    CacheKey::from_bytes([number; 32])
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn record(number: u8, bytes: usize, expires_at: Timestamp) -> Record {
    Record {
        key: key(number),
        sealed: vec![number; bytes].into(),
        labels: Arc::default(),
        expires_at,
    }
}

fn config(eviction: Eviction, max_entries: usize) -> MemoryConfig {
    MemoryConfig {
        max_entries,
        max_mib: 1,
        ttl: HumanDuration(TTL),
        eviction,
        adaptive: None,
    }
}

/// The tier by its definition: a list that is searched.
struct Model {
    eviction: Eviction,
    max_entries: usize,
    entries: Vec<ModelEntry>,
    moment: u64,
    age: u64,
}

#[derive(Clone)]
struct ModelEntry {
    number: u8,
    bytes: usize,
    expires_at: Timestamp,
    put: u64,
    used: u64,
    uses: u64,
}

impl Model {
    fn get(&mut self, number: u8, now: Timestamp) -> Option<usize> {
        self.moment += 1;
        self.entries
            .retain(|entry| entry.number != number || now < entry.expires_at);
        let moment = self.moment;
        let mut entries = self.entries.iter_mut();
        let entry = entries.find(|entry| entry.number == number)?;
        entry.used = moment;
        entry.uses += 1;
        Some(entry.bytes)
    }

    fn put(&mut self, number: u8, bytes: usize, now: Timestamp, expires_at: Timestamp) {
        self.moment += 1;
        self.entries.retain(|entry| now < entry.expires_at);
        let place = self.entries.iter().position(|entry| entry.number == number);
        let replaced = place.map(|place| self.entries.remove(place).uses);
        if bytes + OVERHEAD_BYTES > MIB || now >= expires_at {
            return;
        }
        while self.entries.len() == self.max_entries || self.bytes() + bytes + OVERHEAD_BYTES > MIB
        {
            let victims = self.entries.iter().enumerate();
            let (place, _) = victims
                .min_by_key(|(_, entry)| match self.eviction {
                    Eviction::Fifo => (0, entry.put),
                    Eviction::Lru => (0, entry.used),
                    Eviction::Lfu => (entry.uses, entry.used),
                })
                .unwrap();
            self.age = self.entries.remove(place).uses;
        }
        self.entries.push(ModelEntry {
            number,
            bytes,
            expires_at: expires_at.min(now.saturating_add(TTL)),
            put: self.moment,
            used: self.moment,
            uses: replaced.unwrap_or(self.age) + 1,
        });
    }

    fn bytes(&self) -> usize {
        let entries = self.entries.iter();
        entries.map(|entry| entry.bytes + OVERHEAD_BYTES).sum()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Get(u8),
    Put { number: u8, bytes: usize, ttl: u64 },
    Remove(u8),
    Sweep,
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = 0..12u8;
    let bytes = prop_oneof![
        3 => 0..2_000usize,
        2 => 100_000..400_000usize,
        1 => Just(MIB),
    ];
    let step = prop_oneof![
        6 => number.clone().prop_map(Step::Get),
        5 => (number.clone(), bytes, 0..200u64)
            .prop_map(|(number, bytes, ttl)| Step::Put { number, bytes, ttl }),
        1 => number.prop_map(Step::Remove),
        1 => Just(Step::Sweep),
        1 => (0..60u64).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    #[test]
    fn the_tier_does_what_its_definition_says(
        steps in steps(),
        eviction in prop::sample::select(&Eviction::ALL[..]),
        max_entries in 1..8usize,
    ) {
        let tier = MemoryTier::new(&config(eviction, max_entries));
        let mut model = Model { eviction, max_entries, entries: Vec::new(), moment: 0, age: 0 };
        let mut seconds = 1_000;
        for step in steps {
            let now = at(seconds);
            match step {
                Step::Get(number) => {
                    let found = tier.get_now(&key(number), now);
                    if let Some(sealed) = &found {
                        prop_assert!(sealed.iter().all(|&byte| byte == number));
                    }
                    prop_assert_eq!(found.map(|sealed| sealed.len()), model.get(number, now));
                }
                Step::Put { number, bytes, ttl } => {
                    let expires_at = at(seconds + ttl);
                    tier.put_now(&record(number, bytes, expires_at), now);
                    model.put(number, bytes, now, expires_at);
                }
                Step::Remove(number) => {
                    let before = model.entries.len();
                    model.entries.retain(|entry| entry.number != number);
                    let removed = tier.remove_now(&Target::Key(key(number)));
                    prop_assert_eq!(removed as usize, before - model.entries.len());
                }
                Step::Sweep => {
                    tier.sweep_now(now);
                    model.entries.retain(|entry| now < entry.expires_at);
                }
                Step::Pass(more) => seconds += more,
            }
            let usage = tier.usage_now();
            prop_assert_eq!(usage.entries as usize, model.entries.len());
            prop_assert_eq!(usage.bytes as usize, model.bytes());
            prop_assert!(usage.entries as usize <= max_entries && usage.bytes as usize <= MIB);
        }
    }
}

/// Puts and gets entries of a tier with room for three, and says which are left.
fn left(eviction: Eviction, trace: &str) -> String {
    let tier = MemoryTier::new(&config(eviction, 3));
    for word in trace.split(' ') {
        let number = word.as_bytes()[0];
        match word.len() {
            1 => assert!(tier.put_now(&record(number, 10, Timestamp::MAX), at(1))),
            _ => assert!(tier.get_now(&key(number), at(1)).is_some(), "{word}"),
        }
    }
    let present = |number: &u8| tier.remove_now(&Target::Key(key(*number))) == 1;
    (b'a'..=b'z').filter(present).map(char::from).collect()
}

#[test]
fn each_policy_evicts_what_it_is_named_for() {
    // `a` puts an entry, `a?` uses it.
    for (trace, lru, lfu, fifo) in [
        ("a b c d", "bcd", "bcd", "bcd"),
        ("a b c a? d", "acd", "acd", "bcd"),
        ("a b c a? a? b? c? d", "bcd", "acd", "bcd"),
        ("a b c b? b? a? c? d e", "cde", "bde", "cde"),
        ("a b a c d", "acd", "acd", "acd"),
    ] {
        assert_eq!(left(Eviction::Lru, trace), lru, "lru {trace}");
        assert_eq!(left(Eviction::Lfu, trace), lfu, "lfu {trace}");
        assert_eq!(left(Eviction::Fifo, trace), fifo, "fifo {trace}");
    }
}

#[test]
fn what_was_popular_once_goes_after_a_while() {
    let popular = "a a? a? a? ";
    assert!(left(Eviction::Lfu, &format!("{popular}b c d")).contains('a'));
    let others: Vec<String> = ('b'..='p').map(|name| format!("{name} {name}?")).collect();
    let trace = format!("{popular}{}", others.join(" "));
    assert_eq!(left(Eviction::Lfu, &trace), "nop");
}

#[test]
fn entries_that_are_hit_often_live_longer_where_that_is_wanted() {
    let mut settings = config(Eviction::Lru, 10);
    settings.adaptive = Some(AdaptiveTtl {
        longest: HumanDuration(3 * TTL),
        // Once in the time that entries live.
        hits_per_hour: 36,
    });
    let tier = MemoryTier::new(&settings);
    for number in 0..3 {
        tier.put_now(&record(number, 10, at(260)), at(0));
    }
    for _ in 0..10 {
        tier.get_now(&key(1), at(99));
        tier.get_now(&key(2), at(99));
    }
    assert_eq!(tier.get_now(&key(0), at(100)), None);
    assert!(tier.get_now(&key(1), at(100)).is_some());
    assert_eq!(tier.sweep_now(at(150)), 0);
    assert!(tier.get_now(&key(1), at(259)).is_some());
    // What the entry itself says ends all.
    assert_eq!(tier.get_now(&key(1), at(260)), None);
    assert_eq!(tier.sweep_now(at(260)), 1);
    assert_eq!(tier.usage_now(), Usage::default());
    assert_eq!(tier.counters().expired, 3);
}

crate::conformance::conformance! { (Box::new(MemoryTier::new(&MemoryConfig::default())), ()) }
