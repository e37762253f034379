//! The sampled tables of a capture: which field lies in which column, and how rows are written and read.

use rusqlite::{Connection, Row, params_from_iter};

use super::cell::{Budget, Cell, check_time};
use super::error::StoreError;
use crate::model::*;

/// A sample that is one row of one table.
pub(super) trait Record: Sized {
    const TABLE: &'static str;
    const COLUMNS: &'static [&'static str];
    /// When it was sampled. Rows lie in this order; kinds without a time give the same for all.
    fn time(&self) -> UnixMs;
    fn store(&self, insert: &mut rusqlite::Statement<'_>) -> Result<(), StoreError>;
    fn load(row: &Row<'_>, budget: &mut Budget) -> Result<Self, StoreError>;
}

/// Writes samples in time order (those of one time stay in the order given).
pub(super) fn store_all<R: Record>(db: &Connection, records: &[R]) -> Result<(), StoreError> {
    let marks = vec!["?"; R::COLUMNS.len()].join(",");
    let mut insert = db.prepare(&format!("INSERT INTO {}({}) VALUES({marks})", R::TABLE, R::COLUMNS.join(",")))?;
    let mut ordered: Vec<&R> = records.iter().collect();
    ordered.sort_by_key(|record| record.time());
    for record in ordered {
        check_time(record.time()).and_then(|()| record.store(&mut insert)).map_err(in_table::<R>)?;
    }
    Ok(())
}

/// Reads samples, which must lie in time order.
pub(super) fn load_all<R: Record>(db: &Connection, budget: &mut Budget) -> Result<Vec<R>, StoreError> {
    let mut select = db.prepare(&format!("SELECT {} FROM {} ORDER BY rowid", R::COLUMNS.join(","), R::TABLE))?;
    let mut rows = select.query([])?;
    let mut records: Vec<R> = Vec::new();
    while let Some(row) = rows.next()? {
        budget.spend(1)?;
        budget.hold(size_of::<R>() as u64)?;
        let record = R::load(row, budget).map_err(in_table::<R>)?;
        check_time(record.time()).map_err(in_table::<R>)?;
        if records.last().is_some_and(|last| record.time() < last.time()) {
            return Err(in_table::<R>(StoreError::damaged("rows are not in time order")));
        }
        records.push(record);
    }
    Ok(records)
}

fn in_table<R: Record>(error: StoreError) -> StoreError {
    StoreError::new(error.kind, format!("table {}: {}", R::TABLE, error.message))
}

macro_rules! record {
    ($kind:ident in $table:literal by $time:expr; $($column:literal = $field:ident),* $(,)?) => {
        impl Record for $kind {
            const TABLE: &'static str = $table;
            const COLUMNS: &'static [&'static str] = &[$($column),*];
            fn time(&self) -> UnixMs {
                let time: fn(&Self) -> UnixMs = $time;
                time(self)
            }
            fn store(&self, insert: &mut rusqlite::Statement<'_>) -> Result<(), StoreError> {
                insert.execute(params_from_iter([$(self.$field.store()?),*]))?;
                Ok(())
            }
            fn load(row: &Row<'_>, budget: &mut Budget) -> Result<Self, StoreError> {
                let mut column = 0..;
                let mut next = || row.get_ref(column.next().unwrap_or_default());
                Ok($kind { $($field: Cell::load(next()?, budget)?),* })
            }
        }
    };
}

record!(SessionSample in "sessions" by |s| s.at;
    "at" = at, "pid" = pid, "backend_type" = backend_type, "state" = state, "wait_class" = wait_class,
    "wait_event" = wait_event, "query_id" = query_id, "xact_age_ms" = xact_age_ms, "query_age_ms" = query_age_ms,
    "state_age_ms" = state_age_ms, "xmin_age" = xmin_age, "blocked_by" = blocked_by, "user" = user,
    "database" = database, "application" = application, "client" = client);

record!(LockSample in "locks" by |s| s.at;
    "at" = at, "pid" = pid, "lock_type" = lock_type, "relation" = relation, "mode" = mode, "granted" = granted);

record!(StatementSample in "statements" by |s| s.at;
    "at" = at, "query_id" = query_id, "calls" = calls, "total_exec_ms" = total_exec_ms, "rows" = rows,
    "shared_blks_hit" = shared_blks_hit, "shared_blks_read" = shared_blks_read,
    "shared_blks_dirtied" = shared_blks_dirtied, "temp_blks_read" = temp_blks_read,
    "temp_blks_written" = temp_blks_written, "wal_bytes" = wal_bytes, "jit_ms" = jit_ms);

record!(TableSample in "tables" by |s| s.at;
    "at" = at, "name" = table, "seq_scan" = seq_scan, "seq_tup_read" = seq_tup_read, "idx_scan" = idx_scan,
    "idx_tup_fetch" = idx_tup_fetch, "n_tup_ins" = n_tup_ins, "n_tup_upd" = n_tup_upd,
    "n_tup_hot_upd" = n_tup_hot_upd, "n_tup_del" = n_tup_del, "n_live_tup" = n_live_tup,
    "n_dead_tup" = n_dead_tup, "n_mod_since_analyze" = n_mod_since_analyze, "since_vacuum_s" = since_vacuum_s,
    "since_analyze_s" = since_analyze_s, "autovacuum_count" = autovacuum_count, "table_bytes" = table_bytes,
    "index_bytes" = index_bytes, "frozen_xid_age" = frozen_xid_age);

record!(IndexSample in "indexes" by |s| s.at;
    "at" = at, "name" = index, "table_name" = table, "idx_scan" = idx_scan, "bytes" = bytes,
    "enforces" = constraint, "valid" = valid, "columns" = columns, "definition" = definition);

record!(HolderSample in "holders" by |s| s.at;
    "at" = at, "kind" = kind, "name" = name, "active" = active, "lag_bytes" = lag_bytes, "lag_ms" = lag_ms,
    "xmin_age" = xmin_age);

record!(Event in "events" by |s| s.at;
    "at" = at, "source" = source, "kind" = kind, "object" = object, "text" = text);

record!(Alert in "alerts" by |s| s.starts_at;
    "fingerprint" = fingerprint, "name" = name, "status" = status, "source" = source, "starts_at" = starts_at,
    "ends_at" = ends_at, "labels" = labels, "summary" = summary);

record!(ProbeCost in "bill" by |_| 0;
    "probe" = probe, "runs" = runs, "failures" = failures, "total_ms" = total_ms, "max_ms" = max_ms);
