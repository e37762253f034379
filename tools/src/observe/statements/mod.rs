//! Tools that look at statements, tables and indexes.

pub mod advice;
mod contention;
mod indexes;
mod results;
mod scans;
mod shape;
mod top;
mod wal_writers;
mod writes;

pub(crate) use scans::quoted;
pub(crate) use wal_writers::is_wal;

use crate::capture::Capture;
use crate::model::Window;
use crate::observe::facts::{self, time_by_statement};
use crate::observe::{Observation, Scene, activity};
use crate::sql::{Features, features};

/// Name and help of every tool of this module; those that ask the target are marked.
pub const TOOLS: &[(&str, &str)] = &[
    ("top_statement", "the statement whose database time grew most"),
    ("statement_shape", "joins, subqueries and bounds of the statements that carry load"),
    ("workload_mix", "how calls and time spread over all statements"),
    ("contention", "how many sessions compete for CPU and I/O, and whether one kind of statement accounts for it"),
    ("table_scans", "the table read most by sequential scans, and the statement that does it"),
    ("index_advice", "planner cost with a hypothetical index (asks the target)"),
    ("plan", "generic plan of the top statement (asks the target)"),
    ("index_overhead", "indexes of the most written table, and what a write costs"),
    ("wal_writers", "the statement that writes WAL, and the one that only reads and takes CPU"),
    ("write_profile", "rows written, commits, and who writes"),
    ("results", "rows returned, and by whom"),
    ("temp_files", "temporary files and the statements that spill"),
    ("stale_statistics", "rows changed since the last ANALYZE"),
];

/// Runs a tool of this module by name.
pub async fn observe(name: &str, scene: &Scene<'_>) -> Option<Observation> {
    Some(match name {
        "top_statement" => top::top_statement(scene),
        "workload_mix" => top::workload_mix(scene),
        "contention" => contention::contention(scene),
        "statement_shape" => shape::statement_shape(scene),
        "table_scans" => scans::table_scans(scene),
        "stale_statistics" => scans::stale_statistics(scene),
        "index_advice" => advice::index_advice(scene).await,
        "plan" => advice::plan(scene).await,
        "index_overhead" => indexes::index_overhead(scene),
        "wal_writers" => wal_writers::wal_writers(scene),
        "write_profile" => writes::write_profile(scene),
        "results" => results::results(scene),
        "temp_files" => results::temp_files(scene),
        _ => return None,
    })
}

/// The role that ran a statement in a window, as SQL writes it.
pub(crate) fn role_of(capture: &Capture, window: Window, query_id: i64) -> Option<String> {
    facts::active(capture, Some(window)).find(|s| s.query_id == query_id && !s.user.is_empty()).map(|s| quoted(&s.user))
}

/// A statement with its load and features.
pub(crate) struct Loaded {
    pub id: i64,
    /// Database time, seconds per second (or calls per second where time is unknown).
    pub load: f64,
    /// Share of the load of all statements.
    pub share: f64,
    pub features: Features,
}

/// Statements by load in a window, heaviest first: from the session history, else from a service's averages,
/// else from counters (imports), else by calls.
pub(crate) fn loaded(capture: &Capture, window: Window) -> Vec<Loaded> {
    let mut time = time_by_statement(capture, Some(window));
    let work = facts::work(capture, Some(window));
    if time.is_empty() {
        for load in activity::by_statement(capture, window) {
            *time.entry(load.query_id).or_insert(0.0) += load.sessions;
        }
    }
    if time.is_empty() {
        let by_time: f64 = work.values().map(|w| w.exec_ms).sum();
        let load = |w: &facts::Work| if by_time > 0.0 { w.exec_ms / 1000.0 / w.seconds } else { w.calls / w.seconds };
        time = work.iter().map(|(id, w)| (*id, load(w))).collect();
        // A statement that was logged as slow weighs more than its calls.
        for event in capture.events.iter().filter(|e| e.kind == "slow_query") {
            if let Some(load) = event.object.parse::<i64>().ok().and_then(|id| time.get_mut(&id)) {
                *load *= 10.0;
            }
        }
    }
    let total: f64 = time.values().sum();
    let mut list: Vec<(i64, f64)> = time.into_iter().collect();
    list.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    list.truncate(40);
    list.into_iter()
        .map(|(id, load)| {
            let features = capture.texts.get(&id).and_then(|t| features(t)).unwrap_or_default();
            Loaded { id, load, share: load / total.max(1e-9), features }
        })
        .collect()
}

/// True when a statement's table (perhaps without schema) is this schema-qualified table.
pub(crate) fn same_table(named: &str, qualified: &str) -> bool {
    named == qualified || qualified.rsplit('.').next() == Some(named)
}
