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

use std::collections::BTreeSet;

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

fn user_of(capture: &Capture, window: Window, query_id: i64) -> Option<&str> {
    facts::active(capture, Some(window)).find(|s| s.query_id == query_id && !s.user.is_empty()).map(|s| s.user.as_str())
}

/// The role that ran a statement in a window, as SQL writes it.
pub(crate) fn role_of(capture: &Capture, window: Window, query_id: i64) -> Option<String> {
    user_of(capture, window, query_id).map(quoted)
}

/// True when the role that ran a statement runs others too, which a setting of the role would reach: it was seen at one, or
/// it is the only role that was seen and others were counted. None where nobody saw who ran it.
pub(crate) fn runs_else(capture: &Capture, window: Window, query_id: i64) -> Option<bool> {
    let role = user_of(capture, window, query_id)?;
    // BEGIN and COMMIT are part of every statement's transaction.
    let other =
        |id: i64| id != 0 && id != query_id && capture.texts.get(&id).is_none_or(|t| features(t).is_some_and(|f| f.verb != "other"));
    let clients = || capture.sessions.iter().filter(|s| s.backend_type == "client backend" && !s.user.is_empty());
    // Each is parsed once, however often it was seen.
    let seen: BTreeSet<i64> = clients().filter(|s| s.user == role).map(|s| s.query_id).collect();
    let counted: BTreeSet<i64> = match clients().any(|s| s.user != role) {
        true => BTreeSet::new(),
        false => capture.statements.iter().map(|s| s.query_id).collect(),
    };
    Some(seen.into_iter().chain(counted).any(other))
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

/// Of counted time, a smaller share is left out: sessions would not have been seen at it either, and each is parsed.
const NOTICED: f64 = 0.002;

/// Statements by load in a window, heaviest first: from the session history, else from a service's averages,
/// else from counters (imports, and windows in which hardly a session was seen active), else by calls.
pub(crate) fn loaded(capture: &Capture, window: Window) -> Vec<Loaded> {
    let mut time = time_by_statement(capture, Some(window));
    let work = facts::work(capture, Some(window));
    let seen = facts::active(capture, Some(window)).filter(|s| s.query_id != 0).count() as f64;
    if (0.5..facts::LEAST_SEEN).contains(&seen) && work.values().any(|w| w.exec_ms > 0.0) {
        // One that has not ended is in no counter yet.
        time.retain(|id, _| !work.contains_key(id));
        let least = NOTICED * work.values().map(|w| w.exec_ms).sum::<f64>();
        time.extend(work.iter().filter(|(_, w)| w.exec_ms > least).map(|(id, w)| (*id, w.exec_ms / 1000.0 / w.seconds)));
    }
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
