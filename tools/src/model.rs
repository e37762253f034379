//! The domain types that every crate shares: time, signals, samples of a PostgreSQL server, alerts.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01 UTC.
pub type UnixMs = i64;

/// A half-open interval of time, `start <= t < end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// First millisecond inside.
    pub start: UnixMs,
    /// First millisecond outside.
    pub end: UnixMs,
}

impl fmt::Display for Window {
    /// As an ISO 8601 interval, `2026-01-01T00:00:00Z/2026-01-01T00:00:11Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |at| Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), |t| t.to_string());
        write!(f, "{}/{}", text(self.start), text(self.end))
    }
}

impl Window {
    /// True when `t` lies inside.
    pub fn contains(&self, t: UnixMs) -> bool {
        self.start <= t && t < self.end
    }

    /// Length in seconds, never negative.
    pub fn seconds(&self) -> f64 {
        (self.end - self.start).max(0) as f64 / 1000.0
    }
}

/// A named time series with a unit. Names follow postgres_exporter and node_exporter where one exists;
/// labels are part of the name: `active_sessions{wait_class="Lock"}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Unit of the values as in the signal table, such as `bytes/s`.
    pub unit: String,
    /// Sample times, strictly increasing.
    pub times: Vec<UnixMs>,
    /// One value a time. A missing sample is absent, never zero.
    pub values: Vec<f64>,
}

impl Series {
    /// Appends a sample; one that is not newer than the last, or not finite, is dropped.
    pub fn push(&mut self, at: UnixMs, value: f64) {
        if value.is_finite() && self.times.last().is_none_or(|last| *last < at) {
            self.times.push(at);
            self.values.push(value);
        }
    }

    /// Values inside a window, in time order.
    pub fn within(&self, window: Window) -> &[f64] {
        let from = self.times.partition_point(|t| *t < window.start);
        let to = self.times.partition_point(|t| *t < window.end);
        &self.values[from..to.max(from)]
    }
}

/// One session seen by the 1 Hz sampler: a row of the active session history.
/// Sessions that are idle outside a transaction are counted in signals, not stored here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionSample {
    /// When the sample was taken.
    pub at: UnixMs,
    /// Backend process id.
    pub pid: i32,
    /// `client backend`, `autovacuum worker`, `walsender`, ...
    pub backend_type: String,
    /// `active`, `idle in transaction`, ...
    pub state: String,
    /// Wait event type (`Lock`, `LWLock`, `IO`, `Client`, ...); empty when the session is on CPU.
    pub wait_class: String,
    /// Wait event, such as `transactionid` or `DataFileRead`; empty when on CPU.
    pub wait_event: String,
    /// Query id, 0 when unknown. Where the server computes none, the fingerprint of the normalised text.
    pub query_id: i64,
    /// Age of the transaction in milliseconds, if one is open.
    pub xact_age_ms: Option<i64>,
    /// Age of the running (or, when idle, last) statement in milliseconds.
    pub query_age_ms: Option<i64>,
    /// Age of the session's state (such as how long it is idle in transaction) in milliseconds.
    pub state_age_ms: Option<i64>,
    /// Age of the oldest snapshot or transaction id the session holds back, in transactions (`age(backend_xmin)`).
    pub xmin_age: Option<i64>,
    /// Process ids this session waits for (`pg_blocking_pids`).
    pub blocked_by: Vec<i32>,
    /// Role name.
    pub user: String,
    /// Database name.
    pub database: String,
    /// `application_name` of the client.
    pub application: String,
    /// Client address, empty for local sockets.
    pub client: String,
}

/// A lock that a session waits for, or that a blocker of somebody holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LockSample {
    /// When the sample was taken.
    pub at: UnixMs,
    /// Backend process id.
    pub pid: i32,
    /// `relation`, `transactionid`, `tuple`, `advisory`, ...
    pub lock_type: String,
    /// Schema-qualified relation, if the lock is on one.
    pub relation: Option<String>,
    /// Lock mode, such as `AccessExclusiveLock`.
    pub mode: String,
    /// False while waiting.
    pub granted: bool,
}

/// Cumulative counters of one statement at one time (pg_stat_statements).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // names and units are those of pg_stat_statements; times in milliseconds, blocks of 8 kB
pub struct StatementSample {
    pub at: UnixMs,
    pub query_id: i64,
    pub calls: f64,
    pub total_exec_ms: f64,
    pub rows: f64,
    pub shared_blks_hit: f64,
    pub shared_blks_read: f64,
    pub shared_blks_dirtied: f64,
    pub temp_blks_read: f64,
    pub temp_blks_written: f64,
    pub wal_bytes: f64,
    pub jit_ms: f64,
}

/// Cumulative counters and sizes of one table at one time (pg_stat_user_tables).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // names are those of pg_stat_user_tables
pub struct TableSample {
    pub at: UnixMs,
    /// Schema-qualified name.
    pub table: String,
    pub seq_scan: f64,
    pub seq_tup_read: f64,
    pub idx_scan: f64,
    pub idx_tup_fetch: f64,
    pub n_tup_ins: f64,
    pub n_tup_upd: f64,
    pub n_tup_hot_upd: f64,
    pub n_tup_del: f64,
    pub n_live_tup: f64,
    pub n_dead_tup: f64,
    pub n_mod_since_analyze: f64,
    /// Seconds since the last (auto)vacuum at `at`, if ever.
    pub since_vacuum_s: Option<f64>,
    /// Seconds since the last (auto)analyze at `at`, if ever.
    pub since_analyze_s: Option<f64>,
    pub autovacuum_count: f64,
    /// Heap size with TOAST, bytes.
    pub table_bytes: f64,
    /// Size of all indexes, bytes.
    pub index_bytes: f64,
    /// `age(relfrozenxid)`.
    pub frozen_xid_age: f64,
}

/// One index at one time (pg_stat_user_indexes, pg_index).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IndexSample {
    /// When the sample was taken.
    pub at: UnixMs,
    /// Schema-qualified index name.
    pub index: String,
    /// Schema-qualified table name.
    pub table: String,
    /// Scans since statistics were reset.
    pub idx_scan: f64,
    /// Size in bytes.
    pub bytes: f64,
    /// Unique, primary key or exclusion: it enforces a constraint.
    pub constraint: bool,
    /// `indisvalid`.
    pub valid: bool,
    /// Key columns in order (expressions as text).
    pub columns: Vec<String>,
    /// `pg_get_indexdef`.
    pub definition: String,
}

/// One run-time setting.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Value as `pg_settings.setting` gives it (in `unit`).
    pub value: String,
    /// `kB`, `8kB`, `ms`, ... or empty.
    pub unit: String,
    /// Where the value came from: `default`, `configuration file`, ...
    pub source: String,
}

/// A replica, a replication slot or a prepared transaction: whatever can lag or hold back cleanup.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HolderSample {
    /// When the sample was taken.
    pub at: UnixMs,
    /// `replica`, `slot` or `prepared`.
    pub kind: String,
    /// Application name, slot name or gid.
    pub name: String,
    /// Slot in use, replica streaming; always true for a prepared transaction.
    pub active: bool,
    /// WAL held back or not yet replayed, bytes.
    pub lag_bytes: Option<f64>,
    /// Replay lag, or age of the prepared transaction, milliseconds.
    pub lag_ms: Option<f64>,
    /// Age of the xmin it holds, in transactions.
    pub xmin_age: Option<i64>,
}

/// Something that happened at a moment: a log line, a vendor's event, a server restart, a new query text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: UnixMs,
    /// Where it was read: `log`, `catalog`, `rds`, ...
    pub source: String,
    /// Kind in snake case: `index_created`, `index_dropped`, `restart`, `setting_changed`, ...
    pub kind: String,
    /// The object it is about (index, setting, ...), may be empty.
    pub object: String,
    /// One line for people; literals already removed.
    pub text: String,
}

/// What came in from outside, or from Galen's own detector.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Stable id of the alert (Alertmanager's fingerprint).
    pub fingerprint: String,
    /// `alertname`.
    pub name: String,
    /// `firing` or `resolved`.
    pub status: String,
    /// `detector`, `alertmanager`, `manual`.
    pub source: String,
    /// When it began.
    pub starts_at: UnixMs,
    /// When it ended, if it has.
    pub ends_at: Option<UnixMs>,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// One line for people.
    pub summary: String,
}

/// Something a diagnosis points at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Culprit {
    /// What kind of thing.
    pub kind: CulpritKind,
    /// Query id, table, index, setting name, process id or host.
    pub id: String,
    /// Normalised text or a short description.
    pub text: String,
}

/// The kinds of things a diagnosis can point at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum CulpritKind {
    Query,
    Table,
    Index,
    Session,
    Setting,
    Host,
}

/// What one probe cost the target over a capture.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeCost {
    /// Name of the probe (its SQL file).
    pub probe: String,
    /// Times it ran.
    pub runs: u64,
    /// Times it failed.
    pub failures: u64,
    /// Milliseconds in all, measured at the client.
    pub total_ms: f64,
    /// The slowest run, milliseconds.
    pub max_ms: f64,
}
