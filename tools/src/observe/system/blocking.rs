//! The lock queue: who waits, who stands at its root, and in what state.

use std::collections::{BTreeMap, BTreeSet};

use crate::detect::stats::median;
use crate::model::{CulpritKind, SessionSample, UnixMs, Window};
use crate::observe::facts::{FactSheet, active, largest, looks, peak, text_of};
use crate::observe::statements::quoted;
use crate::observe::{Observation, Scene};

/// Sessions of the window, look by look.
fn by_look<'c>(scene: &Scene<'c>, window: Window) -> BTreeMap<UnixMs, BTreeMap<i32, &'c SessionSample>> {
    let mut looks: BTreeMap<UnixMs, BTreeMap<i32, &SessionSample>> = BTreeMap::new();
    for sample in scene.capture.sessions.iter().filter(|s| window.contains(s.at)) {
        looks.entry(sample.at).or_default().insert(sample.pid, sample);
    }
    looks
}

/// Follows `blocked_by` to sessions that are not blocked themselves; a cycle (deadlock) ends where it closes.
fn roots(pid: i32, look: &BTreeMap<i32, &SessionSample>) -> BTreeSet<i32> {
    let (mut seen, mut open, mut found) = (BTreeSet::new(), vec![pid], BTreeSet::new());
    while let Some(at) = open.pop() {
        if !seen.insert(at) {
            continue;
        }
        let blockers = look.get(&at).map(|s| s.blocked_by.as_slice()).unwrap_or_default();
        // pg_blocking_pids names 0 for a prepared transaction.
        if blockers.is_empty() && at != pid {
            found.insert(at);
        }
        open.extend(blockers.iter().filter(|p| **p != at));
    }
    found
}

/// What one pass over the looks counts.
#[derive(Default)]
struct Queue {
    blocked: f64,
    by_root: BTreeMap<i32, f64>,
    waits: BTreeMap<String, f64>,
    waiting_statement: BTreeMap<i64, f64>,
    root_statement: BTreeMap<i64, f64>,
    root_ages_s: Vec<f64>,
    waiters: BTreeSet<i32>,
}

impl Queue {
    fn of(looks: &BTreeMap<UnixMs, BTreeMap<i32, &SessionSample>>) -> Self {
        let mut queue = Self::default();
        for look in looks.values() {
            let mut roots_now = BTreeSet::new();
            for (pid, sample) in look.iter().filter(|(_, s)| !s.blocked_by.is_empty()) {
                queue.blocked += 1.0;
                queue.waiters.insert(*pid);
                *queue.waits.entry(sample.wait_event.clone()).or_insert(0.0) += 1.0;
                *queue.waiting_statement.entry(sample.query_id).or_insert(0.0) += 1.0;
                let roots = roots(*pid, look);
                for root in &roots {
                    *queue.by_root.entry(*root).or_insert(0.0) += 1.0 / roots.len() as f64;
                }
                roots_now.extend(roots);
            }
            for root in roots_now.iter().filter_map(|pid| look.get(pid)) {
                queue.root_ages_s.extend(root.xact_age_ms.map(|ms| ms as f64 / 1000.0));
                *queue.root_statement.entry(root.query_id).or_insert(0.0) += 1.0;
            }
        }
        queue
    }
}

/// `blocking`: the lock queue of the window.
pub fn blocking(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let window = crate::observe::facts::window(scene);
    let mut sheet = FactSheet::new("blocking", scene);
    sheet.signals(&["blocked_sessions", "active_sessions{wait_class=\"Lock\"}"]);
    if looks(capture, Some(window)) < 1.0 {
        return sheet.finish("sessions were not sampled");
    }
    let seen = by_look(scene, window);
    let mut queue = Queue::of(&seen);
    let all = active(capture, Some(window)).count() as f64;
    sheet.put("blocked_peak", peak(capture, "blocked_sessions", Some(window)));
    sheet.put("blocked_seconds", queue.blocked);
    sheet.put("blocked_share", if all > 0.0 { queue.blocked / all } else { 0.0 });
    sheet.put("root_blockers", queue.by_root.len());
    if queue.blocked < 1.0 {
        return sheet.finish("");
    }
    let row_waits: f64 = ["transactionid", "tuple"].iter().filter_map(|w| queue.waits.get(*w)).sum();
    sheet.put("row_lock_share", row_waits / queue.blocked);
    sheet.put("lock_type", largest(&queue.waits).map(|(wait, _)| wait));
    sheet.put("blocker_age_median_s", median(&mut queue.root_ages_s));
    if let Some((statement, count)) = largest(&queue.waiting_statement) {
        sheet.put("waiting_query_id", statement.to_string()).put("waiting_text", text_of(capture, statement));
        sheet.put("waiting_share", count / queue.blocked);
        sheet.put("same_statement", largest(&queue.root_statement).is_some_and(|(root, _)| root == statement));
    }
    ddl(scene, &mut sheet, &queue, window);
    root(scene, &mut sheet, &queue, &seen, window);
    if let Some((statement, _)) = largest(&queue.waiting_statement) {
        sheet.culprit(CulpritKind::Query, statement, &text_of(capture, statement).unwrap_or_default());
    }
    sheet.finish("")
}

/// The root that holds most of the queue.
fn root(
    scene: &Scene<'_>,
    sheet: &mut FactSheet<'_>,
    queue: &Queue,
    seen: &BTreeMap<UnixMs, BTreeMap<i32, &SessionSample>>,
    window: Window,
) {
    let Some((pid, held)) = largest(&queue.by_root) else { return };
    sheet.put("top_blocker_share", held / queue.blocked).put("blocker_pid", i64::from(pid));
    let samples: Vec<&SessionSample> = seen.values().filter_map(|look| look.get(&pid).copied()).collect();
    let idle = samples.iter().filter(|s| s.state.starts_with("idle in transaction")).count() as f64;
    let oldest = samples.iter().filter_map(|s| s.xact_age_ms).max().map(|ms| ms as f64 / 1000.0);
    let mut statements = BTreeMap::new();
    for sample in &samples {
        *statements.entry(sample.query_id).or_insert(0.0) += 1.0;
    }
    let last = samples.last();
    if !samples.is_empty() {
        let idle_share = idle / samples.len() as f64;
        sheet.put("blocker_idle_share", idle_share);
        sheet.put("blocker_state", if idle_share > 0.5 { "idle in transaction" } else { "active" });
    }
    sheet.put("blocker_xact_age_s", oldest);
    sheet.put("blocker_application", last.map(|s| s.application.clone()));
    sheet.put("blocker_user", last.map(|s| s.user.clone()));
    sheet.put("blocker_database", last.map(|s| s.database.as_str()).filter(|d| !d.is_empty()).map(quoted));
    let relation = relation_of(scene, pid, window);
    sheet.put("relation", relation.clone());
    sheet.put("lock_mode", lock_mode(scene, &queue.waiters, window));
    let state = format!(
        "application {}, user {}, transaction {:.0} s old",
        last.map(|s| s.application.as_str()).unwrap_or("unknown"),
        last.map(|s| s.user.as_str()).unwrap_or("unknown"),
        oldest.unwrap_or(0.0)
    );
    sheet.culprit(CulpritKind::Session, pid, &state);
    if let Some((statement, _)) = largest(&statements).filter(|(id, _)| *id != 0) {
        sheet.statement("blocker_", statement);
    }
    if let Some(relation) = relation {
        sheet.culprit(CulpritKind::Table, &relation, "the lock is on it");
    }
}

/// The relation that sessions wait for, else the one the root holds the strongest lock on.
fn relation_of(scene: &Scene<'_>, root: i32, window: Window) -> Option<String> {
    let mut waited = BTreeMap::new();
    let mut held = BTreeMap::new();
    for lock in scene.capture.locks.iter().filter(|l| window.contains(l.at)) {
        let Some(relation) = lock.relation.as_ref() else { continue };
        let count = if !lock.granted || (lock.lock_type == "tuple" && lock.pid != root) {
            waited.entry(relation.clone())
        } else if lock.pid == root && lock.mode != "AccessShareLock" {
            held.entry(relation.clone())
        } else {
            continue;
        };
        *count.or_insert(0.0) += 1.0;
    }
    largest(&waited).or_else(|| largest(&held)).map(|(relation, _)| relation)
}

fn lock_mode(scene: &Scene<'_>, waiters: &BTreeSet<i32>, window: Window) -> Option<String> {
    let mut modes = BTreeMap::new();
    for lock in scene.capture.locks.iter().filter(|l| window.contains(l.at) && !l.granted && waiters.contains(&l.pid)) {
        *modes.entry(lock.mode.clone()).or_insert(0.0) += 1.0;
    }
    largest(&modes).map(|(mode, _)| mode)
}

/// A session of the queue that holds or asks for ACCESS EXCLUSIVE, and the DDL it runs.
fn ddl(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, queue: &Queue, window: Window) {
    let exclusive: BTreeSet<i32> = scene
        .capture
        .locks
        .iter()
        .filter(|l| window.contains(l.at) && l.lock_type == "relation" && l.mode == "AccessExclusiveLock")
        .map(|l| l.pid)
        .filter(|pid| queue.waiters.contains(pid) || queue.by_root.contains_key(pid))
        .collect();
    sheet.put("access_exclusive", !exclusive.is_empty());
    let runs_ddl = |s: &&SessionSample| exclusive.contains(&s.pid) && text_of(scene.capture, s.query_id).is_some_and(|t| is_ddl(&t));
    if let Some(sample) = scene.capture.sessions.iter().filter(|s| window.contains(s.at)).find(runs_ddl) {
        sheet.put("ddl_pid", i64::from(sample.pid));
        sheet.statement("ddl_", sample.query_id);
    }
}

fn is_ddl(text: &str) -> bool {
    let word = text.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
    matches!(word.as_str(), "alter" | "drop" | "create" | "truncate" | "reindex" | "cluster" | "vacuum" | "lock" | "refresh")
}

/// `idle_transactions`: who is silent inside a transaction, and who waits for it.
pub fn idle_transactions(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let window = crate::observe::facts::window(scene);
    let mut sheet = FactSheet::new("idle_transactions", scene);
    sheet.signals(&["idle_in_transaction_sessions", "oldest_transaction_seconds"]);
    if looks(capture, Some(window)) < 1.0 {
        return sheet.finish("sessions were not sampled");
    }
    let idle: Vec<&SessionSample> =
        capture.sessions.iter().filter(|s| window.contains(s.at) && s.state.starts_with("idle in transaction")).collect();
    sheet.put("idle_peak", peak(capture, "idle_in_transaction_sessions", Some(window)));
    sheet.put("idle_sessions", idle.len() as f64 / looks(capture, Some(window)).max(1.0));
    let oldest = idle.iter().max_by_key(|s| s.state_age_ms.unwrap_or(0));
    sheet.put("idle_age_max_s", oldest.map_or(0.0, |s| s.state_age_ms.unwrap_or(0) as f64 / 1000.0));
    let Some(longest) = oldest else {
        sheet.put("blocks_others", false);
        return sheet.finish("");
    };
    let behind = capture.sessions.iter().filter(|s| window.contains(s.at) && s.blocked_by.contains(&longest.pid)).count() as f64;
    sheet.put("blocks_others", behind >= 3.0).put("blocked_seconds_behind", behind);
    sheet.put("holds_xmin", longest.xmin_age.is_some()).put("xmin_age", longest.xmin_age);
    sheet.put("pid", i64::from(longest.pid)).put("application", longest.application.clone()).put("user", longest.user.clone());
    sheet.culprit(
        CulpritKind::Session,
        longest.pid,
        &format!("application {}, user {}, idle in transaction", longest.application, longest.user),
    );
    if longest.query_id != 0 {
        sheet.statement("last_", longest.query_id);
    }
    sheet.finish("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(pid: i32, blocked_by: &[i32]) -> SessionSample {
        SessionSample { pid, blocked_by: blocked_by.to_vec(), ..SessionSample::default() }
    }

    #[test]
    fn the_root_is_found_through_a_chain_and_a_deadlock_ends() {
        let chain = [session(1, &[2]), session(2, &[3]), session(3, &[])];
        let look: BTreeMap<i32, &SessionSample> = chain.iter().map(|s| (s.pid, s)).collect();
        assert_eq!(roots(1, &look), BTreeSet::from([3]));
        let cycle = [session(1, &[2]), session(2, &[1])];
        let look: BTreeMap<i32, &SessionSample> = cycle.iter().map(|s| (s.pid, s)).collect();
        assert!(roots(1, &look).is_empty());
    }
}
