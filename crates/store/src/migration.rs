//! The versions of the schema: a numbered set for each database, since their tables differ.
//!
//! A database applies what is [`pending`] in order, each migration in a transaction that also records
//! its number. A number, once released, never changes its meaning.

/// A step from one version of the schema to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Migration {
    /// The version that it leads to; they count from 1.
    pub(crate) version: u32,
    pub(crate) sql: &'static str,
}

/// Every migration of the SQLite database, in order.
pub(crate) const SQLITE: &[Migration] = &[
    Migration {
        version: 1,
        sql: include_str!("../migrations/sqlite/0001_journal_and_runs.sql"),
    },
    Migration {
        version: 2,
        sql: include_str!("../migrations/sqlite/0002_filed.sql"),
    },
];

/// Every migration of the PostgreSQL database, in order.
pub(crate) const POSTGRES: &[Migration] = &[Migration {
    version: 1,
    sql: include_str!("../migrations/postgres/0001_tables.sql"),
}];

/// The newest version of a set.
pub(crate) fn latest(set: &[Migration]) -> u32 {
    set.last().map_or(0, |migration| migration.version)
}

/// What has to be applied to a database of version `found`; none if a newer program wrote it.
pub(crate) fn pending(set: &[Migration], found: u32) -> Option<&[Migration]> {
    if found > latest(set) {
        return None;
    }
    let done = set.partition_point(|migration| migration.version <= found);
    Some(&set[done..])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const fn migration(version: u32, sql: &'static str) -> Migration {
        Migration { version, sql }
    }

    #[test]
    fn versions_count_from_one() {
        for set in [SQLITE, POSTGRES] {
            for (place, migration) in (1..).zip(set) {
                assert_eq!(migration.version, place);
            }
        }
    }

    #[test]
    fn only_newer_versions_are_pending() {
        let set = [migration(1, "a"), migration(2, "b"), migration(3, "c")];
        let versions = |found| {
            pending(&set, found).map(|rest| rest.iter().map(|m| m.version).collect::<Vec<_>>())
        };
        assert_eq!(versions(0), Some(vec![1, 2, 3]));
        assert_eq!(versions(2), Some(vec![3]));
        assert_eq!(versions(3), Some(vec![]));
        assert_eq!(versions(4), None);
    }
}
