//! What is read from the database.

use std::sync::Arc;

use bytes::Bytes;
use levelflow_common::view::{RunSummary, TaskCounts};
use levelflow_common::{RunId, Timestamp, WorkflowDigest};
use levelflow_engine::RunNumber;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, ToSql, Type};
use uuid::Uuid;

use super::database::{Database, Parameter};
use super::text;
use crate::codec;
use crate::column;
use crate::error::{DecodeError, StoreError};
use crate::journal_page::JournalPage;
use crate::port::{KnownKey, RunFilter, RunPage, SequencedRecord};
use crate::summary;

/// The condition of the partial index on open runs, word for word.
pub(super) const OPEN: &str = "status IN ('running', 'cancelling')";

const RUN_COLUMNS: &str = "number, run_id, workflow, digest, tenant, priority, labels::text, submitted_at, \
     status, finished_at, total, succeeded, failed, skipped, cancelled, failure, resumed_from";

impl Database {
    /// Records of a run after a sequence number.
    pub(super) async fn journal(
        &self,
        id: RunId,
        after_sequence: u64,
        limit: usize,
    ) -> Result<Option<Vec<SequencedRecord>>, StoreError> {
        let schema = &self.schema;
        let found = self.find(id, "number").await?;
        let Some(number) = found.map(|row| row.get::<_, i64>(0)) else {
            return Ok(None);
        };
        let run = RunNumber(column::number(number));
        let mut page = JournalPage::new(run, after_sequence, limit);
        // The entry that holds the first wanted record may begin before it. Each has one record at least.
        let entries = format!(
            "SELECT first_sequence, records FROM {schema}.journal WHERE run = $1 AND first_sequence >= \
             (SELECT coalesce(max(first_sequence), 0) FROM {schema}.journal \
              WHERE run = $1 AND first_sequence <= $2) ORDER BY first_sequence LIMIT $3"
        );
        let wanted = column::integer(page.wanted);
        let limit = column::integer(limit as u64);
        let parameters: [Parameter<'_>; 3] = [
            (&number, Type::INT8),
            (&wanted, Type::INT8),
            (&limit, Type::INT8),
        ];
        let rows = self.query("read a journal", &entries, &parameters).await?;
        for row in &rows {
            if page.is_full() {
                break;
            }
            let first = column::number(row.get(0));
            page.add(first, codec::decode(run, first, blob(row, 1))?)?;
        }
        Ok(Some(page.into_records()))
    }

    /// The row of a run.
    pub(super) async fn summary(&self, id: RunId) -> Result<Option<RunSummary>, StoreError> {
        let found = self.find(id, RUN_COLUMNS).await?;
        found.map(|row| Ok(read_run(&row)?.1)).transpose()
    }

    /// The row of a run. Looks first where its id says that it should be: planning for all partitions takes
    /// longer than the search.
    async fn find(&self, id: RunId, columns: &str) -> Result<Option<Row>, StoreError> {
        const ACTION: &str = "find a run";

        let find = format!(
            "SELECT {columns} FROM {}.runs WHERE run_id = $1",
            self.schema
        );
        let id_column = uuid(id);
        if let Some((from, to)) = self.partitions.around(id) {
            let near = format!("{find} AND number >= $2 AND number < $3");
            let parameters: [Parameter<'_>; 3] = [
                (&id_column, Type::UUID),
                (&from, Type::INT8),
                (&to, Type::INT8),
            ];
            let mut rows = self.query(ACTION, &near, &parameters).await?;
            if let Some(row) = rows.pop() {
                return Ok(Some(row));
            }
        }
        let mut rows = self
            .query(ACTION, &find, &[(&id_column, Type::UUID)])
            .await?;
        Ok(rows.pop())
    }

    /// A page of the runs that pass a filter.
    pub(super) async fn list(
        &self,
        filter: &RunFilter,
        cursor: Option<RunNumber>,
        limit: usize,
    ) -> Result<RunPage, StoreError> {
        let mut condition = Condition::of(filter, cursor);
        // One more than asked for tells whether there is a next page.
        let rows = column::integer(limit as u64).saturating_add(1);
        let rows = condition.parameter(rows, Type::INT8);
        let list = format!(
            "SELECT {RUN_COLUMNS} FROM {}.runs WHERE {} ORDER BY number DESC LIMIT {rows}",
            self.schema,
            condition.terms.join(" AND ")
        );
        let rows = self
            .query("list runs", &list, &condition.parameters())
            .await?;
        let mut page = RunPage::default();
        let mut last = None;
        for row in &rows {
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
    pub(super) async fn find_key(
        &self,
        tenant: &str,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<KnownKey>, StoreError> {
        // Two seeks in the index, however many expired runs have the key.
        let find = format!(
            "SELECT run, run_id, content FROM {schema}.submit_keys WHERE run = (SELECT max(run) FROM ( \
               SELECT max(run) AS run FROM {schema}.submit_keys \
               WHERE tenant = $1 AND key = $2 AND expires_at IS NULL \
               UNION ALL \
               SELECT max(run) FROM {schema}.submit_keys \
               WHERE tenant = $1 AND key = $2 AND expires_at > $3) AS newest)",
            schema = self.schema
        );
        let (tenant, key, now) = (text::of(tenant), text::of(key), column::micros(now));
        let parameters: [Parameter<'_>; 3] = [
            (&tenant, Type::TEXT),
            (&key, Type::TEXT),
            (&now, Type::INT8),
        ];
        let rows = self.query("find a submit key", &find, &parameters).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let content: &[u8] = row.get(2);
        let content = content.try_into().map_err(|_| StoreError::RunCorrupt {
            run: RunNumber(column::number(row.get(0))),
            source: DecodeError::Missing("content"),
        })?;
        Ok(Some(KnownKey {
            run_id: RunId::from_uuid(row.get(1)),
            content,
        }))
    }

    /// The canonical form of a workflow.
    pub(super) async fn definition(
        &self,
        digest: WorkflowDigest,
    ) -> Result<Option<Bytes>, StoreError> {
        let find = format!(
            "SELECT canonical FROM {}.definitions WHERE digest = $1",
            self.schema
        );
        let digest = digest.as_bytes().as_slice();
        let rows = self
            .query("read a definition", &find, &[(&digest, Type::BYTEA)])
            .await?;
        Ok(rows.first().map(|row| blob(row, 0)))
    }
}

/// A filter as SQL with its parameters.
struct Condition {
    terms: Vec<String>,
    values: Vec<(Box<dyn ToSql + Send + Sync>, Type)>,
}

impl Condition {
    fn of(filter: &RunFilter, cursor: Option<RunNumber>) -> Self {
        let mut condition = Self {
            terms: vec!["TRUE".to_owned()],
            values: Vec::new(),
        };
        if let Some(cursor) = cursor {
            condition.term("number <", column::integer(cursor.0), Type::INT8);
        }
        for (column, wanted) in [("workflow", &filter.workflow), ("tenant", &filter.tenant)] {
            if let Some(wanted) = wanted {
                condition.term(&format!("{column} ="), text::of(wanted), Type::TEXT);
            }
        }
        if let Some(bound) = filter.submitted_after {
            condition.term("submitted_at >=", column::micros(bound), Type::INT8);
        }
        if let Some(bound) = filter.submitted_before {
            condition.term("submitted_at <", column::micros(bound), Type::INT8);
        }
        if !filter.labels.is_empty() {
            let place = condition.parameter(text::of_labels(&filter.labels), Type::TEXT);
            // The second term is that of the index.
            condition
                .terms
                .push(format!("labels @> {place}::jsonb AND labels <> '{{}}'"));
        }
        if !filter.statuses.is_empty() {
            let words: Vec<_> = filter
                .statuses
                .iter()
                .map(|status| format!("'{}'", status.as_str()))
                .collect();
            condition
                .terms
                .push(format!("status IN ({})", words.join(", ")));
        }
        condition
    }

    fn term(&mut self, start: &str, value: impl ToSql + Send + Sync + 'static, ty: Type) {
        let place = self.parameter(value, ty);
        self.terms.push(format!("{start} {place}"));
    }

    /// Adds a parameter, and gives its place.
    fn parameter(&mut self, value: impl ToSql + Send + Sync + 'static, ty: Type) -> String {
        self.values.push((Box::new(value), ty));
        format!("${}", self.values.len())
    }

    fn parameters(&self) -> Vec<Parameter<'_>> {
        let values = self.values.iter();
        values
            .map(|(value, ty)| (&**value as &(dyn ToSql + Sync), ty.clone()))
            .collect()
    }
}

/// Bytes of a row.
pub(super) fn blob(row: &Row, column: usize) -> Bytes {
    Bytes::copy_from_slice(row.get(column))
}

fn uuid(run: RunId) -> Uuid {
    Uuid::from_bytes(*run.as_bytes())
}

/// The number and the row of a run, from [`RUN_COLUMNS`].
fn read_run(row: &Row) -> Result<(RunNumber, RunSummary), StoreError> {
    let number = RunNumber(column::number(row.get(0)));
    let summary = read_summary(row).map_err(|source| StoreError::RunCorrupt {
        run: number,
        source,
    })?;
    Ok((number, summary))
}

fn read_summary(row: &Row) -> Result<RunSummary, DecodeError> {
    let finished_at: Option<i64> = get(row, 9)?;
    let failure: Option<&[u8]> = get(row, 15)?;
    let resumed_from: Option<Uuid> = get(row, 16)?;
    Ok(RunSummary {
        run_id: RunId::from_uuid(get(row, 1)?),
        workflow: get::<&str>(row, 2)?.into(),
        digest: WorkflowDigest::from_slice(get(row, 3)?).ok_or(DecodeError::Missing("digest"))?,
        tenant: get::<&str>(row, 4)?.into(),
        priority: summary::read_priority(get(row, 5)?)?,
        labels: summary::read_labels(get(row, 6)?)?,
        submitted_at: column::time(get(row, 7)?),
        status: summary::read_status(get(row, 8)?)?,
        finished_at: finished_at.map(column::time),
        counts: TaskCounts {
            total: count(row, 10)?,
            succeeded: count(row, 11)?,
            failed: count(row, 12)?,
            skipped: count(row, 13)?,
            cancelled: count(row, 14)?,
        },
        failure: failure.map(codec::decode_failure).transpose()?,
        resumed_from: resumed_from.map(RunId::from_uuid),
    })
}

fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, DecodeError> {
    row.try_get(column)
        .map_err(|error| DecodeError::Row(Arc::new(error)))
}

fn count(row: &Row, column: usize) -> Result<u32, DecodeError> {
    u32::try_from(get::<i64>(row, column)?).map_err(|_| DecodeError::Missing("counts"))
}
