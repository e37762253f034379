//! Tables, indexes and settings: counters, sizes, and what changed in the set since the last look.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio_postgres::Row;

use crate::capture::Frame;
use crate::model::{Event, IndexSample, Setting, TableSample, UnixMs};

use super::row::{count, get, text};
use super::text;

/// A set cut off at the probe's LIMIT says nothing about what is not in it.
const TABLE_LIMIT: usize = 300;
const INDEX_LIMIT: usize = 1_000;
/// An unchanged table is still sampled this often, milliseconds.
const REFRESH_MS: i64 = 60_000;

/// What the last looks saw.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    sizes: HashMap<i64, (f64, f64)>,
    tables: HashMap<i64, (TableSample, UnixMs)>,
    table_names: Option<BTreeSet<String>>,
    definitions: HashMap<i64, (Vec<String>, String)>,
    indexes: Option<BTreeMap<String, String>>,
    settings: Option<BTreeMap<String, Setting>>,
}

impl Catalog {
    /// Reads the rows of the sizes probe: oid 0 stands for the database.
    pub fn read_sizes(&mut self, rows: &[Row], frame: &mut Frame) {
        for row in rows {
            let (oid, bytes) = (get::<i64>(row, "oid").unwrap_or(0), count(row, "table_bytes"));
            if oid == 0 {
                frame.values.push(("database_bytes".into(), "bytes", bytes));
            } else {
                self.sizes.insert(oid, (bytes, count(row, "index_bytes")));
            }
        }
    }

    /// Reads the rows of the tables probe. Samples are given of tables that changed (with their state before) and, once
    /// a minute, of all.
    pub fn read_tables(&mut self, rows: &[Row], at: UnixMs, frame: &mut Frame) {
        let names = rows.iter().map(|row| text(row, "table")).collect();
        self.diff_tables(names, rows.len() < TABLE_LIMIT, at, frame);
        let (mut before, mut now) = (Vec::new(), Vec::new());
        let mut seen = HashMap::with_capacity(rows.len());
        for row in rows {
            let oid = get::<i64>(row, "oid").unwrap_or(0);
            let sample = self.table(row, oid, at);
            let mut emitted = at;
            match self.tables.remove(&oid) {
                Some((last, last_emitted)) if same_counters(&last, &sample) && at - last_emitted < REFRESH_MS => {
                    emitted = last_emitted;
                }
                Some((last, last_emitted)) => {
                    if last_emitted != last.at {
                        before.push(last);
                    }
                    now.push(sample.clone());
                }
                None => now.push(sample.clone()),
            }
            seen.insert(oid, (sample, emitted));
        }
        self.tables = seen;
        frame.tables.extend(before);
        frame.tables.extend(now);
    }

    fn table(&self, row: &Row, oid: i64, at: UnixMs) -> TableSample {
        let estimate = (count(row, "table_bytes"), count(row, "index_bytes"));
        let (table_bytes, index_bytes) = self.sizes.get(&oid).copied().unwrap_or(estimate);
        TableSample {
            at,
            table: text(row, "table"),
            seq_scan: count(row, "seq_scan"),
            seq_tup_read: count(row, "seq_tup_read"),
            idx_scan: count(row, "idx_scan"),
            idx_tup_fetch: count(row, "idx_tup_fetch"),
            n_tup_ins: count(row, "n_tup_ins"),
            n_tup_upd: count(row, "n_tup_upd"),
            n_tup_hot_upd: count(row, "n_tup_hot_upd"),
            n_tup_del: count(row, "n_tup_del"),
            n_live_tup: count(row, "n_live_tup"),
            n_dead_tup: count(row, "n_dead_tup"),
            n_mod_since_analyze: count(row, "n_mod_since_analyze"),
            since_vacuum_s: get(row, "since_vacuum_s"),
            since_analyze_s: get(row, "since_analyze_s"),
            autovacuum_count: count(row, "autovacuum_count"),
            table_bytes,
            index_bytes,
            frozen_xid_age: count(row, "frozen_xid_age"),
        }
    }

    fn diff_tables(&mut self, now: BTreeSet<String>, whole: bool, at: UnixMs, frame: &mut Frame) {
        if let Some(before) = self.table_names.take().filter(|_| whole) {
            for table in now.difference(&before) {
                frame.events.push(event(at, "table_created", table, format!("table {table} was created")));
            }
            for table in before.difference(&now) {
                frame.events.push(event(at, "table_dropped", table, format!("table {table} was dropped")));
            }
        }
        self.table_names = whole.then_some(now);
    }

    /// Ids of indexes whose definition is not known yet.
    pub fn unknown_indexes(&self, rows: &[Row]) -> Vec<i64> {
        let oids = rows.iter().filter_map(|row| get::<i64>(row, "oid"));
        oids.filter(|oid| !self.definitions.contains_key(oid)).collect()
    }

    /// Reads the rows of the definitions probe; string literals of predicates are removed.
    pub fn read_definitions(&mut self, rows: &[Row]) {
        for row in rows {
            let columns: Vec<String> = get(row, "columns").unwrap_or_default();
            let columns = columns.iter().map(|column| text::schema(column)).collect();
            let definition = text::schema(&text(row, "definition"));
            self.definitions.insert(get(row, "oid").unwrap_or(0), (columns, definition));
        }
    }

    /// Reads the rows of the indexes probe.
    pub fn read_indexes(&mut self, rows: &[Row], at: UnixMs, frame: &mut Frame) {
        let oids: BTreeSet<i64> = rows.iter().filter_map(|row| get(row, "oid")).collect();
        self.definitions.retain(|oid, _| oids.contains(oid));
        let samples: Vec<_> = rows.iter().map(|row| self.index(row, at)).collect();
        let whole = samples.len() < INDEX_LIMIT;
        let now = samples.iter().map(|i| (i.index.clone(), format!("on {}: {}", i.table, i.definition))).collect();
        self.diff_indexes(now, whole, at, frame);
        frame.indexes.extend(samples);
    }

    fn index(&self, row: &Row, at: UnixMs) -> IndexSample {
        let oid = get::<i64>(row, "oid").unwrap_or(0);
        let (columns, definition) = self.definitions.get(&oid).cloned().unwrap_or_default();
        IndexSample {
            at,
            index: text(row, "index"),
            table: text(row, "table"),
            idx_scan: count(row, "idx_scan"),
            bytes: count(row, "bytes"),
            constraint: get(row, "constraint").unwrap_or(false),
            valid: get(row, "valid").unwrap_or(true),
            columns,
            definition,
        }
    }

    fn diff_indexes(&mut self, now: BTreeMap<String, String>, whole: bool, at: UnixMs, frame: &mut Frame) {
        if let Some(before) = self.indexes.take().filter(|_| whole) {
            for (index, text) in now.iter().filter(|(index, _)| !before.contains_key(*index)) {
                frame.events.push(event(at, "index_created", index, format!("index {index} was created {text}")));
            }
            for (index, text) in before.iter().filter(|(index, _)| !now.contains_key(*index)) {
                frame.events.push(event(at, "index_dropped", index, format!("index {index} was dropped {text}")));
            }
        }
        self.indexes = whole.then_some(now);
    }

    /// Reads the rows of the settings probe; values that may hold secrets are masked.
    pub fn read_settings(&mut self, rows: &[Row], at: UnixMs, frame: &mut Frame) {
        let setting = |row: &Row| {
            let name = text(row, "name");
            let value = masked(&name, text(row, "value"));
            (name, Setting { value, unit: text(row, "unit"), source: text(row, "source") })
        };
        let now: BTreeMap<String, Setting> = rows.iter().map(setting).collect();
        if let Some(before) = &self.settings {
            for (name, setting) in &now {
                if let Some(old) = before.get(name).filter(|old| old.value != setting.value) {
                    let text = format!("{name} changed from {} to {} {}", old.value, setting.value, setting.unit);
                    frame.events.push(event(at, "setting_changed", name, text.trim().to_owned()));
                }
            }
        }
        frame.settings.extend(now.clone());
        self.settings = Some(now);
    }
}

/// True when nothing happened to a table between two samples.
fn same_counters(a: &TableSample, b: &TableSample) -> bool {
    let key = |t: &TableSample| {
        [
            t.seq_scan,
            t.idx_scan,
            t.n_tup_ins,
            t.n_tup_upd,
            t.n_tup_del,
            t.n_live_tup,
            t.n_dead_tup,
            t.autovacuum_count,
            t.table_bytes,
            t.index_bytes,
            t.n_mod_since_analyze,
        ]
    };
    key(a) == key(b)
}

fn event(at: UnixMs, kind: &str, object: &str, text: String) -> Event {
    Event { at, source: "catalog".into(), kind: kind.into(), object: object.into(), text }
}

/// Commands, connection strings and settings of unknown extensions may hold secrets: only that they are set is kept.
fn masked(name: &str, value: String) -> String {
    let known_extension = ["pg_stat_statements.", "auto_explain.", "plpgsql.", "hypopg."];
    let foreign = name.contains('.') && !known_extension.iter().any(|prefix| name.starts_with(prefix));
    let command = name.ends_with("_command") || name.ends_with("_conninfo");
    let secret = ["password", "secret", "token", "passphrase"].iter().any(|word| name.contains(word));
    let open = ["password_encryption"].contains(&name);
    if value.is_empty() || open || !(foreign || command || secret) { value } else { "(set)".into() }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn commands_and_foreign_settings_are_masked() {
        for name in ["archive_command", "primary_conninfo", "app.api_key", "ssl_passphrase_command"] {
            assert_eq!(masked(name, "s3cret".into()), "(set)", "{name}");
        }
        assert_eq!(masked("work_mem", "4096".into()), "4096");
        assert_eq!(masked("pg_stat_statements.max", "5000".into()), "5000");
        assert_eq!(masked("archive_command", String::new()), "");
    }

    #[test]
    fn the_first_look_is_no_change_and_a_cut_off_set_is_none_either() {
        let mut catalog = Catalog::default();
        let mut frame = Frame::default();
        let set = |names: &[&str]| names.iter().map(|n| (n.to_string(), "on s.t: x".to_owned())).collect();
        catalog.diff_indexes(set(&["s.a"]), true, 1, &mut frame);
        catalog.diff_indexes(set(&["s.a", "s.b"]), true, 2, &mut frame);
        catalog.diff_indexes(set(&["s.c"]), false, 3, &mut frame);
        catalog.diff_indexes(set(&["s.d"]), true, 4, &mut frame);
        catalog.diff_indexes(set(&[]), true, 5, &mut frame);
        let kinds: Vec<_> = frame.events.iter().map(|e| (e.at, e.kind.as_str(), e.object.as_str())).collect();
        assert_eq!(kinds, [(2, "index_created", "s.b"), (5, "index_dropped", "s.d")]);
    }
}
