//! Results by the vectors of their texts.

use std::mem::size_of;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use hashlink::LinkedHashMap;
use levelflow_common::{CacheKey, RunId};

use crate::vector::Vector;

/// Bytes of an entry beside its text and its vector.
const ENTRY_BYTES: usize = 2 * size_of::<CacheKey>() + size_of::<Entry>();

/// What of a text is known beside its vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The text.
    pub text: Arc<str>,
    /// The run whose task computed the result.
    pub run_id: RunId,
    /// That task, by its id in the workflow.
    pub task_id: Arc<str>,
}

/// A result whose text is near.
#[derive(Clone, Debug, PartialEq)]
pub struct Near {
    /// What the result is found by.
    pub key: CacheKey,
    /// The cosine of the angle between the vectors.
    pub similarity: f32,
    /// Where it comes from.
    pub origin: Origin,
}

/// How full an index is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexStatistics {
    /// Results whose texts are known.
    pub entries: u64,
    /// Bytes of their texts and vectors.
    pub bytes: u64,
    /// Results that had to go because there was no room.
    pub evictions: u64,
}

/// Results by the vectors of their texts, in scopes of which none sees another. What was not used for longest
/// goes first: of a scope that is full, or of the scope that was not used for longest when all of them have too
/// many bytes.
#[derive(Debug)]
pub struct Index {
    max_entries: usize,
    max_bytes: usize,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The latest used last.
    scopes: LinkedHashMap<CacheKey, Scope>,
    bytes: usize,
    entries: usize,
    evictions: u64,
}

/// The latest used last.
type Scope = LinkedHashMap<CacheKey, Entry>;

#[derive(Debug)]
struct Entry {
    vector: Vector,
    origin: Origin,
}

impl Entry {
    fn bytes(&self) -> usize {
        let vector = self.vector.dimensions() * size_of::<f32>();
        ENTRY_BYTES + vector + self.origin.text.len() + self.origin.task_id.len()
    }
}

impl Index {
    /// An index with room for so many entries in each scope, and so many bytes in all.
    pub fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            max_entries,
            max_bytes,
            known: RwLock::default(),
        }
    }

    /// Takes in a result, in place of one with the same key.
    pub fn insert(&self, scope: CacheKey, key: CacheKey, vector: Vector, origin: Origin) {
        let entry = Entry { vector, origin };
        let bytes = entry.bytes();
        if bytes > self.max_bytes {
            return;
        }
        let mut known = self.write();
        let entries = known.scopes.entry(scope).or_insert_with(Scope::new);
        let before = entries.insert(key, entry);
        known.scopes.to_back(&scope);
        known.bytes += bytes;
        match before {
            Some(before) => known.bytes -= before.bytes(),
            None => known.entries += 1,
        }
        let is_over = |known: &Known| {
            let entries = known.scopes.get(&scope).map_or(0, Scope::len);
            entries > self.max_entries
        };
        while is_over(&known) {
            known.evict(Some(scope));
        }
        while known.bytes > self.max_bytes {
            known.evict(None);
        }
    }

    /// The results of a scope whose texts are at least so near, the nearest first; at most so many.
    pub fn nearest(&self, scope: CacheKey, vector: &Vector, least: f32, most: usize) -> Vec<Near> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let Some(entries) = known.scopes.get(&scope) else {
            return Vec::new();
        };
        let mut nearest: Vec<(f32, CacheKey, &Entry)> = Vec::with_capacity(most + 1);
        for (&key, entry) in entries {
            let Some(similarity) = entry.vector.similarity(vector) else {
                continue;
            };
            let is_near = similarity >= least;
            if !is_near || (nearest.len() == most && nearest[most - 1].0 >= similarity) {
                continue;
            }
            let place = nearest.partition_point(|known| known.0 >= similarity);
            nearest.insert(place, (similarity, key, entry));
            nearest.truncate(most);
        }
        let near = |(similarity, key, entry): (f32, CacheKey, &Entry)| Near {
            key,
            similarity,
            origin: entry.origin.clone(),
        };
        nearest.into_iter().map(near).collect()
    }

    /// A result was used.
    pub fn used(&self, scope: CacheKey, key: CacheKey) {
        let mut known = self.write();
        known.scopes.to_back(&scope);
        if let Some(entries) = known.scopes.get_mut(&scope) {
            entries.to_back(&key);
        }
    }

    /// Forgets a result that is not there any more.
    pub fn remove(&self, scope: CacheKey, key: CacheKey) {
        let mut known = self.write();
        if let Some(entries) = known.scopes.get_mut(&scope)
            && let Some(entry) = entries.remove(&key)
        {
            let is_empty = entries.is_empty();
            known.forgotten(&entry);
            if is_empty {
                known.scopes.remove(&scope);
            }
        }
    }

    /// How full it is.
    pub fn statistics(&self) -> IndexStatistics {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        IndexStatistics {
            entries: known.entries as u64,
            bytes: known.bytes as u64,
            evictions: known.evictions,
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Removes what was not used for longest, of this scope or else of the one that was not used for longest.
    fn evict(&mut self, scope: Option<CacheKey>) {
        let scope = scope.or_else(|| self.scopes.front().map(|(&scope, _)| scope));
        let Some(scope) = scope else { return };
        let Some(entries) = self.scopes.get_mut(&scope) else {
            return;
        };
        let oldest = entries.pop_front();
        if entries.is_empty() {
            self.scopes.remove(&scope);
        }
        if let Some((_, entry)) = oldest {
            self.forgotten(&entry);
            self.evictions += 1;
        }
    }

    fn forgotten(&mut self, entry: &Entry) {
        self.entries -= 1;
        self.bytes -= entry.bytes();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn key(number: u8) -> CacheKey {
        CacheKey::from_bytes([number; 32])
    }

    fn origin(text: &str) -> Origin {
        Origin {
            text: text.into(),
            run_id: RunId::from_uuid(Uuid::nil()),
            task_id: "t".into(),
        }
    }

    /// The vector at this angle, in degrees.
    fn at(degrees: f32) -> Vector {
        let radians = degrees.to_radians();
        Vector::new(vec![radians.cos(), radians.sin()]).unwrap()
    }

    fn keys(near: &[Near]) -> Vec<CacheKey> {
        near.iter().map(|near| near.key).collect()
    }

    #[test]
    fn the_nearest_of_the_scope_come_first() {
        let index = Index::new(100, 1 << 20);
        for degrees in [40, 10, 5, 20, 80] {
            index.insert(key(1), key(degrees), at(degrees.into()), origin("a"));
        }
        index.insert(key(2), key(0), at(0.0), origin("b"));
        let near = index.nearest(key(1), &at(0.0), 0.9, 2);
        assert_eq!(keys(&near), [key(5), key(10)]);
        assert!((near[0].similarity - 5f32.to_radians().cos()).abs() < 1e-6);
        assert_eq!(
            keys(&index.nearest(key(1), &at(0.0), 0.9, 9)),
            [5, 10, 20].map(key)
        );
        assert_eq!(index.nearest(key(3), &at(0.0), -1.0, 9), []);
        index.remove(key(1), key(5));
        assert_eq!(keys(&index.nearest(key(1), &at(0.0), 0.9, 1)), [key(10)]);
        assert_eq!(index.statistics().entries, 5);
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let index = Index::new(2, 1 << 20);
        for number in [1, 2] {
            index.insert(key(0), key(number), at(0.0), origin("a"));
        }
        index.used(key(0), key(1));
        index.insert(key(0), key(3), at(0.0), origin("a"));
        let mut left = keys(&index.nearest(key(0), &at(0.0), 0.0, 9));
        left.sort();
        assert_eq!(left, [key(1), key(3)]);
        assert_eq!(index.statistics().evictions, 1);

        let all = index.statistics().bytes as usize;
        let index = Index::new(100, all);
        for (scope, number) in [(1, 1), (2, 2)] {
            index.insert(key(scope), key(number), at(0.0), origin("a"));
        }
        index.used(key(1), key(1));
        index.insert(key(3), key(3), at(0.0), origin("a"));
        let left = |scope| index.nearest(key(scope), &at(0.0), 0.0, 9).len();
        assert_eq!([left(1), left(2), left(3)], [1, 0, 1]);
    }

    proptest! {
        #[test]
        fn it_keeps_to_its_bounds_and_gives_what_a_scan_of_the_latest_gives(
            steps in prop::collection::vec((0u8..3, 0u8..9, 0.0f32..90.0, any::<bool>()), 1..80),
        ) {
            let index = Index::new(4, 1 << 20);
            // By scope, the keys with their angles, the latest last.
            let mut model: BTreeMap<u8, Vec<(u8, f32)>> = BTreeMap::new();
            for (scope, number, degrees, is_removed) in steps {
                let known = model.entry(scope).or_default();
                known.retain(|known| known.0 != number);
                if is_removed {
                    index.remove(key(scope), key(number));
                } else {
                    index.insert(key(scope), key(number), at(degrees), origin("text"));
                    known.push((number, degrees));
                    if known.len() > 4 {
                        known.remove(0);
                    }
                }
                let similarity = |degrees: f32| at(degrees).similarity(&at(0.0)).unwrap();
                let mut near: Vec<_> = known.iter().map(|known| (similarity(known.1), known.0)).collect();
                near.retain(|near| near.0 >= 0.5);
                near.sort_by(|one, two| two.0.total_cmp(&one.0));
                let expected: Vec<_> = near.iter().map(|near| key(near.1)).collect();
                let found = index.nearest(key(scope), &at(0.0), 0.5, 9);
                prop_assert_eq!(keys(&found), expected);
            }
            let count: usize = model.values().map(Vec::len).sum();
            prop_assert_eq!(index.statistics().entries, count as u64);
            prop_assert_eq!(index.statistics().bytes == 0, count == 0);
        }
    }
}
