//! What is read from the database.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use levelflow_common::view::{RunSummary, TaskCounts};
use levelflow_common::{RunId, ShardId, Timestamp, WorkflowDigest};
use levelflow_engine::{Record, RunNumber};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row, params, params_from_iter};

use crate::codec;
use crate::column;
use crate::error::{DecodeError, StoreError};
use crate::journal_page::{JournalPage, check_follows};
use crate::port::{KnownKey, Recovery, RunFilter, RunPage, SequencedRecord};
use crate::summary;

/// The condition of the partial index on open runs, word for word.
const OPEN: &str = "status IN ('running', 'cancelling')";

const RUN_COLUMNS: &str = "number, run_id, workflow, digest, tenant, priority, labels, submitted_at, \
     status, finished_at, total, succeeded, failed, skipped, cancelled, failure, resumed_from";

/// A connection, and the name of its file for errors.
pub(super) struct Database<'a> {
    pub(super) connection: &'a Connection,
    pub(super) path: &'a Arc<Path>,
}

impl Database<'_> {
    fn failed(&self, error: rusqlite::Error) -> StoreError {
        StoreError::database("read", self.path, error)
    }

    /// Records of a run after a sequence number.
    pub(super) fn journal(
        &self,
        id: RunId,
        after_sequence: u64,
        limit: usize,
    ) -> Result<Option<Vec<SequencedRecord>>, StoreError> {
        let number: Option<i64> = self
            .connection
            .prepare_cached("SELECT number FROM runs WHERE run_id = ?1")
            .and_then(|mut find| find.query_row([id.as_bytes()], |row| row.get(0)).optional())
            .map_err(|error| self.failed(error))?;
        let Some(number) = number else {
            return Ok(None);
        };
        let run = RunNumber(column::number(number));
        // The entry that holds the first wanted record may begin before it.
        let mut entries = self
            .connection
            .prepare_cached(
                "SELECT first_sequence, records FROM journal WHERE run = ?1 AND first_sequence >= \
                 (SELECT coalesce(max(first_sequence), 0) FROM journal \
                  WHERE run = ?1 AND first_sequence <= ?2) ORDER BY first_sequence",
            )
            .map_err(|error| self.failed(error))?;
        let mut page = JournalPage::new(run, after_sequence, limit);
        let mut rows = entries
            .query(params![number, column::integer(page.wanted)])
            .map_err(|error| self.failed(error))?;
        while !page.is_full()
            && let Some(row) = rows.next().map_err(|error| self.failed(error))?
        {
            let (first, records) = self.entry(run, row, 0)?;
            page.add(first, records)?;
        }
        Ok(Some(page.into_records()))
    }

    /// The first sequence number and the records of a journal row whose columns begin at `at`.
    fn entry(
        &self,
        run: RunNumber,
        row: &Row<'_>,
        at: usize,
    ) -> Result<(u64, Vec<Record>), StoreError> {
        let read = || -> rusqlite::Result<(i64, Bytes)> {
            let bytes = row.get_ref(at + 1)?.as_blob()?;
            Ok((row.get(at)?, Bytes::copy_from_slice(bytes)))
        };
        let (first, bytes) = read().map_err(|error| self.failed(error))?;
        let first = column::number(first);
        Ok((first, codec::decode(run, first, bytes)?))
    }

    /// The row of a run.
    pub(super) fn summary(&self, id: RunId) -> Result<Option<RunSummary>, StoreError> {
        let mut find = self
            .connection
            .prepare_cached(&format!("SELECT {RUN_COLUMNS} FROM runs WHERE run_id = ?1"))
            .map_err(|error| self.failed(error))?;
        let mut rows = find
            .query([id.as_bytes()])
            .map_err(|error| self.failed(error))?;
        let row = rows.next().map_err(|error| self.failed(error))?;
        row.map(|row| Ok(read_run(row)?.1)).transpose()
    }

    /// A page of the runs that pass a filter.
    pub(super) fn list(
        &self,
        filter: &RunFilter,
        cursor: Option<RunNumber>,
        limit: usize,
    ) -> Result<RunPage, StoreError> {
        let (condition, mut values) = condition(filter, cursor);
        // One more than asked for tells whether there is a next page.
        values.push(Value::Integer(
            column::integer(limit as u64).saturating_add(1),
        ));
        let mut find = self
            .connection
            .prepare_cached(&format!(
                "SELECT {RUN_COLUMNS} FROM runs WHERE {condition} ORDER BY number DESC LIMIT ?"
            ))
            .map_err(|error| self.failed(error))?;
        let mut rows = find
            .query(params_from_iter(values))
            .map_err(|error| self.failed(error))?;
        let mut page = RunPage::default();
        let mut last = None;
        while let Some(row) = rows.next().map_err(|error| self.failed(error))? {
            if page.runs.len() == limit {
                page.next = last;
                break;
            }
            let (number, run) = read_run(row)?;
            page.runs.push(run);
            last = Some(number);
        }
        Ok(page)
    }

    /// The newest run of a submit key.
    pub(super) fn find_key(
        &self,
        tenant: &str,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<KnownKey>, StoreError> {
        // Two seeks in the index, however many expired runs have the key.
        let found: Option<(i64, [u8; 16], [u8; 32])> = self
            .connection
            .prepare_cached(
                "SELECT number, run_id, key_content FROM runs WHERE number = (SELECT max(number) FROM ( \
                   SELECT max(number) AS number FROM runs \
                   WHERE tenant = ?1 AND key = ?2 AND key_expires_at IS NULL \
                   UNION ALL \
                   SELECT max(number) FROM runs \
                   WHERE tenant = ?1 AND key = ?2 AND key_expires_at > ?3))",
            )
            .and_then(|mut find| {
                find.query_row(params![tenant, key, column::micros(now)], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })
                .optional()
            })
            .map_err(|error| self.failed(error))?;
        found
            .map(|(number, run_id, content)| {
                let run_id = RunId::from_slice(&run_id).ok_or(StoreError::RunCorrupt {
                    run: RunNumber(column::number(number)),
                    source: DecodeError::Missing("run_id"),
                })?;
                Ok(KnownKey { run_id, content })
            })
            .transpose()
    }

    /// The canonical form of a workflow.
    pub(super) fn definition(&self, digest: WorkflowDigest) -> Result<Option<Bytes>, StoreError> {
        let canonical: Option<Vec<u8>> = self
            .connection
            .prepare_cached("SELECT canonical FROM definitions WHERE digest = ?1")
            .and_then(|mut find| {
                find.query_row([digest.as_bytes()], |row| row.get(0))
                    .optional()
            })
            .map_err(|error| self.failed(error))?;
        Ok(canonical.map(Bytes::from))
    }

    /// The last commit that was filed.
    pub(super) fn filed(&self) -> Result<u64, StoreError> {
        let filed: i64 = self
            .connection
            .query_row("SELECT value FROM meta WHERE name = 'filed'", [], |row| {
                row.get(0)
            })
            .map_err(|error| self.failed(error))?;
        Ok(column::number(filed))
    }

    /// What a coordinator starts from.
    pub(super) fn recovery(&self) -> Result<Recovery, StoreError> {
        let (epoch, last): (i64, Option<i64>) = self
            .connection
            .query_row(
                "SELECT value, (SELECT max(number) FROM runs) FROM meta WHERE name = 'epoch'",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .map_err(|error| self.failed(error))?;
        Ok(Recovery {
            epoch: column::number(epoch),
            shards: vec![ShardId(0)],
            next_run: RunNumber(column::number(last.unwrap_or(0)) + 1),
            definitions: self.open_definitions()?,
            open: self.open_journals()?,
        })
    }

    fn open_definitions(&self) -> Result<Vec<(WorkflowDigest, Bytes)>, StoreError> {
        let mut find = self
            .connection
            .prepare(&format!(
                "SELECT digest, canonical FROM definitions \
                 WHERE digest IN (SELECT digest FROM runs WHERE {OPEN}) ORDER BY digest"
            ))
            .map_err(|error| self.failed(error))?;
        find.query_map([], |row| {
            let canonical: Vec<u8> = row.get(1)?;
            let digest: [u8; 32] = row.get(0)?;
            Ok((digest, Bytes::from(canonical)))
        })
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| self.failed(error))?
        .into_iter()
        .map(|(digest, canonical)| {
            let digest = WorkflowDigest::from_slice(&digest).expect("a digest is thirty-two bytes");
            Ok((digest, canonical))
        })
        .collect()
    }

    /// The journals of all open runs, in one scan in the order of the index.
    fn open_journals(&self) -> Result<Vec<(RunNumber, Vec<Record>)>, StoreError> {
        let mut scan = self
            .connection
            .prepare(&format!(
                "SELECT runs.number, journal.first_sequence, journal.records \
                 FROM runs INDEXED BY runs_open \
                 LEFT JOIN journal ON journal.run = runs.number \
                 WHERE {OPEN} ORDER BY runs.number, journal.first_sequence"
            ))
            .map_err(|error| self.failed(error))?;
        let mut rows = scan.query([]).map_err(|error| self.failed(error))?;
        let mut open: Vec<(RunNumber, Vec<Record>)> = Vec::new();
        while let Some(row) = rows.next().map_err(|error| self.failed(error))? {
            let number: i64 = row.get(0).map_err(|error| self.failed(error))?;
            let run = RunNumber(column::number(number));
            if row
                .get_ref(1)
                .is_ok_and(|column| column == rusqlite::types::ValueRef::Null)
            {
                return Err(StoreError::RunCorrupt {
                    run,
                    source: DecodeError::Missing("journal"),
                });
            }
            let (first, records) = self.entry(run, row, 1)?;
            match open.last_mut() {
                Some((last, journal)) if *last == run => {
                    check_follows(run, journal.len() as u64 + 1, first)?;
                    journal.extend(records);
                }
                _ => {
                    check_follows(run, 1, first)?;
                    open.push((run, records));
                }
            }
        }
        Ok(open)
    }
}

/// The filter as SQL with its parameters.
fn condition(filter: &RunFilter, cursor: Option<RunNumber>) -> (String, Vec<Value>) {
    let mut terms = vec!["TRUE".to_owned()];
    let mut values = Vec::new();
    let mut term = |sql: String, value: Value| {
        terms.push(sql);
        values.push(value);
    };
    if let Some(cursor) = cursor {
        term("number < ?".to_owned(), column::integer(cursor.0).into());
    }
    for (column, wanted) in [("workflow", &filter.workflow), ("tenant", &filter.tenant)] {
        if let Some(wanted) = wanted {
            term(format!("{column} = ?"), wanted.clone().into());
        }
    }
    if let Some(bound) = filter.submitted_after {
        term("submitted_at >= ?".to_owned(), column::micros(bound).into());
    }
    if let Some(bound) = filter.submitted_before {
        term("submitted_at < ?".to_owned(), column::micros(bound).into());
    }
    for (name, value) in &filter.labels {
        terms.push(
            "EXISTS (SELECT 1 FROM json_each(runs.labels) AS label \
             WHERE label.key = ? AND label.value = ?)"
                .to_owned(),
        );
        values.push(name.clone().into());
        values.push(value.clone().into());
    }
    if !filter.statuses.is_empty() {
        if !filter.statuses.iter().any(|status| status.is_terminal()) {
            terms.push(OPEN.to_owned());
        }
        let words: Vec<_> = filter
            .statuses
            .iter()
            .map(|status| format!("'{}'", status.as_str()))
            .collect();
        terms.push(format!("status IN ({})", words.join(", ")));
    }
    (terms.join(" AND "), values)
}

/// The number and the row of a run, from [`RUN_COLUMNS`].
fn read_run(row: &Row<'_>) -> Result<(RunNumber, RunSummary), StoreError> {
    // Rows are read by number, and the number itself cannot be damaged: it is the key of the row.
    let number = RunNumber(column::number(row.get(0).unwrap_or(0)));
    let summary = read_summary(row).map_err(|source| StoreError::RunCorrupt {
        run: number,
        source,
    })?;
    Ok((number, summary))
}

fn read_summary(row: &Row<'_>) -> Result<RunSummary, DecodeError> {
    let run_id: [u8; 16] = get(row, 1)?;
    let digest: [u8; 32] = get(row, 3)?;
    let priority: String = get(row, 5)?;
    let labels: String = get(row, 6)?;
    let status: String = get(row, 8)?;
    let finished_at: Option<i64> = get(row, 9)?;
    let failure: Option<Vec<u8>> = get(row, 15)?;
    let resumed_from: Option<[u8; 16]> = get(row, 16)?;
    Ok(RunSummary {
        run_id: RunId::from_slice(&run_id).ok_or(DecodeError::Missing("run_id"))?,
        workflow: get(row, 2)?,
        digest: WorkflowDigest::from_slice(&digest).ok_or(DecodeError::Missing("digest"))?,
        tenant: get(row, 4)?,
        priority: summary::read_priority(&priority)?,
        labels: summary::read_labels(&labels)?,
        submitted_at: column::time(get(row, 7)?),
        status: summary::read_status(&status)?,
        finished_at: finished_at.map(column::time),
        counts: TaskCounts {
            total: get(row, 10)?,
            succeeded: get(row, 11)?,
            failed: get(row, 12)?,
            skipped: get(row, 13)?,
            cancelled: get(row, 14)?,
        },
        failure: failure.as_deref().map(codec::decode_failure).transpose()?,
        resumed_from: resumed_from
            .map(|id| RunId::from_slice(&id).ok_or(DecodeError::Missing("resumed_from")))
            .transpose()?,
    })
}

fn get<T: rusqlite::types::FromSql>(row: &Row<'_>, column: usize) -> Result<T, DecodeError> {
    row.get(column)
        .map_err(|error| DecodeError::Column(Arc::new(error)))
}
