//! Signals from cumulative counters of database and server, and the holders of WAL and of the xmin horizon.

use tokio_postgres::Row;

use crate::capture::Frame;
use crate::model::{HolderSample, UnixMs};

use super::rates::Rates;
use super::row::{count, get, text};

/// Counter column and the signal it becomes, per second.
const DATABASE: [(&str, &str, &str); 11] = [
    ("xact_rollback", "rollbacks_per_s", "1/s"),
    ("tup_returned", "tup_returned_per_s", "1/s"),
    ("tup_fetched", "tup_fetched_per_s", "1/s"),
    ("tup_inserted", "tup_inserted_per_s", "1/s"),
    ("tup_updated", "tup_updated_per_s", "1/s"),
    ("tup_deleted", "tup_deleted_per_s", "1/s"),
    ("temp_files", "temp_files_per_s", "1/s"),
    ("temp_bytes", "temp_bytes_rate", "bytes/s"),
    ("deadlocks", "deadlocks_per_s", "1/s"),
    ("sessions", "new_sessions_per_s", "1/s"),
    ("wal_bytes", "wal_bytes_rate", "bytes/s"),
];

const SERVER: [(&str, &str, &str); 5] = [
    ("checkpoints_req", "checkpoints_requested_per_s", "1/s"),
    ("checkpoints_timed", "checkpoints_timed_per_s", "1/s"),
    ("buffers_checkpoint", "checkpoint_buffers_per_s", "1/s"),
    ("buffers_backend", "backend_buffers_per_s", "1/s"),
    ("archive_failures", "archive_failures_per_s", "1/s"),
];

/// With fewer block requests than this in an interval, their hit ratio says nothing.
const ENOUGH_BLOCKS: f64 = 100.0;

/// Reads the row of the database probe.
pub(super) fn database(row: &Row, rates: &mut Rates, frame: &mut Frame) {
    let at = count(row, "at_ms");
    rate_each(&DATABASE, row, at, rates, frame);
    let transactions = count(row, "xact_commit") + count(row, "xact_rollback");
    if let Some(tps) = rates.per_second("transactions", at, transactions) {
        frame.values.push(("tps".into(), "1/s", tps));
    }
    let hit = rates.growth("blks_hit", at, count(row, "blks_hit"));
    let read = rates.growth("blks_read", at, count(row, "blks_read"));
    if let (Some((hit, _)), Some((read, seconds))) = (hit, read) {
        frame.values.push(("blks_read_per_s".into(), "1/s", read / seconds));
        if hit + read > ENOUGH_BLOCKS {
            frame.values.push(("cache_hit_ratio".into(), "ratio", hit / (hit + read)));
        }
    }
}

/// Reads the row of the server probe.
pub(super) fn server(row: &Row, rates: &mut Rates, frame: &mut Frame) {
    rate_each(&SERVER, row, count(row, "at_ms"), rates, frame);
    if let Some(workers) = get::<i64>(row, "vacuum_workers") {
        frame.values.push(("vacuum_workers".into(), "sessions", workers as f64));
    }
    if let Some(age) = get(row, "frozen_xid_age") {
        frame.values.push(("frozen_xid_age".into(), "transactions", age));
    }
}

fn rate_each(table: &[(&'static str, &str, &'static str)], row: &Row, at: f64, rates: &mut Rates, frame: &mut Frame) {
    for (column, signal, unit) in table {
        if let Some(value) = get(row, column)
            && let Some(rate) = rates.per_second(column, at, value)
        {
            frame.values.push(((*signal).to_owned(), unit, rate));
        }
    }
}

/// Primary or standby, and on which timeline a primary writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Role {
    in_recovery: Option<bool>,
    timeline: Option<i32>,
}

impl Role {
    /// Reads the row of the role probe.
    pub fn read(row: &Row) -> Self {
        Self { in_recovery: get(row, "in_recovery"), timeline: get(row, "timeline") }
    }

    /// How the role moved since `before`, in words; none when it did not, or is not known. A promotion begins a new timeline, so
    /// that it shows as well to whoever is led to another primary (by a virtual address, a pooler, several hosts in the DSN).
    pub fn moved_since(self, before: Self) -> Option<String> {
        match (before.in_recovery?, self.in_recovery?) {
            (true, false) => Some("the server was promoted: it was a standby and is the primary now".to_owned()),
            (false, true) => Some("the server that answers is a standby; before, the primary answered".to_owned()),
            (false, false) => before
                .timeline
                .zip(self.timeline)
                .filter(|(old, new)| new > old)
                .map(|(old, new)| format!("the primary writes on timeline {new} and no longer on {old}: another server was promoted")),
            (true, true) => None,
        }
    }

    /// What is known now; what is not stays as it was.
    pub fn follow(&mut self, now: Self) {
        self.in_recovery = now.in_recovery.or(self.in_recovery);
        self.timeline = now.timeline.or(self.timeline);
    }
}

/// Reads the rows of the holders probe, adds their signals, and returns the oldest xmin age among them.
pub(super) fn holders(rows: &[Row], at: UnixMs, frame: &mut Frame) -> f64 {
    let holder = |row: &Row| HolderSample {
        at,
        kind: text(row, "kind"),
        name: text(row, "name"),
        active: get(row, "active").unwrap_or(false),
        lag_bytes: get::<f64>(row, "lag_bytes").map(|bytes| bytes.max(0.0)),
        lag_ms: get(row, "lag_ms"),
        xmin_age: get(row, "xmin_age"),
    };
    let holders: Vec<_> = rows.iter().map(holder).collect();
    let replicas = || holders.iter().filter(|h| h.kind == "replica");
    if let Some(bytes) = replicas().filter_map(|h| h.lag_bytes).reduce(f64::max) {
        frame.values.push(("replica_lag_bytes".into(), "bytes", bytes));
    }
    if let Some(ms) = replicas().filter_map(|h| h.lag_ms).reduce(f64::max) {
        frame.values.push(("replica_lag_seconds".into(), "s", ms / 1000.0));
    }
    // Without a slot nothing is retained: a measured zero.
    let retained = holders.iter().filter(|h| h.kind == "slot").filter_map(|h| h.lag_bytes).fold(0.0, f64::max);
    frame.values.push(("slot_retained_bytes".into(), "bytes", retained));
    let oldest = holders.iter().filter_map(|h| h.xmin_age).max().unwrap_or(0) as f64;
    frame.holders.extend(holders);
    oldest
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_role_moves_by_promotion_and_by_another_server_and_never_by_silence() {
        let role = |in_recovery: Option<bool>, timeline| Role { in_recovery, timeline };
        let (primary, standby) = (role(Some(false), Some(1)), role(Some(true), None));
        assert!(role(Some(false), Some(2)).moved_since(standby).unwrap().contains("promoted"));
        assert!(standby.moved_since(primary).unwrap().contains("is a standby"));
        assert!(role(Some(false), Some(3)).moved_since(primary).unwrap().contains("timeline 3"));
        for (before, now) in [(primary, primary), (standby, standby), (primary, Role::default()), (Role::default(), primary)] {
            assert_eq!(now.moved_since(before), None);
        }
        let mut kept = primary;
        kept.follow(Role::default());
        assert_eq!(kept, primary);
    }
}
